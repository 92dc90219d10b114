//! Lane-wise arithmetic: one table, one line per operation and type.
//!
//! Each line gives the operand types and the result of one lane; the macro makes the lane loop of it. Inactive lanes
//! are computed and thrown away, so every expression must be total (no division by zero, no shift overflow).
//! f32 and f64 arithmetic is IEEE with one rounding; NaN results are PTX's canonical ones for f32.
//! The `.approx` functions are computed in f64 and rounded once: they are *more* exact than the hardware's, which
//! differ by a few units in the last place (see the CUDA programming guide's tables).

use super::half2::{bf, bf2, hf, hf2};
use crate::float::{self, Round};
use crate::regs::{LANES, Lane, Regs, Slot};

/// A NaN becomes the one that the hardware produces.
#[inline(always)]
fn nan(v: f32) -> f32 {
    // On the bits: the optimiser may take one float NaN for another.
    let b = v.to_bits();
    f32::from_bits(if b & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { b })
}

/// Rounding mode from an instruction's immediate.
#[inline(always)]
fn mode(imm: u32) -> Round {
    match imm {
        1 => Round::Zero,
        2 => Round::Down,
        3 => Round::Up,
        _ => Round::Near,
    }
}

macro_rules! lanes {
    ($r:ident $d:ident $a:ident $b:ident $c:ident $m:ident; ($x:ident: $tx:ty) -> $o:ty, $e:expr) => {{
        let va = <$tx>::load($r, $a);
        let mut out = [<$o>::default(); LANES];
        for l in 0..LANES {
            let $x = va[l];
            out[l] = $e;
        }
        <$o>::store($r, $d, &out, $m);
    }};
    ($r:ident $d:ident $a:ident $b:ident $c:ident $m:ident; ($x:ident: $tx:ty, $y:ident: $ty:ty) -> $o:ty, $e:expr) => {{
        let va = <$tx>::load($r, $a);
        let vb = <$ty>::load($r, $b);
        let mut out = [<$o>::default(); LANES];
        for l in 0..LANES {
            let $x = va[l];
            let $y = vb[l];
            out[l] = $e;
        }
        <$o>::store($r, $d, &out, $m);
    }};
    ($r:ident $d:ident $a:ident $b:ident $c:ident $m:ident; ($x:ident: $tx:ty, $y:ident: $ty:ty, $z:ident: $tz:ty) -> $o:ty, $e:expr) => {{
        let va = <$tx>::load($r, $a);
        let vb = <$ty>::load($r, $b);
        let vc = <$tz>::load($r, $c);
        let mut out = [<$o>::default(); LANES];
        for l in 0..LANES {
            let $x = va[l];
            let $y = vb[l];
            let $z = vc[l];
            out[l] = $e;
        }
        <$o>::store($r, $d, &out, $m);
    }};
}

macro_rules! table {
    ($imm:ident; $($name:ident $args:tt -> $o:ty { $e:expr })*) => {
        /// An operation with its types.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(clippy::upper_case_acronyms)]
        #[repr(u16)]
        pub(crate) enum Alu { $($name,)* }

        #[inline(always)]
        #[allow(clippy::too_many_arguments)]
        fn body(op: Alu, r: &mut Regs, d: Slot, a: Slot, b: Slot, c: Slot, $imm: u32, m: u32) {
            match op {
                $(Alu::$name => lanes!(r d a b c m; $args -> $o, $e),)*
            }
        }
    };
}

/// Runs one operation on the lanes of `m`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) fn run(fast: bool, op: Alu, r: &mut Regs, d: Slot, a: Slot, b: Slot, c: Slot, imm: u32, m: u32) {
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: `fast` is true only where `super::has_fast_vectors` found these features in the processor.
        unsafe { fast_body(op, r, d, a, b, c, imm, m) };
        return;
    }
    let _ = fast;
    plain_body(op, r, d, a, b, c, imm, m);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
#[allow(clippy::too_many_arguments)]
fn fast_body(op: Alu, r: &mut Regs, d: Slot, a: Slot, b: Slot, c: Slot, imm: u32, m: u32) {
    body(op, r, d, a, b, c, imm, m);
}

#[inline(never)]
#[allow(clippy::too_many_arguments)]
fn plain_body(op: Alu, r: &mut Regs, d: Slot, a: Slot, b: Slot, c: Slot, imm: u32, m: u32) {
    body(op, r, d, a, b, c, imm, m);
}

table! { imm;
    Mov32(a: u32) -> u32 { a }
    Mov64(a: u64) -> u64 { a }
    Mov16(a: u16) -> u16 { a }

    Add16(a: u16, b: u16) -> u16 { a.wrapping_add(b) }
    Add32(a: u32, b: u32) -> u32 { a.wrapping_add(b) }
    Add64(a: u64, b: u64) -> u64 { a.wrapping_add(b) }
    AddSat(a: i32, b: i32) -> i32 { a.saturating_add(b) }
    Sub16(a: u16, b: u16) -> u16 { a.wrapping_sub(b) }
    Sub32(a: u32, b: u32) -> u32 { a.wrapping_sub(b) }
    Sub64(a: u64, b: u64) -> u64 { a.wrapping_sub(b) }
    SubSat(a: i32, b: i32) -> i32 { a.saturating_sub(b) }
    Mul16(a: u16, b: u16) -> u16 { a.wrapping_mul(b) }
    Mul32(a: u32, b: u32) -> u32 { a.wrapping_mul(b) }
    Mul64(a: u64, b: u64) -> u64 { a.wrapping_mul(b) }
    MulHiU16(a: u16, b: u16) -> u16 { ((a as u32 * b as u32) >> 16) as u16 }
    MulHiS16(a: i16, b: i16) -> i16 { ((a as i32 * b as i32) >> 16) as i16 }
    MulHiU32(a: u32, b: u32) -> u32 { ((a as u64 * b as u64) >> 32) as u32 }
    MulHiS32(a: i32, b: i32) -> i32 { ((a as i64 * b as i64) >> 32) as i32 }
    MulHiU64(a: u64, b: u64) -> u64 { ((a as u128 * b as u128) >> 64) as u64 }
    MulHiS64(a: i64, b: i64) -> i64 { ((a as i128 * b as i128) >> 64) as i64 }
    MulWideU16(a: u16, b: u16) -> u32 { a as u32 * b as u32 }
    MulWideS16(a: i16, b: i16) -> i32 { a as i32 * b as i32 }
    MulWideU32(a: u32, b: u32) -> u64 { a as u64 * b as u64 }
    MulWideS32(a: i32, b: i32) -> i64 { a as i64 * b as i64 }
    Mad16(a: u16, b: u16, c: u16) -> u16 { a.wrapping_mul(b).wrapping_add(c) }
    Mad32(a: u32, b: u32, c: u32) -> u32 { a.wrapping_mul(b).wrapping_add(c) }
    Mad64(a: u64, b: u64, c: u64) -> u64 { a.wrapping_mul(b).wrapping_add(c) }
    MadHiU32(a: u32, b: u32, c: u32) -> u32 { (((a as u64 * b as u64) >> 32) as u32).wrapping_add(c) }
    MadHiS32(a: i32, b: i32, c: i32) -> i32 { (((a as i64 * b as i64) >> 32) as i32).wrapping_add(c) }
    MadHiU64(a: u64, b: u64, c: u64) -> u64 { (((a as u128 * b as u128) >> 64) as u64).wrapping_add(c) }
    MadHiS64(a: i64, b: i64, c: i64) -> i64 { (((a as i128 * b as i128) >> 64) as i64).wrapping_add(c) }
    MadWideU16(a: u16, b: u16, c: u32) -> u32 { (a as u32 * b as u32).wrapping_add(c) }
    MadWideS16(a: i16, b: i16, c: i32) -> i32 { (a as i32 * b as i32).wrapping_add(c) }
    MadWideU32(a: u32, b: u32, c: u64) -> u64 { (a as u64 * b as u64).wrapping_add(c) }
    MadWideS32(a: i32, b: i32, c: i64) -> i64 { (a as i64 * b as i64).wrapping_add(c) }
    Mul24U(a: u32, b: u32) -> u32 { (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff) }
    Mul24S(a: i32, b: i32) -> i32 { (a << 8 >> 8).wrapping_mul(b << 8 >> 8) }
    SadU32(a: u32, b: u32, c: u32) -> u32 { c.wrapping_add(a.abs_diff(b)) }
    SadS32(a: i32, b: i32, c: u32) -> u32 { c.wrapping_add(a.abs_diff(b)) }

    DivU16(a: u16, b: u16) -> u16 { a.checked_div(b).unwrap_or(u16::MAX) }
    DivS16(a: i16, b: i16) -> i16 { if b == 0 { -1 } else { a.wrapping_div(b) } }
    DivU32(a: u32, b: u32) -> u32 { a.checked_div(b).unwrap_or(u32::MAX) }
    DivS32(a: i32, b: i32) -> i32 { if b == 0 { -1 } else { a.wrapping_div(b) } }
    DivU64(a: u64, b: u64) -> u64 { a.checked_div(b).unwrap_or(u64::MAX) }
    DivS64(a: i64, b: i64) -> i64 { if b == 0 { -1 } else { a.wrapping_div(b) } }
    RemU16(a: u16, b: u16) -> u16 { a.checked_rem(b).unwrap_or(a) }
    RemS16(a: i16, b: i16) -> i16 { if b == 0 { a } else { a.wrapping_rem(b) } }
    RemU32(a: u32, b: u32) -> u32 { a.checked_rem(b).unwrap_or(a) }
    RemS32(a: i32, b: i32) -> i32 { if b == 0 { a } else { a.wrapping_rem(b) } }
    RemU64(a: u64, b: u64) -> u64 { a.checked_rem(b).unwrap_or(a) }
    RemS64(a: i64, b: i64) -> i64 { if b == 0 { a } else { a.wrapping_rem(b) } }

    MinU16(a: u16, b: u16) -> u16 { a.min(b) }
    MinS16(a: i16, b: i16) -> i16 { a.min(b) }
    MinU32(a: u32, b: u32) -> u32 { a.min(b) }
    MinS32(a: i32, b: i32) -> i32 { a.min(b) }
    MinU64(a: u64, b: u64) -> u64 { a.min(b) }
    MinS64(a: i64, b: i64) -> i64 { a.min(b) }
    MaxU16(a: u16, b: u16) -> u16 { a.max(b) }
    MaxS16(a: i16, b: i16) -> i16 { a.max(b) }
    MaxU32(a: u32, b: u32) -> u32 { a.max(b) }
    MaxS32(a: i32, b: i32) -> i32 { a.max(b) }
    MaxU64(a: u64, b: u64) -> u64 { a.max(b) }
    MaxS64(a: i64, b: i64) -> i64 { a.max(b) }
    Abs16(a: i16) -> i16 { a.wrapping_abs() }
    Abs32(a: i32) -> i32 { a.wrapping_abs() }
    Abs64(a: i64) -> i64 { a.wrapping_abs() }
    Neg16(a: i16) -> i16 { a.wrapping_neg() }
    Neg32(a: i32) -> i32 { a.wrapping_neg() }
    Neg64(a: i64) -> i64 { a.wrapping_neg() }

    And32(a: u32, b: u32) -> u32 { a & b }
    And64(a: u64, b: u64) -> u64 { a & b }
    Or32(a: u32, b: u32) -> u32 { a | b }
    Or64(a: u64, b: u64) -> u64 { a | b }
    Xor32(a: u32, b: u32) -> u32 { a ^ b }
    Xor64(a: u64, b: u64) -> u64 { a ^ b }
    Not16(a: u16) -> u16 { !a }
    Not32(a: u32) -> u32 { !a }
    Not64(a: u64) -> u64 { !a }
    Cnot32(a: u32) -> u32 { (a == 0) as u32 }
    Cnot64(a: u64) -> u64 { (a == 0) as u64 }
    Shl16(a: u16, b: u32) -> u16 { if b > 15 { 0 } else { a << (b & 15) } }
    Shl32(a: u32, b: u32) -> u32 { if b > 31 { 0 } else { a << (b & 31) } }
    Shl64(a: u64, b: u32) -> u64 { if b > 63 { 0 } else { a << (b & 63) } }
    ShrU16(a: u16, b: u32) -> u16 { if b > 15 { 0 } else { a >> (b & 15) } }
    ShrS16(a: i16, b: u32) -> i16 { a >> b.min(15) }
    ShrU32(a: u32, b: u32) -> u32 { if b > 31 { 0 } else { a >> (b & 31) } }
    ShrS32(a: i32, b: u32) -> i32 { a >> b.min(31) }
    ShrU64(a: u64, b: u32) -> u64 { if b > 63 { 0 } else { a >> (b & 63) } }
    ShrS64(a: i64, b: u32) -> i64 { a >> b.min(63) }
    ShfLWrap(a: u32, b: u32, c: u32) -> u32 { ((((b as u64) << 32 | a as u64) << (c & 31)) >> 32) as u32 }
    ShfLClamp(a: u32, b: u32, c: u32) -> u32 { ((((b as u64) << 32 | a as u64) << c.min(32)) >> 32) as u32 }
    ShfRWrap(a: u32, b: u32, c: u32) -> u32 { (((b as u64) << 32 | a as u64) >> (c & 31)) as u32 }
    ShfRClamp(a: u32, b: u32, c: u32) -> u32 { (((b as u64) << 32 | a as u64) >> c.min(32)) as u32 }
    Lop3(a: u32, b: u32, c: u32) -> u32 { lop3(a, b, c, imm) }
    Prmt(a: u32, b: u32, c: u32) -> u32 { prmt(a, b, c) }
    PrmtMode(a: u32, b: u32, c: u32) -> u32 { prmt(a, b, prmt_selector(c, imm)) }
    Popc32(a: u32) -> u32 { a.count_ones() }
    Popc64(a: u64) -> u32 { a.count_ones() }
    Clz32(a: u32) -> u32 { a.leading_zeros() }
    Clz64(a: u64) -> u32 { a.leading_zeros() }
    Brev32(a: u32) -> u32 { a.reverse_bits() }
    Brev64(a: u64) -> u64 { a.reverse_bits() }
    BfindU32(a: u32) -> u32 { bfind(a as u64, 32, imm) }
    BfindS32(a: i32) -> u32 { bfind((if a < 0 { !a } else { a }) as u32 as u64, 32, imm) }
    BfindU64(a: u64) -> u32 { bfind(a, 64, imm) }
    BfindS64(a: i64) -> u32 { bfind((if a < 0 { !a } else { a }) as u64, 64, imm) }
    BfeU32(a: u32, b: u32, c: u32) -> u32 { bfe(a as u64, b, c, 32, false) as u32 }
    BfeS32(a: u32, b: u32, c: u32) -> u32 { bfe(a as u64, b, c, 32, true) as u32 }
    BfeU64(a: u64, b: u32, c: u32) -> u64 { bfe(a, b, c, 64, false) }
    BfeS64(a: u64, b: u32, c: u32) -> u64 { bfe(a, b, c, 64, true) }
    Bmsk(a: u32, b: u32) -> u32 { if a > 31 || b == 0 { 0 } else { ((1u64 << b.min(32)) - 1) as u32 } << (a & 31) }
    Dp4aSS(a: u32, b: u32, c: u32) -> u32 { dp4a(a, b, c, true, true) }
    Dp4aUU(a: u32, b: u32, c: u32) -> u32 { dp4a(a, b, c, false, false) }
    Dp4aSU(a: u32, b: u32, c: u32) -> u32 { dp4a(a, b, c, true, false) }
    Dp4aUS(a: u32, b: u32, c: u32) -> u32 { dp4a(a, b, c, false, true) }

    AddF32(a: f32, b: f32) -> f32 { nan(a + b) }
    SubF32(a: f32, b: f32) -> f32 { nan(a - b) }
    MulF32(a: f32, b: f32) -> f32 { nan(a * b) }
    FmaF32(a: f32, b: f32, c: f32) -> f32 { nan(a.mul_add(b, c)) }
    DivF32(a: f32, b: f32) -> f32 { nan(a / b) }
    AddF32R(a: f32, b: f32) -> f32 { float::add(a, b, mode(imm)) }
    SubF32R(a: f32, b: f32) -> f32 { float::add(a, -b, mode(imm)) }
    MulF32R(a: f32, b: f32) -> f32 { float::mul(a, b, mode(imm)) }
    FmaF32R(a: f32, b: f32, c: f32) -> f32 { float::fma(a, b, c, mode(imm)) }
    DivF32R(a: f32, b: f32) -> f32 { float::div(a, b, mode(imm)) }
    RcpF32R(a: f32) -> f32 { float::div(1.0, a, mode(imm)) }
    SqrtF32R(a: f32) -> f32 { float::sqrt(a, mode(imm)) }
    RcpF32(a: f32) -> f32 { nan(1.0 / a) }
    SqrtF32(a: f32) -> f32 { nan(a.sqrt()) }
    RsqrtF32(a: f32) -> f32 { nan((1.0 / (a as f64).sqrt()) as f32) }
    Ex2F32(a: f32) -> f32 { nan((a as f64).exp2() as f32) }
    Lg2F32(a: f32) -> f32 { nan((a as f64).log2() as f32) }
    SinF32(a: f32) -> f32 { nan((a as f64).sin() as f32) }
    CosF32(a: f32) -> f32 { nan((a as f64).cos() as f32) }
    TanhF32(a: f32) -> f32 { nan((a as f64).tanh() as f32) }
    NegF32(a: u32) -> u32 { a ^ 0x8000_0000 }
    AbsF32(a: u32) -> u32 { a & 0x7fff_ffff }
    MinF32(a: f32, b: f32) -> f32 { float::min(a, b) }
    MaxF32(a: f32, b: f32) -> f32 { float::max(a, b) }
    MinNanF32(a: f32, b: f32) -> f32 { if a.is_nan() || b.is_nan() { nan(f32::NAN) } else { float::min(a, b) } }
    MaxNanF32(a: f32, b: f32) -> f32 { if a.is_nan() || b.is_nan() { nan(f32::NAN) } else { float::max(a, b) } }
    CopysignF32(a: u32, b: u32) -> u32 { (b & 0x7fff_ffff) | (a & 0x8000_0000) }

    AddF64(a: f64, b: f64) -> f64 { a + b }
    SubF64(a: f64, b: f64) -> f64 { a - b }
    MulF64(a: f64, b: f64) -> f64 { a * b }
    FmaF64(a: f64, b: f64, c: f64) -> f64 { a.mul_add(b, c) }
    DivF64(a: f64, b: f64) -> f64 { a / b }
    RcpF64(a: f64) -> f64 { 1.0 / a }
    SqrtF64(a: f64) -> f64 { a.sqrt() }
    RsqrtF64(a: f64) -> f64 { 1.0 / a.sqrt() }
    NegF64(a: u64) -> u64 { a ^ 1 << 63 }
    AbsF64(a: u64) -> u64 { a & !(1 << 63) }
    MinF64(a: f64, b: f64) -> f64 { a.min(b) }
    MaxF64(a: f64, b: f64) -> f64 { a.max(b) }
    CopysignF64(a: u64, b: u64) -> u64 { (b & !(1 << 63)) | (a & 1 << 63) }

    AddF16(a: u16, b: u16) -> u16 { hf::add(a, b) }
    SubF16(a: u16, b: u16) -> u16 { hf::sub(a, b) }
    MulF16(a: u16, b: u16) -> u16 { hf::mul(a, b) }
    FmaF16(a: u16, b: u16, c: u16) -> u16 { hf::fma(a, b, c) }
    FmaReluF16(a: u16, b: u16, c: u16) -> u16 { hf::relu(hf::fma(a, b, c)) }
    MinF16(a: u16, b: u16) -> u16 { hf::min(a, b) }
    MaxF16(a: u16, b: u16) -> u16 { hf::max(a, b) }
    MinNanF16(a: u16, b: u16) -> u16 { hf::min_nan(a, b) }
    MaxNanF16(a: u16, b: u16) -> u16 { hf::max_nan(a, b) }
    Ex2F16(a: u16) -> u16 { hf::map(a, f64::exp2) }
    TanhF16(a: u16) -> u16 { hf::map(a, f64::tanh) }
    NegHalf(a: u16) -> u16 { a ^ 0x8000 }
    AbsHalf(a: u16) -> u16 { a & 0x7fff }
    AddF16x2(a: u32, b: u32) -> u32 { hf2::zip(a, b, hf::add) }
    SubF16x2(a: u32, b: u32) -> u32 { hf2::zip(a, b, hf::sub) }
    MulF16x2(a: u32, b: u32) -> u32 { hf2::zip(a, b, hf::mul) }
    FmaF16x2(a: u32, b: u32, c: u32) -> u32 { hf2::zip3(a, b, c, hf::fma) }
    FmaReluF16x2(a: u32, b: u32, c: u32) -> u32 { hf2::map(hf2::zip3(a, b, c, hf::fma), hf::relu) }
    MinF16x2(a: u32, b: u32) -> u32 { hf2::zip(a, b, hf::min) }
    MaxF16x2(a: u32, b: u32) -> u32 { hf2::zip(a, b, hf::max) }
    MinNanF16x2(a: u32, b: u32) -> u32 { hf2::zip(a, b, hf::min_nan) }
    MaxNanF16x2(a: u32, b: u32) -> u32 { hf2::zip(a, b, hf::max_nan) }
    Ex2F16x2(a: u32) -> u32 { hf2::map(a, |x| hf::map(x, f64::exp2)) }
    TanhF16x2(a: u32) -> u32 { hf2::map(a, |x| hf::map(x, f64::tanh)) }
    NegHalf2(a: u32) -> u32 { a ^ 0x8000_8000 }
    AbsHalf2(a: u32) -> u32 { a & 0x7fff_7fff }

    AddBf16(a: u16, b: u16) -> u16 { bf::add(a, b) }
    SubBf16(a: u16, b: u16) -> u16 { bf::sub(a, b) }
    MulBf16(a: u16, b: u16) -> u16 { bf::mul(a, b) }
    FmaBf16(a: u16, b: u16, c: u16) -> u16 { bf::fma(a, b, c) }
    FmaReluBf16(a: u16, b: u16, c: u16) -> u16 { bf::relu(bf::fma(a, b, c)) }
    MinBf16(a: u16, b: u16) -> u16 { bf::min(a, b) }
    MaxBf16(a: u16, b: u16) -> u16 { bf::max(a, b) }
    MinNanBf16(a: u16, b: u16) -> u16 { bf::min_nan(a, b) }
    MaxNanBf16(a: u16, b: u16) -> u16 { bf::max_nan(a, b) }
    Ex2Bf16(a: u16) -> u16 { bf::map(a, f64::exp2) }
    TanhBf16(a: u16) -> u16 { bf::map(a, f64::tanh) }
    AddBf16x2(a: u32, b: u32) -> u32 { bf2::zip(a, b, bf::add) }
    SubBf16x2(a: u32, b: u32) -> u32 { bf2::zip(a, b, bf::sub) }
    MulBf16x2(a: u32, b: u32) -> u32 { bf2::zip(a, b, bf::mul) }
    FmaBf16x2(a: u32, b: u32, c: u32) -> u32 { bf2::zip3(a, b, c, bf::fma) }
    FmaReluBf16x2(a: u32, b: u32, c: u32) -> u32 { bf2::map(bf2::zip3(a, b, c, bf::fma), bf::relu) }
    MinBf16x2(a: u32, b: u32) -> u32 { bf2::zip(a, b, bf::min) }
    MaxBf16x2(a: u32, b: u32) -> u32 { bf2::zip(a, b, bf::max) }
    MinNanBf16x2(a: u32, b: u32) -> u32 { bf2::zip(a, b, bf::min_nan) }
    MaxNanBf16x2(a: u32, b: u32) -> u32 { bf2::zip(a, b, bf::max_nan) }
    Ex2Bf16x2(a: u32) -> u32 { bf2::map(a, |x| bf::map(x, f64::exp2)) }
    TanhBf16x2(a: u32) -> u32 { bf2::map(a, |x| bf::map(x, f64::tanh)) }

    CvtU16U32(a: u16) -> u32 { a as u32 }
    CvtS16S32(a: i16) -> i32 { a as i32 }
    CvtU32U64(a: u32) -> u64 { a as u64 }
    CvtS32S64(a: i32) -> i64 { a as i64 }
    Cvt64To32(a: u64) -> u32 { a as u32 }
    CvtF32S32(a: i32) -> f32 { a as f32 }
    CvtF32U32(a: u32) -> f32 { a as f32 }
    CvtF64F32(a: f32) -> f64 { a as f64 }
    CvtF32F64(a: f64) -> f32 { nan(a as f32) }
    CvtF32F16(a: u16) -> f32 { nan(float::f16_to_f32(a)) }
    CvtF32Bf16(a: u16) -> f32 { nan(float::bf16_to_f32(a)) }
    CvtF16F32(a: f32) -> u16 { float::f64_to_f16(a as f64) }
    CvtBf16F32(a: f32) -> u16 { float::f32_to_bf16(a) }
    CvtBf16x2(a: f32, b: f32) -> u32 { (float::f32_to_bf16(a) as u32) << 16 | float::f32_to_bf16(b) as u32 }
    CvtF16x2(a: f32, b: f32) -> u32 { (float::f64_to_f16(a as f64) as u32) << 16 | float::f64_to_f16(b as f64) as u32 }
    CvtBf16x2Relu(a: f32, b: f32) -> u32 { bf2::map((float::f32_to_bf16(a) as u32) << 16 | float::f32_to_bf16(b) as u32, bf::relu) }
    CvtF16x2Relu(a: f32, b: f32) -> u32 { hf2::map((float::f64_to_f16(a as f64) as u32) << 16 | float::f64_to_f16(b as f64) as u32, hf::relu) }
    CvtBf16x2Rz(a: f32, b: f32) -> u32 { (float::to_bf16(a as f64, 0.0, Round::Zero) as u32) << 16 | float::to_bf16(b as f64, 0.0, Round::Zero) as u32 }
    CvtF16x2Rz(a: f32, b: f32) -> u32 { (float::to_f16(a as f64, 0.0, Round::Zero) as u32) << 16 | float::to_f16(b as f64, 0.0, Round::Zero) as u32 }
}

/// `bfi` has four operands and goes its own way: `(value to insert, into, position, length)`.
pub(crate) fn bfi(a: u64, b: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= bits || len == 0 {
        return b;
    }
    let ones = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
    let mask = (ones << pos) & (u64::MAX >> (64 - bits));
    (b & !mask) | ((a << pos) & mask)
}

#[inline(always)]
fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for minterm in 0..8 {
        if table >> minterm & 1 == 1 {
            let x = if minterm & 4 != 0 { a } else { !a };
            let y = if minterm & 2 != 0 { b } else { !b };
            let z = if minterm & 1 != 0 { c } else { !c };
            out |= x & y & z;
        }
    }
    out
}

#[inline(always)]
fn prmt(a: u32, b: u32, sel: u32) -> u32 {
    let both = (b as u64) << 32 | a as u64;
    let mut out = 0;
    for i in 0..4 {
        let s = sel >> (4 * i);
        let byte = (both >> ((s & 7) * 8)) as u32 & 0xff;
        let byte = if s & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte };
        out |= byte << (8 * i);
    }
    out
}

/// The default-mode selector that a `prmt` mode (1 f4e, 2 b4e, 3 rc8, 4 ecl, 5 ecr, 6 rc16) stands for.
#[inline(always)]
fn prmt_selector(c: u32, imm: u32) -> u32 {
    let c = c & 3;
    let bytes: [u32; 4] = std::array::from_fn(|i| {
        let i = i as u32;
        match imm {
            1 => c + i,
            2 => c.wrapping_sub(i) & 7,
            3 => c,
            4 => c.max(i),
            5 => c.min(i),
            _ => (c & 1) * 2 + (i & 1),
        }
    });
    bytes[0] | bytes[1] << 4 | bytes[2] << 8 | bytes[3] << 12
}

#[inline(always)]
fn bfind(a: u64, bits: u32, shift_amount: u32) -> u32 {
    if a == 0 {
        return u32::MAX;
    }
    let at = 63 - a.leading_zeros();
    if shift_amount == 1 { bits - 1 - at } else { at }
}

#[inline(always)]
fn bfe(a: u64, pos: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let msb = bits - 1;
    let sign = if signed { a >> (pos + len - 1).min(msb) & 1 } else { 0 };
    let shifted = if pos > msb { 0 } else { a >> pos };
    let have = len.min(bits.saturating_sub(pos));
    let low = if have >= 64 { shifted } else { shifted & ((1u64 << have) - 1) };
    let fill = if have >= 64 || sign == 0 { 0 } else { u64::MAX << have };
    low | fill
}

#[inline(always)]
fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let mut sum = c;
    for i in 0..4 {
        let x = (a >> (8 * i)) as u8;
        let y = (b >> (8 * i)) as u8;
        let x = if a_signed { x as i8 as i32 } else { x as i32 };
        let y = if b_signed { y as i8 as i32 } else { y as i32 };
        sum = sum.wrapping_add(x.wrapping_mul(y) as u32);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_fields() {
        assert_eq!(bfe(0xabcd_1234, 8, 8, 32, false), 0x12);
        assert_eq!(bfe(0x0000_8000, 8, 8, 32, true) as u32, 0xffff_ff80);
        assert_eq!(bfe(0x8000_0000, 28, 8, 32, true) as u32, 0xffff_fff8);
        assert_eq!(bfe(5, 40, 4, 32, false), 0);
        assert_eq!(bfi(0xff, 0, 4, 4, 32), 0xf0);
        assert_eq!(bfi(0x3, 0xffff_ffff, 31, 8, 32), 0xffff_ffff);
        assert_eq!(bfi(7, 1, 0, 64, 64), 7);
    }

    #[test]
    fn logic_tables_and_permutations() {
        assert_eq!(lop3(0xf0f0, 0xff00, 0xaaaa, 0x96), 0xf0f0 ^ 0xff00 ^ 0xaaaa);
        assert_eq!(lop3(0xf0f0, 0xff00, 0xaaaa, 0xe8), (0xf0f0 & 0xff00) | (0xf0f0 & 0xaaaa) | (0xff00 & 0xaaaa));
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 0x5410), 0x5544_1100);
        assert_eq!(prmt(0x8022_1100, 0, 0xbbbb), 0xffff_ffff);
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, prmt_selector(1, 1)), 0x4433_2211);
    }
}
