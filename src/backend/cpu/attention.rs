//! Causal attention within documents, tiled (Dao et al. 2022): scores exist a tile of 64×64 at a time, on the stack.
//!
//! A task owns the rows of one tile of one document and writes nothing else, so tasks need no locks and the order of every
//! sum is fixed. Backward, a task does its rows twice: as queries (dq, over the key tiles before it) and as keys (dk and dv,
//! over the query tiles after it and the group's heads). That computes the scores twice and is still cheap beside the
//! linear layers.

use super::{
    access::Access,
    matmul::{Mat, MatMut, Threads, multiply},
};
use crate::{
    Result,
    backend::{
        Buffer,
        ops::{self, Heads, Rows},
    },
    simd,
};
use rayon::prelude::*;

/// Rows of a tile.
const TILE: usize = 64;

/// Rows `start..end` of the document that is rows `first..last`.
#[derive(Debug, Clone, Copy)]
struct Tile {
    first: usize,
    last: usize,
    start: usize,
    end: usize,
}

impl Tile {
    fn rows(&self) -> usize {
        self.end - self.start
    }

    /// The tiles of its document, itself included, up to it.
    fn up_to(self) -> impl Iterator<Item = Self> {
        self.document().take_while(move |t| t.start <= self.start)
    }

    /// The tiles of its document, itself included, from it on.
    fn onward(self) -> impl Iterator<Item = Self> {
        self.document().skip_while(move |t| t.start < self.start)
    }

    fn document(self) -> impl Iterator<Item = Self> {
        let Self { first, last, .. } = self;
        (first..last).step_by(TILE).map(move |start| Self { first, last, start, end: (start + TILE).min(last) })
    }
}

/// All tiles of a micro-batch, in order. They cover its rows.
fn tiles(m: &Access, rows: &Rows) -> Result<Vec<Tile>> {
    let bounds = &m.read::<u32>(rows.cu_seqlens)?[..=rows.docs];
    let ends = (bounds[0], bounds[rows.docs] as usize);
    if ends != (0, rows.count) || bounds.windows(2).any(|w| w[0] > w[1]) {
        return Err(m.error(format!("documents {bounds:?} do not cover {} rows", rows.count)));
    }
    let documents = bounds.windows(2).map(|w| (w[0] as usize, w[1] as usize));
    Ok(documents.flat_map(|(first, last)| Tile { first, last, start: first, end: first }.document()).collect())
}

/// Cuts `x` of `width` elements a row at the tiles' bounds.
fn cut<'a>(mut x: &'a mut [f32], tiles: &[Tile], width: usize) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::with_capacity(tiles.len());
    for t in tiles {
        let (part, rest) = x.split_at_mut(t.rows() * width);
        parts.push(part);
        x = rest;
    }
    parts
}

/// q, k and v of all rows.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    qk: &'a [f32],
    qkv: &'a [f32],
    heads: Heads,
}

impl<'a> Inputs<'a> {
    fn open(m: &Access<'a>, qk: Buffer, qkv: Buffer, heads: Heads) -> Result<Self> {
        Ok(Self { qk: m.read(qk)?, qkv: m.read(qkv)?, heads })
    }

    fn q(&self, t: Tile, head: usize) -> Mat<'a> {
        let (width, dim) = (self.heads.qk_width(), self.heads.dim);
        Mat::new(&self.qk[t.start * width + head * dim..], t.rows(), dim, width)
    }

    fn k(&self, t: Tile, head: usize) -> Mat<'a> {
        let (width, dim) = (self.heads.qk_width(), self.heads.dim);
        Mat::new(&self.qk[t.start * width + self.heads.q_width() + head * dim..], t.rows(), dim, width)
    }

    fn v(&self, t: Tile, head: usize) -> Mat<'a> {
        let (width, dim) = (self.heads.qkv_width(), self.heads.dim);
        Mat::new(&self.qkv[t.start * width + self.heads.qk_width() + head * dim..], t.rows(), dim, width)
    }

    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.heads.q / self.heads.kv
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }
}

/// A tile of scores, rows `TILE` apart.
type Scores = [f32; TILE * TILE];

/// Keys of tile `keys` that row `i` of tile `queries` sees.
fn visible(queries: Tile, keys: Tile, i: usize) -> usize {
    (queries.start + i + 1 - keys.start).min(keys.rows())
}

/// See [`ops::Attention`].
pub(super) fn forward(m: &mut Access, op: &ops::Attention) -> Result<()> {
    let heads = op.heads;
    let tiles = tiles(m, &op.rows)?;
    let inputs = Inputs::open(m, op.qk, op.qkv, heads)?;
    let o = cut(m.write(op.o)?, &tiles, heads.q_width());
    let lse = cut(m.write(op.lse)?, &tiles, heads.q);
    tiles.into_par_iter().zip(o).zip(lse).for_each(|((tile, o), lse)| {
        for head in 0..heads.q {
            forward_tile(&inputs, tile, head, &mut o[head * heads.dim..], &mut lse[head..]);
        }
    });
    Ok(())
}

/// One head of one tile of queries: the softmax is kept relative to the largest score so far.
fn forward_tile(inputs: &Inputs, queries: Tile, head: usize, o: &mut [f32], lse: &mut [f32]) {
    let (heads, n) = (inputs.heads, queries.rows());
    let (dim, width) = (heads.dim, heads.q_width());
    let q = inputs.q(queries, head);
    let mut scores: Scores = [0.0; TILE * TILE];
    let mut largest = [f32::NEG_INFINITY; TILE];
    let mut sum = [0.0f64; TILE];
    for keys in queries.up_to() {
        let k = inputs.k(keys, head / inputs.group());
        multiply(MatMut::new(&mut scores, n, keys.rows(), TILE), false, inputs.scale(), q, k.t(), Threads::One);
        for (i, row) in scores.chunks_exact_mut(TILE).take(n).enumerate() {
            let (seen, hidden) = row[..keys.rows()].split_at_mut(visible(queries, keys, i));
            let new = simd::max(seen).max(largest[i]);
            let correction = simd::exp(largest[i] - new);
            sum[i] = sum[i] * f64::from(correction) + simd::exp_shifted(seen, new);
            hidden.fill(0.0);
            if keys.start > queries.first && new > largest[i] {
                simd::scale(&mut o[i * width..i * width + dim], correction);
            }
            largest[i] = new;
        }
        let p = Mat::new(&scores, n, keys.rows(), TILE);
        let v = inputs.v(keys, head / inputs.group());
        multiply(MatMut::new(o, n, dim, width), keys.start > queries.first, 1.0, p, v, Threads::One);
    }
    for i in 0..n {
        simd::scale(&mut o[i * width..i * width + dim], (1.0 / sum[i]) as f32);
        lse[i * heads.q] = (f64::from(largest[i]) + sum[i].ln()) as f32;
    }
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
struct Saved<'a> {
    inputs: Inputs<'a>,
    d_o: &'a [f32],
    lse: &'a [f32],
    /// Σ dₒ∘o of every row and head.
    delta: &'a [f32],
}

impl<'a> Saved<'a> {
    fn d_o(&self, t: Tile, head: usize) -> Mat<'a> {
        let (width, dim) = (self.inputs.heads.q_width(), self.inputs.heads.dim);
        Mat::new(&self.d_o[t.start * width + head * dim..], t.rows(), dim, width)
    }

    /// Probabilities and the gradient of the scores (times the scale of q·k) of one head.
    fn scores(&self, queries: Tile, keys: Tile, head: usize, p: &mut Scores, ds: &mut Scores) {
        let Self { inputs, lse, delta, .. } = self;
        let (n, columns, kv, heads) = (queries.rows(), keys.rows(), head / inputs.group(), inputs.heads.q);
        let (q, k, v) = (inputs.q(queries, head), inputs.k(keys, kv), inputs.v(keys, kv));
        multiply(MatMut::new(p, n, columns, TILE), false, inputs.scale(), q, k.t(), Threads::One);
        let d_o = self.d_o(queries, head);
        multiply(MatMut::new(ds, n, columns, TILE), false, 1.0, d_o, v.t(), Threads::One);
        let lines = p.chunks_exact_mut(TILE).zip(ds.chunks_exact_mut(TILE)).take(n);
        for (i, (p, ds)) in lines.enumerate() {
            let at = (queries.start + i) * heads + head;
            let seen = visible(queries, keys, i);
            gradient(&mut p[..seen], &mut ds[..seen], lse[at], delta[at], inputs.scale());
            p[seen..columns].fill(0.0);
            ds[seen..columns].fill(0.0);
        }
    }
}

simd::multiversion! {
    /// p = exp(s − lse), ds = p·(dp − delta)·scale, in place of s and dp.
    fn gradient(p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, scale: f32) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = simd::exp(*p - lse);
            *ds = *p * (*ds - delta) * scale;
        }
    }
}

/// Bytes of scratch of [`backward`]: delta of every row and head.
pub(super) fn backward_scratch(op: &ops::AttentionBackward) -> usize {
    op.rows.count * op.heads.q * size_of::<f32>()
}

/// See [`ops::AttentionBackward`].
pub(super) fn backward(m: &mut Access, op: &ops::AttentionBackward) -> Result<()> {
    let heads = op.heads;
    let tiles = tiles(m, &op.rows)?;
    let inputs = Inputs::open(m, op.qk, op.qkv, heads)?;
    let (o, d_o, lse) = (m.read::<f32>(op.o)?, m.read::<f32>(op.do_)?, m.read(op.lse)?);
    let delta = m.scratch::<f32>(op.rows.count * heads.q)?;
    let dim = heads.dim;
    delta.par_iter_mut().with_min_len(64).enumerate().for_each(|(i, delta)| {
        *delta = simd::dot(&o[i * dim..][..dim], &d_o[i * dim..][..dim]);
    });
    let saved = Saved { inputs, d_o, lse, delta };
    let dqk = cut(m.write(op.dqk)?, &tiles, heads.qk_width());
    let dqkv = cut(m.write(op.dqkv)?, &tiles, heads.qkv_width());
    tiles.into_par_iter().zip(dqk).zip(dqkv).for_each(|((tile, dqk), dqkv)| {
        for head in 0..heads.q {
            query_gradient(&saved, tile, head, &mut dqk[head * dim..]);
        }
        for head in 0..heads.kv {
            let dk = &mut dqk[heads.q_width() + head * dim..];
            key_gradient(&saved, tile, head, dk, &mut dqkv[heads.qk_width() + head * dim..]);
        }
    });
    Ok(())
}

/// dq of one tile and query head: Σ over key tiles of dS·k.
fn query_gradient(saved: &Saved, queries: Tile, head: usize, dq: &mut [f32]) {
    let Inputs { heads, .. } = saved.inputs;
    let (mut p, mut ds): (Scores, Scores) = ([0.0; TILE * TILE], [0.0; TILE * TILE]);
    for keys in queries.up_to() {
        saved.scores(queries, keys, head, &mut p, &mut ds);
        let dq = MatMut::new(dq, queries.rows(), heads.dim, heads.qk_width());
        let ds = Mat::new(&ds, queries.rows(), keys.rows(), TILE);
        let k = saved.inputs.k(keys, head / saved.inputs.group());
        multiply(dq, keys.start > queries.first, 1.0, ds, k, Threads::One);
    }
}

/// dk and dv of one tile and key/value head: Σ over the group's heads and the query tiles of dSᵀ·q and Pᵀ·do.
fn key_gradient(saved: &Saved, keys: Tile, kv: usize, dk: &mut [f32], dv: &mut [f32]) {
    let Inputs { heads, .. } = saved.inputs;
    let group = saved.inputs.group();
    let (mut p, mut ds): (Scores, Scores) = ([0.0; TILE * TILE], [0.0; TILE * TILE]);
    for head in kv * group..(kv + 1) * group {
        for queries in keys.onward() {
            saved.scores(queries, keys, head, &mut p, &mut ds);
            let later = head > kv * group || queries.start > keys.start;
            let (n, columns) = (queries.rows(), keys.rows());
            let (p, ds) = (Mat::new(&p, n, columns, TILE).t(), Mat::new(&ds, n, columns, TILE).t());
            let dv = MatMut::new(dv, columns, heads.dim, heads.qkv_width());
            multiply(dv, later, 1.0, p, saved.d_o(queries, head), Threads::One);
            let dk = MatMut::new(dk, columns, heads.dim, heads.qk_width());
            multiply(dk, later, 1.0, ds, saved.inputs.q(queries, head), Threads::One);
        }
    }
}
