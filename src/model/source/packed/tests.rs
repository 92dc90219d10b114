//! The cache beside small checkpoints.

use super::*;
use crate::{
    files::faulty::{Fault, Faulty},
    model::{
        ModelConfig,
        catalogue::ModelTensor,
        source::{LinearData, open},
    },
    quant::nf4::Nf4,
    tensor::DType,
};
use std::fs;

/// Loads the linears as an engine does; returns the bytes of each.
fn load(cache: &mut Cache, c: &ModelConfig) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (source, mut sink) = cache.parts();
    let linear = |t: &ModelTensor| {
        let (n, k) = t.linear()?;
        let nf4 = match source.linear(t.path(), n, k).expect("read") {
            LinearData::Dense(w) => Nf4::of(w.floats().expect("floats")),
            LinearData::Nf4(nf4) => nf4,
        };
        let (packed, absmax) = (nf4.packed.to_vec(), bytemuck::cast_slice(&nf4.absmax).to_vec());
        if let Some(sink) = &mut sink {
            sink.keep(t.path(), &packed, &absmax);
        }
        source.release(&t.name);
        Some((packed, absmax))
    };
    tensors(c).iter().filter_map(linear).collect()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models/tied")
}

/// A copy of a small dense checkpoint, to write beside.
fn checkpoint() -> (tempfile::TempDir, Box<dyn WeightSource>) {
    let dir = tempfile::tempdir().expect("a directory");
    for file in fs::read_dir(golden()).expect("the golden model") {
        let file = file.expect("a file").path();
        fs::copy(&file, dir.path().join(file.file_name().expect("a name"))).expect("copied");
    }
    let source = open(dir.path().to_str().expect("a path")).expect("opens").source;
    (dir, source)
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).expect("listed").count()
}

#[test]
fn the_second_start_reads_what_the_first_packed() {
    let (dir, source) = checkpoint();
    let mut first = Cache::open(source.as_ref(), dir.path()).expect("opens");
    assert!(first.parts().1.is_some());
    let want = load(&mut first, source.config());
    let Kept::Written(path, bytes) = first.finish() else { panic!("not written") };
    assert_eq!((path.file_name(), fs::metadata(&path).expect("there").len()), (Some(FILE.as_ref()), bytes));
    let mut second = Cache::open(source.as_ref(), dir.path()).expect("opens");
    assert!(second.parts().1.is_none());
    assert!(load(&mut second, source.config()) == want);
    assert!(matches!(second.finish(), Kept::Read));
    assert_eq!(files(dir.path()), files(&golden()) + 1);
}

#[test]
fn a_cache_of_other_weights_or_cut_short_is_written_anew() {
    let (dir, source) = checkpoint();
    let mut first = Cache::open(source.as_ref(), dir.path()).expect("opens");
    let want = load(&mut first, source.config());
    first.finish();
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).expect("read");
    let mut other = whole.clone();
    *other.last_mut().expect("not empty") ^= 1;
    for spoilt in [&whole[..whole.len() - 1], &other[..], b"", b"not a file of tensors"] {
        fs::write(&path, spoilt).expect("written");
        let mut again = Cache::open(source.as_ref(), dir.path()).expect("opens");
        assert!(again.parts().1.is_some() && load(&mut again, source.config()) == want);
        assert!(matches!(again.finish(), Kept::Written(..)));
        assert!(fs::read(&path).expect("read") == whole);
    }
}

/// Stopped in the middle, or where nothing may be written: no cache, and no leftovers.
#[test]
fn what_cannot_be_finished_leaves_nothing() {
    let (dir, source) = checkpoint();
    let before = files(dir.path());
    let half = Cache::open(source.as_ref(), dir.path()).expect("opens");
    assert!(matches!(half.finish(), Kept::Not(e) if e.to_string().contains("lacks")));
    assert_eq!(files(dir.path()), before);
    let mut nowhere = Cache::open(source.as_ref(), &dir.path().join("missing")).expect("opens");
    load(&mut nowhere, source.config());
    assert!(matches!(nowhere.finish(), Kept::Not(_)));
    assert_eq!(files(dir.path()), before);
}

/// A full disk at any operation: the weights are loaded all the same, there is no cache, and no leftovers.
#[test]
fn a_full_disk_costs_the_cache_and_nothing_else() {
    let (dir, source) = checkpoint();
    let before = files(dir.path());
    let write = |disk: &Faulty| {
        let mut cache = Cache::open_on(disk, source.as_ref(), dir.path()).expect("opens");
        load(&mut cache, source.config());
        let kept = cache.finish();
        let left = files(dir.path()) - before;
        let _ = fs::remove_file(dir.path().join(FILE));
        (kept, left)
    };
    let disk = Faulty::new(u64::MAX, Fault::Full);
    assert!(matches!(write(&disk), (Kept::Written(..), 1)));
    // The last operation syncs the name of a file that is whole.
    for at in 0..disk.count() - 1 {
        let (kept, left) = write(&Faulty::new(at, Fault::Full));
        assert!(matches!(kept, Kept::Not(_)) && left == 0, "operation {at}: {kept:?}, {left} left");
    }
}

/// Linears that are not quantised are not in the cache, and one that was written when they were is not read for them.
#[test]
fn the_cache_holds_the_linears_that_are_quantised() {
    use crate::model::source::made::{As, bitsandbytes, directory};
    let patch = |skip: &[&str]| serde_json::json!({"quantization_config": bitsandbytes(skip)});
    let (root, path) = directory(true, |_| As::Dense(DType::F32), &[], patch(&["up_proj", "model.layers.1.self_attn"]));
    let plain = directory(true, |_| As::Dense(DType::F32), &[], serde_json::json!({}));
    let is_dense = |source: &dyn WeightSource, t: &ModelTensor| {
        let (n, k) = t.linear().expect("a linear");
        matches!(source.linear(t.path(), n, k).expect("read"), LinearData::Dense(_))
    };
    let opened = |path: &Path| open(path.to_str().expect("a path")).expect("opens").source;
    let keep = |source: &dyn WeightSource, path: &Path| {
        let mut cache = Cache::open(source, path).expect("opens");
        let (from, mut sink) = cache.parts();
        let mut dense = Vec::new();
        for t in tensors(source.config()).iter().filter(|t| t.linear().is_some()) {
            let (n, k) = t.linear().expect("a linear");
            if source.stays_dense(t.path()) {
                assert!(is_dense(from, t), "{}", t.name);
                dense.push(t.name.clone());
                continue;
            }
            let nf4 = match from.linear(t.path(), n, k).expect("read") {
                LinearData::Dense(w) => Nf4::of(w.floats().expect("floats")),
                LinearData::Nf4(nf4) => nf4,
            };
            if let Some(sink) = &mut sink {
                sink.keep(t.path(), &nf4.packed, bytemuck::cast_slice(&nf4.absmax));
            }
        }
        (cache.finish(), dense.len())
    };
    let excepted = opened(&path);
    assert!(matches!(keep(excepted.as_ref(), &path), (Kept::Written(..), 7)));
    assert!(matches!(keep(excepted.as_ref(), &path), (Kept::Read, 7)));
    let file = MappedFile::open(&path.join(FILE)).expect("whole");
    assert_eq!(file.entries().count(), 2 * (21 - 7) + 1);
    drop(file);
    // The cache of the same weights without exceptions.
    let other = opened(&plain.1);
    assert!(matches!(keep(other.as_ref(), &plain.1), (Kept::Written(..), 0)));
    fs::copy(plain.1.join(FILE), path.join(FILE)).expect("copied");
    assert!(matches!(keep(excepted.as_ref(), &path), (Kept::Written(..), 7)));
    drop(root);
}
