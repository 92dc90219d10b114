//! Rotary frequencies: θ^(−2i/D), or scaled for longer texts as transformers' `modeling_rope_utils` scales them. The angles are
//! a table of the engine, which every device reads.

use super::ModelConfig;
use serde_json::{Value, json};
use std::f64::consts::PI;

/// How the frequencies differ from θ^(−2i/D).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    Default,
    /// Every frequency divided by `factor` (position interpolation, Chen et al. 2023).
    Linear {
        /// By how much longer texts are.
        factor: f64,
    },
    /// Not at all up to the model's positions; beyond them, more with every token (NTK). An engine refuses longer texts.
    Dynamic {
        /// By how much longer texts may be.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones not, and a smooth passage between (Llama 3.1).
    Llama3 {
        /// By how much longer texts are.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are not.
        high: f64,
        /// Positions that the model was made for before.
        original: f64,
    },
    /// Frequencies that turn less than `beta_slow` times over the original length divided by `factor`, those that turn more
    /// than `beta_fast` times not, a ramp between; cos and sin times `attention` (YaRN, Peng et al. 2023).
    Yarn {
        /// By how much longer texts are.
        factor: f64,
        /// Positions that the model was made for before.
        original: f64,
        /// Turns where the ramp begins.
        beta_fast: f64,
        /// Turns where it ends.
        beta_slow: f64,
        /// Whether the ends of the ramp are whole numbers.
        truncate: bool,
        /// What cos and sin are multiplied by.
        attention: f64,
    },
}

impl RopeScaling {
    /// `rope_parameters` of config.json, with the base θ.
    pub fn to_json(self, theta: f64) -> Value {
        match self {
            Self::Default => json!({"rope_theta": theta, "rope_type": "default"}),
            Self::Linear { factor } => json!({"factor": factor, "rope_theta": theta, "rope_type": "linear"}),
            Self::Dynamic { factor } => json!({"factor": factor, "rope_theta": theta, "rope_type": "dynamic"}),
            Self::Llama3 { factor, low, high, original } => json!({
                "factor": factor, "high_freq_factor": high, "low_freq_factor": low,
                "original_max_position_embeddings": original as u64, "rope_theta": theta, "rope_type": "llama3",
            }),
            Self::Yarn { factor, original, beta_fast, beta_slow, truncate, attention } => json!({
                "attention_factor": attention, "beta_fast": beta_fast, "beta_slow": beta_slow, "factor": factor,
                "original_max_position_embeddings": original as u64, "rope_theta": theta, "rope_type": "yarn",
                "truncate": truncate,
            }),
        }
    }

    /// What cos and sin are multiplied by.
    pub fn attention(self) -> f32 {
        if let Self::Yarn { attention, .. } = self { attention as f32 } else { 1.0 }
    }

    /// The frequencies of a head of `dim` elements, [D/2], in f32 throughout as transformers computes them.
    pub fn frequencies(self, dim: usize, theta: f64) -> Vec<f32> {
        let powers = (0..dim / 2).map(|i| theta.powf(f64::from(2.0 * i as f32 / dim as f32)) as f32);
        match self {
            Self::Default | Self::Dynamic { .. } => powers.map(|p| 1.0 / p).collect(),
            Self::Linear { factor } => powers.map(|p| 1.0 / p / factor as f32).collect(),
            Self::Llama3 { factor, low, high, original } => {
                powers.map(|p| llama3(1.0 / p, factor as f32, low, high, original)).collect()
            }
            Self::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let place = |turns: f64| dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (first, last) = (place(beta_fast), place(beta_slow));
                let (first, last) = if truncate { (first.floor(), last.ceil()) } else { (first, last) };
                let (first, mut last) = (first.max(0.0), last.min(dim as f64 - 1.0));
                if first == last {
                    last += 0.001; // as there, against a division by zero
                }
                let ramp = |i: usize| ((i as f32 - first as f32) / (last - first) as f32).clamp(0.0, 1.0);
                let scaled = |(i, p): (usize, f32)| {
                    let kept = 1.0 - ramp(i);
                    1.0 / (factor as f32 * p) * (1.0 - kept) + 1.0 / p * kept
                };
                powers.enumerate().map(scaled).collect()
            }
        }
    }
}

/// One frequency under Llama 3's scaling.
fn llama3(frequency: f32, factor: f32, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = (2.0 * PI) as f32 / frequency;
    if wavelength > (original / low) as f32 {
        frequency / factor
    } else if wavelength < (original / high) as f32 {
        frequency
    } else {
        let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// cos and sin of position · frequency, [positions, D]: D/2 cosines, then D/2 sines. The frequencies and angles are f32, as
/// transformers computes them.
pub fn table(c: &ModelConfig, positions: usize) -> Vec<f32> {
    let (dim, attention) = (c.heads.dim, c.rope_scaling.attention());
    let half = dim / 2;
    let frequencies = c.rope_scaling.frequencies(dim, c.rope_theta);
    let mut table = vec![0.0; positions * dim];
    for (p, row) in table.chunks_exact_mut(dim).enumerate() {
        for (i, &f) in frequencies.iter().enumerate() {
            let angle = f64::from(p as f32 * f);
            row[i] = angle.cos() as f32 * attention;
            row[half + i] = angle.sin() as f32 * attention;
        }
    }
    table
}
