//! Writing model directories: safetensors streamed tensor by tensor, shards and their index, and files that appear under
//! their final names only when they are whole.
//!
//! A safetensors file begins with its header, but the size of some tensors (bitsandbytes' records) is known only when they
//! are made. So room for the header is left at the beginning, tensors follow as they come, and the header is written last,
//! padded with the spaces that the format allows. Memory: one tensor.

use super::{ModelConfig, Module};
use crate::{Error, Result, backend::DType};
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::{
    fs::{self, File},
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Element type of a tensor that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// Bytes.
    U8,
}

impl Element {
    /// The name in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::U8 => "U8",
        }
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    /// The name in config.json and in bitsandbytes' records.
    pub const fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::U8 => "uint8",
        }
    }

    /// The type of a weight in its source; anything that is not a float type counts as bytes.
    pub const fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::Bf16 => Self::Bf16,
            DType::F16 => Self::F16,
            DType::U8 | DType::U32 => Self::U8,
        }
    }

    /// `values` in this type, little-endian, rounded to nearest even.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Self::U8 => values.iter().map(|&v| v as u8).collect(),
        }
    }
}

/// One tensor of a Qwen3 model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTensor {
    /// Its name, with ".weight".
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Layer and module of a decoder layer's linear; `None` for norms, embedding and head.
    pub linear: Option<(usize, Module)>,
}

/// Every tensor of a model in the order that they are written. A tied model has no head of its own.
pub fn tensors(c: &ModelConfig) -> Vec<ModelTensor> {
    let plain = |name: String, shape: Vec<usize>| ModelTensor { name, shape, linear: None };
    let mut all = vec![plain("model.embed_tokens.weight".into(), vec![c.vocab, c.hidden])];
    for layer in 0..c.layers {
        let path = format!("model.layers.{layer}");
        all.push(plain(format!("{path}.input_layernorm.weight"), vec![c.hidden]));
        for module in Module::ALL {
            let (n, k) = module.shape(c);
            let name = format!("{path}.{}.weight", module.path());
            all.push(ModelTensor { name, shape: vec![n, k], linear: Some((layer, module)) });
        }
        all.push(plain(format!("{path}.self_attn.q_norm.weight"), vec![c.heads.dim]));
        all.push(plain(format!("{path}.self_attn.k_norm.weight"), vec![c.heads.dim]));
        all.push(plain(format!("{path}.post_attention_layernorm.weight"), vec![c.hidden]));
    }
    all.push(plain("model.norm.weight".into(), vec![c.hidden]));
    if !c.tied {
        all.push(plain("lm_head.weight".into(), vec![c.vocab, c.hidden]));
    }
    all
}

/// A header that grows with the tensors behind it.
#[derive(Debug, Default)]
struct Header {
    entries: Map<String, Value>,
    end: usize,
}

impl Header {
    fn push(&mut self, name: &str, element: Element, shape: &[usize], bytes: usize) -> Result<()> {
        let expected = shape.iter().product::<usize>() * element.size();
        if bytes != expected {
            return Err(Error::failed(format!("tensor `{name}` {shape:?}: {bytes} bytes, expected {expected}")));
        }
        let range = [self.end, self.end + bytes];
        let entry = json!({"dtype": element.name(), "shape": shape, "data_offsets": range});
        if self.entries.insert(name.to_owned(), entry).is_some() {
            return Err(Error::failed(format!("tensor `{name}` is written twice")));
        }
        self.end += bytes;
        Ok(())
    }

    /// Length and JSON, padded with spaces to `room` bytes in all, or to a multiple of eight.
    fn bytes(&self, room: Option<usize>) -> Result<Vec<u8>> {
        let mut object = Map::new();
        object.insert("__metadata__".into(), json!({"format": "pt"}));
        object.extend(self.entries.clone());
        let json = Value::Object(object).to_string();
        let room = room.unwrap_or(8 + json.len().next_multiple_of(8));
        if 8 + json.len() > room {
            return Err(Error::failed(format!("a header of {} bytes, room was left for {room}", 8 + json.len())));
        }
        let mut bytes = ((room - 8) as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(room, b' ');
        Ok(bytes)
    }
}

/// A small safetensors file in memory: the same tensors in the same order are the same bytes.
///
/// # Errors
/// If a tensor's bytes do not fit its shape, or two have one name.
pub fn safetensors_bytes<'a>(
    tensors: impl Iterator<Item = (&'a str, Element, &'a [usize], &'a [u8])>,
) -> Result<Vec<u8>> {
    let mut header = Header::default();
    let mut data = Vec::new();
    for (name, element, shape, bytes) in tensors {
        header.push(name, element, shape, bytes.len())?;
        data.extend_from_slice(bytes);
    }
    let mut file = header.bytes(None)?;
    file.append(&mut data);
    Ok(file)
}

/// One safetensors file being written.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: BufWriter<File>,
    header: Header,
    room: usize,
}

impl Shard {
    fn create(path: PathBuf, room: usize) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.seek(SeekFrom::Start(room as u64)).map_err(Error::io("write", &path))?;
        Ok(Self { path, file, header: Header::default(), room })
    }

    fn finish(mut self) -> Result<(PathBuf, Header)> {
        let header = self.header.bytes(Some(self.room))?;
        let written = self
            .file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&header))
            .and_then(|()| self.file.flush())
            .and_then(|()| self.file.get_ref().sync_all());
        written.map_err(Error::io("write", &self.path))?;
        Ok((self.path, self.header))
    }
}

/// Bytes of header left for one tensor: its name, type, shape and two offsets are less.
const HEADER_ENTRY: usize = 256;

/// A model directory being made. Everything is written into a hidden directory inside the destination; [`Self::commit`]
/// moves it out, config.json last. Dropped before that, it removes what it wrote.
#[derive(Debug)]
pub struct ModelWriter {
    destination: PathBuf,
    staging: PathBuf,
    shard_bytes: usize,
    room: usize,
    current: Option<Shard>,
    done: Vec<(PathBuf, Header)>,
}

impl ModelWriter {
    /// Begins in `destination`, an empty directory. `tensors` is at least the number of tensors to come; a file gets no
    /// more than `shard_bytes` unless one tensor alone is larger.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn create(destination: &Path, tensors: usize, shard_bytes: u64) -> Result<Self> {
        let staging = destination.join(format!(".partial-{}", std::process::id()));
        fs::create_dir(&staging).map_err(Error::io("create", &staging))?;
        let room = (64 + tensors * HEADER_ENTRY).next_multiple_of(4096);
        let shard_bytes = usize::try_from(shard_bytes).unwrap_or(usize::MAX);
        Ok(Self { destination: destination.to_path_buf(), staging, shard_bytes, room, current: None, done: vec![] })
    }

    /// Appends a tensor.
    ///
    /// # Errors
    /// If the disk is full, or the bytes do not fit the shape.
    pub fn tensor(&mut self, name: &str, element: Element, shape: &[usize], bytes: &[u8]) -> Result<()> {
        if let Some(shard) = self.current.take_if(|s| s.header.end > 0 && s.header.end + bytes.len() > self.shard_bytes)
        {
            self.done.push(shard.finish()?);
        }
        if self.current.is_none() {
            let path = self.staging.join(format!("shard-{}", self.done.len()));
            self.current = Some(Shard::create(path, self.room)?);
        }
        let Some(shard) = &mut self.current else { return Ok(()) };
        shard.header.push(name, element, shape, bytes.len())?;
        shard.file.write_all(bytes).map_err(Error::io("write", &self.destination))
    }

    /// Writes a file of the directory.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.staging.join(name);
        let written = File::create(&path).and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()));
        written.map_err(Error::io("write", self.destination.join(name)))
    }

    /// Writes a file of pretty JSON.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn json(&self, name: &str, value: &Value) -> Result<()> {
        self.file(name, format!("{value:#}\n").as_bytes())
    }

    /// Copies tokenizer, template and generation files of a model directory: everything that is text except
    /// config.json and the index of weights.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn copy_text_files(&self, from: &Path) -> Result<()> {
        let entries = fs::read_dir(from).map_err(Error::io("read", from))?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", from))?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            let text = [".json", ".jinja", ".txt", ".model"].iter().any(|end| name.ends_with(end));
            let ours = name == "config.json" || name.ends_with(".index.json") || name.starts_with("adapter_");
            if text && !ours && path.is_file() {
                self.file(name, &fs::read(&path).map_err(Error::io("read", &path))?)?;
            }
        }
        Ok(())
    }

    /// Completes the last file, writes the index if there are several, and moves everything to its final name.
    ///
    /// # Errors
    /// If the disk is full or a name is taken.
    pub fn commit(mut self) -> Result<()> {
        if let Some(shard) = self.current.take() {
            self.done.push(shard.finish()?);
        }
        let count = self.done.len();
        let mut map = std::collections::BTreeMap::new();
        let mut total = 0;
        for (i, (path, header)) in std::mem::take(&mut self.done).into_iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            total += header.end;
            map.extend(header.entries.keys().map(|k| (k.clone(), name.clone())));
            let named = self.staging.join(name);
            fs::rename(&path, &named).map_err(Error::io("rename", &path))?;
        }
        if count > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": map});
            self.json("model.safetensors.index.json", &index)?;
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.staging).map_err(Error::io("read", &self.staging))? {
            names.push(entry.map_err(Error::io("read", &self.staging))?.file_name());
        }
        names.sort_by_key(|n| (n == "config.json", n.clone()));
        for name in names {
            let target = self.destination.join(&name);
            if target.exists() {
                return Err(Error::failed(format!("{} appeared meanwhile: it is not overwritten", target.display())));
            }
            fs::rename(self.staging.join(&name), &target).map_err(Error::io("create", &target))?;
        }
        let synced = File::open(&self.destination).and_then(|d| d.sync_all());
        synced.map_err(Error::io("sync", &self.destination))
    }
}

impl Drop for ModelWriter {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.staging);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::source::safetensors::MappedFile;

    #[test]
    fn one_file_or_shards_hold_the_same_tensors() {
        for (limit, files) in [(1 << 20, 1), (100, 3), (1, 5)] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut writer = ModelWriter::create(dir.path(), 5, limit).expect("begins");
            let data: Vec<Vec<f32>> = (0..5).map(|i| (0..4 * (i + 1)).map(|x| x as f32).collect()).collect();
            for (i, values) in data.iter().enumerate() {
                let (name, bytes) = (format!("t{i}"), Element::F32.encode(values));
                writer.tensor(&name, Element::F32, &[i + 1, 4], &bytes).expect("written");
            }
            writer.json("config.json", &json!({"a": 1})).expect("written");
            assert!(!dir.path().join("config.json").exists());
            writer.commit().expect("committed");
            let mut found = 0;
            for entry in fs::read_dir(dir.path()).expect("listed") {
                let path = entry.expect("an entry").path();
                assert!(path.is_file(), "{path:?} is left over");
                if path.extension().is_some_and(|e| e == "safetensors") {
                    found += 1;
                    let file = MappedFile::open(&path).expect("whole");
                    for (name, entry) in file.entries() {
                        let i: usize = name[1..].parse().expect("an index");
                        assert_eq!(entry.shape, [i + 1, 4]);
                        assert_eq!(file.bytes(entry), Element::F32.encode(&data[i]));
                    }
                }
            }
            assert_eq!(found, files, "at most {limit} bytes a file");
            assert_eq!(dir.path().join("model.safetensors.index.json").is_file(), files > 1);
        }
    }

    #[test]
    fn an_unfinished_directory_is_left_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = ModelWriter::create(dir.path(), 2, 1 << 20).expect("begins");
        writer.tensor("t", Element::U8, &[3], &[1, 2, 3]).expect("written");
        assert!(writer.tensor("t", Element::U8, &[3], &[1, 2, 3]).is_err(), "twice");
        assert!(writer.tensor("u", Element::U8, &[4], &[1, 2, 3]).is_err(), "too short");
        drop(writer);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    #[test]
    fn every_weight_is_listed_once() {
        for name in crate::model::config::PRESETS {
            let c = ModelConfig::preset(name).expect("a preset");
            let all = tensors(&c);
            assert_eq!(all.iter().map(|t| t.shape.iter().product::<usize>()).sum::<usize>(), c.parameters(), "{name}");
            let names: std::collections::HashSet<_> = all.iter().map(|t| &t.name).collect();
            assert_eq!(names.len(), all.len());
        }
    }
}
