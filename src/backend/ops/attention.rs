//! Causal grouped-query attention within documents.

use super::{Access, Operands, Operation, Rows, operands::one};
use crate::backend::{Buffer, DType};

/// Shape of grouped-query attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads Hq.
    pub q: usize,
    /// Key/value heads Hk; Hq is a multiple of it.
    pub kv: usize,
    /// Head dimension D.
    pub dim: usize,
}

impl Heads {
    /// Width of q: Hq·D.
    pub fn q_width(&self) -> usize {
        self.q * self.dim
    }
    /// Width of k (and of v): Hk·D.
    pub fn kv_width(&self) -> usize {
        self.kv * self.dim
    }
    /// Width of the fused q, k, v row: (Hq + 2·Hk)·D, in this order.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
    /// Width of the fused q, k row after head norm and RoPE: (Hq + Hk)·D.
    pub fn qk_width(&self) -> usize {
        self.q_width() + self.kv_width()
    }

    /// Fails if they make no sense.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.kv == 0 || self.dim == 0 || self.q == 0 || !self.q.is_multiple_of(self.kv) {
            return Err(format!("impossible heads: {self:?}"));
        }
        Ok(())
    }
}

/// `o = softmax(q·kᵀ/√D)·v`, causal within each document. q and k from `qk`, v from `qkv`.
/// PyTorch: `F.scaled_dot_product_attention(is_causal=True, enable_gqa=True)` per document.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// act [T, (Hq+Hk)·D].
    pub qk: Buffer,
    /// act [T, (Hq+2Hk)·D]; only v is read.
    pub qkv: Buffer,
    /// Whose `cu_seqlens` bound the documents.
    pub rows: Rows,
    /// Heads.
    pub heads: Heads,
    /// act [T, Hq·D].
    pub o: Buffer,
    /// F32 [T, Hq]: the natural logarithm of the softmax denominator of the scaled scores.
    pub lse: Buffer,
}

/// Multiply-adds of one causal T×T product over all heads count twice, in documents of equal length.
fn causal_product(rows: &Rows, heads: &Heads) -> f64 {
    let len = rows.count as f64 / rows.docs.max(1) as f64;
    rows.count as f64 * len * heads.q_width() as f64
}

impl Operation for Attention {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let (rows, heads) = (self.rows.count, self.heads);
        heads.check()?;
        to.read("qk", self.qk, rows * heads.qk_width());
        to.read("qkv", self.qkv, rows * heads.qkv_width());
        to.read_indices("cu_seqlens", self.rows.cu_seqlens, self.rows.docs + 1);
        to.write("o", self.o, rows * heads.q_width());
        to.add(Access::Write, "lse", self.lse, one(DType::F32), rows * heads.q);
        Ok(())
    }

    /// Scores, and what they weigh.
    fn flops(&self) -> f64 {
        2.0 * causal_product(&self.rows, &self.heads)
    }
}

/// Gradient of [`Attention`]: dq, dk into `dqk`, dv into its columns of `dqkv`.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBackward {
    /// act [T, (Hq+Hk)·D].
    pub qk: Buffer,
    /// act [T, (Hq+2Hk)·D]; only v is read.
    pub qkv: Buffer,
    /// act [T, Hq·D].
    pub o: Buffer,
    /// F32 [T, Hq].
    pub lse: Buffer,
    /// Gradient of o, act [T, Hq·D].
    pub do_: Buffer,
    /// Whose `cu_seqlens` bound the documents.
    pub rows: Rows,
    /// Heads.
    pub heads: Heads,
    /// act [T, (Hq+Hk)·D].
    pub dqk: Buffer,
    /// act [T, (Hq+2Hk)·D]; its q and k columns stay.
    pub dqkv: Buffer,
}

impl Operation for AttentionBackward {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let (rows, heads) = (self.rows.count, self.heads);
        heads.check()?;
        to.read("qk", self.qk, rows * heads.qk_width());
        to.read("qkv", self.qkv, rows * heads.qkv_width());
        to.read("o", self.o, rows * heads.q_width());
        to.read_f32("lse", self.lse, rows * heads.q);
        to.read("do", self.do_, rows * heads.q_width());
        to.read_indices("cu_seqlens", self.rows.cu_seqlens, self.rows.docs + 1);
        to.write("dqk", self.dqk, rows * heads.qk_width());
        to.update("dqkv", self.dqkv, rows * heads.qkv_width());
        Ok(())
    }

    /// The scores again, dv, the gradient of the scores, dq and dk.
    fn flops(&self) -> f64 {
        5.0 * causal_product(&self.rows, &self.heads)
    }
}
