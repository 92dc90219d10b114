//! What config.json may say: used, refused by name, or said.

use super::*;

fn read(json: &Value) -> Result<ConfigFile> {
    Fields { path: Path::new("config.json"), json }.file()
}

#[test]
fn both_generations_say_the_same() {
    let config = ModelConfig::preset("qwen3-8b").expect("a preset");
    let mut five = config.to_json("bfloat16");
    five.as_object_mut().expect("an object").remove("rope_theta");
    let mut four = config.to_json("bfloat16");
    four.as_object_mut().expect("an object").remove("rope_parameters");
    assert_eq!(read(&five).expect("version 5").model, config);
    assert_eq!(read(&four).expect("version 4").model, config);
    assert_eq!(four["rms_norm_eps"].to_string(), "1e-6");
}

/// Weights in the table of published sizes: 0.44, 1.41, 3.63, 6.946, 13.2 and 31.2 billion in the linears.
#[test]
fn presets_have_the_published_sizes() {
    for (name, billions) in PRESETS[1..].iter().zip([0.44, 1.41, 3.63, 6.946, 13.2, 31.2]) {
        let c = ModelConfig::preset(name).expect("a preset");
        let linears: usize = tensors(&c).iter().filter_map(ModelTensor::linear).map(|(n, k)| n * k).sum();
        let found = linears as f64 / 1e9;
        assert!((found - billions).abs() < 0.006 * billions, "{name}: {found}");
    }
}

#[test]
fn what_irori_cannot_compute_is_refused_by_name() {
    let good = ModelConfig::preset("tiny").expect("a preset").to_json("float32");
    for (field, value) in [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("architectures", json!(["Qwen3MoeForCausalLM"])),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-3)),
        ("hidden_size", json!(1e300)),
        ("num_hidden_layers", json!("two")),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(63)),
        ("attention_bias", json!(true)),
        ("use_sliding_window", json!(true)),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        ("hidden_act", json!("gelu")),
        ("rms_norm_eps", json!(-1.0)),
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("quantization_config", json!({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "fp4"})),
    ] {
        let mut bad = good.clone();
        bad[field] = value.clone();
        let error = read(&bad).expect_err("refused").to_string();
        assert!(error.contains(field) && error.contains("config.json"), "{field} {value}: {error}");
    }
    assert!(read(&json!([1, 2])).is_err() && read(&json!({})).is_err());
}
