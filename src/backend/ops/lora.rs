//! The adapters' skinny products (Hu et al. 2021).

use super::{Access, Operands, Operation, operands::one, product, rows_of};
use crate::{
    backend::{Buffer, DType},
    rng::Dropout,
};
use std::ops::Range;

/// One module's adapter inside a (possibly fused) linear layer: rows `out` of W belong to it.
#[derive(Debug, Clone)]
pub struct LoraPart {
    /// Number of the module in [`crate::model::Module::ALL`]; part of the dropout counter.
    pub module: u32,
    /// Columns of the layer's output that this module makes. `n = out.len()`.
    pub out: Range<usize>,
    /// Rank.
    pub r: usize,
    /// alpha/r, or alpha/√r with rsLoRA.
    pub scale: f32,
    /// A, working copy, act [r, k].
    pub a: Buffer,
    /// B, working copy, act [n, r].
    pub b: Buffer,
    /// Gradient of A, f32 [r, k]; empty outside training.
    pub da: Buffer,
    /// Gradient of B, f32 [n, r]; empty outside training.
    pub db: Buffer,
    /// u = drop(z)·Aᵀ, act [T, r].
    pub u: Buffer,
    /// v = scale·dy·B, act [T, r]; empty outside training.
    pub v: Buffer,
}

impl LoraPart {
    /// Its columns lie in a layer of `n`.
    pub(super) fn check(&self, n: usize) -> Result<(), String> {
        if self.out.start > self.out.end || self.out.end > n {
            return Err(format!("an adapter on columns {:?} of {n}", self.out));
        }
        Ok(())
    }
}

/// Dropout of an adapter's input: the mask is a function of the key and of where a row stands, so it is made again wherever
/// it is needed.
#[derive(Debug, Clone, Copy)]
pub struct Mask {
    /// Probability and key.
    pub dropout: Dropout,
    /// Sample of each row, `U32 [T]`.
    pub samples: Buffer,
    /// Position of each row in its document, `U32 [T]`.
    pub positions: Buffer,
}

impl Mask {
    pub(super) fn operands(&self, to: &mut Operands, rows: usize) {
        to.read_indices("samples", self.samples, rows);
        to.read_indices("positions", self.positions, rows);
    }
}

/// Each part's `u = drop(z)·Aᵀ`.
#[derive(Debug, Clone)]
pub struct LoraDown {
    /// act [T, k].
    pub z: Buffer,
    /// k.
    pub k: usize,
    /// Adapters that read z.
    pub parts: Vec<LoraPart>,
    /// Dropout of z; without it, none.
    pub mask: Option<Mask>,
}

impl LoraDown {
    /// T.
    pub fn rows(&self) -> usize {
        self.z.len().checked_div(self.k).unwrap_or(0)
    }
}

impl Operation for LoraDown {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("z", self.z.len(), self.k)?;
        to.read("z", self.z, rows * self.k);
        if let Some(mask) = &self.mask {
            mask.operands(to, rows);
        }
        for part in &self.parts {
            to.read("A", part.a, part.r * self.k);
            to.write("u", part.u, rows * part.r);
        }
        Ok(())
    }

    fn flops(&self) -> f64 {
        self.parts.iter().map(|p| product(self.rows(), p.r, self.k)).sum()
    }
}

/// Each part's `v = scale·dy·B`, `dB += scale·dyᵀ·u`, `dA += vᵀ·drop(z)`. A part sees its own columns of dy.
#[derive(Debug, Clone)]
pub struct LoraBackward {
    /// act [T, k], the layer's input.
    pub z: Buffer,
    /// k.
    pub k: usize,
    /// act [T, n], the gradient of the whole fused layer.
    pub dy: Buffer,
    /// n.
    pub n: usize,
    /// Adapters; `v`, `da` and `db` are written.
    pub parts: Vec<LoraPart>,
    /// Dropout of z; without it, none.
    pub mask: Option<Mask>,
}

impl LoraBackward {
    /// T.
    pub fn rows(&self) -> usize {
        self.z.len().checked_div(self.k).unwrap_or(0)
    }
}

impl Operation for LoraBackward {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("z", self.z.len(), self.k)?;
        to.read("z", self.z, rows * self.k);
        to.read("dy", self.dy, rows * self.n);
        if let Some(mask) = &self.mask {
            mask.operands(to, rows);
        }
        for part in &self.parts {
            part.check(self.n)?;
            let (r, width) = (part.r, part.out.len());
            to.read("B", part.b, width * r);
            to.read("u", part.u, rows * r);
            to.write("v", part.v, rows * r);
            to.add(Access::Update, "dA", part.da, one(DType::F32), r * self.k);
            to.add(Access::Update, "dB", part.db, one(DType::F32), width * r);
        }
        Ok(())
    }

    fn flops(&self) -> f64 {
        let of = |p: &LoraPart| 2.0 * product(self.rows(), p.r, p.out.len()) + product(self.rows(), p.r, self.k);
        self.parts.iter().map(of).sum()
    }
}
