//! Models written anew: what becomes of each tensor.

use super::*;
use crate::{
    digest,
    files::RealDisk,
    model::{
        Module, peft,
        sink::{HfOptions, HfSink},
        source::{
            HfDirectory,
            made::{self, As, bitsandbytes, but, directory},
            open,
        },
    },
};
use half::bf16;
use serde_json::json;
use std::path::Path;

/// SHA-256 of the weights that `work` writes.
fn written(options: HfOptions, work: impl Fn(&mut dyn WeightSink) -> Result<()>) -> String {
    let root = tempfile::tempdir().expect("a directory");
    let place = root.path().join("model");
    let mut sink: Box<dyn WeightSink> = Box::new(HfSink::create(&RealDisk, &place, options).expect("begins"));
    work(sink.as_mut()).expect("written");
    sink.commit().expect("committed");
    digest::of_file(&place.join("model.safetensors")).expect("read")
}

/// Digests of what `synth`, `quantize` and `merge` wrote when they were first released.
#[test]
fn the_same_command_writes_the_same_bytes() {
    let tiny = |seed| open(&format!("synthetic:tiny@{seed}")).expect("opens").source;
    let source = tiny(7);
    let count = tensors(source.config()).len();
    assert_eq!(
        written(HfOptions::new(count), |sink| copy(source.as_ref(), DType::Bf16, sink)),
        "f9926b0b613a2925111b256740b589668e8bf61f0b3d40e20081b1412a647923"
    );
    for (seed, double_quant, sha256) in [
        (7, true, "faaad5e4a12d21ea654a5bafe9f57a60981948ed156ac0b36fb26a0f553f006a"),
        (3, false, "cf357f9ac2e227e7e9a962365d7d8e960c74f61dcb542fa65bd1d8b8d2239d90"),
    ] {
        let options = HfOptions { double_quant, ..HfOptions::new(6 * count) };
        assert_eq!(written(options, |sink| quantize(tiny(seed).as_ref(), sink)), sha256);
    }
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    for (name, nf4, sha256) in [
        ("untied", false, "153dbfebf45c90d70db21909aec510d8636126fbc7ce3d73a78ce3396e5022b6"),
        ("tied", true, "8759f4387bb8f863022f0cf5347b4446fbe4e5936047f82bd0f1b502ff6b374f"),
    ] {
        let source = open(goldens.join("models").join(name).to_str().expect("a path")).expect("opens").source;
        let adapter = peft::load(&goldens.join("adapters").join(name), source.config()).expect("an adapter");
        let options = HfOptions::new(tensors(source.config()).len());
        let beside = Beside { nf4, nf4_head: false };
        assert_eq!(written(options, |sink| merge(source.as_ref(), &adapter, beside, sink)), sha256, "{name}");
    }
}

/// A model written by `work`, opened.
fn opened(
    work: impl Fn(&mut dyn WeightSink) -> Result<()>,
    config: &serde_json::Value,
) -> (tempfile::TempDir, HfDirectory) {
    let root = tempfile::tempdir().expect("a directory");
    let place = root.path().join("model");
    let options = HfOptions { double_quant: false, ..HfOptions::new(500) };
    let mut sink: Box<dyn WeightSink> = Box::new(HfSink::create(&RealDisk, &place, options).expect("begins"));
    sink.file("config.json", config.to_string().as_bytes()).expect("written");
    work(sink.as_mut()).expect("written");
    sink.commit().expect("committed");
    let source = HfDirectory::open(&place).expect("opens");
    (root, source)
}

/// What a linear is in use, of each kind of checkpoint: as it is stored where it stays dense, else through NF4.
fn in_use(t: &ModelTensor, dense: bool) -> Vec<f32> {
    let values = made::values(t);
    if dense { values } else { Nf4::of(Tensor::vector(&values).floats().expect("floats")).to_bf16_values() }
}

/// Merged into a checkpoint that is quantised in part, and into a dense one that excepts modules from being quantised.
#[test]
fn merging_takes_each_linear_as_it_is_in_use() {
    let excepted = ["layers.0.mlp.up_proj", "layers.1.self_attn", "layers.2.mlp.gate_proj"];
    let skip: Vec<String> = excepted.iter().map(|e| format!("model.{e}")).collect();
    let patch = json!({"quantization_config": bitsandbytes(&skip.iter().map(String::as_str).collect::<Vec<_>>())});
    let lora =
        crate::model::LoraConfig { r: 1, alpha: 1.0, dropout: 0.0, rslora: false, targets: [Module::UpProj].into() };
    let flat = vec![0.5; lora.parameters(&made::config(true))];
    let adapter = peft::Adapter { lora, flat, base: None };
    let plain = made::config(true).to_json("float32");
    for stored_quantized in [true, false] {
        let how =
            |t: &ModelTensor| if stored_quantized { but(&excepted, DType::F32)(t) } else { As::Dense(DType::F32) };
        let (_root, path) = directory(true, how, &[], patch.clone());
        let source = HfDirectory::open(&path).expect("opens");
        for nf4 in [true, false] {
            let beside = Beside { nf4, nf4_head: false };
            let (_merged_in, merged) = opened(|sink| merge(&source, &adapter, beside, sink), &plain);
            for t in tensors(source.config()).iter().filter(|t| t.linear().is_some()) {
                let dense = excepted.iter().any(|part| t.name.contains(part));
                let quantized = !dense && (stored_quantized || nf4);
                let read = merged.tensor(&t.name, &t.shape).expect("read");
                // What was packed has no other type than the one that it is used in.
                let bf16_only = !dense && stored_quantized;
                assert_eq!(read.dtype, if bf16_only { DType::Bf16 } else { DType::F32 }, "{}", t.name);
                let up = matches!(t.role, Role::Linear(_, Module::UpProj));
                let rounded = |x: f32| if bf16_only { bf16::from_f32(x).to_f32() } else { x };
                let added = |x: &f32| rounded(x + if up { 0.25 } else { 0.0 });
                let expected: Vec<f32> = in_use(t, !quantized).iter().map(added).collect();
                assert_eq!(read.to_f32().expect("floats"), expected, "{} nf4 {nf4} {stored_quantized}", t.name);
            }
        }
    }
}

/// A head that is quantised is written as it is in use.
#[test]
fn a_quantised_head_is_merged_as_it_is_in_use() {
    let how = |t: &ModelTensor| if t.role == Role::Head { As::Nf4 } else { but(&[], DType::F32)(t) };
    let (_root, path) = directory(false, how, &[], json!({"quantization_config": bitsandbytes(&[])}));
    let source = HfDirectory::open(&path).expect("opens");
    let lora =
        crate::model::LoraConfig { r: 1, alpha: 1.0, dropout: 0.0, rslora: false, targets: [Module::UpProj].into() };
    let flat = vec![0.0; lora.parameters(source.config())];
    let adapter = peft::Adapter { lora, flat, base: None };
    let work = |sink: &mut dyn WeightSink| merge(&source, &adapter, Beside { nf4: false, nf4_head: false }, sink);
    let (_merged_in, merged) = opened(work, &made::config(false).to_json("float32"));
    let head = tensors(source.config()).into_iter().find(|t| t.role == Role::Head).expect("a head");
    let read = merged.tensor(&head.name, &head.shape).expect("read");
    assert_eq!(read.to_f32().expect("floats"), in_use(&head, false));
}

/// What is excepted stays as it was, in its type, and so says the file that is read again.
#[test]
fn quantising_leaves_out_what_the_configuration_excepts() {
    let patch = json!({"quantization_config": bitsandbytes(&["k_proj", "model.layers.2.mlp"])});
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let (_root, path) = directory(true, |_| As::Dense(dtype), &[], patch.clone());
        let source = HfDirectory::open(&path).expect("opens");
        let kept: Vec<String> = kept_dense(&source).map(|t| t.path().to_owned()).collect();
        assert_eq!(kept.len(), 3 + 3);
        let mut config = made::config(true).to_json("float32");
        config["quantization_config"] = bitsandbytes(&kept.iter().map(String::as_str).collect::<Vec<_>>());
        let (_quantized_in, quantized) = opened(|sink| quantize(&source, sink), &config);
        assert_eq!(quantized.remarks().expect("read"), Vec::<String>::new());
        for t in tensors(source.config()).iter().filter(|t| t.linear().is_some()) {
            let (n, k) = t.linear().expect("a linear");
            let stored = source.tensor(&t.name, &t.shape).expect("read");
            match quantized.linear(t.path(), n, k).expect("read") {
                LinearData::Dense(w) => assert!(kept.contains(&t.path().to_owned()) && w == stored, "{}", t.name),
                // Of the values as they are stored, in whatever type.
                LinearData::Nf4(nf4) => assert_eq!(nf4, Nf4::of(stored.floats().expect("floats")), "{}", t.name),
            }
        }
    }
}
