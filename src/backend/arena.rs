//! Planned memory: what a run needs is laid out as named items in one arena before anything is allocated.
//!
//! [`Layout`] is a bump allocator over offsets only. The planner runs the same layout code as the engine, so the bytes
//! that `irori plan` prints are the bytes that a run takes.

use super::DType;

/// Alignment of every buffer in the arena, in bytes (a cache line on the CPU, a sector pair and more on a GPU).
pub const ALIGN: usize = 256;

/// Where a buffer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// The device's own memory.
    Device,
    /// Memory of the host that the device reads over the bus (pinned, on CUDA). On the CPU it is memory like any other.
    Host,
}

/// An opaque handle on `len` elements in a backend's arena. Plain data: copying it copies no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    space: Space,
    offset: usize,
    len: usize,
    dtype: DType,
}

impl Buffer {
    /// A buffer of no elements, for places that a configuration leaves unused.
    pub const fn empty(dtype: DType) -> Self {
        Self { space: Space::Device, offset: 0, len: 0, dtype }
    }

    /// The part of the arena that it lies in; offsets of each begin at 0.
    pub fn space(&self) -> Space {
        self.space
    }

    /// First byte in its part of the arena.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a buffer of no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }

    /// Byte range in its part of the arena.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.bytes()
    }

    /// Elements `start..start + len` as a buffer of their own.
    ///
    /// # Panics
    /// If the range is not inside the buffer: a mistake in the graph, never in input.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "buffer slice {start}+{len} of {}", self.len);
        Self { offset: self.offset + start * self.dtype.size(), len, ..*self }
    }

    /// The first `len` elements.
    #[must_use]
    pub fn prefix(&self, len: usize) -> Self {
        self.slice(0, len)
    }
}

/// What an item of the arena is for; the rows of the plan's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Frozen weights in NF4, with their absmax.
    QuantizedWeights,
    /// Frozen weights kept or unpacked in a dense type.
    DenseWeights,
    /// Embedding, head and norm weights.
    EmbeddingAndHead,
    /// Adapter master weights and working copy.
    Adapter,
    /// Adapter gradients and AdamW moments.
    Optimizer,
    /// Activations that each layer keeps for the backward pass.
    SavedActivations,
    /// Activations shared by all layers.
    Workspace,
    /// A chunk of logits.
    Logits,
    /// Keys and values of the tokens generated so far.
    KvCache,
    /// Token ids, positions, targets.
    Batch,
    /// What operations of the backend need for themselves.
    Scratch,
}

impl Kind {
    /// The name shown in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::QuantizedWeights => "NF4 weights and absmax",
            Self::DenseWeights => "dense weights",
            Self::EmbeddingAndHead => "embedding, head, norms",
            Self::Adapter => "adapter weights",
            Self::Optimizer => "gradients and moments",
            Self::SavedActivations => "saved activations",
            Self::Workspace => "workspace",
            Self::Logits => "logits chunk",
            Self::KvCache => "KV cache",
            Self::Batch => "batch indices",
            Self::Scratch => "scratch",
        }
    }
}

/// A layout under construction: for the device and for host memory, a total and bytes by kind.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    device: Part,
    host: Part,
}

/// One space of a layout.
#[derive(Debug, Clone, Default)]
struct Part {
    bytes: usize,
    by_kind: std::collections::BTreeMap<Kind, usize>,
}

impl Part {
    fn take(&mut self, space: Space, kind: Kind, dtype: DType, len: usize) -> Buffer {
        let offset = self.bytes;
        let size = (len * dtype.size()).next_multiple_of(ALIGN);
        self.bytes += size;
        *self.by_kind.entry(kind).or_default() += size;
        Buffer { space, offset, len, dtype }
    }
}

impl Layout {
    /// An empty layout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Places `len` elements of `dtype`; alignment padding is counted to `kind`.
    pub fn take(&mut self, kind: Kind, dtype: DType, len: usize) -> Buffer {
        self.device.take(Space::Device, kind, dtype, len)
    }

    /// The same in host memory. Few operations take such a buffer; see [`super::Backend`].
    pub fn take_host(&mut self, kind: Kind, dtype: DType, len: usize) -> Buffer {
        self.host.take(Space::Host, kind, dtype, len)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.device.bytes
    }

    /// Bytes in host memory.
    pub fn host_bytes(&self) -> usize {
        self.host.bytes
    }

    /// Bytes on the device of each kind that occurs, in the order of [`Kind`]. They add up to [`Layout::bytes`].
    pub fn by_kind(&self) -> impl Iterator<Item = (Kind, usize)> + '_ {
        self.device.by_kind.iter().map(|(k, b)| (*k, *b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_do_not_overlap_and_add_up() {
        let mut layout = Layout::new();
        let a = layout.take(Kind::Workspace, DType::F32, 3);
        let b = layout.take(Kind::Batch, DType::U32, 65);
        let c = layout.take(Kind::Workspace, DType::Bf16, 1);
        assert_eq!((a.range(), b.range(), c.range()), (0..12, 256..516, 768..770));
        assert_eq!(layout.bytes(), 1024);
        assert_eq!(layout.by_kind().map(|(_, n)| n).sum::<usize>(), 1024);
        assert_eq!(b.slice(60, 5).range(), 496..516);
        let h = layout.take_host(Kind::EmbeddingAndHead, DType::Bf16, 200);
        assert_eq!((h.space(), h.slice(100, 10).space(), h.range()), (Space::Host, Space::Host, 0..400));
        assert_eq!((layout.bytes(), layout.host_bytes(), a.space()), (1024, 512, Space::Device));
    }
}
