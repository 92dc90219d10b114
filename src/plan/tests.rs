use super::{outlook::Knob, *};
use crate::{
    backend::{Heads, cpu::CpuSizes, cuda::CudaSizes},
    model::Module,
};

fn qwen3_8b() -> Request {
    Request {
        model: ModelConfig {
            hidden: 4096,
            intermediate: 12288,
            layers: 36,
            heads: Heads { q: 32, kv: 8, dim: 128 },
            vocab: 151_936,
            rope_theta: 1e6,
            rms_eps: 1e-6,
            tied: false,
            max_positions: 40_960,
        },
        lora: Some(LoraConfig { r: 16, alpha: 32.0, dropout: 0.05, rslora: false, targets: Module::ALL.to_vec() }),
        training: true,
        rows: 2048,
        max_len: 1024,
        logit_rows: 512,
        four_bit: true,
        compute: DType::Bf16,
        dense: DType::Bf16,
        head: HeadStore::Dense,
        kv_slots: 0,
        kv_capacity: 0,
        unpack: Unpack::WhereItFits,
    }
}

fn planned(limit_gib: f64) -> Result<Plan> {
    planned_with(limit_gib, Unpack::WhereItFits)
}

fn planned_with(limit_gib: f64, unpack: Unpack) -> Result<Plan> {
    let speed = device::profile("a100-2g.20gb").expect("a known device").speed;
    plan(&Request { unpack, ..qwen3_8b() }, &CudaSizes::FUSED, &speed, Some((limit_gib * (1u64 << 30) as f64) as u64))
}

/// What docs/facts.md#qwen3-8b-in-numbers says of weights, adapter and saved activations.
#[test]
fn qwen3_8b_in_twenty_gigabytes_recomputes_nothing() {
    let roomy = planned(19.5 - 0.45).expect("fits");
    assert_eq!(roomy.saved_counts(), [36, 0, 0]);
    assert!(roomy.unpacked() > 0, "what is left holds unpacked weights");
    let p = planned_with(14.5, Unpack::Never).expect("fits");
    assert_eq!(p.saved_counts(), [36, 0, 0]);
    let gb = |k: Kind| p.items.iter().find(|i| i.0 == k).map_or(0.0, |i| i.1 as f64 / 1e9);
    // 0.5 bytes and 4/64 bytes of absmax for each of 6.946e9 weights: absmax is decoded to f32 once at load.
    assert!((gb(Kind::QuantizedWeights) - 6.946 * 0.5625).abs() < 0.01, "{}", gb(Kind::QuantizedWeights));
    assert!((gb(Kind::EmbeddingAndHead) - 2.49).abs() < 0.01);
    assert!((gb(Kind::Adapter) + gb(Kind::Optimizer) - 43_646_976.0 * 18e-9).abs() < 0.01);
    assert!((gb(Kind::SavedActivations) - 6.37).abs() < 0.2, "{}", gb(Kind::SavedActivations));
    assert_eq!(p.items.iter().map(|i| i.1).sum::<usize>(), p.bytes);
}

#[test]
fn less_memory_means_more_recomputation_until_nothing_fits() {
    let ten = planned(9.5 - 0.45).expect("fits with recomputation");
    assert!(ten.saved_counts()[0] < 36 && ten.bytes as f64 <= 9.05 * (1u64 << 30) as f64);
    let large = planned(130.0).expect("fits");
    assert_eq!((large.saved_counts(), large.unpacked()), ([36, 0, 0], 36));
    let error = planned(4.0).expect_err("weights alone are larger").to_string();
    assert!(error.contains("--memory-limit"), "{error}");
}

/// A refusal names the flags with which the run fits, and with them it does.
#[test]
fn a_refusal_names_what_would_fit() {
    let limit = |gib: f64| (gib * (1u64 << 30) as f64) as u64;
    let speed = device::profile("a100-2g.20gb").expect("a known device").speed;
    let refused = |r: &Request, gib: f64| {
        plan(r, &CudaSizes::FUSED, &speed, Some(limit(gib))).expect_err("too small").to_string()
    };
    let number = |error: &str, flag: &str| -> usize {
        let after = error.split(flag).nth(1).unwrap_or_else(|| panic!("no {flag} in {error}"));
        after.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{error}"))
    };
    let fits = |r: Request, gib: f64| plan(&r, &CudaSizes::FUSED, &speed, Some(limit(gib))).is_ok();
    let base = qwen3_8b();
    let mut seen = [false; 5];
    for tenths in (40..80).rev() {
        let gib = f64::from(tenths) / 10.0;
        if fits(base.clone(), gib) {
            continue;
        }
        let error = refused(&base, gib);
        if error.contains("--memory-limit") {
            seen[3] = true;
            continue;
        }
        let head = if error.contains("--head-4bit") { HeadStore::Nf4 } else { HeadStore::Dense };
        let mut lora = base.lora.clone().expect("an adapter");
        if error.contains("--lora-r") {
            lora.r = number(&error, "--lora-r");
            seen[4] = true;
        }
        let base = Request { head, lora: Some(lora), ..base.clone() };
        if error.contains("-rows") {
            let rows = number(&error, "--micro-batch-rows");
            let max_len = if rows < 1024 { number(&error, "--max-seq-length") } else { 1024 };
            assert!(fits(Request { rows, max_len, ..base.clone() }, gib), "{gib}: {error}");
            let more = Request { rows: rows + 1, max_len: max_len.max(1024.min(rows + 1)), ..base };
            assert!(!fits(more, gib), "{gib}: {error}");
            seen[usize::from(rows < 1024)] = true;
        } else {
            assert!(fits(base, gib), "{gib}: {error}");
        }
        seen[2] |= head == HeadStore::Nf4;
    }
    assert_eq!(seen, [true; 5]);
    let eval = Request { training: false, rows: 4096, max_len: 4096, ..base };
    let error = refused(&eval, 4.7);
    assert!(error.contains("--max-seq-length") && !error.contains("rows"), "{error}");
}

#[test]
fn the_embedding_goes_to_host_memory_when_that_makes_room() {
    let table = 151_936 * 4096 * 2;
    let placed = |p: &Plan| (p.spec.embedding, p.host_bytes);
    assert_eq!(placed(&planned(130.0).expect("fits")), (Space::Device, 0));
    assert_eq!(placed(&planned_with(14.5, Unpack::Never).expect("fits")), (Space::Device, 0));
    let short = planned_with(13.0, Unpack::Never).expect("fits");
    assert_eq!(placed(&short), (Space::Host, table));
    assert_eq!(short.saved_counts(), [36, 0, 0]);
    // A tied embedding is the head too, and the CPU has no other memory to put it in.
    let speed = device::profile("a100-2g.20gb").expect("a known device").speed;
    let tied = ModelConfig { tied: true, ..qwen3_8b().model };
    let p = plan(&Request { model: tied, ..qwen3_8b() }, &CudaSizes::FUSED, &speed, Some(9 << 30)).expect("fits");
    assert_eq!(placed(&p), (Space::Device, 0));
    let p = plan(&qwen3_8b(), &CpuSizes, &speed, Some(14 << 30)).expect("fits");
    assert_eq!(placed(&p), (Space::Device, 0));
}

#[test]
fn packed_weights_cost_what_the_backend_does_with_them() {
    let speed = Speed { flops: 1e14, bandwidth: 1e12, bus: 1e10 };
    let work = Work { rows: 2048.0, len: 1024.0, targets: 4.0 };
    let spec = planned_with(20.0, Unpack::Never).expect("fits").spec;
    // Two products a weight, but nothing below the first layer's qkv needs a gradient.
    let weights = 36.0 * 192_937_984.0;
    let passes = 2.0 * weights - 4096.0 * 6144.0;
    // Decoded inside the products: a part of their time. Nothing is recomputed.
    let t = cost::step_time(&spec, &CudaSizes::FUSED, &speed, &work).expect("laid out");
    let products = 2.0 * 2048.0 * passes / speed.flops;
    assert!((t.unpack - 0.05 * products).abs() < 1e-9 * products, "{t:?}");
    // Dequantised to f32 scratch: 0.5625 bytes in, 4 out, 4 in, at every product.
    let t = cost::step_time(&spec, &CpuSizes, &speed, &work).expect("laid out");
    let moved = passes * 8.5625 / speed.bandwidth;
    assert!((t.unpack - moved).abs() < 1e-9 * moved, "{t:?}");
    let unpacked = planned(130.0).expect("fits").spec;
    assert_eq!(cost::step_time(&unpacked, &CudaSizes::FUSED, &speed, &work).expect("laid out").unpack, 0.0);
    // docs/facts.md#qwen3-8b-in-numbers: 2,560 tokens a second with nothing recomputed and loss on every token.
    let slice = device::profile("a100-2g.20gb").expect("a known device").speed;
    let every = Work { targets: 2048.0, ..work };
    let rate = 2048.0 / cost::step_time(&unpacked, &CudaSizes::FUSED, &slice, &every).expect("laid out").total();
    assert!((rate / 2560.0 - 1.0).abs() < 0.01, "{rate}");
}

#[test]
fn more_memory_never_gives_a_slower_plan() {
    let speed = device::profile("a100-2g.20gb").expect("a known device").speed;
    let mut last = f64::INFINITY;
    for tenths in (80..400).step_by(10) {
        if let Ok(p) = planned(f64::from(tenths) / 10.0) {
            let work = Work { rows: 2048.0, len: 1024.0, targets: 16.0 };
            let t = cost::step_time(&p.spec, &CudaSizes::FUSED, &speed, &work).expect("laid out").total();
            assert!(t <= last * (1.0 + 1e-9), "{tenths}: {t} after {last}");
            last = t;
        }
    }
    assert!(last.is_finite());
}

/// What `irori plan` says of other settings is what a plan with those settings takes.
#[test]
fn an_alternative_is_a_plan_of_its_own() {
    let speed = device::profile("a100-2g.20gb").expect("a known device").speed;
    let work = Work { rows: 8192.0, len: 1024.0, targets: 16.0 };
    let r = qwen3_8b();
    let p = planned(19.0).expect("fits");
    let found = outlook::alternatives(&r, &p, &CudaSizes::FUSED, &speed, &work);
    let of = |knob: Knob| found.iter().find(|a| a.knob == knob).copied().unwrap_or_else(|| panic!("no {knob:?}"));
    let now = cost::step_time(&p.spec, &CudaSizes::FUSED, &speed, &work).expect("laid out").total();
    for (knob, more, slower, fits) in [
        (Knob::Saved(Saved::NoGateUp), false, true, true),
        (Knob::Saved(Saved::InputOnly), false, true, true),
        (Knob::Weights(Residency::Nf4), false, true, true),
        (Knob::Weights(Residency::Unpacked), true, false, false),
        (Knob::Embedding(Space::Device), true, false, false),
        (Knob::Head(HeadStore::Nf4), false, false, true),
        (Knob::Rows(1024), false, true, true),
        (Knob::Rows(4096), true, false, false),
        (Knob::LogitRows(256), false, true, true),
    ] {
        let a = of(knob);
        assert_eq!((a.bytes > p.bytes, a.fits), (more, fits), "{a:?}");
        assert!(if slower { a.seconds >= now } else { a.seconds < now }, "{a:?}, now {now}");
    }
    // All of them at once, and none that is no change.
    assert_eq!(found.len(), 10, "{found:?}");
    let half = Request { rows: 1024, ..r.clone() };
    let spec = EngineSpec { max_rows: 1024, ..p.spec.clone() };
    assert_eq!(of(Knob::Rows(1024)).bytes, Plan::of(spec, &CudaSizes::FUSED, None).expect("laid out").bytes);
    assert!(plan(&half, &CudaSizes::FUSED, &speed, p.limit).is_ok());
    // A head that is the embedding ties both to the device; a CPU has one memory.
    let tied = Request { model: ModelConfig { tied: true, ..r.model.clone() }, ..r.clone() };
    let p = plan(&tied, &CudaSizes::FUSED, &speed, None).expect("no limit");
    let knobs = |r: &Request, p: &Plan, sizes: &dyn Sizes| -> Vec<Knob> {
        outlook::alternatives(r, p, sizes, &speed, &work).iter().map(|a| a.knob).collect()
    };
    assert!(knobs(&tied, &p, &CudaSizes::FUSED).iter().all(|k| !matches!(k, Knob::Embedding(_))));
    let p = plan(&r, &CpuSizes, &speed, None).expect("no limit");
    assert!(knobs(&r, &p, &CpuSizes).iter().all(|k| !matches!(k, Knob::Embedding(_))));
}

#[test]
fn the_largest_jobs_fit_and_one_more_does_not() {
    let speed = device::profile("a100-2g.20gb").expect("a known device").speed;
    let limit = (19.5 - 0.45) as u64 * (1 << 30);
    let r = qwen3_8b();
    let fits = |r: Request| plan(&r, &CudaSizes::FUSED, &speed, Some(limit)).is_ok();
    let l = outlook::largest_that_fit(&r, 1024, &CudaSizes::FUSED, limit).expect("can be laid out");
    for (more, expected) in [(0, true), (1, false)] {
        assert_eq!(fits(Request { rows: (l.batch + more) * 1024, ..r.clone() }), expected, "{l:?}");
        let (rows, max_len) = (l.length + more, l.length + more);
        assert_eq!(fits(Request { rows, max_len, ..r.clone() }), expected, "{l:?}");
    }
    assert_eq!(l.model, Some("qwen3-14b"));
    let none = outlook::largest_that_fit(&r, 1024, &CudaSizes::FUSED, 1 << 20).expect("can be laid out");
    assert_eq!((none.batch, none.length, none.model), (0, 0, None));
}

/// What a step must compute does not depend on the plan, and is what one counts by hand.
#[test]
fn the_work_of_a_step_does_not_depend_on_the_plan() {
    let work = Work { rows: 2048.0, len: 1024.0, targets: 100.0 };
    let flops = |p: &Plan| cost::step_flops(&p.spec, &CudaSizes::FUSED, &work).expect("laid out");
    let (small, large) = (planned(9.0).expect("fits"), planned(130.0).expect("fits"));
    assert!(small.spec != large.spec);
    assert_eq!(flops(&small), flops(&large));
    // Forward and backward of 6.95 billion weights of the layers, without gradients of their own; attention, adapters and
    // head are the rest.
    let layers = 2.0 * 2.0 * 2048.0 * 36.0 * (4096.0 * (6144.0 + 4096.0) + 3.0 * 4096.0 * 12_288.0)
        - 2.0 * 2048.0 * 4096.0 * 6144.0;
    assert!((1.0..1.1).contains(&(flops(&large) / layers)), "{}", flops(&large) / layers);
}
