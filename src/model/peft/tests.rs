//! Adapters written and read again, foreign ones, and broken ones.

use super::*;
use crate::model::{Module, Targets};
use serde_json::{Value, json};

fn case() -> (LoraConfig, ModelConfig) {
    let targets = [Module::QProj, Module::VProj, Module::DownProj].into();
    let lora = LoraConfig { r: 4, alpha: 8.0, dropout: 0.05, rslora: true, targets };
    (lora, ModelConfig::preset("tiny").expect("a preset"))
}

fn saved(edit: impl FnOnce(&mut Value)) -> (tempfile::TempDir, Vec<f32>) {
    let (lora, model) = case();
    let flat: Vec<f32> = initial(&lora, &model, 3).iter().enumerate().map(|(i, a)| a + i as f32 * 1e-6).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let mut config: Value = serde_json::from_slice(&config_file(&lora, "base")).expect("JSON");
    edit(&mut config);
    std::fs::write(dir.path().join(CONFIG), config.to_string()).expect("written");
    std::fs::write(dir.path().join(WEIGHTS), weights_file(&lora, &model, &flat).expect("bytes")).expect("written");
    (dir, flat)
}

#[test]
fn what_is_saved_is_loaded() {
    let (lora, model) = case();
    for targets in [json!(["q_proj", "v_proj", "down_proj"]), json!(".*(q|v|down)_proj")] {
        let (dir, flat) = saved(|c| c["target_modules"] = targets);
        let adapter = load(dir.path(), &model).expect("loads");
        assert_eq!(adapter, Adapter { lora: lora.clone(), flat, base: Some("base".into()) });
        assert_eq!(read_config(dir.path(), model.layers).expect("reads"), lora);
    }
    let flat = vec![0.5; lora.parameters(&model)];
    assert_eq!(weights_file(&lora, &model, &flat).expect("a"), weights_file(&lora, &model, &flat).expect("b"));
    assert!(weights_file(&lora, &model, &flat[1..]).is_err());
}

#[test]
fn a_fresh_adapter_changes_nothing_and_depends_on_its_seed() {
    let (lora, model) = case();
    let flat = initial(&lora, &model, 1);
    assert_eq!(flat, initial(&lora, &model, 1));
    assert_ne!(flat, initial(&lora, &model, 2));
    for slot in lora.slots(&model) {
        let (a, bound) = (&flat[slot.a_range()], 1.0 / (slot.k as f32).sqrt());
        assert!(flat[slot.b_range()].iter().all(|&b| b == 0.0));
        assert!(a.iter().all(|x| x.abs() <= bound));
        // Uniform in ±bound has variance bound²/3; of n values it is within 5 standard errors √(4/(5n)) of that.
        let variance = a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32 / (bound * bound / 3.0);
        assert!((variance - 1.0).abs() < 5.0 * (0.8 / a.len() as f32).sqrt(), "{variance}");
    }
}

#[test]
fn what_irori_cannot_honour_is_refused_by_name() {
    let (_, model) = case();
    for (field, value) in [
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({"q_proj": 8})),
        ("alpha_pattern", json!({"q_proj": 9})),
        ("bias", json!("all")),
        ("layers_to_transform", json!([2])),
        ("layers_to_transform", json!([-1])),
        ("layers_to_transform", json!("0")),
        ("layers_pattern", json!("blocks")),
        ("exclude_modules", json!(7)),
        ("exclude_modules", json!("(")),
        ("exclude_modules", json!([0])),
        ("init_lora_weights", json!("pissa")),
        ("some_future_field", json!(1)),
        ("arrow_config", json!({"top_k": 2})),
        ("peft_type", json!("IA3")),
        ("r", json!(0)),
        ("r", json!(257)),
        ("r", json!("sixteen")),
        ("lora_dropout", json!(1.0)),
        ("lora_alpha", json!([1])),
        ("target_modules", json!(["lm_head"])),
        ("target_modules", json!(["o_proj"])),
        ("target_modules", json!(7)),
    ] {
        let (dir, _) = saved(|c| c[field] = value.clone());
        let error = load(dir.path(), &model).map(|_| format!("{field} {value}")).expect_err("refused").to_string();
        assert!(error.contains(&format!("`{field}`")) && error.contains(CONFIG), "{field} {value}: {error}");
    }
}

#[test]
fn broken_files_and_other_models_are_errors_that_name_the_tensor() {
    let (_, model) = case();
    let (dir, _) = saved(|_| ());
    let more = ModelConfig { layers: 3, ..model.clone() };
    let error = load(dir.path(), &more).expect_err("a layer is missing").to_string();
    assert!(error.contains("layers.2.self_attn.q_proj.lora_A"), "{error}");
    let fewer = ModelConfig { layers: 1, ..model.clone() };
    let error = load(dir.path(), &fewer).expect_err("a layer too many").to_string();
    assert!(error.contains("layers.1."), "{error}");
    let wider = ModelConfig { hidden: 256, ..model.clone() };
    let error = load(dir.path(), &wider).expect_err("another width").to_string();
    assert!(error.contains("[4, 128]") && error.contains("[4, 256]"), "{error}");
    let path = dir.path().join(WEIGHTS);
    let whole = std::fs::read(&path).expect("bytes");
    for len in (0..whole.len()).step_by(977) {
        std::fs::write(&path, &whole[..len]).expect("written");
        assert!(load(dir.path(), &model).expect_err("cut").to_string().contains(WEIGHTS));
    }
    let (dir, _) = saved(|c| *c = json!([1]));
    assert!(load(dir.path(), &model).is_err());
}

/// Adapters that PEFT itself wrote.
#[test]
fn adapters_of_peft_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    for name in ["tied", "untied"] {
        let model = ModelConfig::read(&root.join("models").join(name).join("config.json")).expect("a model").model;
        let adapter = load(&root.join("adapters").join(name), &model).expect("an adapter");
        assert_eq!((adapter.lora.r, adapter.flat.len()), (8, adapter.lora.parameters(&model)));
        assert!(adapter.flat.iter().any(|&x| x != 0.0));
    }
}

/// Adapters on some layers only, as written here and as `target_modules`, `exclude_modules` and `layers_to_transform` of
/// PEFT say them.
#[test]
fn adapters_on_some_layers_are_read_as_peft_means_them() {
    let (lora, model) = case();
    assert_eq!(model.layers, 2);
    let (up, q) = (Module::UpProj, Module::QProj);
    let config = |targets: Value, exclude: Value, layers: Value| {
        move |c: &mut Value| {
            c["target_modules"] = targets;
            c["exclude_modules"] = exclude;
            c["layers_to_transform"] = layers;
        }
    };
    let null = Value::Null;
    let path = "model.layers.1.mlp.up_proj";
    for (places, configs) in [
        (
            vec![(1, up)],
            vec![
                config(json!(["up_proj"]), null.clone(), json!([1])),
                config(json!(["mlp.up_proj"]), null.clone(), json!(1)),
                config(json!([path]), null.clone(), null.clone()),
                config(json!(r".*\.1\.mlp\.(gate|up)_proj"), json!(["gate_proj"]), null.clone()),
                config(json!(["up_proj"]), json!(["layers.0.mlp.up_proj"]), json!([])),
                config(json!(["up_proj"]), json!(r"model\.layers\.0\..*"), null.clone()),
                config(json!("all-linear"), json!(r".*(q|k|v|o|gate|down)_proj"), json!([1])),
                config(json!(["up_proj", "down_proj", "k_proj"]), json!(["down_proj", "self_attn.k_proj"]), json!([1])),
            ],
        ),
        (
            vec![(0, q), (1, q), (1, up)],
            vec![
                config(json!(["q_proj", path]), null.clone(), null.clone()),
                config(json!(["q_proj", "up_proj"]), json!(["layers.0.mlp.up_proj"]), json!([0, 1])),
            ],
        ),
    ] {
        let lora = LoraConfig { targets: Targets::at(places, model.layers), ..lora.clone() };
        let flat: Vec<f32> = (0..lora.parameters(&model)).map(|i| i as f32).collect();
        let dir = tempfile::tempdir().expect("a directory");
        let write = |config: &Value| std::fs::write(dir.path().join(CONFIG), config.to_string()).expect("written");
        std::fs::write(dir.path().join(WEIGHTS), weights_file(&lora, &model, &flat).expect("bytes")).expect("written");
        let own: Value = serde_json::from_slice(&config_file(&lora, "base")).expect("JSON");
        write(&own);
        assert_eq!(
            load(dir.path(), &model).expect("ours"),
            Adapter { lora: lora.clone(), flat: flat.clone(), base: Some("base".into()) }
        );
        for edit in configs {
            let mut config = own.clone();
            edit(&mut config);
            write(&config);
            let found = load(dir.path(), &model).unwrap_or_else(|e| panic!("{config}: {e}"));
            assert_eq!((found.lora, found.flat), (lora.clone(), flat.clone()), "{config}");
        }
        // What the configuration names and the file lacks, and the other way round, is an error that names the tensor.
        for (targets, layers, named) in [
            (json!("all-linear"), null.clone(), "layers.0.self_attn."),
            (json!(["up_proj", "q_proj"]), json!([0]), "layers."),
        ] {
            let mut config = own.clone();
            self::config_of(&mut config, targets, layers);
            write(&config);
            let error = load(dir.path(), &model).expect_err("another set").to_string();
            assert!(error.contains(named) || error.contains("`target_modules`"), "{error}");
        }
    }
}

fn config_of(config: &mut Value, targets: Value, layers: Value) {
    config["target_modules"] = targets;
    config["layers_to_transform"] = layers;
}

#[test]
fn ranks_and_scales_that_are_the_same_everywhere_are_read() {
    let (lora, model) = case();
    let (dir, flat) = saved(|c| {
        c["rank_pattern"] = json!({"q_proj": 4, "layers.0.mlp.down_proj": 4});
        c["alpha_pattern"] = json!({"v_proj": 8.0});
        c["layers_to_transform"] = json!([0, 1]);
        c["layers_pattern"] = json!(["layers"]);
    });
    assert_eq!(load(dir.path(), &model).expect("loads"), Adapter { lora, flat, base: Some("base".into()) });
}

/// Rewrites the names of a saved adapter's tensors.
fn renamed(change: impl Fn(&str, usize) -> String) -> (tempfile::TempDir, Vec<f32>) {
    let (dir, flat) = saved(|_| ());
    let path = dir.path().join(WEIGHTS);
    let bytes = {
        let file = MappedFile::open(&path).expect("opens");
        let tensors: Vec<(String, Tensor)> = file
            .entries()
            .enumerate()
            .map(|(i, (name, e))| (change(name, i), Tensor::new(DType::F32, &e.shape[..], file.bytes(e).to_vec())))
            .collect();
        write::file(Header::of_torch(), tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).expect("bytes")
    };
    std::fs::write(&path, bytes).expect("written");
    (dir, flat)
}

/// State dicts that were written without PEFT: with the adapter's name, without the prefix, with that of a wrapper.
#[test]
fn names_that_mean_one_adapter_are_read_as_peft_names_them() {
    let (_, model) = case();
    let prefix = "base_model.model.model.";
    type Change<'a> = (&'a str, &'a dyn Fn(&str) -> String);
    let changes: [Change; 7] = [
        ("default", &|n| n.replace(".weight", ".default.weight")),
        ("any name", &|n| n.replace(".weight", ".law-2.weight")),
        ("the model's own", &|n| n.replace(prefix, "model.")),
        ("none", &|n| n.replace(prefix, "")),
        ("one too few", &|n| n.replace(prefix, "base_model.model.")),
        ("DDP, compiled", &|n| format!("module._orig_mod.{n}")),
        ("wrapped layers", &|n| {
            n.replace(".self_attn", "._checkpoint_wrapped_module.self_attn").replace(".weight", ".a.weight")
        }),
    ];
    for (what, change) in changes {
        let (dir, flat) = renamed(|name, _| change(name));
        assert_eq!(load(dir.path(), &model).expect(what).flat, flat, "{what}");
    }
}

#[test]
fn names_that_could_mean_two_adapters_are_refused() {
    let (_, model) = case();
    type Change<'a> = (&'a str, &'a dyn Fn(&str, usize) -> String);
    let changes: [Change; 5] = [
        ("is of another adapter than", &|n, i| n.replace(".weight", if i == 3 { ".b.weight" } else { ".a.weight" })),
        ("is of another adapter than", &|n, i| if i == 3 { n.replace(".weight", ".default.weight") } else { n.into() }),
        ("has another prefix than", &|n, i| if i == 3 { n.replace("base_model.model.", "") } else { n.into() }),
        ("is missing", &|n, i| if i == 3 { format!("{n}.magnitude") } else { n.into() }),
        ("is missing", &|n, _| n.replace("model.model", "model.language_model")),
    ];
    for (says, change) in changes {
        let (dir, _) = renamed(change);
        let error = load(dir.path(), &model).expect_err(says).to_string();
        assert!(error.contains(WEIGHTS) && error.contains(says), "{says}: {error}");
    }
}

#[test]
fn an_element_that_is_no_number_is_named() {
    let (_, model) = case();
    let (dir, _) = saved(|_| ());
    let path = dir.path().join(WEIGHTS);
    let mut bytes = std::fs::read(&path).expect("read");
    let end = bytes.len();
    bytes[end - 8..end - 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&path, bytes).expect("written");
    let error = load(dir.path(), &model).expect_err("infinite").to_string();
    assert!(error.contains("v_proj.lora_B.weight`: element ") && error.contains("is inf, not a finite"), "{error}");
}

/// A plan needs to know what an adapter is, and reads none of its values.
#[test]
fn an_adapter_is_looked_at_first_and_read_later() {
    let (lora, model) = case();
    let (dir, flat) = saved(|_| ());
    assert_eq!(shape(dir.path(), &model).expect("a shape"), lora);
    let other_dropout = LoraConfig { dropout: 0.5, ..lora.clone() };
    assert_eq!(values(dir.path(), &model, &other_dropout).expect("values"), flat);
    let wider = ModelConfig { hidden: 256, ..model.clone() };
    assert!(shape(dir.path(), &wider).expect_err("another width").to_string().contains("[4, 256]"));
    // Overwritten meanwhile by one of the same tensors that is scaled otherwise.
    let other = LoraConfig { alpha: 16.0, ..lora.clone() };
    let error = values(dir.path(), &model, &other).expect_err("another").to_string();
    assert!(error.contains(CONFIG) && error.contains("changed"), "{error}");
    let path = dir.path().join(WEIGHTS);
    let mut bytes = std::fs::read(&path).expect("read");
    let end = bytes.len();
    bytes[end - 8..end - 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).expect("written");
    assert_eq!(shape(dir.path(), &model).expect("a shape"), lora);
    assert!(values(dir.path(), &model, &lora).expect_err("no number").to_string().contains("not a finite"));
}
