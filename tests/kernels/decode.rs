//! decode.cu. Tolerances as in attention.rs: P is rounded to bf16 before the second product, o after it.

use crate::{
    harness::{Cpu, Documents, Gpu, Noise, SEEDS, assert_bits, assert_near},
    launches::{Traffic, U, assert_no_conflicts, assert_traffic, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::backend::{
    Backend, DType, Heads, KvCache,
    cuda::attention::{Cache, Step, cached, cached_scratch, kv_store},
};
use ptxvm::Counters;

const D: usize = 128;

/// One sequence a row: slot t holds `positions[t]` earlier keys.
struct Case {
    h: Heads,
    capacity: usize,
    positions: Vec<u32>,
    slots: Vec<u32>,
    qk: Vec<f32>,
    qkv: Vec<f32>,
    /// Cache [slots, capacity, Hk·D] before the new rows; NaN where nothing has been stored.
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(h: Heads, capacity: usize, positions: &[u32]) -> Self {
        let rows = positions.len();
        let mut noise = Noise::new(capacity as u64);
        // Rows take slots in falling order, and one slot stays empty.
        let slots: Vec<u32> = (0..rows as u32).rev().collect();
        let width = h.kv_width();
        let (mut k, mut v) = (noise.normal((rows + 1) * capacity * width, 1.0), vec![]);
        v.extend(noise.normal(k.len(), 1.0));
        for (slot, position) in slots.iter().zip(positions) {
            let (start, end) = (*slot as usize * capacity + *position as usize, (*slot as usize + 1) * capacity);
            k[start * width..end * width].fill(f32::NAN);
            v[start * width..end * width].fill(f32::NAN);
        }
        let (qk, qkv) = (noise.normal(rows * h.qk_width(), 1.0), noise.normal(rows * h.qkv_width(), 1.0));
        Self { h, capacity, positions: positions.to_vec(), slots, qk, qkv, k, v }
    }

    fn rows(&self) -> usize {
        self.positions.len()
    }

    /// o with the given values, and Σ P·|v|.
    fn reference(&self) -> [Vec<f32>; 2] {
        let magnitude = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        [(self.qkv.clone(), self.v.clone()), (magnitude(&self.qkv), magnitude(&self.v))].map(|(qkv, v)| {
            let mut cpu = Cpu::new();
            let docs = Documents {
                positions: self.positions.clone(),
                samples: vec![0; self.rows()],
                bounds: (0..=self.rows() as u32).collect(),
            };
            let rows = cpu.rows(&docs);
            let (qk, qkv, slots) = (cpu.f32(&self.qk), cpu.f32(&qkv), cpu.u32(&self.slots));
            let cache = KvCache { k: cpu.f32(&self.k), v: cpu.f32(&v), capacity: self.capacity };
            let o = cpu.out(DType::F32, self.rows() * self.h.q_width());
            cpu.start(0);
            cpu.be.kv_store(qk, qkv, &rows, slots, self.h, &cache).unwrap();
            cpu.be.attention_cached(qk, &rows, slots, self.h, &cache, o).unwrap();
            cpu.get(o)
        })
    }

    fn device(&self, seed: u64) -> Option<(Vec<f32>, Vec<Counters>)> {
        let (h, rows) = (self.h, self.rows());
        let mut gpu = Gpu::new("decode", seed)?;
        let (qk, qkv) = (gpu.bf16(&self.qk), gpu.bf16(&self.qkv));
        let step = Step { rows, positions: gpu.u32(&self.positions), slots: gpu.u32(&self.slots) };
        let cache = Cache { k: gpu.bf16(&self.k), v: gpu.bf16(&self.v), capacity: self.capacity };
        let scratch = gpu.fresh(cached_scratch(rows, h, self.capacity));
        let o = gpu.fresh(rows * h.q_width() * 2);
        let mut counters = vec![run(&mut gpu, &kv_store(&step, h, qk, qkv, cache))];
        counters.extend(cached(&step, h, qk, cache, scratch, o).iter().map(|l| run(&mut gpu, l)));
        Some((gpu.get_bf16(o, rows * h.q_width()), counters))
    }

    fn check(&self) -> Option<Vec<Counters>> {
        let (got, counters) = self.device(SEEDS[0])?;
        let [want, magnitude] = self.reference();
        let tolerance = 1.02 * U;
        assert_near("o", &got, &want, tolerance, |i| tolerance * magnitude[i] + 1e-6);
        let (again, _) = self.device(SEEDS[1])?;
        assert_bits("o under another schedule", &again, &got);
        Some(counters)
    }
}

#[test]
fn one_split_and_many() {
    for (q, kv) in [(4, 2), (8, 1), (3, 3), (5, 1)] {
        let h = Heads { q, kv, dim: D };
        Case::new(h, 40, &[0, 15, 16, 39]).check();
        Case::new(h, 700, &[0, 255, 256, 299, 699]).check();
    }
}

#[test]
fn heads_of_8b() {
    Case::new(Heads { q: 32, kv: 8, dim: D }, 300, &[270]).check();
}

/// The cut into splits, and so the bits, do not depend on the capacity.
#[test]
fn capacity_does_not_change_the_result() {
    let h = Heads { q: 4, kv: 1, dim: D };
    let small = Case::new(h, 256, &[200]);
    let mut large = Case::new(h, 900, &[200]);
    large.qk.clone_from(&small.qk);
    large.qkv.clone_from(&small.qkv);
    large.k[..256 * D].copy_from_slice(&small.k[..256 * D]);
    large.v[..256 * D].copy_from_slice(&small.v[..256 * D]);
    let (Some((a, _)), Some((b, _))) = (small.device(0), large.device(0)) else { return };
    assert_bits("o", &b, &a);
}

#[test]
fn traffic_is_one_pass_over_the_cache() {
    let h = Heads { q: 8, kv: 2, dim: D };
    let Some(c) = Case::new(h, 1024, &[1023, 767]).check() else { return };
    let (keys, splits) = (1024 + 768, 4 + 3);
    let row = h.kv_width() * 2;
    // Position and slot of each of the two rows: a sector each.
    assert_traffic("kv_store", &c[0], Traffic { loads: 2 * (2 * row + 2 * 32), stores: 2 * 2 * row });
    let parts = splits * h.q * (D * 4);
    // Statistics of 8 bytes go in a sector each; q is read by every split.
    let q = splits * h.q * D * 2;
    assert_traffic("attention_cached", &c[1], Traffic { loads: keys * 2 * row + q, stores: parts + splits * h.q * 32 });
    assert_no_conflicts("attention_cached", &c[1]);
    assert_eq!(c[2].global_store_bytes as usize, 2 * h.q * D * 2);
}
