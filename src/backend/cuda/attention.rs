//! Launches of `kernels/attention.cu`, `attention_backward.cu` and `decode.cu`.

use super::launch::{Address, Args, Launch, blocks, int};
use crate::backend::Heads;
use bytemuck::{Pod, Zeroable};

/// Head dimension that the kernels are written for: every published Qwen3.
pub const HEAD_DIM: usize = 128;
/// Documents of a micro-batch at most: they lie along the second dimension of a grid.
pub const MAX_DOCUMENTS: usize = 65_535;
/// Query heads of a key/value head that generation handles at most.
pub const MAX_GROUP: usize = 8;
/// Rows of a block of queries (or of keys, in the dk/dv kernel).
const BLOCK_ROWS: usize = 128;
/// Rows of a tile of what streams by.
const TILE_ROWS: usize = 64;
const ROW_BYTES: usize = HEAD_DIM * 2;
/// Keys of a split in generation.
const SPLIT: usize = 256;
/// (rows, heads) of a block that prepares the backward pass.
const STATS_BLOCK: (usize, usize) = (32, 8);

/// `struct Heads`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HeadCounts {
    q: u32,
    kv: u32,
}

impl From<Heads> for HeadCounts {
    fn from(h: Heads) -> Self {
        Self { q: int(h.q), kv: int(h.kv) }
    }
}

/// Rows of a micro-batch, as the kernels see them.
#[derive(Debug, Clone, Copy)]
pub struct Documents {
    /// Number of rows T.
    pub rows: usize,
    /// Number of documents.
    pub count: usize,
    /// Length of the longest document.
    pub max_len: usize,
    /// First row of each document, then T: u32 [count + 1].
    pub cu_seqlens: Address,
}

/// `struct Params` of attention.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Forward {
    qk: Address,
    qkv: Address,
    cu_seqlens: Address,
    o: Address,
    lse: Address,
    heads: HeadCounts,
}

/// Attention forward: `qk` bf16 [T, (Hq+Hk)·128], `qkv` bf16 [T, (Hq+2Hk)·128]; `o` bf16 [T, Hq·128], `lse` f32 [T, Hq].
pub fn forward(docs: &Documents, heads: Heads, qk: Address, qkv: Address, o: Address, lse: Address) -> Launch {
    let p = Forward { qk, qkv, cu_seqlens: docs.cu_seqlens, o, lse, heads: heads.into() };
    Launch {
        shared: int((BLOCK_ROWS + 2 * TILE_ROWS) * ROW_BYTES),
        ..Launch::new("attention", "attention", grid(heads.q, docs), 128, Args::new().with(p))
    }
}

fn grid(heads: usize, docs: &Documents) -> [u32; 3] {
    [int(heads), int(docs.count), blocks(docs.max_len, BLOCK_ROWS)]
}

/// Bytes of scratch that [`backward`] needs: lse·log₂e and Δ, f32 [Hq, T, 2].
pub fn backward_scratch(rows: usize, heads: Heads) -> usize {
    rows * heads.q * 8
}

/// `struct Params` of attention_backward.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Backward {
    qk: Address,
    qkv: Address,
    d_o: Address,
    stats: Address,
    cu_seqlens: Address,
    dqk: Address,
    dqkv: Address,
    heads: HeadCounts,
    rows: u32,
    /// Only there because Pod allows no padding; the kernel's structure ends in four bytes of it.
    end: u32,
}

/// Buffers of the backward pass, shapes as in [`crate::backend::Backend::attention_backward`].
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct BackwardBuffers {
    pub qk: Address,
    pub qkv: Address,
    pub o: Address,
    pub lse: Address,
    pub d_o: Address,
    pub dqk: Address,
    pub dqkv: Address,
    /// Scratch of [`backward_scratch`] bytes.
    pub stats: Address,
}

/// Attention backward: preparation, dq, then dk and dv.
pub fn backward(docs: &Documents, heads: Heads, b: &BackwardBuffers) -> [Launch; 3] {
    let p = Backward {
        qk: b.qk,
        qkv: b.qkv,
        d_o: b.d_o,
        stats: b.stats,
        cu_seqlens: docs.cu_seqlens,
        dqk: b.dqk,
        dqkv: b.dqkv,
        heads: heads.into(),
        rows: int(docs.rows),
        end: 0,
    };
    let stats_args =
        Args::new().with(b.o).with(b.d_o).with(b.lse).with(int(docs.rows)).with(int(heads.q)).with(b.stats);
    let stats_grid = [blocks(docs.rows, STATS_BLOCK.0), blocks(heads.q, STATS_BLOCK.1), 1];
    let stream = 4 * TILE_ROWS * ROW_BYTES;
    let launch = |kernel, heads, shared| Launch {
        shared: int(shared),
        ..Launch::new("attention_backward", kernel, grid(heads, docs), 256, Args::new().with(p))
    };
    [
        Launch::new("attention_backward", "attention_stats", stats_grid, 256, stats_args),
        launch("attention_dq", heads.q, stream),
        launch("attention_dkv", heads.kv, stream + 2 * TILE_ROWS * 8),
    ]
}

/// `struct Cache` of decode.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CacheParams {
    k: Address,
    v: Address,
    capacity: u32,
    /// See [`Backward::end`].
    end: u32,
}

/// Keys and values of generated sequences: bf16 [slots, capacity, Hk·128] each.
#[derive(Debug, Clone, Copy)]
pub struct Cache {
    /// Keys.
    pub k: Address,
    /// Values.
    pub v: Address,
    /// Positions per slot.
    pub capacity: usize,
}

impl From<Cache> for CacheParams {
    fn from(c: Cache) -> Self {
        Self { k: c.k, v: c.v, capacity: int(c.capacity), end: 0 }
    }
}

/// Rows of a generation step: `positions` and `slots` `u32 [rows]`.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Number of rows.
    pub rows: usize,
    /// Position of each row in its sequence.
    pub positions: Address,
    /// Slot of each row in the cache.
    pub slots: Address,
}

/// Stores the k columns of `qk` and the v columns of `qkv` in the cache.
pub fn kv_store(step: &Step, heads: Heads, qk: Address, qkv: Address, cache: Cache) -> Launch {
    let args = Args::new()
        .with(qk)
        .with(qkv)
        .with(step.positions)
        .with(step.slots)
        .with(HeadCounts::from(heads))
        .with(CacheParams::from(cache));
    Launch::new("decode", "kv_store", [int(step.rows), 1, 1], 128, args)
}

/// `struct Params` of decode.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Cached {
    qk: Address,
    positions: Address,
    slots: Address,
    partial: Address,
    stats: Address,
    o: Address,
    cache: CacheParams,
    heads: HeadCounts,
}

/// Splits of a cache of `capacity` positions.
fn splits(capacity: usize) -> usize {
    capacity.div_ceil(SPLIT).max(1)
}

/// Bytes of scratch that [`cached`] needs: partial sums and their statistics, f32 [rows, Hq, splits, 128 + 2].
pub fn cached_scratch(rows: usize, heads: Heads, capacity: usize) -> usize {
    rows * heads.q * splits(capacity) * (HEAD_DIM + 2) * 4
}

/// Attention of one new row per sequence over the cache; `qk` bf16 [rows, (Hq+Hk)·128], `o` bf16 [rows, Hq·128],
/// `scratch` of [`cached_scratch`] bytes. A second launch joins the splits where a sequence can have more than one.
pub fn cached(step: &Step, heads: Heads, qk: Address, cache: Cache, scratch: Address, o: Address) -> Vec<Launch> {
    let n = splits(cache.capacity);
    let partial_bytes = step.rows * heads.q * n * HEAD_DIM * 4;
    let p = Cached {
        qk,
        positions: step.positions,
        slots: step.slots,
        partial: scratch,
        stats: scratch + partial_bytes as u64,
        o,
        cache: cache.into(),
        heads: heads.into(),
    };
    let grid = [int(n), int(heads.kv), int(step.rows)];
    let mut all = vec![Launch::new("decode", "attention_cached", grid, 128, Args::new().with(p))];
    if n > 1 {
        let args = Args::new().with(p).with(int(n));
        all.push(Launch::new("decode", "attention_cached_join", [int(heads.q), int(step.rows), 1], 128, args));
    }
    all
}
