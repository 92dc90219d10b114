//! Is a letter right more often than chance explains? A model learns such a preference long before it learns law.

use super::questions::Choice;

/// The probability of four counts at least as unlikely as these if every letter were equally likely: the exact
/// multinomial test up to 60 questions, Pearson's chi-square test (3 degrees of freedom) beyond.
pub fn p_value(counts: [usize; 4]) -> f64 {
    let n: usize = counts.iter().sum();
    if n == 0 {
        return 1.0;
    }
    if n <= 60 { exact(counts, n) } else { chi_square_tail(statistic(counts)) }
}

/// Which test [`p_value`] makes for so many questions.
pub fn test_name(n: usize) -> &'static str {
    if n <= 60 { "exact multinomial test" } else { "chi-square test" }
}

/// The letters furthest from an equal share, as a sentence, if the counts are unlikely at the 5 % level.
pub fn warning(counts: [usize; 4]) -> Option<String> {
    let n: usize = counts.iter().sum();
    let p = p_value(counts);
    if p >= 0.05 {
        return None;
    }
    let equal = n as f64 / 4.0;
    let mut deviations: Vec<(Choice, f64)> =
        Choice::ALL.into_iter().map(|l| (l, (counts[l.index()] as f64 - equal) / equal.sqrt())).collect();
    deviations.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    let words: Vec<String> = deviations
        .iter()
        .filter(|d| d.1.abs() >= 1.0)
        .map(|(l, d)| {
            let direction = if *d > 0.0 { "over" } else { "under" };
            format!("{l} is {direction}-represented ({} of {n}, {equal:.0} expected)", counts[l.index()])
        })
        .collect();
    Some(format!("{} ({}, p = {p:.2})", words.join(", "), test_name(n)).replace("p = 0.00", "p < 0.005"))
}

fn statistic(counts: [usize; 4]) -> f64 {
    let equal = counts.iter().sum::<usize>() as f64 / 4.0;
    counts.iter().map(|&c| (c as f64 - equal).powi(2) / equal).sum()
}

/// P(X ≥ x) for chi-square with 3 degrees of freedom: 1 − P(3/2, x/2), the regularised lower incomplete gamma function by
/// its series, whose terms are all positive.
fn chi_square_tail(x: f64) -> f64 {
    const GAMMA_5_2: f64 = 1.329_340_388_179_137;
    let z = x / 2.0;
    if z > 300.0 {
        return 0.0;
    }
    let (mut term, mut sum, mut a) = (1.0, 1.0, 1.5);
    while term > sum * 1e-17 {
        a += 1.0;
        term *= z / a;
        sum += term;
    }
    (1.0 - z.powf(1.5) * (-z).exp() / GAMMA_5_2 * sum).clamp(0.0, 1.0)
}

/// Sums the probabilities of all outcomes that are not more likely than the one seen.
fn exact(counts: [usize; 4], n: usize) -> f64 {
    let mut log_factorial = vec![0.0f64; n + 1];
    for i in 1..=n {
        log_factorial[i] = log_factorial[i - 1] + (i as f64).ln();
    }
    let log_p =
        |c: [usize; 4]| log_factorial[n] - c.iter().map(|&k| log_factorial[k]).sum::<f64>() - n as f64 * 4f64.ln();
    let seen = log_p(counts) + 1e-9;
    let mut p = 0.0;
    for a in 0..=n {
        for b in 0..=n - a {
            for c in 0..=n - a - b {
                let outcome = log_p([a, b, c, n - a - b - c]);
                if outcome <= seen {
                    p += outcome.exp();
                }
            }
        }
    }
    p.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // Table of the chi-square distribution, 3 degrees of freedom.
        for (x, p) in [(0.0, 1.0), (7.814_727_903, 0.05), (11.344_866_73, 0.01), (16.266_236_2, 0.001)] {
            assert!((chi_square_tail(x) - p).abs() < 1e-9, "{x}");
        }
        assert!((p_value([1, 0, 0, 0]) - 1.0).abs() < 1e-12);
        // Four of a kind in four: 4 / 4^4.
        assert!((p_value([0, 4, 0, 0]) - 4.0 / 256.0).abs() < 1e-12);
        assert_eq!(p_value([0; 4]), 1.0);
        assert!((p_value([15; 4]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_public_set_is_unbalanced() {
        let text = warning([23, 37, 48, 32]).unwrap();
        let wanted = "c is over-represented (48 of 140, 35 expected), a is under-represented (23 of 140, 35 expected) (chi-square test, p = 0.03)";
        assert_eq!(text, wanted);
        assert_eq!(warning([35; 4]), None);
        assert_eq!(warning([3, 2, 2, 1]), None);
    }
}
