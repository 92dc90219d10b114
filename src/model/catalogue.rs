//! The tensors of a checkpoint: what each is called, its shape and what it is for. The names are those of Hugging Face.
//!
//! [`tensors`] is the one list that loading, writing, merging and quantising go through. A part that only some architectures
//! have (biases, head norms) is a role of its own here, listed where the configuration has it.

use super::ModelConfig;

/// The embedding's path: its name without the ending.
pub const EMBEDDING: &str = "model.embed_tokens";
/// The path of a head that is not the embedding.
pub const HEAD: &str = "lm_head";
/// What the name of a weight ends in, behind its path.
const WEIGHT: &str = ".weight";

/// A linear of a decoder layer. The order is that of files, of the dropout counter and of an adapter's flat vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Module {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Module {
    /// All of them, in order.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The name in checkpoints and in `target_modules`: "q_proj".
    pub const fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The path below the layer: "self_attn.q_proj".
    pub const fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }

    /// The path in the model: "model.layers.3.self_attn.q_proj".
    pub fn path_in(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.path())
    }

    /// The module called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    /// (out, in) features.
    pub fn shape(self, c: &ModelConfig) -> (usize, usize) {
        let (h, f, q, kv) = (c.hidden, c.intermediate, c.heads.q_width(), c.heads.kv_width());
        match self {
            Self::QProj => (q, h),
            Self::KProj | Self::VProj => (kv, h),
            Self::OProj => (h, q),
            Self::GateProj | Self::UpProj => (f, h),
            Self::DownProj => (h, f),
        }
    }
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The embedding [V, H], which is the head too where the model is tied.
    Embedding,
    /// Norm in front of a layer's attention, \[H\].
    InputNorm(usize),
    /// A layer's linear [n, k].
    Linear(usize, Module),
    /// Norm of a layer's query heads, \[D\].
    QNorm(usize),
    /// Norm of a layer's key heads, \[D\].
    KNorm(usize),
    /// Norm in front of a layer's MLP, \[H\].
    PostAttentionNorm(usize),
    /// Norm after the last layer, \[H\].
    FinalNorm,
    /// A head of its own, [V, H].
    Head,
}

/// A tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTensor {
    /// Its name, with ".weight".
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl ModelTensor {
    fn new(path: &str, shape: impl Into<Vec<usize>>, role: Role) -> Self {
        Self { name: format!("{path}{WEIGHT}"), shape: shape.into(), role }
    }

    /// Its name without the ending: "model.layers.0.self_attn.q_proj".
    pub fn path(&self) -> &str {
        self.name.strip_suffix(WEIGHT).unwrap_or(&self.name)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// (out, in) features if it is a linear of a layer.
    pub fn linear(&self) -> Option<(usize, usize)> {
        match (self.role, self.shape.as_slice()) {
            (Role::Linear(..), &[n, k]) => Some((n, k)),
            _ => None,
        }
    }
}

/// Every tensor of a model, in the order of files. A tied model has no head of its own.
pub fn tensors(c: &ModelConfig) -> Vec<ModelTensor> {
    let mut all = vec![ModelTensor::new(EMBEDDING, [c.vocab, c.hidden], Role::Embedding)];
    for i in 0..c.layers {
        let norm =
            |name: &str, width: usize, role| ModelTensor::new(&format!("model.layers.{i}.{name}"), [width], role);
        all.push(norm("input_layernorm", c.hidden, Role::InputNorm(i)));
        for module in Module::ALL {
            let (n, k) = module.shape(c);
            all.push(ModelTensor::new(&module.path_in(i), [n, k], Role::Linear(i, module)));
        }
        all.push(norm("self_attn.q_norm", c.heads.dim, Role::QNorm(i)));
        all.push(norm("self_attn.k_norm", c.heads.dim, Role::KNorm(i)));
        all.push(norm("post_attention_layernorm", c.hidden, Role::PostAttentionNorm(i)));
    }
    all.push(ModelTensor::new("model.norm", [c.hidden], Role::FinalNorm));
    if !c.tied {
        all.push(ModelTensor::new(HEAD, [c.vocab, c.hidden], Role::Head));
    }
    all
}

/// Whether the tensor called `name` is the weight of a norm.
pub fn is_norm(name: &str) -> bool {
    name.ends_with("norm.weight")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::PRESETS;
    use std::collections::HashSet;

    #[test]
    fn every_tensor_is_listed_once_and_a_norm_is_a_norm() {
        for name in PRESETS {
            let c = ModelConfig::preset(name).expect("a preset");
            let all = tensors(&c);
            let names: HashSet<_> = all.iter().map(|t| &t.name).collect();
            let roles: HashSet<_> = all.iter().map(|t| t.role).collect();
            assert_eq!((names.len(), roles.len()), (all.len(), all.len()), "{name}");
            for t in &all {
                let weight = matches!(t.role, Role::Embedding | Role::Head | Role::Linear(..));
                assert_eq!((is_norm(&t.name), t.shape.len()), (!weight, if weight { 2 } else { 1 }), "{}", t.name);
            }
        }
    }

    /// Parameters of the published checkpoints, each tensor of their files counted once.
    #[test]
    fn models_have_the_published_number_of_parameters() {
        for (name, parameters) in [
            ("qwen3-0.6b", 596_049_920),
            ("qwen3-1.7b", 1_720_574_976),
            ("qwen3-4b", 4_022_468_096),
            ("qwen3-8b", 8_190_735_360),
            ("qwen3-14b", 14_768_307_200),
            ("qwen3-32b", 32_762_123_264),
        ] {
            let c = ModelConfig::preset(name).expect("a preset");
            assert_eq!(tensors(&c).iter().map(ModelTensor::elements).sum::<usize>(), parameters, "{name}");
        }
    }

    /// Files that transformers wrote hold these tensors and no others.
    #[test]
    fn names_and_shapes_are_those_of_transformers() {
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models");
        for name in ["tied", "untied"] {
            let dir = models.join(name);
            let c = ModelConfig::read(&dir.join("config.json")).expect("a model").model;
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&dir).expect("listed") {
                let path = entry.expect("an entry").path();
                if path.extension().is_some_and(|e| e == "safetensors") {
                    let file = crate::model::safetensors::MappedFile::open(&path).expect("whole");
                    found.extend(file.entries().map(|(n, e)| (n.to_owned(), e.shape.clone())));
                }
            }
            found.sort();
            let mut listed: Vec<_> = tensors(&c).into_iter().map(|t| (t.name, t.shape)).collect();
            listed.sort();
            assert_eq!(found, listed, "{name}");
        }
    }
}
