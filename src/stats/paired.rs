//! Two results of the same trials: the exact McNemar test, and an interval for the difference.

use super::{gamma::ln_gamma, proportion::wilson};
use serde::Serialize;

/// The four kinds of pair: both right, only the baseline, only the candidate, neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Paired {
    /// Right in both.
    pub both: u64,
    /// Right in the baseline only: lost by the candidate.
    pub lost: u64,
    /// Right in the candidate only: won by it.
    pub won: u64,
    /// Wrong in both.
    pub neither: u64,
}

impl Paired {
    /// Number of pairs.
    pub fn total(&self) -> u64 {
        self.both + self.lost + self.won + self.neither
    }

    /// Candidate accuracy minus baseline accuracy with a 95 % interval: (difference, low, high). The interval is Newcombe's
    /// score interval for paired proportions (1998, method 10), which keeps inside [−1, 1] and works for few pairs.
    pub fn difference(&self) -> (f64, f64, f64) {
        let n = self.total() as f64;
        if n == 0.0 {
            return (0.0, -1.0, 1.0);
        }
        let (right1, right2) = (self.both + self.won, self.both + self.lost);
        let (p1, p2) = (right1 as f64 / n, right2 as f64 / n);
        let ((l1, u1), (l2, u2)) = (wilson(right1, self.total()), wilson(right2, self.total()));
        let (a, b, c, d) = (self.both as f64, self.won as f64, self.lost as f64, self.neither as f64);
        let margins = (a + b) * (c + d) * (a + c) * (b + d);
        let cross = a * d - b * c;
        let cross = if cross > 0.0 { (cross - n / 2.0).max(0.0) } else { cross };
        let phi = if margins > 0.0 { cross / margins.sqrt() } else { 0.0 };
        let side = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
        let diff = p1 - p2;
        let low = diff - side(p1 - l1, u2 - p2);
        let high = diff + side(p2 - l2, u1 - p1);
        (diff, low.max(-1.0), high.min(1.0))
    }
}

/// Exact McNemar test: the two-sided probability, under a fair coin, of discordant pairs split as unevenly as `won` to
/// `lost`, min(1, 2·P(X ≤ min)), X binomial(won + lost, ½). Summed from its largest term in log space, so that it neither
/// overflows nor vanishes before f64 does.
pub fn mcnemar(won: u64, lost: u64) -> f64 {
    let (m, n) = (won.min(lost) as f64, (won + lost) as f64);
    if won == lost {
        return 1.0;
    }
    let log_top = ln_gamma(n + 1.0) - ln_gamma(m + 1.0) - ln_gamma(n - m + 1.0) - n * std::f64::consts::LN_2;
    // The terms below the largest, as fractions of it: C(n, k−1) / C(n, k) = k / (n − k + 1).
    let (mut sum, mut term, mut k) = (1.0, 1.0, m);
    while k > 0.0 && term > f64::EPSILON * 1e-3 * sum {
        term *= k / (n - k + 1.0);
        sum += term;
        k -= 1.0;
    }
    (std::f64::consts::LN_2 + log_top + sum.ln()).exp().min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::near;

    /// The definition, in integers: exact up to 2^100 or so.
    fn mcnemar_by_hand(b: u64, c: u64) -> f64 {
        let n = b + c;
        let mut binomial = 1u128;
        let mut sum = 0u128;
        for k in 0..=b.min(c) {
            sum += binomial;
            binomial = binomial * u128::from(n - k) / u128::from(k + 1);
        }
        (2.0 * sum as f64 / 2f64.powi(n as i32)).min(1.0)
    }

    #[test]
    fn mcnemar_is_exact() {
        near(mcnemar(1, 5), 0.21875, 1e-14); // 2·(1 + 6)/64
        near(mcnemar(0, 6), 0.03125, 1e-15);
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(4, 4), 1.0);
        for b in 0..45 {
            for c in 0..45 {
                let exact = mcnemar_by_hand(b, c);
                near(mcnemar(b, c) / exact, 1.0, 1e-11);
                assert_eq!(mcnemar(b, c), mcnemar(c, b));
            }
        }
    }

    #[test]
    fn mcnemar_of_many_pairs() {
        // Normal approximation with continuity correction: z = (|b−c|−1)/√n = 2.999, two-sided p 0.002708.
        let p = mcnemar(501_500, 498_500);
        near(p, 0.002_708, 2e-5);
        let tiny = mcnemar(0, 1000);
        near(tiny.log2(), -999.0, 1e-9);
    }

    #[test]
    fn paired_difference() {
        let p = Paired { both: 36, won: 12, lost: 2, neither: 0 };
        let (d, low, high) = p.difference();
        near(d, 0.2, 1e-15);
        assert!(low > 0.05 && low < 0.07 && high > 0.32 && high < 0.35, "{low} {high}");
        let swapped = Paired { won: 2, lost: 12, ..p };
        let (e, l, h) = swapped.difference();
        near(e, -d, 1e-15);
        near(l, -high, 1e-12);
        near(h, -low, 1e-12);
        let same = Paired { both: 50, won: 0, lost: 0, neither: 50 }.difference();
        assert!(same.0 == 0.0 && same.1 < 0.0 && same.2 > 0.0 && same.2 < 0.05, "{same:?}");
        assert_eq!(Paired::default().difference(), (0.0, -1.0, 1.0));
    }
}
