//! The operations as calls with positional arguments. Passing: callers move to [`Op`].
#![allow(missing_docs, clippy::too_many_arguments, clippy::missing_errors_doc)]

use super::{Backend, Buffer, HostTensor, ops::*};
use crate::{
    Result,
    rng::{Bell, Dropout},
};

fn mask(drop: Option<Dropout>, rows: &Rows) -> Option<Mask> {
    drop.map(|dropout| Mask { dropout, samples: rows.samples, positions: rows.positions })
}

pub trait Calls: Backend {
    fn zero(&mut self, dst: Buffer) -> Result<()> {
        self.run(&Zero { dst }.into())
    }
    fn copy(&mut self, src: Buffer, dst: Buffer) -> Result<()> {
        self.run(&Copy { src, dst }.into())
    }
    fn convert(&mut self, src: Buffer, dst: Buffer) -> Result<()> {
        self.run(&Convert { src, dst }.into())
    }
    fn load_dense(&mut self, src: HostTensor, dst: Buffer) -> Result<()> {
        self.run(&LoadDense { src, dst }.into())
    }
    fn load_nf4(&mut self, src: HostTensor, packed: Buffer, absmax: Buffer) -> Result<()> {
        self.run(&LoadNf4 { src, packed, absmax }.into())
    }
    fn make_dense(&mut self, bell: &Bell, dst: Buffer) -> Result<()> {
        self.run(&MakeDense { bell: *bell, dst }.into())
    }
    fn make_nf4(&mut self, bell: &Bell, packed: Buffer, absmax: Buffer) -> Result<()> {
        self.run(&MakeNf4 { bell: *bell, packed, absmax }.into())
    }
    fn dequantize(&mut self, w: &Weight, dst: Buffer) -> Result<()> {
        self.run(&Dequantize { w: *w, dst }.into())
    }
    fn embed(&mut self, table: Buffer, rows: &Rows, out: Buffer) -> Result<()> {
        self.run(&Embed { table, rows: *rows, out }.into())
    }
    fn rmsnorm(&mut self, x: Buffer, w: Buffer, eps: f32, y: Buffer) -> Result<()> {
        self.run(&RmsNorm { x, w, eps, y }.into())
    }
    fn lora_down(&mut self, z: Buffer, k: usize, rows: &Rows, parts: &[LoraPart], drop: Option<Dropout>) -> Result<()> {
        self.run(&LoraDown { z, k, parts: parts.to_vec(), mask: mask(drop, rows) }.into())
    }
    fn linear(&mut self, z: Buffer, w: &Weight, parts: &[LoraPart], add: Option<Buffer>, y: Buffer) -> Result<()> {
        self.run(&Linear { z, w: *w, parts: parts.to_vec(), add, y }.into())
    }
    fn headnorm_rope(&mut self, qkv: Buffer, rows: &Rows, p: &Rotary, qk: Buffer) -> Result<()> {
        self.run(&HeadNormRope { qkv, rows: *rows, rotary: *p, qk }.into())
    }
    fn attention(&mut self, qk: Buffer, qkv: Buffer, rows: &Rows, heads: Heads, o: Buffer, lse: Buffer) -> Result<()> {
        self.run(&Attention { qk, qkv, rows: *rows, heads, o, lse }.into())
    }
    fn swiglu(&mut self, gu: Buffer, f: usize, s: Buffer) -> Result<()> {
        self.run(&SwiGlu { gu, width: f, s }.into())
    }
    fn gather_rows(&mut self, x: Buffer, index: Buffer, width: usize, out: Buffer) -> Result<()> {
        self.run(&GatherRows { x, index, width, out }.into())
    }
    fn log_softmax_at(&mut self, logits: Buffer, vocab: usize, ids: Buffer, c: usize, out: Buffer) -> Result<()> {
        self.run(&LogSoftmaxAt { logits, vocab, ids, c, out }.into())
    }
    fn argmax(&mut self, logits: Buffer, vocab: usize, out: Buffer) -> Result<()> {
        self.run(&Argmax { logits, vocab, out }.into())
    }
    fn cross_entropy(
        &mut self,
        logits: Buffer,
        vocab: usize,
        targets: Buffer,
        grad_scale: f32,
        loss: Buffer,
    ) -> Result<()> {
        self.run(&CrossEntropy { logits, vocab, targets, grad_scale, loss }.into())
    }
    fn scatter_rows(&mut self, src: Buffer, index: Buffer, width: usize, x: Buffer) -> Result<()> {
        self.run(&ScatterRows { src, index, width, x }.into())
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
        self.run(&RmsNormBackward { x, w, eps, dy, add, dx }.into())
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
        self.run(&LoraBackward { z, k, dy, n, parts: parts.to_vec(), mask: mask(drop, rows) }.into())
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
        self.run(&LinearBackward { dy, w: *w, parts: parts.to_vec(), mask: mask(drop, rows), dz }.into())
    }
    fn swiglu_backward(&mut self, gu: Buffer, f: usize, ds: Buffer) -> Result<()> {
        self.run(&SwiGluBackward { gu, width: f, ds }.into())
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
        self.run(&AttentionBackward { qk, qkv, o, lse, do_, rows: *rows, heads, dqk, dqkv }.into())
    }
    fn headnorm_rope_backward(
        &mut self,
        qkv: Buffer,
        dqk: Buffer,
        rows: &Rows,
        p: &Rotary,
        dqkv: Buffer,
    ) -> Result<()> {
        self.run(&HeadNormRopeBackward { qkv, dqk, rows: *rows, rotary: *p, dqkv }.into())
    }
    fn global_norm(&mut self, grad: Buffer, norm: Buffer) -> Result<()> {
        self.run(&GlobalNorm { grad, norm }.into())
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
        self.run(&AdamWUpdate { adamw: *p, norm, grad, m, v, master, working }.into())
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
        self.run(&KvStore { qk, qkv, rows: *rows, slots, heads, cache: *cache }.into())
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
        self.run(&AttentionCached { qk, rows: *rows, slots, heads, cache: *cache, o }.into())
    }
}

impl<B: Backend + ?Sized> Calls for B {}
