//! Double quantisation: the absmax values, less their mean, in 8 bits with one f32 scale for every 256.

use rayon::prelude::*;

/// Absmax values that share one scale.
pub const BLOCK: usize = 256;

/// Absmax values in 8 bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Nested {
    /// Index into the map, one for each absmax.
    pub codes: Vec<u8>,
    /// Scale of each block of 256.
    pub absmax: Vec<f32>,
    /// Mean that was subtracted.
    pub offset: f32,
}

/// bitsandbytes' signed "dynamic" map with seven exponent bits, ascending.
pub fn dynamic_map() -> [f32; 256] {
    let mut map = Vec::with_capacity(256);
    for i in 0..7u32 {
        let n = (1usize << i) + 1;
        let step = (1.0f32 - 0.1) / (n - 1) as f32;
        // torch.linspace in f32, with the fused products that its vector code makes.
        let at = |j: usize| if j < n / 2 { fused(step, j as f32, 0.1) } else { fused(-step, (n - 1 - j) as f32, 1.0) };
        let scale = 10f64.powi(i as i32 - 6) as f32;
        for j in 0..n - 1 {
            let mean = (at(j) + at(j + 1)) / 2.0 * scale;
            map.extend([mean, -mean]);
        }
    }
    map.extend([0.0, 1.0]);
    map.sort_by(f32::total_cmp);
    let mut out = [0.0; 256];
    out.copy_from_slice(&map);
    out
}

/// a·b + c rounded once. The product is exact in f64, and so is the sum at the magnitudes of the map.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    (f64::from(a) * f64::from(b) + f64::from(c)) as f32
}

/// Mean of the absmax values as it is subtracted before quantising.
pub fn mean(absmax: &[f32]) -> f32 {
    let sum: f64 = absmax.iter().map(|&a| f64::from(a)).sum();
    if absmax.is_empty() { 0.0 } else { (sum / absmax.len() as f64) as f32 }
}

/// How a scaled value finds its code. bitsandbytes has two ways; they differ in about 2 codes of 1000, by one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Search {
    /// The nearest value of the map, the lower of equals: bitsandbytes on CUDA, where published checkpoints are made.
    #[default]
    Nearest,
    /// The value is first rounded to one of 65536 points on [−1, 1]: the look-up table of bitsandbytes on the CPU.
    Table,
}

/// Quantises absmax values with their mean as offset.
pub fn encode(absmax: &[f32], search: Search) -> Nested {
    encode_with(absmax, mean(absmax), search)
}

/// Quantises absmax values less `offset`. A block of equal values (scale 0) gets the codes 0, as in bitsandbytes.
pub fn encode_with(absmax: &[f32], offset: f32, search: Search) -> Nested {
    let map = dynamic_map();
    let midpoints: [f32; 255] = std::array::from_fn(|i| (map[i] + map[i + 1]) / 2.0);
    let mut codes = vec![0; absmax.len()];
    let mut scales = vec![0.0; absmax.len().div_ceil(BLOCK)];
    codes.par_chunks_mut(BLOCK).zip(&mut scales).zip(absmax.par_chunks(BLOCK)).for_each(|((codes, scale), x)| {
        *scale = x.iter().map(|x| (x - offset).abs()).fold(0.0, f32::max);
        if *scale == 0.0 {
            return;
        }
        let inverse = 1.0 / *scale;
        for (c, x) in codes.iter_mut().zip(x) {
            let scaled = (x - offset) * inverse;
            let value = match search {
                Search::Nearest => scaled,
                Search::Table => ((scaled + 1.0) * 0.5 * 65_535.0 + 0.5).floor() * 2.0 / 65_535.0 - 1.0,
            };
            *c = midpoints.partition_point(|&m| value > m) as u8;
        }
    });
    Nested { codes, absmax: scales, offset }
}

/// Decodes: `map[code]·scale + offset`, with the map that a checkpoint stores.
pub fn decode(nested: &Nested, map: &[f32; 256]) -> Vec<f32> {
    let blocks = nested.codes.chunks(BLOCK).zip(&nested.absmax);
    blocks.flat_map(|(codes, scale)| codes.iter().map(move |&c| map[usize::from(c)] * scale + nested.offset)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_that_of_bitsandbytes() {
        let map = dynamic_map();
        let bytes: Vec<u8> = map.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(crate::digest::sha256(&bytes), "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
        assert_eq!((map[127], map[255]), (0.0, 1.0));
    }

    #[test]
    fn absmax_values_come_back_within_the_steps_of_the_map() {
        let absmax: Vec<f32> = (0..1000).map(|i| 0.05 + ((i * 7919) % 1000) as f32 * 1e-5).collect();
        let nested = encode(&absmax, Search::Nearest);
        assert_eq!((nested.codes.len(), nested.absmax.len()), (1000, 4));
        for (i, (a, b)) in absmax.iter().zip(decode(&nested, &dynamic_map())).enumerate() {
            assert!((a - b).abs() <= 0.008 * nested.absmax[i / BLOCK], "{a} {b}");
        }
    }

    /// The scale is 1 and the offset 0, so that the values are searched as they are.
    #[test]
    fn the_two_searches_differ_beside_a_midpoint() {
        let map = dynamic_map();
        let middle = (map[183] + map[184]) / 2.0;
        let x = [1.0, middle, middle.next_up(), middle + 4e-5, middle - 4e-5];
        assert_eq!(encode_with(&x, 0.0, Search::Nearest).codes, [255, 183, 184, 184, 183]);
        // Found with bitsandbytes' own CPU library: 3e-6 above the midpoint it still takes the lower code.
        assert_eq!(encode_with(&[1.0, 0.080_315_754], 0.0, Search::Nearest).codes, [255, 184]);
        assert_eq!(encode_with(&[1.0, 0.080_315_754], 0.0, Search::Table).codes, [255, 183]);
    }

    #[test]
    fn equal_and_missing_values() {
        assert_eq!(encode(&[], Search::Nearest), Nested { codes: vec![], absmax: vec![], offset: 0.0 });
        let same = encode(&[0.25; 300], Search::Nearest);
        assert_eq!(same, Nested { codes: vec![0; 300], absmax: vec![0.0; 2], offset: 0.25 });
        assert_eq!(decode(&same, &dynamic_map()), [0.25; 300]);
        encode(&[f32::NAN, f32::INFINITY, 1.0], Search::Nearest);
        encode(&[f32::NAN, f32::INFINITY, 1.0], Search::Table);
    }
}
