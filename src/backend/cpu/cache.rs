//! Generation: storing keys and values, and attention of single rows over them.

use super::access::Access;
use crate::{
    Result,
    backend::{Buffer, Heads, KvCache, Rows},
    simd,
};
use rayon::prelude::*;

/// Keys whose scores are held at a time.
const TILE: usize = 128;

/// Slot and position of every row, checked against the cache.
fn places<'a>(
    m: &mut Access<'a>,
    rows: &Rows,
    slots: Buffer,
    heads: Heads,
    cache: &KvCache,
) -> Result<Vec<(usize, usize)>> {
    super::check_heads(m, heads)?;
    let row = heads.kv_width();
    let count = cache.k.len() / (row * cache.capacity.max(1));
    let slots = m.read_first::<u32>("slots", slots, rows.count)?;
    let positions = m.read_first::<u32>("positions", rows.positions, rows.count)?;
    let places: Vec<_> = slots.iter().zip(positions).map(|(&s, &p)| (s as usize, p as usize)).collect();
    if let Some((slot, position)) = places.iter().find(|(s, p)| *s >= count || *p >= cache.capacity) {
        return Err(m.error(format!(
            "slot {slot}, position {position} is outside a cache of {count} slots of {} positions",
            cache.capacity
        )));
    }
    Ok(places)
}

/// See [`crate::backend::Backend::kv_store`].
pub(super) fn store(
    m: &mut Access,
    qk: Buffer,
    qkv: Buffer,
    rows: &Rows,
    slots: Buffer,
    heads: Heads,
    cache: &KvCache,
) -> Result<()> {
    let places = places(m, rows, slots, heads, cache)?;
    let width = heads.kv_width();
    let qk = m.read::<f32>("qk", qk, rows.count * heads.qk_width())?;
    let qkv = m.read::<f32>("qkv", qkv, rows.count * heads.qkv_width())?;
    let keys = m.write::<f32>("cached keys", cache.k, cache.k.len())?;
    let values = m.write::<f32>("cached values", cache.v, cache.k.len())?;
    let sources = qk.chunks_exact(heads.qk_width()).zip(qkv.chunks_exact(heads.qkv_width()));
    for ((slot, position), (k, v)) in places.into_iter().zip(sources) {
        let at = (slot * cache.capacity + position) * width;
        keys[at..at + width].copy_from_slice(&k[heads.q_width()..]);
        values[at..at + width].copy_from_slice(&v[heads.qk_width()..]);
    }
    Ok(())
}

/// See [`crate::backend::Backend::attention_cached`].
pub(super) fn attention(
    m: &mut Access,
    qk: Buffer,
    rows: &Rows,
    slots: Buffer,
    heads: Heads,
    cache: &KvCache,
    o: Buffer,
) -> Result<()> {
    let places = places(m, rows, slots, heads, cache)?;
    let qk = m.read::<f32>("qk", qk, rows.count * heads.qk_width())?;
    let keys = m.read::<f32>("cached keys", cache.k, cache.k.len())?;
    let values = m.read::<f32>("cached values", cache.v, cache.k.len())?;
    let o = m.write::<f32>("o", o, rows.count * heads.q_width())?;
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
