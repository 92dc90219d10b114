//! `irori score`: log-probability of each token of given texts.

use super::{
    common::{Progress, note},
    flags::ModelArgs,
    output::OutputFile,
    print,
};
use crate::{Error, Result, data::json, eval::score};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Arguments of `irori score`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// JSONL of {"text": …} or {"tokens": […]}
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// JSONL of {"tokens": […], "logprobs": [null, …]}, natural log [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the output file
    #[arg(long)]
    force: bool,
}

#[derive(Debug, PartialEq)]
enum Line {
    Text(String),
    Tokens(Vec<u32>),
}

fn read(path: &Path) -> Result<Vec<(usize, Line)>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let mut out = Vec::new();
    for (number, value) in json::lines(path, &bytes)? {
        let at = |field: &str| format!("line {number}{field}");
        let parsed = match (&value["text"], &value["tokens"]) {
            (Value::String(s), Value::Null) => Line::Text(s.clone()),
            (Value::Null, Value::Array(list)) => {
                let ids: Option<Vec<u32>> =
                    list.iter().map(|v| v.as_u64().and_then(|t| u32::try_from(t).ok())).collect();
                Line::Tokens(
                    ids.ok_or_else(|| Error::content(path, at(", field `tokens`"), "expected whole numbers from 0"))?,
                )
            }
            _ => return Err(Error::content(path, at(""), "expected {\"text\": \"…\"} or {\"tokens\": […]}")),
        };
        out.push((number, parsed));
    }
    if out.is_empty() {
        return Err(Error::content(path, "", "holds no line to score"));
    }
    Ok(out)
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let output = args.output.as_deref().map(|path| OutputFile::new(path, args.force)).transpose()?;
    let lines = read(&args.input)?;
    let asked = args.model.decide(None)?;
    let mut session = args.model.open(&asked, None)?;
    let vocab = session.engine.spec().model.vocab;
    let mut texts = Vec::with_capacity(lines.len());
    for (number, line) in &lines {
        let tokens = match line {
            Line::Text(text) => session.encoder()?.tokenizer.encode(text)?,
            Line::Tokens(tokens) => tokens.clone(),
        };
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= vocab) {
            let (field, why) = match line {
                Line::Text(_) => ("text", ": the tokenizer is not this model's"),
                Line::Tokens(_) => ("tokens", ""),
            };
            let message = format!("token {t} is not in the vocabulary of {vocab}{why}");
            return Err(Error::content(&args.input, format!("line {number}, field `{field}`"), message));
        }
        texts.push(tokens);
    }
    let mut progress = Progress::new(texts.len(), "texts", args.output.is_none());
    let name = |i: usize| format!("{}, line {}", args.input.display(), lines[i].0);
    let scores = score::score(&mut session.engine, &texts, name, &mut |n| progress.set(n))?;
    let seconds = progress.finish();
    let mut out = String::new();
    for (tokens, logprobs) in texts.iter().zip(&scores) {
        out.push_str(&serde_json::json!({"tokens": tokens, "logprobs": logprobs}).to_string());
        out.push('\n');
    }
    match output {
        None => print(&out),
        Some(file) => {
            file.write(out.as_bytes())?;
            note(&format!("{} texts in {seconds:.1} s, written to {}", texts.len(), file.path().display()));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_kinds_and_bad_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t.jsonl");
        let check = |text: &[u8]| {
            std::fs::write(&path, text).expect("written");
            read(&path)
        };
        let ok = check("\u{feff}{\"text\":\"あ\"}\n\n{\"tokens\":[1,2]}\r\n".as_bytes()).expect("read");
        assert_eq!(ok, [(1, Line::Text("あ".into())), (3, Line::Tokens(vec![1, 2]))]);
        for (text, says) in [
            (&b""[..], "holds no line"),
            (b"{}\n", "line 1: expected"),
            (b"{\"text\":\"a\"}\n{\"tokens\":[-1]}", "line 2, field `tokens`"),
            (b"{\"tokens\":[4294967296]}", "field `tokens`"),
            (b"{\"text\":\"a\",\"tokens\":[1]}", "line 1: expected"),
            (b"[1]\n", "line 1: expected"),
            (b"[{\"text\":\"a\"}]\n", "one JSON list of 1"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
            (b"{\"text\":\"a\",\"text\":\"b\"}\n", "the key `text` stands twice"),
            (b"{\"text\":\"a\"}\n{\"te", "line 2: not valid JSON"),
            (b"{\"text\":\"a\"}\n\xff\n", "line 2: not UTF-8"),
        ] {
            let e = check(text).expect_err(says).to_string();
            assert!(e.contains("t.jsonl") && e.contains(says), "{e} lacks {says}");
        }
    }
}
