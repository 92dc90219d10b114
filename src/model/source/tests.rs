//! Spoilt checkpoints: what is wrong with them is said by name, whatever reads them.

use super::*;
use crate::{
    Error,
    model::{
        LoraConfig, Module,
        catalogue::{ModelTensor, tensors},
        convert::{self, Beside},
        peft,
        safetensors::MappedFile,
        sink::{HfOptions, HfSink, WeightSink},
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models").join(name)
}

/// A copy of a golden model.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for file in fs::read_dir(golden(name)).expect("the golden model") {
        let file = file.expect("a file").path();
        fs::copy(&file, dir.path().join(file.file_name().expect("a name"))).expect("copied");
    }
    dir
}

/// Everything that loading reads of a checkpoint.
fn read_all(dir: &Path) -> Result<()> {
    let source = HfDirectory::open(dir)?;
    tensors(source.config()).iter().try_for_each(|t| match t.linear() {
        Some((n, k)) => source.linear(t.path(), n, k).map(drop),
        None => source.tensor(&t.name, &t.shape).map(drop),
    })
}

/// Overwrites one element of a tensor in a file.
fn spoil(path: &Path, name: &str, at: usize, value: f32) {
    let mut bytes = fs::read(path).expect("read");
    let file = MappedFile::open(path).expect("opens");
    let entry = file.entry(name).expect("there");
    let dtype = entry.dtype.expect("known");
    // Tensors of one file lie behind one another: the first begins where the header ends.
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    let first = file.entries().map(|(_, e)| file.bytes(e).as_ptr() as usize).min().expect("a tensor");
    let place = 8 + header + (file.bytes(entry).as_ptr() as usize - first) + at * dtype.size();
    bytes[place..place + dtype.size()].copy_from_slice(&dtype.encode(&[value]));
    drop(file);
    fs::write(path, bytes).expect("written");
}

/// The float tensors of a directory with the files they are in.
fn float_tensors(dir: &Path) -> Vec<(PathBuf, String, usize)> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).expect("listed").map(|f| f.expect("a file").path()) {
        if path.extension().is_some_and(|e| e == "safetensors") {
            let file = MappedFile::open(&path).expect("opens");
            let floats = file
                .entries()
                .filter(|(_, e)| e.dtype.is_some_and(|d| matches!(d, DType::F32 | DType::Bf16 | DType::F16)));
            found.extend(floats.map(|(n, e)| (path.clone(), n.to_owned(), e.shape.iter().product())));
        }
    }
    found
}

/// Dense weights, norms, heads, and of quantised linears the scales and maps, of every model: wherever one element is no
/// number, loading ends with the file, the tensor and the element.
#[test]
fn a_weight_that_is_no_number_is_named() {
    for name in ["tied", "untied", "tied-nf4", "untied-nf4"] {
        let dir = copy(name);
        read_all(dir.path()).expect("sound");
        let all = float_tensors(dir.path());
        assert!(all.len() > 10, "{name}");
        for (i, (path, tensor, len)) in all.iter().enumerate() {
            let (value, at) = ([f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3], [0, len / 2, len - 1][i / 3 % 3]);
            let whole = fs::read(path).expect("read");
            spoil(path, tensor, at, value);
            let error = read_all(dir.path()).expect_err(tensor).to_string();
            let file = path.file_name().expect("a name").to_str().expect("text");
            for says in [format!("{file}: tensor `{tensor}`"), format!("element {at} is {value}")] {
                assert!(error.contains(&says), "{name}: {error} lacks {says}");
            }
            fs::write(path, whole).expect("written");
        }
    }
}

/// Finite scales whose decoded values are beyond f32.
#[test]
fn scales_that_overflow_when_they_are_decoded_are_named() {
    let dir = copy("untied-nf4");
    let all = float_tensors(dir.path());
    let Some((path, tensor, _)) = all.iter().find(|(_, n, _)| n.ends_with("nested_absmax")) else {
        panic!("no double quantisation in the golden model")
    };
    spoil(path, tensor, 0, f32::MAX);
    let map = tensor.replace("nested_absmax", "nested_quant_map");
    for at in 0..256 {
        spoil(path, &map, at, f32::MAX);
    }
    let error = read_all(dir.path()).expect_err("overflows").to_string();
    assert!(
        error.contains(&tensor.replace("nested_absmax", "absmax")) && error.contains("decoded, element"),
        "{error}"
    );
}

fn into_sink(work: impl Fn(&mut dyn WeightSink) -> Result<()>) -> Result<()> {
    let root = tempfile::tempdir().expect("a directory");
    let options = HfOptions::new(10_000);
    let mut sink: Box<dyn WeightSink> =
        Box::new(HfSink::create(&crate::files::RealDisk, &root.path().join("m"), options).expect("begins"));
    work(sink.as_mut())?;
    sink.commit()
}

/// A model in another type, so that F32 and F16 are seen as well.
fn written_as(dtype: DType) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let source = open("synthetic:tiny").expect("opens").source;
    let place = dir.path().join("m");
    let options = HfOptions::new(tensors(source.config()).len());
    let mut sink: Box<dyn WeightSink> =
        Box::new(HfSink::create(&crate::files::RealDisk, &place, options).expect("begins"));
    let config = source.config().to_json(dtype.torch()).to_string();
    sink.file("config.json", config.as_bytes()).expect("written");
    convert::copy(source.as_ref(), dtype, sink.as_mut()).expect("copied");
    sink.commit().expect("committed");
    dir
}

#[test]
fn quantising_merging_and_copying_see_it_in_every_type() {
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let dir = written_as(dtype);
        let dir = dir.path().join("m");
        let model = HfDirectory::open(&dir).expect("opens").config().clone();
        let lora = LoraConfig { r: 2, alpha: 4.0, dropout: 0.0, rslora: false, targets: [Module::QProj].into() };
        let flat = vec![0.01; lora.parameters(&model)];
        let adapter = peft::Adapter { lora, flat, base: None };
        type Work<'a> = (&'a str, &'a dyn Fn(&dyn WeightSource) -> Result<()>);
        let works: [Work; 4] = [
            ("quantize", &|s| into_sink(|sink| convert::quantize(s, sink))),
            ("merge", &|s| into_sink(|sink| convert::merge(s, &adapter, Beside { nf4: false, nf4_head: false }, sink))),
            ("dequantized", &|s| {
                into_sink(|sink| convert::merge(s, &adapter, Beside { nf4: true, nf4_head: true }, sink))
            }),
            ("copy", &|s| into_sink(|sink| convert::copy(s, DType::Bf16, sink))),
        ];
        let all: Vec<ModelTensor> = tensors(&model);
        for (t, (what, work)) in [0, 3, all.len() / 2, all.len() - 1].map(|i| &all[i]).into_iter().zip(works) {
            work(&HfDirectory::open(&dir).expect("opens")).expect(what);
            let path = dir.join("model.safetensors");
            let whole = fs::read(&path).expect("read");
            spoil(&path, &t.name, 5, f32::NAN);
            for (what, work) in works {
                let error = work(&HfDirectory::open(&dir).expect("opens")).expect_err(what).to_string();
                assert!(error.contains(&format!("tensor `{}`: element 5 is NaN", t.name)), "{what} {dtype:?}: {error}");
            }
            fs::write(&path, whole).expect("written");
        }
    }
}

/// What is finite in f32 and not in the type that it is written in.
#[test]
fn a_result_that_its_type_cannot_hold_is_refused() {
    let dir = written_as(DType::F16);
    let source = HfDirectory::open(&dir.path().join("m")).expect("opens");
    let lora = LoraConfig { r: 1, alpha: 1.0, dropout: 0.0, rslora: false, targets: [Module::QProj].into() };
    let flat = vec![300.0; lora.parameters(source.config())];
    let adapter = peft::Adapter { lora, flat, base: None };
    let beside = Beside { nf4: false, nf4_head: false };
    let error = into_sink(|sink| convert::merge(&source, &adapter, beside, sink)).expect_err("90000").to_string();
    assert!(
        error.contains("layers.0.self_attn.q_proj.weight`: element 0 of the result is")
            && error.contains("is inf as F16"),
        "{error}"
    );
    assert!(matches!(into_sink(|sink| convert::merge(&source, &adapter, beside, sink)), Err(Error::Content { .. })));
}

/// A copy of a golden model with one more tensor in it.
fn with_tensor(name: &str, tensor: &Tensor) -> tempfile::TempDir {
    use crate::model::safetensors::write::{self, Header};
    let dir = copy("tied");
    let path = dir.path().join("model.safetensors");
    let bytes = {
        let file = MappedFile::open(&path).expect("opens");
        let of = |e: &crate::model::safetensors::Entry| {
            Tensor::new(e.dtype.expect("known"), &e.shape[..], file.bytes(e).to_vec())
        };
        let mut all: Vec<(String, Tensor)> = file.entries().map(|(n, e)| (n.to_owned(), of(e))).collect();
        all.push((name.to_owned(), tensor.clone()));
        write::file(Header::of_torch(), all.iter().map(|(n, t)| (n.as_str(), t))).expect("bytes")
    };
    fs::write(path, bytes).expect("written");
    dir
}

#[test]
fn weights_quantised_in_other_ways_are_refused_by_the_tensor_beside_them() {
    let one = Tensor::new(DType::F32, [1], vec![0; 4]);
    let linear = "model.layers.1.mlp.up_proj";
    for (end, says) in [
        ("qweight", "GPTQ or AWQ"),
        ("qzeros", "GPTQ or AWQ"),
        ("g_idx", "GPTQ"),
        ("scales", "GPTQ, AWQ or MLX"),
        ("SCB", "8 bits"),
        ("weight.quant_state.bitsandbytes__fp4", "FP4"),
        ("weight_scale", "fp8 or int8"),
        ("weight_scale_inv", "fp8"),
        ("weight_packed", "compressed-tensors"),
        ("codebooks", "AQLM"),
        ("weight.absmax", "config.json says nothing"),
    ] {
        let dir = with_tensor(&format!("{linear}.{end}"), &one);
        let error = read_all(dir.path()).expect_err(end).to_string();
        assert!(error.contains(&format!("`{linear}.{end}`: is ")) && error.contains(says), "{error}");
    }
}

#[test]
fn what_stands_in_place_of_a_model_is_named() {
    let write = |dir: &Path, name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).expect("written");
    let only = |dir: &Path, name: &str| {
        fs::rename(dir.join("model.safetensors"), dir.join(name)).expect("renamed");
        write(dir, "README.md", b"x");
    };
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (name, bytes, says) in [
        ("model.safetensors", &lfs[..], "Git LFS"),
        ("config.json", lfs, "Git LFS"),
        ("model.safetensors", b"<!DOCTYPE html>", "web server"),
        ("config.json", b"<html>", "web server"),
        ("model.safetensors", b"", "is empty"),
        ("config.json", b"", "is empty"),
        ("model.safetensors", b"PK\x03\x04..........", "zip archive"),
    ] {
        let dir = copy("tied");
        write(dir.path(), name, bytes);
        let error = read_all(dir.path()).expect_err(says).to_string();
        assert!(error.contains(&format!("{name}: is ")) && error.contains(says), "{error}");
    }
    for name in ["pytorch_model.bin", "consolidated.00.pth", "model.gguf", "weights.safetensors"] {
        let dir = copy("tied");
        only(dir.path(), name);
        let error = read_all(dir.path()).expect_err(name).to_string();
        assert!(error.contains(&format!("but {name}; irori reads safetensors")), "{error}");
    }
    #[cfg(unix)]
    for (model, name) in [
        ("tied", "model.safetensors"),
        ("tied", "config.json"),
        ("untied", "model-00002-of-00002.safetensors"),
        ("untied", "model.safetensors.index.json"),
    ] {
        let dir = copy(model);
        fs::remove_file(dir.path().join(name)).expect("removed");
        std::os::unix::fs::symlink("../../blobs/0", dir.path().join(name)).expect("linked");
        let error = read_all(dir.path()).expect_err(name).to_string();
        assert!(error.contains(&format!("{name}: is a link to ../../blobs/0, which is not there")), "{error}");
    }
}
