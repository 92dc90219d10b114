//! The letters that are said beside those that are right: names of the columns, confusion, and the warning that answers
//! have collapsed towards one letter.

use super::UNKNOWN;
use crate::{
    data::questions::{Choice, LetterCounts},
    stats::chi_square_tail,
};

/// Names of the columns of a table with `columns` letters: the letters, and [`UNKNOWN`].
pub fn names(columns: usize) -> Vec<&'static str> {
    Choice::first(columns).iter().map(|c| c.letter()).chain([UNKNOWN]).collect()
}

/// The counts under [`names`].
pub fn row(counts: &LetterCounts, columns: usize) -> Vec<u64> {
    counts.row(columns).into_iter().chain([counts.none]).collect()
}

/// How often each answer (columns, as [`names`]) was given where each letter is right (rows).
pub fn confusion(pairs: impl IntoIterator<Item = (Choice, Option<Choice>)>, columns: usize) -> Vec<Vec<u64>> {
    let mut cells = vec![vec![0; columns + 1]; columns];
    for (right, said) in pairs {
        let column = said.map_or(columns, |c| c.index().min(columns));
        if let Some(row) = cells.get_mut(right.index()) {
            row[column] += 1;
        }
    }
    cells
}

/// Pearson's chi-square of the letters said against the shares of those that are right, over the letters that are right
/// at all, and its probability. `None` where there is nothing to compare.
fn against(said: &[u64], right: &[u64]) -> Option<(f64, f64)> {
    let (n, m): (u64, u64) = (said.iter().sum(), right.iter().sum());
    let cells: Vec<(u64, u64)> = said.iter().copied().zip(right.iter().copied()).filter(|c| c.1 > 0).collect();
    if n == 0 || m == 0 || cells.len() < 2 {
        return None;
    }
    let term = |&(said, right): &(u64, u64)| {
        let expected = n as f64 * right as f64 / m as f64;
        (said as f64 - expected).powi(2) / expected
    };
    let x: f64 = cells.iter().map(term).sum();
    Some((x, chi_square_tail(x, cells.len() as u32 - 1)))
}

/// A sentence if the answers have collapsed towards one letter: over half of at least ten, and far more than are right
/// (p < 0.001).
pub fn collapse(said: &LetterCounts, right: &LetterCounts) -> Option<String> {
    let columns = said.columns().max(right.columns());
    let n = said.total();
    let letters = Choice::first(columns).iter().rev();
    let letter = letters.copied().max_by_key(|&c| said.of(c))?;
    let (top, real) = (said.of(letter), right.of(letter));
    let (_, p) = against(&said.row(columns), &right.row(columns))?;
    let far = n >= 10 && 2 * top > n && p < 1e-3;
    far.then(|| {
        format!(
            "{top} of {n} answers are \"{letter}\", although only {real} of {} should be: the model has collapsed towards one letter",
            right.total()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[u64]) -> LetterCounts {
        LetterCounts::of_counts(counts)
    }

    #[test]
    fn collapse_towards_a_letter() {
        let right = counts(&[23, 37, 48, 32]);
        let sentence = collapse(&counts(&[100, 15, 15, 10]), &right).expect("100 of 140");
        assert!(sentence.starts_with("100 of 140 answers are \"a\", although only 23 of 140"), "{sentence}");
        assert_eq!(collapse(&right, &right), None);
        assert_eq!(collapse(&LetterCounts::default(), &right), None);
        let j = counts(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 29]);
        let even = counts(&[3; 10]);
        assert!(collapse(&j, &even).expect("29 of 30").contains("29 of 30 answers are \"j\", although only 3 of 30"));
        assert_eq!(collapse(&counts(&[16, 14]), &counts(&[15, 15])), None, "over half of two is no collapse");
        assert!(collapse(&counts(&[30, 0]), &counts(&[15, 15])).is_some());
    }

    #[test]
    fn tables_have_the_letters_that_there_are() {
        assert_eq!(names(2), ["a", "b", "unknown"]);
        assert_eq!(names(10)[9..], ["j", "unknown"]);
        let mixed: LetterCounts =
            [(Some(Choice::ALL[4]), 5), (None, 2), (Some(Choice::ALL[1]), 2)].into_iter().collect();
        assert_eq!(row(&mixed, 5), [0, 1, 0, 0, 1, 1]);
        let [a, d] = [Choice::ALL[0], Choice::ALL[3]];
        assert_eq!(
            confusion([(a, Some(Choice::ALL[1])), (d, None)], 4),
            [[0, 1, 0, 0, 0], [0; 5], [0; 5], [0, 0, 0, 0, 1]]
        );
    }
}
