//! LoRA (Hu et al. 2021): the method's configuration, which linears carry an adapter, and how all of them lie in flat vectors.

use super::{ModelConfig, Module, Targets};
use crate::backend::{Buffer, DType};

/// Largest rank of an adapter.
pub const MAX_RANK: usize = 256;

/// How the adapter is made: the part of `adapter_config.json` that decides what its weights compute.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank, from 1 to [`MAX_RANK`].
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f32,
    /// Dropout on the adapter's input while training, in [0, 1).
    pub dropout: f32,
    /// Scale alpha/√r (Kalajdzievski 2023) instead of alpha/r.
    pub rslora: bool,
    /// The linears that carry an adapter.
    pub targets: Targets,
}

impl LoraConfig {
    /// alpha/r, or alpha/√r with rsLoRA.
    pub fn scale(&self) -> f32 {
        if self.rslora { self.alpha / (self.r as f32).sqrt() } else { self.alpha / self.r as f32 }
    }

    /// Parameters of the whole adapter.
    pub fn parameters(&self, c: &ModelConfig) -> usize {
        self.slots(c).last().map_or(0, |slot| slot.b_range().end)
    }

    /// Places of every A and B in the flat vector: layer by layer, module by module, A [r, k] before B [n, r].
    pub fn slots(&self, c: &ModelConfig) -> Vec<AdapterSlot> {
        let mut slots = Vec::with_capacity(c.layers * self.targets.modules().len());
        let mut at = 0;
        for layer in 0..c.layers {
            for &module in self.targets.modules().iter().filter(|module| self.targets.contains(layer, **module)) {
                let (n, k) = module.shape(c);
                slots.push(AdapterSlot { layer, module, n, k, r: self.r, a: at, b: at + self.r * k });
                at += self.r * (n + k);
            }
        }
        slots
    }
}

/// One module's adapter in the flat vectors of weights, gradients and moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterSlot {
    /// Decoder layer.
    pub layer: usize,
    /// Module.
    pub module: Module,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Rank.
    pub r: usize,
    /// First element of A [r, k].
    pub a: usize,
    /// First element of B [n, r].
    pub b: usize,
}

impl AdapterSlot {
    /// Elements of A in the flat vector.
    pub fn a_range(&self) -> std::ops::Range<usize> {
        self.a..self.a + self.r * self.k
    }

    /// Elements of B in the flat vector.
    pub fn b_range(&self) -> std::ops::Range<usize> {
        self.b..self.b + self.n * self.r
    }

    /// The PEFT tensor name without the ending: "base_model.model.model.layers.0.self_attn.q_proj".
    pub fn peft_path(&self) -> String {
        format!("base_model.model.{}", self.module.path_in(self.layer))
    }

    /// A of this module inside a flat buffer.
    pub fn a_of(&self, flat: Buffer) -> Buffer {
        if flat.is_empty() { Buffer::empty(DType::F32) } else { flat.slice(self.a, self.r * self.k) }
    }

    /// B of this module inside a flat buffer.
    pub fn b_of(&self, flat: Buffer) -> Buffer {
        if flat.is_empty() { Buffer::empty(DType::F32) } else { flat.slice(self.b, self.n * self.r) }
    }
}
