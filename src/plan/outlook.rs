//! What would be otherwise: a plan with one thing of it changed at a time, and the largest job of its kind that fits.

use super::{
    LEANEST, Plan, bytes_of,
    cost::{Speed, Work, step_time},
    embedding_may_leave, largest,
};
use crate::{
    Result,
    backend::{Properties, Space},
    model::{
        ModelConfig,
        config::PRESETS,
        engine::{EngineSpec, HeadStore, Residency, Saved},
    },
};

/// A plan with one thing changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alternative {
    /// What is changed.
    pub change: Change,
    /// Bytes of the arena.
    pub bytes: usize,
    /// Bytes in host memory.
    pub host_bytes: usize,
    /// Seconds of a step, by the time model.
    pub seconds: f64,
    /// Whether the arena fits the plan's limit.
    pub fits: bool,
}

/// A part of a plan and what it is changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// What every layer keeps for the backward pass.
    Saved(Saved),
    /// How the linears of every layer are held.
    Weights(Residency),
    /// Where the embedding lies.
    Embedding(Space),
    /// How the head is held. The only one that changes results by more than rounding.
    Head(HeadStore),
    /// Most rows of a micro-batch.
    Rows(usize),
    /// Rows of a logits chunk.
    LogitRows(usize),
}

impl Change {
    /// The part's name, for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Saved(_) => "saved_activations",
            Self::Weights(_) => "weights",
            Self::Embedding(_) => "embedding",
            Self::Head(_) => "head",
            Self::Rows(_) => "micro_batch_rows",
            Self::LogitRows(_) => "logits_chunk_rows",
        }
    }

    /// What it is changed to, for JSON.
    pub fn setting(self) -> serde_json::Value {
        let named = |value: Result<serde_json::Value, _>| value.unwrap_or_default();
        match self {
            Self::Saved(saved) => named(serde_json::to_value(saved)),
            Self::Weights(residency) => named(serde_json::to_value(residency)),
            Self::Embedding(space) => named(serde_json::to_value(space)),
            Self::Head(head) => named(serde_json::to_value(head)),
            Self::Rows(rows) | Self::LogitRows(rows) => rows.into(),
        }
    }

    /// Both in words.
    pub fn label(self) -> String {
        match self {
            Self::Saved(Saved::All) => "every layer kept whole".into(),
            Self::Saved(Saved::NoGateUp) => "every layer without gate/up".into(),
            Self::Saved(Saved::InputOnly) => "every layer by its input only".into(),
            Self::Weights(Residency::Nf4) => "all weights packed".into(),
            Self::Weights(_) => "all weights unpacked".into(),
            Self::Embedding(Space::Device) => "embedding on the device".into(),
            Self::Embedding(Space::Host) => "embedding in host memory".into(),
            Self::Head(HeadStore::Dense) => "head not quantised".into(),
            Self::Head(HeadStore::Nf4) => "head in NF4".into(),
            Self::Rows(rows) => format!("micro-batches of {rows} rows"),
            Self::LogitRows(rows) => format!("logits {rows} rows at a time"),
        }
    }

    /// `spec` with this changed.
    fn apply(self, spec: &EngineSpec) -> EngineSpec {
        let mut spec = spec.clone();
        match self {
            Self::Saved(saved) => spec.saved.fill(saved),
            Self::Weights(residency) => spec.residency.fill(residency),
            Self::Embedding(space) => spec.embedding = space,
            Self::Head(head) => {
                spec.head = head;
                if head == HeadStore::Dense && spec.model.tied {
                    spec.embedding = Space::Device;
                }
            }
            Self::Rows(rows) => spec.max_rows = rows,
            Self::LogitRows(rows) => spec.logit_rows = rows,
        }
        spec
    }
}

/// The plan with each part of it changed to what it is not, and what a step of `work` would take then. What cannot be laid
/// out is left out.
pub fn alternatives(plan: &Plan, properties: &dyn Properties, speed: &Speed, work: &Work) -> Vec<Alternative> {
    let spec = &plan.spec;
    let mut changes = Vec::new();
    if spec.training {
        changes.extend([Saved::All, Saved::NoGateUp, Saved::InputOnly].map(Change::Saved));
    }
    if spec.four_bit() {
        changes.extend([Residency::Nf4, Residency::Unpacked].map(Change::Weights));
        changes.extend([HeadStore::Dense, HeadStore::Nf4].map(Change::Head));
    }
    if embedding_may_leave(spec, properties) {
        changes.extend([Space::Device, Space::Host].map(Change::Embedding));
    }
    if spec.training {
        let rows = [spec.max_rows / 2, spec.max_rows * 2];
        changes.extend(rows.into_iter().filter(|&n| n >= spec.max_len).map(Change::Rows));
    }
    let chunk = spec.logit_rows.min(spec.max_rows);
    let chunks = [chunk / 2, chunk * 2].into_iter().filter(|n| (1..=spec.max_rows).contains(n));
    changes.extend(chunks.map(Change::LogitRows));
    let changed = changes.into_iter().map(|change| (change, change.apply(spec))).filter(|(_, other)| other != spec);
    changed
        .filter_map(|(change, other)| {
            let seconds = step_time(&other, properties, speed, work).ok()?.total();
            let other = Plan::of(other, properties, plan.limit).ok()?;
            let fits = plan.limit.is_none_or(|limit| other.bytes as u64 <= limit);
            Some(Alternative { change, bytes: other.bytes, host_bytes: other.host_bytes, seconds, fits })
        })
        .collect()
}

/// The largest jobs like one that fit its limit. 0 or `None`: not even the smallest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Largest {
    /// Samples of full length in one pass.
    pub batch: usize,
    /// Tokens of a sample that is alone in its pass; at most what the model was made for.
    pub length: usize,
    /// Published size of Qwen3, with the micro-batches as they are.
    pub model: Option<&'static str>,
}

/// What fits `limit` under the leanest plan of `asked`, where samples have at most `len` tokens.
///
/// # Errors
/// If a job cannot be laid out at any size.
pub fn largest_that_fit(asked: &EngineSpec, len: usize, properties: &dyn Properties, limit: u64) -> Result<Largest> {
    const MOST_ROWS: usize = 1 << 26;
    let fits = |other: &EngineSpec| bytes_of(other, properties, LEANEST).is_ok_and(|b| b as u64 <= limit);
    bytes_of(asked, properties, LEANEST)?;
    let of = |max_rows: usize, max_len: usize| EngineSpec { max_rows, max_len, ..asked.clone() };
    let batch = largest(MOST_ROWS / len.max(1), |n| Ok(n == 0 || fits(&of(n * len, len))))?;
    let length = largest(asked.model.max_positions, |n| Ok(n == 0 || fits(&of(n, n))))?;
    let preset = |name: &str| {
        let model = ModelConfig::preset(name)?;
        Some(EngineSpec { dense_modules: vec![Vec::new(); model.layers], model, ..asked.clone() })
    };
    let mut published = PRESETS.into_iter().filter(|name| name.starts_with("qwen3"));
    let model = published.rfind(|name| preset(name).is_some_and(|other| fits(&other)));
    Ok(Largest { batch, length, model })
}
