//! Checkpoints that are quantised in part, and rotary positions: the files of `tests/goldens/make_checkpoints.py`.

use super::{assert_close, f32s, json, path};
use irori::{
    backend::{cpu::CpuBackend, cpu::CpuProperties},
    data::{MicroBatch, Sample},
    model::{
        Engine, ModelConfig,
        catalogue::{ModelTensor, tensors},
        engine::{EngineSpec, HeadStore},
        rope,
        source::{self, LinearData},
    },
    run::engine::for_device,
};
use serde_json::Value;

/// Frequencies are a few roundings of f32 apart (torch's power of f32 is not that of f64 rounded).
const RELATIVE: f32 = 5e-7;

#[test]
fn rotary_positions_are_those_of_transformers() {
    let golden = json("rope.json");
    let whole = |field: &str| golden[field].as_u64().expect(field);
    let positions = super::ids(&golden["positions"]);
    for case in golden["cases"].as_array().expect("cases") {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = ModelConfig::preset("tiny").expect("a preset").to_json("float32");
        let fields = config.as_object_mut().expect("an object");
        fields.remove("rope_theta");
        fields.remove("rope_parameters");
        fields.insert("head_dim".into(), golden["head_dim"].clone());
        fields.insert("max_position_embeddings".into(), golden["max_position_embeddings"].clone());
        for (name, value) in case["fields"].as_object().expect("fields") {
            fields.insert(name.clone(), value.clone());
        }
        let place = dir.path().join("config.json");
        std::fs::write(&place, config.to_string()).expect("written");
        let read = ModelConfig::read(&place).expect("read");
        assert!(read.remarks.is_empty(), "{:?}", read.remarks);
        let (c, what) = (read.model, case["fields"].to_string());
        let dim = whole("head_dim") as usize;
        let expected = f32s(&case["frequencies"]);
        for (found, expected) in c.rope_scaling.frequencies(dim, c.rope_theta).iter().zip(&expected) {
            assert!((found - expected).abs() <= RELATIVE * expected, "{what}: {found} and {expected}");
        }
        let attention = case["attention"].as_f64().expect("a number") as f32;
        assert_eq!(c.rope_scaling.attention(), attention, "{what}");
        // An angle of p radians has an error of p·RELATIVE.
        let table = rope::table(&c, *positions.last().expect("one") as usize + 1);
        for (&p, expected) in positions.iter().zip(case["tables"].as_array().expect("tables")) {
            let tolerance = attention * (1e-6 + p as f32 * RELATIVE);
            let at = p as usize * dim;
            assert_close(&format!("{what} at {p}"), &table[at..at + dim], &f32s(expected), tolerance);
        }
    }
}

#[test]
fn modules_are_left_out_as_transformers_leaves_them_out() {
    for case in json("checkpoints.json")["skips"].as_array().expect("cases") {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = ModelConfig::preset("tiny").expect("a preset").to_json("float32");
        config["quantization_config"] = serde_json::json!({
            "quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": [case["entry"]],
        });
        let place = dir.path().join("config.json");
        std::fs::write(&place, config.to_string()).expect("written");
        let quantization = ModelConfig::read(&place).expect("read").quantization.expect("quantised");
        let modules = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"];
        let names = [1, 2, 11].into_iter().flat_map(|i| modules.map(|m| format!("model.layers.{i}.{m}")));
        let found: Vec<String> = names.filter(|name| quantization.skips(name).expect("an answer")).collect();
        let expected: Vec<&str> =
            case["skipped"].as_array().expect("names").iter().map(|n| n.as_str().expect("a name")).collect();
        assert_eq!(found, expected, "{}", case["entry"]);
    }
}

/// Modules by name, by ending, by the module around them, by an expression; packed bytes under another type's name; a head
/// that is quantised: all as transformers and bitsandbytes wrote them, and what those compute.
#[test]
fn checkpoints_that_are_quantised_in_part_are_those_of_transformers() {
    let golden = json("checkpoints.json");
    let samples: Vec<Sample> = json("samples.json")["documents"]
        .as_array()
        .expect("documents")
        .iter()
        .map(|s| super::ids(&s["input_ids"]))
        .map(|tokens| Sample { labels: tokens.iter().map(|&t| t as i32).collect(), tokens })
        .collect();
    for name in ["part", "head"] {
        let opened = source::open(path(&format!("models/{name}-nf4")).to_str().expect("a path")).expect(name);
        let source = opened.source.as_ref();
        let matrix = |t: &ModelTensor| t.shape.len() == 2 && !t.name.contains("embed");
        let is_dense = |t: &ModelTensor| {
            matches!(source.linear(t.path(), t.shape[0], t.shape[1]).expect("read"), LinearData::Dense(_))
        };
        let dense: Vec<String> =
            tensors(source.config()).iter().filter(|t| matrix(t) && is_dense(t)).map(|t| t.path().to_owned()).collect();
        let expected = golden[name]["dense"].as_array().expect("dense");
        assert!(
            expected.iter().all(|path| dense.iter().any(|d| path == d)) && dense.len() == expected.len(),
            "{dense:?}"
        );
        assert_eq!(source.remarks().expect("read"), Vec::<String>::new());
        let model = source.config().clone();
        let asked = EngineSpec { compute: irori::backend::DType::F32, ..EngineSpec::new(model, 64, 64) };
        let (spec, _) = for_device(asked, &opened, &CpuProperties).expect("a specification");
        assert_eq!(spec.head == HeadStore::Nf4, name == "head");
        let backend = Box::new(CpuBackend::new(Some(2)).expect("threads"));
        let mut engine = Engine::new(backend, spec, source, &mut |_, _| ()).expect("loads");
        let mut batch = MicroBatch::new();
        samples.iter().enumerate().for_each(|(i, sample)| batch.push(i as u32, sample));
        let found = engine.target_logprobs(&batch).expect("log-probabilities");
        let expected: Vec<f32> =
            golden[name]["logprobs"].as_array().expect("logprobs").iter().flat_map(|d: &Value| f32s(d)).collect();
        assert_close(name, &found, &expected, 1e-4);
    }
}
