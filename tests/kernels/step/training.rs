//! Steps of training: against the CPU, and against themselves under other plans and schedules.

use super::*;

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

/// Toy weights in bf16; those of modules that are not in the layer's list are what NF4 makes of them.
struct InUse(Toy, [&'static [Module]; 2]);

impl WeightSource for InUse {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        self.0.tensor(name, shape)
    }
    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        let t = self.tensor(&format!("{path}.weight"), &[n, k])?;
        let dense = (0..2).any(|layer| self.1[layer].iter().any(|m| m.path_in(layer) == path));
        if dense || path == "lm_head" {
            return Ok(LinearData::Dense(t));
        }
        let values = irori::quant::nf4::Nf4::of(t.floats()?).to_bf16_values();
        Ok(LinearData::Dense(Tensor::new(DType::Bf16, [n, k], DType::Bf16.encode(&values))))
    }
    fn dense_dtype(&self) -> DType {
        DType::Bf16
    }
    fn fingerprint(&self) -> Result<String> {
        self.0.fingerprint()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Linears that stay dense beside packed ones, alone and as a part of a product: a model whose other weights were dequantised by
/// hand has the same bits.
#[test]
fn linears_that_stay_dense_change_no_bit_of_the_others() {
    use Module::{DownProj, GateProj, KProj, OProj, QProj, VProj};
    let base = spec(Some(lora(0.1, &Module::ALL)), true);
    let batches = [documents(&[29, 1, 66])];
    let sets: [[&'static [Module]; 2]; 2] =
        [[&[KProj], &[OProj, GateProj]], [&[QProj, KProj, VProj], &[DownProj, VProj]]];
    for (seed, sets) in sets.into_iter().enumerate() {
        let run = |spec: EngineSpec, sets: [&'static [Module]; 2], seed| {
            let source = InUse(Toy(Synthetic::new("toy", spec.model.clone(), 5)), sets);
            let backend = CudaBackend::new(device(seed).0, CudaProperties::FUSED).unwrap();
            train(&mut engine_of(Box::new(backend), spec, &source), &batches)
        };
        if !there_are_kernels() {
            return;
        }
        let by_hand = EngineSpec { residency: vec![Residency::Dense; 2], ..base.clone() };
        let want = run(by_hand, sets, 0);
        let mixed = EngineSpec { dense_modules: sets.map(<[Module]>::to_vec).to_vec(), ..base.clone() };
        assert!(run(mixed, [&Module::ALL; 2], seed as u64 + 1) == want, "{sets:?}");
    }
}

/// Packed weights that are dequantised to scratch first, layers' and head's: the same bits.
#[test]
fn the_way_of_packed_weights_changes_no_bit() {
    let spec = EngineSpec {
        model: ModelConfig { vocab: 576, ..model(true) },
        head: HeadStore::Nf4,
        ..spec(Some(lora(0.1, &Module::ALL)), true)
    };
    let run = |nf4, seed| cuda_by(nf4, spec.clone(), seed).map(|(mut e, _)| train(&mut e, &[documents(&[29, 1, 66])]));
    let Some(want) = run(Nf4Path::Fused, 0) else { return };
    assert!(want.losses[0] > 0.0 && want.gradients.iter().any(|&g| g != 0.0));
    assert!(run(Nf4Path::Scratch, 1).unwrap() == want);
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
