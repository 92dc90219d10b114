//! Checkpoints whose files and configuration say this or that of which weights are in 4 bits, and of what else there is.

use super::*;
use crate::model::source::{
    HfDirectory, LinearData, WeightSource,
    made::{As, bitsandbytes, but, directory},
};
use serde_json::{Value, json};
use std::path::Path;

const F32: As = As::Dense(DType::F32);

fn one() -> Tensor<'static> {
    Tensor::new(DType::F32, [1], vec![0; 4])
}

/// Paths of linears of layers that stay dense, in the order of the catalogue.
fn dense(source: &HfDirectory) -> Vec<String> {
    let all = tensors(source.config()).into_iter().filter(|t| t.linear().is_some());
    all.map(|t| t.path().to_owned()).filter(|path| source.stays_dense(path)).collect()
}

fn open(path: &Path) -> HfDirectory {
    HfDirectory::open(path).expect("opens")
}

#[test]
fn what_is_stored_dense_among_quantised_linears_stays_dense_and_is_said_where_it_is_not_listed() {
    let cases: [(&[&str], &[&str], Option<&str>); 6] = [
        (&["layers.0.mlp.up_proj"], &["lm_head", "model.layers.0.mlp.up_proj"], None),
        (&["q_proj"], &["q_proj"], None),
        (&["layers.1.self_attn", "layers.2.mlp.down"], &["model.layers.1.self_attn", "layers.2.mlp.down_proj"], None),
        (&["layers.1."], &["model.layers.1"], None),
        (&["k_proj"], &["lm_head"], Some("layers.0.self_attn.k_proj and 2 more dense although")),
        (&["layers.2.mlp.gate"], &["gate_proj"], Some("layers.0.mlp.gate_proj and 1 more in 4 bits although")),
    ];
    for (stored, skip, says) in cases {
        let patch = json!({"quantization_config": bitsandbytes(skip)});
        let (_root, path) = directory(true, but(stored, DType::F16), &[], patch);
        let source = open(&path);
        let found = dense(&source);
        assert!(source.is_quantized() && !found.is_empty());
        for t in tensors(source.config()).iter().filter(|t| t.linear().is_some()) {
            let expected = stored.iter().any(|part| t.name.contains(part));
            assert_eq!((found.contains(&t.path().to_owned()), source.is_packed(t.path())), (expected, !expected));
            let read = source.linear(t.path(), t.shape[0], t.shape[1]).expect("read");
            assert_eq!(matches!(read, LinearData::Dense(_)), expected, "{}", t.name);
        }
        let remarks = source.remarks().expect("read");
        assert_eq!(remarks.len(), usize::from(says.is_some()), "{remarks:?}");
        assert!(says.is_none_or(|says| remarks[0].contains(says)), "{remarks:?}");
    }
}

/// All of it dense, and the configuration says how it is to be quantised.
#[test]
fn a_dense_model_with_a_quantisation_is_quantised_but_for_what_that_excepts() {
    for (skip, expected) in [
        (Value::Null, 0),
        (json!(["lm_head"]), 0),
        (json!(["lm_head", "up_proj"]), 3),
        (json!(["model.layers.1.self_attn", "mlp.down_proj"]), 4 + 3),
        (json!([r"model\.layers\.[02]\.mlp"]), 6),
        (json!(["model.layers.*"]), 21),
    ] {
        let mut quantization = bitsandbytes(&[]);
        quantization["llm_int8_skip_modules"] = skip.clone();
        let patch = json!({"quantization_config": quantization});
        let (_root, path) = directory(true, |_| F32, &[], patch);
        let source = open(&path);
        assert!(!source.is_quantized() && source.compute().is_none());
        assert_eq!(dense(&source).len(), expected, "{skip}");
        let remarks = source.remarks().expect("read");
        assert!(remarks.len() == 1 && remarks[0].contains("hold them all dense"), "{remarks:?}");
        let plain = directory(true, |_| F32, &[], json!({}));
        let same = open(&plain.1).fingerprint().expect("read") == source.fingerprint().expect("read");
        assert_eq!(same, expected == 0, "{skip}");
    }
}

#[test]
fn a_head_may_be_quantised_too() {
    let with_head = |t: &ModelTensorOf| if t.role == Role::Head { As::Nf4 } else { but(&[], DType::Bf16)(t) };
    let patch = json!({"quantization_config": bitsandbytes(&["model.layers.9"])});
    let (_root, path) = directory(false, with_head, &[], patch);
    let source = open(&path);
    assert!(source.is_packed(HEAD) && matches!(source.linear(HEAD, 97, 64), Ok(LinearData::Nf4(_))));
    assert_eq!(source.remarks().expect("read"), Vec::<String>::new());
    assert_eq!(source.dense_dtype(), DType::Bf16);
}

type ModelTensorOf = crate::model::catalogue::ModelTensor;

/// One matrix of another type, whichever it is.
#[test]
fn the_type_that_holds_a_model_rounds_nothing() {
    let mixed = |name: &'static str, other: DType| {
        move |t: &ModelTensorOf| As::Dense(if t.name.contains(name) { other } else { DType::Bf16 })
    };
    for name in ["embed_tokens", "layers.2.mlp.up_proj", "layers.0.self_attn.k_proj", "lm_head"] {
        for (other, expected) in [(DType::F32, DType::F32), (DType::F16, DType::F32), (DType::Bf16, DType::Bf16)] {
            let (_root, path) = directory(false, mixed(name, other), &[], json!({}));
            assert_eq!(open(&path).dense_dtype(), expected, "{name} {other:?}");
        }
    }
    // Norms are held in f32 anyway.
    let (_root, path) = directory(false, mixed("norm", DType::F32), &[], json!({}));
    assert_eq!(open(&path).dense_dtype(), DType::Bf16);
}

#[test]
fn every_tensor_has_a_place_or_is_said() {
    let refused = [
        (
            "model.layers.3.mlp.up_proj.weight",
            "of layer 3 (counted from 0), and config.json says `num_hidden_layers` = 3",
        ),
        ("model.layers.0.self_attn.q_proj.bias", "is a bias"),
        ("model.norm.bias", "is a bias"),
        ("lm_head.bias", "is a bias"),
        ("model.layers.1.self_attn.k_proj.k_scale", "is no part of the Qwen3"),
        ("model.layers.1.mlp.up_proj.weight.quant_map", "is no part of the Qwen3"),
        ("model.layers.1.mlp.experts.0.up_proj.weight", "is no part of the Qwen3"),
        ("model.vision_tower.patch.weight", "is no part of the Qwen3"),
        ("model.layers.0.mlp.up_proj.lora_A.default.weight", "of an adapter"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight", "of an adapter"),
    ];
    for (name, says) in refused {
        let (_root, path) = directory(false, |_| F32, &[(name, one())], json!({}));
        let error = HfDirectory::open(&path).expect_err(name).to_string();
        assert!(error.contains(&format!("model.safetensors: tensor `{name}`: is ")) && error.contains(says), "{error}");
    }
    for name in ["model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"] {
        let (_root, path) = directory(false, |_| F32, &[(name, one())], json!({}));
        assert_eq!(open(&path).remarks().expect("read"), Vec::<String>::new());
    }
    let extra =
        [("v_head.summary.weight", one()), ("visual.blocks.0.weight", one()), ("visual.blocks.1.weight", one())];
    let (_root, path) = directory(false, |_| F32, &extra, json!({}));
    let remarks = open(&path).remarks().expect("read");
    assert!(remarks.len() == 1 && remarks[0].contains("`v_head.summary.weight` and 2 more: no part"), "{remarks:?}");
}

#[test]
fn a_tensor_that_is_missing_is_named_before_anything_is_read() {
    for name in ["model.layers.2.self_attn.k_norm.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"] {
        let (_root, path) = directory(false, |t| if t.name == name { As::Missing } else { F32 }, &[], json!({}));
        let error = HfDirectory::open(&path).expect_err(name).to_string();
        assert!(error.contains(&format!("`{name}`: is in none of the model's weight files")), "{error}");
        assert_eq!(error.contains("tie_word_embeddings"), name == "lm_head.weight", "{error}");
    }
}

/// Without its head the model is another class, whose names have no beginning.
#[test]
fn a_model_saved_without_its_head_is_named() {
    let bare = Tensor::new(DType::F32, [97, 64], vec![0; 97 * 64 * 4]);
    let how = |t: &ModelTensorOf| if t.role == Role::Embedding { As::Missing } else { F32 };
    let (_root, path) = directory(true, how, &[("embed_tokens.weight", bare)], json!({}));
    let error = HfDirectory::open(&path).expect_err("refused").to_string();
    assert!(error.contains("which hold `embed_tokens.weight`: of a Qwen3Model saved alone"), "{error}");
}

#[test]
fn a_tied_head_that_is_another_matrix_is_refused() {
    let t = tensors(&crate::model::source::made::config(true)).into_iter().next().expect("the embedding");
    let values = crate::model::source::made::values(&t);
    let mut other = values.clone();
    other[values.len() - 1] += 0.5;
    let head = |dtype: DType, values: &[f32]| Tensor::new(dtype, &t.shape[..], dtype.encode(values));
    let shorter = Tensor::new(DType::F32, [1, 64], DType::F32.encode(&values[..64]));
    for (stored, refused) in [
        (head(DType::F32, &values), false),
        (head(DType::F32, &other), true),
        (head(DType::Bf16, &values), true),
        (shorter, true),
    ] {
        let (_root, path) = directory(true, |_| F32, &[("lm_head.weight", stored)], json!({}));
        let remarks = open(&path).remarks().map_err(|e| e.to_string());
        let says = "tensor `lm_head.weight`: is not model.embed_tokens.weight, and config.json ties the two";
        assert_eq!(remarks.as_ref().is_err_and(|e| e.contains(says)), refused, "{remarks:?}");
        assert!(refused || remarks == Ok(Vec::new()), "{remarks:?}");
    }
    // Of another type and the same values.
    let rounded: Vec<f32> = values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
    let (_root, path) =
        directory(true, |_| As::Dense(DType::Bf16), &[("lm_head.weight", head(DType::F32, &rounded))], json!({}));
    assert_eq!(open(&path).remarks().expect("read"), Vec::<String>::new());
}

#[test]
fn an_index_that_names_a_shard_without_the_tensor_is_refused() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models/untied");
    let dir = tempfile::tempdir().expect("a directory");
    for file in std::fs::read_dir(golden).expect("listed").map(|f| f.expect("a file").path()) {
        std::fs::copy(&file, dir.path().join(file.file_name().expect("a name"))).expect("copied");
    }
    open(dir.path());
    let index = dir.path().join("model.safetensors.index.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&index).expect("read")).expect("JSON");
    let map = json["weight_map"].as_object_mut().expect("a map");
    let shards: BTreeSet<String> = map.values().map(|v| v.as_str().expect("a name").to_owned()).collect();
    let name = "model.layers.0.mlp.down_proj.weight";
    let other = shards.iter().find(|s| map[name] != s.as_str()).expect("two shards");
    map.insert(name.into(), other.as_str().into());
    std::fs::write(&index, json.to_string()).expect("written");
    let error = HfDirectory::open(dir.path()).expect_err("refused").to_string();
    assert!(error.contains(&format!("weight_map.{name}`: names {other}, which has no such tensor")), "{error}");
}

/// Nobody waits for an expression without an end.
#[test]
fn an_exception_that_takes_too_long_is_refused_by_name() {
    let endless = "((((([a-z._0-9]*)*)*)*)*)*!";
    let patch = json!({"quantization_config": bitsandbytes(&["lm_head", endless])});
    let (_root, path) = directory(true, but(&["q_proj"], DType::F32), &[], patch);
    let error = HfDirectory::open(&path).expect_err("refused").to_string();
    assert!(error.contains("config.json: field `quantization_config.llm_int8_skip_modules`: `((((([a-z"), "{error}");
}
