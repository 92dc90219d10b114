//! The order of the four choices: variants of a question that differ only in it, and what is the same in all of them.
//!
//! A model that prefers a letter is cured by seeing every question with its answer at every letter; a test question
//! that was trained on in another order is still a leak. Both need the same small group.

use super::questions::{Choice, Question};
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

/// An order of four choices: place `i` of the new order shows choice `self.0[i]` of the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permutation([u8; 4]);

impl Permutation {
    /// Nothing moves.
    pub const IDENTITY: Self = Self([0, 1, 2, 3]);

    /// The four rotations, the identity first. Together they put every answer at every letter once.
    pub fn cyclic() -> [Self; 4] {
        std::array::from_fn(|r| Self(std::array::from_fn(|i| ((i + r) % 4) as u8)))
    }

    /// All 24, the identity first. Each run of four from a multiple of four on is one order and its rotations, so
    /// the first 4·k of them put every answer at every letter k times.
    pub fn all() -> [Self; 24] {
        let fixed_first = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
        std::array::from_fn(|n| {
            let [b, c, d] = fixed_first[n / 4];
            Self([0, b, c, d]).then(Self::cyclic()[n % 4])
        })
    }

    /// First `self`, then `next`.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[usize::from(next.0[i])]))
    }

    /// The order that undoes this one.
    #[must_use]
    pub fn inverse(self) -> Self {
        let mut inverse = [0; 4];
        for (new, &old) in self.0.iter().enumerate() {
            inverse[usize::from(old)] = new as u8;
        }
        Self(inverse)
    }

    /// Where the choice that was at `letter` is now.
    pub fn letter(self, letter: Choice) -> Choice {
        Choice::ALL[usize::from(self.inverse().0[letter.index()])]
    }

    /// The old letters in their new order, such as `bcda`.
    pub fn name(self) -> String {
        self.0.iter().map(|&old| Choice::ALL[usize::from(old)].as_char()).collect()
    }

    /// The question with its choices in this order. The letters stay at their places, the answer follows its choice,
    /// and letters that stand alone in the reasoning (選択肢b, ｂは) are renamed with it.
    pub fn apply(self, question: &Question) -> Question {
        let mut permuted = question.clone();
        if self == Self::IDENTITY {
            return permuted;
        }
        let choices = self.0.map(|old| question.choices[usize::from(old)].clone());
        permuted.set_choices(choices, self.letter(question.answer));
        permuted.reasoning = question.reasoning.as_deref().map(|text| self.rename(text));
        for field in ["reasoning", "解説"] {
            if let (Some(value), Some(text)) = (permuted.raw.get_mut(field), &permuted.reasoning)
                && value.is_string()
            {
                *value = text.clone().into();
            }
        }
        permuted
    }

    /// Renames the lower-case letters a to d of either width that no other Latin letter or digit touches.
    fn rename(self, text: &str) -> String {
        let chars: Vec<char> = text.chars().collect();
        let wordy = |c: Option<&char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || ('０'..='ｚ').contains(c));
        let renamed = |(i, &c): (usize, &char)| {
            let alone = !wordy(i.checked_sub(1).and_then(|j| chars.get(j))) && !wordy(chars.get(i + 1));
            let first = match c {
                'a'..='d' => 'a',
                'ａ'..='ｄ' => 'ａ',
                _ => return c,
            };
            let old = Choice::ALL[(c as u32 - first as u32) as usize];
            let new = char::from_u32(first as u32 + self.letter(old).index() as u32);
            if alone { new.unwrap_or(c) } else { c }
        };
        chars.iter().enumerate().map(renamed).collect()
    }
}

/// Text as it is compared for identity: NFKC, lower case, no white space.
pub fn fold(text: &str) -> String {
    text.nfkc().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}

/// A name of the question that is equal for every order of its choices: 16 hex digits of the SHA-256 of the folded
/// question and its sorted, folded choices.
pub fn identity(question: &Question) -> String {
    let mut choices = question.choices.each_ref().map(|c| fold(c));
    choices.sort_unstable();
    let mut hash = Sha256::new();
    for part in std::iter::once(&fold(&question.text)).chain(&choices) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        questions::lawqa::{self, sample_question},
        shared::shared,
    };
    use std::collections::HashSet;

    #[test]
    fn the_group() {
        let all = Permutation::all();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 24);
        assert_eq!(all[0], Permutation::IDENTITY);
        assert_eq!(all[..4], Permutation::cyclic());
        for p in all {
            assert_eq!(p.then(p.inverse()), Permutation::IDENTITY);
        }
        for run in all.chunks(4) {
            for letter in Choice::ALL {
                let places: HashSet<_> = run.iter().map(|p| p.letter(letter)).collect();
                assert_eq!(places.len(), 4, "every answer at every letter");
            }
        }
    }

    #[test]
    fn the_answer_follows_its_choice() {
        let mut q = sample_question("民法_1", "成年は何歳か。", 'b');
        q.reasoning = Some("選択肢bが正しい。abcやcdは別。ｃは誤り。".into());
        q.raw.insert("reasoning".into(), q.reasoning.clone().into());
        for p in Permutation::all() {
            let r = p.apply(&q);
            assert_eq!(r.choices[r.answer.index()], "十八歳");
            assert_eq!(r.raw["output"], r.answer.to_string());
            assert_eq!(lawqa::parse_choices(r.raw["選択肢"].as_str().unwrap()).unwrap(), r.choices);
            assert_eq!(p.inverse().apply(&r), q, "undone");
            assert_eq!(identity(&r), identity(&q));
        }
        let r = Permutation::cyclic()[1].apply(&q);
        assert_eq!(r.choices[0], "十八歳");
        assert_eq!(r.reasoning.as_deref(), Some("選択肢aが正しい。abcやcdは別。ｂは誤り。"));
        assert_eq!(r.raw["reasoning"], *r.reasoning.as_ref().unwrap());
        assert_ne!(identity(&sample_question("民法_1", "成年は何歳か？", 'b')), identity(&q));
        let spaced = sample_question("民法_9", " 成年は 何歳か。\n", 'a');
        assert_eq!(identity(&spaced), identity(&q), "neither name, white space nor answer counts");
    }

    #[test]
    fn the_published_orders_are_one_question_each() {
        let (Some(plain), Some(random)) =
            (shared("lawqa_jp/selection.json"), shared("lawqa_jp/selection_randomized.json"))
        else {
            return;
        };
        let ids = |path| -> HashSet<String> { lawqa::read(path).unwrap().questions.iter().map(identity).collect() };
        assert_eq!(ids(&plain).len(), 140);
        assert_eq!(ids(&plain), ids(&random));
    }
}
