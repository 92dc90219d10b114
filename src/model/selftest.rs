//! A quick check that irori computes right on this machine: the gradient of a tiny random model against finite
//! differences, and NF4's constants against their digest. `irori doctor` runs it.

use super::{
    Engine, LoraConfig, ModelConfig, Module,
    engine::{EngineSpec, HeadStore, Residency, Saved},
    hex, peft,
    source::Synthetic,
};
use crate::{
    Error, Result,
    backend::{AdamW, Backend, DType, Space},
    data::{MicroBatch, Sample},
    quant::nested,
    rng::Rng,
};
use sha2::{Digest, Sha256};

/// SHA-256 of the 256 little-endian f32 of bitsandbytes' dynamic map.
const DYNAMIC_MAP: &str = "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c";

/// Largest relative difference between the gradient along a direction and its central difference in f32.
const TOLERANCE: f64 = 1e-2;

/// Runs the check on a backend; it must not have been used before.
///
/// # Errors
/// What came out wrong, with both values.
pub fn run(backend: Box<dyn Backend>) -> Result<()> {
    let map = nested::dynamic_map();
    if hex(&Sha256::digest(bytemuck::cast_slice::<f32, u8>(&map))) != DYNAMIC_MAP {
        return Err(Error::failed("self-test: the dynamic map of double quantisation has wrong values"));
    }
    let mut engine = engine(backend)?;
    let lora = engine.spec().lora.clone().ok_or_else(|| Error::failed("self-test: no adapter"))?;
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
        let still = AdamW { lr: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, max_norm: None };
        Ok(engine.finish_step(&still)?.loss_sum)
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

fn engine(backend: Box<dyn Backend>) -> Result<Engine> {
    let model = ModelConfig::preset("tiny").ok_or_else(|| Error::failed("self-test: no tiny model"))?;
    let lora = LoraConfig { r: 8, alpha: 16.0, dropout: 0.0, rslora: false, targets: Module::ALL.to_vec() };
    let spec = EngineSpec {
        lora: Some(lora),
        training: true,
        max_rows: 64,
        max_len: 48,
        logit_rows: 16,
        saved: vec![Saved::NoGateUp; model.layers],
        residency: vec![Residency::Nf4; model.layers],
        compute: DType::Bf16,
        dense: DType::Bf16,
        head: HeadStore::Dense,
        embedding: Space::Device,
        kv_slots: 0,
        kv_capacity: 0,
        model: model.clone(),
    };
    Engine::new(backend, spec, &Synthetic::new("tiny", model, 1), &mut |_, _| {})
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
