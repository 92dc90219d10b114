//! Questions that contradict themselves or one another.

use super::{Choice, excerpt};
use std::collections::{HashMap, hash_map::Entry};
use unicode_normalization::UnicodeNormalization;

/// A text as it is compared: composed, in half width, white space as single spaces. Case and superscripts count, for x² is
/// not x2.
pub fn plain(text: &str) -> String {
    let wide = |c: char| matches!(c, '\u{3000}' | '\u{ff00}'..='\u{ffef}');
    let one = |c: char| if wide(c) { c.nfkc().collect::<String>() } else { c.to_string() };
    let composed: String = text.chars().map(one).collect::<String>().nfc().collect();
    composed.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong with choices by themselves, in words: one is empty, or two are the same.
pub(super) fn choices(choices: &[String]) -> Result<(), String> {
    let plain: Vec<String> = choices.iter().map(|text| self::plain(text)).collect();
    for (text, (i, choice)) in plain.iter().zip(Choice::ALL.into_iter().enumerate()) {
        if text.is_empty() {
            return Err(format!("choice {choice} is empty"));
        }
        if let Some(first) = plain[..i].iter().position(|t| t == text).and_then(Choice::from_index) {
            return Err(format!("choices {first} and {choice} are the same: {:?}", excerpt(text)));
        }
    }
    Ok(())
}

/// A question as one compares it, whatever the order of its choices.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asked {
    text: String,
    /// What else the right answer depends on.
    about: String,
    /// Ascending.
    choices: Vec<String>,
}

impl Asked {
    /// The question `text` about `about` (a statute, or nothing), and its right choice's text.
    pub(super) fn new(text: &str, about: &str, choices: &[String], answer: Choice) -> (Self, String) {
        let mut choices: Vec<String> = choices.iter().map(|text| plain(text)).collect();
        let right = choices.get(answer.index()).cloned().unwrap_or_default();
        choices.sort_unstable();
        (Self { text: plain(text), about: plain(about), choices }, right)
    }
}

/// The right answers of the questions of a file, with the place each question stands at first.
#[derive(Debug, Default)]
pub struct Answers(HashMap<Asked, (usize, String)>);

impl Answers {
    /// Takes a question in. If it is there already with another right answer: where, and that answer.
    pub fn add(&mut self, place: usize, (asked, right): (Asked, String)) -> Option<(usize, &str)> {
        match self.0.entry(asked) {
            Entry::Vacant(empty) => {
                empty.insert((place, right));
                None
            }
            Entry::Occupied(first) => {
                let (place, other) = first.into_mut();
                (*other != right).then_some((*place, other.as_str()))
            }
        }
    }

    /// Where the question stands, if it has another right answer there.
    pub fn contradicts(&self, (asked, right): &(Asked, String)) -> Option<usize> {
        self.0.get(asked).filter(|(_, other)| other != right).map(|(place, _)| *place)
    }
}

/// The message for a question that has another right answer at `first`.
pub(super) fn two_answers(right: &str, first: &str, other: &str) -> String {
    format!("the same question has the right answer {:?} here and {:?} in {first}", excerpt(right), excerpt(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|&t| t.to_owned()).collect()
    }

    #[test]
    fn choices_that_are_the_same() {
        for (list, wanted) in [
            (["x", "y", " x　", "z"], "choices a and c are the same: \"x\""),
            (["１０日", "10日", "か", "き"], "choices a and b are the same: \"10日\""),
            (["a", "か\u{3099}", "b", "が"], "choices b and d are the same: \"が\""),
            (["ｶﾞｽ", "b", "c", "ガス"], "choices a and d are the same: \"ガス\""),
            (["x  y", "x\ny", "c", "d"], "choices a and b are the same: \"x y\""),
            (["a", "b", "　", "d"], "choice c is empty"),
        ] {
            assert_eq!(choices(&texts(&list)).unwrap_err(), wanted);
        }
        for fine in [["x²", "x2", "X2", "x₂"], ["①", "1", "一", "Ⅰ"]] {
            assert_eq!(choices(&texts(&fine)), Ok(()), "{fine:?}");
        }
    }

    #[test]
    fn one_question_has_one_answer_in_any_order_of_its_choices() {
        let asked = |text: &str, about: &str, list: &[&str], answer| Asked::new(text, about, &texts(list), answer);
        let [a, b] = [Choice::ALL[0], Choice::ALL[1]];
        let mut answers = Answers::default();
        assert_eq!(answers.add(1, asked("q", "", &["x", "y"], a)), None);
        assert_eq!(answers.add(2, asked("ｑ ", "", &["y", "x"], b)), None, "the same answer");
        assert_eq!(answers.add(3, asked("q", "", &["x", "y", "z"], b)), None, "another question");
        assert_eq!(answers.add(4, asked("q", "law", &["x", "y"], b)), None, "about another statute");
        assert_eq!(answers.add(5, asked("q", "", &["y", "ｘ"], a)), Some((1, "x")));
        assert_eq!(answers.contradicts(&asked("q", "", &["x", "y"], b)), Some(1));
        assert_eq!(answers.contradicts(&asked("q", "", &["x", "y"], a)), None);
    }
}
