//! A step does not depend on how it is cut up: any order of its documents, in any micro-batches, under any plan of
//! recomputation, gives the same loss and gradients but for the rounding of f32 sums.

use irori::{
    backend::{AdamW, cpu::CpuBackend},
    data::{MicroBatch, Sample, batch::NO_LOSS},
    model::{
        Engine, LoraConfig, Module,
        engine::{EngineSpec, Saved},
        source::open,
    },
    rng::{Dropout, Rng},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};

const MAX_LEN: usize = 20;
const MAX_SAMPLES: usize = 7;

/// Lengths of the documents, the order they come in, where micro-batches end, and each layer's plan.
type Case = (Vec<usize>, Vec<u32>, Vec<bool>, [u8; 2], bool);

fn engine(saved: [Saved; 2], dropout: f32) -> Engine {
    let source = open("synthetic:tiny@3").expect("known").source;
    let model = source.config().clone();
    let lora = LoraConfig { r: 4, alpha: 8.0, dropout, rslora: false, targets: Module::ALL.into() };
    let mut rng = Rng::new(5, 5);
    let flat: Vec<f32> = (0..lora.parameters(&model)).map(|_| 0.1 * rng.normal()).collect();
    let spec = EngineSpec {
        lora: Some(lora),
        training: true,
        logit_rows: 16,
        saved: saved.to_vec(),
        ..EngineSpec::new(model, MAX_LEN * MAX_SAMPLES, MAX_LEN)
    };
    let backend = Box::new(CpuBackend::new(Some(2)).expect("a backend"));
    let mut engine = Engine::new(backend, spec, source.as_ref(), &mut |_, _| {}).expect("an engine");
    engine.set_adapter(&flat).expect("an adapter");
    engine
}

/// Loss sum and gradients of one step over these groups of samples.
fn step(engine: &mut Engine, samples: &[Sample], groups: &[Vec<usize>]) -> (f64, Vec<f32>) {
    let batches: Vec<MicroBatch> = groups
        .iter()
        .map(|group| {
            let mut batch = MicroBatch::new();
            group.iter().for_each(|&i| batch.push(i as u32, &samples[i]));
            batch
        })
        .collect();
    let targets: usize = batches.iter().map(|b| b.target_ids.len()).sum();
    engine.begin_step().expect("begin");
    for batch in &batches {
        engine.accumulate(batch, 1.0 / targets as f32, Dropout::key(9, 1)).expect("accumulate");
    }
    let gradients = engine.gradients().expect("gradients");
    let adamw = AdamW { lr: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, max_norm: None };
    (engine.finish_step(&adamw).expect("finish").loss_sum, gradients)
}

fn holds((lengths, order, ends, plan, dropout): Case) -> Result<(), TestCaseError> {
    let mut rng = Rng::new(lengths.iter().sum::<usize>() as u64, 2);
    let samples: Vec<Sample> = lengths
        .iter()
        .map(|&n| {
            let tokens: Vec<u32> = (0..n).map(|_| rng.below(512)).collect();
            let labels = (0..n).map(|t| if t >= n / 2 { tokens[t] as i32 } else { NO_LOSS }).collect();
            Sample { tokens, labels }
        })
        .collect();
    let mut places: Vec<usize> = (0..samples.len()).collect();
    places.sort_by_key(|&i| order[i]);
    let mut groups = vec![Vec::new()];
    for i in places {
        groups.last_mut().expect("never empty").push(i);
        if ends[i] {
            groups.push(Vec::new());
        }
    }
    groups.retain(|g| !g.is_empty());
    let alone: Vec<Vec<usize>> = (0..samples.len()).map(|i| vec![i]).collect();
    let dropout = if dropout { 0.3 } else { 0.0 };
    let (loss, reference) = step(&mut engine([Saved::All; 2], dropout), &samples, &alone);
    let saved = plan.map(|p| [Saved::All, Saved::NoGateUp, Saved::InputOnly][usize::from(p)]);
    let (found, gradients) = step(&mut engine(saved, dropout), &samples, &groups);
    prop_assert!((found - loss).abs() < 1e-5 * loss, "loss {found} and {loss} in {groups:?}");
    // The rounding of sums over a few dozen rows, each of terms of about the size of the whole: 24 bits, and four digits
    // for what cancels.
    let norm = (reference.iter().map(|x| x * x).sum::<f32>() / reference.len() as f32).sqrt();
    for (i, (x, y)) in reference.iter().zip(&gradients).enumerate() {
        prop_assert!((x - y).abs() <= 1e-4 * (norm + x.abs()), "gradient {i}: {x} and {y}, rms {norm}, in {groups:?}");
    }
    Ok(())
}

#[test]
fn any_packing_gives_the_same_step() {
    let case = vec(2..=MAX_LEN, 2..=MAX_SAMPLES).prop_flat_map(|lengths| {
        let n = lengths.len();
        (Just(lengths), vec(any::<u32>(), n), vec(any::<bool>(), n), [0..3u8, 0..3u8], any::<bool>())
    });
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    match runner.run(&case, holds) {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}: {case:?}"),
        Err(e) => panic!("{e}"),
    }
}
