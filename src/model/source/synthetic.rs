//! Weights made on the fly: a random Qwen3 of any size without a file. A value depends only on the seed, the tensor's name
//! and its place, so every part can be made alone and twice.

use super::{LinearData, ModelConfig, TensorData, WeightSource};
use crate::{
    Result,
    backend::DType,
    rng::{mix64, philox4x32},
};
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;

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

    /// The elements of a tensor as bf16: norm weights are 1, everything else is normal with mean 0.
    pub fn elements(&self, name: &str, len: usize) -> Vec<bf16> {
        if name.ends_with("norm.weight") {
            return vec![bf16::ONE; len];
        }
        let key = name.bytes().fold(mix64(self.seed), |h, b| mix64(h ^ u64::from(b)));
        let key = [key as u32, (key >> 32) as u32];
        let spread = spread(self.config.hidden);
        let mut out = vec![bf16::ZERO; len];
        out.par_chunks_mut(4).with_min_len(4096).enumerate().for_each(|(i, chunk)| {
            let bits = philox4x32([i as u32, (i >> 32) as u32, 0, 0], key);
            for (pair, out) in bits.chunks_exact(2).zip(chunk.chunks_mut(2)) {
                let (a, b) = normal_pair(pair[0], pair[1]);
                out[0] = bf16::from_f32(spread * a);
                if let Some(second) = out.get_mut(1) {
                    *second = bf16::from_f32(spread * b);
                }
            }
        });
        out
    }
}

/// Two independent standard normal values from 64 random bits (Box–Muller).
fn normal_pair(a: u32, b: u32) -> (f32, f32) {
    let radius = (-2.0 * ((a as f32 + 1.0) / 4_294_967_808.0).ln()).sqrt();
    let angle = std::f32::consts::TAU * (b as f32 / 4_294_967_296.0);
    (radius * angle.cos(), radius * angle.sin())
}

impl WeightSource for Synthetic {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorData<'_>> {
        let elements = self.elements(name, shape.iter().product());
        let bytes = Cow::Owned(bytemuck::cast_slice(&elements).to_vec());
        Ok(TensorData { dtype: DType::Bf16, shape: shape.to_vec(), bytes })
    }

    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        Ok(LinearData::Dense(self.tensor(&format!("{path}.weight"), &[n, k])?))
    }

    fn dense_dtype(&self) -> DType {
        DType::Bf16
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(format!("synthetic {:?} seed {}", self.config, self.seed))
    }

    fn describe(&self) -> String {
        format!("synthetic:{}@{}", self.name, self.seed)
    }
}
