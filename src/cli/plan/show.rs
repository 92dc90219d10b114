//! A forecast in words and in JSON.

use crate::{
    Result,
    model::Module,
    plan::outlook::{Alternative, Change},
    run::forecast::{Course, Forecast},
};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Bytes in GiB.
pub(super) fn gib(bytes: f64) -> f64 {
    bytes / (1u64 << 30) as f64
}

/// The forecast as JSON.
pub(super) fn json(f: &Forecast) -> Result<Value> {
    let (plan, course) = (&f.plan, f.course.as_ref());
    let items: Map<_, _> = plan.items.iter().map(|(k, b)| (k.label().to_owned(), json!(b))).collect();
    let [all, without_gate_up, input_only] = plan.saved_counts();
    let (dense, beside) = plan.kept_dense();
    let largest = f
        .largest()?
        .map(|l| json!({"batch_size": l.batch, "at_length": f.max_seq_length, "length": l.length, "model": l.model}));
    Ok(json!({
        "model": f.model,
        "device": f.device,
        "bytes": plan.bytes,
        "host_bytes": plan.host_bytes,
        "reserved_outside_bytes": f.reserve,
        "limit_bytes": plan.limit,
        "items": items,
        "layers_saved": {"all": all, "without_gate_up": without_gate_up, "input_only": input_only},
        "layers_unpacked": plan.unpacked(),
        "linears_dense": dense,
        "linears_unpacked_beside_dense": beside,
        "embedding": plan.spec.embedding,
        "head": plan.spec.head,
        "micro_batch_rows": plan.spec.max_rows,
        "step_samples": f.samples,
        "step_tokens": f.step.rows,
        "step_seconds": f.step_seconds,
        "alternatives": f.alternatives().into_iter().map(alternative).collect::<Vec<_>>(),
        "largest_that_fits": largest,
        "samples": course.map(|c| c.samples),
        "tokens_per_epoch": course.map(|c| c.tokens),
        "targets_per_epoch": course.map(|c| c.targets),
        "steps": course.map(|c| c.steps),
        "estimated_seconds": f.seconds(),
    }))
}

fn alternative(a: Alternative) -> Value {
    json!({
        "knob": a.change.name(),
        "setting": a.change.setting(),
        "changes_results": matches!(a.change, Change::Head(_)),
        "bytes": a.bytes,
        "host_bytes": a.host_bytes,
        "step_seconds": a.seconds,
        "fits": a.fits,
    })
}

/// The forecast as text.
pub(super) fn table(f: &Forecast) -> Result<String> {
    let mut t = format!("{} on {}, micro-batches of up to {} rows\n\n", f.model, f.device, f.plan.spec.max_rows);
    memory(f, &mut t);
    outlook(f, &mut t)?;
    if let Some(c) = &f.course {
        course(c, &mut t);
    }
    if let Some(s) = f.seconds() {
        let shown = if s < 120.0 { format!("{s:.1} s") } else { format!("{:.1} min", s / 60.0) };
        let _ = writeln!(t, "  at least {shown} (products, packed weights and the bus at full speed)");
    }
    Ok(t)
}

/// Memory by item, and how the layers are held.
fn memory(f: &Forecast, t: &mut String) {
    let plan = &f.plan;
    let mut line = |label: &str, bytes: u64, note: &str| {
        let _ = writeln!(t, "  {label:<24}{bytes:>14} B {:>9.3} GiB{note}", gib(bytes as f64));
    };
    for (kind, bytes) in &plan.items {
        line(kind.label(), *bytes as u64, "");
    }
    line("arena", plan.bytes as u64, "");
    if plan.host_bytes > 0 {
        line("embedding, in host memory", plan.host_bytes as u64, "");
    }
    if f.reserve > 0 {
        line("set aside for the driver", f.reserve, "  (estimate)");
    }
    if let Some(limit) = plan.limit {
        line("available to the arena", limit, "");
    }
    let [all, part, input] = plan.saved_counts();
    let _ = writeln!(
        t,
        "\n  activations: {all} layers kept whole, {part} without gate/up, {input} by their input only\n  weights: {} of {} \
         layers unpacked",
        plan.unpacked(),
        plan.spec.model.layers
    );
    let (dense, beside) = plan.kept_dense();
    if dense > 0 {
        let all = Module::ALL.len() * plan.spec.model.layers;
        let _ = writeln!(t, "  {dense} of {all} linears stay dense, as the checkpoint has them");
    }
    if beside > 0 {
        let _ = writeln!(t, "  {beside} quantised ones are unpacked, because they are one product with a dense one");
    }
}

fn course(c: &Course, t: &mut String) {
    let _ = writeln!(
        t,
        "\n  {} samples, {} tokens an epoch (longest {}), loss on {}\n  {} steps, {:.2} epochs",
        c.samples, c.tokens, c.longest, c.targets, c.steps, c.epochs
    );
}

/// What each change would bring, and the largest jobs that fit.
fn outlook(f: &Forecast, t: &mut String) -> Result<()> {
    let (bytes, seconds) = (f.plan.bytes, f.step_seconds);
    let assumed = if f.course.is_some() { "" } else { " of full length, with loss on two tokens of each" };
    let _ = writeln!(
        t,
        "\n  a step is {} samples{assumed}, {:.0} tokens; what a change would bring:\n\n  {:<30}{:>12}{:>9}{:>12}{:>10}",
        f.samples, f.step.rows, "", "arena, GiB", "change", "s a step", "change"
    );
    let _ = writeln!(t, "  {:<30}{:>12.3}{:>9}{seconds:>12.4}", "as planned", gib(bytes as f64), "");
    for a in f.alternatives() {
        let note = match (a.fits, a.change) {
            (false, _) => "  does not fit",
            (true, Change::Head(_)) => "  other results",
            (true, _) => "",
        };
        let _ = writeln!(
            t,
            "  {:<30}{:>12.3}{:>+9.3}{:>12.4}{:>+10.4}{note}",
            a.change.label(),
            gib(a.bytes as f64),
            gib(a.bytes as f64 - bytes as f64),
            a.seconds,
            a.seconds - seconds
        );
    }
    if let Some(l) = f.largest()? {
        let model = l.model.unwrap_or("no published size");
        let _ = writeln!(
            t,
            "\n  what would fit, recomputing all: a batch of {} × {} tokens in one pass, one sample of {} tokens, {model}",
            l.batch, f.max_seq_length, l.length
        );
    }
    Ok(())
}
