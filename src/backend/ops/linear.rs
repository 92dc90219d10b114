//! Products with a frozen weight, the adapters' low-rank terms included.

use super::{
    Access, LoraPart, Mask, Operands, Operation,
    operands::{DENSE, one},
    product, rows_of,
};
use crate::{
    backend::{Buffer, DType},
    quant::nf4,
};

/// A frozen weight matrix W of shape [n, k] (out, in).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weight {
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// How it is stored.
    pub store: WeightStore,
}

/// Storage of a frozen weight matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WeightStore {
    /// Elements in row-major order: Bf16 or F32 [n·k].
    Dense(Buffer),
    /// bitsandbytes NF4, block 64. `k` is a multiple of 64.
    Nf4 {
        /// U8 [n·k/2], the high nibble is the even element.
        packed: Buffer,
        /// F32 [n·k/64], decoded (no double quantisation left).
        absmax: Buffer,
        /// Bf16: code·absmax rounded once to bf16 (ties to even). F32: not rounded.
        compute: DType,
    },
}

impl Weight {
    /// Rows `first..first + n` of it. Blocks of NF4 never cross a row, so the parts are slices too.
    #[must_use]
    pub fn rows(&self, first: usize, n: usize) -> Self {
        let (at, len) = (first * self.k, n * self.k);
        let store = match self.store {
            WeightStore::Dense(d) => WeightStore::Dense(d.slice(at, len)),
            WeightStore::Nf4 { packed, absmax, compute } => WeightStore::Nf4 {
                packed: packed.slice(at / 2, len / 2),
                absmax: absmax.slice(at / nf4::BLOCK, len / nf4::BLOCK),
                compute,
            },
        };
        Self { n, k: self.k, store }
    }

    /// Whether it is stored in NF4.
    pub fn is_packed(&self) -> bool {
        matches!(self.store, WeightStore::Nf4 { .. })
    }

    /// Adds its buffers, which are read.
    pub(super) fn operands(&self, to: &mut Operands) -> Result<(), String> {
        if self.n == 0 || self.k == 0 {
            return Err(format!("W is [{}, {}]", self.n, self.k));
        }
        let len = self.n * self.k;
        match self.store {
            WeightStore::Dense(dense) => to.add(Access::Read, "W", dense, DENSE, len),
            WeightStore::Nf4 { packed, absmax, compute } => {
                if !self.k.is_multiple_of(nf4::BLOCK) {
                    return Err(format!("an NF4 weight of width {} (not a multiple of {})", self.k, nf4::BLOCK));
                }
                if !DENSE.contains(&compute) {
                    return Err(format!("compute type {compute:?}, expected Bf16 or F32"));
                }
                to.add(Access::Read, "packed W", packed, one(DType::U8), len / 2);
                to.read_f32("absmax of W", absmax, len / nf4::BLOCK);
            }
        }
        Ok(())
    }
}

/// `y = z·Wᵀ + Σ scale·u·Bᵀ (+ add)`; the parts' `u` are ready ([`super::LoraDown`]). PyTorch: `F.linear`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// act [T, k].
    pub z: Buffer,
    /// W.
    pub w: Weight,
    /// Adapters of the modules fused in W.
    pub parts: Vec<LoraPart>,
    /// act [T, n]; may be `y` itself.
    pub add: Option<Buffer>,
    /// act [T, n].
    pub y: Buffer,
}

impl Linear {
    /// T.
    pub fn rows(&self) -> usize {
        self.z.len().checked_div(self.w.k).unwrap_or(0)
    }
}

impl Operation for Linear {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let (n, k) = (self.w.n, self.w.k);
        let rows = rows_of("z", self.z.len(), k)?;
        to.read("z", self.z, rows * k);
        self.w.operands(to)?;
        for part in &self.parts {
            part.check(n)?;
            to.read("u", part.u, rows * part.r);
            to.read("B", part.b, part.out.len() * part.r);
        }
        match self.add {
            Some(add) if add == self.y => to.update("y", self.y, rows * n),
            add => {
                if let Some(add) = add {
                    to.read("add", add, rows * n);
                }
                to.write("y", self.y, rows * n);
            }
        }
        Ok(())
    }

    fn flops(&self) -> f64 {
        let low_rank = self.parts.iter().map(|p| product(self.rows(), p.out.len(), p.r));
        product(self.rows(), self.w.n, self.w.k) + low_rank.sum::<f64>()
    }
}

/// `dz = dy·W + Σ drop'(v·A)`; the parts' `v` are ready ([`super::LoraBackward`]).
#[derive(Debug, Clone)]
pub struct LinearBackward {
    /// act [T, n].
    pub dy: Buffer,
    /// W.
    pub w: Weight,
    /// Adapters of the modules fused in W.
    pub parts: Vec<LoraPart>,
    /// Dropout of the adapters' input; without it, none.
    pub mask: Option<Mask>,
    /// act [T, k].
    pub dz: Buffer,
}

impl LinearBackward {
    /// T.
    pub fn rows(&self) -> usize {
        self.dy.len().checked_div(self.w.n).unwrap_or(0)
    }
}

impl Operation for LinearBackward {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let (n, k) = (self.w.n, self.w.k);
        let rows = rows_of("dy", self.dy.len(), n)?;
        to.read("dy", self.dy, rows * n);
        self.w.operands(to)?;
        for part in &self.parts {
            part.check(n)?;
            to.read("v", part.v, rows * part.r);
            to.read("A", part.a, part.r * k);
        }
        if let (Some(mask), false) = (&self.mask, self.parts.is_empty()) {
            mask.operands(to, rows);
        }
        to.write("dz", self.dz, rows * k);
        Ok(())
    }

    fn flops(&self) -> f64 {
        let low_rank = self.parts.iter().map(|p| product(self.rows(), p.r, self.w.k));
        product(self.rows(), self.w.n, self.w.k) + low_rank.sum::<f64>()
    }
}
