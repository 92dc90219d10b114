//! The head: target rows of the last layer's output to logits, and the loss back to them, a chunk of rows at a time.

use super::{Graph, Result};
use crate::{
    backend::{
        Buffer, Rows,
        ops::{
            Argmax, CrossEntropy, GatherRows, Linear, LinearBackward, LogSoftmaxAt, RmsNormBackward, ScatterRows, Zero,
        },
    },
    model::engine::layer::cut,
};

impl Graph<'_> {
    /// Logits of `count` rows of `x_last` named by `batch.target_rows[at..]`, into `work.logits`.
    fn head(&mut self, rows: &Rows, at: usize, count: usize) -> Result<Buffer> {
        let (c, work) = (&self.spec.model, &self.a.work);
        let (width, w) = (c.hidden, self.a.weights.head);
        let x_last = cut(work.x_last, rows.count, self.spec.max_rows);
        let (x, h) = (work.head_x.prefix(count * width), work.head_h.prefix(count * width));
        let logits = work.logits.prefix(count * c.vocab);
        let index = self.a.batch.target_rows.slice(at, count);
        self.run(GatherRows { x: x_last, index, width, out: x })?;
        self.rmsnorm(x, self.a.weights.final_norm, h)?;
        self.run(Linear { z: h, w, parts: Vec::new(), add: None, y: logits })?;
        Ok(logits)
    }

    /// ln p of columns `batch.target_ids[at·c..]`, `c` a row, of target rows `at..at + count`: into `out` F32 [count, c].
    pub fn head_logprobs(
        &mut self,
        rows: &Rows,
        (at, count): (usize, usize),
        ids: Buffer,
        c: usize,
        out: Buffer,
    ) -> Result<()> {
        let logits = self.head(rows, at, count)?;
        self.run(LogSoftmaxAt { logits, vocab: self.spec.model.vocab, ids, c, out })
    }

    /// ln p of the target of each of the first `targets` target rows, into `batch.logprobs`.
    pub fn logprobs(&mut self, rows: &Rows, targets: usize) -> Result<()> {
        let (chunk, batch) = (self.spec.chunk_rows(), &self.a.batch);
        for at in (0..targets).step_by(chunk) {
            let count = chunk.min(targets - at);
            let (ids, out) = (batch.target_ids.slice(at, count), batch.logprobs.slice(at, count));
            self.head_logprobs(rows, (at, count), ids, 1, out)?;
        }
        Ok(())
    }

    /// The most probable token after each of target rows `at..at + count`, into `batch.target_ids[at..]`, and its ln p into
    /// `batch.logprobs[at..]`: an argmax of logits that are NaN is a token like any other, but its ln p is NaN.
    pub fn head_argmax(&mut self, rows: &Rows, (at, count): (usize, usize)) -> Result<()> {
        let (vocab, batch) = (self.spec.model.vocab, &self.a.batch);
        let (ids, out) = (batch.target_ids.slice(at, count), batch.logprobs.slice(at, count));
        let logits = self.head(rows, at, count)?;
        self.run(Argmax { logits, vocab, out: ids })?;
        self.run(LogSoftmaxAt { logits, vocab, ids, c: 1, out })
    }

    /// Loss of all targets, added to `batch.stats[0]`, and its gradient with respect to `x_last`, into `grad.dx`.
    pub fn loss_backward(&mut self, rows: &Rows, targets: usize, grad_scale: f32) -> Result<()> {
        let dx = cut(self.a.work.grad.dx, rows.count, self.spec.max_rows);
        self.run(Zero { dst: dx })?;
        let chunk = self.spec.chunk_rows();
        for at in (0..targets).step_by(chunk) {
            self.chunk_backward(rows, (at, chunk.min(targets - at)), grad_scale, dx)?;
        }
        Ok(())
    }

    /// Of target rows `at..at + count`, whose gradient goes into their rows of `dx`.
    fn chunk_backward(&mut self, rows: &Rows, (at, count): (usize, usize), grad_scale: f32, dx: Buffer) -> Result<()> {
        let (c, work, batch) = (&self.spec.model, &self.a.work, &self.a.batch);
        let (vocab, width, eps) = (c.vocab, c.hidden, c.rms_eps);
        let (w, norm) = (self.a.weights.head, self.a.weights.final_norm);
        let (x, dh) = (work.head_x.prefix(count * width), work.grad.head_dh.prefix(count * width));
        let (targets, loss) = (batch.target_ids.slice(at, count), batch.stats.prefix(1));
        let index = batch.target_rows.slice(at, count);
        let logits = self.head(rows, at, count)?;
        self.run(CrossEntropy { logits, vocab, targets, grad_scale, loss })?;
        self.run(LinearBackward { dy: logits, w, parts: Vec::new(), mask: None, dz: dh })?;
        self.run(RmsNormBackward { x, w: norm, eps, dy: dh, add: None, dx: dh })?;
        self.run(ScatterRows { src: dh, index, width, x: dx })
    }
}
