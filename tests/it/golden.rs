//! irori against transformers, peft and bitsandbytes: the files of `tests/goldens`, whose README says what they hold.

mod checkpoints;
mod engine;
mod nf4;
mod text;

use serde_json::Value;
use std::path::PathBuf;

/// A path below `tests/goldens`.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A JSON file.
fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(path(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

/// An array of numbers.
fn numbers<T>(value: &Value, each: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().expect("an array").iter().map(|v| each(v).expect("a number")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value, |v| v.as_u64().map(|x| x as u32))
}

fn f32s(value: &Value) -> Vec<f32> {
    numbers(value, |v| v.as_f64().map(|x| x as f32))
}

/// A safetensors file, whole in memory.
struct Tensors(Vec<u8>);

impl Tensors {
    fn open(name: &str) -> Self {
        Self(std::fs::read(path(name)).expect(name))
    }

    fn file(&self) -> safetensors::SafeTensors<'_> {
        safetensors::SafeTensors::deserialize(&self.0).expect("safetensors")
    }

    fn names(&self) -> Vec<String> {
        self.file().names().into_iter().map(Into::into).collect()
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.file().tensor(name).expect(name).shape().to_vec()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.file().tensor(name).expect(name).data().to_vec()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.bytes(name))
    }
}

/// Fails where two values differ by more than `tolerance`, and names the place of the largest difference.
#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let worst = (0..found.len()).max_by(|&i, &j| {
        let difference = |i: usize| (found[i] - expected[i]).abs();
        difference(i).total_cmp(&difference(j)) // NaN is the largest
    });
    if let Some(i) = worst {
        let difference = (found[i] - expected[i]).abs();
        eprintln!("{what}: largest difference {difference:.2e} of {tolerance:.1e} allowed");
        assert!(difference <= tolerance, "{what}[{i}]: found {}, expected {}", found[i], expected[i]);
    }
}

/// Fails where two byte strings differ, and names the first place.
#[track_caller]
fn assert_same(what: &str, found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if let Some(i) = (0..found.len()).find(|&i| found[i] != expected[i]) {
        let count = found.iter().zip(expected).filter(|(a, b)| a != b).count();
        panic!(
            "{what}: {count} bytes differ, the first at {i}: found {:#04x}, expected {:#04x}",
            found[i], expected[i]
        );
    }
}
