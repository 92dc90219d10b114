//! Narrow floats and the rounding modes that Rust has no operators for.
//!
//! A result that must be rounded in a way the host does not offer is kept as an unevaluated sum `s + e` of two f64
//! (the nearest f64 and an error whose *sign* is exact); every rounding is then a decision on that pair.

/// Rounding modes of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even (`.rn`).
    Near,
    /// Toward zero (`.rz`).
    Zero,
    /// Down (`.rm`).
    Down,
    /// Up (`.rp`).
    Up,
}

/// bf16 bits to f32: exact.
#[inline(always)]
pub(crate) fn bf16_to_f32(b: u16) -> f32 {
    f32::from_bits((b as u32) << 16)
}

/// f32 to bf16, nearest even; a NaN becomes the canonical 0x7fff, as the hardware's `cvt` makes it.
#[inline(always)]
pub(crate) fn f32_to_bf16(v: f32) -> u16 {
    let b = v.to_bits();
    let rounded = (b.wrapping_add(0x7fff + ((b >> 16) & 1)) >> 16) as u16;
    if v.is_nan() { 0x7fff } else { rounded }
}

/// f16 bits to f32: exact.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let sign = ((h & 0x8000) as u32) << 16;
    let body = (h & 0x7fff) as u32;
    // Scaling by 2^112 moves the exponent bias, subnormals included; infinities and NaN need the top exponent.
    let v = f32::from_bits(body << 13) * f32::from_bits(0x7780_0000);
    let bits = if body >= 0x7c00 { v.to_bits() | 0x7f80_0000 } else { v.to_bits() };
    f32::from_bits(bits | sign)
}

/// f64 to f16 bits, nearest even; NaN becomes 0x7fff.
pub(crate) fn f64_to_f16(v: f64) -> u16 {
    narrow(v, 0.0, Round::Near, 11, -14, 16) as u16
}

/// Rounds the exact value `s + e` to a binary format with `digits` significant bits, least normal exponent `emin`
/// and `width` bits in total; returns the bits. NaN is the format's canonical one (all ones but the sign).
pub(crate) fn narrow(s: f64, e: f64, mode: Round, digits: u32, emin: i32, width: u32) -> u32 {
    let frac = digits - 1;
    let inf = (((1u64 << (width - 1 - frac)) - 1) << frac) as u32;
    let sign_bit = 1u32 << (width - 1);
    if s.is_nan() {
        return sign_bit - 1;
    }
    let negative = s.is_sign_negative() && (s != 0.0 || e <= 0.0);
    let sign = if negative { sign_bit } else { 0 };
    if s.is_infinite() {
        return inf | sign;
    }
    if s == 0.0 {
        return sign;
    }
    // The magnitude as an integer of 53 bits and a power of two; the error's sign relative to the magnitude.
    let bits = s.to_bits();
    let field = ((bits >> 52) & 0x7ff) as i32;
    let (mut m, mut exp) =
        if field == 0 { (bits & ((1 << 52) - 1), -1074) } else { ((bits & ((1 << 52) - 1)) | 1 << 52, field - 1075) };
    let shift = m.leading_zeros() as i32 - 11;
    m <<= shift;
    exp -= shift;
    let e = if negative { -e } else { e };
    // Value = m * 2^exp with 2^52 <= m < 2^53. Two more bits of room make the error a sticky bit.
    let mut wide = (m as u128) << 10;
    if e > 0.0 {
        wide += 1;
    } else if e < 0.0 {
        wide -= 1;
    }
    let lowest = emin - frac as i32;
    // Exponent of the unit in the last place of the result; an error may have carried `wide` below 2^62.
    let top = 127 - wide.leading_zeros() as i32;
    let unit = (exp - 10 + top - frac as i32).max(lowest);
    let drop = unit - (exp - 10);
    let (kept, rest, half) = if drop >= 127 {
        (0u128, wide, u128::MAX)
    } else {
        (wide >> drop, wide & ((1u128 << drop) - 1), 1u128 << (drop - 1))
    };
    let up = match mode {
        Round::Near => rest > half || (rest == half && kept & 1 == 1),
        Round::Zero => false,
        Round::Down => rest != 0 && negative,
        Round::Up => rest != 0 && !negative,
    };
    let kept = kept as u64 + up as u64;
    // `kept` counts units; adding the biased exponent lets a carry flow into it.
    let biased = (unit - lowest) as u64;
    let packed = if biased == 0 { kept } else { kept + (biased << frac) };
    if packed >= inf as u64 {
        let finite = match mode {
            Round::Near => false,
            Round::Zero => true,
            Round::Down => !negative,
            Round::Up => negative,
        };
        return (if finite { inf - 1 } else { inf }) | sign;
    }
    packed as u32 | sign
}

/// `s + e` rounded to f32.
pub(crate) fn to_f32(s: f64, e: f64, mode: Round) -> f32 {
    if s.is_nan() {
        return f32::from_bits(0x7fff_ffff);
    }
    f32::from_bits(narrow(s, e, mode, 24, -126, 32))
}

/// `s + e` rounded to f16 bits.
pub(crate) fn to_f16(s: f64, e: f64, mode: Round) -> u16 {
    narrow(s, e, mode, 11, -14, 16) as u16
}

/// `s + e` rounded to bf16 bits.
pub(crate) fn to_bf16(s: f64, e: f64, mode: Round) -> u16 {
    narrow(s, e, mode, 8, -126, 16) as u16
}

/// f32 to tf32 (10 fraction bits), nearest, ties away from zero (`cvt.rna`) or to even (`.rn`); the result is an f32.
pub(crate) fn to_tf32(v: f32, away: bool) -> u32 {
    let b = v.to_bits();
    if v.is_nan() {
        return 0x7fff_ffff;
    }
    if v.is_infinite() {
        return b;
    }
    let half = if away { 0x1000 } else { 0xfff + ((b >> 13) & 1) };
    b.wrapping_add(half) & !0x1fff
}

/// The exact sum of two finite f64 as (nearest, error) (Knuth's TwoSum).
#[inline(always)]
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    if !s.is_finite() {
        return (s, 0.0);
    }
    let bb = s - a;
    (s, (a - (s - bb)) + (b - bb))
}

/// Sum in any rounding mode needs the sign of an exact zero: `-0` only when rounding down or for `-0 + -0`.
#[inline(always)]
fn zero_sign(s: f64, mode: Round, both_negative: bool) -> f64 {
    if s == 0.0 { if both_negative || mode == Round::Down { -0.0 } else { 0.0 } } else { s }
}

/// `a + b` for f32 in `mode`.
pub(crate) fn add(a: f32, b: f32, mode: Round) -> f32 {
    let (s, e) = two_sum(a as f64, b as f64);
    if s == 0.0 && a == 0.0 && b == 0.0 && a.is_sign_negative() == b.is_sign_negative() {
        return a;
    }
    to_f32(zero_sign(s, mode, false), e, mode)
}

/// `a * b` for f32 in `mode`.
pub(crate) fn mul(a: f32, b: f32, mode: Round) -> f32 {
    to_f32(a as f64 * b as f64, 0.0, mode)
}

/// `a * b + c` for f32 in `mode`, one rounding.
pub(crate) fn fma(a: f32, b: f32, c: f32, mode: Round) -> f32 {
    let (s, e) = fma_parts(a as f64, b as f64, c as f64, mode);
    to_f32(s, e, mode)
}

/// The exact `a * b + c` where the product is exact in f64 (factors of at most 26 significant bits each).
#[inline(always)]
pub(crate) fn fma_parts(a: f64, b: f64, c: f64, mode: Round) -> (f64, f64) {
    let p = a * b;
    let (s, e) = two_sum(p, c);
    if s == 0.0 {
        let both = p.is_sign_negative() && c.is_sign_negative();
        let neither = !p.is_sign_negative() && !c.is_sign_negative();
        return (if neither { 0.0 } else { zero_sign(s, mode, both) }, 0.0);
    }
    (s, e)
}

/// `a / b` for f32 in `mode`: the remainder's sign decides.
pub(crate) fn div(a: f32, b: f32, mode: Round) -> f32 {
    let (a, b) = (a as f64, b as f64);
    let q = a / b;
    if !q.is_finite() || q == 0.0 || b.is_infinite() {
        return to_f32(q, 0.0, mode);
    }
    let r = (-q).mul_add(b, a);
    to_f32(q, if b < 0.0 { -r } else { r }, mode)
}

/// The square root for f32 in `mode`.
pub(crate) fn sqrt(a: f32, mode: Round) -> f32 {
    let a = a as f64;
    let q = a.sqrt();
    if !q.is_finite() || q == 0.0 {
        return to_f32(q, 0.0, mode);
    }
    to_f32(q, (-q).mul_add(q, a), mode)
}

/// Subnormals to zero of the same sign (`.ftz`).
#[inline(always)]
pub(crate) fn ftz(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// PTX `min`: a NaN operand loses; -0 is below +0.
#[inline(always)]
pub(crate) fn min(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        return if b.is_nan() { f32::from_bits(0x7fff_ffff) } else { b };
    }
    if b.is_nan() || a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

/// PTX `max`: a NaN operand loses; -0 is below +0.
#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        return if b.is_nan() { f32::from_bits(0x7fff_ffff) } else { b };
    }
    if b.is_nan() || a > b || (a == b && a.is_sign_positive()) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: u32) -> impl Iterator<Item = u32> {
        let mut x = 0x9e37_79b9u32;
        (0..n).map(move |_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x
        })
    }

    #[test]
    fn nearest_narrowing_agrees_with_the_host() {
        for b in noise(200_000) {
            let a = f32::from_bits(b);
            let d = f64::from_bits((b as u64) << 32 | (b.wrapping_mul(77) as u64));
            if !d.is_nan() {
                assert_eq!(to_f32(d, 0.0, Round::Near).to_bits(), (d as f32).to_bits(), "{d:e}");
            }
            let x = f32::from_bits(b ^ 0x0150_0000);
            if !a.is_nan() && !x.is_nan() && !(a + x).is_nan() {
                assert_eq!(add(a, x, Round::Near).to_bits(), (a + x).to_bits(), "{a:e} + {x:e}");
                let y = f32::from_bits(b.rotate_left(9));
                if !(a * x + y).is_nan() && !a.mul_add(x, y).is_nan() {
                    assert_eq!(fma(a, x, y, Round::Near).to_bits(), a.mul_add(x, y).to_bits(), "{a:e} {x:e} {y:e}");
                }
            }
            if !a.is_nan() {
                assert_eq!(to_bf16(a as f64, 0.0, Round::Near), f32_to_bf16(a), "{a:e}");
            }
        }
    }

    #[test]
    fn directed_modes_bracket_the_value() {
        for b in noise(50_000) {
            let (a, c) = (f32::from_bits(b & 0x7fff_ffff), f32::from_bits(b.rotate_left(7)));
            let exact = a as f64 * c as f64;
            if !exact.is_finite() || !(exact as f32).is_finite() {
                continue;
            }
            let (lo, hi, z) = (mul(a, c, Round::Down), mul(a, c, Round::Up), mul(a, c, Round::Zero));
            assert!(lo as f64 <= exact && exact <= hi as f64);
            assert!(lo.next_up() >= hi);
            assert_eq!(z, if exact < 0.0 { hi } else { lo });
        }
        assert_eq!(div(1.0, 3.0, Round::Down).next_up(), div(1.0, 3.0, Round::Up));
        assert_eq!(sqrt(2.0, Round::Down).next_up(), sqrt(2.0, Round::Up));
        assert_eq!(sqrt(4.0, Round::Down), 2.0);
    }

    #[test]
    fn half_round_trips() {
        for h in 0..=u16::MAX {
            let v = f16_to_f32(h);
            if v.is_nan() {
                assert_eq!(h & 0x7c00, 0x7c00);
            } else {
                assert_eq!(f64_to_f16(v as f64), h, "{h:#x} {v}");
            }
        }
        assert_eq!(f64_to_f16(65519.999), 0x7bff);
        assert_eq!(f64_to_f16(65520.0), 0x7c00);
        assert_eq!(f64_to_f16(2f64.powi(-25)), 0);
        assert_eq!(f64_to_f16(2f64.powi(-25) * 1.0001), 1);
    }
}
