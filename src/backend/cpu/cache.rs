//! Generation: storing keys and values, and attention of single rows over them.

use super::access::Access;
use crate::{
    Result,
    backend::{
        Buffer,
        ops::{self, Heads, KvCache, Rows},
    },
    simd,
};
use rayon::prelude::*;

/// Keys whose scores are held at a time.
const TILE: usize = 128;

/// Slot and position of every row, checked against the cache.
fn places(m: &Access, rows: &Rows, slots: Buffer, heads: Heads, cache: &KvCache) -> Result<Vec<(usize, usize)>> {
    let count = cache.k.len() / (heads.kv_width() * cache.capacity.max(1));
    let slots = &m.read::<u32>(slots)?[..rows.count];
    let positions = &m.read::<u32>(rows.positions)?[..rows.count];
    let places: Vec<_> = slots.iter().zip(positions).map(|(&s, &p)| (s as usize, p as usize)).collect();
    if let Some((slot, position)) = places.iter().find(|(s, p)| *s >= count || *p >= cache.capacity) {
        return Err(m.error(format!(
            "slot {slot}, position {position} is outside a cache of {count} slots of {} positions",
            cache.capacity
        )));
    }
    Ok(places)
}

/// See [`ops::KvStore`].
pub(super) fn store(m: &mut Access, op: &ops::KvStore) -> Result<()> {
    let (heads, cache) = (op.heads, &op.cache);
    let places = places(m, &op.rows, op.slots, heads, cache)?;
    let width = heads.kv_width();
    let (qk, qkv) = (m.read::<f32>(op.qk)?, m.read::<f32>(op.qkv)?);
    let (keys, values) = (m.write::<f32>(cache.k)?, m.write::<f32>(cache.v)?);
    let sources = qk.chunks_exact(heads.qk_width()).zip(qkv.chunks_exact(heads.qkv_width()));
    for ((slot, position), (k, v)) in places.into_iter().zip(sources) {
        let at = (slot * cache.capacity + position) * width;
        keys[at..at + width].copy_from_slice(&k[heads.q_width()..]);
        values[at..at + width].copy_from_slice(&v[heads.qk_width()..]);
    }
    Ok(())
}

/// See [`ops::AttentionCached`].
pub(super) fn attention(m: &mut Access, op: &ops::AttentionCached) -> Result<()> {
    let (heads, cache) = (op.heads, &op.cache);
    let places = places(m, &op.rows, op.slots, heads, cache)?;
    let qk = m.read::<f32>(op.qk)?;
    let (keys, values) = (m.read::<f32>(cache.k)?, m.read::<f32>(cache.v)?);
    let o = m.write::<f32>(op.o)?;
    let (dim, width, group) = (heads.dim, heads.kv_width(), heads.q / heads.kv);
    o.par_chunks_mut(dim).enumerate().for_each(|(i, o)| {
        let (row, head) = (i / heads.q, i % heads.q);
        let (slot, position) = places[row];
        let q = &qk[row * heads.qk_width() + head * dim..][..dim];
        let start = slot * cache.capacity * width + head / group * dim;
        one_row(q, &keys[start..], &values[start..], position + 1, width, o);
    });
    Ok(())
}

/// `o` = softmax(q·K/√D)·V over `count` keys and values, `width` elements apart.
fn one_row(q: &[f32], keys: &[f32], values: &[f32], count: usize, width: usize, o: &mut [f32]) {
    let dim = q.len();
    let factor = 1.0 / (dim as f32).sqrt();
    let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0f64);
    let mut scores = [0.0; TILE];
    o.fill(0.0);
    for start in (0..count).step_by(TILE) {
        let scores = &mut scores[..TILE.min(count - start)];
        for (i, s) in scores.iter_mut().enumerate() {
            *s = factor * simd::dot(q, &keys[(start + i) * width..][..dim]);
        }
        let new = simd::max(scores).max(largest);
        let correction = simd::exp(largest - new);
        sum = sum * f64::from(correction) + simd::exp_shifted(scores, new);
        simd::scale(o, correction);
        for (i, &p) in scores.iter().enumerate() {
            simd::add_scaled(o, p, &values[(start + i) * width..][..dim]);
        }
        largest = new;
    }
    simd::scale(o, (1.0 / sum) as f32);
}
