//! The CPU: f32 activations, multi-threaded, the reference for everything and the device where there is no GPU.
//!
//! | file | operations |
//! |---|---|
//! | `memory` | the arena; zero, copy, convert, dense tensors from the host |
//! | `rows`, `norm`, `rope`, `swiglu`, `linear`, `lora`, `nf4`, `attention`, `cache`, `loss`, `optim` | the operations of the file of this name in [`super::ops`] |
//! | `access`, `matmul`, `dropout` | buffers to slices; matrix products; masks |
//!
//! Every operation runs to its end before it returns. Sums have a fixed order that depends on shapes and never on the
//! number of threads: work is cut into the same pieces however many threads take them, and the `gemm` crate does not split
//! the inner dimension of a product over threads.

mod access;
mod attention;
mod cache;
mod dropout;
mod linear;
mod lora;
mod loss;
mod matmul;
mod memory;
mod nf4;
mod norm;
mod optim;
mod rope;
mod rows;
mod swiglu;
#[cfg(test)]
mod tests;

use super::{
    Backend, Buffer, DType, OperationTime, Properties, Space,
    arena::ALIGN,
    check::{self, Extent},
    ops::Op,
};
use crate::{Error, Result};
use access::Access;
pub use matmul::measure_gflops;
use memory::Arena;
use std::time::Instant;

/// Element types and scratch of the CPU backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuProperties;

impl Properties for CpuProperties {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn activation(&self) -> DType {
        DType::F32
    }

    fn scratch(&self, op: &Op) -> usize {
        let bytes = match op {
            Op::Linear(op) => linear::forward_scratch(op),
            Op::LinearBackward(op) => linear::backward_scratch(op),
            Op::LoraDown(op) => lora::mask_elements(op.mask, op.rows(), op.k) * size_of::<f32>(),
            Op::LoraBackward(op) => lora::mask_elements(op.mask, op.rows(), op.k) * size_of::<f32>(),
            Op::AttentionBackward(op) => attention::backward_scratch(op),
            Op::CrossEntropy(op) => loss::cross_entropy_scratch(op),
            Op::GlobalNorm(op) => optim::norm_scratch(op),
            _ => 0,
        };
        bytes.next_multiple_of(ALIGN)
    }
}

/// The CPU backend: an arena in main memory and a pool of threads.
pub struct CpuBackend {
    threads: rayon::ThreadPool,
    arena: Arena,
    extent: Extent,
    times: Vec<OperationTime>,
}

impl CpuBackend {
    /// A backend with `threads` threads; `None` takes as many as the system offers.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let count = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("cpu-{i}"))
            .build()
            .map_err(|e| Error::failed(format!("cannot start {count} threads: {e}")))?;
        Ok(Self { threads, arena: Arena::default(), extent: Extent::default(), times: Vec::new() })
    }

    /// Adds the time since `began` to that of `operation`.
    fn count(&mut self, operation: &'static str, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        match self.times.iter_mut().find(|t| t.operation == operation) {
            Some(t) => (t.calls, t.seconds) = (t.calls + 1, t.seconds + seconds),
            None => self.times.push(OperationTime { operation, calls: 1, seconds }),
        }
    }
}

/// The form of each operation on the CPU.
fn execute(m: &mut Access, op: &Op) -> Result<()> {
    match op {
        Op::Zero(op) => memory::zero(m, op),
        Op::Copy(op) => memory::copy(m, op),
        Op::Convert(op) => memory::convert(m, op),
        Op::LoadDense(op) => memory::load_dense(m, op),
        Op::MakeDense(op) => memory::make_dense(m, op),
        Op::LoadNf4(op) => nf4::load(m, op),
        Op::MakeNf4(op) => nf4::make(m, op),
        Op::Dequantize(op) => nf4::dequantize(m, op),
        Op::Embed(op) => rows::embed(m, op),
        Op::GatherRows(op) => rows::gather(m, op),
        Op::ScatterRows(op) => rows::scatter(m, op),
        Op::RmsNorm(op) => norm::forward(m, op),
        Op::RmsNormBackward(op) => norm::backward(m, op),
        Op::HeadNormRope(op) => rope::forward(m, op),
        Op::HeadNormRopeBackward(op) => rope::backward(m, op),
        Op::SwiGlu(op) => swiglu::forward(m, op),
        Op::SwiGluBackward(op) => swiglu::backward(m, op),
        Op::Linear(op) => linear::forward(m, op),
        Op::LinearBackward(op) => linear::backward(m, op),
        Op::LoraDown(op) => lora::down(m, op),
        Op::LoraBackward(op) => lora::backward(m, op),
        Op::Attention(op) => attention::forward(m, op),
        Op::AttentionBackward(op) => attention::backward(m, op),
        Op::KvStore(op) => cache::store(m, op),
        Op::AttentionCached(op) => cache::attention(m, op),
        Op::LogSoftmaxAt(op) => loss::log_softmax_at(m, op),
        Op::Argmax(op) => loss::argmax(m, op),
        Op::CrossEntropy(op) => loss::cross_entropy(m, op),
        Op::GlobalNorm(op) => optim::global_norm(m, op),
        Op::AdamWUpdate(op) => optim::adamw(m, op),
    }
}

impl Backend for CpuBackend {
    fn properties(&self) -> &dyn Properties {
        &CpuProperties
    }

    fn describe(&self) -> String {
        let n = self.threads.current_num_threads();
        format!("CPU, {n} thread{}, {}", if n == 1 { "" } else { "s" }, instructions())
    }

    fn allocate(&mut self, bytes: usize, host_bytes: usize, scratch: Buffer) -> Result<()> {
        if scratch.range().end > bytes || scratch.space() != Space::Device {
            let end = scratch.range().end;
            return Err(Error::internal(format!("scratch ends at byte {end} of an arena of {bytes}")));
        }
        self.arena = Arena::new(bytes, host_bytes)?;
        self.extent = Extent { device: bytes, host: host_bytes, scratch: scratch.range() };
        Ok(())
    }

    fn write(&mut self, dst: Buffer, data: &[u8]) -> Result<()> {
        let began = Instant::now();
        self.arena
            .bytes_mut("write", dst)?
            .get_mut(..data.len())
            .map(|to| to.copy_from_slice(data))
            .ok_or_else(|| check::error("write", format!("{} bytes into a buffer of {}", data.len(), dst.bytes())))?;
        self.count("write", began);
        Ok(())
    }

    fn read(&mut self, src: Buffer) -> Result<Vec<u8>> {
        let began = Instant::now();
        let bytes = self.arena.bytes_mut("read", src)?.to_vec();
        self.count("read", began);
        Ok(bytes)
    }

    fn run(&mut self, op: &Op) -> Result<()> {
        let checked = check::check(op, DType::F32, &self.extent)?;
        let Self { threads, arena, extent, .. } = self;
        let began = Instant::now();
        let (bytes, host) = arena.parts();
        threads.install(|| execute(&mut Access::new(&checked, bytes, host, extent)?, op))?;
        self.count(op.name(), began);
        Ok(())
    }

    fn take_times(&mut self) -> Result<Vec<OperationTime>> {
        let mut times = std::mem::take(&mut self.times);
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}

/// The widest vector instructions that are used.
fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return "AVX2";
        }
    }
    std::env::consts::ARCH
}
