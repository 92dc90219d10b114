//! A model small enough to run thousands of times: a parabola with dropout.

use crate::{
    Error, Result,
    backend::AdamW,
    data::MicroBatch,
    model::{engine::StepStats, peft},
    rng::philox4x32,
    train::learner::{Learner, NamedFile},
};
use std::{fs, path::Path};

pub(super) const N: usize = 6;

/// −ln p of a target is half the squared distance of the weights from a point that the target's token decides.
#[derive(Clone, Default)]
pub(super) struct Parabola {
    pub(super) w: [f32; N],
    pub(super) m: [f32; N],
    pub(super) v: [f32; N],
    pub(super) g: [f32; N],
    pub(super) loss: f64,
    pub(super) finished: u64,
    /// The loss of this step is NaN.
    pub(super) nan_at: Option<u64>,
    /// Evaluation losses, instead of the real ones.
    pub(super) scripted: Vec<f64>,
}

pub(super) fn centre(token: u32, j: usize) -> f32 {
    ((token as usize * 31 + j * 17) % 13) as f32 / 13.0
}

impl Parabola {
    fn distance(&self, token: u32) -> f64 {
        (0..N).map(|j| 0.5 * f64::from(self.w[j] - centre(token, j)).powi(2)).sum()
    }
}

impl Learner for Parabola {
    fn begin_step(&mut self) -> Result<()> {
        (self.g, self.loss) = ([0.0; N], 0.0);
        Ok(())
    }

    fn accumulate(&mut self, batch: &MicroBatch, grad_scale: f32, dropout_key: u64) -> Result<()> {
        for (&row, &token) in batch.target_rows.iter().zip(&batch.target_ids) {
            let (sample, position) = (batch.samples[row as usize], batch.positions[row as usize]);
            let bits = philox4x32([position, sample, 0, 0], [dropout_key as u32, (dropout_key >> 32) as u32]);
            self.loss += self.distance(token);
            for j in 0..N {
                if bits[j % 4] >> j & 1 == 1 {
                    self.g[j] += (self.w[j] - centre(token, j)) * grad_scale;
                }
            }
        }
        Ok(())
    }

    fn finish_step(&mut self, p: &AdamW) -> Result<StepStats> {
        self.finished += 1;
        let norm = self.g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if self.nan_at == Some(p.step) {
            return Ok(StepStats { loss_sum: f64::NAN, grad_norm: norm });
        }
        let clip = p.max_norm.map_or(1.0, |max| (max / (norm as f32 + 1e-6)).min(1.0));
        let f = p.factors();
        for j in 0..N {
            let g = self.g[j] * clip;
            self.w[j] *= f.keep;
            self.m[j] += f.one_minus_beta1 * (g - self.m[j]);
            self.v[j] = self.v[j] * f.beta2 + f.one_minus_beta2 * g * g;
            self.w[j] -= f.step_size * self.m[j] / (self.v[j].sqrt() / f.correction2 + f.eps);
        }
        Ok(StepStats { loss_sum: self.loss, grad_norm: norm })
    }

    fn loss(&mut self, batch: &MicroBatch) -> Result<f64> {
        if !self.scripted.is_empty() {
            return Ok(self.scripted.remove(0) * batch.target_ids.len() as f64);
        }
        Ok(batch.target_ids.iter().map(|&t| self.distance(t)).sum())
    }

    fn parameters(&self) -> usize {
        N
    }

    fn moments(&mut self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((self.m.to_vec(), self.v.to_vec()))
    }

    fn set_moments(&mut self, m: &[f32], v: &[f32]) -> Result<()> {
        self.m.copy_from_slice(m);
        self.v.copy_from_slice(v);
        Ok(())
    }

    fn adapter_files(&mut self) -> Result<Vec<NamedFile>> {
        let weights = bytemuck::cast_slice::<f32, u8>(&self.w).to_vec();
        Ok(vec![NamedFile::new(peft::CONFIG, "{}"), NamedFile::new(peft::WEIGHTS, weights)])
    }

    fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        let bytes = fs::read(dir.join(peft::WEIGHTS)).map_err(Error::io("read", dir))?;
        self.w.copy_from_slice(&bytemuck::pod_collect_to_vec::<u8, f32>(&bytes));
        Ok(())
    }

    fn peak_memory_bytes(&self) -> u64 {
        1
    }

    fn device(&self) -> String {
        "parabola".into()
    }
}
