//! One place for what the compiler needs to vectorise hot loops: a macro that compiles a function for AVX2 besides the
//! baseline, and the exponential.
//!
//! Both versions of a function run the same operations in the same order (nothing here fuses a multiplication with an
//! addition), so they give the same bits; AVX2 only makes them faster.

/// Defines a function compiled twice, for the baseline processor and for AVX2, and chosen at each call.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, the one feature that the function needs beyond the baseline.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// eˣ within 1 unit in the last place, branch-free, so that loops over it vectorise. NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2 (Cody and Waite's two-part ln 2), a polynomial in r, and 2ⁿ in two factors, so that
/// results below the normal range lose bits gradually and those above it are infinite.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let nf = shifted - ROUND;
    let r = (x - nf * LN2_HIGH) - nf * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = (p * (r * r) + r) + 1.0;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    y * power(half) * power(n.wrapping_sub(half))
}

/// Lanes of the reductions below. A sum has this many partial sums, whatever the processor.
const LANES: usize = 16;
/// Elements whose partial sums are f32 before they are added in f64.
const SUM_BLOCK: usize = 1024;

multiversion! {
    /// Largest element, −∞ of none. NaN is passed over.
    pub fn max(x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for c in chunks {
            for (l, &v) in lanes.iter_mut().zip(c) {
                *l = if v > *l { v } else { *l };
            }
        }
        rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
    }
}

multiversion! {
    /// Replaces every x by exp(x − shift) and returns the sum.
    pub fn exp_shifted(x: &mut [f32], shift: f32) -> f64 {
        let mut total = 0.0;
        for block in x.chunks_mut(SUM_BLOCK) {
            let mut lanes = [0.0f32; LANES];
            let (chunks, rest) = block.as_chunks_mut::<LANES>();
            for c in chunks {
                for (l, v) in lanes.iter_mut().zip(c) {
                    *v = exp(*v - shift);
                    *l += *v;
                }
            }
            for v in rest {
                *v = exp(*v - shift);
                total += f64::from(*v);
            }
            total += lanes.into_iter().map(f64::from).sum::<f64>();
        }
        total
    }
}

multiversion! {
    /// Σ exp(x − shift).
    pub fn sum_exp_shifted(x: &[f32], shift: f32) -> f64 {
        let mut total = 0.0;
        for block in x.chunks(SUM_BLOCK) {
            let mut lanes = [0.0f32; LANES];
            let (chunks, rest) = block.as_chunks::<LANES>();
            for c in chunks {
                for (l, v) in lanes.iter_mut().zip(c) {
                    *l += exp(*v - shift);
                }
            }
            for v in rest {
                total += f64::from(exp(*v - shift));
            }
            total += lanes.into_iter().map(f64::from).sum::<f64>();
        }
        total
    }
}

multiversion! {
    /// Σ a·b in f32, for vectors of a few thousand elements.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for (l, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                *l += a * b;
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        fold(lanes) + rest
    }
}

multiversion! {
    /// Σ x² in f64.
    pub fn sum_squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for c in chunks {
            for (l, &v) in lanes.iter_mut().zip(c) {
                *l += f64::from(v) * f64::from(v);
            }
        }
        lanes.into_iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()
    }
}

multiversion! {
    /// `y += a·x`.
    pub fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }
}

multiversion! {
    /// `y *= a`.
    pub fn scale(y: &mut [f32], a: f32) {
        for y in y {
            *y *= a;
        }
    }
}

/// Adds the lanes pairwise.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_an_ulp_and_a_half_of_the_truth() {
        let mut worst = 0.0f64;
        for i in -870_000..=887_000 {
            let x = i as f32 * 1e-4;
            let (want, got) = (f64::from(x).exp(), f64::from(exp(x)));
            let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
            worst = worst.max((got - want).abs() / ulp);
        }
        assert!(worst < 1.5, "{worst} ulp");
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(-104.0), 0.0);
        assert!(exp(f32::NAN).is_nan());
        let tiny = f64::from(exp(-95.0));
        assert!((tiny - (-95f64).exp()).abs() <= f64::from(f32::from_bits(1)), "{tiny}");
    }

    #[test]
    fn reductions_at_ragged_lengths() {
        for n in [0, 1, 15, 16, 17, 1023, 1024, 1040, 3001] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.1).collect();
            let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            assert!((sum_squares(&x) - squares).abs() <= 1e-9 * squares);
            assert!((f64::from(dot(&x, &x)) - squares).abs() <= 1e-5 * squares);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let want: f64 = x.iter().map(|&v| f64::from(v - 5.0).exp()).sum();
            let mut y = x.clone();
            assert!((sum_exp_shifted(&x, 5.0) - want).abs() <= 1e-6 * want);
            assert_eq!(exp_shifted(&mut y, 5.0), sum_exp_shifted(&x, 5.0));
        }
    }
}
