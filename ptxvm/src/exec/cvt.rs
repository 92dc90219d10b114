//! `cvt` in general: through an exact integer or f64, then one rounding.

use super::each;
use crate::decode::inst::Cvt;
use crate::float::{self, Round};
use crate::parse::ast::Ty;
use crate::regs::{Regs, Slot};

/// A value on its way from one type to another.
#[derive(Clone, Copy)]
enum Value {
    Int(i128),
    Float(f64),
}

/// Converts the lanes of `mask`.
pub(crate) fn run(r: &mut Regs, c: &Cvt, d: Slot, a: Slot, mask: u32) {
    for l in each(mask) {
        let bits = if c.wide_src { r.r64(a)[l] } else { r.r32(a)[l] as u64 };
        let out = one(c, bits);
        match c.dst_bits {
            64 => r.r64_mut(d)[l] = out,
            16 => r.r32_mut(d)[l] = out as u16 as u32,
            _ => r.r32_mut(d)[l] = out as u32,
        }
    }
}

fn one(c: &Cvt, bits: u64) -> u64 {
    let value = match c.from {
        Ty::U8 | Ty::B8 => Value::Int(bits as u8 as i128),
        Ty::S8 => Value::Int(bits as i8 as i128),
        Ty::U16 | Ty::B16 => Value::Int(bits as u16 as i128),
        Ty::S16 => Value::Int(bits as i16 as i128),
        Ty::U32 | Ty::B32 => Value::Int(bits as u32 as i128),
        Ty::S32 => Value::Int(bits as i32 as i128),
        Ty::U64 | Ty::B64 => Value::Int(bits as i128),
        Ty::S64 => Value::Int(bits as i64 as i128),
        Ty::F16 => Value::Float(float::f16_to_f32(bits as u16) as f64),
        Ty::Bf16 => Value::Float(float::bf16_to_f32(bits as u16) as f64),
        Ty::F64 => Value::Float(f64::from_bits(bits)),
        _ => {
            let b = if c.ftz { float::ftz(bits as u32) } else { bits as u32 };
            Value::Float(f32::from_bits(b) as f64)
        }
    };
    if c.to.float() { to_float(c, value) } else { to_int(c, value) }
}

fn integral(v: f64, mode: Round) -> f64 {
    match mode {
        Round::Near => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}

fn to_int(c: &Cvt, value: Value) -> u64 {
    let bits = c.to.bits();
    let (lo, hi) =
        if c.to.signed() { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    let v = match value {
        // Integer to integer wraps unless .sat says otherwise.
        Value::Int(v) if c.sat => v.clamp(lo, hi),
        Value::Int(v) => v,
        // Float to integer always clamps; NaN gives zero for narrow sources, the top bit for f64 and 64-bit results.
        Value::Float(v) if v.is_nan() => {
            if c.to.bits() == 64 || c.from == Ty::F64 {
                1i128 << (bits - 1)
            } else {
                0
            }
        }
        Value::Float(v) => (integral(v, c.integral.unwrap_or(Round::Zero)) as i128).clamp(lo, hi),
    };
    // The destination register may be wider: extend by the type's sign.
    let low = v as u64 & (u64::MAX >> (64 - bits));
    if c.to.signed() { ((low << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { low }
}

fn to_float(c: &Cvt, value: Value) -> u64 {
    let (mut s, mut e) = match value {
        Value::Int(v) => {
            // Exact as a sum of two f64.
            let s = v as f64;
            (s, (v - s as i128) as f64)
        }
        Value::Float(v) => (v, 0.0),
    };
    if let Some(mode) = c.integral {
        s = integral(s, mode);
    }
    if c.sat {
        (s, e) = if s.is_nan() || s <= 0.0 {
            (0.0, 0.0)
        } else if s >= 1.0 {
            (1.0, 0.0)
        } else {
            (s, e)
        };
    }
    if c.relu && s <= 0.0 {
        (s, e) = (0.0, 0.0);
    }
    match c.to {
        Ty::F64 if e == 0.0 || c.round == Round::Near => s.to_bits(),
        // A directed rounding of a large integer: `s` is the nearest, step if it lies on the wrong side.
        Ty::F64 => {
            let down = match c.round {
                Round::Down => true,
                Round::Zero => s > 0.0,
                _ => false,
            };
            let v = if down && e < 0.0 {
                s.next_down()
            } else if !down && e > 0.0 {
                s.next_up()
            } else {
                s
            };
            v.to_bits()
        }
        Ty::F16 => float::to_f16(s, e, c.round) as u64,
        Ty::Bf16 => float::to_bf16(s, e, c.round) as u64,
        Ty::Tf32 => float::to_tf32(s as f32, c.away) as u64,
        _ => {
            let v = float::to_f32(s, e, c.round).to_bits();
            (if c.ftz { float::ftz(v) } else { v }) as u64
        }
    }
}
