//! The packed cache: the linears of a dense checkpoint as irori quantised them, kept beside it so that the next start reads
//! a quarter of the bytes and quantises nothing. The weights are the same, bit for bit.
//!
//! One safetensors file, [`FILE`], in the model's directory. Tensor `source` (U8) holds the checkpoint's fingerprint: a
//! cache of other weights is not used. `{path}.packed` U8 [n·k/2] and `{path}.absmax` F32 [n·k/64] for every linear. It is
//! written under another name and renamed when it is whole, so a file of this name is complete.

use super::{LinearData, ModelConfig, TensorData, WeightSource, safetensors::MappedFile};
use crate::{Error, Result, backend::DType, model::Module, quant::nf4, rng::Bell};
use serde_json::json;
use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Name of the cache in the model's directory.
pub const FILE: &str = "irori-nf4.safetensors";

/// Names the layout of the file; another version of it is another text.
const FORMAT: &str = "irori packed NF4 1, ";

/// A checkpoint whose linears come from its packed cache, or go into a new one while they are loaded.
pub struct Packed<'a> {
    inner: &'a dyn WeightSource,
    cache: Cache,
}

enum Cache {
    Read(MappedFile),
    Write(Mutex<Writer>),
}

/// A cache being written.
struct Writer {
    /// Or why it cannot be finished.
    file: Result<BufWriter<File>>,
    path: PathBuf,
    /// What [`FILE`] is called until it is whole.
    unfinished: PathBuf,
    /// (path, bytes packed, bytes of absmax) that are still to come, the last one first.
    missing: Vec<(String, usize, usize)>,
    identity: String,
}

/// What became of a cache that was to be written.
#[derive(Debug)]
pub enum Kept {
    /// It was there already.
    Read,
    /// It is there now: its path and bytes.
    Written(PathBuf, u64),
    /// It could not be written, which does not matter for the run.
    Not(Error),
}

/// Every linear of the model in the order in which they are loaded: path, bytes packed, bytes of absmax.
fn linears(c: &ModelConfig) -> Vec<(String, usize, usize)> {
    let modules =
        (0..c.layers).flat_map(|i| Module::ALL.map(|m| (format!("model.layers.{i}.{}", m.path()), m.shape(c))));
    modules.map(|(path, (n, k))| (path, n * k / 2, n * k / nf4::BLOCK * 4)).collect()
}

impl<'a> Packed<'a> {
    /// `inner` with the cache in `dir`: read if it is there and of these weights, else written.
    ///
    /// # Errors
    /// If the checkpoint cannot be read. A cache that cannot be is no error: see [`Packed::finish`].
    pub fn new(inner: &'a dyn WeightSource, dir: &Path) -> Result<Self> {
        let identity = format!("{FORMAT}{}", inner.fingerprint()?);
        let path = dir.join(FILE);
        let cache = match MappedFile::open(&path) {
            Ok(file) if holds(&file, &identity, inner.config()) => Cache::Read(file),
            _ => Cache::Write(Mutex::new(Writer::create(&path, &identity, inner.config()))),
        };
        Ok(Self { inner, cache })
    }

    /// Ends the cache once everything is loaded.
    pub fn finish(self) -> Kept {
        let writer = match self.cache {
            Cache::Read(_) => return Kept::Read,
            Cache::Write(writer) => writer.into_inner().unwrap_or_else(|e| e.into_inner()),
        };
        let unfinished = writer.unfinished.clone();
        writer.finish().unwrap_or_else(|e| {
            let _ = std::fs::remove_file(unfinished);
            Kept::Not(e)
        })
    }
}

/// Whether the file is a whole cache of the checkpoint with this identity.
fn holds(file: &MappedFile, identity: &str, c: &ModelConfig) -> bool {
    let len = |name: String| file.entry(&name).map(|e| file.bytes(e).len());
    file.entry("source").is_some_and(|e| file.bytes(e) == identity.as_bytes())
        && linears(c).into_iter().all(|(path, packed, absmax)| {
            len(format!("{path}.packed")) == Some(packed) && len(format!("{path}.absmax")) == Some(absmax)
        })
}

impl Writer {
    /// Begins the file; a failure is kept for the end.
    fn create(path: &Path, identity: &str, c: &ModelConfig) -> Self {
        let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
        let mut missing = linears(c);
        let mut header = serde_json::Map::new();
        let mut end = 0;
        let mut entry = |name: String, dtype: &str, elements: usize, bytes: usize| {
            header.insert(name, json!({"dtype": dtype, "shape": [elements], "data_offsets": [end, end + bytes]}));
            end += bytes;
        };
        for (path, packed, absmax) in &missing {
            entry(format!("{path}.packed"), "U8", *packed, *packed);
            entry(format!("{path}.absmax"), "F32", absmax / 4, *absmax);
        }
        entry("source".into(), "U8", identity.len(), identity.len());
        missing.reverse();
        let mut text = serde_json::Value::Object(header).to_string().into_bytes();
        // The data begin at a multiple of 64 bytes.
        text.resize((text.len() + 8).next_multiple_of(64) - 8, b' ');
        let begin = || -> io::Result<BufWriter<File>> {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
            file.write_all(&(text.len() as u64).to_le_bytes())?;
            file.write_all(&text)?;
            Ok(file)
        };
        Self {
            file: begin().map_err(Error::io("write", &unfinished)),
            path: path.to_path_buf(),
            unfinished,
            missing,
            identity: identity.to_owned(),
        }
    }

    /// Appends the next linear.
    fn keep(&mut self, path: &str, packed: &[u8], absmax: &[u8]) {
        let Ok(file) = &mut self.file else { return };
        let expected = self.missing.pop();
        if expected != Some((path.to_owned(), packed.len(), absmax.len())) {
            self.file = Err(Error::failed(format!("{path} came where the packed cache expected {expected:?}")));
        } else if let Err(e) = file.write_all(packed).and_then(|()| file.write_all(absmax)) {
            self.file = Err(Error::io("write", &self.unfinished)(e));
        }
    }

    /// Makes the file whole and gives it its name.
    fn finish(self) -> Result<Kept> {
        let mut file = self.file?;
        if let Some((path, ..)) = self.missing.last() {
            return Err(Error::failed(format!("the packed cache lacks {path}")));
        }
        let end = || -> io::Result<u64> {
            file.write_all(self.identity.as_bytes())?;
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            std::fs::rename(&self.unfinished, &self.path)?;
            Ok(file.metadata()?.len())
        };
        let bytes = end().map_err(Error::io("write", &self.unfinished))?;
        Ok(Kept::Written(self.path, bytes))
    }
}

impl WeightSource for Packed<'_> {
    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorData<'_>> {
        self.inner.tensor(name, shape)
    }

    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        let Cache::Read(file) = &self.cache else { return self.inner.linear(path, n, k) };
        let bytes = |part: &str| file.entry(&format!("{path}.{part}")).map(|e| file.bytes(e));
        match (bytes("packed"), bytes("absmax")) {
            (Some(packed), Some(absmax)) => {
                Ok(LinearData::Nf4 { packed: Cow::Borrowed(packed), absmax: bytemuck::pod_collect_to_vec(absmax) })
            }
            // Not a linear of the layers: the head.
            _ => self.inner.linear(path, n, k),
        }
    }

    fn dense_dtype(&self) -> DType {
        self.inner.dense_dtype()
    }

    fn recipe(&self, name: &str) -> Option<Bell> {
        self.inner.recipe(name)
    }

    fn keeps_packed(&self) -> bool {
        matches!(self.cache, Cache::Write(_))
    }

    fn keep_packed(&self, path: &str, packed: &[u8], absmax: &[u8]) {
        if let Cache::Write(writer) = &self.cache {
            writer.lock().unwrap_or_else(|e| e.into_inner()).keep(path, packed, absmax);
        }
    }

    fn is_quantized(&self) -> bool {
        self.inner.is_quantized()
    }

    fn fingerprint(&self) -> Result<String> {
        self.inner.fingerprint()
    }

    fn release(&self, name: &str) {
        match (&self.cache, name.strip_suffix(".weight")) {
            (Cache::Read(file), Some(path)) if file.entry(&format!("{path}.packed")).is_some() => {
                file.release(&format!("{path}.packed"));
                file.release(&format!("{path}.absmax"));
            }
            _ => self.inner.release(name),
        }
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::source::open;

    fn load(source: &dyn WeightSource, c: &ModelConfig) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for (path, packed, absmax) in linears(c) {
            let (n, k) = Module::ALL.iter().find(|m| path.ends_with(m.path())).expect("a module").shape(c);
            let (mut p, mut a) = (vec![0; packed], vec![0f32; absmax / 4]);
            match source.linear(&path, n, k).expect("read") {
                LinearData::Dense(t) => nf4::quantize(t.floats(), &mut p, &mut a),
                LinearData::Nf4 { packed, absmax } => (p, a) = (packed.into_owned(), absmax),
            }
            if source.keeps_packed() {
                source.keep_packed(&path, &p, bytemuck::cast_slice(&a));
            }
            source.release(&format!("{path}.weight"));
            all.extend([p, bytemuck::cast_slice(&a).to_vec()]);
        }
        all
    }

    fn tiny(dir: &Path) -> Box<dyn WeightSource> {
        open(dir.to_str().expect("a path")).expect("opens").source
    }

    /// A copy of a small dense checkpoint, to write beside.
    fn checkpoint() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models/tied");
        for file in std::fs::read_dir(from).expect("the golden model") {
            let file = file.expect("a file").path();
            std::fs::copy(&file, dir.path().join(file.file_name().expect("a name"))).expect("copied");
        }
        dir
    }

    #[test]
    fn the_second_start_reads_what_the_first_packed() {
        let dir = checkpoint();
        let inner = tiny(dir.path());
        let c = inner.config().clone();
        let first = Packed::new(inner.as_ref(), dir.path()).expect("opens");
        assert!(first.keeps_packed());
        let want = load(&first, &c);
        let Kept::Written(path, bytes) = first.finish() else { panic!("not written") };
        assert_eq!((path.file_name(), std::fs::metadata(&path).expect("there").len()), (Some(FILE.as_ref()), bytes));
        let second = Packed::new(inner.as_ref(), dir.path()).expect("opens");
        assert!(!second.keeps_packed());
        assert!(load(&second, &c) == want);
        assert!(matches!(second.finish(), Kept::Read));
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models/tied");
            std::fs::read_dir(from).expect("listed").count() + 1
        });
    }

    #[test]
    fn a_cache_of_other_weights_or_cut_short_is_written_anew() {
        let dir = checkpoint();
        let inner = tiny(dir.path());
        let c = inner.config().clone();
        let first = Packed::new(inner.as_ref(), dir.path()).expect("opens");
        let want = load(&first, &c);
        first.finish();
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).expect("read");
        let mut other = whole.clone();
        *other.last_mut().expect("not empty") ^= 1;
        for spoilt in [&whole[..whole.len() - 1], &other[..], b"", b"not a file of tensors"] {
            std::fs::write(&path, spoilt).expect("written");
            let again = Packed::new(inner.as_ref(), dir.path()).expect("opens");
            assert!(again.keeps_packed() && load(&again, &c) == want);
            assert!(matches!(again.finish(), Kept::Written(..)));
            assert!(std::fs::read(&path).expect("read") == whole);
        }
    }

    /// Stopped in the middle, or where nothing may be written: no cache, and no leftovers.
    #[test]
    fn what_cannot_be_finished_leaves_nothing() {
        let dir = checkpoint();
        let inner = tiny(dir.path());
        let half = Packed::new(inner.as_ref(), dir.path()).expect("opens");
        assert!(matches!(half.finish(), Kept::Not(e) if e.to_string().contains("lacks")));
        let before = std::fs::read_dir(dir.path()).expect("listed").count();
        let nowhere = Packed::new(inner.as_ref(), &dir.path().join("missing")).expect("opens");
        load(&nowhere, inner.config());
        assert!(matches!(nowhere.finish(), Kept::Not(_)));
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), before);
        assert!(!dir.path().join(FILE).exists());
    }
}
