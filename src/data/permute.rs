//! The order of a question's choices: variants of a question that differ only in it, and what is the same in all of them.
//!
//! A model that prefers a letter is cured by seeing every question with its answer at every letter; a test question
//! that was trained on in another order is still a leak. Both need the same group.

use super::questions::{Choice, Question};
use crate::{Error, Result, rng::Rng};
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

/// The use of the generator that [`orders`] is ("perm" in ASCII).
const PURPOSE: u64 = 0x7065_726d;

/// An order of the choices of a question: place `i` of the new order shows the choice that stood at place `old[i]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permutation {
    len: u8,
    /// The first `len` count, the others are 0.
    old: [u8; Choice::MOST],
}

impl Permutation {
    /// Nothing moves among `n` choices.
    pub fn identity(n: usize) -> Self {
        Self::from_fn(n, |i| i)
    }

    /// The `n` rotations of `n` choices, the identity first. Together they put every choice at every letter once.
    pub fn cyclic(n: usize) -> impl Iterator<Item = Self> {
        (0..n).map(move |by| Self::from_fn(n, |i| (i + by) % n))
    }

    fn from_fn(n: usize, old: impl Fn(usize) -> usize) -> Self {
        let n = n.min(Choice::MOST);
        Self { len: n as u8, old: std::array::from_fn(|i| if i < n { old(i) as u8 } else { 0 }) }
    }

    /// How many choices it orders.
    pub fn choices(&self) -> usize {
        usize::from(self.len)
    }

    /// For each place of the new order the place in the old one.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        self.old.into_iter().take(self.choices()).map(usize::from)
    }

    /// First `self`, then `next`, which orders as many choices.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self::from_fn(self.choices(), |i| usize::from(self.old[usize::from(next.old[i])]))
    }

    /// The order that undoes this one.
    #[must_use]
    pub fn inverse(self) -> Self {
        Self::from_fn(self.choices(), |i| self.places().position(|old| old == i).unwrap_or(i))
    }

    /// Where the choice that was at `choice` is now. A choice beyond those that are ordered stays.
    pub fn moved(self, choice: Choice) -> Choice {
        let now = self.places().position(|old| old == choice.index());
        now.and_then(Choice::from_index).unwrap_or(choice)
    }

    /// The old letters in their new order, such as `bcda`.
    pub fn name(self) -> String {
        self.places().filter_map(Choice::from_index).map(Choice::letter).collect()
    }

    /// The question with its choices in this order. The letters stay at their places, the answer follows its choice,
    /// and letters that stand alone in the reasoning (選択肢b, ｂは) are renamed with it.
    ///
    /// # Errors
    /// If the question has another number of choices, which is a mistake of the program.
    pub fn apply(self, question: &Question) -> Result<Question> {
        if self.choices() != question.choices.len() {
            let (order, found) = (self.choices(), question.choices.len());
            return Err(Error::internal(format!("an order of {order} choices for a question with {found}")));
        }
        if self == Self::identity(self.choices()) {
            return Ok(question.clone());
        }
        Ok(Question {
            choices: self.places().map(|old| question.choices[old].clone()).collect(),
            answer: self.moved(question.answer),
            reasoning: question.reasoning.as_deref().map(|text| self.rename(text)),
            ..question.clone()
        })
    }

    /// Renames the lower-case letters of the choices, of either width, that no other Latin letter or digit touches.
    fn rename(self, text: &str) -> String {
        let chars: Vec<char> = text.chars().collect();
        let wordy = |c: Option<&char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || ('０'..='ｚ').contains(c));
        let renamed = |(i, &c): (usize, &char)| {
            let alone = !wordy(i.checked_sub(1).and_then(|j| chars.get(j))) && !wordy(chars.get(i + 1));
            let first = if ('ａ'..='ｚ').contains(&c) { 'ａ' } else { 'a' };
            let old = (c as usize).checked_sub(first as usize).filter(|&old| alone && old < self.choices());
            let new = old.and_then(Choice::from_index).map(|old| first as u32 + self.moved(old).index() as u32);
            new.and_then(char::from_u32).unwrap_or(c)
        };
        chars.iter().enumerate().map(renamed).collect()
    }
}

/// `count` different orders in which question number `place` is shown, as `seed` picks them: the question itself first,
/// then its rotations, then other orders with theirs. So each run of `choices` of them from a multiple of it on has every
/// choice at every letter once. Where there are fewer than `count` orders, all of them.
pub fn orders(choices: usize, count: usize, seed: u64, place: usize) -> Vec<Permutation> {
    /// All orders that keep the first choice first are made and shuffled up to so many choices; of the many more beyond,
    /// some are drawn.
    const FEW: usize = 5;
    let mut rng = Rng::new(seed, PURPOSE ^ ((place as u64) << 32));
    let mut bases = vec![Permutation::identity(choices)];
    if choices <= FEW {
        bases = keeping_first(choices);
        rng.shuffle(&mut bases[1..]);
    }
    let count = count.min(order_count(choices));
    let mut shown = Vec::with_capacity(count);
    for turn in 0..count.div_ceil(choices.max(1)) {
        if turn == bases.len() {
            bases.push(another(&bases, &mut rng));
        }
        let mut run: Vec<Permutation> = Permutation::cyclic(choices).map(|by| bases[turn].then(by)).collect();
        rng.shuffle(&mut run[usize::from(turn == 0)..]);
        shown.extend(run);
    }
    shown.truncate(count);
    shown
}

/// An order that keeps the first choice first and is none of `known`, of which there must be more.
fn another(known: &[Permutation], rng: &mut Rng) -> Permutation {
    let n = known[0].choices();
    let mut rest: Vec<usize> = (1..n).collect();
    loop {
        rng.shuffle(&mut rest);
        let drawn = Permutation::from_fn(n, |i| if i == 0 { 0 } else { rest[i - 1] });
        if !known.contains(&drawn) {
            return drawn;
        }
    }
}

/// Every order of `n` choices that keeps the first one first, in lexicographic order.
fn keeping_first(n: usize) -> Vec<Permutation> {
    let mut all = vec![vec![0]];
    for _ in 1..n {
        let longer = |order: Vec<usize>| -> Vec<Vec<usize>> {
            (0..n).filter(|i| !order.contains(i)).map(|i| [&order[..], &[i]].concat()).collect()
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all.iter().map(|order| Permutation::from_fn(n, |i| order[i])).collect()
}

/// How many orders `n` choices have.
pub fn order_count(n: usize) -> usize {
    (1..=n).product()
}

/// Text as it is compared for identity: NFKC, lower case, no white space.
pub fn fold(text: &str) -> String {
    text.nfkc().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}

/// A name of the question that is equal for every order of its choices: 16 hex digits of the SHA-256 of the folded
/// question and its sorted, folded choices.
pub fn identity(question: &Question) -> String {
    let mut choices: Vec<String> = question.choices.iter().map(|c| fold(c)).collect();
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
        questions::lawqa::{self, sample_of_size, sample_question},
        shared::shared,
    };
    use std::collections::HashSet;

    fn all(n: usize) -> Vec<Permutation> {
        keeping_first(n).into_iter().flat_map(|base| Permutation::cyclic(n).map(move |turn| base.then(turn))).collect()
    }

    #[test]
    fn the_group() {
        for n in 2..=6 {
            let group = all(n);
            assert_eq!(group.iter().collect::<HashSet<_>>().len(), order_count(n));
            assert_eq!(group[0], Permutation::identity(n));
            assert_eq!(group[..n], Permutation::cyclic(n).collect::<Vec<_>>());
            for p in group {
                assert_eq!(p.then(p.inverse()), Permutation::identity(n));
            }
        }
        assert_eq!(Permutation::cyclic(10).nth(9).unwrap().name(), "jabcdefghi");
    }

    #[test]
    fn orders_begin_with_the_question_itself_and_balance_every_run() {
        for n in 2..=10 {
            for place in 0..10 {
                let most = order_count(n).min(40);
                let all = orders(n, most, 7, place);
                assert_eq!(all[0], Permutation::identity(n));
                assert_eq!(all.iter().collect::<HashSet<_>>().len(), most, "{n}");
                for run in all.chunks_exact(n) {
                    for &choice in Choice::first(n) {
                        let places: HashSet<_> = run.iter().map(|p| p.moved(choice)).collect();
                        assert_eq!(places.len(), n, "every choice at every letter");
                    }
                }
                assert_eq!(orders(n, n + 1, 7, place)[..], all[..most.min(n + 1)], "fewer are the first of more");
            }
            assert_eq!(orders(n, 1000, 7, 0).len(), order_count(n).min(1000));
        }
    }

    /// These orders are in data sets that people have trained on: they must not change.
    #[test]
    fn the_orders_of_four_choices_are_those_of_earlier_versions() {
        let names: Vec<String> = orders(4, 8, 42, 3).into_iter().map(Permutation::name).collect();
        assert_eq!(names, RECORDED);
    }

    const RECORDED: [&str; 8] = ["abcd", "bcda", "dabc", "cdab", "dcab", "abdc", "cabd", "bdca"];

    #[test]
    fn the_answer_follows_its_choice() {
        for n in 2..=10 {
            let mut q = sample_of_size(n, "民法_1", "成年は何歳か。", 'b');
            q.reasoning = Some("選択肢bが正しい。abcやcdは別。ａは誤り。".into());
            for p in orders(n, 24, 1, 1) {
                let r = p.apply(&q).unwrap();
                assert_eq!(r.choices[r.answer.index()], "十八歳");
                for &old in Choice::first(n) {
                    assert_eq!(r.choices[p.moved(old).index()], q.choices[old.index()]);
                }
                assert_eq!(p.inverse().apply(&r).unwrap(), q, "undone");
                assert_eq!(identity(&r), identity(&q));
            }
        }
        let mut q = sample_question("民法_1", "成年は何歳か。", 'b');
        q.reasoning = Some("選択肢bが正しい。abcやcdは別。ｃは誤り。eは他の文字。".into());
        let r = Permutation::cyclic(4).nth(1).unwrap().apply(&q).unwrap();
        assert_eq!(r.choices[0], "十八歳");
        assert_eq!(r.reasoning.as_deref(), Some("選択肢aが正しい。abcやcdは別。ｂは誤り。eは他の文字。"));
        assert!(matches!(Permutation::identity(5).apply(&q), Err(Error::Internal(_))));
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
