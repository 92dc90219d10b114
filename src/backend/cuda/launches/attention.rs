//! Launches of `kernels/attention.cu` and `kernels/attention_backward.cu`.

use super::{Context, Launches};
use crate::backend::{
    DType, Heads, Rows,
    cuda::launch::{Address, Args, Launch, blocks, int},
    ops::{Attention, AttentionBackward},
};
use bytemuck::{Pod, Zeroable};

/// Head dimension that the kernels are written for: every published Qwen3.
pub const HEAD_DIM: usize = 128;
/// Documents of a micro-batch at most: they lie along the second dimension of a grid.
pub const MAX_DOCUMENTS: usize = 65_535;
/// Rows of a block of queries (or of keys, in the dk/dv kernel).
const BLOCK_ROWS: usize = 128;
/// Rows of a tile of what streams by.
const TILE_ROWS: usize = 64;
const ROW_BYTES: usize = HEAD_DIM * 2;
/// (rows, heads) of a block that prepares the backward pass.
const STATS_BLOCK: (usize, usize) = (32, 8);
/// lse·log₂e and Δ of a (row, head): two f32.
const STATS_BYTES: usize = 2 * DType::F32.size();

/// `Heads` of attention.cuh.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct HeadsArgs {
    /// Query heads.
    pub(super) q: u32,
    /// Key/value heads.
    pub(super) kv: u32,
}

impl TryFrom<Heads> for HeadsArgs {
    type Error = String;

    fn try_from(h: Heads) -> Result<Self, String> {
        if h.dim != HEAD_DIM {
            return Err(format!("heads of {} elements, on CUDA of {HEAD_DIM}", h.dim));
        }
        Ok(Self { q: int(h.q), kv: int(h.kv) })
    }
}

/// `Attention` of attention.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionArgs {
    pub(super) qk: Address,
    pub(super) qkv: Address,
    pub(super) cu_seqlens: Address,
    pub(super) o: Address,
    pub(super) lse: Address,
    pub(super) heads: HeadsArgs,
}

/// See [`Attention`].
pub fn forward(op: &Attention, at: &Context) -> Launches {
    let p = AttentionArgs {
        qk: at.of(op.qk),
        qkv: at.of(op.qkv),
        cu_seqlens: at.of(op.rows.cu_seqlens),
        o: at.of(op.o),
        lse: at.of(op.lse),
        heads: op.heads.try_into()?,
    };
    let grid = grid(op.heads.q, &op.rows)?;
    let shared = int((BLOCK_ROWS + 2 * TILE_ROWS) * ROW_BYTES);
    Ok(vec![Launch { shared, ..Launch::new("attention", "attention", grid, 128, Args::new().with(p)) }])
}

/// A block for each head, document, and [`BLOCK_ROWS`] rows of the longest document.
fn grid(heads: usize, rows: &Rows) -> Result<[u32; 3], String> {
    if rows.docs > MAX_DOCUMENTS {
        return Err(format!("{} documents in a micro-batch, at most {MAX_DOCUMENTS} on CUDA", rows.docs));
    }
    Ok([int(heads), int(rows.docs), blocks(rows.max_len, BLOCK_ROWS)])
}

/// `AttentionBackward` of attention_backward.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionBackwardArgs {
    pub(super) qk: Address,
    pub(super) qkv: Address,
    pub(super) d_o: Address,
    pub(super) stats: Address,
    pub(super) cu_seqlens: Address,
    pub(super) dqk: Address,
    pub(super) dqkv: Address,
    pub(super) heads: HeadsArgs,
    pub(super) rows: u32,
    /// Padding.
    pub(super) unused: u32,
}

/// See [`AttentionBackward`]: preparation into scratch, dq, then dk and dv.
pub fn backward(op: &AttentionBackward, at: &Context) -> Launches {
    let p = AttentionBackwardArgs {
        qk: at.of(op.qk),
        qkv: at.of(op.qkv),
        d_o: at.of(op.do_),
        stats: at.scratch(backward_scratch(op))?,
        cu_seqlens: at.of(op.rows.cu_seqlens),
        dqk: at.of(op.dqk),
        dqkv: at.of(op.dqkv),
        heads: op.heads.try_into()?,
        rows: int(op.rows.count),
        unused: 0,
    };
    let stats = Args::new().with(at.of(op.o)).with(p.d_o).with(at.of(op.lse));
    let stats = stats.with(p.rows).with(p.heads.q).with(p.stats);
    let stats_grid = [blocks(op.rows.count, STATS_BLOCK.0), blocks(op.heads.q, STATS_BLOCK.1), 1];
    let launch = |kernel, grid, args| Launch::new("attention_backward", kernel, grid, 256, args);
    let stream = 4 * TILE_ROWS * ROW_BYTES;
    Ok(vec![
        launch("attention_stats", stats_grid, stats),
        Launch { shared: int(stream), ..launch("attention_dq", grid(op.heads.q, &op.rows)?, Args::new().with(p)) },
        Launch {
            shared: int(stream + 2 * TILE_ROWS * STATS_BYTES),
            ..launch("attention_dkv", grid(op.heads.kv, &op.rows)?, Args::new().with(p))
        },
    ])
}

/// Bytes for lse·log₂e and Δ, F32 [Hq, T, 2].
pub fn backward_scratch(op: &AttentionBackward) -> usize {
    op.rows.count * op.heads.q * STATS_BYTES
}
