//! From [`Buffer`]s to slices: a small borrow checker for one arena, at run time.
//!
//! An operation asks for its buffers one by one; every byte may be lent once for writing or any number of times for
//! reading. What does not fit (overlap, type, length, end of the arena) is an error that names operation and buffer.

use crate::{
    Error, Result,
    backend::{Buffer, DType, Space},
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
    base: *mut u8,
    len: usize,
    host: usize,
    lent: Vec<(Range<usize>, bool)>,
    scratch: Range<usize>,
    arena: PhantomData<&'a mut [u8]>,
}

impl<'a> Access<'a> {
    /// Opens `arena`, whose host space begins at byte `host`, for `operation`, which may use the bytes of `scratch` for
    /// itself.
    pub fn new(operation: &'static str, arena: &'a mut [u8], host: usize, scratch: Range<usize>) -> Self {
        Self {
            operation,
            base: arena.as_mut_ptr(),
            len: arena.len(),
            host: host.min(arena.len()),
            lent: Vec::with_capacity(12),
            scratch,
            arena: PhantomData,
        }
    }

    /// An error of this operation.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::failed(format!("{}: {message}", self.operation))
    }

    /// Bytes `range` of a space as bytes of the arena.
    fn place(&self, name: &str, space: Space, range: Range<usize>) -> Result<Range<usize>> {
        let (start, len) = match space {
            Space::Device => (0, self.host),
            Space::Host => (self.host, self.len - self.host),
        };
        if range.start > range.end || range.end > len {
            return Err(self.error(format!("{name} ends at byte {} of an arena of {len}", range.end)));
        }
        Ok(start + range.start..start + range.end)
    }

    /// Lends bytes of the arena; the pointer is valid for `'a` for the access asked.
    fn lend(&mut self, name: &str, range: Range<usize>, write: bool) -> Result<*mut u8> {
        if range.end > self.len {
            return Err(self.error(format!("{name} ends at byte {} of an arena of {}", range.end, self.len)));
        }
        if range.is_empty() {
            return Ok(self.base);
        }
        let clash = |(other, written): &(Range<usize>, bool)| {
            (write || *written) && other.start < range.end && range.start < other.end
        };
        if let Some((other, _)) = self.lent.iter().find(|l| clash(l)) {
            return Err(self.error(format!("{name} (bytes {range:?}) overlaps another buffer (bytes {other:?})")));
        }
        self.lent.push((range.clone(), write));
        Ok(self.base.wrapping_add(range.start))
    }

    /// The first `len` elements of `b` as a range, if it has the type and length.
    fn check<T: Element>(&self, name: &str, b: Buffer, len: usize, exact: bool) -> Result<Range<usize>> {
        if b.dtype() != T::DTYPE && !(b.is_empty() && len == 0) {
            return Err(self.error(format!("{name} is {:?}, expected {:?}", b.dtype(), T::DTYPE)));
        }
        if if exact { b.len() != len } else { b.len() < len } {
            return Err(self.error(format!("{name} has {} elements, expected {len}", b.len())));
        }
        if !b.offset().is_multiple_of(size_of::<T>()) {
            return Err(self.error(format!("{name} starts at byte {}, which is not aligned", b.offset())));
        }
        self.place(name, b.space(), b.offset()..b.offset() + len * size_of::<T>())
    }

    /// `b` for reading; it has exactly `len` elements.
    pub fn read<T: Element>(&mut self, name: &str, b: Buffer, len: usize) -> Result<&'a [T]> {
        let range = self.check::<T>(name, b, len, true)?;
        self.shared(name, range, len)
    }

    /// The first `len` elements of `b` for reading.
    pub fn read_first<T: Element>(&mut self, name: &str, b: Buffer, len: usize) -> Result<&'a [T]> {
        let range = self.check::<T>(name, b, len, false)?;
        self.shared(name, range, len)
    }

    /// `b` for writing; it has exactly `len` elements.
    pub fn write<T: Element>(&mut self, name: &str, b: Buffer, len: usize) -> Result<&'a mut [T]> {
        let range = self.check::<T>(name, b, len, true)?;
        self.exclusive(name, range, len)
    }

    /// The first `len` elements of `b` for writing.
    pub fn write_first<T: Element>(&mut self, name: &str, b: Buffer, len: usize) -> Result<&'a mut [T]> {
        let range = self.check::<T>(name, b, len, false)?;
        self.exclusive(name, range, len)
    }

    /// Bytes of `b` for reading, whatever its type.
    pub fn read_bytes(&mut self, name: &str, b: Buffer) -> Result<&'a [u8]> {
        let range = self.place(name, b.space(), b.range())?;
        self.shared(name, range, b.bytes())
    }

    /// Bytes of `b` for writing, whatever its type.
    pub fn write_bytes(&mut self, name: &str, b: Buffer) -> Result<&'a mut [u8]> {
        let range = self.place(name, b.space(), b.range())?;
        self.exclusive(name, range, b.bytes())
    }

    /// `len` elements of scratch that this operation has not used yet; their content is arbitrary.
    pub fn scratch<T: Element>(&mut self, len: usize) -> Result<&'a mut [T]> {
        let need = (len * size_of::<T>()).next_multiple_of(crate::backend::arena::ALIGN);
        if need > self.scratch.len() {
            return Err(self.error(format!("needs {need} bytes of scratch, {} are left", self.scratch.len())));
        }
        let start = self.scratch.start;
        self.scratch.start += need;
        self.exclusive("scratch", start..start + len * size_of::<T>(), len)
    }

    fn shared<T: Pod>(&mut self, name: &str, range: Range<usize>, len: usize) -> Result<&'a [T]> {
        if len == 0 {
            return Ok(&[]);
        }
        let start = self.lend(name, range, false)?;
        if !start.cast::<T>().is_aligned() {
            return Err(self.error(format!("{name} is not aligned")));
        }
        // SAFETY: `lend` has checked that the range lies in the arena, which `self` holds exclusively for 'a and whose
        // bytes are all initialised, and that no part of it was lent for writing; nothing lent is ever lent again for
        // writing. The range holds `len` elements of T (both callers compute it so), the start is aligned, and any bytes
        // are a valid T (`Pod`).
        Ok(unsafe { std::slice::from_raw_parts(start.cast::<T>(), len) })
    }

    fn exclusive<T: Pod>(&mut self, name: &str, range: Range<usize>, len: usize) -> Result<&'a mut [T]> {
        if len == 0 {
            return Ok(&mut []);
        }
        let start = self.lend(name, range, true)?;
        if !start.cast::<T>().is_aligned() {
            return Err(self.error(format!("{name} is not aligned")));
        }
        // SAFETY: as in `shared`, and `lend` has checked that no part of the range was lent before at all.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.cast::<T>(), len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Kind, Layout};

    #[test]
    fn reads_may_overlap_writes_may_not() {
        let mut layout = Layout::new();
        let a = layout.take(Kind::Workspace, DType::F32, 64);
        let b = layout.take(Kind::Workspace, DType::F32, 64);
        let mut arena = vec![0u64; layout.bytes() / 8];
        let end = layout.bytes();
        let mut m = Access::new("test", bytemuck::cast_slice_mut(&mut arena), end, 0..0);
        m.read::<f32>("a", a, 64).unwrap();
        m.read::<f32>("a again", a.slice(3, 10), 10).unwrap();
        assert!(
            m.write::<f32>("y", a.slice(60, 4), 4)
                .unwrap_err()
                .to_string()
                .starts_with("test: y (bytes 240..256) overlaps")
        );
        m.write::<f32>("b", b, 64).unwrap();
        assert!(m.read::<f32>("b again", b, 64).is_err());
        assert!(m.write::<f32>("b again", b, 64).is_err());
    }

    #[test]
    fn each_space_has_its_own_bytes_and_its_own_end() {
        let mut layout = Layout::new();
        let device = layout.take(Kind::Workspace, DType::F32, 64);
        let host = layout.take_host(Kind::EmbeddingAndHead, DType::F32, 64);
        let beyond = Layout::new().take(Kind::Workspace, DType::F32, 65);
        let mut arena = vec![0u64; (layout.bytes() + layout.host_bytes()) / 8];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut arena);
        let mut m = Access::new("test", bytes, layout.bytes(), 0..0);
        m.write::<f32>("device", device, 64).unwrap().fill(1.0);
        m.write::<f32>("host", host, 64).unwrap().fill(2.0);
        assert_eq!(
            m.read::<f32>("beyond", beyond, 65).unwrap_err().to_string(),
            "test: beyond ends at byte 260 of an arena of 256"
        );
        assert!(m.read_bytes("host again", host).is_err(), "lent for writing");
        let values: &[f32] = bytemuck::cast_slice(&arena);
        assert_eq!((values[63], values[64]), (1.0, 2.0));
    }

    #[test]
    fn errors_say_what_was_found() {
        let mut layout = Layout::new();
        let a = layout.take(Kind::Workspace, DType::F32, 4);
        let mut arena = vec![0u64; 1];
        let mut m = Access::new("test", bytemuck::cast_slice_mut(&mut arena), 8, 0..8);
        assert_eq!(m.read::<u32>("a", a, 4).unwrap_err().to_string(), "test: a is F32, expected U32");
        assert_eq!(m.read::<f32>("a", a, 5).unwrap_err().to_string(), "test: a has 4 elements, expected 5");
        assert_eq!(m.read::<f32>("a", a, 4).unwrap_err().to_string(), "test: a ends at byte 16 of an arena of 8");
        assert_eq!(m.scratch::<f32>(3).unwrap_err().to_string(), "test: needs 256 bytes of scratch, 8 are left");
    }
}
