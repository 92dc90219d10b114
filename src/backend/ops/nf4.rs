//! Weights into NF4 and out of it, bit for bit as bitsandbytes (see [`crate::quant`]).

use super::{
    Access, Operands, Operation, Weight,
    memory::{floats, written},
    operands::DENSE,
};
use crate::{
    backend::{Buffer, DType, HostTensor},
    quant::nf4,
    rng::NearNormal,
};

/// The two buffers of `len` quantised elements.
fn packed(to: &mut Operands, packed: Buffer, absmax: Buffer, len: usize) -> Result<(), String> {
    if !len.is_multiple_of(nf4::BLOCK) {
        return Err(format!("{len} elements are not whole blocks of {}", nf4::BLOCK));
    }
    to.push(written("packed", packed, DType::U8, len / 2));
    to.push(written("absmax", absmax, DType::F32, len / nf4::BLOCK));
    Ok(())
}

/// Quantises a tensor in host memory. PyTorch: `bitsandbytes.functional.quantize_4bit(quant_type="nf4", blocksize=64)`.
#[derive(Debug, Clone, Copy)]
pub struct LoadNf4<'a> {
    /// F32, Bf16 or F16; whole blocks of 64.
    pub src: HostTensor<'a>,
    /// U8 [len/2], the high nibble is the even element.
    pub packed: Buffer,
    /// F32 [len/64].
    pub absmax: Buffer,
}

impl Operation for LoadNf4<'_> {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        packed(to, self.packed, self.absmax, floats("src", self.src)?)
    }
}

/// [`LoadNf4`] of random elements as [`NearNormal`] says.
#[derive(Debug, Clone, Copy)]
pub struct MakeNf4 {
    /// Which elements; they are bf16.
    pub recipe: NearNormal,
    /// U8 [len/2].
    pub packed: Buffer,
    /// F32 [len/64].
    pub absmax: Buffer,
}

impl Operation for MakeNf4 {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        packed(to, self.packed, self.absmax, 2 * self.packed.len())
    }
}

/// `dst` = W as dense elements: for an NF4 weight code·absmax, rounded as its `compute` says.
/// PyTorch: `bitsandbytes.functional.dequantize_4bit`.
#[derive(Debug, Clone, Copy)]
pub struct Dequantize {
    /// The weight.
    pub w: Weight,
    /// F32 or Bf16 [n·k].
    pub dst: Buffer,
}

impl Operation for Dequantize {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        self.w.operands(to)?;
        to.add(Access::Write, "dst", self.dst, DENSE, self.w.n * self.w.k);
        Ok(())
    }
}
