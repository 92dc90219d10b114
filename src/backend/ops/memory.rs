//! Elements moved, converted, or brought in from the host.

use super::{
    Access, Operand, Operands, Operation,
    operands::{DENSE, one},
};
use crate::{
    backend::{Buffer, DType, HostTensor},
    rng::NearNormal,
};

/// All bytes of `dst` become zero. PyTorch: `dst.zero_()`.
#[derive(Debug, Clone, Copy)]
pub struct Zero {
    /// Any type.
    pub dst: Buffer,
}

impl Operation for Zero {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        to.raw(Access::Write, "dst", self.dst);
        Ok(())
    }
}

/// `dst = src`, of equal type and length. PyTorch: `dst.copy_(src)`.
#[derive(Debug, Clone, Copy)]
pub struct Copy {
    /// Any type.
    pub src: Buffer,
    /// The same type and length.
    pub dst: Buffer,
}

impl Operation for Copy {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let (src, dst) = (self.src, self.dst);
        if (src.dtype(), src.len()) != (dst.dtype(), dst.len()) {
            return Err(format!("{} {:?} to {} {:?}", src.len(), src.dtype(), dst.len(), dst.dtype()));
        }
        to.raw(Access::Read, "src", src);
        to.raw(Access::Write, "dst", dst);
        Ok(())
    }
}

/// `dst = src` from F32 to F32 or Bf16, rounding to nearest even. The two may be one F32 buffer, which then stays as it is.
/// PyTorch: `dst.copy_(src)`.
#[derive(Debug, Clone, Copy)]
pub struct Convert {
    /// F32.
    pub src: Buffer,
    /// F32 or Bf16, as many elements.
    pub dst: Buffer,
}

impl Operation for Convert {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        if self.src != self.dst {
            to.add(Access::Write, "dst", self.dst, DENSE, self.src.len());
        }
        to.read_f32("src", self.src, self.src.len());
        Ok(())
    }
}

/// `dst` = a tensor in host memory, converted to `dst`'s type.
#[derive(Debug, Clone, Copy)]
pub struct LoadDense<'a> {
    /// F32, Bf16 or F16.
    pub src: HostTensor<'a>,
    /// F32 or Bf16, as many elements; on the device or in host memory.
    pub dst: Buffer,
}

impl Operation for LoadDense<'_> {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let len = Some(floats("src", self.src)?);
        let dst = self.dst;
        to.push(Operand {
            name: "dst",
            buffer: dst,
            access: Access::Write,
            types: DENSE,
            len,
            longer: false,
            host: true,
        });
        Ok(())
    }
}

/// Elements of a tensor of the host, if it has a floating-point type.
pub(super) fn floats(name: &str, t: HostTensor) -> Result<usize, String> {
    if !matches!(t.dtype, DType::F32 | DType::Bf16 | DType::F16) {
        return Err(format!("{name} is a tensor of {:?}, expected F32, Bf16 or F16", t.dtype));
    }
    super::rows_of(name, t.bytes.len(), t.dtype.size())
}

/// `dst` = random elements as [`NearNormal`] says: [`LoadDense`] of a tensor that has no bytes.
#[derive(Debug, Clone, Copy)]
pub struct MakeDense {
    /// Which elements; they are bf16.
    pub recipe: NearNormal,
    /// F32 or Bf16; on the device or in host memory.
    pub dst: Buffer,
}

impl Operation for MakeDense {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let dst = self.dst;
        let (access, len) = (Access::Write, Some(dst.len()));
        to.push(Operand { name: "dst", buffer: dst, access, types: DENSE, len, longer: false, host: true });
        Ok(())
    }
}

impl Operand {
    /// Whether its buffer has a type that it may have.
    pub(in crate::backend) fn has_type(&self) -> bool {
        self.types.is_empty() || self.types.contains(&self.buffer.dtype())
    }

    /// The types that it may have, for messages.
    pub(in crate::backend) fn type_names(&self) -> String {
        self.types.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" or ")
    }
}

/// A buffer of the type `dtype` that is written in full.
pub(super) fn written(name: &'static str, buffer: Buffer, dtype: DType, len: usize) -> Operand {
    Operand { name, buffer, access: Access::Write, types: one(dtype), len: Some(len), longer: false, host: false }
}
