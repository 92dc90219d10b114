//! Is a letter right more often than chance explains? A model learns such a preference long before it learns law.

use super::questions::{Choice, LetterCounts};
use crate::stats::{EqualShares, equal_shares, p_text};

/// The test of the hypothesis that each question's right choice is any of its own choices with the same probability.
pub fn test(answers: &LetterCounts) -> EqualShares {
    equal_shares(&answers.by_size().map(|(_, counts)| counts).collect::<Vec<_>>())
}

/// The letters furthest from an equal share, as a sentence, if the counts are unlikely at the 5 % level. Questions with
/// different numbers of choices are counted apart.
pub fn warning(answers: &LetterCounts) -> Option<String> {
    let EqualShares { p, test } = test(answers);
    if p >= 0.05 {
        return None;
    }
    let mut deviations: Vec<(f64, String)> = Vec::new();
    let sizes = answers.by_size().filter(|(_, counts)| counts.iter().any(|&n| n > 0)).count();
    for (size, counts) in answers.by_size() {
        let total: u64 = counts.iter().sum();
        let equal = total as f64 / size as f64;
        let among = if sizes > 1 { format!(" among questions of {size} choices") } else { String::new() };
        for (choice, &n) in Choice::first(size).iter().zip(counts).filter(|_| total > 0) {
            let deviation = (n as f64 - equal) / equal.sqrt();
            let direction = if deviation > 0.0 { "over" } else { "under" };
            let words = format!("{choice} is {direction}-represented{among} ({n} of {total}, {equal:.0} expected)");
            deviations.push((deviation.abs(), words));
        }
    }
    deviations.sort_by(|a, b| b.0.total_cmp(&a.0));
    let far = deviations.iter().enumerate().filter(|(i, d)| *i == 0 || d.0 >= 1.0);
    let words: Vec<&str> = far.map(|(_, d)| d.1.as_str()).collect();
    let p = p_text(p);
    let relation = if p.starts_with('<') { "" } else { "= " };
    Some(format!("{} ({test}, p {relation}{p})", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_set_is_unbalanced() {
        let text = warning(&LetterCounts::of_counts(&[23, 37, 48, 32])).unwrap();
        let wanted = "c is over-represented (48 of 140, 35 expected), a is under-represented (23 of 140, 35 expected) (chi-square test, p = 0.025)";
        assert_eq!(text, wanted);
        assert_eq!(warning(&LetterCounts::of_counts(&[35; 4])), None);
        assert_eq!(warning(&LetterCounts::of_counts(&[3, 2, 2, 1])), None);
        assert_eq!(warning(&LetterCounts::default()), None);
        let mut texts = LetterCounts::default();
        texts.none = 9;
        assert_eq!(warning(&texts), None);
    }

    /// χ² is 7.75 here, below the 7.815 of its 5 % level; the exact probability is below 5 %.
    #[test]
    fn thirty_two_questions_are_tested_exactly() {
        let text = warning(&LetterCounts::of_counts(&[2, 8, 9, 13])).unwrap();
        assert!(
            text.starts_with("a is under-represented (2 of 32, 8 expected), d is over-represented (13 of 32"),
            "{text}"
        );
        assert!(text.contains("exact multinomial test, p = 0.033"), "{text}");
    }

    #[test]
    fn questions_of_different_sizes_are_each_measured_by_their_own_choices() {
        // Twelve of two choices and eight of five, both even: together a and b are right nine times of ten.
        let pooled = |two: [u64; 2], five: [u64; 5]| -> LetterCounts {
            let mut all = LetterCounts::of_counts(&two);
            for (choice, n) in Choice::ALL.into_iter().zip(five) {
                (0..n).for_each(|_| all.add(Some(choice), 5));
            }
            all
        };
        assert_eq!(
            warning(&pooled([40, 40], [2, 2, 2, 1, 1])),
            None,
            "a and b are right 84 of 88 times, as they should be"
        );
        let text = warning(&pooled([6, 6], [0, 0, 9, 1, 0])).unwrap();
        assert!(text.starts_with("c is over-represented among questions of 5 choices (9 of 10, 2 expected)"), "{text}");
        assert!(!text.contains("of 2 choices"), "{text}");
    }
}
