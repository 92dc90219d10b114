//! A proportion with its interval.

use serde::Serialize;

/// The 97.5 % point of the normal distribution: intervals are 95 % intervals.
pub const Z95: f64 = 1.959_963_984_540_054;

/// A proportion with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Proportion {
    /// Successes.
    pub count: u64,
    /// Trials.
    pub total: u64,
    /// count / total; 0 without trials.
    pub value: f64,
    /// Lower end of the Wilson interval.
    pub low: f64,
    /// Upper end of the Wilson interval.
    pub high: f64,
}

impl Proportion {
    /// `count` successes in `total` trials.
    pub fn new(count: u64, total: u64) -> Self {
        let (low, high) = wilson(count, total);
        let value = if total == 0 { 0.0 } else { count as f64 / total as f64 };
        Self { count, total, value, low, high }
    }
}

impl std::fmt::Display for Proportion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, total, value, low, high } = self;
        write!(f, "{count}/{total} = {:.1}% (95% interval {:.1}–{:.1}%)", 100.0 * value, 100.0 * low, 100.0 * high)
    }
}

/// Wilson's 95 % score interval of `count` successes in `total` trials (Wilson 1927); (0, 1) without trials.
pub fn wilson(count: u64, total: u64) -> (f64, f64) {
    if total == 0 {
        return (0.0, 1.0);
    }
    let (n, p, z2) = (total as f64, count as f64 / total as f64, Z95 * Z95);
    let centre = p + z2 / (2.0 * n);
    let half = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    let low = if count == 0 { 0.0 } else { ((centre - half) / scale).max(0.0) };
    let high = if count == total { 1.0 } else { ((centre + half) / scale).min(1.0) };
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::near;

    #[test]
    fn wilson_known_values() {
        // Newcombe 1998 (Stat. Med. 17:857), table I: 81/263, 15/148, 0/20, 1/29.
        for (k, n, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let (l, h) = wilson(k, n);
            near(l, low, 5e-5);
            near(h, high, 5e-5);
        }
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(7, 7).1, 1.0);
    }
}
