//! Invariants of the graph on the CPU: what must not depend on packing, plan, order or neighbours, and gradients against
//! finite differences.

mod held;

use super::*;
use crate::{
    backend::{DType, Heads, Space, cpu::CpuBackend},
    data::{Sample, batch::NO_LOSS},
    model::{LoraConfig, ModelConfig, Module, Targets, source::LinearData},
    quant::nf4,
    rng::{Dropout, Rng, mix64},
    tensor::Tensor,
};
use std::borrow::Cow;

/// Random weights by name: norms around 1, linears small.
struct Toy(ModelConfig);

impl Toy {
    fn make(name: &str, shape: &[usize]) -> Tensor<'static> {
        let seed = name.bytes().fold(17, |h, b| mix64(h ^ u64::from(b)));
        let mut rng = Rng::new(seed, 0);
        let (mean, spread) = if name.contains("norm") { (1.0, 0.1) } else { (0.0, 0.08) };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| mean + spread * rng.normal()).collect();
        let bytes = Cow::Owned(bytemuck::cast_slice(&values).to_vec());
        Tensor { dtype: DType::F32, shape: shape.to_vec(), bytes }
    }
}

impl WeightSource for Toy {
    fn config(&self) -> &ModelConfig {
        &self.0
    }
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        Ok(Self::make(name, shape))
    }
    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        Ok(LinearData::Dense(Self::make(&format!("{path}.weight"), &[n, k])))
    }
    fn dense_dtype(&self) -> DType {
        DType::F32
    }
    fn fingerprint(&self) -> Result<String> {
        Ok("toy".into())
    }
    fn describe(&self) -> String {
        "toy".into()
    }
}

fn model() -> ModelConfig {
    ModelConfig {
        hidden: 64,
        intermediate: 128,
        layers: 3,
        heads: Heads { q: 4, kv: 2, dim: 32 },
        vocab: 97,
        rope_theta: 1e6,
        rope_scaling: crate::model::rope::RopeScaling::Default,
        rms_eps: 1e-6,
        tied: true,
        max_positions: 512,
    }
}

fn spec(lora: Option<LoraConfig>, training: bool) -> EngineSpec {
    let model = model();
    EngineSpec {
        lora,
        training,
        logit_rows: 7,
        residency: vec![Residency::Dense; model.layers],
        dense: DType::F32,
        ..EngineSpec::new(model, 96, 64)
    }
}

fn lora(dropout: f32, targets: &[Module]) -> LoraConfig {
    LoraConfig { r: 4, alpha: 8.0, dropout, rslora: false, targets: targets.to_vec().into() }
}

/// An engine whose adapter is random in A and in B.
fn engine(spec: EngineSpec) -> Engine {
    let source = Toy(spec.model.clone());
    engine_of(spec, &source)
}

fn engine_of(spec: EngineSpec, source: &dyn WeightSource) -> Engine {
    let mut e = Engine::new(Box::new(CpuBackend::new(Some(2)).expect("a backend")), spec, source, &mut |_, _| {})
        .expect("an engine");
    if let Some(lora) = e.spec().lora.clone() {
        let mut rng = Rng::new(5, 5);
        let flat: Vec<f32> = (0..lora.parameters(&e.spec().model)).map(|_| 0.1 * rng.normal()).collect();
        e.set_adapter(&flat).expect("an adapter");
    }
    e
}

/// Ragged samples, one of a single token; loss on their second halves.
fn samples() -> Vec<Sample> {
    let mut rng = Rng::new(11, 2);
    [13, 1, 29, 2, 40, 17]
        .iter()
        .map(|&n: &usize| {
            let tokens: Vec<u32> = (0..n).map(|_| rng.below(97)).collect();
            let labels = (0..n).map(|t| if t >= n / 2 { tokens[t] as i32 } else { NO_LOSS }).collect();
            Sample { tokens, labels }
        })
        .collect()
}

fn pack(samples: &[Sample], groups: &[&[usize]]) -> Vec<MicroBatch> {
    groups
        .iter()
        .map(|group| {
            let mut batch = MicroBatch::new();
            group.iter().for_each(|&i| batch.push(i as u32, &samples[i]));
            batch
        })
        .collect()
}

const KEY: u64 = 0x1234_5678_9abc;

fn no_update() -> AdamW {
    AdamW { lr: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, max_norm: None }
}

/// Loss sum and gradients of one step over these micro-batches.
fn gradients(e: &mut Engine, batches: &[MicroBatch]) -> (f64, Vec<f32>) {
    let targets: usize = batches.iter().map(|b| b.target_ids.len()).sum();
    e.begin_step().expect("begin");
    for b in batches {
        e.accumulate(b, 1.0 / targets as f32, KEY).expect("accumulate");
    }
    let gradients = e.gradients().expect("gradients");
    (e.finish_step(&no_update()).expect("finish").loss_sum, gradients)
}

fn assert_close(a: &[f32], b: &[f32], relative: f32) {
    let norm = a.iter().map(|x| x * x).sum::<f32>().sqrt() / (a.len() as f32).sqrt();
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= relative * (norm + x.abs()), "element {i}: {x} and {y}, rms {norm}");
    }
}

#[test]
fn packing_splitting_and_order_change_gradients_by_rounding_only() {
    for p in [0.0, 0.3] {
        let mut e = engine(spec(Some(lora(p, &Module::ALL)), true));
        let s = samples();
        let (loss, reference) = gradients(&mut e, &pack(&s, &[&[0], &[1], &[2], &[3], &[4], &[5]]));
        for groups in [&[&[0, 1, 2, 3][..], &[4, 5]][..], &[&[5, 4, 3, 1], &[2, 0]], &[&[4, 0, 2], &[5], &[3, 1]]] {
            let (l, g) = gradients(&mut e, &pack(&s, groups));
            assert!((l - loss).abs() < 1e-5 * loss, "{l} and {loss}");
            assert_close(&reference, &g, 1e-4);
        }
    }
}

#[test]
fn the_plan_changes_no_bit() {
    let s = samples();
    let batches = pack(&s, &[&[0, 1, 2], &[3, 4, 5]]);
    for residency in [[Residency::Nf4; 3], [Residency::Unpacked; 3], [Residency::Dense; 3]] {
        let base = EngineSpec { residency: residency.to_vec(), ..spec(Some(lora(0.2, &Module::ALL)), true) };
        let reference = gradients(&mut engine(base.clone()), &batches);
        use Saved::{All, InputOnly, NoGateUp};
        for saved in [[InputOnly; 3], [NoGateUp; 3], [All, InputOnly, NoGateUp]] {
            let got = gradients(&mut engine(EngineSpec { saved: saved.to_vec(), ..base.clone() }), &batches);
            assert!(got == reference, "{saved:?} with {residency:?}");
        }
        let chunked = gradients(&mut engine(EngineSpec { logit_rows: 64, ..base.clone() }), &batches);
        assert_close(&reference.1, &chunked.1, 1e-5);
    }
    let of = |residency: [Residency; 3]| {
        let s = EngineSpec { residency: residency.to_vec(), ..spec(Some(lora(0.2, &Module::ALL)), true) };
        gradients(&mut engine(s), &batches)
    };
    use Residency::{Nf4, Unpacked};
    assert!(of([Nf4; 3]) == of([Unpacked; 3]), "packed and unpacked weights give different bits");
    assert!(of([Nf4; 3]) == of([Unpacked, Nf4, Unpacked]), "mixed residency gives different bits");
}

/// A model whose head is a matrix of its own.
fn untied() -> ModelConfig {
    ModelConfig { tied: false, ..model() }
}

#[test]
fn where_the_embedding_lies_changes_no_bit() {
    let batches = pack(&samples(), &[&[0, 1, 2], &[3, 4, 5]]);
    let of = |embedding| {
        let base = spec(Some(lora(0.2, &Module::ALL)), true);
        let mut e = engine(EngineSpec { model: untied(), embedding, ..base });
        let taken = (e.arena_bytes(), e.host_bytes());
        let trained = gradients(&mut e, &batches);
        (taken, trained, e.target_logprobs(&batches[0]).expect("logprobs"))
    };
    let (device, host) = (of(Space::Device), of(Space::Host));
    assert!(device.1 == host.1 && device.2 == host.2);
    let table = (97usize * 64 * 4).next_multiple_of(256);
    assert_eq!((device.0.1, host.0.1), (0, table));
    assert_eq!(device.0.0 - host.0.0, table);
    let tied = EngineSpec { embedding: Space::Host, ..spec(None, false) };
    let error =
        arrange(&tied, &crate::backend::cpu::CpuProperties).expect_err("the head is needed on the device").to_string();
    assert!(error.contains("head"), "{error}");
}

/// Toy weights with a head of its own: those of the tensor named, quantised and dequantised beforehand.
struct ByHand(Toy, &'static str);

impl WeightSource for ByHand {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        if name != "lm_head.weight" {
            return self.0.tensor(name, shape);
        }
        let whole = Toy::make(self.1, shape);
        let mut values = whole.to_f32()?;
        let (mut packed, mut absmax) = (vec![0; values.len() / 2], vec![0.0; values.len() / 64]);
        nf4::quantize(whole.floats()?, &mut packed, &mut absmax);
        nf4::dequantize_blocks(&packed, &absmax, true, &mut values);
        let bytes = Cow::Owned(bytemuck::cast_slice(&values).to_vec());
        Ok(Tensor { dtype: DType::F32, shape: shape.to_vec(), bytes })
    }
    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        self.0.linear(path, n, k)
    }
    fn dense_dtype(&self) -> DType {
        DType::F32
    }
    fn fingerprint(&self) -> Result<String> {
        self.0.fingerprint()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn a_head_in_nf4_is_the_head_quantised_by_hand() {
    let batches = pack(&samples(), &[&[0, 1, 2], &[3, 4, 5]]);
    let results = |mut e: Engine| {
        let trained = gradients(&mut e, &batches);
        (trained, e.target_logprobs(&batches[0]).expect("logprobs"))
    };
    let base = spec(Some(lora(0.2, &Module::ALL)), true);
    for (model, tensor) in [(untied(), "lm_head.weight"), (model(), "model.embed_tokens.weight")] {
        let dense = results(engine(EngineSpec { model: model.clone(), ..base.clone() }));
        let by_hand = ByHand(Toy(untied()), tensor);
        let expected = results(engine_of(EngineSpec { model: untied(), ..base.clone() }, &by_hand));
        for embedding in [Space::Device, Space::Host] {
            let spec = EngineSpec { model: model.clone(), head: HeadStore::Nf4, embedding, ..base.clone() };
            assert!(results(engine(spec)) == expected, "tied {}, embedding {embedding:?}", model.tied);
        }
        assert!(expected != dense, "quantising the head changed nothing");
    }
    let narrow = EngineSpec { model: ModelConfig { hidden: 96, ..model() }, head: HeadStore::Nf4, ..base };
    let error = arrange(&narrow, &crate::backend::cpu::CpuProperties).expect_err("96 is no multiple of 64").to_string();
    assert!(error.contains("`head-4bit = true`"), "{error}");
}

/// What the layout says is what there is: its last bytes can be read, and not one behind them.
#[test]
fn exactly_the_planned_bytes_are_taken() {
    let base = spec(Some(lora(0.2, &Module::ALL)), true);
    let mut e = engine(EngineSpec { model: untied(), embedding: Space::Host, ..base });
    let mut layout = e.arrangement.layout.clone();
    assert_eq!((layout.bytes(), layout.host_bytes()), (e.arena_bytes(), e.host_bytes()));
    let mut ends = |host: bool| {
        let mut take = |len| match host {
            true => layout.take_host(crate::backend::Kind::Batch, DType::U8, len),
            false => layout.take(crate::backend::Kind::Batch, DType::U8, len),
        };
        let (behind, all) = (take(1), if host { e.host_bytes() } else { e.arena_bytes() });
        assert_eq!(behind.offset(), all);
        behind
    };
    let behind = [ends(false), ends(true)];
    for b in behind {
        let error = e.backend.read(b).expect_err("behind the end").to_string();
        assert!(error.contains("ends at byte"), "{error}");
    }
    let last = e.arrangement.weights.embed.slice(97 * 64 - 1, 1);
    assert_eq!(e.backend.read(last).expect("the last element").len(), 4);
}

/// Central differences of the loss along a random direction in each tensor of the adapter.
#[test]
fn finite_differences_agree_for_every_tensor() {
    let base = spec(Some(lora(0.25, &Module::ALL)), true);
    let small = EngineSpec { model: untied(), head: HeadStore::Nf4, embedding: Space::Host, ..base.clone() };
    for spec in [base, small] {
        finite_differences_agree(engine(spec));
    }
}

fn finite_differences_agree(mut e: Engine) {
    let batches = pack(&samples(), &[&[0, 1, 2], &[3, 4, 5]]);
    let targets: usize = batches.iter().map(|b| b.target_ids.len()).sum();
    let (_, gradient) = gradients(&mut e, &batches);
    let start = e.adapter().expect("adapter");
    let slots = e.spec().lora.clone().expect("lora").slots(&e.spec().model);
    let mut rng = Rng::new(3, 3);
    for range in slots.iter().flat_map(|s| [s.a_range(), s.b_range()]) {
        // A direction that follows the gradient's signs, so that the difference stands out of f32 rounding.
        let direction: Vec<f32> = range.clone().map(|i| gradient[i].signum() * (0.5 + rng.uniform())).collect();
        let expected: f64 = range.clone().zip(&direction).map(|(i, d)| f64::from(gradient[i]) * f64::from(*d)).sum();
        let mut loss_at = |step: f32| {
            let mut flat = start.clone();
            range.clone().zip(&direction).for_each(|(i, d)| flat[i] += step * d);
            e.set_adapter(&flat).expect("adapter");
            gradients(&mut e, &batches).0 / targets as f64
        };
        // Richardson extrapolation of two central differences: error of fourth order in h.
        let h = 4e-3;
        let mut central = |h: f32| (loss_at(h) - loss_at(-h)) / (2.0 * f64::from(h));
        let numeric = (4.0 * central(h) - central(2.0 * h)) / 3.0;
        assert!((numeric - expected).abs() < 2e-3 * expected.abs() + 2e-5, "{range:?}: {numeric} and {expected}");
    }
}

#[test]
fn a_document_never_influences_another() {
    let mut e = engine(spec(Some(lora(0.0, &Module::ALL)), false));
    let s = samples();
    let mut changed = s.clone();
    changed[2].tokens.iter_mut().for_each(|t| *t = (*t + 1) % 97);
    let together = e.target_logprobs(&pack(&s, &[&[0, 2, 4]])[0]).expect("logprobs");
    let beside = e.target_logprobs(&pack(&changed, &[&[0, 2, 4]])[0]).expect("logprobs");
    let (first, last) = (s[0].targets(), s[4].targets());
    assert_eq!(together[..first], beside[..first]);
    assert_eq!(together[together.len() - last..], beside[beside.len() - last..]);
    assert_ne!(together, beside);
    let alone = e.target_logprobs(&pack(&s, &[&[4]])[0]).expect("logprobs");
    assert_close(&alone, &together[together.len() - last..], 1e-5);
}

#[test]
fn every_subset_of_targets_gives_the_gradients_of_the_whole() {
    // Adapters that are not there are adapters with B = 0: compare a subset with all modules whose other B are zero.
    let batches = pack(&samples(), &[&[0, 1, 2], &[3, 4, 5]]);
    let layers = model().layers;
    let some = |modules: &[Module]| Targets::everywhere(modules.iter().copied());
    let last_layer = Module::ALL.map(|module| (layers - 1, module));
    let scattered =
        [(0, Module::VProj), (0, Module::DownProj), (layers - 1, Module::QProj), (layers - 1, Module::UpProj)];
    for targets in [
        some(&[Module::DownProj]),
        some(&[Module::OProj]),
        some(&[Module::UpProj]),
        some(&[Module::QProj, Module::VProj]),
        Targets::at([(0, Module::OProj)], layers),
        Targets::at(last_layer, layers),
        Targets::at(scattered, layers),
    ] {
        let subset = LoraConfig { targets, ..lora(0.1, &[]) };
        let mut part = engine(spec(Some(subset.clone()), true));
        let mut whole = engine(spec(Some(lora(0.1, &Module::ALL)), true));
        let (small, all) = (subset.slots(&model()), lora(0.1, &Module::ALL).slots(&model()));
        assert!(small.len() < all.len() && part.adapter().expect("adapter").len() == subset.parameters(&model()));
        let weights = part.adapter().expect("adapter");
        let mut flat = vec![0.0; whole.adapter().expect("adapter").len()];
        let pairs: Vec<_> = small
            .iter()
            .map(|s| (s, all.iter().find(|a| (a.layer, a.module) == (s.layer, s.module)).expect("a slot")))
            .collect();
        for (s, a) in &pairs {
            flat[a.a_range()].copy_from_slice(&weights[s.a_range()]);
            flat[a.b_range()].copy_from_slice(&weights[s.b_range()]);
        }
        whole.set_adapter(&flat).expect("adapter");
        let (_, got) = gradients(&mut part, &batches);
        let (_, expected) = gradients(&mut whole, &batches);
        for (s, a) in &pairs {
            assert_close(&expected[a.a_range()], &got[s.a_range()], 1e-4);
            assert_close(&expected[a.b_range()], &got[s.b_range()], 1e-4);
        }
    }
}

#[test]
fn after_one_step_every_tensor_learns() {
    let mut e = engine(spec(Some(lora(0.05, &Module::ALL)), true));
    let slots = e.spec().lora.clone().expect("lora").slots(&e.spec().model);
    let mut flat = e.adapter().expect("adapter");
    slots.iter().for_each(|s| flat[s.b_range()].fill(0.0));
    e.set_adapter(&flat).expect("adapter");
    let batches = pack(&samples(), &[&[0, 1, 2, 3]]);
    e.begin_step().expect("begin");
    e.accumulate(&batches[0], 0.05, Dropout::key(1, 1)).expect("accumulate");
    let before = e.finish_step(&AdamW { lr: 1e-2, max_norm: Some(1.0), ..no_update() }).expect("finish");
    assert!(before.grad_norm > 0.0 && before.loss_sum > 0.0);
    let (_, gradient) = gradients(&mut e, &batches);
    for range in slots.iter().flat_map(|s| [s.a_range(), s.b_range()]) {
        assert!(gradient[range.clone()].iter().any(|&g| g != 0.0), "{range:?} has no gradient");
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut e = engine(spec(Some(lora(0.0, &Module::ALL)), true));
    let mut flat = e.adapter().expect("adapter");
    flat[0] = f32::INFINITY;
    e.set_adapter(&flat).expect("adapter");
    e.begin_step().expect("begin");
    e.accumulate(&pack(&samples(), &[&[0]])[0], 0.1, KEY).expect("accumulate");
    let stats = e.finish_step(&AdamW { lr: 0.1, ..no_update() }).expect("finish");
    assert!(!stats.grad_norm.is_finite());
    assert_eq!(e.adapter().expect("adapter"), flat);
    assert!(e.moments().expect("moments").0.iter().all(|&m| m == 0.0));
}

#[test]
fn cached_generation_equals_running_the_whole_text_again() {
    // As many rows as the vocabulary has: all columns are asked for at once.
    let with_cache =
        EngineSpec { max_rows: 97, kv_slots: 2, kv_capacity: 40, ..spec(Some(lora(0.0, &Module::ALL)), false) };
    let mut e = engine(with_cache);
    let prompts: Vec<Vec<u32>> =
        [5, 1, 17, 9].iter().map(|&n: &u32| (0..n).map(|t| (t * 7 + n) % 97).collect()).collect();
    let ids: Vec<u32> = (0..97).collect();
    let next = |e: &mut Engine, text: &[u32]| {
        let mut b = MicroBatch::new();
        let row = b.push_prompt(0, text);
        let p = e.choice_logprobs(&b, &[row], &ids).expect("choices");
        p.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |best| best.0 as u32)
    };
    let mut seen = Vec::new();
    let out = e.generate(&prompts, 8, &[3], &mut |i, t, end| seen.push((i, t.len(), end))).expect("generate");
    assert_eq!(seen.iter().filter(|s| s.2).count(), 4);
    for (prompt, continuation) in prompts.iter().zip(&out) {
        assert!(!continuation.is_empty() && continuation.len() <= 8);
        let mut text = prompt.clone();
        for &token in continuation {
            assert_eq!(next(&mut e, &text), token, "after {text:?}");
            text.push(token);
        }
    }
    let error = e.generate(&[vec![1; 39]], 8, &[], &mut |_, _, _| {}).expect_err("too long").to_string();
    assert!(error.contains("39 tokens"), "{error}");
}

#[test]
fn impossible_batches_are_errors() {
    let mut e = engine(spec(None, false));
    let mut too_long = MicroBatch::new();
    too_long.push_prompt(0, &[1; 65]);
    assert!(e.target_logprobs(&too_long).is_err());
    let mut foreign = MicroBatch::new();
    foreign.push_prompt(0, &[97]);
    let error = e.target_logprobs(&foreign).expect_err("no such token").to_string();
    assert!(error.contains("97") && error.contains("vocabulary"), "{error}");
    assert!(e.adapter().is_err() && e.begin_step().is_err());
}

/// NaN is no token and no log-probability: weights that are finite and too large for the computation.
#[test]
fn logits_that_are_not_finite_are_an_error_everywhere() {
    struct Huge(Toy);
    impl WeightSource for Huge {
        fn config(&self) -> &ModelConfig {
            self.0.config()
        }
        fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
            let t = Toy::make(name, shape);
            let large = name == "model.norm.weight";
            let values: Vec<f32> = t.to_f32()?.iter().map(|x| if large { x * 3e38 } else { *x }).collect();
            Ok(Tensor::new(DType::F32, shape, DType::F32.encode(&values)))
        }
        fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
            self.0.linear(path, n, k)
        }
        fn dense_dtype(&self) -> DType {
            DType::F32
        }
        fn fingerprint(&self) -> Result<String> {
            self.0.fingerprint()
        }
        fn describe(&self) -> String {
            self.0.describe()
        }
    }
    let spec = EngineSpec { kv_slots: 1, kv_capacity: 16, ..EngineSpec::new(model(), 16, 16) };
    let backend = Box::new(CpuBackend::new(Some(2)).expect("a CPU"));
    let mut e = Engine::new(backend, spec, &Huge(Toy(model())), &mut |_, _| ()).expect("loads");
    let mut batch = MicroBatch::new();
    batch.push(0, &Sample { tokens: vec![1, 2, 3], labels: vec![1, 2, 3] });
    let results = [
        e.target_logprobs(&batch).map(drop),
        e.choice_logprobs(&batch, &[2], &[4, 5]).map(drop),
        e.generate(&[vec![1, 2, 3]], 2, &[], &mut |_, _, _| ()).map(drop),
    ];
    for result in results {
        let error = result.expect_err("not finite").to_string();
        assert!(error.contains("logits are not finite"), "{error}");
    }
}
