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

/// A small model's config.json with these fields in it; null takes one out.
fn with(fields: Value) -> Value {
    let mut json = ModelConfig::preset("tiny").expect("a preset").to_json("float32");
    let object = json.as_object_mut().expect("an object");
    for (field, value) in fields.as_object().expect("fields") {
        match value {
            Value::String(out) if out == "-" => drop(object.remove(field)),
            value => drop(object.insert(field.clone(), value.clone())),
        }
    }
    json
}

#[test]
fn what_irori_cannot_compute_is_refused_by_name() {
    let yarn = |more: Value| {
        let mut object = json!({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6});
        object.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
        json!({"rope_parameters": object})
    };
    let bnb = |more: Value| {
        let mut object = json!({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"});
        object.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
        json!({"quantization_config": object})
    };
    for (named, fields) in [
        ("architectures", json!({"architectures": ["LlamaForCausalLM"]})),
        ("architectures", json!({"architectures": ["Qwen3MoeForCausalLM"]})),
        ("hidden_size", json!({"hidden_size": 0})),
        ("hidden_size", json!({"hidden_size": -3})),
        ("hidden_size", json!({"hidden_size": 1e300})),
        ("num_hidden_layers", json!({"num_hidden_layers": "two"})),
        ("num_key_value_heads", json!({"num_key_value_heads": 3})),
        ("head_dim", json!({"head_dim": 63})),
        ("head_dim", json!({"head_dim": null})),
        ("attention_bias", json!({"attention_bias": true})),
        ("mlp_bias", json!({"mlp_bias": true})),
        ("hidden_act", json!({"hidden_act": "gelu"})),
        ("rms_norm_eps", json!({"rms_norm_eps": -1.0})),
        ("attn_logit_softcapping", json!({"attn_logit_softcapping": 50.0})),
        ("final_logit_softcapping", json!({"final_logit_softcapping": 30.0})),
        ("num_experts", json!({"num_experts": 8})),
        ("use_sliding_window", json!({"use_sliding_window": true, "sliding_window": 512, "max_window_layers": 1})),
        ("use_sliding_window", json!({"use_sliding_window": true, "sliding_window": "-", "max_window_layers": 0})),
        ("layer_types.1", json!({"layer_types": ["full_attention", "sliding_attention"]})),
        ("layer_types", json!({"layer_types": ["full_attention"]})),
        ("rope_scaling.factor", json!({"rope_scaling": {"rope_type": "dynamic"}})),
        ("rope_scaling", json!({"rope_scaling": {"type": "longrope", "short_factor": [], "long_factor": []}})),
        ("rope_parameters", json!({"rope_parameters": {"rope_type": "proportional"}})),
        ("rope_parameters", json!({"rope_parameters": 3})),
        ("rope_parameters.rope_type", json!({"rope_parameters": {"rope_type": 3}})),
        ("rope_parameters.full_attention", json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}})),
        ("rope_parameters.rope_theta", json!({"rope_parameters": {"rope_theta": 0}})),
        ("rope_scaling.factor", json!({"rope_scaling": {"type": "linear"}})),
        ("rope_scaling.factor", json!({"rope_scaling": {"type": "linear", "factor": "2"}})),
        ("rope_scaling.low_freq_factor", json!({"rope_scaling": {"type": "llama3", "factor": 2.0}})),
        ("rope_parameters.truncate", yarn(json!({"truncate": 1}))),
        ("rope_parameters.attention_factor", yarn(json!({"attention_factor": -1.0}))),
        ("rope_parameters", yarn(json!({"rope_theta": 1.0}))),
        ("rope_parameters.original_max_position_embeddings", yarn(json!({"original_max_position_embeddings": 0.5}))),
        ("rope_parameters.partial_rotary_factor", yarn(json!({"partial_rotary_factor": 0.5}))),
        ("partial_rotary_factor", json!({"partial_rotary_factor": 0.25})),
        ("quantization_config", json!({"quantization_config": "nf4"})),
        ("quantization_config.quant_method", json!({"quantization_config": {"quant_method": "gptq"}})),
        ("quantization_config.quant_method", json!({"quantization_config": {}})),
        ("quantization_config.bnb_4bit_quant_type", bnb(json!({"bnb_4bit_quant_type": "fp4"}))),
        ("quantization_config.bnb_4bit_quant_type", bnb(json!({"bnb_4bit_quant_type": null}))),
        ("quantization_config.load_in_8bit", bnb(json!({"load_in_8bit": true}))),
        ("quantization_config._load_in_8bit", bnb(json!({"_load_in_8bit": 1}))),
        ("quantization_config.llm_int8_skip_modules", bnb(json!({"llm_int8_skip_modules": "lm_head"}))),
        ("quantization_config.llm_int8_skip_modules", bnb(json!({"llm_int8_skip_modules": [1]}))),
        ("quantization_config.llm_int8_skip_modules", bnb(json!({"llm_int8_skip_modules": ["mlp.(up_proj"]}))),
    ] {
        let error = read(&with(fields.clone())).expect_err(named).to_string();
        assert!(error.contains(&format!("config.json: field `{named}`: ")), "{fields}: {error}");
    }
    assert!(read(&json!([1, 2])).is_err() && read(&json!({})).is_err());
}

/// What a Qwen3Config of transformers has where the file says nothing.
#[test]
fn what_is_not_said_is_as_in_transformers() {
    let absent = json!({
        "head_dim": "-", "max_position_embeddings": "-", "rms_norm_eps": "-", "rope_parameters": "-", "rope_theta": "-",
        "tie_word_embeddings": "-", "num_key_value_heads": "-", "num_attention_heads": 64, "hidden_act": "-",
    });
    let c = read(&with(absent)).expect("read").model;
    assert_eq!((c.heads.dim, c.heads.kv, c.max_positions, c.tied), (128, 32, 32_768, false));
    assert_eq!((c.rope_theta, c.rope_scaling, c.rms_eps), (10_000.0, RopeScaling::Default, 1e-6));
    let kv = |value: Value| read(&with(json!({"num_key_value_heads": value}))).expect("read").model.heads.kv;
    assert_eq!((kv(Value::Null), kv(json!(1))), (4, 1));
    // Windows that no layer has.
    for fields in [
        json!({"use_sliding_window": true, "sliding_window": null}),
        json!({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 2}),
        json!({"use_sliding_window": true, "sliding_window": 64, "layer_types": ["full_attention", "attention"]}),
        json!({"hidden_act": "swish", "attn_logit_softcapping": null, "num_experts": 0, "pruned_heads": null}),
    ] {
        assert!(read(&with(fields.clone())).expect("read").remarks.is_empty(), "{fields}");
    }
}

#[test]
fn fields_that_are_not_used_are_said() {
    for (field, value) in [
        ("logit_scale", json!(2.0)),
        ("vision_config", json!({"depth": 2})),
        ("attention_dropout", json!(0.1)),
        ("auto_map", json!({"AutoModelForCausalLM": "modeling.Other"})),
        ("rope_parameters.factor", json!({"rope_type": "default", "rope_theta": 1e6, "factor": 4.0})),
        ("rope_parameters.mrope_section", json!({"rope_theta": 1e6, "mrope_section": [1, 2]})),
        (
            "quantization_config.llm_int4_new",
            json!({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4", "llm_int4_new": true}),
        ),
    ] {
        let top = field.split('.').next().expect("a field");
        let remarks = read(&with(json!({top: value}))).expect(field).remarks;
        assert!(remarks.len() == 1 && remarks[0].starts_with(&format!("config.json: field `{field}` ")), "{remarks:?}");
    }
    for (field, value) in [
        ("eos_token_id", json!(3)),
        ("unsloth_fixed", json!(true)),
        ("attention_dropout", json!(0.0)),
        ("torch_dtype", json!("float16")),
        ("made_by_nobody", json!(false)),
    ] {
        assert!(read(&with(json!({field: value}))).expect(field).remarks.is_empty(), "{field}");
    }
}

/// A scaled model is another one, and what is written of it reads as it.
#[test]
fn scaled_positions_are_part_of_the_model() {
    let plain = ModelConfig::preset("tiny").expect("a preset");
    for scaling in [
        RopeScaling::Linear { factor: 2.0 },
        RopeScaling::Dynamic { factor: 2.0 },
        RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 },
        RopeScaling::Yarn {
            factor: 4.0,
            original: 1024.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention: 1.138,
        },
    ] {
        let model = ModelConfig { rope_scaling: scaling, ..plain.clone() };
        assert_eq!(read(&model.to_json("float32")).expect("read").model, model);
        assert!(model.identity().contains(r#""rope_type":""#) && !plain.identity().contains("rope_type"));
    }
}
