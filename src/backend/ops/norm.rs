//! RMSNorm (Zhang & Sennrich 2019).

use super::{Operands, Operation, rows_of};
use crate::backend::Buffer;

/// `y = x / √(mean(x²) + eps) · w` by rows. PyTorch: `F.rms_norm`.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// act [T, H].
    pub x: Buffer,
    /// `F32 [H]`.
    pub w: Buffer,
    /// Added to the mean square.
    pub eps: f32,
    /// act [T, H].
    pub y: Buffer,
}

impl Operation for RmsNorm {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("x", self.x.len(), self.w.len())?;
        to.read("x", self.x, rows * self.w.len());
        to.read_f32("w", self.w, self.w.len());
        to.write("y", self.y, rows * self.w.len());
        Ok(())
    }
}

/// Gradient of [`RmsNorm`] with frozen `w`: with ρ = 1/√(mean(x²)+eps), x̂ = x·ρ, g = dy∘w,
/// `dx = ρ·(g − x̂·mean(g∘x̂)) (+ add)`.
#[derive(Debug, Clone, Copy)]
pub struct RmsNormBackward {
    /// act [T, H], the norm's input.
    pub x: Buffer,
    /// `F32 [H]`.
    pub w: Buffer,
    /// Added to the mean square.
    pub eps: f32,
    /// act [T, H].
    pub dy: Buffer,
    /// act [T, H]; may be `dx` itself.
    pub add: Option<Buffer>,
    /// act [T, H]; may be `dy`.
    pub dx: Buffer,
}

impl Operation for RmsNormBackward {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let len = rows_of("x", self.x.len(), self.w.len())? * self.w.len();
        to.read("x", self.x, len);
        to.read_f32("w", self.w, self.w.len());
        let mut in_place = false;
        for (name, buffer) in [("dy", Some(self.dy)), ("add", self.add)] {
            match buffer {
                Some(b) if b == self.dx => in_place = true,
                Some(b) => to.read(name, b, len),
                None => {}
            }
        }
        if in_place {
            to.update("dx", self.dx, len)
        } else {
            to.write("dx", self.dx, len)
        }
        Ok(())
    }
}
