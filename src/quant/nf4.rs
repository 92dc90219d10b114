//! The 4-bit code: sixteen values, one f32 scale (`absmax`) for every block of 64 consecutive elements.
//!
//! Quantising multiplies by `1 / absmax` in f32 and counts the midpoints between neighbouring codes that lie strictly
//! below the result, so a tie goes to the lower code. Dequantising is one f32 product, optionally rounded once to bf16.
//! A block of zeros gets the code of zero (7), as bitsandbytes' CPU path does; its CUDA path writes 0, which dequantises
//! to zero as well because `absmax` is zero.

use crate::tensor::Floats;
use half::bf16;
use rayon::prelude::*;
use std::{borrow::Cow, sync::LazyLock};

/// Elements that share one absmax.
pub const BLOCK: usize = 64;

/// The values of the codes (bitsandbytes: `create_normal_map`).
pub const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Midpoints of neighbouring codes in f32.
const MIDPOINTS: [f32; 15] = {
    let mut m = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        m[i] = (CODE[i] + CODE[i + 1]) / 2.0;
        i += 1;
    }
    m
};

/// Smallest absmax whose reciprocal is taken, as in bitsandbytes.
const SMALLEST: f32 = 1e-38;

/// Both values of every packed byte: the even element is the high nibble.
static PAIRS: LazyLock<[[f32; 2]; 256]> =
    LazyLock::new(|| std::array::from_fn(|byte| [CODE[byte >> 4], CODE[byte & 15]]));

/// Blocks that one task works on.
const BLOCKS_PER_TASK: usize = 256;

/// A tensor in NF4.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4<'a> {
    /// [len/2] bytes, the high nibble first.
    pub packed: Cow<'a, [u8]>,
    /// [len/64], without double quantisation.
    pub absmax: Vec<f32>,
}

impl Nf4<'_> {
    /// `src`, whose length is a multiple of 64, quantised.
    ///
    /// # Panics
    /// If it is not.
    pub fn of(src: Floats) -> Nf4<'static> {
        let (mut packed, mut absmax) = (vec![0; src.len() / 2], vec![0.0; src.len() / BLOCK]);
        quantize(src, &mut packed, &mut absmax);
        Nf4 { packed: packed.into(), absmax }
    }

    /// The values, rounded once to bf16 as training sees them.
    pub fn to_bf16_values(&self) -> Vec<f32> {
        let mut out = vec![0.0; 2 * self.packed.len()];
        dequantize(&self.packed, &self.absmax, true, &mut out);
        out
    }
}

/// Quantises all of `src`: `packed` [len/2], `absmax` [len/64]. `len` is a multiple of 64. NaN becomes some code.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn quantize(src: Floats, packed: &mut [u8], absmax: &mut [f32]) {
    assert_eq!((src.len() % BLOCK, src.len() / 2, src.len() / BLOCK), (0, packed.len(), absmax.len()));
    packed
        .par_chunks_mut(BLOCKS_PER_TASK * BLOCK / 2)
        .zip(absmax.par_chunks_mut(BLOCKS_PER_TASK))
        .enumerate()
        .for_each(|(task, (packed, absmax))| {
            let mut x = [0.0; BLOCK];
            for (i, (packed, absmax)) in packed.as_chunks_mut().0.iter_mut().zip(absmax).enumerate() {
                src.read((task * BLOCKS_PER_TASK + i) * BLOCK, &mut x);
                *absmax = quantize_block(&x, packed);
            }
        });
}

crate::simd::multiversion! {
    /// Quantises one block and returns its absmax.
    fn quantize_block(x: &[f32; BLOCK], packed: &mut [u8; BLOCK / 2]) -> f32 {
        let mut lanes = [0.0f32; 16];
        for x in x.as_chunks::<16>().0 {
            for (l, x) in lanes.iter_mut().zip(x) {
                *l = l.max(x.abs());
            }
        }
        let absmax = lanes.into_iter().fold(0.0, f32::max);
        let inverse = 1.0 / absmax.max(SMALLEST);
        let mut code = [0u32; BLOCK];
        for (c, x) in code.iter_mut().zip(x) {
            let scaled = x * inverse;
            for m in MIDPOINTS {
                *c += u32::from(scaled > m);
            }
        }
        for (p, c) in packed.iter_mut().zip(code.as_chunks::<2>().0) {
            *p = (c[0] << 4 | c[1]) as u8;
        }
        absmax
    }
}

/// Rounds to the nearest bf16, ties to even, and widens again.
#[inline(always)]
pub fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    let quiet = (bits | 0x0040_0000) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { quiet } else { rounded })
}

/// Dequantises whole blocks on the calling thread: `out[i] = code·absmax`, rounded once to bf16 if `to_bf16`.
/// `packed` [len/2], `absmax` [len/64], `out` \[len\].
pub fn dequantize_blocks(packed: &[u8], absmax: &[f32], to_bf16: bool, out: &mut [f32]) {
    if to_bf16 {
        dequantize_rounded(packed, absmax, &PAIRS, out);
    } else {
        dequantize_exact(packed, absmax, &PAIRS, out);
    }
}

crate::simd::multiversion! {
    fn dequantize_rounded(packed: &[u8], absmax: &[f32], pairs: &[[f32; 2]; 256], out: &mut [f32]) {
        for ((out, packed), &absmax) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(packed.as_chunks::<32>().0).zip(absmax) {
            for (o, &p) in out.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
                *o = pairs[usize::from(p)];
            }
            for o in out {
                *o = round_bf16(*o * absmax);
            }
        }
    }
}

crate::simd::multiversion! {
    fn dequantize_exact(packed: &[u8], absmax: &[f32], pairs: &[[f32; 2]; 256], out: &mut [f32]) {
        for ((out, packed), &absmax) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(packed.as_chunks::<32>().0).zip(absmax) {
            for (o, &p) in out.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
                *o = pairs[usize::from(p)];
            }
            for o in out {
                *o *= absmax;
            }
        }
    }
}

/// Dequantises on all threads. `packed` [len/2], `absmax` [len/64], `out` \[len\].
///
/// # Panics
/// If the lengths do not fit each other.
pub fn dequantize(packed: &[u8], absmax: &[f32], to_bf16: bool, out: &mut [f32]) {
    assert_eq!((out.len() % BLOCK, out.len() / 2, out.len() / BLOCK), (0, packed.len(), absmax.len()));
    out.par_chunks_mut(BLOCKS_PER_TASK * BLOCK)
        .zip(packed.par_chunks(BLOCKS_PER_TASK * BLOCK / 2))
        .zip(absmax.par_chunks(BLOCKS_PER_TASK))
        .for_each(|((out, packed), absmax)| dequantize_blocks(packed, absmax, to_bf16, out));
}

/// Dequantises on all threads to bf16 elements, one rounding each.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn dequantize_to_bf16(packed: &[u8], absmax: &[f32], out: &mut [bf16]) {
    assert_eq!((out.len() % BLOCK, out.len() / 2, out.len() / BLOCK), (0, packed.len(), absmax.len()));
    out.par_chunks_mut(BLOCK).zip(packed.par_chunks(BLOCK / 2)).zip(absmax).for_each(|((out, packed), absmax)| {
        let mut x = [0.0; BLOCK];
        dequantize_blocks(packed, std::slice::from_ref(absmax), true, &mut x);
        for (o, x) in out.iter_mut().zip(x) {
            *o = bf16::from_bits((x.to_bits() >> 16) as u16);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantized(x: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let (mut packed, mut absmax) = (vec![0; x.len() / 2], vec![0.0; x.len() / BLOCK]);
        quantize(Floats::F32(bytemuck::cast_slice(x)), &mut packed, &mut absmax);
        (packed, absmax)
    }

    #[test]
    fn codebook_is_that_of_bitsandbytes() {
        let digits: [f64; 16] = [
            -1.0,
            -0.6961928009986877,
            -0.5250730514526367,
            -0.39491748809814453,
            -0.28444138169288635,
            -0.18477343022823334,
            -0.09105003625154495,
            0.0,
            0.07958029955625534,
            0.16093020141124725,
            0.24611230194568634,
            0.33791524171829224,
            0.44070982933044434,
            0.5626170039176941,
            0.7229568362236023,
            1.0,
        ];
        assert_eq!(CODE.map(f64::from), digits);
    }

    #[test]
    fn a_block_by_hand() {
        let mut x = [0.0f32; BLOCK];
        x[..8].copy_from_slice(&[-2.0, 2.0, 0.0, 1.0, -0.1, 0.1, 0.5, -1.1]);
        let (packed, absmax) = quantized(&x);
        assert_eq!(absmax, [2.0]);
        // −1, 1 | 0, .5 (between .44 and .56, midpoint .5017) | −.05 (midpoint −.0455), .05 (midpoint .0398) | .25, −.55
        assert_eq!(packed[..5], [0x0f, 0x7c, 0x68, 0xa2, 0x77]);
        let mut y = [0.0; BLOCK];
        dequantize(&packed, &absmax, false, &mut y);
        assert_eq!(y[..4], [-2.0, 2.0, 0.0, 2.0 * CODE[12]]);
        dequantize(&packed, &absmax, true, &mut y);
        assert_eq!(y[3], bf16::from_f32(2.0 * CODE[12]).to_f32());
        let mut z = [bf16::ZERO; BLOCK];
        dequantize_to_bf16(&packed, &absmax, &mut z);
        assert_eq!(z.map(bf16::to_f32), y);
    }

    #[test]
    fn a_tie_goes_to_the_lower_code() {
        for (i, m) in MIDPOINTS.into_iter().enumerate() {
            let mut x = [1.0f32; BLOCK];
            (x[0], x[1]) = (m, m.next_up());
            let (packed, _) = quantized(&x);
            assert_eq!(usize::from(packed[0]), i << 4 | (i + 1), "at {m}");
        }
    }

    #[test]
    fn zeros_tiny_values_and_what_is_not_a_number() {
        assert_eq!(quantized(&[0.0; BLOCK]), (vec![0x77; 32], vec![0.0]));
        let mut x = [1e-40f32; BLOCK];
        x[1] = -1e-40;
        let (packed, absmax) = quantized(&x);
        assert_eq!((packed[0], absmax[0]), (0x77, 1e-40)); // 1e-40 / 1e-38 = 0.01, as bitsandbytes clamps the divisor
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            x[5] = bad;
            let (packed, absmax) = quantized(&x);
            let mut y = [0.0; BLOCK];
            dequantize(&packed, &absmax, true, &mut y);
        }
    }

    #[test]
    fn every_type_and_address_gives_the_same_codes() {
        let values: Vec<f32> = (0..4 * BLOCK * 300).map(|i| ((i * 7919 % 255) as f32 - 127.0) / 64.0).collect();
        let want = quantized(&values);
        let (mut packed, mut absmax) = (want.0.clone(), want.1.clone());
        let mut bytes = vec![0u8];
        bytes.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()));
        packed.fill(0);
        quantize(Floats::Bf16(&bytes[1..]), &mut packed, &mut absmax);
        assert_eq!((&packed, &absmax), (&want.0, &want.1));
    }

    #[test]
    fn rounding_is_that_of_half() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let x = f32::from_bits(bits);
            assert_eq!(round_bf16(x).to_bits() >> 16, u32::from(bf16::from_f32(x).to_bits()), "{x}");
        }
    }

    proptest! {
        #[test]
        fn every_value_becomes_the_nearest_code(x in prop::collection::vec(-3.0f32..3.0, BLOCK)) {
            let (packed, absmax) = quantized(&x);
            let mut y = [0.0; BLOCK];
            dequantize(&packed, &absmax, false, &mut y);
            for (x, y) in x.iter().zip(y) {
                let nearest = CODE.iter().map(|c| (c * absmax[0] - x).abs()).fold(f32::INFINITY, f32::min);
                prop_assert!((y - x).abs() <= nearest + absmax[0] * 1e-6);
            }
            // What was dequantised is quantised to the same codes.
            prop_assert_eq!(quantized(&y), (packed, absmax));
        }
    }
}
