//! Packing: as few micro-batches as the token budget allows.
//!
//! Best-fit decreasing: the longest sample first, each into the micro-batch that it fills best. It needs at most 11/9 of
//! the optimal number and a constant, and in practice almost always the optimum. No sample is ever split, and nothing
//! is padded, so the loss and the gradients do not depend on the result: only the speed does.

use crate::{Error, Result, error::Setting};
use std::collections::BTreeSet;

/// Groups the samples of `lengths` (rows each) so that no group has more than `budget` rows. Each group lists places in
/// `lengths`, ascending; groups are in the order of their first sample.
///
/// # Errors
/// A sample is longer than the budget.
pub fn pack(lengths: &[usize], budget: usize) -> Result<Vec<Vec<usize>>> {
    if let Some(i) = lengths.iter().position(|&len| len > budget) {
        let message = format!(
            "sample {i} has {} tokens, more than the {budget} rows of a micro-batch: raise it, or shorten the sample",
            lengths[i]
        );
        return Err(Error::setting(Setting::named("max-seq-length"), message));
    }
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for i in longest_first {
        let group = match room.range((lengths[i], 0)..).next().copied() {
            Some(tightest) => {
                room.remove(&tightest);
                room.insert((tightest.0 - lengths[i], tightest.1));
                tightest.1
            }
            None => {
                room.insert((budget - lengths[i], groups.len()));
                groups.push(Vec::new());
                groups.len() - 1
            }
        };
        groups[group].push(i);
    }
    for group in &mut groups {
        group.sort_unstable();
    }
    groups.sort_unstable_by_key(|group| group[0]);
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The least number of groups, by dynamic programming over subsets: (groups, rows in the last one).
    fn optimum(lengths: &[usize], budget: usize) -> usize {
        let mut best = vec![(usize::MAX, 0); 1 << lengths.len()];
        best[0] = (0, budget);
        for set in 0..best.len() {
            for (i, &len) in lengths.iter().enumerate().filter(|(i, _)| set >> i & 1 == 0) {
                let (groups, used) = best[set];
                let next = if used + len <= budget { (groups, used + len) } else { (groups + 1, len) };
                best[set | 1 << i] = best[set | 1 << i].min(next);
            }
        }
        best[best.len() - 1].0
    }

    proptest! {
        #[test]
        fn every_sample_once_within_the_budget(lengths in prop::collection::vec(1usize..=64, 0..200), spare in 0usize..64) {
            let budget = lengths.iter().copied().max().unwrap_or(1) + spare;
            let groups = pack(&lengths, budget).unwrap();
            for group in &groups {
                prop_assert!(group.iter().map(|&i| lengths[i]).sum::<usize>() <= budget);
                prop_assert!(group.is_sorted());
            }
            let mut all = groups.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert_eq!(groups, pack(&lengths, budget).unwrap());
        }

        #[test]
        fn close_to_the_optimum(lengths in prop::collection::vec(1usize..=30, 1..11)) {
            let groups = pack(&lengths, 30).unwrap().len();
            let best = optimum(&lengths, 30);
            prop_assert!(groups >= best && 9 * groups <= 11 * best + 9, "{} for {}", groups, best);
        }
    }

    #[test]
    fn a_sample_that_cannot_fit_is_named() {
        assert!(pack(&[3, 9, 4], 8).unwrap_err().to_string().contains("sample 1 has 9 tokens, more than the 8"));
        assert_eq!(pack(&[3, 5, 4, 4], 8).unwrap(), [vec![0, 1], vec![2, 3]]);
        assert!(pack(&[], 0).unwrap().is_empty());
    }
}
