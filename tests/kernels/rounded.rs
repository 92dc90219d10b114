//! The cpu backend with its activations rounded to bf16 wherever the CUDA backend stores them so: what is left between
//! the two is the order of sums, and the few places where a kernel rounds inside.

use crate::harness::round;
use irori::{
    Result,
    backend::{
        AdamW, Backend, Buffer, HeadNormRope, Heads, HostTensor, KvCache, LoraPart, Rows, Sizes, Weight,
        cpu::CpuBackend,
    },
    rng::Dropout,
};

/// The backend. Adapters are rounded when they are set, so their working copy is what CUDA's is.
pub struct Rounded(pub CpuBackend);

impl Rounded {
    fn round(&mut self, b: Buffer) -> Result<()> {
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&self.0.read(b)?);
        values.iter_mut().for_each(|x| *x = round(*x));
        self.0.write(b, bytemuck::cast_slice(&values))
    }
}

impl Backend for Rounded {
    fn sizes(&self) -> &dyn Sizes {
        self.0.sizes()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn allocate(&mut self, bytes: usize, host_bytes: usize, scratch: Buffer) -> Result<()> {
        self.0.allocate(bytes, host_bytes, scratch)
    }

    fn write(&mut self, dst: Buffer, data: &[u8]) -> Result<()> {
        self.0.write(dst, data)
    }

    fn read(&mut self, src: Buffer) -> Result<Vec<u8>> {
        self.0.read(src)
    }

    fn convert(&mut self, src: Buffer, dst: Buffer) -> Result<()> {
        self.0.convert(src, dst)?;
        self.round(dst)
    }

    fn lora_down(&mut self, z: Buffer, k: usize, rows: &Rows, parts: &[LoraPart], drop: Option<Dropout>) -> Result<()> {
        self.0.lora_down(z, k, rows, parts, drop)?;
        parts.iter().try_for_each(|p| self.round(p.u))
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
        self.0.lora_backward(z, k, dy, n, rows, parts, drop)?;
        parts.iter().try_for_each(|p| self.round(p.v))
    }

    fn embed(&mut self, table: Buffer, rows: &Rows, out: Buffer) -> Result<()> {
        self.0.embed(table, rows, out)?;
        self.round(out)
    }

    fn rmsnorm(&mut self, x: Buffer, w: Buffer, eps: f32, y: Buffer) -> Result<()> {
        self.0.rmsnorm(x, w, eps, y)?;
        self.round(y)
    }

    fn linear(&mut self, z: Buffer, w: &Weight, parts: &[LoraPart], add: Option<Buffer>, y: Buffer) -> Result<()> {
        self.0.linear(z, w, parts, add, y)?;
        self.round(y)
    }

    fn headnorm_rope(&mut self, qkv: Buffer, rows: &Rows, p: &HeadNormRope, qk: Buffer) -> Result<()> {
        self.0.headnorm_rope(qkv, rows, p, qk)?;
        self.round(qk)
    }

    fn attention(&mut self, qk: Buffer, qkv: Buffer, rows: &Rows, heads: Heads, o: Buffer, lse: Buffer) -> Result<()> {
        self.0.attention(qk, qkv, rows, heads, o, lse)?;
        self.round(o)
    }

    fn swiglu(&mut self, gu: Buffer, f: usize, s: Buffer) -> Result<()> {
        self.0.swiglu(gu, f, s)?;
        self.round(s)
    }

    fn gather_rows(&mut self, x: Buffer, index: Buffer, width: usize, out: Buffer) -> Result<()> {
        self.0.gather_rows(x, index, width, out)
    }

    fn log_softmax_at(&mut self, logits: Buffer, vocab: usize, ids: Buffer, c: usize, out: Buffer) -> Result<()> {
        self.0.log_softmax_at(logits, vocab, ids, c, out)
    }

    fn argmax(&mut self, logits: Buffer, vocab: usize, out: Buffer) -> Result<()> {
        self.0.argmax(logits, vocab, out)
    }

    fn cross_entropy(
        &mut self,
        logits: Buffer,
        vocab: usize,
        targets: Buffer,
        grad_scale: f32,
        loss: Buffer,
    ) -> Result<()> {
        self.0.cross_entropy(logits, vocab, targets, grad_scale, loss)?;
        self.round(logits)
    }

    fn scatter_rows(&mut self, src: Buffer, index: Buffer, width: usize, x: Buffer) -> Result<()> {
        self.0.scatter_rows(src, index, width, x)
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
        self.0.rmsnorm_backward(x, w, eps, dy, add, dx)?;
        self.round(dx)
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
        self.0.linear_backward(dy, w, rows, parts, drop, dz)?;
        self.round(dz)
    }

    fn swiglu_backward(&mut self, gu: Buffer, f: usize, ds: Buffer) -> Result<()> {
        self.0.swiglu_backward(gu, f, ds)?;
        self.round(gu)
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
        self.0.attention_backward(qk, qkv, o, lse, do_, rows, heads, dqk, dqkv)?;
        self.round(dqk)?;
        self.round(dqkv)
    }

    fn headnorm_rope_backward(
        &mut self,
        qkv: Buffer,
        dqk: Buffer,
        rows: &Rows,
        p: &HeadNormRope,
        dqkv: Buffer,
    ) -> Result<()> {
        self.0.headnorm_rope_backward(qkv, dqk, rows, p, dqkv)?;
        self.round(dqkv)
    }

    fn global_norm(&mut self, grad: Buffer, norm: Buffer) -> Result<()> {
        self.0.global_norm(grad, norm)
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
        self.0.adamw(p, norm, grad, m, v, master, working)
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
        self.0.kv_store(qk, qkv, rows, slots, heads, cache)
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
        self.0.attention_cached(qk, rows, slots, heads, cache, o)?;
        self.round(o)
    }

    fn zero(&mut self, dst: Buffer) -> Result<()> {
        self.0.zero(dst)
    }

    fn copy(&mut self, src: Buffer, dst: Buffer) -> Result<()> {
        self.0.copy(src, dst)
    }

    fn load_dense(&mut self, src: HostTensor, dst: Buffer) -> Result<()> {
        self.0.load_dense(src, dst)
    }

    fn load_nf4(&mut self, src: HostTensor, packed: Buffer, absmax: Buffer) -> Result<()> {
        self.0.load_nf4(src, packed, absmax)
    }

    fn dequantize(&mut self, w: &Weight, dst: Buffer) -> Result<()> {
        self.0.dequantize(w, dst)
    }
}
