//! The statistics beside every accuracy, in plain f64 arithmetic: Wilson intervals, the exact McNemar test, an interval for
//! a paired difference, chi-square tail probabilities, label counts and confusion matrices.

use super::{LETTERS, UNKNOWN};
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

/// ln Γ(x) for x > 0: Lanczos' approximation with g = 7 and nine terms, good to about 1e-14.
pub fn ln_gamma(x: f64) -> f64 {
    const C: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let t = x + 7.5;
    let sum = C[1..].iter().enumerate().fold(C[0], |s, (i, c)| s + c / (x + 1.0 + i as f64));
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
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

/// P(X > x) for X chi-square with `df` degrees of freedom: the regularised upper incomplete gamma function
/// Q(df/2, x/2), by its series below x = df/2 + 1 and by Lentz's continued fraction above.
pub fn chi_square_tail(x: f64, df: u32) -> f64 {
    if df == 0 || x <= 0.0 || x.is_nan() {
        return 1.0;
    }
    let (a, x) = (f64::from(df) / 2.0, x / 2.0);
    let front = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut k) = (1.0 / a, 1.0 / a, a);
        while term > sum * f64::EPSILON {
            k += 1.0;
            term *= x / k;
            sum += term;
        }
        return (1.0 - front * sum).clamp(0.0, 1.0);
    }
    let tiny = f64::MIN_POSITIVE / f64::EPSILON;
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1.0 / tiny, 1.0 / b);
    let mut h = d;
    for i in 1..10_000 {
        let i = f64::from(i);
        let an = -i * (i - a);
        b += 2.0;
        d = 1.0 / (an * d + b).abs().max(tiny).copysign(an * d + b);
        c = (b + an / c).abs().max(tiny).copysign(b + an / c);
        let delta = d * c;
        h *= delta;
        if (delta - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (front * h).clamp(0.0, 1.0)
}

/// How often each of a, b, c, d, unknown occurs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Labels(pub [u64; 5]);

impl Labels {
    /// Names of the five columns.
    pub const NAMES: [&'static str; 5] = [LETTERS[0], LETTERS[1], LETTERS[2], LETTERS[3], UNKNOWN];

    /// Counts choices.
    pub fn count(choices: impl IntoIterator<Item = Option<usize>>) -> Self {
        let mut counts = [0; 5];
        for c in choices {
            counts[c.unwrap_or(4).min(4)] += 1;
        }
        Self(counts)
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Pearson's chi-square of these predictions against the shares of `truth`, over the letters that the truth has, and
    /// its probability. `None` where there is nothing to compare.
    pub fn against(&self, truth: &Self) -> Option<(f64, f64)> {
        let n: u64 = self.0[..4].iter().sum();
        let m: u64 = truth.0[..4].iter().sum();
        let cells: Vec<usize> = (0..4).filter(|&i| truth.0[i] > 0).collect();
        if n == 0 || m == 0 || cells.len() < 2 {
            return None;
        }
        let x: f64 = cells
            .iter()
            .map(|&i| {
                let expected = n as f64 * truth.0[i] as f64 / m as f64;
                (self.0[i] as f64 - expected).powi(2) / expected
            })
            .sum();
        Some((x, chi_square_tail(x, cells.len() as u32 - 1)))
    }

    /// A sentence if these predictions have collapsed towards one letter: over half of at least ten predictions, and far more
    /// than `truth` has of it (p < 0.001).
    pub fn collapse(&self, truth: &Self) -> Option<String> {
        let n = self.total();
        let (letter, &top) = self.0[..4].iter().enumerate().max_by_key(|&(i, &c)| (c, std::cmp::Reverse(i)))?;
        let real = truth.0[letter];
        let (_, p) = self.against(truth)?;
        let far = n >= 10 && 2 * top > n && p < 1e-3;
        far.then(|| {
            format!(
                "{top} of {n} answers are \"{}\", although only {real} of {} should be: the model has collapsed towards one letter",
                LETTERS[letter],
                truth.total()
            )
        })
    }
}

/// Rows: the right letter a–d. Columns: what was predicted, a–d and unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Confusion(pub [[u64; 5]; 4]);

impl Confusion {
    /// Counts (right, predicted) pairs.
    pub fn count(pairs: impl IntoIterator<Item = (usize, Option<usize>)>) -> Self {
        let mut cells = [[0; 5]; 4];
        for (right, predicted) in pairs {
            if let Some(row) = cells.get_mut(right) {
                row[predicted.unwrap_or(4).min(4)] += 1;
            }
        }
        Self(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(x: f64, y: f64, tolerance: f64) {
        assert!((x - y).abs() <= tolerance, "{x} is not {y} ± {tolerance}");
    }

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

    #[test]
    fn ln_gamma_is_the_factorial() {
        let mut log = 0.0;
        for n in 1..200 {
            near(ln_gamma(f64::from(n)), log, 1e-12 * log.max(1.0));
            log += f64::from(n).ln();
        }
        near(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-14);
    }

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

    #[test]
    fn chi_square_known_values() {
        for (x, df, p) in [
            (3.841_458_820_694_124, 1, 0.05),
            (7.814_727_903_251_179, 3, 0.05),
            (16.266_236_196_238_13, 3, 0.001),
            (2.365_973_884_375_338, 3, 0.5),
            (2.0, 2, (-1f64).exp()),
            (60.0, 2, (-30f64).exp()),
        ] {
            near(chi_square_tail(x, df) / p, 1.0, 1e-10);
        }
        assert_eq!(chi_square_tail(0.0, 3), 1.0);
    }

    #[test]
    fn labels_and_collapse() {
        let truth = Labels([23, 37, 48, 32, 0]);
        let collapsed = Labels([100, 15, 15, 10, 0]);
        let sentence = collapsed.collapse(&truth).expect("the user's 100 of 140");
        assert!(sentence.starts_with("100 of 140 answers are \"a\", although only 23 of 140"), "{sentence}");
        assert_eq!(truth.collapse(&truth), None);
        assert_eq!(Labels::default().collapse(&truth), None);
        assert_eq!(Labels::count([Some(0), None, Some(3), Some(3)]).0, [1, 0, 0, 2, 1]);
        assert_eq!(Confusion::count([(0, Some(1)), (3, None)]).0, [[0, 1, 0, 0, 0], [0; 5], [0; 5], [0, 0, 0, 0, 1]]);
    }
}
