//! cache.cu. Tolerances as in attention.rs: P is rounded to bf16 before the second product, o after it.

use crate::harness::{
    Cpu, Device, Documents, Gpu, Noise, SEEDS, Traffic, U, assert_bits, assert_near, assert_no_conflicts,
    assert_traffic,
};
use irori::backend::{
    Heads, KvCache,
    ops::{AttentionCached, KvStore},
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

    /// o with these values of the new rows and of the cache.
    fn run<D: Device>(&self, d: &mut D, qkv: &[f32], v: &[f32]) -> (Vec<f32>, Vec<Counters>) {
        let heads = self.h;
        let rows = d.rows(&Documents {
            positions: self.positions.clone(),
            samples: vec![0; self.rows()],
            bounds: (0..=self.rows() as u32).collect(),
        });
        let (qk, qkv, slots) = (d.act(&self.qk), d.act(qkv), d.u32(&self.slots));
        let cache = KvCache { k: d.act(&self.k), v: d.act(v), capacity: self.capacity };
        let o = d.act_out(self.rows() * heads.q_width());
        let mut costs = d.run(KvStore { qk, qkv, rows, slots, heads, cache });
        costs.extend(d.run(AttentionCached { qk, rows, slots, heads, cache, o }));
        (d.get(o), costs)
    }

    /// o with the given values, and Σ P·|v|.
    fn reference(&self) -> [Vec<f32>; 2] {
        let magnitude = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let run = |qkv: &[f32], v: &[f32]| self.run(&mut Cpu::new(), qkv, v).0;
        [run(&self.qkv, &self.v), run(&magnitude(&self.qkv), &magnitude(&self.v))]
    }

    fn device(&self, seed: u64) -> Option<(Vec<f32>, Vec<Counters>)> {
        Some(self.run(&mut Gpu::new(seed)?, &self.qkv, &self.v))
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
