//! The decoder layers forward and backward, and the head: docs/design.md#the-graph as a sequence of operations.

use super::{
    Engine, Saved,
    arrange::{self, Group, LayerActivations},
};
use crate::{
    Result,
    backend::{Buffer, Rows},
    rng::Dropout,
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

/// Activations of a layer cut to the rows of the micro-batch.
fn cut(full: &LayerActivations, rows: usize, most: usize) -> LayerActivations {
    let f = |b: Buffer| b.prefix(b.len() / most * rows);
    LayerActivations { x: f(full.x), qkv: f(full.qkv), o: f(full.o), lse: f(full.lse), x2: f(full.x2), gu: f(full.gu) }
}

impl Engine {
    /// A buffer of `max_rows` rows cut to `rows`.
    fn cut(&self, b: Buffer, rows: usize) -> Buffer {
        b.prefix(b.len() / self.spec.max_rows * rows)
    }

    fn dropout(&self, layer: usize, pass: Pass) -> Option<Dropout> {
        let p = self.spec.lora.as_ref().map_or(0.0, |l| l.dropout);
        match pass {
            Pass::Train(key) if p > 0.0 => Some(Dropout { p, key, layer: layer as u32 }),
            _ => None,
        }
    }

    /// y = z·Wᵀ + adapters (+ add), with u computed first.
    fn linear(
        &mut self,
        (layer, group): (usize, Group),
        rows: &Rows,
        pass: Pass,
        z: Buffer,
        add: Option<Buffer>,
        y: Buffer,
    ) -> Result<()> {
        let parts = self.arrangement.parts(layer, group, rows.count);
        let w = self.arrangement.layers[layer].linears[group as usize];
        if !parts.is_empty() {
            self.backend.lora_down(z, w.k, rows, &parts, self.dropout(layer, pass))?;
        }
        self.backend.linear(z, &w, &parts, add, y)
    }

    /// The adapter gradients of a linear, then its input gradient `dz` if something below needs it.
    fn linear_backward(
        &mut self,
        (layer, group): (usize, Group),
        rows: &Rows,
        pass: Pass,
        z: Buffer,
        dy: Buffer,
        dz: Option<Buffer>,
    ) -> Result<()> {
        let parts = self.arrangement.parts(layer, group, rows.count);
        let w = self.arrangement.layers[layer].linears[group as usize];
        let drop = self.dropout(layer, pass);
        if !parts.is_empty() {
            self.backend.lora_backward(z, w.k, dy, w.n, rows, &parts, drop)?;
        }
        match dz {
            Some(dz) => self.backend.linear_backward(dy, &w, rows, &parts, drop, dz),
            None => Ok(()),
        }
    }

    /// All layers: tokens to the residual stream behind the last layer (`work.x_last`).
    pub(super) fn forward(&mut self, rows: &Rows, pass: Pass) -> Result<()> {
        let first = self.cut(self.arrangement.activations[0].x, rows.count);
        self.backend.embed(self.arrangement.embed, rows, first)?;
        for layer in 0..self.spec.model.layers {
            let next = self.arrangement.activations.get(layer + 1).map_or(self.arrangement.work.x_last, |a| a.x);
            let next = self.cut(next, rows.count);
            self.attention_forward(layer, rows, pass)?;
            self.mlp_forward(layer, rows, pass)?;
            let a = cut(&self.arrangement.activations[layer], rows.count, self.spec.max_rows);
            let s = self.cut(self.arrangement.work.s, rows.count);
            self.linear((layer, Group::Down), rows, pass, s, Some(a.x2), next)?;
        }
        Ok(())
    }

    /// x to x2.
    fn attention_forward(&mut self, layer: usize, rows: &Rows, pass: Pass) -> Result<()> {
        let a = cut(&self.arrangement.activations[layer], rows.count, self.spec.max_rows);
        let (h, qk) = (self.cut(self.arrangement.work.h, rows.count), self.cut(self.arrangement.work.qk, rows.count));
        let (eps, heads) = (self.spec.model.rms_eps, self.spec.model.heads);
        self.backend.rmsnorm(a.x, self.arrangement.layers[layer].input_norm, eps, h)?;
        self.linear((layer, Group::Qkv), rows, pass, h, None, a.qkv)?;
        let rope = arrange::headnorm_rope_of(&self.arrangement, &self.spec, layer);
        self.backend.headnorm_rope(a.qkv, rows, &rope, qk)?;
        let slots = self.arrangement.batch.slots;
        match pass {
            Pass::Train(_) | Pass::Plain => self.backend.attention(qk, a.qkv, rows, heads, a.o, a.lse)?,
            Pass::Prefill => {
                let cache = self.arrangement.cache[layer];
                self.backend.kv_store(qk, a.qkv, rows, slots.prefix(rows.count), heads, &cache)?;
                self.backend.attention(qk, a.qkv, rows, heads, a.o, a.lse)?;
            }
            Pass::Decode => {
                let cache = self.arrangement.cache[layer];
                self.backend.kv_store(qk, a.qkv, rows, slots.prefix(rows.count), heads, &cache)?;
                self.backend.attention_cached(qk, rows, slots.prefix(rows.count), heads, &cache, a.o)?;
            }
        }
        self.linear((layer, Group::O), rows, pass, a.o, Some(a.x), a.x2)
    }

    /// x2 to gate/up and the SwiGLU (`work.s`).
    fn mlp_forward(&mut self, layer: usize, rows: &Rows, pass: Pass) -> Result<()> {
        let a = cut(&self.arrangement.activations[layer], rows.count, self.spec.max_rows);
        let h = self.cut(self.arrangement.work.h, rows.count);
        let s = self.cut(self.arrangement.work.s, rows.count);
        self.backend.rmsnorm(a.x2, self.arrangement.layers[layer].post_norm, self.spec.model.rms_eps, h)?;
        self.linear((layer, Group::GateUp), rows, pass, h, None, a.gu)?;
        self.backend.swiglu(a.gu, self.spec.model.intermediate, s)
    }

    /// All layers from the last to the first: `grad.dx` holds the gradient of `work.x_last` on entry. Adapter gradients
    /// are added up; nothing is computed below the lowest adapter.
    pub(super) fn backward(&mut self, rows: &Rows, pass: Pass) -> Result<()> {
        for layer in (0..self.spec.model.layers).rev() {
            // In layer 0 a gradient is needed only down to its first adapted linear.
            let below = |group: Group| {
                layer > 0 || Group::ALL[..group as usize].iter().any(|&g| self.arrangement.adapted(0, g))
            };
            let below = Group::ALL.map(below);
            self.recompute(layer, rows, pass)?;
            self.mlp_backward(layer, rows, pass, below)?;
            if below[Group::GateUp as usize] {
                self.attention_backward(layer, rows, pass, below)?;
            }
        }
        Ok(())
    }

    /// Makes what the plan did not save of this layer, and the SwiGLU output. The adapters' u are always saved.
    fn recompute(&mut self, layer: usize, rows: &Rows, pass: Pass) -> Result<()> {
        match self.spec.saved[layer] {
            Saved::InputOnly => {
                self.attention_forward(layer, rows, pass)?;
                self.mlp_forward(layer, rows, pass)
            }
            Saved::NoGateUp => self.mlp_forward(layer, rows, pass),
            Saved::All => {
                let gu = self.cut(self.arrangement.activations[layer].gu, rows.count);
                let s = self.cut(self.arrangement.work.s, rows.count);
                self.backend.swiglu(gu, self.spec.model.intermediate, s)
            }
        }
    }

    /// dx of the layer's output to dx of x2.
    fn mlp_backward(&mut self, layer: usize, rows: &Rows, pass: Pass, below: [bool; 4]) -> Result<()> {
        let a = cut(&self.arrangement.activations[layer], rows.count, self.spec.max_rows);
        let (work, grad) = (self.arrangement.work, self.arrangement.work.grad);
        let (h, s) = (self.cut(work.h, rows.count), self.cut(work.s, rows.count));
        let (dx, dh, ds) =
            (self.cut(grad.dx, rows.count), self.cut(grad.dh, rows.count), self.cut(grad.ds, rows.count));
        let down = below[Group::Down as usize];
        self.linear_backward((layer, Group::Down), rows, pass, s, dx, down.then_some(ds))?;
        if !down {
            return Ok(());
        }
        self.backend.swiglu_backward(a.gu, self.spec.model.intermediate, ds)?;
        let (norm, eps) = (self.arrangement.layers[layer].post_norm, self.spec.model.rms_eps);
        self.backend.rmsnorm(a.x2, norm, eps, h)?;
        let gate_up = below[Group::GateUp as usize];
        self.linear_backward((layer, Group::GateUp), rows, pass, h, a.gu, gate_up.then_some(dh))?;
        if gate_up {
            self.backend.rmsnorm_backward(a.x2, norm, eps, dh, Some(dx), dx)?;
        }
        Ok(())
    }

    /// dx of x2 to dx of x.
    fn attention_backward(&mut self, layer: usize, rows: &Rows, pass: Pass, below: [bool; 4]) -> Result<()> {
        let a = cut(&self.arrangement.activations[layer], rows.count, self.spec.max_rows);
        let (work, grad) = (self.arrangement.work, self.arrangement.work.grad);
        let (h, qk) = (self.cut(work.h, rows.count), self.cut(work.qk, rows.count));
        let (dx, dh, do_) =
            (self.cut(grad.dx, rows.count), self.cut(grad.dh, rows.count), self.cut(grad.do_, rows.count));
        let (dqk, dqkv) = (self.cut(grad.dqk, rows.count), self.cut(grad.dqkv, rows.count));
        let (eps, heads) = (self.spec.model.rms_eps, self.spec.model.heads);
        let o = below[Group::O as usize];
        self.linear_backward((layer, Group::O), rows, pass, a.o, dx, o.then_some(do_))?;
        if !o {
            return Ok(());
        }
        let rope = arrange::headnorm_rope_of(&self.arrangement, &self.spec, layer);
        self.backend.headnorm_rope(a.qkv, rows, &rope, qk)?;
        self.backend.attention_backward(qk, a.qkv, a.o, a.lse, do_, rows, heads, dqk, dqkv)?;
        self.backend.headnorm_rope_backward(a.qkv, dqk, rows, &rope, dqkv)?;
        let norm = self.arrangement.layers[layer].input_norm;
        self.backend.rmsnorm(a.x, norm, eps, h)?;
        let qkv = below[Group::Qkv as usize];
        self.linear_backward((layer, Group::Qkv), rows, pass, h, dqkv, qkv.then_some(dh))?;
        if qkv {
            self.backend.rmsnorm_backward(a.x, norm, eps, dh, Some(dx), dx)?;
        }
        Ok(())
    }

    /// Logits of `count` rows of `x_last` named by `batch.target_rows[at..]`, into `work.logits`.
    pub(super) fn head(&mut self, rows: &Rows, at: usize, count: usize) -> Result<Buffer> {
        let (hidden, vocab) = (self.spec.model.hidden, self.spec.model.vocab);
        let work = self.arrangement.work;
        let x_last = self.cut(work.x_last, rows.count);
        let (x, h) = (work.head_x.prefix(count * hidden), work.head_h.prefix(count * hidden));
        let logits = work.logits.prefix(count * vocab);
        self.backend.gather_rows(x_last, self.arrangement.batch.target_rows.slice(at, count), hidden, x)?;
        self.backend.rmsnorm(x, self.arrangement.final_norm, self.spec.model.rms_eps, h)?;
        self.backend.linear(h, &self.arrangement.head, &[], None, logits)?;
        Ok(logits)
    }

    /// Loss of all targets and its gradient with respect to `x_last`, chunk by chunk, into `grad.dx`.
    pub(super) fn loss_backward(&mut self, rows: &Rows, targets: usize, grad_scale: f32) -> Result<()> {
        let (hidden, vocab, eps) = (self.spec.model.hidden, self.spec.model.vocab, self.spec.model.rms_eps);
        let (work, batch) = (self.arrangement.work, self.arrangement.batch);
        let dx = self.cut(work.grad.dx, rows.count);
        self.backend.zero(dx)?;
        let chunk = self.logit_rows();
        for at in (0..targets).step_by(chunk) {
            let count = chunk.min(targets - at);
            let logits = self.head(rows, at, count)?;
            let (x, dh) = (work.head_x.prefix(count * hidden), work.grad.head_dh.prefix(count * hidden));
            let loss = batch.stats.prefix(1);
            self.backend.cross_entropy(logits, vocab, batch.target_ids.slice(at, count), grad_scale, loss)?;
            // Without adapters only the number of rows matters.
            let chunk_rows = Rows { count, ..*rows };
            self.backend.linear_backward(logits, &self.arrangement.head, &chunk_rows, &[], None, dh)?;
            self.backend.rmsnorm_backward(x, self.arrangement.final_norm, eps, dh, None, dh)?;
            self.backend.scatter_rows(dh, batch.target_rows.slice(at, count), hidden, dx)?;
        }
        Ok(())
    }
}
