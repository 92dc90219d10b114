//! A model directory as Hugging Face libraries write it: config.json and safetensors, single or in shards, dense or
//! quantised by bitsandbytes.

use super::{
    LinearData, ModelConfig, WeightSource, bnb,
    likeness::{Sampled, likeness},
    stored::{self, Stored},
};
use crate::{
    Error, Result, digest,
    files::stand_in,
    model::{
        catalogue::{EMBEDDING, HEAD, tensors},
        config::{ConfigFile, Quantization},
        safetensors::MappedFile,
        sink::{INDEX, SINGLE},
    },
    tensor::{DType, Tensor},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

/// How tensors end that are beside a weight quantised in a way that irori does not read, and by what.
const OTHER_STORAGE: [(&str, &str); 14] = [
    (".qweight", "of GPTQ or AWQ"),
    (".qzeros", "of GPTQ or AWQ"),
    (".g_idx", "of GPTQ"),
    (".scales", "of weights quantised by GPTQ, AWQ or MLX"),
    (".SCB", "of bitsandbytes in 8 bits"),
    (".weight_format", "of bitsandbytes in 8 bits"),
    (".weight.quant_state.bitsandbytes__fp4", "of bitsandbytes FP4"),
    (".weight_scale", "the scale of weights in fp8 or int8"),
    (".weight_scale_inv", "the scale of weights in fp8"),
    (".weight_packed", "of compressed-tensors"),
    (".weight_zero_point", "of compressed-tensors"),
    (".input_scale", "the scale of weights in fp8"),
    (".codebooks", "of AQLM"),
    (".W_q", "of HQQ"),
];

/// Weights of a mapped directory.
#[derive(Debug)]
pub struct HfDirectory {
    dir: PathBuf,
    config: ModelConfig,
    quantization: Option<Quantization>,
    stored: Stored,
    files: Vec<MappedFile>,
    place: BTreeMap<String, usize>,
    /// What there is to say before anything is read.
    remarks: Vec<String>,
}

impl HfDirectory {
    /// Maps every weight file of `dir` and checks their headers.
    ///
    /// # Errors
    /// If config.json is not a model irori knows, a weight file is missing or malformed, a tensor is missing, or there is one
    /// that has no place in the model.
    pub fn open(dir: &Path) -> Result<Self> {
        let ConfigFile { model: config, quantization, mut remarks } = ModelConfig::read(&dir.join("config.json"))?;
        let files: Vec<MappedFile> = weight_files(dir)?.iter().map(|p| MappedFile::open(p)).collect::<Result<_>>()?;
        check_index(dir, &files)?;
        let mut place = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for (name, _) in file.entries() {
                if let Some(before) = place.insert(name.to_owned(), i) {
                    let other: &MappedFile = &files[before];
                    let message = format!("is also in {}", other.path().display());
                    return Err(Error::content(file.path(), format!("tensor `{name}`"), message));
                }
            }
        }
        let entry = |name: &str| place.get(name).and_then(|&i: &usize| files[i].entry(name));
        let stored = Stored::new(&config, quantization.as_ref(), entry).map_err(|e| {
            let at = "field `quantization_config.llm_int8_skip_modules`";
            Error::content(dir.join("config.json"), at, e)
        })?;
        remarks.extend_from_slice(stored.remarks());
        let mut source = Self { dir: dir.to_path_buf(), config, quantization, stored, files, place, remarks };
        source.refuse_other_storage()?;
        stored::refuse_adapters(&source.files)?;
        tensors(&source.config).iter().try_for_each(|t| source.file_of(&t.name).map(drop))?;
        if let [first, rest @ ..] = &source.stored.unused(&source.config, &source.files)?[..] {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            let remark = format!("{}: tensor `{first}`{more}: no part of a Qwen3, and not used", dir.display());
            source.remarks.push(remark);
        }
        Ok(source)
    }

    /// What other ways of quantising put beside a weight changes what the weight means, whatever its own type is.
    fn refuse_other_storage(&self) -> Result<()> {
        for (name, &file) in &self.place {
            let kind = match OTHER_STORAGE.iter().find(|(end, _)| name.ends_with(end)) {
                Some((_, kind)) => *kind,
                None if self.quantization.is_none() && name.ends_with(".weight.absmax") => {
                    "of bitsandbytes in 4 bits, of which config.json says nothing (field `quantization_config`)"
                }
                None => continue,
            };
            let message = format!("is {kind}; irori reads F32, BF16 and F16, and bitsandbytes NF4");
            return Err(self.files[file].wrong(name, message));
        }
        Ok(())
    }

    fn file_of(&self, name: &str) -> Result<&MappedFile> {
        self.place.get(name).map(|&i| &self.files[i]).ok_or_else(|| {
            let own_head = name.strip_suffix(".weight") == Some(HEAD);
            let why =
                if own_head { ", and config.json does not tie the head (field `tie_word_embeddings`)" } else { "" };
            let bare = name.strip_prefix("model.").filter(|bare| self.place.contains_key(*bare));
            let why = bare.map_or(why.to_owned(), |bare| {
                format!(", which hold `{bare}`: of a Qwen3Model saved alone; save the Qwen3ForCausalLM around it")
            });
            let message = format!("is in none of the model's weight files{why}");
            Error::content(&self.dir, format!("tensor `{name}`"), message)
        })
    }
}

/// The weight files, in order. Shards are named by the index and must lie in the directory itself.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(SINGLE);
    let index = dir.join(INDEX);
    if stand_in::exists(&single) {
        return Ok(vec![single]);
    }
    if !stand_in::exists(&index) {
        return Err(Error::content(dir, "", format!("holds neither {SINGLE} nor {INDEX}{}", weights_instead(dir))));
    }
    let json = stand_in::read_json(&index)?;
    let map = json
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| Error::content(&index, "field `weight_map`", "is missing or not an object"))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let at = || format!("field `weight_map.{tensor}`");
        let name = file.as_str().ok_or_else(|| Error::content(&index, at(), "is not a file name"))?;
        let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || !name.ends_with(".safetensors") {
            let message = format!("`{name}` is not the name of a safetensors file in this directory");
            return Err(Error::content(&index, at(), message));
        }
        names.insert(name.to_owned());
    }
    if names.is_empty() {
        return Err(Error::content(&index, "field `weight_map`", "names no file"));
    }
    for name in &names {
        if !stand_in::exists(&dir.join(name)) {
            return Err(Error::content(&index, "field `weight_map`", format!("names {name}, which is not there")));
        }
    }
    Ok(names.into_iter().map(|n| dir.join(n)).collect())
}

/// Looks whether each shard has the tensors that the index says.
fn check_index(dir: &Path, files: &[MappedFile]) -> Result<()> {
    if files.iter().any(|f| f.path().ends_with(SINGLE)) {
        return Ok(());
    }
    let index = dir.join(INDEX);
    let json = stand_in::read_json(&index)?;
    for (tensor, shard) in json.get("weight_map").and_then(|m| m.as_object()).into_iter().flatten() {
        let Some(shard) = shard.as_str() else { continue };
        let file = files.iter().find(|f| f.path() == dir.join(shard));
        if file.is_none_or(|f| f.entry(tensor).is_none()) {
            let at = format!("field `weight_map.{tensor}`");
            return Err(Error::content(&index, at, format!("names {shard}, which has no such tensor")));
        }
    }
    Ok(())
}

/// What a directory without the model's safetensors has in their place, in words that end the sentence.
fn weights_instead(dir: &Path) -> String {
    const OTHERS: [&str; 8] = [".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".safetensors"];
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|n| OTHERS.iter().any(|end| n.ends_with(end))).collect();
    found.sort();
    let reads = "irori reads safetensors only, as transformers' `save_pretrained` writes them";
    match found.as_slice() {
        [] => format!("; {reads}"),
        [first, rest @ ..] => {
            let adapter =
                if first.starts_with("adapter_model") { " (an adapter, which goes beside its model)" } else { "" };
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            format!(" but {first}{adapter}{more}; {reads}")
        }
    }
}

impl WeightSource for HfDirectory {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        self.file_of(name)?.floats(name, shape)
    }

    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        if self.is_packed(path) {
            return bnb::linear(path, n, k, &|name| self.file_of(name)).map(LinearData::Nf4);
        }
        let weight = format!("{path}.weight");
        self.file_of(&weight)?.floats(&weight, &[n, k]).map(LinearData::Dense)
    }

    fn dense_dtype(&self) -> DType {
        let finer = |name: &str| {
            let dtype = self.file_of(name).ok().and_then(|f| f.entry(name)).and_then(|e| e.dtype);
            matches!(dtype, Some(DType::F32 | DType::F16))
        };
        let matrices = tensors(&self.config).into_iter().filter(|t| t.shape.len() > 1 && !self.is_packed(t.path()));
        if matrices.into_iter().any(|t| finer(&t.name)) { DType::F32 } else { DType::Bf16 }
    }

    fn is_quantized(&self) -> bool {
        self.stored.any_packed()
    }

    fn is_packed(&self, path: &str) -> bool {
        self.stored.is_packed(path)
    }

    fn stays_dense(&self, path: &str) -> bool {
        self.stored.stays_dense(path)
    }

    fn compute(&self) -> Option<&str> {
        self.quantization.as_ref().filter(|_| self.is_quantized())?.compute.as_deref()
    }

    fn remarks(&self) -> Result<Vec<String>> {
        let head = format!("{HEAD}.weight");
        if let Some(&i) = self.place.get(&head).filter(|_| self.config.tied) {
            let file = &self.files[i];
            let embedding = self.tensor(&format!("{EMBEDDING}.weight"), &[self.config.vocab, self.config.hidden])?;
            if let Some(entry) = file.entry(&head) {
                stored::refuse_other_head(&embedding, file, entry)?;
            }
            file.release(&head);
        }
        Ok(self.remarks.clone())
    }

    /// SHA-256 over the configuration and, of every tensor, its name, type, shape and up to 4 KiB from its beginning,
    /// middle and end.
    fn fingerprint(&self) -> Result<String> {
        const SPAN: usize = 4096;
        let mut hash = Sha256::new();
        hash.update(self.config.identity());
        // Else the types of the tensors say it.
        if !self.is_quantized() {
            self.stored.dense().for_each(|path| hash.update(format!("\nstays dense {path}\n")));
        }
        for (name, &i) in &self.place {
            let file = &self.files[i];
            let Some(entry) = file.entry(name) else { continue };
            // The words are those of the first version: checkpoints and caches hold digests of them.
            let dtype = match entry.dtype {
                Some(float @ (DType::F32 | DType::Bf16 | DType::F16)) => format!("Float({float:?})"),
                Some(DType::U8) => "U8".into(),
                _ => "Other".into(),
            };
            hash.update(format!("\n{name} {dtype} {:?}\n", entry.shape));
            let bytes = file.bytes(entry);
            let last = bytes.len().saturating_sub(SPAN);
            for start in [0, last / 2, last] {
                hash.update(&bytes[start..(start + SPAN).min(bytes.len())]);
            }
            // The system maps far more around a page than was read: over all tensors, most of the model.
            file.release(name);
        }
        Ok(digest::hex(&hash.finalize()))
    }

    fn likeness(&self) -> Result<String> {
        likeness(&self.config, |t, range| {
            let file = self.file_of(&t.name)?;
            let packed = file.entry(&t.name).filter(|_| self.is_packed(t.path()));
            let sampled = match packed.map(|e| file.bytes(e)) {
                Some(codes) => {
                    let codes = codes.get(range.start / 2..range.end.div_ceil(2));
                    let few = || file.wrong(&t.name, "holds fewer codes than the model has weights");
                    Sampled::Codes(codes.ok_or_else(few)?.to_vec())
                }
                None => {
                    let mut values = vec![0.0; range.len()];
                    let tensor = file.tensor(&t.name, &t.shape)?;
                    let of_floats = |_| file.wrong(&t.name, "is not of type F32, BF16 or F16");
                    tensor.floats().map_err(of_floats)?.read(range.start, &mut values);
                    Sampled::Values(values)
                }
            };
            file.release(&t.name);
            Ok(sampled)
        })
    }

    fn describe(&self) -> String {
        self.dir.display().to_string()
    }

    fn release(&self, name: &str) {
        if let Ok(file) = self.file_of(name) {
            file.release(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints and packed caches that were written once hold these: whatever else changes here, they stay.
    #[test]
    fn fingerprints_stay_what_they_are() {
        for (name, fingerprint) in [
            ("tied", "4dd166e2363859902113f81112f1628b7017f0c68f80b6bf887613af2957b499"),
            ("untied", "c5ac7185b125a894a01dc0f9b08918055a1f8a145e18c52f2a126a17482e0b39"),
            ("untied-nf4", "e8cc5078ca3976a4e756fc569f993dae002a56fe34c09546c8c68c7b8eadc9c6"),
        ] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models").join(name);
            assert_eq!(HfDirectory::open(&dir).expect("opens").fingerprint().expect("read"), fingerprint, "{name}");
        }
    }
}
