//! Small checkpoints for tests, each tensor stored as a test says.

use super::{Synthetic, WeightSource};
use crate::{
    backend::Heads,
    files::RealDisk,
    model::{
        ModelConfig,
        catalogue::{ModelTensor, Role, tensors},
        rope::RopeScaling,
        sink::{HfOptions, HfSink, WeightSink, json_file},
    },
    quant::nf4::Nf4,
    tensor::{DType, Tensor},
};
use serde_json::{Value, json};
use std::path::PathBuf;

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    Dense(DType),
    /// As bitsandbytes does.
    Nf4,
    Missing,
}

/// Three layers of widths that are whole blocks.
pub fn config(tied: bool) -> ModelConfig {
    ModelConfig {
        hidden: 64,
        intermediate: 128,
        layers: 3,
        heads: Heads { q: 4, kv: 2, dim: 32 },
        vocab: 97,
        rope_theta: 1e6,
        rope_scaling: RopeScaling::Default,
        rms_eps: 1e-6,
        tied,
        max_positions: 512,
    }
}

/// `quantization_config` of a checkpoint that leaves out these modules.
pub fn bitsandbytes(skip: &[&str]) -> Value {
    json!({
        "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16", "llm_int8_skip_modules": skip,
    })
}

/// The values of a tensor of [`directory`], before they are stored: of no type's grid.
pub fn values(t: &ModelTensor) -> Vec<f32> {
    let made = Synthetic::new("made", config(false), 5);
    let w = made.tensor(&t.name, &t.shape).expect("made").to_f32().expect("floats");
    w.iter().enumerate().map(|(i, x)| x * (1.0 + (i % 61) as f32 * 1e-4)).collect()
}

/// A checkpoint of [`config`]: `how` says how each tensor is stored, `extra` tensors come behind, `patch` changes config.json.
/// Its path is `m` in the directory.
pub fn directory(
    tied: bool,
    how: impl Fn(&ModelTensor) -> As,
    extra: &[(&str, Tensor)],
    patch: Value,
) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("m");
    let options = HfOptions { double_quant: false, ..HfOptions::new(500) };
    let mut sink: Box<dyn WeightSink> = Box::new(HfSink::create(&RealDisk, &path, options).expect("begins"));
    let mut json = config(tied).to_json("float32");
    for (field, value) in patch.as_object().into_iter().flatten() {
        json[field] = value.clone();
    }
    json_file(sink.as_mut(), "config.json", &json).expect("written");
    for t in tensors(&config(tied)) {
        let dense = |dtype: DType| Tensor::new(dtype, &t.shape[..], dtype.encode(&values(&t)));
        match how(&t) {
            As::Dense(dtype) => sink.tensor(&t, &dense(dtype)).expect("written"),
            As::Nf4 => {
                let nf4 = Nf4::of(dense(DType::F32).floats().expect("floats"));
                sink.nf4(&t, &nf4, DType::F32).expect("written");
            }
            As::Missing => {}
        }
    }
    for (name, tensor) in extra {
        let t = ModelTensor { name: (*name).into(), shape: tensor.shape.clone(), role: Role::Head };
        sink.tensor(&t, tensor).expect("written");
    }
    sink.commit().expect("committed");
    (root, path)
}

/// Linears of layers in NF4 but for those whose path contains one of `dense`; everything dense in `dtype`.
pub fn but(dense: &[&str], dtype: DType) -> impl Fn(&ModelTensor) -> As {
    move |t| match t.role {
        Role::Linear(..) if !dense.iter().any(|part| t.name.contains(part)) => As::Nf4,
        _ => As::Dense(dtype),
    }
}
