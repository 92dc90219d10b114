//! A quick check that irori computes right on a device, which `irori doctor` runs. Where activations are f32 the gradient of
//! a tiny random model is compared with finite differences; where they are bf16 a training step is compared with the CPU's.
//! NF4's constants are compared with their digest.

use super::{
    Engine, LoraConfig, ModelConfig, Module,
    engine::{EngineSpec, Saved},
    peft,
    source::Synthetic,
};
use crate::{
    Error, Result,
    backend::{AdamW, Backend, DType, Heads, cpu::CpuBackend},
    data::{MicroBatch, Sample},
    digest,
    quant::nested,
    rng::Rng,
};

/// SHA-256 of the 256 little-endian f32 of bitsandbytes' dynamic map.
const DYNAMIC_MAP: &str = "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c";

/// Largest relative difference between the gradient along a direction and its central difference in f32.
const TOLERANCE: f64 = 1e-2;

/// Largest relative difference of losses, and of gradients in norm, between bf16 and f32 activations. On this model bf16
/// costs about 10⁻⁴ of the loss and 1.5 % of a gradient.
const BF16_TOLERANCE: (f64, f64) = (2e-3, 0.04);

/// Runs the check on a backend; it must not have been used before.
///
/// # Errors
/// What came out wrong, with both values.
pub fn run(backend: Box<dyn Backend>) -> Result<()> {
    let map = nested::dynamic_map();
    if digest::sha256(bytemuck::cast_slice(&map)) != DYNAMIC_MAP {
        return Err(Error::failed("self-test: the dynamic map of double quantisation has wrong values"));
    }
    if backend.properties().activation() == DType::F32 { differences(backend) } else { as_on_the_cpu(backend) }
}

/// One step of a model of the kernels' head size, here and on the CPU.
fn as_on_the_cpu(backend: Box<dyn Backend>) -> Result<()> {
    let model = ModelConfig {
        hidden: 256,
        intermediate: 512,
        layers: 2,
        heads: Heads { q: 4, kv: 2, dim: 128 },
        vocab: 1024,
        rope_theta: 1e6,
        rope_scaling: crate::model::rope::RopeScaling::Default,
        rms_eps: 1e-6,
        tied: false,
        max_positions: 512,
    };
    let step = |backend: Box<dyn Backend>| -> Result<(f64, Vec<f32>)> {
        let mut engine = engine(backend, &model)?;
        let lora = engine.spec().lora.clone().ok_or_else(|| Error::internal("self-test: no adapter"))?;
        let mut rng = Rng::new(1, 1);
        let flat: Vec<f32> = (0..lora.parameters(&model)).map(|_| 0.05 * rng.normal()).collect();
        engine.set_adapter(&flat)?;
        engine.begin_step()?;
        engine.accumulate(&batch(&mut rng, model.vocab as u32), 1.0, 0)?;
        let gradients = engine.gradients()?;
        Ok((engine.finish_step(&still())?.loss_sum, gradients))
    };
    let (loss, gradients) = step(backend)?;
    let (want_loss, want) = step(Box::new(CpuBackend::new(None)?))?;
    let square: f64 = want.iter().map(|&w| f64::from(w).powi(2)).sum();
    let difference: f64 = want.iter().zip(&gradients).map(|(&w, &g)| f64::from(g - w).powi(2)).sum();
    let errors = ((loss / want_loss - 1.0).abs(), (difference / square).sqrt());
    // Not `>`: a NaN fails too.
    if errors.0 < BF16_TOLERANCE.0 && errors.1 < BF16_TOLERANCE.1 {
        return Ok(());
    }
    Err(Error::failed(format!(
        "self-test: a training step has the loss {loss}, on the CPU {want_loss}; its gradient is {:.1} % off",
        100.0 * errors.1
    )))
}

/// An update that changes nothing.
fn still() -> AdamW {
    AdamW { lr: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, max_norm: None }
}

fn differences(backend: Box<dyn Backend>) -> Result<()> {
    let model = ModelConfig::preset("tiny").ok_or_else(|| Error::internal("self-test: no tiny model"))?;
    let mut engine = engine(backend, &model)?;
    let lora = engine.spec().lora.clone().ok_or_else(|| Error::internal("self-test: no adapter"))?;
    let mut rng = Rng::new(1, 1);
    let mut flat = peft::initial(&lora, &engine.spec().model, 1);
    flat.iter_mut().for_each(|x| *x += 0.02 * rng.normal());
    let batch = batch(&mut rng, engine.spec().model.vocab as u32);
    engine.set_adapter(&flat)?;
    engine.begin_step()?;
    engine.accumulate(&batch, 1.0, 0)?;
    let gradient = engine.gradients()?;
    let direction: Vec<f32> = gradient.iter().map(|g| g.signum()).collect();
    let expected: f64 = gradient.iter().map(|g| f64::from(g.abs())).sum();
    let mut loss_at = |step: f32| -> Result<f64> {
        let moved: Vec<f32> = flat.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
        engine.set_adapter(&moved)?;
        engine.begin_step()?;
        engine.accumulate(&batch, 1.0, 0)?;
        Ok(engine.finish_step(&still())?.loss_sum)
    };
    const H: f32 = 1e-3;
    let numeric = (loss_at(H)? - loss_at(-H)?) / f64::from(2.0 * H);
    if (numeric - expected).abs() <= TOLERANCE * expected {
        Ok(())
    } else {
        let message =
            format!("self-test: the gradient along a direction is {expected}, its difference quotient {numeric}");
        Err(Error::failed(message))
    }
}

fn engine(backend: Box<dyn Backend>, model: &ModelConfig) -> Result<Engine> {
    let lora = LoraConfig { r: 8, alpha: 16.0, dropout: 0.0, rslora: false, targets: Module::ALL.into() };
    let spec = EngineSpec {
        lora: Some(lora),
        training: true,
        logit_rows: 16,
        saved: vec![Saved::NoGateUp; model.layers],
        ..EngineSpec::new(model.clone(), 64, 48)
    };
    Engine::new(backend, spec, &Synthetic::new("tiny", model.clone(), 1), &mut |_, _| {})
}

/// Two documents with loss on every token.
fn batch(rng: &mut Rng, vocab: u32) -> MicroBatch {
    let mut batch = MicroBatch::new();
    for (i, len) in [40, 9].into_iter().enumerate() {
        let tokens: Vec<u32> = (0..len).map(|_| rng.below(vocab)).collect();
        let labels = tokens.iter().map(|&t| t as i32).collect();
        batch.push(i as u32, &Sample { tokens, labels });
    }
    batch
}

#[cfg(test)]
mod tests {
    #[test]
    fn passes_on_the_cpu() {
        let backend = crate::backend::cpu::CpuBackend::new(Some(2)).expect("a backend");
        super::run(Box::new(backend)).expect("the self-test passes");
    }
}
