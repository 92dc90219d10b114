//! Weights made on the fly: a random Qwen3 of any size without a file. A value depends only on the seed, the tensor's name
//! and its place, so every part can be made alone and twice.

use super::{
    LinearData, ModelConfig, WeightSource,
    likeness::{Sampled, likeness},
};
use crate::{
    Result,
    model::catalogue::is_norm,
    rng::{NearNormal, mix64},
    tensor::{DType, Tensor},
};
use half::bf16;

/// Standard deviation of linears and embeddings: 0.02, as transformers initialises Qwen3, from the narrowest published
/// width on; 1/√hidden below. A logit is at most about hidden·deviation, which for a narrow model with 0.02 is so little
/// that it could never become sure of a token, however it is trained.
fn spread(hidden: usize) -> f32 {
    if hidden < 1024 { (hidden as f32).sqrt().recip() } else { 0.02 }
}

/// A synthetic model, stored as bf16.
#[derive(Debug, Clone)]
pub struct Synthetic {
    name: String,
    config: ModelConfig,
    seed: u64,
}

impl Synthetic {
    /// A model of this shape; `name` is for messages ("qwen3-8b").
    pub fn new(name: impl Into<String>, config: ModelConfig, seed: u64) -> Self {
        Self { name: name.into(), config, seed }
    }

    /// The elements of a tensor as bf16: norm weights are 1, everything else is nearly normal with mean 0.
    pub fn elements(&self, name: &str, len: usize) -> Vec<bf16> {
        match self.recipe(name) {
            Some(recipe) => recipe.elements(len),
            None => vec![bf16::ONE; len],
        }
    }
}

impl WeightSource for Synthetic {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let elements = self.elements(name, shape.iter().product());
        Ok(Tensor::new(DType::Bf16, shape, bytemuck::cast_slice(&elements).to_vec()))
    }

    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        Ok(LinearData::Dense(self.tensor(&format!("{path}.weight"), &[n, k])?))
    }

    fn recipe(&self, name: &str) -> Option<NearNormal> {
        let key = || name.bytes().fold(mix64(self.seed), |h, b| mix64(h ^ u64::from(b)));
        (!is_norm(name)).then(|| NearNormal::new(key(), spread(self.config.hidden)))
    }

    fn dense_dtype(&self) -> DType {
        DType::Bf16
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(format!("synthetic {} seed {}", self.config.identity(), self.seed))
    }

    fn likeness(&self) -> Result<String> {
        likeness(&self.config, |t, range| {
            Ok(Sampled::Values(match self.recipe(&t.name) {
                Some(recipe) => recipe.span(range.start, range.len()).iter().map(|x| x.to_f32()).collect(),
                None => vec![1.0; range.len()],
            }))
        })
    }

    fn describe(&self) -> String {
        format!("synthetic:{}@{}", self.name, self.seed)
    }
}
