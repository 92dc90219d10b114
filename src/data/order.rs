//! In which order an epoch visits the samples: a pure function of (seed, epoch), so that a resumed run needs only its
//! position.

use crate::rng::{Rng, mix64};

/// How an epoch is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DataOrder {
    /// A new permutation for each epoch.
    #[default]
    Shuffled,
    /// As the file stands.
    Sequential,
}

/// The use of the generator that this is ("order" in ASCII).
const PURPOSE: u64 = 0x6f_7264_6572;

impl DataOrder {
    /// The numbers 0..samples in the order of `epoch` (from 0).
    pub fn epoch(self, seed: u64, epoch: u64, samples: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..samples).collect();
        if self == Self::Shuffled {
            Rng::new(seed, PURPOSE ^ mix64(epoch)).shuffle(&mut order);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_different_permutations_that_can_be_made_again() {
        let first = DataOrder::Shuffled.epoch(42, 0, 100);
        assert_eq!(first, DataOrder::Shuffled.epoch(42, 0, 100));
        assert_ne!(first, DataOrder::Shuffled.epoch(42, 1, 100));
        assert_ne!(first, DataOrder::Shuffled.epoch(43, 0, 100));
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, DataOrder::Sequential.epoch(42, 7, 100));
        assert!(DataOrder::Shuffled.epoch(1, 1, 0).is_empty());
    }
}
