//! Per-head RMSNorm on q and k, then rotary position embedding (Su et al. 2021).

use super::{Access, Heads, Operand, Operands, Operation, Rows, operands::one};
use crate::backend::{Buffer, DType};

/// What head norm and rotation read beside activations. Rotation is of split halves: element i pairs with i + D/2.
#[derive(Debug, Clone, Copy)]
pub struct Rotary {
    /// Heads.
    pub heads: Heads,
    /// Norm weight of q, `F32 [D]`.
    pub q_norm: Buffer,
    /// Norm weight of k, `F32 [D]`.
    pub k_norm: Buffer,
    /// Added to the mean square.
    pub eps: f32,
    /// cos and sin of every position, F32 [positions, D]: D/2 cosines, then D/2 sines.
    pub table: Buffer,
}

impl Rotary {
    fn operands(&self, to: &mut Operands, qkv: Buffer, rows: &Rows) -> Result<(), String> {
        self.heads.check()?;
        let dim = self.heads.dim;
        if !dim.is_multiple_of(2) {
            return Err(format!("head dimension {dim} is odd"));
        }
        to.read_indices("positions", rows.positions, rows.count);
        to.read_f32("q_norm", self.q_norm, dim);
        to.read_f32("k_norm", self.k_norm, dim);
        to.push(Operand {
            name: "rotary table",
            buffer: self.table,
            access: Access::Read,
            types: one(DType::F32),
            len: Some(dim),
            longer: true,
            host: false,
        });
        to.read("qkv", qkv, rows.count * self.heads.qkv_width());
        Ok(())
    }
}

/// q and k columns of `qkv`, normalised by heads and rotated; v is not touched and stays in `qkv`.
#[derive(Debug, Clone, Copy)]
pub struct HeadNormRope {
    /// act [T, (Hq+2Hk)·D].
    pub qkv: Buffer,
    /// Whose `positions` turn them.
    pub rows: Rows,
    /// Norm weights and angles.
    pub rotary: Rotary,
    /// act [T, (Hq+Hk)·D].
    pub qk: Buffer,
}

impl Operation for HeadNormRope {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        self.rotary.operands(to, self.qkv, &self.rows)?;
        to.write("qk", self.qk, self.rows.count * self.rotary.heads.qk_width());
        Ok(())
    }
}

/// Gradient of [`HeadNormRope`] with frozen norm weights: into the q and k columns of `dqkv`.
#[derive(Debug, Clone, Copy)]
pub struct HeadNormRopeBackward {
    /// act [T, (Hq+2Hk)·D], the operation's input.
    pub qkv: Buffer,
    /// act [T, (Hq+Hk)·D].
    pub dqk: Buffer,
    /// Whose `positions` turn them.
    pub rows: Rows,
    /// Norm weights and angles.
    pub rotary: Rotary,
    /// act [T, (Hq+2Hk)·D]; its v columns stay.
    pub dqkv: Buffer,
}

impl Operation for HeadNormRopeBackward {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let (rows, heads) = (self.rows.count, self.rotary.heads);
        self.rotary.operands(to, self.qkv, &self.rows)?;
        to.read("dqk", self.dqk, rows * heads.qk_width());
        to.update("dqkv", self.dqkv, rows * heads.qkv_width());
        Ok(())
    }
}
