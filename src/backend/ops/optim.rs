//! The gradient's norm, and AdamW with the factors of one update that every device computes with.

use super::{Access, Operands, Operation, operands::one};
use crate::backend::{Buffer, DType};
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
pub struct AdamWFactors {
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

impl Default for AdamW {
    /// The first update with the defaults of transformers' Trainer: 5e-5, (0.9, 0.999), 1e-8, no decay, norm 1.
    fn default() -> Self {
        Self { lr: 5e-5, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, max_norm: Some(1.0) }
    }
}

impl AdamW {
    /// The factors of this update.
    pub fn factors(&self) -> AdamWFactors {
        let step = self.step as f64;
        AdamWFactors {
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

/// `norm[0] = √Σ g²`, in a fixed order. PyTorch: the total norm of `clip_grad_norm_`.
#[derive(Debug, Clone, Copy)]
pub struct GlobalNorm {
    /// F32, all gradients.
    pub grad: Buffer,
    /// `F32 [1]`.
    pub norm: Buffer,
}

impl Operation for GlobalNorm {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        to.read_f32("grad", self.grad, self.grad.len());
        to.add(Access::Write, "norm", self.norm, one(DType::F32), 1);
        Ok(())
    }
}

/// One AdamW update over flat vectors of equal length. If `norm[0]` is not finite nothing is written.
/// PyTorch: `torch.optim.AdamW.step` after `clip_grad_norm_`.
#[derive(Debug, Clone, Copy)]
pub struct AdamWUpdate {
    /// Hyperparameters of this update.
    pub adamw: AdamW,
    /// Global norm of the gradient, `F32 [1]`.
    pub norm: Buffer,
    /// Gradient, F32.
    pub grad: Buffer,
    /// First moment, F32.
    pub m: Buffer,
    /// Second moment, F32.
    pub v: Buffer,
    /// Weights, F32.
    pub master: Buffer,
    /// Set to the new weights, act; may be `master` itself.
    pub working: Buffer,
}

impl Operation for AdamWUpdate {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let len = self.grad.len();
        to.read_f32("norm", self.norm, 1);
        to.read_f32("grad", self.grad, len);
        for (name, buffer) in [("m", self.m), ("v", self.v), ("master", self.master)] {
            to.add(Access::Update, name, buffer, one(DType::F32), len);
        }
        if self.working != self.master {
            to.write("working", self.working, len);
        }
        Ok(())
    }
}
