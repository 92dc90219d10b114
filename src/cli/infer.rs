//! What `eval`, `score` and `generate` share: which model, how it is opened, and progress.

use crate::{
    Error, Result,
    eval::ask::{Prompter, Question},
    model::Engine,
};
use sha2::{Digest, Sha256};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Which model answers, and on what.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ModelArgs {
    /// Model: a Hugging Face directory, an id in the local cache, or synthetic:qwen3-8b
    #[arg(long, alias = "model-name", alias = "hf-model-name", value_name = "MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// PEFT adapter directory
    #[arg(long, alias = "hf-lora-path", value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// Hold the base weights in NF4 (the default)
    #[arg(long, alias = "hf-load-in-4bit", alias = "load-in-4bit", conflicts_with = "no_4bit", help_heading = "Model")]
    pub use_4bit: bool,
    /// Keep the base weights as they are
    #[arg(long, help_heading = "Model")]
    pub no_4bit: bool,
    /// auto, cpu or cuda[:N]
    #[arg(long, default_value = "auto", value_name = "DEVICE", help_heading = "Model")]
    pub device: String,
    /// Most memory to take, such as 9.5GiB
    #[arg(long, value_name = "SIZE", value_parser = super::common::parse_bytes, help_heading = "Model")]
    pub memory_limit: Option<u64>,
    /// Longest prompt (with its answer) in tokens
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576), help_heading = "Model")]
    pub max_seq_length: u32,
}

impl ModelArgs {
    /// The model's name, or the error that says it is missing.
    pub fn name(&self) -> Result<&str> {
        self.model.as_deref().ok_or_else(|| {
            Error::usage(
                "--model is missing: name a Hugging Face directory, an id in the local cache, or synthetic:qwen3-0.6b",
            )
        })
    }

    /// SHA-256 of the adapter's weights, which tells adapters apart in results; `None` without an adapter.
    pub fn adapter_fingerprint(&self) -> Result<Option<String>> {
        let Some(dir) = &self.adapter else { return Ok(None) };
        let path = dir.join("adapter_model.safetensors");
        let mut file = std::fs::File::open(&path).map_err(Error::io("read", &path))?;
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash).map_err(Error::io("read", &path))?;
        Ok(Some(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()))
    }
}

/// A tokenizer with the model's chat template.
pub trait Text {
    /// Tokens of plain text.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;
    /// Tokens of one user message in the chat template, up to where the model's turn begins; thinking off.
    fn chat(&self, message: &str) -> Result<Vec<u32>>;
    /// Text of tokens, special ones left out.
    fn decode(&self, tokens: &[u32]) -> Result<String>;
    /// Tokens that end the model's turn.
    fn stop(&self) -> Vec<u32>;
}

/// A model ready for inference.
pub struct Session {
    /// The model with its adapter on its device.
    pub engine: Engine,
    /// Its tokenizer.
    pub text: Box<dyn Text>,
    /// For messages and results: model and device in words.
    pub description: String,
}

/// How an engine is to be laid out.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Longest document.
    pub max_len: usize,
    /// Most rows of one forward pass.
    pub max_rows: usize,
    /// Sequences generated at once; 0 for none.
    pub kv_slots: usize,
    /// Most tokens that are generated after a prompt.
    pub max_new: usize,
}

/// Opens model, adapter and tokenizer and lays the engine out.
pub fn open(args: &ModelArgs, layout: Layout) -> Result<Session> {
    let name = args.name()?;
    Err(Error::failed(format!(
        "cannot open {name} for documents of {} tokens: inference is not connected to the model loader yet",
        layout.max_len
    )))
}

/// How questions are put to the model.
#[derive(Debug, Clone)]
pub struct PromptChoice {
    /// letter, answer-line, cot or a template file.
    pub prompt: String,
    /// Show the worked example.
    pub few_shot: bool,
    /// Show the question's own statutes.
    pub gold: bool,
    /// Chat template or raw `<USER>…<ASSISTANT>…`.
    pub style: Style,
}

/// The conversation format around a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// The model's own chat template, thinking off.
    #[default]
    Chat,
    /// `<USER>…<ASSISTANT>…` as the user's script wrote it.
    Raw,
}

/// The prompter of a template over a session's tokenizer.
pub fn prompter(session: &Session, choice: &PromptChoice) -> Result<Box<dyn Prompter>> {
    let _ = session;
    Err(Error::failed(format!("prompt `{}` is not connected to the templates yet", choice.prompt)))
}

/// Reads lawqa JSON or JSONL records with a question in their meta.
pub fn questions(path: &Path) -> Result<Vec<Question>> {
    std::fs::File::open(path).map_err(Error::io("read", path))?;
    Err(Error::failed(format!("{}: reading questions is not connected to the data room yet", path.display())))
}

/// A progress bar on a terminal, a line now and then elsewhere; silent if `quiet`.
pub struct Progress {
    bar: Option<indicatif::ProgressBar>,
    total: usize,
    what: &'static str,
    said: Instant,
    start: Instant,
    quiet: bool,
}

impl Progress {
    /// Begins to count `total` of `what`.
    pub fn new(total: usize, what: &'static str, quiet: bool) -> Self {
        let bar = (std::io::stderr().is_terminal() && !quiet).then(|| {
            let style = indicatif::ProgressStyle::with_template("{bar:32} {pos}/{len} {msg} {per_sec} eta {eta}");
            let bar = indicatif::ProgressBar::new(total as u64).with_message(what);
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        Self { bar, total, what, said: Instant::now(), start: Instant::now(), quiet }
    }

    /// `n` are done.
    pub fn set(&mut self, n: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(n as u64);
        } else if !self.quiet && (self.said.elapsed() > Duration::from_secs(10) || n == self.total) {
            self.said = Instant::now();
            let rate = n as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
            super::common::note(&format!("{n}/{} {} ({rate:.1}/s)", self.total, self.what));
        }
    }

    /// Ends; returns the seconds it took.
    pub fn finish(self) -> f64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.start.elapsed().as_secs_f64()
    }
}
