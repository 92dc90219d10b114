//! A whole model on the virtual machine: training steps, scoring and generation of the CUDA backend against the cpu
//! backend, through the same [`Engine`]. With IRORI_TEST_DEVICE=N they run on GPU number N instead, where the ledger of
//! calls stays empty and what is read from it is not asserted.

mod inference;
mod training;

use crate::{
    harness::{compiler, open_real, real_device, round, there_are_kernels},
    rounded::Rounded,
    vm_driver::{Ledger, VmDriver},
};
use irori::{
    Result,
    backend::{
        AdamW, Backend, DType, Heads, Space,
        cpu::CpuBackend,
        cuda::{CudaBackend, CudaProperties, Nf4Path, driver::Driver},
    },
    data::{MicroBatch, Sample, batch::NO_LOSS},
    model::{
        Engine, LoraConfig, ModelConfig, Module,
        engine::{EngineSpec, HeadStore, Residency, Saved},
        source::{LinearData, Synthetic, WeightSource},
    },
    rng::{Dropout, NearNormal, Rng},
    tensor::Tensor,
};
use std::sync::{Arc, Mutex};

/// A synthetic model whose norm weights are not all one.
struct Toy(Synthetic);

impl WeightSource for Toy {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let mut t = self.0.tensor(name, shape)?;
        if name.ends_with("norm.weight") {
            let mut rng = Rng::new(name.len() as u64, 3);
            let values: Vec<half::bf16> =
                (0..shape[0]).map(|_| half::bf16::from_f32(1.0 + 0.2 * rng.normal())).collect();
            t.bytes = bytemuck::cast_slice(&values).to_vec().into();
        }
        Ok(t)
    }
    fn recipe(&self, name: &str) -> Option<NearNormal> {
        self.0.recipe(name)
    }
    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        self.0.linear(path, n, k)
    }
    fn dense_dtype(&self) -> DType {
        self.0.dense_dtype()
    }
    fn fingerprint(&self) -> Result<String> {
        self.0.fingerprint()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Two layers, grouped heads, widths that are no multiples of a tile.
fn model(tied: bool) -> ModelConfig {
    ModelConfig {
        hidden: 192,
        intermediate: 320,
        layers: 2,
        heads: Heads { q: 4, kv: 2, dim: 128 },
        vocab: 520,
        rope_theta: 1e6,
        rope_scaling: irori::model::rope::RopeScaling::Default,
        rms_eps: 1e-6,
        tied,
        max_positions: 512,
    }
}

pub fn lora(dropout: f32, targets: &[Module]) -> LoraConfig {
    LoraConfig { r: 8, alpha: 16.0, dropout, rslora: false, targets: targets.to_vec().into() }
}

pub fn spec(lora: Option<LoraConfig>, training: bool) -> EngineSpec {
    EngineSpec { lora, training, logit_rows: 48, ..EngineSpec::new(model(false), 200, 160) }
}

const KEY: u64 = 0x9e37_79b9_7f4a_7c15;

/// An engine with a random adapter, every weight of which is a bf16.
fn engine(backend: Box<dyn Backend>, spec: EngineSpec) -> Engine {
    let source = Toy(Synthetic::new("toy", spec.model.clone(), 5));
    engine_of(backend, spec, &source)
}

fn engine_of(backend: Box<dyn Backend>, spec: EngineSpec, source: &dyn WeightSource) -> Engine {
    let mut e = Engine::new(backend, spec, source, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"));
    if let Some(lora) = e.spec().lora.clone() {
        let mut rng = Rng::new(8, 8);
        let flat: Vec<f32> = (0..lora.parameters(&e.spec().model)).map(|_| round(0.05 * rng.normal())).collect();
        e.set_adapter(&flat).unwrap();
    }
    e
}

fn device(seed: u64) -> (Box<dyn Driver>, Arc<Mutex<Ledger>>) {
    if let Some(number) = real_device() {
        return (Box::new(open_real(number)), Arc::default());
    }
    let driver = VmDriver::new(1 << 30, seed);
    let ledger = driver.ledger();
    (Box::new(driver), ledger)
}

/// On the virtual machine, with what it keeps of the calls; `None`, aloud, in a build without kernels.
fn cuda(spec: EngineSpec, seed: u64) -> Option<(Engine, Arc<Mutex<Ledger>>)> {
    cuda_by(Nf4Path::Fused, spec, seed)
}

fn cuda_by(nf4: Nf4Path, spec: EngineSpec, seed: u64) -> Option<(Engine, Arc<Mutex<Ledger>>)> {
    if !there_are_kernels() {
        return None;
    }
    let (driver, ledger) = device(seed);
    let backend = CudaBackend::new(driver, CudaProperties { nf4 }).unwrap();
    Some((engine(Box::new(backend), spec), ledger))
}

fn cpu(spec: EngineSpec) -> Engine {
    engine(Box::new(CpuBackend::new(Some(2)).unwrap()), spec)
}

fn rounded(spec: EngineSpec) -> Engine {
    engine(Box::new(Rounded(CpuBackend::new(Some(2)).unwrap())), spec)
}

/// Ragged documents, one of a single token, one longer than a block of queries; loss on their second halves.
fn documents(lengths: &[usize]) -> MicroBatch {
    let mut rng = Rng::new(11, 2);
    let mut batch = MicroBatch::new();
    for (i, &n) in lengths.iter().enumerate() {
        let tokens: Vec<u32> = (0..n).map(|_| rng.below(520)).collect();
        let labels = (0..n).map(|t| if t >= n / 2 { tokens[t] as i32 } else { NO_LOSS }).collect();
        batch.push(100 + i as u32, &Sample { tokens, labels });
    }
    batch
}

/// ‖a − b‖ / ‖b‖, and the factor by which b fits a best: 1 without a bias.
fn distance(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let square: f64 = pairs().map(|(_, b)| b * b).sum();
    let difference: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
    ((difference / square).sqrt(), pairs().map(|(a, b)| a * b).sum::<f64>() / square)
}

/// What `irori doctor` runs on a GPU.
#[test]
fn the_self_test_passes() {
    if !there_are_kernels() {
        return;
    }
    let backend = CudaBackend::new(device(0).0, CudaProperties::FUSED).unwrap();
    irori::model::selftest::run(Box::new(backend)).unwrap_or_else(|e| panic!("{e}"));
}

/// What the kernels cannot do is said before anything is taken.
#[test]
fn what_does_not_fit_the_kernels_is_refused() {
    let refusal = |change: &dyn Fn(&mut EngineSpec)| {
        let mut spec = spec(Some(lora(0.0, &Module::ALL)), true);
        change(&mut spec);
        irori::model::engine::arrange(&spec, &CudaProperties::FUSED).expect_err("refused").to_string()
    };
    for (change, words) in [
        (&(|s: &mut EngineSpec| s.lora.as_mut().unwrap().r = 12) as &dyn Fn(&mut EngineSpec), "`lora-r = 12`"),
        (&|s| s.model.heads.dim = 64, "head_dim of 128"),
        (&|s| s.model.hidden = 8256, "hidden_size of at most 8192"),
        (&|s| s.model.vocab = 521, "vocab_size"),
        (&|s| s.compute = DType::F32, "`bnb-4bit-compute-dtype = float32`"),
    ] {
        let said = refusal(change);
        assert!(said.contains(words), "{said}");
    }
}
