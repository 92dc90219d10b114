use super::{outlook::Change, *};
use crate::{
    backend::{Heads, cpu::CpuProperties, cuda::CudaProperties},
    model::{LoraConfig, ModelConfig, Module},
};

fn qwen3_8b() -> EngineSpec {
    let model = ModelConfig {
        hidden: 4096,
        intermediate: 12288,
        layers: 36,
        heads: Heads { q: 32, kv: 8, dim: 128 },
        vocab: 151_936,
        rope_theta: 1e6,
        rope_scaling: crate::model::rope::RopeScaling::Default,
        rms_eps: 1e-6,
        tied: false,
        max_positions: 40_960,
    };
    let lora = LoraConfig { r: 16, alpha: 32.0, dropout: 0.05, rslora: false, targets: Module::ALL.into() };
    EngineSpec { lora: Some(lora), training: true, logit_rows: 512, ..EngineSpec::new(model, 2048, 1024) }
}

fn slice() -> Speed {
    device::profile("a100-2g.20gb").expect("a known device").speed
}

fn bytes(gib: f64) -> u64 {
    (gib * (1u64 << 30) as f64) as u64
}

/// The plan of `asked` on the slice with so much memory, or on a CPU.
fn plan_of(asked: &EngineSpec, limit: Option<u64>) -> Result<Plan> {
    plan(asked, Unpack::WhereItFits, &CudaProperties::FUSED, &slice(), limit)
}

fn planned(limit_gib: f64) -> Result<Plan> {
    plan_of(&qwen3_8b(), Some(bytes(limit_gib)))
}

fn packed(limit_gib: f64) -> Result<Plan> {
    plan(&qwen3_8b(), Unpack::Never, &CudaProperties::FUSED, &slice(), Some(bytes(limit_gib)))
}

/// What docs/facts.md#qwen3-8b-in-numbers says of weights, adapter and saved activations.
#[test]
fn qwen3_8b_in_twenty_gigabytes_recomputes_nothing() {
    let roomy = planned(19.5 - 0.45).expect("fits");
    assert_eq!(roomy.saved_counts(), [36, 0, 0]);
    assert!(roomy.unpacked() > 0, "what is left holds unpacked weights");
    let p = packed(14.5).expect("fits");
    assert_eq!(p.saved_counts(), [36, 0, 0]);
    let gb = |k: Kind| p.items.iter().find(|i| i.0 == k).map_or(0.0, |i| i.1 as f64 / 1e9);
    // 0.5 bytes and 4/64 bytes of absmax for each of 6.946e9 weights: absmax is decoded to f32 once at load.
    assert!((gb(Kind::QuantizedWeights) - 6.946 * 0.5625).abs() < 0.01, "{}", gb(Kind::QuantizedWeights));
    assert!((gb(Kind::EmbeddingAndHead) - 2.49).abs() < 0.01);
    assert!((gb(Kind::Adapter) + gb(Kind::Optimizer) - 43_646_976.0 * 18e-9).abs() < 0.01);
    assert!((gb(Kind::SavedActivations) - 6.37).abs() < 0.2, "{}", gb(Kind::SavedActivations));
    assert_eq!(p.items.iter().map(|i| i.1).sum::<usize>(), p.bytes);
}

/// The settings that a refusal advises.
fn refused(asked: &EngineSpec, gib: f64) -> Vec<Setting> {
    match plan_of(asked, Some(bytes(gib))) {
        Err(Error::DoesNotFit { need, have, advice, .. }) => {
            assert!(need > have && have == bytes(gib), "{need} and {have}");
            advice
        }
        other => panic!("{gib}: {other:?}"),
    }
}

#[test]
fn less_memory_means_more_recomputation_until_nothing_fits() {
    let ten = planned(9.5 - 0.45).expect("fits with recomputation");
    assert!(ten.saved_counts()[0] < 36 && ten.bytes as u64 <= bytes(9.05));
    let large = planned(130.0).expect("fits");
    assert_eq!((large.saved_counts(), large.unpacked()), ([36, 0, 0], 36));
    assert_eq!(refused(&qwen3_8b(), 4.0), [], "the weights alone are larger");
    let dense = EngineSpec { residency: vec![Residency::Dense; 36], ..qwen3_8b() };
    assert_eq!(refused(&dense, 9.0), [Setting::new("use-4bit", true)]);
    let names: Vec<&str> = refused(&dense, 6.0).iter().map(|s| s.name).collect();
    assert_eq!(names, ["use-4bit", "head-4bit"], "not in 4 bits alone");
    assert_eq!(refused(&dense, 3.0), [], "not even so");
}

/// A refusal names the settings with which the run fits, and with them it does.
#[test]
fn a_refusal_names_what_would_fit() {
    let fits = |asked: EngineSpec, gib: f64| plan_of(&asked, Some(bytes(gib))).is_ok();
    let base = qwen3_8b();
    let mut seen = [false; 5];
    for tenths in (40..80).rev() {
        let gib = f64::from(tenths) / 10.0;
        if fits(base.clone(), gib) {
            continue;
        }
        let advice = refused(&base, gib);
        let number = |name: &str| -> Option<usize> {
            let value = advice.iter().find(|s| s.name == name)?.value.as_deref()?;
            Some(value.parse().unwrap_or_else(|_| panic!("{advice:?}")))
        };
        if advice.is_empty() {
            seen[3] = true;
            continue;
        }
        let head_4bit = advice.contains(&Setting::new("head-4bit", true));
        let mut lora = base.lora.clone().expect("an adapter");
        if let Some(r) = number("lora-r") {
            lora.r = r;
            seen[4] = true;
        }
        let head = if head_4bit { HeadStore::Nf4 } else { HeadStore::Dense };
        let base = EngineSpec { head, lora: Some(lora), ..base.clone() };
        if let Some(max_rows) = number("micro-batch-rows") {
            let max_len = number("max-seq-length").unwrap_or(1024);
            assert!(fits(EngineSpec { max_rows, max_len, ..base.clone() }, gib), "{gib}: {advice:?}");
            let more = EngineSpec { max_rows: max_rows + 1, max_len: max_len.max(1024.min(max_rows + 1)), ..base };
            assert!(!fits(more, gib), "{gib}: {advice:?}");
            seen[usize::from(max_rows < 1024)] = true;
        } else {
            assert!(fits(base, gib), "{gib}: {advice:?}");
        }
        seen[2] |= head_4bit;
    }
    assert_eq!(seen, [true; 5]);
    let eval = EngineSpec { training: false, max_rows: 4096, max_len: 4096, ..base };
    let names: Vec<&str> = refused(&eval, 4.7).iter().map(|s| s.name).collect();
    assert_eq!(names, ["head-4bit", "max-seq-length"], "no rows: it evaluates one document at a time");
}

#[test]
fn the_embedding_goes_to_host_memory_when_that_makes_room() {
    let table = 151_936 * 4096 * 2;
    let placed = |p: &Plan| (p.spec.embedding, p.host_bytes);
    assert_eq!(placed(&planned(130.0).expect("fits")), (Space::Device, 0));
    assert_eq!(placed(&packed(14.5).expect("fits")), (Space::Device, 0));
    let short = packed(13.0).expect("fits");
    assert_eq!(placed(&short), (Space::Host, table));
    assert_eq!(short.saved_counts(), [36, 0, 0]);
    // A tied embedding is the head too, and the CPU has no other memory to put it in.
    let tied = ModelConfig { tied: true, ..qwen3_8b().model };
    let p = plan_of(&EngineSpec { model: tied, ..qwen3_8b() }, Some(9 << 30)).expect("fits");
    assert_eq!(placed(&p), (Space::Device, 0));
    let p = plan(&qwen3_8b(), Unpack::Never, &CpuProperties, &slice(), Some(14 << 30)).expect("fits");
    assert_eq!(placed(&p), (Space::Device, 0));
}

#[test]
fn packed_weights_cost_what_the_backend_does_with_them() {
    let speed = Speed { flops: 1e14, bandwidth: 1e12, bus: 1e10 };
    let work = Work { rows: 2048.0, len: 1024.0, targets: 4.0 };
    let spec = packed(20.0).expect("fits").spec;
    // Two products a weight, but nothing below the first layer's qkv needs a gradient.
    let weights = 36.0 * 192_937_984.0;
    let passes = 2.0 * weights - 4096.0 * 6144.0;
    // Decoded inside the products: a part of their time. Nothing is recomputed.
    let t = cost::step_time(&spec, &CudaProperties::FUSED, &speed, &work).expect("laid out");
    let products = 2.0 * 2048.0 * passes / speed.flops;
    assert!((t.unpack - 0.05 * products).abs() < 1e-9 * products, "{t:?}");
    // Dequantised to f32 scratch: 0.5625 bytes in, 4 out, 4 in, at every product.
    let t = cost::step_time(&spec, &CpuProperties, &speed, &work).expect("laid out");
    let moved = passes * 8.5625 / speed.bandwidth;
    assert!((t.unpack - moved).abs() < 1e-9 * moved, "{t:?}");
    let unpacked = planned(130.0).expect("fits").spec;
    assert_eq!(cost::step_time(&unpacked, &CudaProperties::FUSED, &speed, &work).expect("laid out").unpack, 0.0);
    // docs/facts.md#qwen3-8b-in-numbers: 2,560 tokens a second with nothing recomputed and loss on every token.
    let every = Work { targets: 2048.0, ..work };
    let rate = 2048.0 / cost::step_time(&unpacked, &CudaProperties::FUSED, &slice(), &every).expect("laid out").total();
    assert!((rate / 2560.0 - 1.0).abs() < 0.01, "{rate}");
}

#[test]
fn more_memory_never_gives_a_slower_plan() {
    let speed = slice();
    let mut last = f64::INFINITY;
    for tenths in (80..400).step_by(10) {
        if let Ok(p) = planned(f64::from(tenths) / 10.0) {
            let work = Work { rows: 2048.0, len: 1024.0, targets: 16.0 };
            let t = cost::step_time(&p.spec, &CudaProperties::FUSED, &speed, &work).expect("laid out").total();
            assert!(t <= last * (1.0 + 1e-9), "{tenths}: {t} after {last}");
            last = t;
        }
    }
    assert!(last.is_finite());
}

/// What `irori plan` says of other settings is what a plan with those settings takes.
#[test]
fn an_alternative_is_a_plan_of_its_own() {
    let speed = slice();
    let work = Work { rows: 8192.0, len: 1024.0, targets: 16.0 };
    let asked = qwen3_8b();
    let p = planned(19.0).expect("fits");
    let found = outlook::alternatives(&p, &CudaProperties::FUSED, &speed, &work);
    let of = |c: Change| found.iter().find(|a| a.change == c).copied().unwrap_or_else(|| panic!("no {c:?}"));
    let now = cost::step_time(&p.spec, &CudaProperties::FUSED, &speed, &work).expect("laid out").total();
    for (change, more, slower, fits) in [
        (Change::Saved(Saved::NoGateUp), false, true, true),
        (Change::Saved(Saved::InputOnly), false, true, true),
        (Change::Weights(Residency::Nf4), false, true, true),
        (Change::Weights(Residency::Unpacked), true, false, false),
        (Change::Embedding(Space::Device), true, false, false),
        (Change::Head(HeadStore::Nf4), false, false, true),
        (Change::Rows(1024), false, true, true),
        (Change::Rows(4096), true, false, false),
        (Change::LogitRows(256), false, true, true),
    ] {
        let a = of(change);
        assert_eq!((a.bytes > p.bytes, a.fits), (more, fits), "{a:?}");
        assert!(if slower { a.seconds >= now } else { a.seconds < now }, "{a:?}, now {now}");
    }
    // All of them at once, and none that is no change.
    assert_eq!(found.len(), 10, "{found:?}");
    let half = EngineSpec { max_rows: 1024, ..asked.clone() };
    let spec = EngineSpec { max_rows: 1024, ..p.spec.clone() };
    assert_eq!(of(Change::Rows(1024)).bytes, Plan::of(spec, &CudaProperties::FUSED, None).expect("laid out").bytes);
    assert!(plan_of(&half, p.limit).is_ok());
    // A head that is the embedding ties both to the device; a CPU has one memory.
    let tied = EngineSpec { model: ModelConfig { tied: true, ..asked.model.clone() }, ..asked.clone() };
    let p = plan_of(&tied, None).expect("no limit");
    let changes = |p: &Plan, properties: &dyn Properties| -> Vec<Change> {
        outlook::alternatives(p, properties, &speed, &work).iter().map(|a| a.change).collect()
    };
    assert!(changes(&p, &CudaProperties::FUSED).iter().all(|c| !matches!(c, Change::Embedding(_))));
    let p = plan(&asked, Unpack::Never, &CpuProperties, &speed, None).expect("no limit");
    assert!(changes(&p, &CpuProperties).iter().all(|c| !matches!(c, Change::Embedding(_))));
}

#[test]
fn the_largest_jobs_fit_and_one_more_does_not() {
    let limit = (19.5 - 0.45) as u64 * (1 << 30);
    let asked = qwen3_8b();
    let fits = |max_rows, max_len| plan_of(&EngineSpec { max_rows, max_len, ..asked.clone() }, Some(limit)).is_ok();
    let l = outlook::largest_that_fit(&asked, 1024, &CudaProperties::FUSED, limit).expect("can be laid out");
    for (more, expected) in [(0, true), (1, false)] {
        assert_eq!(fits((l.batch + more) * 1024, 1024), expected, "{l:?}");
        assert_eq!(fits(l.length + more, l.length + more), expected, "{l:?}");
    }
    assert_eq!(l.model, Some("qwen3-14b"));
    let none = outlook::largest_that_fit(&asked, 1024, &CudaProperties::FUSED, 1 << 20).expect("can be laid out");
    assert_eq!((none.batch, none.length, none.model), (0, 0, None));
}

/// What a step must compute does not depend on the plan, and is what one counts by hand.
#[test]
fn the_work_of_a_step_does_not_depend_on_the_plan() {
    let work = Work { rows: 2048.0, len: 1024.0, targets: 100.0 };
    let flops = |p: &Plan| cost::step_flops(&p.spec, &CudaProperties::FUSED, &work).expect("laid out");
    let (small, large) = (planned(9.0).expect("fits"), planned(130.0).expect("fits"));
    assert!(small.spec != large.spec);
    assert_eq!(flops(&small), flops(&large));
    // Forward and backward of 6.95 billion weights of the layers, without gradients of their own; attention, adapters and
    // head are the rest.
    let layers = 2.0 * 2.0 * 2048.0 * 36.0 * (4096.0 * (6144.0 + 4096.0) + 3.0 * 4096.0 * 12_288.0)
        - 2.0 * 2048.0 * 4096.0 * 6144.0;
    assert!((1.0..1.1).contains(&(flops(&large) / layers)), "{}", flops(&large) / layers);
}
