//! Are the shares of several outcomes equal but for chance?
//!
//! Counts may come in groups with different numbers of outcomes (questions of two choices beside questions of five). The
//! null hypothesis is that each trial of a group falls on any of that group's outcomes with the same probability. The
//! groups' counts are then independent multinomials, and what is tested is all of them together.

use super::gamma::chi_square_tail;
use std::collections::BTreeMap;

/// So many trials in all are tested exactly; beyond them the chi-square approximation is close.
const EXACT: u64 = 60;

/// The outcome of [`equal_shares`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EqualShares {
    /// Probability of counts at least as unlikely as those seen, if the shares are equal; 1 without trials.
    pub p: f64,
    /// The test that was made: "exact multinomial test", or "chi-square test" where there are more than 60 trials.
    pub test: &'static str,
}

/// Tests equal shares within each of `groups`, which are the counts of one group's outcomes each.
///
/// Up to 60 trials the test is exact: the sum of the probabilities of all outcomes that are not more likely than the one
/// seen. Beyond, it is Pearson's chi-square test with Σ (outcomes − 1) degrees of freedom.
pub fn equal_shares(groups: &[&[u64]]) -> EqualShares {
    let groups: Vec<&[u64]> = groups.iter().copied().filter(|g| g.iter().any(|&n| n > 0)).collect();
    let trials: u64 = groups.iter().flat_map(|g| g.iter()).sum();
    if trials <= EXACT {
        return EqualShares { p: exact(&groups), test: "exact multinomial test" };
    }
    let statistic: f64 = groups.iter().map(|g| pearson(g)).sum();
    let freedom: usize = groups.iter().map(|g| g.len() - 1).sum();
    EqualShares { p: chi_square_tail(statistic, freedom as u32), test: "chi-square test" }
}

/// Pearson's chi-square of counts against equal shares.
fn pearson(counts: &[u64]) -> f64 {
    let equal = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    counts.iter().map(|&n| (n as f64 - equal).powi(2) / equal).sum()
}

/// A set of outcomes that are equally likely: ln of the probability of each, and the probability of all together.
type Class = (f64, f64);

/// The exact probability. Outcomes that differ only in which count is which are equally likely, so a group has as many
/// classes as its number of trials has partitions, not as many as there are outcomes. Several groups are put together in
/// two halves, whose sums are then counted against the threshold without forming all of their pairs.
fn exact(groups: &[&[u64]]) -> f64 {
    let log_factorial = log_factorials(EXACT as usize);
    let seen: f64 = groups.iter().map(|g| log_probability(g, &log_factorial)).sum();
    let mut halves: [Vec<Class>; 2] = [vec![(0.0, 1.0)], vec![(0.0, 1.0)]];
    for group in groups {
        let classes = classes(group.iter().sum::<u64>(), group.len(), &log_factorial);
        let smaller = usize::from(halves[1].len() < halves[0].len());
        halves[smaller] = product(&halves[smaller], &classes);
    }
    // Rounding must not part outcomes that are equally likely.
    at_most(&halves, seen + 1e-9).min(1.0)
}

/// ln n! for n of 0..=most.
fn log_factorials(most: usize) -> Vec<f64> {
    let mut sums = vec![0.0f64; most + 1];
    for n in 1..=most {
        sums[n] = sums[n - 1] + (n as f64).ln();
    }
    sums
}

/// ln of the multinomial probability of `counts` with equal shares.
fn log_probability(counts: &[u64], log_factorial: &[f64]) -> f64 {
    let trials: u64 = counts.iter().sum();
    let arrangements = log_factorial[trials as usize] - counts.iter().map(|&n| log_factorial[n as usize]).sum::<f64>();
    arrangements - trials as f64 * (counts.len() as f64).ln()
}

/// The classes of all outcomes of `trials` over `outcomes`, by ascending probability of one outcome.
fn classes(trials: u64, outcomes: usize, log_factorial: &[f64]) -> Vec<Class> {
    let mut found = Vec::new();
    let mut parts = Vec::with_capacity(outcomes);
    partitions(trials, trials, outcomes, &mut parts, &mut |parts| {
        let mut counts = parts.to_vec();
        counts.resize(outcomes, 0);
        let log_p = log_probability(&counts, log_factorial);
        // How many outcomes have these counts: the orders of the counts, of which equal ones are not told apart.
        let mut repeats: BTreeMap<u64, usize> = BTreeMap::new();
        for &n in &counts {
            *repeats.entry(n).or_default() += 1;
        }
        let orders = log_factorial[outcomes] - repeats.values().map(|&r| log_factorial[r]).sum::<f64>();
        found.push((log_p, (log_p + orders).exp()));
    });
    merged(found)
}

/// Calls `each` with every way to write `rest` as a sum of at most `places` parts of at most `largest`, in descending order.
fn partitions(rest: u64, largest: u64, places: usize, parts: &mut Vec<u64>, each: &mut dyn FnMut(&[u64])) {
    if rest == 0 {
        return each(parts);
    }
    if places == 0 {
        return;
    }
    for part in (1..=rest.min(largest)).rev() {
        parts.push(part);
        partitions(rest - part, part, places - 1, parts, each);
        parts.pop();
    }
}

/// The classes of two independent groups together.
fn product(a: &[Class], b: &[Class]) -> Vec<Class> {
    merged(a.iter().flat_map(|x| b.iter().map(move |y| (x.0 + y.0, x.1 * y.1))).collect())
}

/// Sorted, with equally likely classes made one.
fn merged(mut classes: Vec<Class>) -> Vec<Class> {
    classes.sort_by(|a, b| a.0.total_cmp(&b.0));
    classes.dedup_by(|next, kept| {
        let same = next.0 - kept.0 < 1e-11;
        if same {
            kept.1 += next.1;
        }
        same
    });
    classes
}

/// The probability of the pairs of a class of each half whose logarithms add up to at most `threshold`.
fn at_most([a, b]: &[Vec<Class>; 2], threshold: f64) -> f64 {
    let mut below = 0.0;
    let mut rising = b.iter().peekable();
    // From the most likely class of `a` to the least, ever more classes of `b` stay under the threshold.
    a.iter()
        .rev()
        .map(|x| {
            while let Some(y) = rising.next_if(|y| x.0 + y.0 <= threshold) {
                below += y.1;
            }
            x.1 * below
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::near;

    /// The definition: every outcome of every group, one by one.
    fn by_hand(groups: &[&[u64]]) -> f64 {
        fn outcomes(trials: u64, places: usize) -> Vec<Vec<u64>> {
            if places == 1 {
                return vec![vec![trials]];
            }
            let with = |n: u64| outcomes(trials - n, places - 1).into_iter().map(move |rest| [vec![n], rest].concat());
            (0..=trials).flat_map(with).collect()
        }
        let factorials = log_factorials(60);
        let log_p = |groups: &[Vec<u64>]| groups.iter().map(|g| log_probability(g, &factorials)).sum::<f64>();
        let seen = log_p(&groups.iter().map(|g| g.to_vec()).collect::<Vec<_>>()) + 1e-9;
        let mut all: Vec<Vec<Vec<u64>>> = vec![Vec::new()];
        for g in groups {
            let one = outcomes(g.iter().sum(), g.len());
            all = all.iter().flat_map(|a| one.iter().map(|o| [a.clone(), vec![o.clone()]].concat())).collect();
        }
        all.iter().map(|o| log_p(o)).filter(|&l| l <= seen).map(f64::exp).sum()
    }

    fn p(groups: &[&[u64]]) -> f64 {
        equal_shares(groups).p
    }

    #[test]
    fn known_values() {
        assert_eq!(p(&[]), 1.0);
        assert_eq!(p(&[&[0; 4]]), 1.0);
        near(p(&[&[1, 0, 0, 0]]), 1.0, 1e-12);
        // Four of a kind in four: 4 / 4^4. Ten of a kind in ten of two: 2 / 2^10.
        near(p(&[&[0, 4, 0, 0]]), 4.0 / 256.0, 1e-12);
        near(p(&[&[10, 0]]), 2.0 / 1024.0, 1e-12);
        near(p(&[&[15; 4]]), 1.0, 1e-9);
        assert_eq!(equal_shares(&[&[30, 30]]).test, "exact multinomial test");
        assert_eq!(equal_shares(&[&[31, 30]]).test, "chi-square test");
        // 23, 37, 48, 32: χ² = 9.314 with 3 degrees of freedom.
        near(p(&[&[23, 37, 48, 32]]), 0.025_391, 1e-6);
    }

    #[test]
    fn the_exact_test_is_its_definition() {
        for counts in [&[2, 8, 9, 13][..], &[5, 0, 1], &[3, 7], &[0, 0, 1, 4, 1], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 4]] {
            near(p(&[counts]), by_hand(&[counts]), 1e-11);
        }
        for groups in [&[&[4, 1][..], &[0, 3, 2, 1]][..], &[&[3, 0], &[0, 3, 1], &[1, 1, 0, 0, 2]], &[&[2, 2], &[5, 5]]]
        {
            near(p(groups), by_hand(groups), 1e-11);
        }
    }

    #[test]
    fn sixty_trials_in_groups_of_every_size_are_quick() {
        let groups: Vec<Vec<u64>> =
            (2..=10).map(|outcomes| spread(if outcomes < 5 { 6 } else { 7 }, outcomes)).collect();
        let groups: Vec<&[u64]> = groups.iter().map(Vec::as_slice).collect();
        assert_eq!(groups.iter().flat_map(|g| g.iter()).sum::<u64>(), 60);
        let start = std::time::Instant::now();
        let found = equal_shares(&groups);
        assert_eq!(found.test, "exact multinomial test");
        // As even as can be: nothing is likelier.
        near(found.p, 1.0, 1e-6);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    fn spread(trials: u64, outcomes: usize) -> Vec<u64> {
        (0..outcomes as u64).map(|i| trials / outcomes as u64 + u64::from(i < trials % outcomes as u64)).collect()
    }

    #[test]
    fn beyond_sixty_the_two_tests_are_close() {
        for counts in [[10, 20, 15, 15], [8, 22, 15, 15], [14, 16, 15, 15]] {
            let approximate = chi_square_tail(pearson(&counts), 3);
            near(p(&[&counts]), approximate, 0.02);
        }
    }
}
