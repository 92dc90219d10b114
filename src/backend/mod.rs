//! What a model is computed on: operations as data, and the devices that run them.
//!
//! # Design
//! - **A device runs operations** ([`ops`]): [`Backend::run`] takes one, checks it ([`check`]) and queues it. Nothing but
//!   [`Backend::read`] (and taking times) waits.
//! - **Memory.** Buffers are opaque typed handles ([`Buffer`]) out of one arena laid out beforehand ([`arena::Layout`]).
//! - **What a device is** can be asked before there is one ([`Properties`]): element types, limits, scratch, costs. The planner
//!   works from this alone.

pub mod arena;
pub mod check;
pub mod cpu;
pub mod cuda;
pub mod ops;

use crate::Result;
pub use crate::tensor::{DType, HostTensor};
pub use arena::{Buffer, Kind, Layout, Space};
pub use ops::{AdamW, Heads, KvCache, LoraPart, Op, Rows, Weight, WeightStore};

/// Time spent in one operation.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct OperationTime {
    /// Its name, see [`Op::name`].
    pub operation: &'static str,
    /// Calls.
    pub calls: u64,
    /// Seconds in all of them.
    pub seconds: f64,
}

/// What a run asks of a device beside memory.
#[derive(Debug, Clone, Copy)]
pub struct Demands {
    /// Heads.
    pub heads: Heads,
    /// Hidden size H.
    pub hidden: usize,
    /// Intermediate size F.
    pub intermediate: usize,
    /// Vocabulary rows of the head.
    pub vocab: usize,
    /// Rank of the adapter; 0 without one.
    pub lora_rank: usize,
    /// Whether some linear is stored in NF4.
    pub quantized: bool,
    /// Whether the head is.
    pub quantized_head: bool,
    /// Type that quantised weights are rounded to.
    pub compute: DType,
    /// Storage of dense weights.
    pub dense: DType,
    /// Sequences generated at once; 0 without generation.
    pub kv_slots: usize,
}

/// What packed weights cost beside the product that they are used in: for the time model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unpacking {
    /// They are dequantised to elements of this type, which are written to memory and read again.
    ToScratch(DType),
    /// They are decoded inside the product, which takes longer by this part of its time.
    InProduct(f64),
}

/// What is known of a backend before it exists: element types, limits, memory and costs. The planner works from this alone.
pub trait Properties {
    /// "cpu" or "cuda".
    fn name(&self) -> &'static str;
    /// Type of activations and of the adapter's working copy. F32: the working copy is the master copy itself.
    fn activation(&self) -> DType;
    /// Bytes of scratch that suffice for this operation, and for the same with fewer rows.
    fn scratch(&self, op: &Op) -> usize;
    /// Fails where the backend's operations do not take what a run asks for.
    ///
    /// # Errors
    /// Names the setting and what the backend takes.
    fn check(&self, _demands: &Demands) -> Result<()> {
        Ok(())
    }
    /// What packed weights cost beside their product.
    fn unpacking(&self) -> Unpacking {
        Unpacking::ToScratch(self.activation())
    }
    /// Whether the device has memory of its own, so that a buffer in host memory takes none of it.
    fn own_memory(&self) -> bool {
        false
    }
}

/// A device with an arena.
pub trait Backend: Send {
    /// Element types, limits and scratch of this backend.
    fn properties(&self) -> &dyn Properties;

    /// A name for people: "CPU, 2 threads, AVX2".
    fn describe(&self) -> String;

    /// Takes the arena: `bytes` on the device and `host_bytes` in host memory that the device can read. What it holds is
    /// arbitrary. Remembers `scratch`, which lies on the device, for the operations' own use. Called once.
    ///
    /// # Errors
    /// If the memory cannot be had.
    fn allocate(&mut self, bytes: usize, host_bytes: usize, scratch: Buffer) -> Result<()>;

    /// Copies host bytes to the start of `dst`: `data.len()` ≤ `dst.bytes()`.
    ///
    /// # Errors
    /// If they do not fit, or the device fails.
    fn write(&mut self, dst: Buffer, data: &[u8]) -> Result<()>;

    /// Waits for everything queued and copies `src` to the host.
    ///
    /// # Errors
    /// If `src` does not lie in the arena, or the device fails, now or in something queued before.
    fn read(&mut self, src: Buffer) -> Result<Vec<u8>>;

    /// Checks an operation and queues it.
    ///
    /// # Errors
    /// If its buffers are not what it needs, or the device fails.
    fn run(&mut self, op: &Op) -> Result<()>;

    /// Whether [`Backend::take_times`] is wanted, where measuring costs something: on a GPU, two events an operation.
    fn measure_times(&mut self, _on: bool) {}

    /// Time spent in each operation since the last call, the longest first. On a GPU by its own clock, and empty unless
    /// asked for by [`Backend::measure_times`]; waits for what is queued.
    ///
    /// # Errors
    /// If the device fails.
    fn take_times(&mut self) -> Result<Vec<OperationTime>> {
        Ok(Vec::new())
    }
}
