//! Where the base weights lie.

use crate::{
    backend::{Buffer, DType, Kind, Layout, Properties, Space, Weight, WeightStore},
    model::{
        ModelConfig, Module,
        engine::{EngineSpec, HeadStore, Residency},
    },
    quant::nf4,
};

/// Weights of one decoder layer.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// Weight of the norm before attention, `F32 [H]`.
    pub input_norm: Buffer,
    /// Weight of the norm before the MLP, `F32 [H]`.
    pub post_norm: Buffer,
    /// Per-head norm weight of q, `F32 [D]`.
    pub q_norm: Buffer,
    /// Per-head norm weight of k, `F32 [D]`.
    pub k_norm: Buffer,
    /// The fused linears in the order of [`Group::ALL`].
    pub linears: [Weight; 4],
}

/// The fused linears of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// q, k, v.
    Qkv,
    /// Attention output.
    O,
    /// gate, up.
    GateUp,
    /// MLP output.
    Down,
}

impl Group {
    /// All of them, in the order of the forward pass.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::O, Self::GateUp, Self::Down];

    /// Output and input features (n, k) of the fused weight.
    pub fn shape(self, c: &ModelConfig) -> (usize, usize) {
        let n = self.modules().iter().map(|m| m.shape(c).0).sum();
        (n, self.modules()[0].shape(c).1)
    }

    /// The modules fused in it, in the order of its output columns.
    pub const fn modules(self) -> &'static [Module] {
        match self {
            Self::Qkv => &[Module::QProj, Module::KProj, Module::VProj],
            Self::O => &[Module::OProj],
            Self::GateUp => &[Module::GateProj, Module::UpProj],
            Self::Down => &[Module::DownProj],
        }
    }
}

/// Base weights of a model.
#[derive(Debug, Clone)]
pub struct BaseWeights {
    /// Embedding, Bf16 or F32 [V, H], on the device or in host memory.
    pub embed: Buffer,
    /// Head [V, H]; the embedding again where tied and not in NF4.
    pub head: Weight,
    /// Weight of the last norm, `F32 [H]`.
    pub final_norm: Buffer,
    /// cos and sin of each position, F32 [positions, D].
    pub rope: Buffer,
    /// By layer.
    pub layers: Vec<LayerWeights>,
    /// NF4 of one weight on its way to being unpacked; empty if no layer is.
    pub staging: Option<(Buffer, Buffer)>,
}

impl BaseWeights {
    pub(super) fn place(spec: &EngineSpec, properties: &dyn Properties, l: &mut Layout) -> Self {
        let c = &spec.model;
        let (hidden, dim) = (c.hidden, c.heads.dim);
        let embed = match spec.embedding {
            Space::Device => l.take(Kind::EmbeddingAndHead, spec.dense, c.vocab * hidden),
            Space::Host => l.take_host(Kind::EmbeddingAndHead, spec.dense, c.vocab * hidden),
        };
        let head = match spec.head {
            HeadStore::Dense if c.tied => WeightStore::Dense(embed),
            HeadStore::Dense => WeightStore::Dense(l.take(Kind::EmbeddingAndHead, spec.dense, c.vocab * hidden)),
            HeadStore::Nf4 => nf4_store(spec, l, Kind::EmbeddingAndHead, c.vocab * hidden),
        };
        let final_norm = l.take(Kind::EmbeddingAndHead, DType::F32, hidden);
        let positions = spec.max_len.max(if spec.kv_slots > 0 { spec.kv_capacity } else { 0 });
        let rope = l.take(Kind::EmbeddingAndHead, DType::F32, positions * dim);
        let norm = |l: &mut Layout, len| l.take(Kind::EmbeddingAndHead, DType::F32, len);
        let layers = (0..c.layers).map(|layer| LayerWeights {
            input_norm: norm(l, hidden),
            post_norm: norm(l, hidden),
            q_norm: norm(l, dim),
            k_norm: norm(l, dim),
            linears: Group::ALL.map(|g| linear(spec, properties, l, layer, g)),
        });
        let layers = layers.collect();
        let unpacked =
            |layer| Group::ALL.into_iter().any(|g| matches!(held(spec, layer, g), Held::Unpacked | Held::Mixed));
        let staging = (0..c.layers).any(unpacked).then(|| {
            let most = Module::ALL.iter().map(|m| m.shape(c)).map(|(n, k)| n * k).max().unwrap_or(0);
            let packed = l.take(Kind::Scratch, DType::U8, most.div_ceil(2));
            (packed, l.take(Kind::Scratch, DType::F32, most.div_ceil(nf4::BLOCK)))
        });
        let head = Weight { n: c.vocab, k: hidden, store: head };
        Self { embed, head, final_norm, rope, layers, staging }
    }
}

/// How a fused linear is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// All of it packed.
    Nf4,
    /// All of it quantised, and unpacked.
    Unpacked,
    /// Nothing of it quantised.
    Dense,
    /// Some of its modules quantised and some not. One product takes one matrix, so the quantised ones are unpacked beside the
    /// others: the same numbers.
    Mixed,
}

/// How the modules of `group` in `layer` are held together.
pub fn held(spec: &EngineSpec, layer: usize, group: Group) -> Held {
    let dense = group.modules().iter().filter(|&&m| spec.residency_of(layer, m) == Residency::Dense).count();
    match spec.residency[layer] {
        _ if dense == group.modules().len() => Held::Dense,
        _ if dense > 0 => Held::Mixed,
        Residency::Nf4 => Held::Nf4,
        Residency::Unpacked => Held::Unpacked,
        Residency::Dense => Held::Dense,
    }
}

fn linear(spec: &EngineSpec, properties: &dyn Properties, l: &mut Layout, layer: usize, group: Group) -> Weight {
    let (n, k) = group.shape(&spec.model);
    let mut dense = |dtype| WeightStore::Dense(l.take(Kind::DenseWeights, dtype, n * k));
    let store = match held(spec, layer, group) {
        Held::Nf4 => nf4_store(spec, l, Kind::QuantizedWeights, n * k),
        Held::Unpacked => dense(properties.activation()),
        Held::Dense => dense(spec.dense),
        // What holds both without rounding either.
        Held::Mixed => dense(if spec.dense == spec.compute { spec.dense } else { DType::F32 }),
    };
    Weight { n, k, store }
}

/// A place for `len` weights in NF4.
fn nf4_store(spec: &EngineSpec, l: &mut Layout, kind: Kind, len: usize) -> WeightStore {
    WeightStore::Nf4 {
        packed: l.take(kind, DType::U8, len / 2),
        absmax: l.take(kind, DType::F32, len / nf4::BLOCK),
        compute: spec.compute,
    }
}
