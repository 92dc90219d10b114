//! The one check in front of every device: types, lengths, bounds, alignment and aliasing of an operation's buffers.

use super::{
    Buffer, DType, Space,
    ops::{Access, Op, Operand, Operands},
};
use crate::{Error, Result};
use std::ops::Range;

/// How far an arena reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes on the device.
    pub device: usize,
    /// Bytes in host memory.
    pub host: usize,
    /// Bytes on the device that are the operations' own: scratch.
    pub scratch: Range<usize>,
}

impl Extent {
    fn of(&self, space: Space) -> usize {
        match space {
            Space::Device => self.device,
            Space::Host => self.host,
        }
    }

    /// Fails if `b` ends behind the arena.
    pub(super) fn holds(&self, name: &str, b: Buffer) -> Result<(), String> {
        let (end, have) = (b.range().end, self.of(b.space()));
        if end > have && !b.is_empty() {
            return Err(format!("{name} ends at byte {end} of an arena of {have}"));
        }
        Ok(())
    }
}

/// An operation that has been checked. Only [`check`] makes one, so whoever holds it may rely on what it says: every
/// operand lies in the arena, is aligned and of the type and length that the operation needs, and what is written overlaps
/// no other operand.
#[derive(Debug)]
pub struct Checked<'a> {
    op: &'a Op<'a>,
    operands: Operands,
}

impl<'a> Checked<'a> {
    /// The operation.
    pub fn op(&self) -> &'a Op<'a> {
        self.op
    }

    /// Its operands.
    pub(super) fn operands(&self) -> &[Operand] {
        self.operands.list()
    }
}

/// Checks an operation for a device whose activations are of type `act`.
///
/// # Errors
/// [`Error::Internal`] naming operation and buffer: a mistake of the caller, never of a user's input.
pub fn check<'a>(op: &'a Op<'a>, act: DType, arena: &Extent) -> Result<Checked<'a>> {
    let mut operands = Operands::new(act);
    op.as_operation()
        .operands(&mut operands)
        .and_then(|()| operands.list().iter().try_for_each(|o| one(o, arena)))
        .and_then(|()| aliasing(operands.list()))
        .map_err(|message| error(op.name(), message))?;
    Ok(Checked { op, operands })
}

/// An error of the operation `name`.
pub(super) fn error(name: &str, message: impl std::fmt::Display) -> Error {
    Error::internal(format!("{name}: {message}"))
}

fn one(o: &Operand, arena: &Extent) -> Result<(), String> {
    let (name, b) = (o.name, o.buffer);
    let found = b.len();
    if !(o.has_type() || b.is_empty() && o.len == Some(0)) {
        return Err(format!("{name} is {:?}, expected {}", b.dtype(), o.type_names()));
    }
    match o.len {
        Some(len) if found < len || (found > len && !o.longer) => {
            return Err(format!("{name} has {found} elements, expected {len}"));
        }
        _ => {}
    }
    if !b.offset().is_multiple_of(b.dtype().size()) {
        return Err(format!("{name} starts at byte {}, which is not aligned", b.offset()));
    }
    if b.space() == Space::Host && !o.host {
        return Err(format!("{name} lies in host memory"));
    }
    if b.space() == Space::Device && overlap(&b.range(), &arena.scratch) {
        return Err(format!("{name} (bytes {:?}) overlaps scratch (bytes {:?})", b.range(), arena.scratch));
    }
    arena.holds(name, b)
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Fails if something that is written overlaps something else.
fn aliasing(operands: &[Operand]) -> Result<(), String> {
    for (i, o) in operands.iter().enumerate() {
        for other in &operands[..i] {
            let written = o.access != Access::Read || other.access != Access::Read;
            let (a, b) = (o.buffer.range(), other.buffer.range());
            if written && o.buffer.space() == other.buffer.space() && overlap(&a, &b) {
                return Err(format!("{} (bytes {a:?}) overlaps {} (bytes {b:?})", o.name, other.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{
        Kind, Layout,
        ops::{Copy, GatherRows, RmsNorm, RmsNormBackward, Zero},
    };

    struct Arena {
        layout: Layout,
    }

    impl Arena {
        /// Its first 256 bytes are scratch.
        fn new() -> Self {
            let mut layout = Layout::new();
            layout.take(Kind::Scratch, DType::U8, 1);
            Self { layout }
        }

        fn take(&mut self, dtype: DType, len: usize) -> Buffer {
            self.layout.take(Kind::Workspace, dtype, len)
        }

        fn check(&self, op: impl Into<Op<'static>>) -> String {
            let (op, device, host) = (op.into(), self.layout.bytes(), self.layout.host_bytes());
            let extent = Extent { device, host, scratch: 0..256 };
            check(&op, DType::F32, &extent).err().map_or(String::new(), |e| e.to_string())
        }
    }

    #[test]
    fn type_length_bounds_alignment_and_space_are_each_refused_by_name() {
        let mut a = Arena::new();
        let (x, y, w) = (a.take(DType::F32, 12), a.take(DType::F32, 12), a.take(DType::F32, 4));
        let norm = RmsNorm { x, w, eps: 1e-6, y };
        assert_eq!(a.check(norm), "");
        let bf16 = a.take(DType::Bf16, 12);
        assert!(a.check(RmsNorm { y: bf16, ..norm }).starts_with("rmsnorm: y is Bf16, expected F32"));
        assert!(a.check(RmsNorm { y: y.prefix(8), ..norm }).starts_with("rmsnorm: y has 8 elements, expected 12"));
        assert!(a.check(RmsNorm { w: y.prefix(5), ..norm }).contains("x of 12 elements is not rows of 5"));
        assert!(a.check(RmsNorm { w: y.prefix(0), ..norm }).contains("is not rows of 0"));
        let mut larger = Layout::new();
        larger.take(Kind::Workspace, DType::U8, 2 * a.layout.bytes());
        let beyond = larger.take(Kind::Workspace, DType::F32, 12);
        assert!(a.check(RmsNorm { y: beyond, ..norm }).contains("of an arena of 1280"));
        let host = a.layout.take_host(Kind::EmbeddingAndHead, DType::F32, 12);
        assert!(a.check(RmsNorm { x: host, ..norm }).contains("x lies in host memory"));
        assert_eq!(a.check(Zero { dst: host }), "");
        let scratch = Layout::new().take(Kind::Scratch, DType::F32, 12);
        assert!(a.check(RmsNorm { y: scratch, ..norm }).contains("y (bytes 0..48) overlaps scratch (bytes 0..256)"));
        assert!(a.check(Copy { src: x, dst: bf16 }).contains("12 F32 to 12 Bf16"));
    }

    #[test]
    fn what_is_written_overlaps_nothing_but_where_the_operation_says_so() {
        let mut a = Arena::new();
        let (x, w) = (a.take(DType::F32, 24), a.take(DType::F32, 4));
        let (dy, dx) = (a.take(DType::F32, 12), a.take(DType::F32, 12));
        let (low, high) = (x.prefix(12), x.slice(12, 12));
        assert_eq!(a.check(RmsNorm { x: low, w, eps: 0.0, y: high }), "");
        let e = a.check(RmsNorm { x: low, w, eps: 0.0, y: x.slice(4, 12) });
        assert!(e.starts_with("rmsnorm: y (bytes 272..320) overlaps x (bytes 256..304)"), "{e}");
        assert!(a.check(RmsNorm { x: low, w, eps: 0.0, y: low }).contains("overlaps"), "not in place");
        let backward = RmsNormBackward { x: low, w, eps: 0.0, dy, add: None, dx };
        for (dy, add) in [(dy, None), (dx, None), (dy, Some(dx)), (dx, Some(dx)), (dx, Some(dy)), (dy, Some(dy))] {
            assert_eq!(a.check(RmsNormBackward { dy, add, ..backward }), "");
        }
        assert!(a.check(RmsNormBackward { dx: low, ..backward }).contains("dx (bytes 256..304) overlaps x"));
        let index = a.take(DType::U32, 3);
        let gather = GatherRows { x: low, index, width: 4, out: high };
        assert_eq!(a.check(gather), "");
        assert!(a.check(GatherRows { out: low, ..gather }).contains("out (bytes 256..304) overlaps x"));
    }
}
