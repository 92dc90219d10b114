//! What `eval`, `score` and `generate` share: which model, how it is opened, and progress.

use super::common::{DeviceArgs, Job};
use crate::{
    Error, Result,
    data::encode::{Encoder, TextStyle},
    eval::ask::{Prompter, TemplatePrompter, Wording},
    model::{Engine, engine::HeadStore, peft, source},
    train::{config::ComputeDtype, output::RUN_CONFIG},
};
use sha2::{Digest, Sha256};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    rc::Rc,
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
    /// Type that a 4-bit weight is rounded to in use
    #[arg(long, value_name = "DTYPE", default_value = "bfloat16", help_heading = "Model")]
    pub bnb_4bit_compute_dtype: ComputeDtype,
    /// Keep the base weights as they are
    #[arg(long, help_heading = "Model")]
    pub no_4bit: bool,
    /// Hold the head in NF4 too [default: as the adapter's run.toml says it was trained, else false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          help_heading = "Model")]
    pub head_4bit: Option<bool>,
    /// Tokenizer, if the model has none of its own: a directory or tokenizer.json
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
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

    /// How the head is held: as asked, or as the adapter was trained.
    ///
    /// # Errors
    /// If it is asked for in 4 bits beside a base that is not.
    pub fn head(&self) -> Result<HeadStore> {
        if self.no_4bit && self.head_4bit == Some(true) {
            return Err(Error::usage("--head-4bit is for a base in 4 bits: leave out --no-4bit"));
        }
        let trained = || self.adapter.as_deref().is_some_and(|dir| trained_with_head_4bit(dir) && !self.no_4bit);
        Ok(if self.head_4bit.unwrap_or_else(trained) { HeadStore::Nf4 } else { HeadStore::Dense })
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

/// Whether the run that made the adapter in `dir` (its output directory, or a checkpoint in it) held the head in NF4.
pub(super) fn trained_with_head_4bit(dir: &Path) -> bool {
    let run = |dir: &Path| std::fs::read_to_string(dir.join(RUN_CONFIG)).ok()?.parse::<toml::Table>().ok();
    let checkpoint = dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with("checkpoint-"));
    let recorded = run(dir).or_else(|| checkpoint.then(|| run(&dir.join(".."))).flatten());
    recorded.and_then(|t| t.get("head-4bit")?.as_bool()).unwrap_or(false)
}

/// A model ready for inference.
pub struct Session {
    /// The model with its adapter on its device.
    pub engine: Engine,
    /// Its tokenizer and chat template, if it has them.
    encoder: std::result::Result<Rc<Encoder>, String>,
    /// For messages and results: the device in words.
    pub description: String,
}

impl Session {
    /// The tokenizer and chat template.
    ///
    /// # Errors
    /// If the model has none; the message says how to name one.
    pub fn encoder(&self) -> Result<&Rc<Encoder>> {
        self.encoder.as_ref().map_err(|e| Error::usage(e.clone()))
    }
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
    /// Conversation format around a prompt.
    pub style: TextStyle,
}

/// Opens model, adapter and tokenizer and lays the engine out.
pub fn open(args: &ModelArgs, layout: Layout) -> Result<Session> {
    let name = args.name()?;
    let opened = source::open(name)?;
    let text = args.tokenizer.as_deref().or(opened.dir.as_deref().filter(|d| d.join("tokenizer.json").exists()));
    let encoder = match text {
        Some(path) => Ok(Rc::new(Encoder::load(path, layout.style)?)),
        None => Err(format!("{name} has no tokenizer: name a directory or tokenizer.json with --tokenizer")),
    };
    let adapter = args.adapter.as_deref().map(|dir| peft::load(dir, opened.source.config())).transpose()?;
    let kv_capacity = if layout.kv_slots > 0 { layout.max_len + layout.max_new } else { 0 };
    let job = Job {
        lora: adapter.as_ref().map(|a| a.lora.clone()),
        four_bit: !args.no_4bit,
        compute: args.bnb_4bit_compute_dtype.dtype(),
        head: args.head()?,
        kv_slots: layout.kv_slots,
        kv_capacity,
        ..Job::inference(layout.max_rows, layout.max_len)
    };
    let mut engine = super::common::engine(&opened, &job, &args.device)?;
    if let Some(adapter) = &adapter {
        engine.set_adapter(&adapter.flat)?;
    }
    let description = engine.describe();
    Ok(Session { engine, encoder, description })
}

/// The prompter of a template over a session's tokenizer.
pub fn prompter(session: &Session, wording: &Wording) -> Result<Box<dyn Prompter>> {
    Ok(Box::new(TemplatePrompter::new(session.encoder()?.clone(), wording)?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_trained_with_a_head_in_four_bits_is_asked_with_one() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        std::fs::create_dir_all(run.join("checkpoint-7")).unwrap();
        std::fs::create_dir_all(run.join("other")).unwrap();
        let head = |adapter: &Path, head_4bit: Option<bool>, no_4bit: bool| {
            let args = ModelArgs { adapter: Some(adapter.into()), head_4bit, no_4bit, ..ModelArgs::default() };
            args.head().map(|h| h == HeadStore::Nf4)
        };
        assert!(!head(run, None, false).unwrap(), "no run.toml");
        std::fs::write(run.join(RUN_CONFIG), "lora-r = 8\nhead-4bit = true\n").unwrap();
        assert!(head(run, None, false).unwrap() && head(&run.join("checkpoint-7"), None, false).unwrap());
        assert!(!head(&run.join("other"), None, false).unwrap(), "another adapter");
        assert!(!head(run, Some(false), false).unwrap() && !head(run, None, true).unwrap());
        assert!(head(run, Some(true), true).unwrap_err().to_string().contains("--no-4bit"));
        std::fs::write(run.join(RUN_CONFIG), "head-4bit = false\n").unwrap();
        assert!(!head(run, None, false).unwrap() && head(run, Some(true), false).unwrap());
    }
}
