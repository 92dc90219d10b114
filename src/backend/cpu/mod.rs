//! The CPU: f32 activations, multi-threaded, the reference for everything and the device where there is no GPU.
//!
//! | file | operations |
//! |---|---|
//! | `memory` | the arena; write, read, copy, convert, load |
//! | `elementwise` | SwiGLU, embedding, gather, scatter |
//! | `norm`, `rope` | RMSNorm; head norm with rotary embedding |
//! | `linear`, `lora` | products with frozen weights; with adapters |
//! | `attention`, `cache` | training and scoring; generation |
//! | `loss`, `optim` | softmax over the vocabulary; norm, clipping, AdamW |
//! | `access`, `matmul`, `dropout` | buffers to slices; matrix products; masks |
//!
//! Every operation runs to its end before it returns. Sums have a fixed order that depends on shapes and never on the
//! number of threads: work is cut into the same pieces however many threads take them, and the `gemm` crate does not split
//! the inner dimension of a product over threads.

mod access;
mod attention;
mod cache;
mod dropout;
mod elementwise;
mod linear;
mod lora;
mod loss;
mod matmul;
mod memory;
mod norm;
mod optim;
mod rope;
#[cfg(test)]
mod tests;

use super::{
    AdamW, Backend, Buffer, DType, HeadNormRope, Heads, HostTensor, KvCache, LoraPart, OperationTime, Rows,
    ScratchShape, Sizes, Space, Weight, arena::ALIGN,
};
use crate::{Error, Result, rng::Dropout};
use access::Access;
pub use matmul::measure_gflops;
use memory::Arena;
use std::time::Instant;

/// Element types and scratch of the CPU backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuSizes;

impl Sizes for CpuSizes {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn activation(&self) -> DType {
        DType::F32
    }

    fn scratch_bytes(&self, s: &ScratchShape) -> usize {
        let (n, k) = s.largest_weight;
        let aligned = |elements: usize| (elements * 4).next_multiple_of(ALIGN);
        let widest = s.widest.max(s.hidden).max(k);
        let panel = aligned(linear::panel_elements(widest, (n * k).max(s.vocab * s.hidden)));
        let few = aligned(linear::FEW_ROWS * s.vocab.max(widest).max(n));
        let masked = if s.training && s.rank > 0 { aligned(lora::CHUNK.min(s.rows) * widest) } else { 0 };
        let delta = if s.training { aligned(s.rows * s.heads.q) } else { 0 };
        let losses = aligned(s.logit_rows);
        let norm = if s.training { aligned(2 * optim::norm_scratch(s.adapter)) } else { 0 };
        (panel + masked).max(few).max(delta).max(losses).max(norm)
    }
}

/// The CPU backend: an arena in main memory and a pool of threads.
pub struct CpuBackend {
    threads: rayon::ThreadPool,
    arena: Arena,
    scratch: Buffer,
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
        Ok(Self { threads, arena: Arena::default(), scratch: Buffer::empty(DType::U8), times: Vec::new() })
    }

    /// Runs one operation in the pool.
    fn run<T: Send>(&mut self, operation: &'static str, f: impl FnOnce(&mut Access) -> Result<T> + Send) -> Result<T> {
        let Self { threads, arena, scratch, times } = self;
        let scratch = scratch.range();
        let began = Instant::now();
        let (bytes, host) = arena.parts();
        let result = threads.install(|| f(&mut Access::new(operation, bytes, host, scratch)));
        let seconds = began.elapsed().as_secs_f64();
        match times.iter_mut().find(|t| t.operation == operation) {
            Some(time) => {
                time.calls += 1;
                time.seconds += seconds;
            }
            None => times.push(OperationTime { operation, calls: 1, seconds }),
        }
        result
    }
}

/// Rows of `width` elements in `b`.
fn rows_of(m: &Access, name: &str, b: Buffer, width: usize) -> Result<usize> {
    if width == 0 || !b.len().is_multiple_of(width) {
        return Err(m.error(format!("{name} of {} elements is not rows of {width}", b.len())));
    }
    Ok(b.len() / width)
}

/// Fails if the heads make no sense.
fn check_heads(m: &Access, heads: Heads) -> Result<()> {
    if heads.kv == 0 || heads.dim == 0 || heads.q == 0 || !heads.q.is_multiple_of(heads.kv) {
        return Err(m.error(format!("impossible heads: {heads:?}")));
    }
    Ok(())
}

/// Fails if a matrix has no columns.
fn check_width(m: &Access, name: &str, width: usize) -> Result<()> {
    if width == 0 { Err(m.error(format!("{name} has no columns"))) } else { Ok(()) }
}

impl Backend for CpuBackend {
    fn sizes(&self) -> &dyn Sizes {
        &CpuSizes
    }

    fn describe(&self) -> String {
        let n = self.threads.current_num_threads();
        format!("CPU, {n} thread{}, {}", if n == 1 { "" } else { "s" }, instructions())
    }

    fn take_times(&mut self) -> Result<Vec<OperationTime>> {
        let mut times = std::mem::take(&mut self.times);
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }

    fn allocate(&mut self, bytes: usize, host_bytes: usize, scratch: Buffer) -> Result<()> {
        if scratch.range().end > bytes || scratch.space() != Space::Device {
            return Err(Error::failed(format!("scratch ends at byte {} of an arena of {bytes}", scratch.range().end)));
        }
        self.arena = Arena::new(bytes, host_bytes)?;
        self.scratch = scratch;
        Ok(())
    }

    fn write(&mut self, dst: Buffer, data: &[u8]) -> Result<()> {
        self.run("write", |m| memory::write(m, dst, data))
    }

    fn read(&mut self, src: Buffer) -> Result<Vec<u8>> {
        self.run("read", |m| m.read_bytes("src", src).map(<[u8]>::to_vec))
    }

    fn zero(&mut self, dst: Buffer) -> Result<()> {
        self.run("zero", |m| m.write_bytes("dst", dst).map(|b| b.fill(0)))
    }

    fn copy(&mut self, src: Buffer, dst: Buffer) -> Result<()> {
        self.run("copy", |m| memory::copy(m, src, dst))
    }

    fn convert(&mut self, src: Buffer, dst: Buffer) -> Result<()> {
        self.run("convert", |m| memory::convert(m, src, dst))
    }

    fn load_dense(&mut self, src: HostTensor, dst: Buffer) -> Result<()> {
        self.run("load_dense", |m| memory::load_dense(m, src, dst))
    }

    fn load_nf4(&mut self, src: HostTensor, packed: Buffer, absmax: Buffer) -> Result<()> {
        self.run("load_nf4", |m| memory::load_nf4(m, src, packed, absmax))
    }

    fn dequantize(&mut self, w: &Weight, dst: Buffer) -> Result<()> {
        self.run("dequantize", |m| linear::dequantize(m, w, dst))
    }

    fn embed(&mut self, table: Buffer, rows: &Rows, out: Buffer) -> Result<()> {
        self.run("embed", |m| elementwise::embed(m, table, rows, out))
    }

    fn rmsnorm(&mut self, x: Buffer, w: Buffer, eps: f32, y: Buffer) -> Result<()> {
        self.run("rmsnorm", |m| norm::forward(m, x, w, eps, y))
    }

    fn lora_down(&mut self, z: Buffer, k: usize, rows: &Rows, parts: &[LoraPart], drop: Option<Dropout>) -> Result<()> {
        self.run("lora_down", |m| lora::down(m, z, k, rows, parts, drop))
    }

    fn linear(&mut self, z: Buffer, w: &Weight, parts: &[LoraPart], add: Option<Buffer>, y: Buffer) -> Result<()> {
        self.run("linear", |m| linear::forward(m, z, w, parts, add, y))
    }

    fn headnorm_rope(&mut self, qkv: Buffer, rows: &Rows, p: &HeadNormRope, qk: Buffer) -> Result<()> {
        self.run("headnorm_rope", |m| rope::forward(m, qkv, rows, p, qk))
    }

    fn attention(&mut self, qk: Buffer, qkv: Buffer, rows: &Rows, heads: Heads, o: Buffer, lse: Buffer) -> Result<()> {
        self.run("attention", |m| attention::forward(m, qk, qkv, rows, heads, o, lse))
    }

    fn swiglu(&mut self, gu: Buffer, f: usize, s: Buffer) -> Result<()> {
        self.run("swiglu", |m| elementwise::swiglu(m, gu, f, s))
    }

    fn gather_rows(&mut self, x: Buffer, index: Buffer, width: usize, out: Buffer) -> Result<()> {
        self.run("gather_rows", |m| elementwise::gather_rows(m, x, index, width, out))
    }

    fn log_softmax_at(&mut self, logits: Buffer, vocab: usize, ids: Buffer, c: usize, out: Buffer) -> Result<()> {
        self.run("log_softmax_at", |m| loss::log_softmax_at(m, logits, vocab, ids, c, out))
    }

    fn argmax(&mut self, logits: Buffer, vocab: usize, out: Buffer) -> Result<()> {
        self.run("argmax", |m| loss::argmax(m, logits, vocab, out))
    }

    fn cross_entropy(
        &mut self,
        logits: Buffer,
        vocab: usize,
        targets: Buffer,
        grad_scale: f32,
        loss: Buffer,
    ) -> Result<()> {
        self.run("cross_entropy", |m| loss::cross_entropy(m, logits, vocab, targets, grad_scale, loss))
    }

    fn scatter_rows(&mut self, src: Buffer, index: Buffer, width: usize, x: Buffer) -> Result<()> {
        self.run("scatter_rows", |m| elementwise::scatter_rows(m, src, index, width, x))
    }

    fn rmsnorm_backward(
        &mut self,
        x: Buffer,
        w: Buffer,
        eps: f32,
        dy: Buffer,
        add: Option<Buffer>,
        dx: Buffer,
    ) -> Result<()> {
        self.run("rmsnorm_backward", |m| norm::backward(m, x, w, eps, dy, add, dx))
    }

    fn lora_backward(
        &mut self,
        z: Buffer,
        k: usize,
        dy: Buffer,
        n: usize,
        rows: &Rows,
        parts: &[LoraPart],
        drop: Option<Dropout>,
    ) -> Result<()> {
        self.run("lora_backward", |m| lora::backward(m, z, k, dy, n, rows, parts, drop))
    }

    fn linear_backward(
        &mut self,
        dy: Buffer,
        w: &Weight,
        rows: &Rows,
        parts: &[LoraPart],
        drop: Option<Dropout>,
        dz: Buffer,
    ) -> Result<()> {
        self.run("linear_backward", |m| linear::backward(m, dy, w, rows, parts, drop, dz))
    }

    fn swiglu_backward(&mut self, gu: Buffer, f: usize, ds: Buffer) -> Result<()> {
        self.run("swiglu_backward", |m| elementwise::swiglu_backward(m, gu, f, ds))
    }

    fn attention_backward(
        &mut self,
        qk: Buffer,
        qkv: Buffer,
        o: Buffer,
        lse: Buffer,
        do_: Buffer,
        rows: &Rows,
        heads: Heads,
        dqk: Buffer,
        dqkv: Buffer,
    ) -> Result<()> {
        let read = [qk, qkv, o, lse, do_];
        self.run("attention_backward", |m| attention::backward(m, read, rows, heads, dqk, dqkv))
    }

    fn headnorm_rope_backward(
        &mut self,
        qkv: Buffer,
        dqk: Buffer,
        rows: &Rows,
        p: &HeadNormRope,
        dqkv: Buffer,
    ) -> Result<()> {
        self.run("headnorm_rope_backward", |m| rope::backward(m, qkv, dqk, rows, p, dqkv))
    }

    fn global_norm(&mut self, grad: Buffer, norm: Buffer) -> Result<()> {
        self.run("global_norm", |m| optim::global_norm(m, grad, norm))
    }

    fn adamw(
        &mut self,
        p: &AdamW,
        norm: Buffer,
        grad: Buffer,
        m: Buffer,
        v: Buffer,
        master: Buffer,
        working: Buffer,
    ) -> Result<()> {
        self.run("adamw", |access| optim::adamw(access, p, norm, grad, [m, v], master, working))
    }

    fn kv_store(
        &mut self,
        qk: Buffer,
        qkv: Buffer,
        rows: &Rows,
        slots: Buffer,
        heads: Heads,
        cache: &KvCache,
    ) -> Result<()> {
        self.run("kv_store", |m| cache::store(m, qk, qkv, rows, slots, heads, cache))
    }

    fn attention_cached(
        &mut self,
        qk: Buffer,
        rows: &Rows,
        slots: Buffer,
        heads: Heads,
        cache: &KvCache,
        o: Buffer,
    ) -> Result<()> {
        self.run("attention_cached", |m| cache::attention(m, qk, rows, slots, heads, cache, o))
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
