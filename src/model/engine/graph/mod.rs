//! The Qwen3 decoder, forward and backward, as a sequence of operations (docs/design.md, "The graph").
//!
//! With T rows, x the residual stream, `+ lora` the low-rank term of each adapted linear:
//!
//! ```text
//! h  = rmsnorm(x, w₁)       qkv = h·Wqkvᵀ + lora      q, k = rope(headnorm(q, k))
//! o  = attention(q, k, v)   x₂  = x + o·Woᵀ + lora
//! h  = rmsnorm(x₂, w₂)      gu  = h·Wguᵀ + lora       s = silu(g)∘u
//! x' = x₂ + s·Wdᵀ + lora
//! ```
//!
//! The backward pass goes through the same lines from the last to the first. Only adapters have gradients, and none is
//! computed below the first adapter.

mod head;
pub mod operations;

use super::{
    EngineSpec, Saved,
    arrange::Arrangement,
    layer::{LayerView, LinearView},
};
use crate::{
    Result,
    backend::{
        Buffer, Op, Rows,
        ops::{
            Attention, AttentionBackward, AttentionCached, Embed, HeadNormRope, HeadNormRopeBackward, KvStore, Linear,
            LinearBackward, LoraBackward, LoraDown, RmsNorm, RmsNormBackward, SwiGlu, SwiGluBackward,
        },
    },
};

/// What a forward pass is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pass {
    /// Training: dropout under this key, if the adapter has any.
    Train(u64),
    /// Evaluation of whole documents.
    Plain,
    /// Whole documents whose keys and values go into the cache.
    Prefill,
    /// One new row for each generated sequence, attending to the cache.
    Decode,
}

/// Receives the operations: a device that runs them, or something that only looks at them.
pub type Run<'a> = &'a mut dyn FnMut(&Op) -> Result<()>;

/// The decoder over the buffers of one engine.
pub(super) struct Graph<'a> {
    spec: &'a EngineSpec,
    a: &'a Arrangement,
    run: Run<'a>,
}

impl<'a> Graph<'a> {
    pub fn new(spec: &'a EngineSpec, a: &'a Arrangement, run: Run<'a>) -> Self {
        Self { spec, a, run }
    }

    fn run(&mut self, op: impl Into<Op<'static>>) -> Result<()> {
        (self.run)(&op.into())
    }

    fn layer(&self, index: usize, rows: &Rows, pass: Pass) -> LayerView {
        LayerView::new(self.spec, self.a, index, rows, pass)
    }

    /// All layers: tokens to the residual stream behind the last layer (`work.x_last`).
    pub fn forward(&mut self, rows: &Rows, pass: Pass) -> Result<()> {
        let first = self.layer(0, rows, pass).x;
        self.run(Embed { table: self.a.weights.embed, rows: *rows, out: first })?;
        for index in 0..self.spec.model.layers {
            let l = self.layer(index, rows, pass);
            self.layer_forward(&l, pass)?;
        }
        Ok(())
    }

    /// x to the next layer's x.
    fn layer_forward(&mut self, l: &LayerView, pass: Pass) -> Result<()> {
        self.attention_forward(l, pass)?;
        self.mlp_forward(l)?;
        self.linear(l, &l.down_proj, l.s, Some(l.x2), l.out)
    }

    /// x to x₂.
    fn attention_forward(&mut self, l: &LayerView, pass: Pass) -> Result<()> {
        self.rmsnorm(l.x, l.input_norm, l.h)?;
        self.linear(l, &l.qkv_proj, l.h, None, l.qkv)?;
        self.run(HeadNormRope { qkv: l.qkv, rows: l.rows, rotary: l.rotary, qk: l.qk })?;
        self.attend(l, pass)?;
        self.linear(l, &l.o_proj, l.o, Some(l.x), l.x2)
    }

    /// q, k, v to o: over the documents themselves, or over the cache.
    fn attend(&mut self, l: &LayerView, pass: Pass) -> Result<()> {
        let (qk, qkv, rows, slots, heads) = (l.qk, l.qkv, l.rows, l.slots, l.rotary.heads);
        if let (Pass::Prefill | Pass::Decode, Some(cache)) = (pass, l.cache) {
            self.run(KvStore { qk, qkv, rows, slots, heads, cache })?;
            if let Pass::Decode = pass {
                return self.run(AttentionCached { qk, rows, slots, heads, cache, o: l.o });
            }
        }
        self.run(Attention { qk, qkv, rows, heads, o: l.o, lse: l.lse })
    }

    /// x₂ to s.
    fn mlp_forward(&mut self, l: &LayerView) -> Result<()> {
        self.rmsnorm(l.x2, l.post_norm, l.h)?;
        self.linear(l, &l.gate_up_proj, l.h, None, l.gu)?;
        self.swiglu(l)
    }

    fn swiglu(&mut self, l: &LayerView) -> Result<()> {
        self.run(SwiGlu { gu: l.gu, width: self.spec.model.intermediate, s: l.s })
    }

    fn rmsnorm(&mut self, x: Buffer, w: Buffer, y: Buffer) -> Result<()> {
        self.run(RmsNorm { x, w, eps: self.spec.model.rms_eps, y })
    }

    /// y = z·Wᵀ + adapters (+ add), with u computed first.
    fn linear(&mut self, l: &LayerView, linear: &LinearView, z: Buffer, add: Option<Buffer>, y: Buffer) -> Result<()> {
        let (w, parts) = (linear.w, linear.parts.clone());
        if !parts.is_empty() {
            self.run(LoraDown { z, k: w.k, parts: parts.clone(), mask: l.mask })?;
        }
        self.run(Linear { z, w, parts, add, y })
    }

    /// All layers from the last to the first: `grad.dx` holds the gradient of `work.x_last` on entry. Adapter gradients
    /// are added up; nothing is computed below the lowest adapter.
    pub fn backward(&mut self, rows: &Rows, pass: Pass) -> Result<()> {
        let lowest = self.a.lowest_adapter().map_or(0, |(layer, _)| layer);
        for index in (lowest..self.spec.model.layers).rev() {
            let l = self.layer(index, rows, pass);
            self.layer_backward(&l, pass)?;
        }
        Ok(())
    }

    /// dx of the layer's output to dx of its input.
    fn layer_backward(&mut self, l: &LayerView, pass: Pass) -> Result<()> {
        self.recompute(l, pass)?;
        self.mlp_backward(l)?;
        if l.gate_up_proj.below { self.attention_backward(l) } else { Ok(()) }
    }

    /// Makes what the plan did not save of this layer, and s. The adapters' u are always saved.
    fn recompute(&mut self, l: &LayerView, pass: Pass) -> Result<()> {
        match self.spec.saved[l.index] {
            Saved::InputOnly => {
                self.attention_forward(l, pass)?;
                self.mlp_forward(l)
            }
            Saved::NoGateUp => self.mlp_forward(l),
            Saved::All => self.swiglu(l),
        }
    }

    /// dx of the layer's output to dx of x₂; the gradient of gate and up takes their place.
    fn mlp_backward(&mut self, l: &LayerView) -> Result<()> {
        self.linear_backward(l, &l.down_proj, l.s, l.dx, l.ds)?;
        if !l.down_proj.below {
            return Ok(());
        }
        self.run(SwiGluBackward { gu: l.gu, width: self.spec.model.intermediate, ds: l.ds })?;
        self.rmsnorm(l.x2, l.post_norm, l.h)?;
        self.linear_backward(l, &l.gate_up_proj, l.h, l.gu, l.dh)?;
        if l.gate_up_proj.below { self.rmsnorm_backward(l, l.x2, l.post_norm) } else { Ok(()) }
    }

    /// dx of x₂ to dx of x.
    fn attention_backward(&mut self, l: &LayerView) -> Result<()> {
        self.linear_backward(l, &l.o_proj, l.o, l.dx, l.do_)?;
        if !l.o_proj.below {
            return Ok(());
        }
        let LayerView { rows, rotary, qkv, qk, o, lse, do_, dqk, dqkv, .. } = *l;
        self.run(HeadNormRope { qkv, rows, rotary, qk })?;
        self.run(AttentionBackward { qk, qkv, o, lse, do_, rows, heads: rotary.heads, dqk, dqkv })?;
        self.run(HeadNormRopeBackward { qkv, dqk, rows, rotary, dqkv })?;
        self.rmsnorm(l.x, l.input_norm, l.h)?;
        self.linear_backward(l, &l.qkv_proj, l.h, l.dqkv, l.dh)?;
        if l.qkv_proj.below { self.rmsnorm_backward(l, l.x, l.input_norm) } else { Ok(()) }
    }

    /// dx += the gradient of a norm's input, from that of its output in dh.
    fn rmsnorm_backward(&mut self, l: &LayerView, x: Buffer, w: Buffer) -> Result<()> {
        self.run(RmsNormBackward { x, w, eps: self.spec.model.rms_eps, dy: l.dh, add: Some(l.dx), dx: l.dx })
    }

    /// The adapter gradients of a linear, then its input gradient `dz` if something below needs it.
    fn linear_backward(&mut self, l: &LayerView, linear: &LinearView, z: Buffer, dy: Buffer, dz: Buffer) -> Result<()> {
        let (w, parts, mask) = (linear.w, linear.parts.clone(), l.mask);
        if !parts.is_empty() {
            self.run(LoraBackward { z, k: w.k, dy, n: w.n, parts: parts.clone(), mask })?;
        }
        if linear.below { self.run(LinearBackward { dy, w, parts, mask, dz }) } else { Ok(()) }
    }
}
