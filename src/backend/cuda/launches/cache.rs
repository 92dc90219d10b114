//! Launches of `kernels/cache.cu`.

use super::{
    Context, Launches,
    attention::{HEAD_DIM, HeadsArgs},
};
use crate::backend::{
    DType, Heads, KvCache,
    cuda::launch::{Address, Args, Launch, int},
    ops::{AttentionCached, KvStore},
};
use bytemuck::{Pod, Zeroable};

/// Query heads of a key/value head at most: the rows of one tile of the tensor cores.
pub const MAX_GROUP: usize = 8;
/// Keys of a split.
const SPLIT: usize = 256;
const THREADS: u32 = 128;

/// `Cache` of cache.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct CacheArgs {
    pub(super) k: Address,
    pub(super) v: Address,
    pub(super) capacity: u32,
    /// Padding.
    pub(super) unused: u32,
}

impl CacheArgs {
    fn new(c: &KvCache, at: &Context) -> Self {
        Self { k: at.of(c.k), v: at.of(c.v), capacity: int(c.capacity), unused: 0 }
    }
}

/// See [`KvStore`].
pub fn store(op: &KvStore, at: &Context) -> Launches {
    let args = Args::new().with(at.of(op.qk)).with(at.of(op.qkv));
    let args = args.with(at.of(op.rows.positions)).with(at.of(op.slots));
    let args = args.with(HeadsArgs::try_from(op.heads)?).with(CacheArgs::new(&op.cache, at));
    Ok(vec![Launch::new("cache", "kv_store", [int(op.rows.count), 1, 1], THREADS, args)])
}

/// `AttentionCached` of cache.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionCachedArgs {
    pub(super) qk: Address,
    pub(super) positions: Address,
    pub(super) slots: Address,
    pub(super) partial: Address,
    pub(super) stats: Address,
    pub(super) o: Address,
    pub(super) cache: CacheArgs,
    pub(super) heads: HeadsArgs,
}

/// See [`AttentionCached`]: each split of a sequence's keys, then their join where a sequence can have more than one.
pub fn attention(op: &AttentionCached, at: &Context) -> Launches {
    check_group(op.heads)?;
    let (rows, heads, splits) = (op.rows.count, op.heads, splits(op));
    let (partial, stats) = scratch_parts(op);
    let scratch = at.scratch(partial + stats)?;
    let p = AttentionCachedArgs {
        qk: at.of(op.qk),
        positions: at.of(op.rows.positions),
        slots: at.of(op.slots),
        partial: scratch,
        stats: scratch + partial as u64,
        o: at.of(op.o),
        cache: CacheArgs::new(&op.cache, at),
        heads: heads.try_into()?,
    };
    let launch = |kernel, grid, args| Launch::new("cache", kernel, grid, THREADS, args);
    let args = Args::new().with(p);
    let mut all = vec![launch("attention_cached", [int(splits), int(heads.kv), int(rows)], args.clone())];
    if splits > 1 {
        all.push(launch("attention_cached_join", [int(heads.q), int(rows), 1], args.with(int(splits))));
    }
    Ok(all)
}

/// Fails if a key/value head has more query heads than a tile has rows for them.
fn check_group(heads: Heads) -> Result<(), String> {
    let group = heads.q / heads.kv;
    if group > MAX_GROUP {
        return Err(format!("{group} query heads of a key/value head, at most {MAX_GROUP} on CUDA"));
    }
    Ok(())
}

/// Splits of a full slot.
fn splits(op: &AttentionCached) -> usize {
    op.cache.capacity.div_ceil(SPLIT).max(1)
}

/// Bytes for the unnormalised o of each split, F32 [T, Hq, splits, D]; for its largest score and denominator, F32 [.., 2].
fn scratch_parts(op: &AttentionCached) -> (usize, usize) {
    let sums = op.rows.count * op.heads.q * splits(op);
    (sums * HEAD_DIM * DType::F32.size(), sums * 2 * DType::F32.size())
}

/// Bytes for the splits of every row and head.
pub fn attention_scratch(op: &AttentionCached) -> usize {
    let (partial, stats) = scratch_parts(op);
    partial + stats
}
