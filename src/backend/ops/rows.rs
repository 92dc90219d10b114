//! The rows of a micro-batch, and whole rows moved by index.

use super::{
    Access, Operand, Operands, Operation,
    operands::{DENSE, one},
    rows_of,
};
use crate::backend::{Buffer, DType};

/// The rows of a micro-batch on the device.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Number of rows T.
    pub count: usize,
    /// Number of documents.
    pub docs: usize,
    /// Length of the longest document.
    pub max_len: usize,
    /// Token ids, `U32 [T]`.
    pub tokens: Buffer,
    /// Position of each row in its document, `U32 [T]`.
    pub positions: Buffer,
    /// Number of the sample that each row belongs to, `U32 [T]`; part of the dropout counter.
    pub samples: Buffer,
    /// First row of each document, then T: U32 [docs + 1].
    pub cu_seqlens: Buffer,
}

/// `out[t] = table[tokens[t]]`. PyTorch: `F.embedding`.
#[derive(Debug, Clone, Copy)]
pub struct Embed {
    /// F32 or Bf16 [V, H], on the device or in host memory.
    pub table: Buffer,
    /// Whose `tokens` are looked up.
    pub rows: Rows,
    /// act [T, H].
    pub out: Buffer,
}

impl Embed {
    /// H.
    pub fn width(&self) -> usize {
        self.out.len().checked_div(self.rows.count).unwrap_or(0)
    }
}

impl Operation for Embed {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        if self.rows.count == 0 {
            return Err("there are no rows".into());
        }
        let width = self.width();
        rows_of("table", self.table.len(), width)?;
        to.push(Operand {
            name: "table",
            buffer: self.table,
            access: Access::Read,
            types: DENSE,
            len: Some(width),
            longer: true,
            host: true,
        });
        to.read_indices("tokens", self.rows.tokens, self.rows.count);
        to.write("out", self.out, self.rows.count * width);
        Ok(())
    }
}

/// `out[i] = x[index[i]]` for whole rows. PyTorch: `x.index_select(0, index)`.
#[derive(Debug, Clone, Copy)]
pub struct GatherRows {
    /// act [T, width].
    pub x: Buffer,
    /// Rows of x, `U32 [R]`.
    pub index: Buffer,
    /// Elements of a row.
    pub width: usize,
    /// act [R, width].
    pub out: Buffer,
}

impl Operation for GatherRows {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("x", self.x.len(), self.width)?;
        to.read("x", self.x, rows * self.width);
        to.add(Access::Read, "index", self.index, one(DType::U32), self.index.len());
        to.write("out", self.out, self.index.len() * self.width);
        Ok(())
    }
}

/// `x[index[i]] = src[i]` for whole rows; `index` has no duplicates, and rows it does not name stay.
/// PyTorch: `x.index_copy_(0, index, src)`.
#[derive(Debug, Clone, Copy)]
pub struct ScatterRows {
    /// act [R, width].
    pub src: Buffer,
    /// Rows of x, `U32 [R]`.
    pub index: Buffer,
    /// Elements of a row.
    pub width: usize,
    /// act [T, width].
    pub x: Buffer,
}

impl Operation for ScatterRows {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("x", self.x.len(), self.width)?;
        to.read("src", self.src, self.index.len() * self.width);
        to.add(Access::Read, "index", self.index, one(DType::U32), self.index.len());
        to.update("x", self.x, rows * self.width);
        Ok(())
    }
}
