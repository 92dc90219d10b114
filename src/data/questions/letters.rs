//! How often each letter is the answer, in a set whose questions may have different numbers of choices.

use super::Choice;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// Counts of answers by letter, kept apart by the number of choices of their questions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterCounts {
    /// For each number of choices, how often each of its letters occurs.
    by_size: BTreeMap<usize, Vec<u64>>,
    /// Answers that are no letter.
    pub none: u64,
}

impl LetterCounts {
    /// Counts the answer of a question with `choices` choices. `None`, and a letter that the question does not have, is
    /// no letter.
    pub fn add(&mut self, answer: Option<Choice>, choices: usize) {
        let counts = self.by_size.entry(choices).or_insert_with(|| vec![0; choices]);
        match answer.and_then(|a| counts.get_mut(a.index())) {
            Some(count) => *count += 1,
            None => self.none += 1,
        }
    }

    /// The most choices that a question has; 0 without questions.
    pub fn columns(&self) -> usize {
        self.by_size.keys().next_back().copied().unwrap_or(0)
    }

    /// How often `choice` is the answer.
    pub fn of(&self, choice: Choice) -> u64 {
        self.by_size.values().filter_map(|counts| counts.get(choice.index())).sum()
    }

    /// How often each of the first `columns` letters is the answer.
    pub fn row(&self, columns: usize) -> Vec<u64> {
        Choice::first(columns).iter().map(|&c| self.of(c)).collect()
    }

    /// Answers that are a letter.
    pub fn letters(&self) -> u64 {
        self.by_size.values().flatten().sum()
    }

    /// All answers.
    pub fn total(&self) -> u64 {
        self.letters() + self.none
    }

    /// The counts by number of choices, ascending: each of as many letters as its questions have choices.
    pub fn by_size(&self) -> impl Iterator<Item = (usize, &[u64])> {
        self.by_size.iter().map(|(&size, counts)| (size, counts.as_slice()))
    }

    /// "a 23 (16 %)  b 37 (26 %) …", and the answers that are no letter; `None` if no answer is a letter.
    pub fn line(&self) -> Option<String> {
        let letters = self.letters();
        if letters == 0 {
            return None;
        }
        let share = |n: u64| (100 * n + letters / 2) / letters;
        let columns = Choice::first(self.columns()).iter().map(|&c| (c, self.of(c)));
        let mut parts: Vec<String> = columns.map(|(c, n)| format!("{c} {n} ({} %)", share(n))).collect();
        if self.none > 0 {
            parts.push(format!("no letter {}", self.none));
        }
        Some(parts.join("  "))
    }
}

impl FromIterator<(Option<Choice>, usize)> for LetterCounts {
    fn from_iter<I: IntoIterator<Item = (Option<Choice>, usize)>>(answers: I) -> Self {
        let mut counts = Self::default();
        answers.into_iter().for_each(|(answer, choices)| counts.add(answer, choices));
        counts
    }
}

/// A list of the counts of a, b and so on.
impl Serialize for LetterCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.row(self.columns()).serialize(serializer)
    }
}

#[cfg(test)]
impl LetterCounts {
    /// So many answers of each letter, of questions with as many choices as there are numbers.
    pub(crate) fn of_counts(counts: &[u64]) -> Self {
        let repeat = |(&choice, &n): (&Choice, &u64)| (0..n).map(move |_| (Some(choice), counts.len()));
        Choice::first(counts.len()).iter().zip(counts).flat_map(repeat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_by_letter_and_by_number_of_choices() {
        let set = LetterCounts::of_counts(&[23, 37, 48, 32]);
        assert_eq!(set.line().unwrap(), "a 23 (16 %)  b 37 (26 %)  c 48 (34 %)  d 32 (23 %)");
        let e = Choice::parse("e");
        let mixed: LetterCounts =
            [(Choice::parse("b"), 2), (e, 5), (Choice::parse("b"), 5), (None, 10), (e, 4)].into_iter().collect();
        assert_eq!((mixed.columns(), mixed.letters(), mixed.none, mixed.total()), (10, 3, 2, 5));
        assert_eq!(mixed.row(5), [0, 2, 0, 0, 1]);
        assert_eq!(mixed.by_size().map(|(n, c)| (n, c.len())).collect::<Vec<_>>(), [(2, 2), (4, 4), (5, 5), (10, 10)]);
        assert_eq!(serde_json::to_value(&mixed).unwrap(), serde_json::json!([0, 2, 0, 0, 1, 0, 0, 0, 0, 0]));
        let mut none = LetterCounts { none: 2, ..LetterCounts::default() };
        assert_eq!((none.line(), none.total(), none.columns()), (None, 2, 0));
        none.add(Choice::parse("b"), 2);
        assert_eq!(none.line().unwrap(), "a 0 (0 %)  b 1 (100 %)  no letter 2", "a letter that never occurs is shown");
    }
}
