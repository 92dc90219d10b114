//! f16 and bf16 arithmetic, one rounding each: f64 holds every product exactly and, with its error term, every sum.

macro_rules! format {
    ($name:ident, $from:path, $to:path) => {
        /// Scalar operations on the bits of this format.
        pub(crate) mod $name {
            use crate::float::{self, Round};

            fn up(a: u16) -> f64 {
                $from(a) as f64
            }

            fn nan(a: u16) -> bool {
                $from(a).is_nan()
            }

            pub(crate) fn fma(a: u16, b: u16, c: u16) -> u16 {
                let (s, e) = float::fma_parts(up(a), up(b), up(c), Round::Near);
                $to(s, e, Round::Near)
            }

            pub(crate) fn add(a: u16, b: u16) -> u16 {
                let (s, e) = float::two_sum(up(a), up(b));
                $to(s, e, Round::Near)
            }

            pub(crate) fn sub(a: u16, b: u16) -> u16 {
                add(a, b ^ 0x8000)
            }

            pub(crate) fn mul(a: u16, b: u16) -> u16 {
                $to(up(a) * up(b), 0.0, Round::Near)
            }

            /// A function computed in f64 and rounded.
            pub(crate) fn map(a: u16, f: impl Fn(f64) -> f64) -> u16 {
                $to(f(up(a)), 0.0, Round::Near)
            }

            pub(crate) fn min(a: u16, b: u16) -> u16 {
                if nan(a) {
                    return if nan(b) { 0x7fff } else { b };
                }
                if nan(b) || up(a) < up(b) || (up(a) == up(b) && a & 0x8000 != 0) { a } else { b }
            }

            pub(crate) fn max(a: u16, b: u16) -> u16 {
                if nan(a) {
                    return if nan(b) { 0x7fff } else { b };
                }
                if nan(b) || up(a) > up(b) || (up(a) == up(b) && a & 0x8000 == 0) { a } else { b }
            }

            pub(crate) fn min_nan(a: u16, b: u16) -> u16 {
                if nan(a) || nan(b) { 0x7fff } else { min(a, b) }
            }

            pub(crate) fn max_nan(a: u16, b: u16) -> u16 {
                if nan(a) || nan(b) { 0x7fff } else { max(a, b) }
            }

            /// Negative values become zero, NaN the canonical NaN.
            pub(crate) fn relu(a: u16) -> u16 {
                if nan(a) {
                    0x7fff
                } else if a & 0x8000 != 0 {
                    0
                } else {
                    a
                }
            }
        }
    };
}

format!(hf, float::f16_to_f32, float::to_f16);
format!(bf, float::bf16_to_f32, float::to_bf16);

/// The same on pairs in one 32-bit register, low half first.
pub(crate) mod hf2 {
    pub(crate) fn map(a: u32, f: impl Fn(u16) -> u16) -> u32 {
        (f((a >> 16) as u16) as u32) << 16 | f(a as u16) as u32
    }

    pub(crate) fn zip(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
        (f((a >> 16) as u16, (b >> 16) as u16) as u32) << 16 | f(a as u16, b as u16) as u32
    }

    pub(crate) fn zip3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
        let high = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
        (high as u32) << 16 | f(a as u16, b as u16, c as u16) as u32
    }
}

pub(crate) use hf2 as bf2;
