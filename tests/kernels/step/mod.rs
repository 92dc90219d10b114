//! A whole model on the virtual machine: training steps, scoring and generation of the CUDA backend against the cpu
//! backend, through the same [`Engine`]. With IRORI_TEST_DEVICE=N they run on GPU number N instead, where the ledger of
//! calls stays empty and what is read from it is not asserted.

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
        cuda::{CudaBackend, CudaSizes, driver::Driver},
    },
    data::{MicroBatch, Sample, batch::NO_LOSS},
    model::{
        Engine, LoraConfig, ModelConfig, Module,
        engine::{EngineSpec, HeadStore, Residency, Saved},
        source::{LinearData, Synthetic, WeightSource},
    },
    rng::{Bell, Dropout, Rng},
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
    fn recipe(&self, name: &str) -> Option<Bell> {
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
        rms_eps: 1e-6,
        tied,
        max_positions: 512,
    }
}

pub fn lora(dropout: f32, targets: &[Module]) -> LoraConfig {
    LoraConfig { r: 8, alpha: 16.0, dropout, rslora: false, targets: targets.to_vec() }
}

pub fn spec(lora: Option<LoraConfig>, training: bool) -> EngineSpec {
    let model = model(false);
    EngineSpec {
        lora,
        training,
        max_rows: 200,
        max_len: 160,
        logit_rows: 48,
        saved: vec![Saved::All; model.layers],
        residency: vec![Residency::Nf4; model.layers],
        model,
        compute: DType::Bf16,
        dense: DType::Bf16,
        embedding: Space::Device,
        head: HeadStore::Dense,
        kv_slots: 0,
        kv_capacity: 0,
    }
}

const KEY: u64 = 0x9e37_79b9_7f4a_7c15;

/// An engine with a random adapter, every weight of which is a bf16.
fn engine(backend: Box<dyn Backend>, spec: EngineSpec) -> Engine {
    let source = Toy(Synthetic::new("toy", spec.model.clone(), 5));
    let mut e = Engine::new(backend, spec, &source, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"));
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
    if !there_are_kernels() {
        return None;
    }
    let (driver, ledger) = device(seed);
    let backend = CudaBackend::new(driver, CudaSizes).unwrap();
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

fn adamw(step: u64) -> AdamW {
    AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step, max_norm: Some(1.0) }
}

/// What two steps leave.
#[derive(Debug, PartialEq)]
struct Trained {
    losses: [f64; 2],
    norms: [f64; 2],
    /// Of the first step.
    gradients: Vec<f32>,
    adapter: Vec<f32>,
    moments: (Vec<f32>, Vec<f32>),
}

/// Two steps over these micro-batches.
fn train(e: &mut Engine, batches: &[MicroBatch]) -> Trained {
    let targets: usize = batches.iter().map(|b| b.target_ids.len()).sum();
    let mut gradients = Vec::new();
    let stats = [1, 2].map(|step| {
        e.begin_step().unwrap();
        for b in batches {
            e.accumulate(b, 1.0 / targets as f32, Dropout::key(KEY, step)).unwrap_or_else(|e| panic!("{e}"));
        }
        if step == 1 {
            gradients = e.gradients().unwrap();
        }
        e.finish_step(&adamw(step)).unwrap()
    });
    Trained {
        losses: stats.map(|s| s.loss_sum),
        norms: stats.map(|s| s.grad_norm),
        gradients,
        adapter: e.adapter().unwrap(),
        moments: e.moments().unwrap(),
    }
}

/// The adapters that three of the cases train, as this nvcc compiles the kernels: SHA-256 of their f32 bytes. Whoever changes
/// how a kernel or an operation computes changes them, and says so.
const COMPILER: &str = "13.0, V13.0.88";
const TWO_BATCHES: &str = "89acecb0038fd9542a4ff514ba81f848ac771f030bbc97cf604c94a125318ed3";
const ONE_BATCH: &str = "bbcd6f30d1484660df50a643315d8df9bd3d8a134128774ed28502f626a512f1";
const PACKED_HEAD: &str = "3b719726814fce1544df9ed82072fd1c3d38e6ef2eb11f69026e14a9234984a1";

/// Fails if the adapter is not the one it has been. The last bits of the inputs (logarithms, cosines) are the C library's.
#[track_caller]
fn assert_adapter(trained: &Trained, digest: &str) {
    use sha2::Digest as _;
    let bytes: &[u8] = bytemuck::cast_slice(&trained.adapter);
    let now: String = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let same_library = cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"));
    if compiler() != COMPILER || !same_library || real_device().is_some() {
        eprintln!("SKIP: the adapter {now} is compared under nvcc {COMPILER} and glibc on the virtual machine only");
        return;
    }
    assert_eq!(now, digest, "another adapter is trained than before");
}

/// ‖a − b‖ / ‖b‖, and the factor by which b fits a best: 1 without a bias.
fn distance(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let square: f64 = pairs().map(|(_, b)| b * b).sum();
    let difference: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
    ((difference / square).sqrt(), pairs().map(|(a, b)| a * b).sum::<f64>() / square)
}

/// The CUDA backend stores activations in bf16. What that costs is what it costs the cpu backend ([`Rounded`]), measured
/// against the cpu backend proper, tensor by tensor; the kernels may add a quarter to it (they round softmax probabilities
/// and adapters' v inside). There is no bias either: in the factor that fits best most of the error cancels, though not all,
/// since an error of one row of dx is in every gradient below it.
#[test]
fn steps_are_the_cpu_steps() {
    let spec = spec(Some(lora(0.1, &Module::ALL)), true);
    let Some((mut gpu, _)) = cuda(spec.clone(), 0) else { return };
    let batches = [documents(&[37, 1, 143, 6]), documents(&[64, 3])];
    let got = train(&mut gpu, &batches);
    assert_adapter(&got, TWO_BATCHES);
    let rounded = train(&mut rounded(spec.clone()), &batches);
    let exact = train(&mut cpu(spec.clone()), &batches);
    for step in 0..2 {
        // 250 targets of 3.4 nats each, whose errors cancel: 2⁻⁸ of one logit would be 0.03 nats in all.
        let error = (got.losses[step] / exact.losses[step] - 1.0).abs();
        assert!(error < 1e-3, "step {step}: loss {} and {}", got.losses[step], exact.losses[step]);
        let error = (got.norms[step] / exact.norms[step] - 1.0).abs();
        assert!(error < 5e-3, "step {step}: norm {} and {}", got.norms[step], exact.norms[step]);
    }
    let (_, factor) = distance(&got.gradients, &exact.gradients);
    assert!((factor - 1.0).abs() < 3e-3, "all gradients are biased by {factor}");
    for slot in spec.lora.unwrap().slots(&spec.model) {
        for (what, r) in [("A", slot.a_range()), ("B", slot.b_range())] {
            let (rounding, _) = distance(&rounded.gradients[r.clone()], &exact.gradients[r.clone()]);
            let (error, factor) = distance(&got.gradients[r.clone()], &exact.gradients[r.clone()]);
            let what = format!("gradient of {} {what}", slot.peft_path());
            println!("{what}: {error:.4}, rounding {rounding:.4}, factor {factor:.5}");
            assert!(error < 1.25 * rounding, "{what}: {error}, rounding alone {rounding}");
            assert!((factor - 1.0).abs() < 0.6 * rounding, "{what}: biased by {factor}");
        }
    }
    for (what, got, rounded, exact) in [
        ("adapter", &got.adapter, &rounded.adapter, &exact.adapter),
        ("first moment", &got.moments.0, &rounded.moments.0, &exact.moments.0),
        ("second moment", &got.moments.1, &rounded.moments.1, &exact.moments.1),
    ] {
        let ((rounding, _), (error, factor)) = (distance(rounded, exact), distance(got, exact));
        println!("{what}: {error:.4}, rounding {rounding:.4}, factor {factor:.5}");
        assert!(
            error < 1.25 * rounding && (factor - 1.0).abs() < 0.6 * rounding,
            "{what}: {error}, {rounding}, {factor}"
        );
    }
}

/// Recomputation, residency of the weights and the order in which warps run: no bit changes. Unpacked weights are multiplied by
/// the dense kernels, packed ones by those that decode.
#[test]
fn plans_and_schedules_change_no_bit() {
    let base = spec(Some(lora(0.1, &Module::ALL)), true);
    let batches = [documents(&[29, 1, 66])];
    let run = |spec: EngineSpec, seed| cuda(spec, seed).map(|(mut e, _)| train(&mut e, &batches));
    let Some(want) = run(base.clone(), 0) else { return };
    assert_adapter(&want, ONE_BATCH);
    assert!(want.losses[0] > 0.0 && want.gradients.iter().any(|&g| g != 0.0));
    let saved = |saved: [Saved; 2]| EngineSpec { saved: saved.to_vec(), ..base.clone() };
    let resident = |residency: [Residency; 2]| EngineSpec { residency: residency.to_vec(), ..base.clone() };
    for (what, spec, seed) in [
        ("another schedule", base.clone(), 1),
        ("gate/up computed again", saved([Saved::NoGateUp; 2]), 3),
        ("inputs only", saved([Saved::InputOnly, Saved::InputOnly]), 4),
        ("mixed", saved([Saved::InputOnly, Saved::All]), 5),
        ("unpacked", resident([Residency::Unpacked; 2]), 6),
        ("one layer unpacked", resident([Residency::Nf4, Residency::Unpacked]), 7),
        ("logits in small chunks", EngineSpec { logit_rows: 17, ..base.clone() }, 8),
        ("embedding in host memory", EngineSpec { embedding: Space::Host, ..base.clone() }, 10),
        ("room for more", EngineSpec { max_rows: 300, max_len: 300, ..base.clone() }, 9),
    ] {
        let got = run(spec, seed).unwrap();
        if what == "logits in small chunks" {
            // Each chunk's losses are added on their own; the sum's last bits depend on it, nothing else does.
            assert!((got.losses[0] / want.losses[0] - 1.0).abs() < 1e-6);
            assert_eq!((&got.gradients, &got.adapter), (&want.gradients, &want.adapter), "{what}");
        } else {
            assert!(
                got == want,
                "{what}: {:?} {:?}, expected {:?} {:?}",
                got.losses,
                got.norms,
                want.losses,
                want.norms
            );
        }
    }
}

/// A head in NF4 under every schedule; beside its copy a tied embedding is free to leave the device.
#[test]
fn a_head_in_nf4_has_the_same_bits_wherever_the_embedding_lies() {
    let base = spec(Some(lora(0.1, &[Module::VProj])), true);
    let batches = [documents(&[29, 1, 66])];
    let run = |embedding, seed| {
        let model = ModelConfig { vocab: 576, ..model(true) };
        let spec = EngineSpec { model, head: HeadStore::Nf4, embedding, ..base.clone() };
        cuda(spec, seed).map(|(mut e, _)| train(&mut e, &batches))
    };
    let Some(want) = run(Space::Device, 0) else { return };
    assert_adapter(&want, PACKED_HEAD);
    assert!(want.losses[0] > 0.0 && want.gradients.iter().any(|&g| g != 0.0));
    assert!(run(Space::Host, 1).unwrap() == want);
}

/// A run that is stopped after a step and taken up by another engine goes on with the same bits.
#[test]
fn a_resumed_run_is_the_same_bit_for_bit() {
    let spec = spec(Some(lora(0.1, &[Module::VProj, Module::UpProj])), true);
    let batch = documents(&[31, 2]);
    let step = |e: &mut Engine, number: u64| {
        e.begin_step().unwrap();
        e.accumulate(&batch, 0.05, Dropout::key(KEY, number)).unwrap();
        let stats = e.finish_step(&adamw(number)).unwrap();
        (stats, e.adapter().unwrap(), e.moments().unwrap())
    };
    let Some((mut whole, _)) = cuda(spec.clone(), 0) else { return };
    let (_, adapter, (m, v)) = step(&mut whole, 1);
    let want = step(&mut whole, 2);
    let (mut resumed, _) = cuda(spec, 1).unwrap();
    resumed.set_adapter(&adapter).unwrap();
    resumed.set_moments(&m, &v).unwrap();
    assert!(step(&mut resumed, 2) == want);
    assert_ne!(want.1, adapter);
}

/// The arena is taken at the plan's size; after that nothing is allocated, and a step waits for the device once.
#[test]
fn a_step_takes_no_memory_and_waits_once() {
    let spec = spec(Some(lora(0.0, &[Module::QProj, Module::DownProj])), true);
    if real_device().is_some() {
        eprintln!("SKIP: a GPU keeps no ledger");
        return;
    }
    let Some((mut e, ledger)) = cuda(spec, 0) else { return };
    let calls = || {
        let book = ledger.lock().unwrap();
        (book.allocations.clone(), book.waits)
    };
    assert_eq!(calls(), (vec![e.arena_bytes()], 0), "loading waits for nothing");
    let batch = documents(&[20, 3]);
    for step in 1..3 {
        e.begin_step().unwrap();
        e.accumulate(&batch, 0.1, 0).unwrap();
        e.accumulate(&batch, 0.1, 0).unwrap();
        assert_eq!(calls(), (vec![e.arena_bytes()], step as usize - 1));
        e.finish_step(&adamw(step)).unwrap();
        assert_eq!(calls(), (vec![e.arena_bytes()], step as usize));
    }
}

/// The CPU's log-probabilities, in NF4 and without quantisation, with a head of its own, a tied one, and one in NF4.
#[test]
fn scores_are_the_cpu_scores() {
    let batch = documents(&[50, 2, 71]);
    let packed_head = ModelConfig { vocab: 576, ..model(true) };
    for (model, residency, head, embedding) in [
        (model(false), Residency::Nf4, HeadStore::Dense, Space::Device),
        (model(true), Residency::Dense, HeadStore::Dense, Space::Device),
        (packed_head, Residency::Nf4, HeadStore::Nf4, Space::Host),
    ] {
        let base = spec(Some(lora(0.5, &Module::ALL)), false);
        let spec = EngineSpec { model, residency: vec![residency; 2], head, embedding, ..base };
        let Some((mut gpu, ledger)) = cuda(spec.clone(), 3) else { return };
        let score = |e: &mut Engine| {
            let targets = e.target_logprobs(&batch).unwrap_or_else(|e| panic!("{e}"));
            let choices = e.choice_logprobs(&batch, &[49, 51, 122], &[3, 500, 77, 4]).unwrap();
            [targets, choices]
        };
        let (got, rounded, exact) = (score(&mut gpu), score(&mut rounded(spec.clone())), score(&mut cpu(spec)));
        assert_eq!(got[1].len(), 12);
        for ((got, rounded), exact) in got.iter().zip(&rounded).zip(&exact) {
            let ((rounding, _), (error, factor)) = (distance(rounded, exact), distance(got, exact));
            println!("log-probabilities: {error:.5}, rounding {rounding:.5}, factor {factor:.6}");
            assert!(
                error < 1.5 * rounding && (factor - 1.0).abs() < 2e-3,
                "{error}, rounding alone {rounding}, {factor}"
            );
        }
        let taken = if embedding == Space::Host { 2 } else { 1 };
        assert!(real_device().is_some() || ledger.lock().unwrap().allocations.len() == taken);
    }
}

/// Each token is, up to rounding, the one that the cpu backend finds the most probable: few sequences (the thin product) and many (tiles), slots that are used again.
#[test]
fn generated_tokens_are_the_most_probable() {
    let mut rng = Rng::new(4, 4);
    let mut prompt = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.below(520)).collect() };
    let few = vec![prompt(9), prompt(1), prompt(40)];
    let many: Vec<Vec<u32>> = (1..=11).map(&mut prompt).collect();
    for (prompts, slots) in [(few, 2), (many, 10)] {
        let base = spec(Some(lora(0.0, &Module::ALL)), false);
        let spec = EngineSpec { kv_slots: slots, kv_capacity: 300, ..base };
        let Some((mut gpu, ledger)) = cuda(spec.clone(), 5) else { return };
        let texts = gpu.generate(&prompts, 4, &[519], &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
        let mut cpu = cpu(EngineSpec { kv_slots: 0, ..spec });
        for (prompt, text) in prompts.iter().zip(&texts) {
            assert!(text.len() == 4 || text.last() == Some(&519), "{text:?}");
            let mut batch = MicroBatch::new();
            batch.push_prompt(0, &[&prompt[..], text].concat());
            let rows: Vec<u32> = (0..text.len()).map(|i| (prompt.len() - 1 + i) as u32).collect();
            // After each row, the log-probability of every token.
            let ids: Vec<u32> = (0..520).collect();
            let parts: Vec<Vec<f32>> =
                ids.chunks(130).map(|ids| cpu.choice_logprobs(&batch, &rows, ids).unwrap()).collect();
            for (row, &token) in text.iter().enumerate() {
                let all: Vec<f32> = parts.iter().flat_map(|p| p[row * 130..(row + 1) * 130].to_vec()).collect();
                let best = all.iter().copied().fold(f32::MIN, f32::max);
                // bf16 moves a log-probability by about 0.01 nats (see the test of scores); the best two may be as near.
                assert!(best - all[token as usize] < 0.04, "{token} is {} below the best", best - all[token as usize]);
            }
        }
        let book = ledger.lock().unwrap();
        let thin = book.costs.contains_key("gemv_nf4") && book.allocations.len() == 1;
        assert!(thin || real_device().is_some(), "one allocation; a product of few rows takes the thin path");
    }
}

/// What `irori doctor` runs on a GPU.
#[test]
fn the_self_test_passes() {
    if !there_are_kernels() {
        return;
    }
    let backend = CudaBackend::new(device(0).0, CudaSizes).unwrap();
    irori::model::selftest::run(Box::new(backend)).unwrap_or_else(|e| panic!("{e}"));
}

/// What the kernels cannot do is said before anything is taken.
#[test]
fn what_does_not_fit_the_kernels_is_refused() {
    let refusal = |change: &dyn Fn(&mut EngineSpec)| {
        let mut spec = spec(Some(lora(0.0, &Module::ALL)), true);
        change(&mut spec);
        irori::model::engine::arrange(&spec, &CudaSizes).expect_err("refused").to_string()
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
