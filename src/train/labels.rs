//! The answers that a run will learn from, counted: a model that always says the most frequent letter is what an
//! unbalanced set teaches first, and nobody sees it in the loss.

use std::collections::BTreeMap;

/// How often each answer occurs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    counts: BTreeMap<char, usize>,
    /// Samples whose answer is no single letter.
    pub other: usize,
}

impl Labels {
    /// Of `samples` samples, so many have the answer a, b, c, d; the others' answer is no single letter.
    pub fn of(answers: [usize; 4], samples: usize) -> Self {
        let letters = ('a'..='d').zip(answers).flat_map(|(l, n)| std::iter::repeat_n(Some(l), n));
        let other = samples.saturating_sub(answers.iter().sum());
        Self::count(letters.chain(std::iter::repeat_n(None, other)))
    }

    /// Counts `answers`; `None` is an answer that is no single letter.
    pub fn count(answers: impl IntoIterator<Item = Option<char>>) -> Self {
        let mut labels = Self::default();
        for answer in answers {
            match answer {
                Some(letter) => *labels.counts.entry(letter).or_default() += 1,
                None => labels.other += 1,
            }
        }
        if !labels.counts.is_empty() {
            for letter in 'a'..='d' {
                labels.counts.entry(letter).or_default(); // a letter that never occurs is news too
            }
        }
        labels
    }

    /// "a 23 (16 %)  b 37 (26 %) …"; `None` if no answer is a letter.
    pub fn line(&self) -> Option<String> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let share = |n: usize| (100 * n + total / 2) / total;
        let mut parts: Vec<_> = self.counts.iter().map(|(l, &n)| format!("{l} {n} ({} %)", share(n))).collect();
        if self.other > 0 {
            parts.push(format!("no letter {}", self.other));
        }
        Some(parts.join("  "))
    }

    /// A warning if the letters are further from equal than chance would have them: Pearson's χ² against equal shares,
    /// 5 % level (7.815 for four letters).
    pub fn warning(&self) -> Option<String> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let expected = total as f64 / self.counts.len() as f64;
        let chi2: f64 = self.counts.values().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
        if chi2 <= 7.815 {
            return None;
        }
        let (most, n) = self.counts.iter().max_by_key(|(_, n)| **n)?;
        let (least, k) = self.counts.iter().min_by_key(|(_, n)| **n)?;
        Some(format!(
            "warning: the answers are unbalanced ({most} {n} times, {least} {k} times): always answering {most} is right \
             {} % of the time here. `irori dataset --permute-choices` balances them",
            (100 * n + total / 2) / total
        ))
    }

    fn total(&self) -> usize {
        self.counts.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(counts: [usize; 4]) -> Labels {
        Labels::count(('a'..='d').zip(counts).flat_map(|(l, n)| std::iter::repeat_n(Some(l), n)))
    }

    #[test]
    fn the_users_own_set_is_unbalanced() {
        let labels = of([23, 37, 48, 32]);
        assert_eq!(labels.line().unwrap(), "a 23 (16 %)  b 37 (26 %)  c 48 (34 %)  d 32 (23 %)");
        let warning = labels.warning().unwrap();
        assert!(
            warning.contains("c 48 times") && warning.contains("a 23 times") && warning.contains("34 %"),
            "{warning}"
        );
    }

    #[test]
    fn chance_is_no_imbalance_and_text_has_no_letters() {
        assert_eq!(of([35, 35, 35, 35]).warning(), None);
        assert_eq!(of([8, 12, 10, 10]).warning(), None);
        assert!(of([40, 0, 0, 0]).warning().is_some());
        let none = Labels::count([None, None]);
        assert_eq!((none.line(), none.warning(), none.other), (None, None, 2));
    }
}
