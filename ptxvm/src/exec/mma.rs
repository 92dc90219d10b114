//! `mma.sync.m16n8kK`: D = A·B + C.
//!
//! Products of bf16, f16 and tf32 inputs are exact in f64. Each output is C plus its products, in ascending k, summed
//! in f64 and rounded once to f32 (nearest even) at the end of the instruction. The f64 sum is exact unless the terms
//! span more than 53 bits, so this is the correctly rounded result of each mma in all but contrived cases. Tensor
//! cores align the terms of a group (8 for sm_80, 16 for sm_90) to the largest and truncate: a result there differs
//! from ours by up to about one unit in the last place *of the largest term*. Tests must allow for that on hardware.

use crate::decode::inst::{Mma, MmaTy};
use crate::float;
use crate::regs::{LANES, Regs, Slot};

/// Runs one mma on all lanes.
pub(crate) fn run(fast: bool, r: &mut Regs, m: &Mma) {
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: `fast` is true only where `super::has_fast_vectors` found these features in the processor.
        unsafe { run_fast(r, m) };
        return;
    }
    let _ = fast;
    body(r, m);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
fn run_fast(r: &mut Regs, m: &Mma) {
    body(r, m);
}

#[inline(always)]
fn half(ty: MmaTy, bits: u16) -> f64 {
    if ty == MmaTy::Bf16 { float::bf16_to_f32(bits) as f64 } else { float::f16_to_f32(bits) as f64 }
}

#[inline(always)]
fn body(r: &mut Regs, m: &Mma) {
    if matches!(m.a_ty, MmaTy::S8 | MmaTy::U8) {
        return integer(r, m);
    }
    let k = m.k as usize;
    // A as 16 rows of k, B as k rows of 8.
    let mut a = [[0f64; 16]; 16];
    let mut b = [[0f64; 8]; 16];
    if m.a_ty == MmaTy::Tf32 {
        for half in 0..k / 4 {
            for (i, s) in m.a[2 * half..2 * half + 2].iter().enumerate() {
                let row = r.r32(*s);
                for l in 0..LANES {
                    a[l / 4 + 8 * i][l % 4 + 4 * half] = f32::from_bits(row[l] & !0x1fff) as f64;
                }
            }
            let row = r.r32(m.b[half]);
            for l in 0..LANES {
                b[l % 4 + 4 * half][l / 4] = f32::from_bits(row[l] & !0x1fff) as f64;
            }
        }
    } else {
        for part in 0..k / 8 {
            for i in 0..2 {
                let row = r.r32(m.a[2 * part + i]);
                for l in 0..LANES {
                    let c = 2 * (l % 4) + 8 * part;
                    a[l / 4 + 8 * i][c] = half(m.a_ty, row[l] as u16);
                    a[l / 4 + 8 * i][c + 1] = half(m.a_ty, (row[l] >> 16) as u16);
                }
            }
            let row = r.r32(m.b[part]);
            for l in 0..LANES {
                let c = 2 * (l % 4) + 8 * part;
                b[c][l / 4] = half(m.b_ty, row[l] as u16);
                b[c + 1][l / 4] = half(m.b_ty, (row[l] >> 16) as u16);
            }
        }
    }
    let mut acc = accumulators(r, m);
    for pair in 0..8 {
        let (first, second) = acc.split_at_mut(2 * pair + 1);
        let (x, y) = (&mut first[2 * pair], &mut second[0]);
        let (mut sx, mut sy) = (*x, *y);
        for j in 0..k {
            let (ax, ay) = (a[2 * pair][j], a[2 * pair + 1][j]);
            for n in 0..8 {
                sx[n] += ax * b[j][n];
                sy[n] += ay * b[j][n];
            }
        }
        (*x, *y) = (sx, sy);
    }
    for half in 0..2 {
        if m.half_acc {
            let out = std::array::from_fn(|l| {
                let row = &acc[l / 4 + 8 * half];
                let c = 2 * (l % 4);
                float::f64_to_f16(row[c]) as u32 | (float::f64_to_f16(row[c + 1]) as u32) << 16
            });
            *r.r32_mut(m.d[half]) = out;
            continue;
        }
        for odd in 0..2 {
            let out: [u32; LANES] = std::array::from_fn(|l| {
                let v = acc[l / 4 + 8 * half][2 * (l % 4) + odd] as f32;
                if v.is_nan() { 0x7fff_ffff } else { v.to_bits() }
            });
            *r.r32_mut(m.d[2 * half + odd]) = out;
        }
    }
}

/// C as 16 rows of 8.
#[inline(always)]
fn accumulators(r: &Regs, m: &Mma) -> [[f64; 8]; 16] {
    let mut acc = [[0f64; 8]; 16];
    for half in 0..2 {
        if m.half_acc {
            let row = r.r32(m.c[half]);
            for l in 0..LANES {
                acc[l / 4 + 8 * half][2 * (l % 4)] = float::f16_to_f32(row[l] as u16) as f64;
                acc[l / 4 + 8 * half][2 * (l % 4) + 1] = float::f16_to_f32((row[l] >> 16) as u16) as f64;
            }
        } else {
            for odd in 0..2 {
                let row = r.r32(m.c[2 * half + odd]);
                for l in 0..LANES {
                    acc[l / 4 + 8 * half][2 * (l % 4) + odd] = f32::from_bits(row[l]) as f64;
                }
            }
        }
    }
    acc
}

/// 8-bit integers, exact in wrapping 32 bits.
fn integer(r: &mut Regs, m: &Mma) {
    let byte = |row: u32, i: usize, ty: MmaTy| {
        let v = (row >> (8 * i)) as u8;
        if ty == MmaTy::S8 { v as i8 as i32 } else { v as i32 }
    };
    let row = |s: Slot| *r.r32(s);
    let mut acc = [[0i32; 8]; 16];
    for i in 0..4 {
        let c = row(m.c[i]);
        for l in 0..LANES {
            acc[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2] = c[l] as i32;
        }
    }
    for part in 0..m.k as usize / 16 {
        let b = row(m.b[part]);
        for i in 0..2 {
            let a = row(m.a[2 * part + i]);
            for g in 0..8 {
                for n in 0..8 {
                    for t in 0..4 {
                        for e in 0..4 {
                            let product = byte(a[4 * g + t], e, m.a_ty).wrapping_mul(byte(b[4 * n + t], e, m.b_ty));
                            acc[g + 8 * i][n] = acc[g + 8 * i][n].wrapping_add(product);
                        }
                    }
                }
            }
        }
    }
    for i in 0..4 {
        *r.r32_mut(m.d[i]) = std::array::from_fn(|l| acc[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2] as u32);
    }
}
