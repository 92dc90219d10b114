//! The plan of a run: how much of each layer is kept or recomputed, and which weights stay unpacked, so that the run fits
//! the memory there is and is as fast as that allows.
//!
//! A plan is an [`EngineSpec`]; its bytes come from the same [`arrange`] that the engine allocates with. The plan changes
//! speed, never results.

pub mod cost;
pub mod device;
pub mod outlook;

use crate::{
    Error, Result,
    backend::{DType, Kind, Sizes, Space},
    model::{
        LoraConfig, ModelConfig,
        engine::{EngineSpec, HeadStore, Residency, Saved, arrange},
    },
};
pub use cost::{Speed, StepTime, Work};

/// What a run asks of the planner.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model.
    pub model: ModelConfig,
    /// The adapter, if any.
    pub lora: Option<LoraConfig>,
    /// Whether a backward pass runs.
    pub training: bool,
    /// Most rows of a micro-batch.
    pub rows: usize,
    /// Longest document.
    pub max_len: usize,
    /// Rows of a logits chunk.
    pub logit_rows: usize,
    /// False: the base is not quantised.
    pub four_bit: bool,
    /// Type that quantised weights are rounded to.
    pub compute: DType,
    /// Storage of embedding, head and unquantised linears.
    pub dense: DType,
    /// How the head is held.
    pub head: HeadStore,
    /// Sequences generated at once.
    pub kv_slots: usize,
    /// Most positions of a generated sequence.
    pub kv_capacity: usize,
    /// Whether weights may stay unpacked.
    pub unpack: Unpack,
}

/// Whether NF4 weights may be held unpacked to save their dequantisation at each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Unpack {
    /// Never.
    Never,
    /// As many layers as fit.
    WhereItFits,
    /// All layers, or the plan is refused.
    Always,
}

/// A plan that fits.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the engine is laid out for.
    pub spec: EngineSpec,
    /// Bytes of the arena.
    pub bytes: usize,
    /// Bytes by item; they add up to `bytes`.
    pub items: Vec<(Kind, usize)>,
    /// Bytes in host memory beside a device that has memory of its own.
    pub host_bytes: usize,
    /// The limit on the arena it was made for, if there was one.
    pub limit: Option<u64>,
}

impl Plan {
    /// What `spec` takes.
    ///
    /// # Errors
    /// If it cannot be laid out.
    pub fn of(spec: EngineSpec, sizes: &dyn Sizes, limit: Option<u64>) -> Result<Self> {
        let layout = arrange(&spec, sizes)?.layout;
        let (bytes, host_bytes, items) = (layout.bytes(), layout.host_bytes(), layout.by_kind().collect());
        Ok(Self { spec, bytes, items, host_bytes, limit })
    }

    /// Layers under each choice of saved activations: all, without gate/up, input only.
    pub fn saved_counts(&self) -> [usize; 3] {
        [Saved::All, Saved::NoGateUp, Saved::InputOnly].map(|s| self.spec.saved.iter().filter(|&&x| x == s).count())
    }

    /// Layers whose weights are unpacked.
    pub fn unpacked(&self) -> usize {
        self.spec.residency.iter().filter(|&&r| r == Residency::Unpacked).count()
    }
}

/// Layers upgraded from the plan that needs the least memory, each count from 0 to the number of layers.
#[derive(Debug, Clone, Copy, Default)]
struct Upgrades {
    /// Layers that keep everything but gate/up.
    attention: usize,
    /// Layers that keep gate/up too; at most `attention`.
    gate_up: usize,
    /// Layers whose weights are unpacked.
    unpacked: usize,
    /// Whether the embedding is on the device although it might lie in host memory.
    embedding: bool,
}

/// Whether the embedding may lie in host memory, and there is something to gain by it.
fn embedding_may_leave(r: &Request, sizes: &dyn Sizes) -> bool {
    sizes.own_memory() && (!r.model.tied || r.head == HeadStore::Nf4)
}

fn spec_of(r: &Request, sizes: &dyn Sizes, u: Upgrades) -> EngineSpec {
    let layers = r.model.layers;
    // The last layers run backward first, when the most is saved; which layers are chosen does not change the total.
    let saved = |i: usize| match i {
        _ if !r.training || i < u.gate_up => Saved::All,
        _ if i < u.attention => Saved::NoGateUp,
        _ => Saved::InputOnly,
    };
    let residency = |i: usize| match r.four_bit {
        false => Residency::Dense,
        true if i < u.unpacked => Residency::Unpacked,
        true => Residency::Nf4,
    };
    EngineSpec {
        model: r.model.clone(),
        lora: r.lora.clone(),
        training: r.training,
        max_rows: r.rows,
        max_len: r.max_len,
        logit_rows: r.logit_rows,
        saved: (0..layers).map(saved).collect(),
        residency: (0..layers).map(residency).collect(),
        compute: r.compute,
        dense: r.dense,
        head: r.head,
        embedding: if u.embedding || !embedding_may_leave(r, sizes) { Space::Device } else { Space::Host },
        kv_slots: r.kv_slots,
        kv_capacity: r.kv_capacity,
    }
}

/// The plan that needs the least memory, of those that `r` allows.
fn leanest(r: &Request) -> Upgrades {
    let unpacked = if r.unpack == Unpack::Always && r.four_bit { r.model.layers } else { 0 };
    Upgrades { unpacked, ..Upgrades::default() }
}

fn bytes_of(r: &Request, sizes: &dyn Sizes, u: Upgrades) -> Result<usize> {
    Ok(arrange(&spec_of(r, sizes, u), sizes)?.layout.bytes())
}

/// The largest n in 0..=most for which `fits`, which holds for 0 and stops holding once.
fn largest(most: usize, mut fits: impl FnMut(usize) -> Result<bool>) -> Result<usize> {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle)? { low = middle } else { high = middle - 1 }
    }
    Ok(low)
}

/// The fastest plan that fits `limit` bytes on a device of this `speed`.
///
/// # Errors
/// If no plan fits; the message names the nearest settings that do.
pub fn plan(r: &Request, sizes: &dyn Sizes, speed: &Speed, limit: Option<u64>) -> Result<Plan> {
    let layers = r.model.layers;
    let fits = |u: Upgrades| -> Result<bool> {
        Ok(limit.is_none_or(|limit| bytes_of(r, sizes, u).is_ok_and(|b| b as u64 <= limit)))
    };
    let mut u = leanest(r);
    arrange(&spec_of(r, sizes, u), sizes)?;
    if !fits(u)? {
        return Err(refuse(r, sizes, u, limit.unwrap_or(0)));
    }
    // Upgrades in the order of seconds saved per byte.
    for knob in cost::knobs_by_worth(&spec_of(r, sizes, u), sizes, speed)? {
        match knob {
            cost::Knob::SaveAttention if r.training => {
                u.attention = largest(layers, |n| fits(Upgrades { attention: n, ..u }))?;
            }
            cost::Knob::SaveGateUp if r.training => {
                u.gate_up = largest(u.attention, |n| fits(Upgrades { gate_up: n, ..u }))?;
            }
            cost::Knob::Unpack if r.four_bit && r.unpack == Unpack::WhereItFits => {
                u.unpacked = largest(layers, |n| fits(Upgrades { unpacked: n, ..u }))?;
            }
            cost::Knob::Embedding => u.embedding = fits(Upgrades { embedding: true, ..u })?,
            _ => {}
        }
    }
    Plan::of(spec_of(r, sizes, u), sizes, limit)
}

/// Why nothing fits, and the nearest settings with which something does.
fn refuse(r: &Request, sizes: &dyn Sizes, least: Upgrades, limit: u64) -> Error {
    let gib = |b: usize| b as f64 / (1u64 << 30) as f64;
    let need = bytes_of(r, sizes, least).unwrap_or(0);
    let fits = |r: &Request| bytes_of(r, sizes, least).is_ok_and(|b| b as u64 <= limit);
    let most_rows = |r: &Request| {
        let with = |rows: usize| Request { rows, max_len: r.max_len.min(rows), ..r.clone() };
        largest(r.rows, |n| Ok(n == 0 || fits(&with(n)))).unwrap_or(0)
    };
    let of_rows = |rows: usize| match (r.training, rows >= r.max_len) {
        (true, true) if rows >= r.rows => String::new(),
        (true, true) => format!(" --micro-batch-rows {rows} (with a --max-seq-length of no more)"),
        (true, false) => format!(" --micro-batch-rows {rows} --max-seq-length {rows}"),
        (false, _) => format!(" --max-seq-length {rows}"),
    };
    // From the settings that change least to those that change most: fewer rows, the head, the rank.
    let rank = r.lora.as_ref().filter(|_| r.training).map_or(0, |l| l.r);
    let ranks = std::iter::successors(Some(rank), |r| Some(r / 2).filter(|r| *r >= 8));
    let heads =
        if r.four_bit && r.head == HeadStore::Dense { &[HeadStore::Dense, HeadStore::Nf4][..] } else { &[r.head] };
    let candidates = ranks.flat_map(|rank| heads.iter().map(move |&head| (rank, head)));
    let mut tried = candidates.map(|(rank_tried, head)| {
        let mut other = Request { head, ..r.clone() };
        let mut flags = if head == r.head { String::new() } else { " --head-4bit".to_owned() };
        if let (Some(lora), true) = (&mut other.lora, rank_tried != rank) {
            lora.r = rank_tried;
            flags += &format!(" --lora-r {rank_tried}");
        }
        (most_rows(&other), flags)
    });
    let found = tried.clone().find(|(rows, _)| *rows >= r.max_len).or_else(|| tried.find(|(rows, _)| *rows >= 16));
    let advice = if let Some((rows, flags)) = found {
        let other = if flags.is_empty() { "" } else { ", with other results" };
        format!("{}{} would fit{other}", flags.trim_start(), of_rows(rows)).trim_start().to_owned()
    } else if !r.four_bit {
        "the weights alone are too large: use --use-4bit".to_owned()
    } else if r.unpack == Unpack::Always {
        "leave the weights packed".to_owned()
    } else {
        format!(
            "the quantised weights alone leave no room: raise --memory-limit to {:.2} GiB, or use a smaller model",
            gib(need)
        )
    };
    Error::failed(format!(
        "this run needs at least {:.2} GiB and {:.2} GiB are available; {advice}",
        gib(need),
        limit as f64 / (1u64 << 30) as f64
    ))
}

#[cfg(test)]
mod tests;
