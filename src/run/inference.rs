//! A model that answers: opened with its adapter and its tokenizer, planned, and loaded.

use super::{Listener, engine};
use crate::{
    Error, Result,
    data::encode::{Encoder, TextStyle},
    digest,
    error::Setting,
    eval::ask::{TemplatePrompter, Wording},
    files::stand_in,
    model::{
        Engine,
        engine::EngineSpec,
        peft,
        source::{self, Opened, cache},
    },
    plan::settings::{Base, BaseSettings, Machine},
    settings::Group,
    train::output::RUN_CONFIG,
};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

/// What a session is asked for.
#[derive(Debug, Clone)]
pub struct Inference {
    /// The model.
    pub base: Base,
    /// Its adapter's directory, if it has one.
    pub adapter: Option<PathBuf>,
    /// Where it computes.
    pub machine: Machine,
    /// How a conversation becomes text.
    pub style: TextStyle,
    /// Longest document, and most rows of a pass.
    pub max_len: usize,
    /// What it generates, if it does.
    pub generation: Option<Generation>,
}

/// What is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Sequences at once.
    pub sequences: usize,
    /// Most tokens after a prompt.
    pub new_tokens: usize,
}

/// A model ready for inference.
pub struct Session {
    /// The model with its adapter on its device.
    pub engine: Engine,
    /// For messages and results: the device in words.
    pub description: String,
    /// The model's name, and its tokenizer if it has one.
    model: String,
    encoder: Option<Rc<Encoder>>,
}

impl Session {
    /// Opens model, adapter and tokenizer, plans, and loads.
    ///
    /// # Errors
    /// What is missing or malformed, or does not fit.
    pub fn open(asked: &Inference, listener: &mut dyn Listener) -> Result<Self> {
        let opened = source::open(&asked.base.model)?;
        let encoder = encoder(asked, &opened)?;
        let load = |name: &Path| peft::load(&adapter_dir(name)?, opened.source.config());
        let adapter = asked.adapter.as_deref().map(load).transpose()?;
        let spec = engine::asked(&asked.base, opened.source.config().clone(), asked.max_len, asked.max_len);
        let spec = EngineSpec {
            lora: adapter.as_ref().map(|a| a.lora.clone()),
            kv_slots: asked.generation.map_or(0, |g| g.sequences),
            kv_capacity: asked.generation.map_or(0, |g| asked.max_len + g.new_tokens),
            ..spec
        };
        let mut engine = engine::engine(&opened, spec, &asked.machine, listener)?;
        if let Some(adapter) = &adapter {
            engine.set_adapter(&adapter.flat)?;
        }
        let description = engine.describe();
        Ok(Self { engine, description, model: asked.base.model.clone(), encoder })
    }

    /// The tokenizer and chat template.
    ///
    /// # Errors
    /// If the model has none.
    pub fn encoder(&self) -> Result<&Rc<Encoder>> {
        self.encoder.as_ref().ok_or_else(|| {
            let message = format!("{} has none of its own: name a directory or tokenizer.json", self.model);
            Error::setting(Setting::named("tokenizer"), message)
        })
    }

    /// Puts questions into words as `wording` says.
    ///
    /// # Errors
    /// If the model has no tokenizer, or the template is missing or broken.
    pub fn prompter(&self, wording: &Wording) -> Result<TemplatePrompter> {
        TemplatePrompter::new(self.encoder()?.clone(), wording)
    }
}

fn encoder(asked: &Inference, opened: &Opened) -> Result<Option<Rc<Encoder>>> {
    let place = tokenizer_of(asked.base.tokenizer.as_deref(), opened)?;
    place.map(|place| Encoder::load(&place, asked.style).map(Rc::new)).transpose()
}

/// Where the tokenizer is: where `named` says, else the model's own if it has one.
///
/// # Errors
/// If what is named is not there.
pub(super) fn tokenizer_of(named: Option<&Path>, opened: &Opened) -> Result<Option<PathBuf>> {
    let own = opened.dir.as_deref().filter(|d| stand_in::exists(&d.join("tokenizer.json")));
    named.map_or_else(|| Ok(own.map(Path::to_path_buf)), |named| cache::locate("tokenizer", named).map(Some))
}

/// The directory of the adapter that is called `name`: a directory, or an id in the local cache.
///
/// # Errors
/// If it is not there.
pub fn adapter_dir(name: &Path) -> Result<PathBuf> {
    cache::locate("adapter", name)
}

/// The base model as it is to be held beside `adapter`: where nothing is said of the head, as training held it.
///
/// # Errors
/// If no model is named, or settings contradict each other.
pub fn base_of(mut given: BaseSettings, adapter: Option<&Path>) -> Result<Base> {
    if given.head_4bit.is_none() && given.use_4bit != Some(false) {
        given.head_4bit = adapter.map(adapter_dir).transpose()?.as_deref().map(trained_with_head_4bit);
    }
    let base = given.resolve()?;
    base.validate()?;
    Ok(base)
}

/// Whether the run that made the adapter in `dir` (its output directory, or a checkpoint in it) held the head in NF4.
pub fn trained_with_head_4bit(dir: &Path) -> bool {
    let run = |dir: &Path| std::fs::read_to_string(dir.join(RUN_CONFIG)).ok()?.parse::<toml::Table>().ok();
    let checkpoint = dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with("checkpoint-"));
    let recorded = run(dir).or_else(|| checkpoint.then(|| run(&dir.join(".."))).flatten());
    recorded.and_then(|t| t.get("head-4bit")?.as_bool()).unwrap_or(false)
}

/// SHA-256 of an adapter's weights, which tells adapters apart in results.
///
/// # Errors
/// If they cannot be read.
pub fn adapter_fingerprint(dir: &Path) -> Result<String> {
    digest::of_file(&adapter_dir(dir)?.join(peft::WEIGHTS))
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
        let head = |adapter: &Path, head_4bit: Option<bool>, use_4bit: Option<bool>| {
            let given = BaseSettings { model: Some("m".into()), head_4bit, use_4bit, ..BaseSettings::default() };
            base_of(given, Some(adapter)).map(|b| b.head_4bit)
        };
        assert!(!head(run, None, None).unwrap(), "no run.toml");
        std::fs::write(run.join(RUN_CONFIG), "lora-r = 8\nhead-4bit = true\n").unwrap();
        assert!(head(run, None, None).unwrap() && head(&run.join("checkpoint-7"), None, None).unwrap());
        assert!(!head(&run.join("other"), None, None).unwrap(), "another adapter");
        assert!(!head(run, Some(false), None).unwrap() && !head(run, None, Some(false)).unwrap());
        assert!(head(run, Some(true), Some(false)).unwrap_err().to_string().contains("`use-4bit = true`"));
        std::fs::write(run.join(RUN_CONFIG), "head-4bit = false\n").unwrap();
        assert!(!head(run, None, None).unwrap() && head(run, Some(true), None).unwrap());
    }
}
