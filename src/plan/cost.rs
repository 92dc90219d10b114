//! What a step costs in floating-point work and bytes, and what each knob of the plan is worth.

use super::Request;
use crate::{
    backend::{DType, Sizes},
    model::{
        ModelConfig, Module,
        engine::{EngineSpec, Residency, Saved},
    },
};

/// Speed of a device, as far as the time model looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Floating-point operations a second that a large matrix product reaches.
    pub flops: f64,
    /// Bytes a second that streaming reads and writes reach.
    pub bandwidth: f64,
}

/// A choice the planner can spend memory on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knob {
    /// Keep x2, qkv, o of a layer.
    SaveAttention,
    /// Keep gate/up of a layer.
    SaveGateUp,
    /// Keep a layer's weights unpacked.
    Unpack,
}

/// Floating-point work and traffic of a micro-batch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepCost {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written by dequantisation.
    pub bytes: f64,
}

impl StepCost {
    /// Seconds on a device.
    pub fn seconds(&self, speed: &Speed) -> f64 {
        self.flops / speed.flops + self.bytes / speed.bandwidth
    }
}

/// Weights of a layer's linears.
fn linear_weights(c: &ModelConfig) -> f64 {
    Module::ALL.iter().map(|m| m.shape(c)).map(|(n, k)| (n * k) as f64).sum()
}

fn module_weights(c: &ModelConfig, modules: &[Module]) -> f64 {
    modules.iter().map(|m| m.shape(c)).map(|(n, k)| (n * k) as f64).sum()
}

/// Causal attention of one layer, forward, for `rows` rows in documents of `len`.
fn attention_flops(c: &ModelConfig, rows: f64, len: f64) -> f64 {
    2.0 * rows * len * c.heads.q_width() as f64
}

/// Bytes moved by dequantising one weight: the packed weight and its share of absmax in, the dense weight out and in again.
fn dequantize_bytes(act: DType) -> f64 {
    0.5 + 4.0 / 64.0 + 2.0 * act.size() as f64
}

/// Cost of one training micro-batch of `rows` rows in documents of mean length `len`, with `targets` target rows.
pub fn training_cost(spec: &EngineSpec, act: DType, rows: f64, len: f64, targets: f64) -> StepCost {
    let c = &spec.model;
    let linear = 2.0 * rows * linear_weights(c);
    let lora = spec.lora.as_ref().map_or(0.0, |l| 6.0 * rows * l.layer_parameters(c) as f64);
    let attention = attention_flops(c, rows, len);
    let mut cost = StepCost::default();
    for (saved, residency) in spec.saved.iter().zip(&spec.residency) {
        let recompute = match saved {
            Saved::All => 0.0,
            Saved::NoGateUp => module_weights(c, &[Module::GateProj, Module::UpProj]),
            Saved::InputOnly => linear_weights(c) - module_weights(c, &[Module::DownProj]),
        };
        cost.flops += 2.0 * linear + 2.0 * rows * recompute + lora + 3.5 * attention;
        cost.flops += if *saved == Saved::InputOnly { attention } else { 0.0 };
        if *residency == Residency::Nf4 {
            cost.bytes += (2.0 * linear_weights(c) + recompute) * dequantize_bytes(act);
        }
    }
    cost.flops += 4.0 * targets * (c.vocab * c.hidden) as f64;
    cost
}

/// Cost of one forward pass.
pub fn forward_cost(spec: &EngineSpec, act: DType, rows: f64, len: f64, targets: f64) -> StepCost {
    let c = &spec.model;
    let packed = spec.residency.iter().filter(|r| **r == Residency::Nf4).count() as f64;
    let lora = spec.lora.as_ref().map_or(0.0, |l| 2.0 * rows * l.parameters(c) as f64);
    let layer = 2.0 * rows * linear_weights(c) + attention_flops(c, rows, len);
    StepCost {
        flops: c.layers as f64 * layer + lora + 2.0 * targets * (c.vocab * c.hidden) as f64,
        bytes: packed * linear_weights(c) * dequantize_bytes(act),
    }
}

/// Knobs by seconds saved per byte, the best first. Gate/up comes after attention: it needs it.
pub fn knobs_by_worth(r: &Request, sizes: &dyn Sizes, speed: &Speed) -> Vec<Knob> {
    let c = &r.model;
    let rows = r.rows as f64;
    let act = sizes.activation().size() as f64;
    let seconds = |flops: f64, weights: f64| {
        StepCost { flops, bytes: weights * dequantize_bytes(sizes.activation()) }.seconds(speed)
    };
    let attention_weights = module_weights(c, &[Module::QProj, Module::KProj, Module::VProj, Module::OProj]);
    let attention_bytes =
        rows * act * (c.heads.qkv_width() + c.heads.q_width() + c.hidden) as f64 + rows * 4.0 * c.heads.q as f64;
    let attention_saves =
        seconds(2.0 * rows * attention_weights + attention_flops(c, rows, r.max_len as f64), attention_weights);
    let gate_up = module_weights(c, &[Module::GateProj, Module::UpProj]);
    let passes = if r.training { 2.0 } else { 1.0 };
    let mut worth = [
        (Knob::SaveAttention, attention_saves / attention_bytes),
        (Knob::SaveGateUp, seconds(2.0 * rows * gate_up, gate_up) / (rows * act * 2.0 * c.intermediate as f64)),
        (Knob::Unpack, seconds(0.0, passes * linear_weights(c)) / (linear_weights(c) * (act - 0.5625)).max(1.0)),
    ];
    worth.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut order: Vec<Knob> = worth.iter().map(|w| w.0).collect();
    let place = |order: &[Knob], k| order.iter().position(|&x| x == k).unwrap_or(0);
    let (a, g) = (place(&order, Knob::SaveAttention), place(&order, Knob::SaveGateUp));
    if g < a {
        order.swap(a, g);
    }
    order
}
