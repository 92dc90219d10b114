//! AdamW's hyperparameters, and the factors of one update that every backend computes with.

use bytemuck::{Pod, Zeroable};

/// AdamW (Loshchilov & Hutter 2019) as `torch.optim.AdamW` computes it, with the gradient clipped by global norm first.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1: bias correction.
    pub step: u64,
    /// Gradients are multiplied by min(1, max_norm / (norm + 1e-6)); `None` leaves them.
    pub max_norm: Option<f32>,
}

/// The factors of one update, computed in f64 and rounded once, as Python and PyTorch do. The layout is `struct AdamW` of
/// kernels/optim.cu.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Factors {
    pub one_minus_beta1: f32,
    pub beta2: f32,
    pub one_minus_beta2: f32,
    pub eps: f32,
    /// 1 − lr·weight_decay.
    pub keep: f32,
    /// lr / (1 − beta1^step).
    pub step_size: f32,
    /// √(1 − beta2^step).
    pub correction2: f32,
    /// 0 does not clip.
    pub max_norm: f32,
}

impl AdamW {
    /// The factors of this update.
    pub fn factors(&self) -> Factors {
        let step = self.step as f64;
        Factors {
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            eps: self.eps as f32,
            keep: (1.0 - self.lr * self.weight_decay) as f32,
            step_size: (self.lr / (1.0 - self.beta1.powf(step))) as f32,
            correction2: (1.0 - self.beta2.powf(step)).sqrt() as f32,
            max_norm: self.max_norm.unwrap_or(0.0),
        }
    }
}
