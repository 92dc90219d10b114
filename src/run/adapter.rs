//! An adapter that is used: found, and held to what it was trained beside.

use super::Listener;
use crate::{
    Error, Result,
    data::encode::{Encoder, TextStyle},
    digest,
    error::Setting,
    files::stand_in,
    model::{
        peft,
        source::{Opened, cache},
    },
    plan::settings::BaseSettings,
    train::{
        checkpoint,
        provenance::{Decided, Provenance, Text, Weights, assumed},
        state::{IRORI_STATE, RunState},
    },
};
use std::path::{Path, PathBuf};

/// An adapter that was found.
#[derive(Debug, Clone)]
pub struct FoundAdapter {
    /// The setting that names it, as it was given.
    setting: Setting,
    /// Its directory.
    pub dir: PathBuf,
    /// What is known of its training.
    pub provenance: Option<Provenance>,
}

impl FoundAdapter {
    /// Finds the adapter that the setting `name` says: a directory, or an id in the local cache.
    ///
    /// # Errors
    /// If it is not there, or what is beside it cannot be read.
    pub fn find(name: &'static str, given: &Path) -> Result<Self> {
        let dir = cache::locate(name, given)?;
        let provenance = Provenance::read(&dir)?;
        Ok(Self { setting: Setting::new(name, given.display()), dir, provenance })
    }

    /// What is `given`, and what training had where nothing is.
    ///
    /// # Errors
    /// If no model is named, or settings contradict each other.
    pub fn complete(&self, given: BaseSettings, style: Option<TextStyle>) -> Result<Decided> {
        match &self.provenance {
            Some(known) => known.complete(given, style),
            None => assumed(given, style),
        }
    }

    /// Holds the base `opened`, called `model`, against the one that the adapter was trained beside. With `other` another
    /// one is meant.
    ///
    /// # Errors
    /// If the weights are others and that is not meant.
    pub fn check_base(&self, model: &str, opened: &Opened, other: bool, listener: &mut dyn Listener) -> Result<()> {
        let Some(known) = &self.provenance else { return self.check_name(model, listener) };
        let Some(then) = known.written.as_ref().map(|w| &w.base) else {
            return self.check_checkpoint(known, model, opened, listener);
        };
        let now = weights(opened)?;
        if now.fingerprint == then.fingerprint {
            return Ok(());
        }
        let (trained, from) = (known.model(), known.from.display());
        let [here, there] = [only_in(&now.config, &then.config), only_in(&then.config, &now.config)];
        if now.likeness == then.likeness && here.is_empty() && there.is_empty() {
            listener.note(&format!(
                "`{model}` holds the weights of `{trained}`, beside which the adapter was trained ({from}), in other files: {} \
                 here, {} there",
                now.stored, then.stored
            ));
            return Ok(());
        }
        let differ = if now.likeness == then.likeness {
            format!("its config.json computes something else (here {here}, there {there})")
        } else {
            let [now, then] = [&now.fingerprint, &then.fingerprint].map(|f| short(f));
            format!("its weights are others (fingerprint {now}, not {then})")
        };
        let message = format!("was trained beside `{trained}` ({from}), and `{model}` is another model: {differ}");
        if other {
            listener.note(&format!("warning: the adapter {message}"));
            return Ok(());
        }
        let message = format!("{message}: name that model, or say that another one is meant");
        Err(Error::setting(self.setting.clone(), message).advise([Setting::new("other-base", true)]))
    }

    /// A run of an earlier version left the fingerprint of its base in its checkpoints, which a quantised copy does not have.
    fn check_checkpoint(
        &self,
        known: &Provenance,
        model: &str,
        opened: &Opened,
        listener: &mut dyn Listener,
    ) -> Result<()> {
        let newest = || checkpoint::list(&self.dir).ok()?.pop().map(|(_, dir)| dir);
        let places = [Some(self.dir.clone()), newest()].into_iter().flatten();
        let Some(dir) = places.into_iter().find(|dir| stand_in::exists(&dir.join(IRORI_STATE))) else {
            return self.check_name(model, listener);
        };
        if RunState::read(&dir)?.identity.base != opened.source.fingerprint()? {
            listener.note(&format!(
                "warning: the adapter was trained beside `{}` ({}), and the files of `{model}` are others: other weights, or the \
                 same in another form",
                known.model(),
                known.from.display()
            ));
        }
        Ok(())
    }

    /// Of an adapter of another program the name of its base is all there is.
    fn check_name(&self, model: &str, listener: &mut dyn Listener) -> Result<()> {
        let path = self.dir.join(peft::CONFIG);
        let config = stand_in::read_json(&path)?;
        if let Some(base) = config["base_model_name_or_path"].as_str().filter(|base| !base.is_empty() && *base != model)
        {
            listener.note(&format!("{} names the base `{base}`, and `{model}` is used", path.display()));
        }
        Ok(())
    }

    /// Says where `encoder` makes other tokens of text than training did.
    ///
    /// # Errors
    /// If the tokenizer cannot be read.
    pub fn check_text(&self, encoder: &Encoder, listener: &mut dyn Listener) -> Result<()> {
        let Some(known) = &self.provenance else { return Ok(()) };
        let Some(then) = known.written.as_ref().and_then(|w| w.text.as_ref()) else { return Ok(()) };
        let now = text(encoder)?;
        let template = encoder.style == TextStyle::Chat && now.chat_template != then.chat_template;
        for (differs, what, path) in [
            (now.tokenizer != then.tokenizer, "tokenizer", encoder.tokenizer.path()),
            (template, "chat template", encoder.chat.path()),
        ] {
            if differs {
                let (path, from) = (path.display(), known.from.display());
                listener.note(&format!(
                    "warning: the {what} {path} is not the one that the adapter was trained with ({from})"
                ));
            }
        }
        Ok(())
    }

    /// SHA-256 of its weights, which tells adapters apart in results.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        digest::of_file(&self.dir.join(peft::WEIGHTS))
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// What `now` says and `then` does not, of two configurations as [`crate::model::ModelConfig::identity`] writes them. How many
/// positions a model may have changes nothing that is computed.
fn only_in(now: &str, then: &str) -> String {
    let parts = |text: &str| -> Vec<String> {
        let inner = text.split_once('{').map_or(text, |(_, inner)| inner);
        inner.split(", ").map(|part| part.trim_matches([' ', '}']).to_owned()).collect()
    };
    let before = parts(then);
    let new = parts(now).into_iter().filter(|part| !before.contains(part) && !part.starts_with("max_positions"));
    new.collect::<Vec<_>>().join(", ")
}

/// Which weights a model has.
///
/// # Errors
/// If they cannot be read.
pub fn weights(opened: &Opened) -> Result<Weights> {
    Ok(Weights {
        fingerprint: opened.source.fingerprint()?,
        likeness: opened.source.likeness()?,
        config: opened.source.config().identity(),
        stored: opened.stored()?.to_owned(),
    })
}

/// Which files make tokens of text.
///
/// # Errors
/// If they cannot be read.
pub fn text(encoder: &Encoder) -> Result<Text> {
    Ok(Text {
        tokenizer: digest::of_file(encoder.tokenizer.path())?,
        chat_template: digest::sha256(encoder.chat.source().as_bytes()),
    })
}
