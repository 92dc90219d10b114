//! Dropout masks, eight Philox counters at a time.
//!
//! [`Dropout::bits`] defines the mask; this file computes the same words in a form that vectorises.

use crate::rng::Dropout;

/// Counters that are computed together.
const LANES: usize = 8;

/// One row's place in the random numbers.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub module: u32,
    pub sample: u32,
    pub position: u32,
}

/// `y = drop(x)` for one row: zero, or x·scale.
pub(super) fn masked(drop: &Dropout, place: Place, x: &[f32], y: &mut [f32]) {
    run(drop, place, x, y, false);
}

/// `y += drop(x)` for one row.
pub(super) fn add_masked(drop: &Dropout, place: Place, x: &[f32], y: &mut [f32]) {
    run(drop, place, x, y, true);
}

crate::simd::multiversion! {
    fn run(drop: &Dropout, place: Place, x: &[f32], y: &mut [f32], add: bool) {
        let (threshold, scale) = (drop.threshold(), drop.scale());
        for (group, (x, y)) in x.chunks(4 * LANES).zip(y.chunks_mut(4 * LANES)).enumerate() {
            let bits = words(drop, place, (group * LANES) as u32);
            for ((x, y), b) in x.iter().zip(y).zip(bits.as_flattened()) {
                let kept = if *b >= threshold { x * scale } else { 0.0 };
                *y = if add { *y + kept } else { kept };
            }
        }
    }
}

/// [`Dropout::bits`] of quads `quad..quad + LANES`.
#[inline(always)]
fn words(drop: &Dropout, place: Place, quad: u32) -> [[u32; 4]; LANES] {
    let mut c0: [u32; LANES] = std::array::from_fn(|i| quad.wrapping_add(i as u32));
    let mut c1 = [place.position; LANES];
    let mut c2 = [place.sample; LANES];
    let mut c3 = [drop.layer.wrapping_mul(8).wrapping_add(place.module); LANES];
    let (mut k0, mut k1) = (drop.key as u32, (drop.key >> 32) as u32);
    for _ in 0..10 {
        for i in 0..LANES {
            let p0 = u64::from(c0[i]) * 0xD251_1F53;
            let p1 = u64::from(c2[i]) * 0xCD9E_8D57;
            c0[i] = (p1 >> 32) as u32 ^ c1[i] ^ k0;
            c2[i] = (p0 >> 32) as u32 ^ c3[i] ^ k1;
            c1[i] = p1 as u32;
            c3[i] = p0 as u32;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    std::array::from_fn(|i| [c0[i], c1[i], c2[i], c3[i]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_mask_that_rng_defines() {
        let drop = Dropout { p: 0.3, key: Dropout::key(5, 9), layer: 3 };
        let place = Place { module: 4, sample: 17, position: 1000 };
        for n in [1, 3, 4, 31, 32, 33, 130] {
            let x: Vec<f32> = (0..n).map(|i| i as f32 + 1.0).collect();
            let mut y = vec![0.0; n];
            masked(&drop, place, &x, &mut y);
            for (i, (x, y)) in x.iter().zip(&y).enumerate() {
                let bits = drop.bits(4, 17, 1000, i as u32 / 4)[i % 4];
                assert_eq!(*y, if bits >= drop.threshold() { x * drop.scale() } else { 0.0 });
            }
            let mut z = x.clone();
            add_masked(&drop, place, &x, &mut z);
            assert!(z.iter().zip(&x).zip(&y).all(|((z, x), y)| *z == x + y));
        }
    }
}
