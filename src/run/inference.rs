//! A model that answers: opened with its adapter and its tokenizer, planned, and loaded.

use super::{Listener, adapter::FoundAdapter, device, engine};
use crate::{
    Error, Result,
    data::encode::{Encoder, TextStyle},
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
};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

/// Which model, with which adapter, and how they are used together.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The model.
    pub base: Base,
    /// How a conversation becomes text.
    pub style: TextStyle,
    /// Its adapter, if it has one.
    pub adapter: Option<FoundAdapter>,
    /// Whether the adapter may be one that was trained beside other weights.
    pub other_base: bool,
}

impl Asked {
    /// What is `given`, and where nothing is, what the adapter was trained with; what a user should know of that is said.
    ///
    /// # Errors
    /// If no model is named, settings contradict each other, or the adapter is not there.
    pub fn decide(
        given: BaseSettings,
        style: Option<TextStyle>,
        adapter: Option<&Path>,
        other_base: bool,
        listener: &mut dyn Listener,
    ) -> Result<Self> {
        let Some(adapter) = adapter else {
            let base = given.resolve()?;
            base.validate()?;
            return Ok(Self { base, style: style.unwrap_or_default(), adapter: None, other_base });
        };
        let adapter = FoundAdapter::find("adapter", adapter)?;
        let decided = adapter.complete(given, style)?;
        decided.notes.iter().for_each(|note| listener.note(note));
        Ok(Self { base: decided.base, style: decided.style, adapter: Some(adapter), other_base })
    }
}

/// What a session is asked for.
#[derive(Debug, Clone)]
pub struct Inference<'a> {
    /// The model and its adapter.
    pub asked: &'a Asked,
    /// Where it computes.
    pub machine: Machine,
    /// Longest document, and most rows of a pass.
    /// 4096, or what the model has positions for if that is less, where nothing is said.
    pub max_len: Option<usize>,
    /// What it generates, if it does.
    pub generation: Option<Generation>,
}

/// Longest document where nothing is said.
const LONGEST: usize = 4096;

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
    /// The fingerprint of the model's weights, which tells results of one name apart.
    pub fingerprint: String,
    /// The model's name, and its tokenizer if it has one.
    model: String,
    encoder: Option<Rc<Encoder>>,
}

impl Session {
    /// Opens model, adapter and tokenizer, plans, and loads.
    ///
    /// # Errors
    /// What is missing or malformed, or does not fit.
    pub fn open(inference: &Inference, listener: &mut dyn Listener) -> Result<Self> {
        let Asked { base, adapter: found, other_base, .. } = inference.asked;
        let opened = source::open(&base.model)?;
        let encoder = encoder(inference.asked, &opened)?;
        if let Some(found) = found {
            found.check_base(&base.model, &opened, *other_base, listener)?;
            encoder.as_ref().map_or(Ok(()), |encoder| found.check_text(encoder, listener))?;
        }
        let model = opened.source.config().clone();
        let new_tokens = inference.generation.map_or(0, |g| g.new_tokens);
        let positions = model.max_positions.saturating_sub(new_tokens).max(1);
        let max_len = inference.max_len.unwrap_or(LONGEST.min(positions));
        let longest = max_len + new_tokens;
        if longest > model.max_positions {
            listener.note(&format!(
                "warning: texts of up to {longest} tokens are asked for, and the model knows {} positions \
                 (`max_position_embeddings` of its config.json)",
                model.max_positions
            ));
        }
        let lora = found.as_ref().map(|found| peft::shape(&found.dir, &model)).transpose()?;
        let spec = engine::asked(base, model.clone(), max_len, max_len);
        let spec = EngineSpec {
            lora: lora.clone(),
            kv_slots: inference.generation.map_or(0, |g| g.sequences),
            kv_capacity: inference.generation.map_or(0, |_| longest),
            ..spec
        };
        let fingerprint = opened.source.fingerprint()?;
        let device = device::open_unmeasured(&inference.machine, listener)?;
        let plan = engine::plan(&opened, spec, &device)?;
        // Nothing large is read before the plan stands.
        let adapter =
            found.as_ref().zip(lora).map(|(found, lora)| peft::values(&found.dir, &model, &lora)).transpose()?;
        let mut engine = engine::load(&opened, plan, device, listener)?;
        if let Some(adapter) = &adapter {
            engine.set_adapter(adapter)?;
        }
        let description = engine.describe();
        Ok(Self { engine, description, fingerprint, model: base.model.clone(), encoder })
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

fn encoder(asked: &Asked, opened: &Opened) -> Result<Option<Rc<Encoder>>> {
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
