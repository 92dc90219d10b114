//! From [`Buffer`]s to slices of one arena.
//!
//! An operation gets the slices of the operands that it has declared, each for the access that it has declared: what is
//! written once, what is read any number of times. That they do not overlap has been checked before
//! ([`crate::backend::check`]).

use crate::{
    Error, Result,
    backend::{
        Buffer, DType, Space,
        arena::ALIGN,
        check::{self, Checked, Extent},
        ops::{Access as Use, Operand},
    },
};
use bytemuck::Pod;
use half::bf16;
use std::{marker::PhantomData, ops::Range};

/// An element type that a buffer can hold.
pub(super) trait Element: Pod + Send + Sync {
    /// Its name in [`DType`].
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

/// The arena as one operation sees it.
pub(super) struct Access<'a> {
    operation: &'static str,
    operands: &'a [Operand],
    /// Of each operand, whether it was lent for writing.
    lent: Vec<bool>,
    base: *mut u8,
    /// Where the host's space begins.
    host: usize,
    scratch: Range<usize>,
    arena: PhantomData<&'a mut [u8]>,
}

impl<'a> Access<'a> {
    /// Opens `arena`, whose host space begins at byte `host`, for an operation that was checked against `extent`.
    pub fn new(checked: &'a Checked, arena: &'a mut [u8], host: usize, extent: &Extent) -> Result<Self> {
        let operation = checked.op().name();
        if extent.device > host || host + extent.host > arena.len() || extent.scratch.end > extent.device {
            return Err(check::error(operation, "the arena is not the one that was checked"));
        }
        let operands = checked.operands();
        let (lent, scratch) = (vec![false; operands.len()], extent.scratch.clone());
        Ok(Self { operation, operands, lent, base: arena.as_mut_ptr(), host, scratch, arena: PhantomData })
    }

    /// An error of this operation.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        check::error(self.operation, message)
    }

    /// The operand that is `b`, if it may be lent for `writing`.
    fn operand(&self, b: Buffer, writing: bool) -> Result<usize> {
        let wanted = |(i, o): (usize, &Operand)| {
            let free = if writing { o.access != Use::Read && !self.lent[i] } else { o.access == Use::Read };
            (o.buffer == b && free).then_some(i)
        };
        let access = if writing { "writing" } else { "reading" };
        self.operands
            .iter()
            .enumerate()
            .find_map(wanted)
            .ok_or_else(|| self.error(format!("bytes {:?} are not declared for {access}", b.range())))
    }

    /// First byte of `b`, if it holds elements of type T.
    fn start<T: Pod>(&self, b: Buffer) -> Result<*mut T> {
        let offset = match b.space() {
            Space::Device => b.offset(),
            Space::Host => self.host + b.offset(),
        };
        let start = self.base.wrapping_add(offset).cast::<T>();
        if start.is_aligned() { Ok(start) } else { Err(self.error(format!("byte {offset} is not aligned"))) }
    }

    fn typed<T: Element>(&self, b: Buffer) -> Result<()> {
        if b.dtype() == T::DTYPE {
            return Ok(());
        }
        Err(self.error(format!("a buffer of {:?} is opened as {:?}", b.dtype(), T::DTYPE)))
    }

    fn shared<T: Pod>(&self, b: Buffer, len: usize) -> Result<&'a [T]> {
        if len == 0 {
            return Ok(&[]);
        }
        self.operand(b, false)?;
        let start = self.start::<T>(b)?;
        // SAFETY: `b` is an operand, so `check` has found its bytes inside the arena, which `self` holds exclusively for 'a
        // and whose bytes are all initialised. It is declared as read, so no operand that is written overlaps it, nor does
        // scratch, and nothing else of the arena is ever lent for writing. Both callers pass the `len` that fills `b`'s
        // bytes; the start is aligned, and any bytes are a valid T (`Pod`).
        Ok(unsafe { std::slice::from_raw_parts(start, len) })
    }

    fn exclusive<T: Pod>(&mut self, b: Buffer, len: usize) -> Result<&'a mut [T]> {
        if len == 0 {
            return Ok(&mut []);
        }
        let i = self.operand(b, true)?;
        let start = self.start::<T>(b)?;
        self.lent[i] = true;
        // SAFETY: as in `shared`; the operand is declared as written, so no other operand and no scratch overlaps it, and
        // `lent` keeps it from being lent a second time.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }

    /// `b` for reading.
    pub fn read<T: Element>(&self, b: Buffer) -> Result<&'a [T]> {
        self.typed::<T>(b)?;
        self.shared(b, b.len())
    }

    /// `b` for writing.
    pub fn write<T: Element>(&mut self, b: Buffer) -> Result<&'a mut [T]> {
        self.typed::<T>(b)?;
        self.exclusive(b, b.len())
    }

    /// Bytes of `b` for reading, whatever its type.
    pub fn read_bytes(&self, b: Buffer) -> Result<&'a [u8]> {
        self.shared(b, b.bytes())
    }

    /// Bytes of `b` for writing, whatever its type.
    pub fn write_bytes(&mut self, b: Buffer) -> Result<&'a mut [u8]> {
        self.exclusive(b, b.bytes())
    }

    /// `len` elements of scratch that this operation has not used yet; their content is arbitrary.
    pub fn scratch<T: Element>(&mut self, len: usize) -> Result<&'a mut [T]> {
        let need = (len * size_of::<T>()).next_multiple_of(ALIGN);
        if need > self.scratch.len() {
            return Err(self.error(format!("needs {need} bytes of scratch, {} are left", self.scratch.len())));
        }
        let start = self.base.wrapping_add(self.scratch.start).cast::<T>();
        self.scratch.start += need;
        if len == 0 {
            return Ok(&mut []);
        }
        if !start.is_aligned() {
            return Err(self.error("scratch is not aligned"));
        }
        // SAFETY: `new` has found scratch inside the arena, `check` that no operand overlaps it, and what was lent of it is
        // cut off above. The bytes are initialised, `len` elements fit into them, and any bytes are a valid T (`Pod`).
        Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{
        Kind, Layout,
        ops::{Embed, Rows, SwiGlu},
    };

    /// Runs `f` on an operation over an arena of `layout`, whose first bytes are scratch.
    fn with(op: impl Into<crate::backend::Op<'static>>, layout: &Layout, f: impl FnOnce(Access)) {
        let (op, device, host) = (op.into(), layout.bytes(), layout.host_bytes());
        let extent = Extent { device, host, scratch: 0..256 };
        let checked = check::check(&op, DType::F32, &extent).unwrap();
        let mut arena = vec![[0u64; 32]; (device + host) / 256];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut arena);
        f(Access::new(&checked, bytes, device, &extent).unwrap());
    }

    #[test]
    fn operands_are_lent_as_declared_and_what_is_written_once() {
        let mut layout = Layout::new();
        let [scratch, gu, s, other] = [8, 64, 32, 32].map(|len| layout.take(Kind::Workspace, DType::F32, len));
        with(SwiGlu { gu, width: 8, s }, &layout, |mut m| {
            assert_eq!((m.read::<f32>(gu).unwrap().len(), m.read::<f32>(gu).unwrap().len()), (64, 64));
            assert!(m.write::<f32>(gu).unwrap_err().to_string().contains("not declared for writing"));
            m.write::<f32>(s).unwrap().fill(1.0);
            assert!(m.write::<f32>(s).is_err(), "lent already");
            assert!(m.read::<f32>(s).is_err(), "declared as written");
            assert!(m.read::<f32>(other).is_err() && m.read::<f32>(scratch).is_err());
            assert!(m.read::<u32>(gu).unwrap_err().to_string().contains("F32 is opened as U32"));
            assert_eq!(m.scratch::<f32>(3).unwrap().len(), 3);
            let e = m.scratch::<f32>(1).unwrap_err().to_string();
            assert!(e.starts_with("swiglu: needs 256 bytes of scratch, 0 are left"), "{e}");
        });
    }

    #[test]
    fn each_space_has_its_own_bytes() {
        let mut layout = Layout::new();
        layout.take(Kind::Scratch, DType::F32, 64);
        let (tokens, out) = (layout.take(Kind::Batch, DType::U32, 2), layout.take(Kind::Workspace, DType::F32, 8));
        let table = layout.take_host(Kind::EmbeddingAndHead, DType::F32, 64);
        let rows =
            Rows { count: 2, docs: 1, max_len: 2, tokens, positions: tokens, samples: tokens, cu_seqlens: tokens };
        with(Embed { table, rows, out }, &layout, |mut m| {
            let (table, out) = (m.read::<f32>(table).unwrap(), m.write::<f32>(out).unwrap());
            assert_eq!(
                table.as_ptr() as usize - out.as_ptr() as usize,
                256,
                "the host's space comes after the device's"
            );
        });
    }
}
