//! SwiGLU (Shazeer 2020).

use super::{Operands, Operation, rows_of};
use crate::backend::Buffer;

/// `s = silu(g)∘u`. PyTorch: `F.silu(g) * u`.
#[derive(Debug, Clone, Copy)]
pub struct SwiGlu {
    /// act [T, 2F]: g, then u, in each row.
    pub gu: Buffer,
    /// F.
    pub width: usize,
    /// act [T, F].
    pub s: Buffer,
}

impl Operation for SwiGlu {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("s", self.s.len(), self.width)?;
        to.read("gu", self.gu, 2 * rows * self.width);
        to.write("s", self.s, rows * self.width);
        Ok(())
    }
}

/// Gradient of [`SwiGlu`]: with σ = 1/(1+e⁻ᵍ), `dg = ds∘u∘σ∘(1 + g∘(1−σ))`, `du = ds∘g∘σ`, written over g and u.
#[derive(Debug, Clone, Copy)]
pub struct SwiGluBackward {
    /// act [T, 2F]: g, u in; dg, du out.
    pub gu: Buffer,
    /// F.
    pub width: usize,
    /// act [T, F].
    pub ds: Buffer,
}

impl Operation for SwiGluBackward {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("ds", self.ds.len(), self.width)?;
        to.read("ds", self.ds, rows * self.width);
        to.update("gu", self.gu, 2 * rows * self.width);
        Ok(())
    }
}
