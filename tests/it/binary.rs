//! The program as a file: what it needs to start, how fast it says `--help`, how it ends when its reader goes, and how
//! much memory training takes.

use crate::program::{IRORI, command, done, irori, samples, steps};
use irori::model::{ModelConfig, Module};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// The NEEDED entries of a 64-bit little-endian ELF file: the libraries that the loader looks for before `main`.
fn needed(path: &Path) -> Vec<String> {
    let elf = fs::read(path).expect("read");
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let number = |at: usize, bytes: usize| {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(&elf[at..at + bytes]);
        u64::from_le_bytes(wide) as usize
    };
    let headers = |at: usize, size: usize, count: usize| (0..count).map(move |i| at + i * size);
    // Sections: type 6 is SHT_DYNAMIC, whose link is its string table. Entries: tag 1 is DT_NEEDED.
    let sections: Vec<usize> = headers(number(0x28, 8), number(0x3a, 2), number(0x3c, 2)).collect();
    let dynamic = sections.iter().copied().find(|&s| number(s + 4, 4) == 6).expect("dynamically linked");
    let strings = number(sections[number(dynamic + 0x28, 4)] + 0x18, 8);
    headers(number(dynamic + 0x18, 8), 16, number(dynamic + 0x20, 8) / 16)
        .filter(|&entry| number(entry, 8) == 1)
        .map(|entry| {
            let name = elf[strings + number(entry + 8, 8)..].split(|&b| b == 0).next().unwrap_or_default();
            String::from_utf8_lossy(name).into_owned()
        })
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn starts_and_trains_where_there_is_no_cuda() {
    let libraries = needed(Path::new(IRORI));
    assert!(libraries.iter().any(|l| l.starts_with("libc.so")), "{libraries:?}");
    for name in ["cuda", "cudart", "nvrtc", "cublas", "stdc++", "openblas", "mkl", "python"] {
        assert!(!libraries.iter().any(|l| l.to_lowercase().contains(name)), "it links {name}: {libraries:?}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    samples(&dir.path().join("t.jsonl"), 4, 1);
    let bare = |args: &[&str]| {
        let mut command = command(dir.path(), args);
        // No library path, no CUDA variable, no cache: as on a machine that has none of it.
        crate::program::finish(command.env_clear().env("LD_LIBRARY_PATH", ""))
    };
    assert_eq!(bare(&["--help"]).code, Some(0));
    assert_eq!(bare(&["--version"]).code, Some(0));
    let doctor = bare(&["doctor"]);
    assert!(matches!(doctor.code, Some(0 | 1)) && !doctor.stderr.contains("panicked"), "{doctor:?}");
    for device in ["auto", "cpu"] {
        let line = format!("train --model synthetic:tiny --train-file t.jsonl --max-steps 1 --output-dir {device}");
        let end = bare(&[&line.split(' ').collect::<Vec<_>>()[..], &["--device", device]].concat());
        assert_eq!(end.code, Some(0), "{end:?}");
    }
    let end = bare(&[
        "train",
        "--model",
        "synthetic:tiny",
        "--train-file",
        "t.jsonl",
        "--output-dir",
        "o",
        "--device",
        "cuda",
    ]);
    assert!(
        matches!(end.code, Some(1 | 2)) && end.stderr.contains("error: ") && end.stderr.contains("cuda"),
        "{end:?}"
    );
    assert!(!end.stderr.contains("panicked"), "{end:?}");
}

#[test]
fn help_is_there_at_once() {
    let mut times: Vec<_> = (0..20)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(irori(Path::new("."), &["--help"]).code, Some(0));
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    eprintln!("irori --help: median {median:.1} ms of 20, fastest {:.1} ms", times[0]);
    // The released program takes a tenth of this; an unoptimised one on a busy machine must still be far from slow.
    assert!(times[0] < 500.0, "{times:?}");
    for command in
        ["demo", "dataset", "plan", "train", "eval", "compare", "score", "generate", "quantize", "merge", "synth"]
    {
        let end = irori(Path::new("."), &[command, "--help"]);
        assert!(end.code == Some(0) && end.stdout.contains("Usage: irori"), "{command}: {end:?}");
    }
}

/// A reader that goes away after a line (`| head -1`) is no error, however much there was to say.
#[test]
fn a_closed_pipe_ends_it_quietly() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    let lines: String = (0..3000).map(|i| format!("{{\"input\":\"問い{i}\",\"output\":\"Answer: a\"}}\n")).collect();
    fs::write(at.join("r.jsonl"), lines).expect("written");
    done(at, &["synth", "--arch", "tiny", "--output", "m"]);
    for line in [
        "--help",
        "train --help",
        "dataset inspect r.jsonl --model m --samples 3000",
        "dataset inspect r.jsonl --model m --json",
    ] {
        let script = format!("{{ {IRORI} {line}; echo $? >code; }} 2>err | head -1");
        let out = Command::new("sh").args(["-c", &script]).current_dir(at).stdin(Stdio::null()).output().expect("sh");
        let read = |name: &str| fs::read_to_string(at.join(name)).expect("written");
        assert!(!out.stdout.is_empty(), "{line}: {}", read("err"));
        assert_eq!((read("code").trim(), read("err").as_str()), ("0", ""), "{line}");
    }
}

/// The peak of resident memory shows that weights are 4-bit where they should be: with everything else alike, NF4 takes
/// less by what the linears take less.
#[test]
fn resident_memory_is_that_of_four_bits() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    let mut shape = ModelConfig::preset("tiny").expect("known");
    shape.hidden = 768;
    shape.intermediate = 3072;
    shape.layers = 8;
    shape.heads.q = 12;
    shape.heads.kv = 12;
    fs::write(at.join("config.json"), shape.to_json("bfloat16").to_string()).expect("written");
    done(at, &["synth", "--arch", "config.json", "--output", "m", "--shard-size", "16MB"]);
    samples(&at.join("t.jsonl"), 4, 1);
    let peak = |output: &str, extra: &[&str]| {
        let line =
            format!("train --model m --train-file t.jsonl --max-steps 1 --lora-r 2 --output-dir {output} --threads 2");
        done(at, &[&line.split(' ').collect::<Vec<_>>()[..], extra].concat());
        steps(&at.join(output))[0]["peak_memory_bytes"].as_u64().expect("a number") as f64
    };
    let (four, dense) = (peak("four", &[]), peak("dense", &["--no-4bit"]));
    let weights: usize = Module::ALL.iter().map(|m| m.shape(&shape)).map(|(n, k)| n * k).sum::<usize>() * shape.layers;
    // bf16: 2 bytes a weight. NF4: half a byte, and 4 bytes for each block of 64.
    let saved = weights as f64 * (2.0 - (0.5 + 4.0 / 64.0));
    // What may differ besides: one tensor in f32 while it is quantised, a panel of unpacked weights for each thread, and
    // the pages of mapped weights that are being read.
    let largest = (shape.intermediate * shape.hidden) as f64;
    let slack = 4.0 * largest + 2.0 * 4.0 * largest / 8.0 + 16e6;
    let mb = |bytes: f64| bytes / 1e6;
    eprintln!(
        "{} M weights: NF4 {:.0} MB, dense {:.0} MB, expected difference {:.0} ± {:.0} MB",
        weights / 1_000_000,
        mb(four),
        mb(dense),
        mb(saved),
        mb(slack)
    );
    assert!(saved > 3.0 * slack, "the model is too small to tell");
    assert!((dense - four - saved).abs() < slack, "the difference is {:.0} MB", mb(dense - four));
    // And the whole of it: the packed weights, the dense rest, the adapter, activations of a few rows, the program.
    let rest = (shape.parameters() - weights) as f64 * 2.0;
    assert!(four < saved * 0.5625 / 1.4375 + rest + slack + 64e6, "{:.0} MB", mb(four));
}
