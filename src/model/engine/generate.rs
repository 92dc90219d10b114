//! Greedy generation with a KV cache: prompts enter free slots together (packed prefill), every running sequence then
//! moves one token at a time in one pass, and a slot is given to the next prompt as soon as its sequence ends.

use super::{Engine, graph::Pass};
use crate::{Error, Result, backend::Rows, data::MicroBatch};

/// Called after each new token: number of the prompt, its continuation so far, whether it has ended.
pub type OnToken<'a> = &'a mut dyn FnMut(usize, &[u32], bool);

/// A sequence being generated.
struct Running {
    prompt: usize,
    slot: u32,
    /// Position of the next row: the number of rows in the cache.
    position: u32,
}

impl Engine {
    /// Greedy continuation of each prompt: at most `max_new` tokens, ending with (and including) a token of `stop`.
    /// Up to `spec.kv_slots` prompts run at once. `max_new` 0 gives empty continuations.
    ///
    /// # Errors
    /// If the engine has no KV cache, a prompt is empty, prompt and continuation exceed the planned capacity, or logits are
    /// not finite.
    pub fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        max_new: usize,
        stop: &[u32],
        on_token: OnToken,
    ) -> Result<Vec<Vec<u32>>> {
        let mut out = vec![Vec::new(); prompts.len()];
        if max_new == 0 || prompts.is_empty() {
            return Ok(out);
        }
        self.check_prompts(prompts, max_new)?;
        let mut free: Vec<u32> = (0..self.spec.kv_slots as u32).rev().collect();
        let mut running: Vec<Running> = Vec::new();
        let mut next_prompt = 0;
        while next_prompt < prompts.len() || !running.is_empty() {
            let mut entering = Vec::new();
            let mut batch = MicroBatch::new();
            while let (Some(prompt), Some(&slot)) = (prompts.get(next_prompt), free.last()) {
                if batch.rows() + prompt.len() > self.spec.max_rows {
                    break;
                }
                free.pop();
                let row = batch.push_prompt(next_prompt as u32, prompt);
                batch.target_rows.push(row);
                entering.push(Running { prompt: next_prompt, slot, position: prompt.len() as u32 });
                next_prompt += 1;
            }
            let (mut active, pass) = if entering.is_empty() {
                for r in &running {
                    let last = out[r.prompt].last().copied().unwrap_or(0);
                    let row = batch.push_prompt(r.prompt as u32, &[last]) as usize;
                    batch.positions[row] = r.position;
                    batch.target_rows.push(row as u32);
                }
                for r in &mut running {
                    r.position += 1;
                }
                (std::mem::take(&mut running), Pass::Decode)
            } else {
                (entering, Pass::Prefill)
            };
            let tokens = self.next_tokens(&batch, &active, pass)?;
            for (r, &token) in active.iter().zip(&tokens) {
                let text = &mut out[r.prompt];
                text.push(token);
                let ended = stop.contains(&token) || text.len() == max_new;
                on_token(r.prompt, text, ended);
            }
            active.retain(|r| {
                let text = &out[r.prompt];
                let ended = text.len() == max_new || text.last().is_some_and(|t| stop.contains(t));
                if ended {
                    free.push(r.slot);
                }
                !ended
            });
            running.extend(active);
        }
        Ok(out)
    }

    fn check_prompts(&self, prompts: &[Vec<u32>], max_new: usize) -> Result<()> {
        if self.spec.kv_slots == 0 {
            return Err(Error::internal("this engine was laid out without a KV cache"));
        }
        for (i, p) in prompts.iter().enumerate() {
            // The last new token is never fed back, so it needs no place in the cache.
            if p.is_empty() || p.len() + max_new - 1 > self.spec.kv_capacity || p.len() > self.spec.max_rows {
                return Err(Error::failed(format!(
                    "prompt {i} has {} tokens; with {max_new} new ones it must fit {} positions, and not be empty",
                    p.len(),
                    self.spec.kv_capacity.min(self.spec.max_rows + max_new)
                )));
            }
        }
        Ok(())
    }

    /// One pass over `batch`; the most probable token after each of its target rows.
    fn next_tokens(&mut self, batch: &MicroBatch, active: &[Running], pass: Pass) -> Result<Vec<u32>> {
        let rows: Rows = self.upload(batch)?;
        let mut slots = Vec::with_capacity(batch.rows());
        for (w, r) in batch.cu_seqlens.windows(2).zip(active) {
            slots.extend(std::iter::repeat_n(r.slot, (w[1] - w[0]) as usize));
        }
        let b = self.arrangement.batch;
        self.backend.write(b.slots, bytemuck::cast_slice(&slots))?;
        let (total, chunk) = (batch.target_rows.len(), self.spec.chunk_rows());
        self.queue(|graph| {
            graph.forward(&rows, pass)?;
            let chunks = (0..total).step_by(chunk).map(|at| (at, chunk.min(total - at)));
            chunks.into_iter().try_for_each(|targets| graph.head_argmax(&rows, targets))
        })?;
        self.read_logprobs(total)?;
        Ok(bytemuck::pod_collect_to_vec(&self.backend.read(b.target_ids.prefix(total))?))
    }
}
