//! A model directory as Hugging Face libraries read it: config.json, and safetensors in one file or in shards with their
//! index. The counterpart of [`crate::model::source::HfDirectory`].

use super::{WeightSink, bnb};
use crate::{
    Result,
    files::{self, Disk, Existing, StagedDir},
    model::{
        catalogue::ModelTensor,
        safetensors::write::{Header, Shard},
    },
    quant::nf4::Nf4,
    tensor::{DType, Tensor},
};
use serde_json::json;
use std::{collections::BTreeMap, path::Path};

/// The file of a model in one.
pub(in crate::model) const SINGLE: &str = "model.safetensors";
/// The list of tensors of a model in shards.
pub(in crate::model) const INDEX: &str = "model.safetensors.index.json";
/// Without it a directory is no model: it goes in its place last.
const CONFIG: &str = "config.json";

/// How weights are laid out in files.
#[derive(Debug, Clone, Copy)]
pub struct HfOptions {
    /// Tensors to come, at most: room is left for them in headers.
    pub tensors: usize,
    /// A file gets no more bytes of tensors than this unless one tensor alone is larger.
    pub shard_bytes: u64,
    /// Whether the scales of what is quantised are quantised too.
    pub double_quant: bool,
}

impl HfOptions {
    /// At most so many tensors in files of the size that transformers makes.
    pub fn new(tensors: usize) -> Self {
        Self { tensors, shard_bytes: 5_000_000_000, double_quant: true }
    }
}

/// A model directory being made; it appears whole when it is committed.
pub struct HfSink<'d> {
    dir: StagedDir<'d>,
    options: HfOptions,
    current: Option<Shard>,
    /// Headers of the shards that are whole; shard i is called as [`unnamed`] says.
    done: Vec<Header>,
}

/// What shard `i` is called until it is known how many there are.
fn unnamed(i: usize) -> String {
    format!("shard-{i}")
}

impl<'d> HfSink<'d> {
    /// Begins a directory that shall stand at `place`, where nothing or an empty directory is.
    ///
    /// # Errors
    /// If there is something, or the disk fails.
    pub fn create(disk: &'d dyn Disk, place: &Path, options: HfOptions) -> Result<Self> {
        let dir = StagedDir::begin(disk, place, Existing::Refuse)?;
        Ok(Self { dir, options, current: None, done: Vec::new() })
    }

    /// Appends a tensor to the present shard, or to a new one if that is full.
    pub(super) fn push(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let limit = usize::try_from(self.options.shard_bytes).unwrap_or(usize::MAX);
        if let Some(shard) = self.current.take_if(|s| s.bytes() > 0 && s.bytes() + tensor.bytes.len() > limit) {
            self.done.push(shard.finish()?);
        }
        let shard = match &mut self.current {
            Some(shard) => shard,
            none => none.insert(Shard::create(&mut self.dir, &unnamed(self.done.len()), self.options.tensors)?),
        };
        shard.tensor(name, tensor)
    }

    /// Gives the shards their names and writes the index if there are several.
    fn name_shards(&mut self) -> Result<()> {
        let count = self.done.len();
        let mut places = BTreeMap::new();
        for (i, header) in self.done.iter().enumerate() {
            let name = match count {
                1 => SINGLE.to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            places.extend(header.names().map(|n| (n.to_owned(), name.clone())));
            self.dir.rename(&unnamed(i), &name)?;
        }
        if count > 1 {
            let total: usize = self.done.iter().map(Header::end).sum();
            let index = json!({"metadata": {"total_size": total}, "weight_map": places});
            self.dir.file(INDEX, &files::json(&index)?)?;
        }
        Ok(())
    }
}

impl WeightSink for HfSink<'_> {
    fn tensor(&mut self, t: &ModelTensor, data: &Tensor) -> Result<()> {
        self.push(&t.name, data)
    }

    fn nf4(&mut self, t: &ModelTensor, data: &Nf4, original: DType) -> Result<()> {
        bnb::write(t, data, original, self.options.double_quant, &mut |name, tensor| self.push(name, tensor))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.dir.file(name, bytes)
    }

    fn commit(mut self: Box<Self>) -> Result<()> {
        if let Some(shard) = self.current.take() {
            self.done.push(shard.finish()?);
        }
        self.name_shards()?;
        self.dir.commit(CONFIG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        files::{
            RealDisk,
            faulty::{Fault, Faulty},
        },
        model::{catalogue::Role, safetensors::MappedFile, sink::json_file},
    };
    use std::fs;

    fn entry(i: usize) -> ModelTensor {
        ModelTensor { name: format!("t{i}"), shape: vec![i + 1, 4], role: Role::InputNorm(i) }
    }

    fn values(i: usize) -> Vec<u8> {
        DType::F32.encode(&(0..4 * (i + 1)).map(|x| x as f32).collect::<Vec<_>>())
    }

    /// Five tensors in files of at most `limit` bytes.
    fn write(disk: &dyn Disk, place: &Path, limit: u64) -> Result<()> {
        let mut sink =
            Box::new(HfSink::create(disk, place, HfOptions { tensors: 5, shard_bytes: limit, double_quant: true })?);
        json_file(sink.as_mut(), CONFIG, &json!({"a": 1}))?;
        for i in 0..5 {
            sink.tensor(&entry(i), &Tensor::new(DType::F32, [i + 1, 4], values(i)))?;
        }
        sink.commit()
    }

    #[test]
    fn one_file_or_shards_hold_the_same_tensors() {
        for (limit, files) in [(1 << 20, 1), (100, 3), (1, 5)] {
            let root = tempfile::tempdir().expect("a directory");
            let dir = root.path().join("model");
            write(&RealDisk, &dir, limit).expect("written");
            let mut found = 0;
            for entry in fs::read_dir(&dir).expect("listed") {
                let path = entry.expect("an entry").path();
                assert!(path.is_file(), "{path:?} is left over");
                if path.extension().is_some_and(|e| e == "safetensors") {
                    found += 1;
                    let file = MappedFile::open(&path).expect("whole");
                    for (name, entry) in file.entries() {
                        let i: usize = name[1..].parse().expect("an index");
                        assert_eq!(entry.shape, [i + 1, 4]);
                        assert_eq!(file.bytes(entry), values(i));
                    }
                }
            }
            assert_eq!(found, files, "at most {limit} bytes a file");
            assert_eq!(dir.join(INDEX).is_file(), files > 1);
        }
    }

    /// A full disk at any operation leaves nothing; a kill leaves nothing under the model's name.
    #[test]
    fn a_model_is_there_whole_or_not_at_all() {
        let root = tempfile::tempdir().expect("a directory");
        let count = Faulty::new(u64::MAX, Fault::Kill);
        write(&count, &root.path().join("whole"), 100).expect("written");
        for at in 0..count.count() {
            for fault in [Fault::Full, Fault::Kill] {
                let root = tempfile::tempdir().expect("a directory");
                let place = root.path().join("model");
                let error = write(&Faulty::new(at, fault), &place, 100).expect_err("a fault").to_string();
                assert!(error.contains(root.path().to_str().expect("a path")), "{error}");
                // Only the last sync comes after the rename.
                assert!(!place.exists() || at + 1 == count.count(), "{fault:?} at {at}");
                let left = fs::read_dir(root.path()).expect("listed").count();
                assert!(fault == Fault::Kill || left == 0 || place.exists(), "{at}: {left}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_its_shape_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let options = HfOptions { tensors: 2, shard_bytes: 1 << 20, double_quant: true };
        let mut sink = HfSink::create(&RealDisk, &root.path().join("model"), options).expect("begins");
        sink.tensor(&entry(0), &Tensor::new(DType::U8, [3], &[1u8, 2, 3][..])).expect("written");
        assert!(sink.tensor(&entry(0), &Tensor::new(DType::U8, [3], &[1u8, 2, 3][..])).is_err(), "twice");
        assert!(sink.tensor(&entry(1), &Tensor::new(DType::U8, [4], &[1u8, 2, 3][..])).is_err(), "too short");
        drop(sink);
        assert_eq!(fs::read_dir(root.path()).expect("listed").count(), 0);
    }
}
