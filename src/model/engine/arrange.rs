//! Where everything of an engine lies in its arena. The planner runs [`arrange`] to say what a run takes; the engine runs
//! the same function to take it.

use super::{EngineSpec, HeadStore, Residency, Saved};
use crate::{
    Error, Result,
    backend::{
        Buffer, DType, HeadNormRope, Kind, KvCache, Layout, LoraPart, Rows, ScratchShape, Sizes, Space, Weight,
        WeightStore,
    },
    model::{LoraConfig, Module, lora::LoraSlot},
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

/// Activations of one layer, full size. In inference every layer has the same ones.
#[derive(Debug, Clone, Copy)]
pub struct LayerActivations {
    /// Input of the layer, act [T, H].
    pub x: Buffer,
    /// q, k, v before the head norms, act [T, (Hq+2Hk)·D].
    pub qkv: Buffer,
    /// Attention output, act [T, Hq·D].
    pub o: Buffer,
    /// Log-sum-exp of attention, F32 [T, Hq].
    pub lse: Buffer,
    /// Residual stream after attention, act [T, H].
    pub x2: Buffer,
    /// gate, up, act [T, 2F].
    pub gu: Buffer,
}

/// Activations that all layers share.
#[derive(Debug, Clone, Copy)]
pub struct Workspace {
    /// Output of a norm, act [T, H].
    pub h: Buffer,
    /// q, k after head norm and RoPE, act [T, (Hq+Hk)·D].
    pub qk: Buffer,
    /// SwiGLU output, act [T, F].
    pub s: Buffer,
    /// Output of the last layer, act [T, H].
    pub x_last: Buffer,
    /// Target rows of `x_last`, then their norm's gradient, act [C, H].
    pub head_x: Buffer,
    /// Target rows after the last norm, act [C, H].
    pub head_h: Buffer,
    /// Logits of a chunk, act [C, V].
    pub logits: Buffer,
    /// Gradients; empty outside training.
    pub grad: Gradients,
}

/// Gradients of activations, shared by all layers.
#[derive(Debug, Clone, Copy)]
pub struct Gradients {
    /// Of the residual stream, act [T, H].
    pub dx: Buffer,
    /// Of a norm's output, act [T, H].
    pub dh: Buffer,
    /// Of the SwiGLU output, act [T, F].
    pub ds: Buffer,
    /// Of the attention output, act [T, Hq·D].
    pub do_: Buffer,
    /// Of q, k after RoPE, act [T, (Hq+Hk)·D].
    pub dqk: Buffer,
    /// Of q, k, v, act [T, (Hq+2Hk)·D].
    pub dqkv: Buffer,
    /// Of the head's input, act [C, H].
    pub head_dh: Buffer,
}

/// Flat vectors of the adapter, each [`LoraConfig::parameters`] long (empty where a run has no use for one).
#[derive(Debug, Clone, Copy)]
pub struct AdapterBuffers {
    /// Master weights, F32.
    pub master: Buffer,
    /// Working copy, act; the master itself where act is F32.
    pub working: Buffer,
    /// Gradient, F32.
    pub grad: Buffer,
    /// First moment, F32.
    pub m: Buffer,
    /// Second moment, F32.
    pub v: Buffer,
}

/// A module in a fused linear, with its adapter if it carries one.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Columns of the fused output that the module makes.
    n: usize,
    /// Where its A and B lie, and its u, act [T, r]: of this layer in training, shared by layers otherwise.
    adapter: Option<(LoraSlot, Buffer)>,
}

/// Indices of a micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchBuffers {
    /// `U32 [T]`.
    pub tokens: Buffer,
    /// `U32 [T]`.
    pub positions: Buffer,
    /// `U32 [T]`.
    pub samples: Buffer,
    /// U32 [T + 1].
    pub cu_seqlens: Buffer,
    /// `U32 [T]`.
    pub target_rows: Buffer,
    /// `U32 [T]`; also the columns asked of [`crate::backend::Backend::log_softmax_at`] and the results of argmax.
    pub target_ids: Buffer,
    /// Log-probabilities read back, `F32 [T]`.
    pub logprobs: Buffer,
    /// KV-cache slot of each row, `U32 [T]`.
    pub slots: Buffer,
    /// Loss sum and gradient norm, `F32 [2]`.
    pub stats: Buffer,
}

/// Everything that an engine keeps in its arena.
#[derive(Debug, Clone)]
pub struct Arrangement {
    /// Totals and bytes by kind.
    pub layout: Layout,
    /// Scratch of the backend's operations.
    pub scratch: Buffer,
    /// Embedding, Bf16 or F32 [V, H], on the device or in host memory.
    pub embed: Buffer,
    /// Head [V, H]; the embedding again where tied and not in NF4.
    pub head: Weight,
    /// Weight of the last norm, `F32 [H]`.
    pub final_norm: Buffer,
    /// cos and sin of each position, F32 [positions, D].
    pub rope: Buffer,
    /// NF4 of one weight on its way to being unpacked; empty if no layer is.
    pub staging: Option<(Buffer, Buffer)>,
    /// Weights by layer.
    pub layers: Vec<LayerWeights>,
    /// Activations by layer.
    pub activations: Vec<LayerActivations>,
    /// Activations of all layers.
    pub work: Workspace,
    /// The adapter.
    pub adapter: Option<AdapterBuffers>,
    /// Indices.
    pub batch: BatchBuffers,
    /// KV cache by layer; empty without generation.
    pub cache: Vec<KvCache>,
    scale: f32,
    places: Vec<[Vec<Place>; 4]>,
    v: Vec<Buffer>,
}

/// Lays out an engine.
///
/// # Errors
/// If the specification is contradictory, or a weight cannot be stored as asked.
pub fn arrange(spec: &EngineSpec, sizes: &dyn Sizes) -> Result<Arrangement> {
    spec.check()?;
    let c = &spec.model;
    let (rows, hidden, inter, heads) = (spec.max_rows, c.hidden, c.intermediate, c.heads);
    let act = sizes.activation();
    let logit_rows = spec.logit_rows.min(rows);
    let mut l = Layout::new();

    let scratch_shape = scratch_shape(spec, logit_rows);
    sizes.check(&scratch_shape)?;
    let scratch = l.take(Kind::Scratch, DType::U8, sizes.scratch_bytes(&scratch_shape));
    let embed = match spec.embedding {
        Space::Device => l.take(Kind::EmbeddingAndHead, spec.dense, c.vocab * hidden),
        Space::Host => l.take_host(Kind::EmbeddingAndHead, spec.dense, c.vocab * hidden),
    };
    let head = match spec.head {
        HeadStore::Dense if c.tied => WeightStore::Dense(embed),
        HeadStore::Dense => WeightStore::Dense(l.take(Kind::EmbeddingAndHead, spec.dense, c.vocab * hidden)),
        HeadStore::Nf4 => nf4_store(spec, &mut l, Kind::EmbeddingAndHead, c.vocab * hidden),
    };
    let final_norm = l.take(Kind::EmbeddingAndHead, DType::F32, hidden);
    let positions = spec.max_len.max(if spec.kv_slots > 0 { spec.kv_capacity } else { 0 });
    let rope = l.take(Kind::EmbeddingAndHead, DType::F32, positions * heads.dim);

    let layers = (0..c.layers)
        .map(|i| LayerWeights {
            input_norm: l.take(Kind::EmbeddingAndHead, DType::F32, hidden),
            post_norm: l.take(Kind::EmbeddingAndHead, DType::F32, hidden),
            q_norm: l.take(Kind::EmbeddingAndHead, DType::F32, heads.dim),
            k_norm: l.take(Kind::EmbeddingAndHead, DType::F32, heads.dim),
            linears: Group::ALL.map(|g| {
                let n = g.modules().iter().map(|m| m.shape(c).0).sum();
                let k = g.modules()[0].shape(c).1;
                let store = match spec.residency[i] {
                    Residency::Nf4 => nf4_store(spec, &mut l, Kind::QuantizedWeights, n * k),
                    Residency::Unpacked => WeightStore::Dense(l.take(Kind::DenseWeights, act, n * k)),
                    Residency::Dense => WeightStore::Dense(l.take(Kind::DenseWeights, spec.dense, n * k)),
                };
                Weight { n, k, store }
            }),
        })
        .collect();
    let staging = spec.residency.contains(&Residency::Unpacked).then(|| {
        let most = Module::ALL.iter().map(|m| m.shape(c)).map(|(n, k)| n * k).max().unwrap_or(0);
        (
            l.take(Kind::Scratch, DType::U8, most.div_ceil(2)),
            l.take(Kind::Scratch, DType::F32, most.div_ceil(nf4::BLOCK)),
        )
    });

    let parameters = spec.lora.as_ref().map_or(0, |lora| lora.parameters(c));
    let adapter = spec.lora.as_ref().map(|_| {
        let master = l.take(Kind::Adapter, DType::F32, parameters);
        let working = if act == DType::F32 { master } else { l.take(Kind::Adapter, act, parameters) };
        let trained = if spec.training { parameters } else { 0 };
        AdapterBuffers {
            master,
            working,
            grad: l.take(Kind::Optimizer, DType::F32, trained),
            m: l.take(Kind::Optimizer, DType::F32, trained),
            v: l.take(Kind::Optimizer, DType::F32, trained),
        }
    });
    let (places, v) = place_adapters(spec, act, &mut l);

    let activations = activations(spec, act, &mut l);
    let mut take = |dtype, len| l.take(Kind::Workspace, dtype, len);
    let in_training = |n: usize| if spec.training { n } else { 0 };
    let x_last = if spec.training { take(act, rows * hidden) } else { activations[0].x };
    let work = Workspace {
        h: take(act, rows * hidden),
        qk: take(act, rows * heads.qk_width()),
        s: take(act, rows * inter),
        x_last,
        head_x: take(act, logit_rows * hidden),
        head_h: take(act, logit_rows * hidden),
        logits: Buffer::empty(act),
        grad: Gradients {
            dx: take(act, in_training(rows * hidden)),
            dh: take(act, in_training(rows * hidden)),
            ds: take(act, in_training(rows * inter)),
            do_: take(act, in_training(rows * heads.q_width())),
            dqk: take(act, in_training(rows * heads.qk_width())),
            dqkv: take(act, in_training(rows * heads.qkv_width())),
            head_dh: take(act, in_training(logit_rows * hidden)),
        },
    };
    let work = Workspace { logits: l.take(Kind::Logits, act, logit_rows * c.vocab), ..work };

    let mut take = |dtype, len| l.take(Kind::Batch, dtype, len);
    let batch = BatchBuffers {
        tokens: take(DType::U32, rows),
        positions: take(DType::U32, rows),
        samples: take(DType::U32, rows),
        cu_seqlens: take(DType::U32, rows + 1),
        target_rows: take(DType::U32, rows),
        target_ids: take(DType::U32, rows),
        logprobs: take(DType::F32, rows),
        slots: take(DType::U32, if spec.kv_slots > 0 { rows } else { 0 }),
        stats: take(DType::F32, 2),
    };
    let cache = if spec.kv_slots == 0 {
        Vec::new()
    } else {
        let len = spec.kv_slots * spec.kv_capacity * heads.kv_width();
        (0..c.layers)
            .map(|_| KvCache {
                k: l.take(Kind::KvCache, act, len),
                v: l.take(Kind::KvCache, act, len),
                capacity: spec.kv_capacity,
            })
            .collect()
    };

    Ok(Arrangement {
        head: Weight { n: c.vocab, k: hidden, store: head },
        layout: l,
        scratch,
        embed,
        final_norm,
        rope,
        staging,
        layers,
        activations,
        work,
        adapter,
        batch,
        cache,
        scale: spec.lora.as_ref().map_or(0.0, LoraConfig::scale),
        places,
        v,
    })
}

/// A place for `len` weights in NF4.
fn nf4_store(spec: &EngineSpec, l: &mut Layout, kind: Kind, len: usize) -> WeightStore {
    WeightStore::Nf4 {
        packed: l.take(kind, DType::U8, len / 2),
        absmax: l.take(kind, DType::F32, len / nf4::BLOCK),
        compute: spec.compute,
    }
}

/// What decides the size of scratch.
fn scratch_shape(spec: &EngineSpec, logit_rows: usize) -> ScratchShape {
    let c = &spec.model;
    let shapes = Group::ALL.map(|g| {
        let n: usize = g.modules().iter().map(|m| m.shape(c).0).sum();
        (n, g.modules()[0].shape(c).1)
    });
    let rank = |g: &Group| {
        spec.lora.as_ref().map_or(0, |lora| g.modules().iter().filter(|m| lora.targets.contains(m)).count() * lora.r)
    };
    let head = (spec.head == HeadStore::Nf4).then_some((c.vocab, c.hidden));
    ScratchShape {
        rows: spec.max_rows,
        logit_rows,
        max_len: spec.max_len,
        heads: c.heads,
        largest_weight: shapes.into_iter().chain(head).max_by_key(|(n, k)| n * k).unwrap_or((0, 0)),
        widest: shapes.iter().map(|&(n, k)| n.max(k)).max().unwrap_or(0),
        vocab: c.vocab,
        hidden: c.hidden,
        intermediate: c.intermediate,
        lora_rank: spec.lora.as_ref().map_or(0, |lora| lora.r),
        quantized: spec.head == HeadStore::Nf4 || spec.residency.iter().any(|&r| r != Residency::Dense),
        quantized_head: spec.head == HeadStore::Nf4,
        compute: spec.compute,
        dense: spec.dense,
        kv_slots: spec.kv_slots,
        kv_capacity: spec.kv_capacity,
        rank: Group::ALL.iter().map(rank).max().unwrap_or(0),
        adapter: spec.lora.as_ref().map_or(0, |lora| lora.parameters(c)),
        training: spec.training,
    }
}

/// Modules by layer and group, and the shared buffers of v (one for each place in a group).
fn place_adapters(spec: &EngineSpec, act: DType, l: &mut Layout) -> (Vec<[Vec<Place>; 4]>, Vec<Buffer>) {
    let c = &spec.model;
    let slots = spec.lora.as_ref().map_or(Vec::new(), |lora| lora.slots(c));
    let len = spec.lora.as_ref().map_or(0, |lora| spec.max_rows * lora.r);
    let mut shared = std::collections::HashMap::new();
    let mut place = |layer, module: Module| {
        let slot = slots.iter().find(|s| s.layer == layer && s.module == module);
        let adapter = slot.map(|&slot| {
            let u = if spec.training {
                l.take(Kind::SavedActivations, act, len)
            } else {
                *shared.entry(module).or_insert_with(|| l.take(Kind::Workspace, act, len))
            };
            (slot, u)
        });
        Place { n: module.shape(c).0, adapter }
    };
    let places =
        (0..c.layers).map(|layer| Group::ALL.map(|g| g.modules().iter().map(|&m| place(layer, m)).collect())).collect();
    let v = if spec.training { (0..3).map(|_| l.take(Kind::Workspace, act, len)).collect() } else { Vec::new() };
    (places, v)
}

/// Activations of every layer under its [`Saved`] choice.
fn activations(spec: &EngineSpec, act: DType, l: &mut Layout) -> Vec<LayerActivations> {
    let c = &spec.model;
    let rows = spec.max_rows;
    if !spec.training {
        let kind = Kind::Workspace;
        let x = l.take(kind, act, rows * c.hidden);
        let one = LayerActivations {
            x,
            qkv: l.take(kind, act, rows * c.heads.qkv_width()),
            o: l.take(kind, act, rows * c.heads.q_width()),
            lse: l.take(kind, DType::F32, rows * c.heads.q),
            x2: x,
            gu: l.take(kind, act, rows * 2 * c.intermediate),
        };
        return vec![one; c.layers];
    }
    // What some layer recomputes lies in buffers that all such layers share.
    let any = |wanted: &[Saved]| spec.saved.iter().any(|s| wanted.contains(s));
    let mut shared = |want: bool, dtype, len| l.take(Kind::Workspace, dtype, if want { len } else { 0 });
    let input_only = any(&[Saved::InputOnly]);
    let shared_qkv = shared(input_only, act, rows * c.heads.qkv_width());
    let shared_o = shared(input_only, act, rows * c.heads.q_width());
    let shared_lse = shared(input_only, DType::F32, rows * c.heads.q);
    let shared_x2 = shared(input_only, act, rows * c.hidden);
    let shared_gu = shared(any(&[Saved::InputOnly, Saved::NoGateUp]), act, rows * 2 * c.intermediate);
    spec.saved
        .iter()
        .map(|saved| {
            let mut own = |shared: Buffer, keep: bool, dtype, len| {
                if keep { l.take(Kind::SavedActivations, dtype, len) } else { shared }
            };
            let keep = *saved != Saved::InputOnly;
            LayerActivations {
                x: own(shared_x2, true, act, rows * c.hidden),
                qkv: own(shared_qkv, keep, act, rows * c.heads.qkv_width()),
                o: own(shared_o, keep, act, rows * c.heads.q_width()),
                lse: own(shared_lse, keep, DType::F32, rows * c.heads.q),
                x2: own(shared_x2, keep, act, rows * c.hidden),
                gu: own(shared_gu, *saved == Saved::All, act, rows * 2 * c.intermediate),
            }
        })
        .collect()
}

impl Arrangement {
    /// The adapters of one fused linear, for `rows` rows.
    pub fn parts(&self, layer: usize, group: Group, rows: usize) -> Vec<LoraPart> {
        let Some(flat) = &self.adapter else { return Vec::new() };
        let mut parts = Vec::new();
        let mut column = 0;
        for (place, &Place { n, adapter }) in self.places[layer][group as usize].iter().enumerate() {
            if let Some((slot, u)) = adapter {
                parts.push(LoraPart {
                    module: slot.module as u32,
                    out: column..column + n,
                    r: slot.r,
                    scale: self.scale,
                    a: slot.a_of(flat.working),
                    b: slot.b_of(flat.working),
                    da: slot.a_of(flat.grad),
                    db: slot.b_of(flat.grad),
                    u: u.prefix(rows * slot.r),
                    v: self.v.get(place).map_or(Buffer::empty(u.dtype()), |v| v.prefix(rows * slot.r)),
                });
            }
            column += n;
        }
        parts
    }

    /// Whether any module of `group` in `layer` carries an adapter.
    pub fn adapted(&self, layer: usize, group: Group) -> bool {
        self.places[layer][group as usize].iter().any(|p| p.adapter.is_some())
    }
}

/// Rows of a micro-batch, resolved to handles.
pub fn rows_of(batch: &BatchBuffers, count: usize, docs: usize, max_len: usize) -> Rows {
    Rows {
        count,
        docs,
        max_len,
        tokens: batch.tokens.prefix(count),
        positions: batch.positions.prefix(count),
        samples: batch.samples.prefix(count),
        cu_seqlens: batch.cu_seqlens.prefix(docs + 1),
    }
}

/// Parameters of [`crate::backend::Backend::headnorm_rope`] for one layer.
pub fn headnorm_rope_of(a: &Arrangement, spec: &EngineSpec, layer: usize) -> HeadNormRope {
    HeadNormRope {
        heads: spec.model.heads,
        q_norm: a.layers[layer].q_norm,
        k_norm: a.layers[layer].k_norm,
        eps: spec.model.rms_eps,
        rope: a.rope,
    }
}

impl EngineSpec {
    /// Refuses what cannot be laid out.
    fn check(&self) -> Result<()> {
        let c = &self.model;
        if self.max_rows == 0 || self.max_len == 0 || self.logit_rows == 0 {
            return Err(Error::usage("a micro-batch needs at least one row, one position and one row of logits"));
        }
        if self.saved.len() != c.layers || self.residency.len() != c.layers {
            return Err(Error::failed(format!(
                "the plan speaks of {} and {} layers, the model has {}",
                self.saved.len(),
                self.residency.len(),
                c.layers
            )));
        }
        if self.residency.iter().any(|r| *r != Residency::Dense)
            && let Some(m) = Module::ALL.iter().find(|m| m.shape(c).1 % nf4::BLOCK != 0)
        {
            return Err(Error::failed(format!(
                "{} has {} input features; NF4 needs a multiple of {}: use --no-4bit",
                m.name(),
                m.shape(c).1,
                nf4::BLOCK
            )));
        }
        if self.kv_slots > self.max_rows {
            return Err(Error::failed(format!(
                "{} sequences cannot be generated at once in passes of {} rows",
                self.kv_slots, self.max_rows
            )));
        }
        if self.head == HeadStore::Nf4 && !c.hidden.is_multiple_of(nf4::BLOCK) {
            return Err(Error::failed(format!(
                "the head has {} input features; NF4 needs a multiple of {}: leave out --head-4bit",
                c.hidden,
                nf4::BLOCK
            )));
        }
        if self.embedding == Space::Host && c.tied && self.head == HeadStore::Dense {
            return Err(Error::failed("the embedding is the head too: it cannot lie in host memory"));
        }
        if self.training && self.lora.is_none() {
            return Err(Error::failed("training needs an adapter"));
        }
        Ok(())
    }
}
