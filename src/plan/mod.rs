//! The plan of a run: how much of each layer is kept or recomputed, and which weights stay unpacked, so that the run fits
//! the memory there is and is as fast as that allows.
//!
//! A plan is an [`EngineSpec`]; its bytes come from the same [`arrange`] that the engine allocates with. The plan changes
//! speed, never results.

pub mod cost;
pub mod device;
pub mod host;
pub mod outlook;
pub mod settings;

use crate::{
    Error, Result,
    backend::{Kind, Properties, Space},
    error::Setting,
    model::engine::{EngineSpec, Group, HeadStore, Held, Residency, Saved, arrange, held},
};
pub use cost::{Speed, StepTime, Work};

/// Whether NF4 weights may be held unpacked to save their dequantisation at each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// Never.
    Never,
    /// In as many layers as fit.
    WhereItFits,
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
    pub fn of(spec: EngineSpec, properties: &dyn Properties, limit: Option<u64>) -> Result<Self> {
        let layout = arrange(&spec, properties)?.layout;
        let (bytes, host_bytes, items) = (layout.bytes(), layout.host_bytes(), layout.by_kind().collect());
        Ok(Self { spec, bytes, items, host_bytes, limit })
    }

    /// Layers under each choice of saved activations: all, without gate/up, input only.
    pub fn saved_counts(&self) -> [usize; 3] {
        [Saved::All, Saved::NoGateUp, Saved::InputOnly].map(|s| self.spec.saved.iter().filter(|&&x| x == s).count())
    }

    /// Linears that stay dense beside quantised ones, and quantised ones that are unpacked because a linear fused with them
    /// is dense.
    pub fn kept_dense(&self) -> (usize, usize) {
        if !self.spec.four_bit() {
            return (0, 0);
        }
        let layers = || 0..self.spec.model.layers;
        let groups = layers().flat_map(|i| Group::ALL.into_iter().map(move |g| (i, g)));
        let mixed = groups.filter(|&(i, g)| held(&self.spec, i, g) == Held::Mixed);
        let dense = |i: usize, g: Group| g.modules().iter().filter(|&m| self.spec.dense_modules[i].contains(m)).count();
        let unpacked = mixed.map(|(i, g)| g.modules().len() - dense(i, g)).sum();
        (self.spec.dense_modules.iter().map(Vec::len).sum(), unpacked)
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

/// The plan that needs the least memory.
const LEANEST: Upgrades = Upgrades { attention: 0, gate_up: 0, unpacked: 0, embedding: false };

/// Whether the embedding may lie in host memory, and there is something to gain by it.
fn embedding_may_leave(asked: &EngineSpec, properties: &dyn Properties) -> bool {
    properties.own_memory() && (!asked.model.tied || asked.head == HeadStore::Nf4)
}

/// `asked` with the choices that are the planner's made as `u` says.
fn spec_of(asked: &EngineSpec, properties: &dyn Properties, u: Upgrades) -> EngineSpec {
    let layers = asked.model.layers;
    // The last layers run backward first, when the most is saved; which layers are chosen does not change the total.
    let saved = |i: usize| match i {
        _ if !asked.training || i < u.gate_up => Saved::All,
        _ if i < u.attention => Saved::NoGateUp,
        _ => Saved::InputOnly,
    };
    let residency = |i: usize| match asked.four_bit() {
        false => Residency::Dense,
        true if i < u.unpacked => Residency::Unpacked,
        true => Residency::Nf4,
    };
    EngineSpec {
        saved: (0..layers).map(saved).collect(),
        residency: (0..layers).map(residency).collect(),
        embedding: if u.embedding || !embedding_may_leave(asked, properties) { Space::Device } else { Space::Host },
        ..asked.clone()
    }
}

fn bytes_of(asked: &EngineSpec, properties: &dyn Properties, u: Upgrades) -> Result<usize> {
    Ok(arrange(&spec_of(asked, properties, u), properties)?.layout.bytes())
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

/// The fastest plan that fits `limit` bytes on a device of this `speed`. Of `asked`, what is saved of each layer, which
/// NF4 weights are unpacked and where the embedding lies are the planner's to choose; the rest stays.
///
/// # Errors
/// [`Error::DoesNotFit`] if no plan fits; its advice is the nearest settings that do.
pub fn plan(
    asked: &EngineSpec,
    unpack: Unpack,
    properties: &dyn Properties,
    speed: &Speed,
    limit: Option<u64>,
) -> Result<Plan> {
    let layers = asked.model.layers;
    let fits = |u: Upgrades| -> Result<bool> {
        Ok(limit.is_none_or(|limit| bytes_of(asked, properties, u).is_ok_and(|b| b as u64 <= limit)))
    };
    let mut u = LEANEST;
    arrange(&spec_of(asked, properties, u), properties)?;
    if !fits(u)? {
        return Err(does_not_fit(asked, properties, limit.unwrap_or(0)));
    }
    // Upgrades in the order of seconds saved per byte.
    for knob in cost::knobs_by_worth(&spec_of(asked, properties, u), properties, speed)? {
        match knob {
            cost::Knob::SaveAttention if asked.training => {
                u.attention = largest(layers, |n| fits(Upgrades { attention: n, ..u }))?;
            }
            cost::Knob::SaveGateUp if asked.training => {
                u.gate_up = largest(u.attention, |n| fits(Upgrades { gate_up: n, ..u }))?;
            }
            cost::Knob::Unpack if asked.four_bit() && unpack == Unpack::WhereItFits => {
                u.unpacked = largest(layers, |n| fits(Upgrades { unpacked: n, ..u }))?;
            }
            cost::Knob::Embedding => u.embedding = fits(Upgrades { embedding: true, ..u })?,
            _ => {}
        }
    }
    Plan::of(spec_of(asked, properties, u), properties, limit)
}

/// What `asked` needs, and the nearest settings with which it fits.
fn does_not_fit(asked: &EngineSpec, properties: &dyn Properties, limit: u64) -> Error {
    let need = bytes_of(asked, properties, LEANEST).unwrap_or(0) as u64;
    Error::DoesNotFit {
        what: "this run",
        need,
        have: limit,
        by: None,
        advice: what_would_fit(asked, properties, limit),
    }
}

/// Settings that change the least, from those that change nothing but speed to those that change most: fewer rows, the
/// head, the rank. Empty if none of them is enough.
fn what_would_fit(asked: &EngineSpec, properties: &dyn Properties, limit: u64) -> Vec<Setting> {
    let fits = |spec: &EngineSpec| bytes_of(spec, properties, LEANEST).is_ok_and(|b| b as u64 <= limit);
    let most_rows = |spec: &EngineSpec| {
        let with = |rows: usize| EngineSpec { max_rows: rows, max_len: spec.max_len.min(rows), ..spec.clone() };
        largest(spec.max_rows, |n| Ok(n == 0 || fits(&with(n)))).unwrap_or(0)
    };
    let rank = asked.lora.as_ref().filter(|_| asked.training).map_or(0, |l| l.r);
    let ranks = std::iter::successors(Some(rank), |r| Some(r / 2).filter(|r| *r >= 8));
    let heads: &[HeadStore] = match asked.head {
        HeadStore::Dense if asked.four_bit() => &[HeadStore::Dense, HeadStore::Nf4],
        head => &[head],
    };
    let candidates = ranks.flat_map(|r| heads.iter().map(move |&head| (r, head)));
    let mut tried = candidates.map(|(r, head)| {
        let mut other = EngineSpec { head, ..asked.clone() };
        let mut settings = Vec::new();
        if head != asked.head {
            settings.push(Setting::new("head-4bit", true));
        }
        if let (Some(lora), true) = (&mut other.lora, r != rank) {
            lora.r = r;
            settings.push(Setting::new("lora-r", r));
        }
        (most_rows(&other), settings)
    });
    let found = tried.clone().find(|(rows, _)| *rows >= asked.max_len).or_else(|| tried.find(|(rows, _)| *rows >= 16));
    match found {
        Some((rows, settings)) => settings.into_iter().chain(fewer_rows(asked, rows)).collect(),
        None if asked.four_bit() => Vec::new(),
        None => {
            let packed = EngineSpec { residency: vec![Residency::Nf4; asked.model.layers], ..asked.clone() };
            let more = if fits(&packed) { Vec::new() } else { what_would_fit(&packed, properties, limit) };
            let enough = fits(&packed) || !more.is_empty();
            enough.then(|| Setting::new("use-4bit", true)).into_iter().chain(more).collect()
        }
    }
}

/// The settings that keep a pass to `rows` rows; none if it needs no more anyway.
fn fewer_rows(asked: &EngineSpec, rows: usize) -> Vec<Setting> {
    let shorter = Setting::new("max-seq-length", rows);
    match (asked.training, rows >= asked.max_len) {
        (false, _) => vec![shorter],
        (true, true) if rows >= asked.max_rows => Vec::new(),
        (true, true) => vec![Setting::new("micro-batch-rows", rows)],
        (true, false) => vec![Setting::new("micro-batch-rows", rows), shorter],
    }
}

#[cfg(test)]
mod tests;
