//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter-based generator.
//!
//! Every random number in irori comes from here: dropout masks, LoRA initialisation, synthetic weights, shuffles. A value
//! depends only on its key and counter, never on how many were drawn before it, so the same mask can be made again in the
//! backward pass, on another device, or after a resume.

use half::bf16;
use rayon::prelude::*;

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Ten rounds of Philox4x32: four 32-bit values of `counter` under `key`.
#[inline]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(W0);
            key[1] = key[1].wrapping_add(W1);
        }
        let p0 = u64::from(M0) * u64::from(counter[0]);
        let p1 = u64::from(M1) * u64::from(counter[2]);
        counter =
            [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
    }
    counter
}

/// Random weights by key: element i is the sum of the four bytes of Philox value i, less their mean of 510, times `unit`,
/// rounded to bf16. Nearly normal; integers up to one product and one rounding, so every device makes the same bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearNormal {
    /// Key of the tensor.
    pub key: [u32; 2],
    /// Deviation of the elements over that of the sum.
    pub unit: f32,
}

impl NearNormal {
    /// Elements of this standard deviation. A byte has the variance (256² − 1)/12.
    pub fn new(key: u64, deviation: f32) -> Self {
        Self { key: [key as u32, (key >> 32) as u32], unit: deviation / (65_535.0f32 / 3.0).sqrt() }
    }

    /// The first `len` elements.
    pub fn elements(&self, len: usize) -> Vec<bf16> {
        self.span(0, len)
    }

    /// `len` elements from number `start` on, which is a multiple of 4.
    pub fn span(&self, start: usize, len: usize) -> Vec<bf16> {
        let mut out = vec![bf16::ZERO; len];
        out.par_chunks_mut(4).with_min_len(4096).enumerate().for_each(|(i, four)| {
            let i = start / 4 + i;
            let bits = philox4x32([i as u32, (i as u64 >> 32) as u32, 0, 0], self.key);
            for (x, bits) in four.iter_mut().zip(bits) {
                let sum: i32 = bits.to_le_bytes().iter().map(|&b| i32::from(b)).sum();
                *x = bf16::from_f32((sum - 510) as f32 * self.unit);
            }
        });
        out
    }
}

/// The finaliser of SplitMix64 (Steele et al. 2014): spreads structured integers (seed, step) over 64 bits.
pub fn mix64(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of Philox values for sequential use. Its whole state is `(key, stream, position)`.
#[derive(Debug, Clone)]
pub struct Rng {
    key: [u32; 2],
    stream: u64,
    block: u64,
    buffer: [u32; 4],
    used: usize,
}

impl Rng {
    /// A generator for `purpose` (any constant that tells uses apart) under `seed`.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let key = mix64(seed);
        Self { key: [key as u32, (key >> 32) as u32], stream: mix64(purpose), block: 0, buffer: [0; 4], used: 4 }
    }

    /// The next 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let counter =
                [self.block as u32, (self.block >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
            self.buffer = philox4x32(counter, self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in 0..n, without bias (Lemire's rejection). `n` must not be 0.
    pub fn below(&mut self, n: u32) -> u32 {
        debug_assert!(n > 0);
        loop {
            let wide = u64::from(self.next_u32()) * u64::from(n);
            if wide as u32 >= n.wrapping_neg() % n.max(1) {
                return (wide >> 32) as u32;
            }
        }
    }

    /// A standard normal value (Box–Muller, one of the pair).
    pub fn normal(&mut self) -> f32 {
        let u = (f64::from(self.next_u32()) + 1.0) / 4_294_967_296.0;
        let v = f64::from(self.next_u32()) / 4_294_967_296.0;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// Fisher–Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u32 + 1) as usize;
            items.swap(i, j);
        }
    }
}

/// Dropout of LoRA inputs: which elements survive, as a pure function of their place in the *data*, not in the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that an element becomes zero, in [0, 1).
    pub p: f32,
    /// [`Dropout::key`] of the run's seed and the step.
    pub key: u64,
    /// Decoder layer, from 0.
    pub layer: u32,
}

impl Dropout {
    /// The key of one step.
    pub fn key(seed: u64, step: u64) -> u64 {
        mix64(mix64(seed) ^ step)
    }

    /// An element survives if its 32 random bits are at least this.
    #[inline]
    pub fn threshold(&self) -> u32 {
        (f64::from(self.p) * 4_294_967_296.0) as u32
    }

    /// What a survivor is multiplied by.
    #[inline]
    pub fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// Random bits of columns `4·quad .. 4·quad+4` of one row: counter (quad, row of the sample, sample, layer·8 + module).
    #[inline]
    pub fn bits(&self, module: u32, sample: u32, row: u32, quad: u32) -> [u32; 4] {
        philox4x32([quad, row, sample, self.layer * 8 + module], [self.key as u32, (self.key >> 32) as u32])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32-10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([0xffff_ffff; 4], [0xffff_ffff; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn below_is_in_range_and_shuffle_is_a_permutation() {
        let mut rng = Rng::new(7, 1);
        let mut seen = [0u32; 5];
        for _ in 0..5000 {
            seen[rng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
        let mut v: Vec<u32> = (0..100).collect();
        rng.shuffle(&mut v);
        assert_ne!(v, (0..100).collect::<Vec<_>>());
        v.sort_unstable();
        assert_eq!(v, (0..100).collect::<Vec<_>>());
    }
}
