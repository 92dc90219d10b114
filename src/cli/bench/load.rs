//! Loading: the model opened, every weight read, converted or quantised, and put in its place.

use super::{Figure, Found, Job, time};
use crate::{Result, model::source::open};

/// Bytes of the checkpoint per second, and weights per second. A synthetic model is made while it is loaded, and that is
/// most of its time; a directory shows what the disk (or its cache) and the quantiser do.
pub(super) fn measure(job: &Job) -> Result<Found> {
    let name = &job.base.model;
    let opened = open(name)?;
    let weights = opened.source.config().parameters() as f64;
    let bytes = weights * opened.source.dense_dtype().size() as f64;
    let mut device = String::new();
    let seconds = time(job.args.repeats, || {
        let opened = open(name)?;
        device = job.engine(&opened, job.asked(&opened))?.describe();
        Ok(())
    })?;
    let workload =
        format!("{:.2} billion weights, {}", weights / 1e9, if job.base.use_4bit { "to NF4" } else { "as they are" });
    let figures = vec![
        Figure::new("checkpoint", "GB/s", bytes / 1e9, &seconds),
        Figure::new("weights", "10⁶/s", weights / 1e6, &seconds),
    ];
    Ok(Found { workload, device, figures, operations: Vec::new() })
}
