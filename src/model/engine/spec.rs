//! What an engine is laid out for, and what cannot be.

use crate::{
    Error, Result,
    backend::{DType, Demands, Space},
    error::Setting,
    model::{LoraConfig, ModelConfig, Module, rope::RopeScaling},
    quant::nf4,
};

/// What is kept of a layer's activations for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saved {
    /// x, qkv, o, log-sum-exp, x2, gate/up: nothing large is recomputed.
    All,
    /// The same without gate/up, whose product is computed again.
    NoGateUp,
    /// x only: the layer's forward pass runs again, without down_proj.
    InputOnly,
}

/// How the base weights of a layer's linears are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    /// Packed NF4; dequantised at each use.
    Nf4,
    /// The dequantised values, unpacked once at load. Same numbers as `Nf4`.
    Unpacked,
    /// Never quantised.
    Dense,
}

/// How the head is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadStore {
    /// As the source has it; the embedding itself where tied.
    #[default]
    Dense,
    /// Quantised to NF4, which changes results. Where tied it is a copy, and the embedding stays as it is.
    Nf4,
}

/// What an engine is laid out for. [`super::arrange()`] turns it into bytes without allocating.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSpec {
    /// The model.
    pub model: ModelConfig,
    /// The adapter, if any.
    pub lora: Option<LoraConfig>,
    /// Gradients, moments and a backward pass.
    pub training: bool,
    /// Most rows of a micro-batch.
    pub max_rows: usize,
    /// Longest document.
    pub max_len: usize,
    /// Rows of a logits chunk.
    pub logit_rows: usize,
    /// Per layer; used in training only.
    pub saved: Vec<Saved>,
    /// Per layer.
    pub residency: Vec<Residency>,
    /// Per layer: modules that are never quantised, whatever the layer's residency, because the checkpoint has them so.
    pub dense_modules: Vec<Vec<Module>>,
    /// Type that a quantised weight is rounded to (Bf16 or F32).
    pub compute: DType,
    /// Storage of dense linears, embedding and head: Bf16 or F32.
    pub dense: DType,
    /// How the head is held.
    pub head: HeadStore,
    /// Where the embedding lies; on the device where it is the head too. Same numbers.
    pub embedding: Space,
    /// Sequences generated at once (0: no KV cache).
    pub kv_slots: usize,
    /// Most positions of a generated sequence.
    pub kv_capacity: usize,
}

impl EngineSpec {
    /// The base of every specification: `model` for inference on micro-batches of `max_rows` rows with documents of
    /// `max_len`, its linears in NF4 rounded to bf16, all on the device, no adapter, no generation.
    pub fn new(model: ModelConfig, max_rows: usize, max_len: usize) -> Self {
        Self {
            saved: vec![Saved::All; model.layers],
            residency: vec![Residency::Nf4; model.layers],
            dense_modules: vec![Vec::new(); model.layers],
            model,
            lora: None,
            training: false,
            max_rows,
            max_len,
            logit_rows: 128,
            compute: DType::Bf16,
            dense: DType::Bf16,
            head: HeadStore::Dense,
            embedding: Space::Device,
            kv_slots: 0,
            kv_capacity: 0,
        }
    }

    /// Whether the linears are quantised, packed or not, but for [`EngineSpec::dense_modules`].
    pub fn four_bit(&self) -> bool {
        !self.residency.contains(&Residency::Dense)
    }

    /// How the linear `module` of `layer` is to be held.
    pub fn residency_of(&self, layer: usize, module: Module) -> Residency {
        if self.dense_modules[layer].contains(&module) { Residency::Dense } else { self.residency[layer] }
    }

    /// Whether any layer quantises `module`.
    fn quantizes(&self, module: Module) -> bool {
        (0..self.model.layers).any(|layer| self.residency_of(layer, module) != Residency::Dense)
    }

    /// Rows of a logits chunk that can occur.
    pub(super) fn chunk_rows(&self) -> usize {
        self.logit_rows.min(self.max_rows)
    }

    /// What it asks of a device beside memory.
    pub(super) fn demands(&self) -> Demands {
        let (c, quantized_head) = (&self.model, self.head == HeadStore::Nf4);
        Demands {
            heads: c.heads,
            hidden: c.hidden,
            intermediate: c.intermediate,
            vocab: c.vocab,
            lora_rank: self.lora.as_ref().map_or(0, |lora| lora.r),
            quantized: quantized_head || Module::ALL.into_iter().any(|m| self.quantizes(m)),
            quantized_head,
            compute: self.compute,
            dense: self.dense,
            kv_slots: self.kv_slots,
        }
    }

    /// Refuses what cannot be laid out.
    pub(super) fn check(&self) -> Result<()> {
        let c = &self.model;
        if self.max_rows == 0 || self.max_len == 0 || self.logit_rows == 0 {
            return Err(Error::internal("a micro-batch needs at least one row, one position and one row of logits"));
        }
        let planned = [self.saved.len(), self.residency.len(), self.dense_modules.len()];
        if planned.iter().any(|&layers| layers != c.layers) {
            return Err(Error::internal(format!("a plan of {planned:?} layers for a model of {}", c.layers)));
        }
        if self.kv_slots > self.max_rows {
            let (slots, rows) = (self.kv_slots, self.max_rows);
            let message = format!("{slots} sequences cannot be generated at once in passes of {rows} rows");
            return Err(Error::setting(Setting::new("batch-size", slots), message));
        }
        if self.embedding == Space::Host && c.tied && self.head == HeadStore::Dense {
            return Err(Error::internal("the embedding is the head too: it cannot lie in host memory"));
        }
        if self.training && self.lora.is_none() {
            return Err(Error::internal("training needs an adapter"));
        }
        let longest = self.max_len.max(if self.kv_slots > 0 { self.kv_capacity } else { 0 });
        if matches!(c.rope_scaling, RopeScaling::Dynamic { .. }) && longest > c.max_positions {
            let message = format!(
                "beyond {} tokens (`max_position_embeddings`) the rotary positions of this model change with the length of \
                 each text (`rope_type` dynamic), which irori does not compute",
                c.max_positions
            );
            let advice = Setting::new("max-seq-length", c.max_positions);
            return Err(Error::setting(Setting::new("max-seq-length", longest), message).advise([advice]));
        }
        self.check_nf4()
    }

    /// Refuses NF4 for weights that are not whole blocks wide.
    fn check_nf4(&self) -> Result<()> {
        let c = &self.model;
        let refused = |name: &str, k: usize, setting: Setting, other: Setting| {
            let message = format!("{name} has {k} input features; NF4 needs a multiple of {}", nf4::BLOCK);
            Err(Error::setting(setting, message).advise([other]))
        };
        let odd = |k: usize| !k.is_multiple_of(nf4::BLOCK);
        if let Some(m) = Module::ALL.into_iter().find(|&m| odd(m.shape(c).1) && self.quantizes(m)) {
            let (setting, other) = (Setting::new("use-4bit", true), Setting::new("use-4bit", false));
            return refused(m.name(), m.shape(c).1, setting, other);
        }
        if self.head == HeadStore::Nf4 && odd(c.hidden) {
            let (setting, other) = (Setting::new("head-4bit", true), Setting::new("head-4bit", false));
            return refused("the head", c.hidden, setting, other);
        }
        Ok(())
    }
}
