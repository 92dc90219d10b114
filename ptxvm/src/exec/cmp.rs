//! Comparisons: a predicate is a mask with one bit a lane.

use crate::decode::inst::{Cmp, Testp};
use crate::float;
use crate::parse::ast::Ty;
use crate::regs::{LANES, Lane, Regs, Slot};

/// Compares two rows.
pub(crate) fn compare(fast: bool, r: &Regs, cmp: Cmp, ty: Ty, ftz: bool, a: Slot, b: Slot) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: `fast` is true only where `super::has_fast_vectors` found these features in the processor.
        return unsafe { compare_fast(r, cmp, ty, ftz, a, b) };
    }
    let _ = fast;
    body(r, cmp, ty, ftz, a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
fn compare_fast(r: &Regs, cmp: Cmp, ty: Ty, ftz: bool, a: Slot, b: Slot) -> u32 {
    body(r, cmp, ty, ftz, a, b)
}

macro_rules! bits {
    ($a:ident, $b:ident, |$x:ident, $y:ident| $e:expr) => {{
        let mut out = 0u32;
        for l in 0..LANES {
            let ($x, $y) = ($a[l], $b[l]);
            out |= ($e as u32) << l;
        }
        out
    }};
}

#[inline(always)]
fn order<T: Lane + PartialOrd>(a: [T; LANES], b: [T; LANES], cmp: Cmp) -> u32 {
    match cmp {
        Cmp::Eq => bits!(a, b, |x, y| x == y),
        Cmp::Ne => bits!(a, b, |x, y| (x < y) | (x > y)),
        Cmp::Lt => bits!(a, b, |x, y| x < y),
        Cmp::Le => bits!(a, b, |x, y| x <= y),
        Cmp::Gt => bits!(a, b, |x, y| x > y),
        Cmp::Ge => bits!(a, b, |x, y| x >= y),
        Cmp::Equ => !bits!(a, b, |x, y| (x < y) | (x > y)),
        Cmp::Neu => !bits!(a, b, |x, y| x == y),
        Cmp::Ltu => !bits!(a, b, |x, y| x >= y),
        Cmp::Leu => !bits!(a, b, |x, y| x > y),
        Cmp::Gtu => !bits!(a, b, |x, y| x <= y),
        Cmp::Geu => !bits!(a, b, |x, y| x < y),
        Cmp::Num => bits!(a, b, |x, y| x.partial_cmp(&y).is_some()),
        Cmp::Nan => !bits!(a, b, |x, y| x.partial_cmp(&y).is_some()),
    }
}

#[inline(always)]
fn body(r: &Regs, cmp: Cmp, ty: Ty, ftz: bool, a: Slot, b: Slot) -> u32 {
    match ty {
        Ty::U16 | Ty::B16 => order(u16::load(r, a), u16::load(r, b), cmp),
        Ty::S16 => order(i16::load(r, a), i16::load(r, b), cmp),
        Ty::S32 => order(i32::load(r, a), i32::load(r, b), cmp),
        Ty::U64 | Ty::B64 => order(u64::load(r, a), u64::load(r, b), cmp),
        Ty::S64 => order(i64::load(r, a), i64::load(r, b), cmp),
        Ty::F64 => order(f64::load(r, a), f64::load(r, b), cmp),
        Ty::F32 if ftz => {
            let flush = |row: &[u32; LANES]| row.map(|v| f32::from_bits(float::ftz(v)));
            order(flush(r.r32(a)), flush(r.r32(b)), cmp)
        }
        Ty::F32 => order(f32::load(r, a), f32::load(r, b), cmp),
        Ty::F16 => order(u16::load(r, a).map(float::f16_to_f32), u16::load(r, b).map(float::f16_to_f32), cmp),
        Ty::Bf16 => order(u16::load(r, a).map(float::bf16_to_f32), u16::load(r, b).map(float::bf16_to_f32), cmp),
        _ => order(u32::load(r, a), u32::load(r, b), cmp),
    }
}

/// `testp`.
pub(crate) fn testp(r: &Regs, what: Testp, wide: bool, a: Slot) -> u32 {
    let mut out = 0;
    for l in 0..LANES {
        // Widening keeps every class but "subnormal".
        let (v, subnormal) = if wide {
            let v = f64::from_bits(r.r64(a)[l]);
            (v, v.is_subnormal())
        } else {
            let v = f32::from_bits(r.r32(a)[l]);
            (v as f64, v.is_subnormal())
        };
        let yes = match what {
            Testp::Finite => v.is_finite(),
            Testp::Infinite => v.is_infinite(),
            Testp::Number => !v.is_nan(),
            Testp::NotANumber => v.is_nan(),
            Testp::Normal => v.is_finite() && v != 0.0 && !subnormal,
            Testp::Subnormal => subnormal,
        };
        out |= (yes as u32) << l;
    }
    out
}
