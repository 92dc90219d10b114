//! What an adapter was trained beside: the base and how its weights were held, how text became tokens, and how the records
//! asked. An adapter means something beside that only, so whatever uses one takes all of it from here, or says what differs.
//!
//! Every adapter that irori writes has it in its own directory, as [`PROVENANCE`]: a file apart, because earlier versions of
//! PEFT refuse an `adapter_config.json` with fields that they do not know. Adapters of earlier versions of irori have the
//! `run.toml` of their run, which says the settings and not which weights those were.

use super::{TrainConfig, checkpoint, output::RUN_CONFIG, settings::Settings};
use crate::{
    Error, Result,
    data::{encode::TextStyle, questions::Asking},
    error::Setting,
    files::{self, stand_in},
    plan::settings::{Base, BaseSettings},
    settings::{Group, words_of},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

/// File name.
pub const PROVENANCE: &str = "adapter_provenance.json";

/// The settings of a run that say what its adapter was trained beside. A relative path among them means what it meant where
/// the run was started, which `output-dir` tells.
const SETTINGS: [&str; 8] = [
    "model",
    "tokenizer",
    "use-4bit",
    "head-4bit",
    "bnb-4bit-quant-type",
    "bnb-4bit-compute-dtype",
    "text-style",
    "output-dir",
];

/// The content of [`PROVENANCE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Version of this layout: 1.
    pub format: u32,
    /// The settings of training that matter here, by their names.
    pub settings: BTreeMap<String, toml::Value>,
    /// Which weights.
    pub base: Weights,
    /// Which tokenizer and template; records of token ids need none.
    pub text: Option<Text>,
    /// How the records that were learned ask.
    pub records: Asking,
}

/// Which weights a base has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// [`crate::model::source::WeightSource::fingerprint`].
    pub fingerprint: String,
    /// [`crate::model::source::WeightSource::likeness`].
    pub likeness: String,
    /// What is computed with them: [`crate::model::ModelConfig::identity`].
    pub config: String,
    /// How the linears were stored, in words: "dense", "NF4".
    pub stored: String,
}

/// Which files made tokens of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// SHA-256 of tokenizer.json.
    pub tokenizer: String,
    /// SHA-256 of the chat template.
    pub chat_template: String,
}

impl Written {
    /// What the adapter of a run under `config` is trained beside.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub fn new(config: &TrainConfig, base: Weights, text: Option<Text>, records: Asking) -> Result<Self> {
        let entries = Settings::entries(config)?.into_iter().filter(|(d, _)| SETTINGS.contains(&d.name));
        let settings = entries.map(|(d, value)| (d.name.to_owned(), value)).collect();
        Ok(Self { format: 1, settings, base, text, records })
    }

    /// As a file beside the adapter.
    ///
    /// # Errors
    /// None that a user could cause.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        files::json(self)
    }
}

/// What is known of an adapter's training.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// The settings, of which those that are not in [`SETTINGS`] do not matter here.
    settings: Settings,
    /// What the settings do not say; an earlier version of irori did not write it.
    pub written: Option<Written>,
    /// The file it was read from.
    pub from: PathBuf,
}

/// How a base is to be held and text to be read beside an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The model and how its weights are held.
    pub base: Base,
    /// How a conversation becomes text.
    pub style: TextStyle,
    /// What a user should know of it, a sentence each.
    pub notes: Vec<String>,
}

impl Provenance {
    /// What is known of the training of the adapter in `dir`: by the file beside it; else by the `run.toml` there or, if it is
    /// a checkpoint of a run, by that of the run.
    ///
    /// # Errors
    /// If such a file is there and cannot be read, or is not what irori writes.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let whole = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        let run = whole.parent().filter(|_| checkpoint::step_of(&whole).is_some());
        let shown = |place: &Path| if place == whole { dir.to_path_buf() } else { place.to_path_buf() };
        let own = dir.join(PROVENANCE);
        let mut found = if stand_in::exists(&own) {
            Self::of_file(&own)?
        } else {
            let places = [Some(whole.as_path()), run];
            let Some(place) = places.into_iter().flatten().find(|p| stand_in::exists(&p.join(RUN_CONFIG))) else {
                return Ok(None);
            };
            Self::of_run(&shown(place).join(RUN_CONFIG))?
        };
        found.resolve_paths(run.unwrap_or(&whole));
        Ok(Some(found))
    }

    fn of_file(path: &Path) -> Result<Self> {
        let wrong = |message: String| Error::content(path, "", message);
        let written: Written = serde_json::from_value(stand_in::read_json(path)?)
            .map_err(|e| wrong(format!("is not what irori writes beside an adapter: {e}")))?;
        if written.format != 1 {
            return Err(wrong(format!("its format {} is not one that this irori knows (1)", written.format)));
        }
        let table: toml::Table = written.settings.clone().into_iter().collect();
        let settings = Settings::from_toml(&table.to_string())
            .map_err(|e| Error::content(path, "field `settings`", e.to_string()))?;
        Ok(Self { settings, written: Some(written), from: path.to_path_buf() })
    }

    fn of_run(path: &Path) -> Result<Self> {
        let settings = Settings::from_toml(&stand_in::read_text(path)?).map_err(|e| {
            let message =
                format!("is not the configuration of a run of irori, which stands there beside an adapter: {e}");
            Error::content(path, "", message)
        })?;
        Ok(Self { settings, written: None, from: path.to_path_buf() })
    }

    /// Makes relative paths those that they were for the run in `run`, where that can be told: if the run lies where its
    /// `output-dir` says, seen from a directory, and the path is there.
    fn resolve_paths(&mut self, run: &Path) {
        let Some(given) = self.settings.output_dir.as_deref().filter(|d| d.is_relative()) else { return };
        let plain: PathBuf = given.components().filter(|c| !matches!(c, Component::CurDir)).collect();
        let steps = plain.components().count();
        let Some(started) = run.ancestors().nth(steps).filter(|_| run.ends_with(&plain)) else { return };
        let here = std::env::current_dir().and_then(std::fs::canonicalize).unwrap_or_default();
        let meant = |path: &Path| {
            let meant = started.join(path);
            (path.is_relative() && started != here && stand_in::exists(&meant)).then_some(meant)
        };
        let base = &mut self.settings.base;
        if let Some(path) = base.tokenizer.as_deref().and_then(meant) {
            base.tokenizer = Some(path);
        }
        if let Some(path) = base.model.as_deref().and_then(|m| meant(Path::new(m))) {
            base.model = path.to_str().map(str::to_owned).or(base.model.take());
        }
    }

    /// The model as the run was given it.
    pub fn model(&self) -> &str {
        self.settings.base.model.as_deref().unwrap_or("?")
    }

    /// Whether training held the head in NF4.
    pub fn head_4bit(&self) -> bool {
        self.settings.base.head_4bit.unwrap_or(false) && self.use_4bit()
    }

    /// Whether training held the linears in NF4.
    pub fn use_4bit(&self) -> bool {
        self.settings.base.use_4bit.unwrap_or(true)
    }

    /// How text became tokens.
    pub fn style(&self) -> TextStyle {
        self.settings.text_style.unwrap_or_default()
    }

    /// What is `given`, and what training had where nothing is.
    ///
    /// # Errors
    /// If settings contradict each other.
    pub fn complete(&self, given: BaseSettings, style: Option<TextStyle>) -> Result<Decided> {
        let mut trained = self.settings.base.clone();
        let model_is_theirs = given.model.is_none() && trained.model.is_some();
        trained.model = trained.model.or_else(|| given.model.clone());
        let mut merged = given.clone().or(trained.clone());
        if given.use_4bit == Some(false) && given.head_4bit.is_none() {
            merged.head_4bit = Some(false);
        }
        let base = merged.resolve()?;
        base.validate()?;
        let used_style = style.unwrap_or(self.style());
        let now = facts(&base, used_style)?;
        let then = facts(&trained.resolve()?, self.style())?;
        let alone = BaseSettings { model: Some(base.model.clone()), ..given };
        let alone = facts(&alone.resolve()?, style.unwrap_or_default())?;
        let from = self.from.display();
        let mut notes = Vec::new();
        if model_is_theirs {
            let model = Setting::new("model", &base.model);
            notes.push(format!("{model} is used, beside which the adapter was trained ({from})"));
        }
        // What has no effect on one of the two sides goes without saying; a tokenizer is judged by what is in it.
        let both = now.iter().filter_map(|(name, value)| Some((*name, value, then.get(name)?)));
        let differ: Vec<_> = both.filter(|(n, now, then)| *n != "tokenizer" && now != then).map(|(n, ..)| n).collect();
        if !differ.is_empty() {
            let [now, then] = [&now, &then].map(|facts| list(&differ, facts));
            notes.push(format!("warning: the adapter was trained with {then} ({from}), and is used with {now}"));
        }
        let taken: Vec<_> = now.keys().copied().filter(|n| !differ.contains(n) && now.get(n) != alone.get(n)).collect();
        if !taken.is_empty() {
            notes.push(format!("as the adapter was trained ({from}): {}", list(&taken, &now)));
        }
        Ok(Decided { base, style: used_style, notes })
    }
}

/// What is used beside an adapter of which nothing is known: what is `given`, and irori's defaults.
///
/// # Errors
/// If settings contradict each other, or no model is named.
pub fn assumed(given: BaseSettings, style: Option<TextStyle>) -> Result<Decided> {
    let base = given.resolve()?;
    base.validate()?;
    let style = style.unwrap_or_default();
    let facts = facts(&base, style)?;
    let names: Vec<&'static str> = facts.keys().copied().collect();
    let note = format!(
        "the adapter does not say what it was trained beside (it has no {PROVENANCE} and no {RUN_CONFIG}): {} are taken, from \
         the command line or irori's defaults",
        list(&names, &facts)
    );
    Ok(Decided { base, style, notes: vec![note] })
}

/// What decides how an adapter is used, by the names of the settings: what has no effect beside the others is left out.
fn facts(base: &Base, style: TextStyle) -> Result<BTreeMap<&'static str, String>> {
    let entries = BaseSettings::entries(base)?.into_iter().filter(|(d, _)| {
        d.name != "model" && (base.use_4bit || !(d.name.starts_with("bnb-4bit") || d.name == "head-4bit"))
    });
    let mut facts: BTreeMap<_, _> = entries.map(|(d, value)| (d.name, words_of(&value))).collect();
    let style = toml::Value::try_from(style).map_err(|e| Error::internal(e.to_string()))?;
    facts.insert("text-style", words_of(&style));
    Ok(facts)
}

/// The settings `names` with their values.
fn list(names: &[&'static str], facts: &BTreeMap<&'static str, String>) -> String {
    let said = |name: &&'static str| facts.get(name).map(|value| Setting::new(name, value).to_string());
    names.iter().filter_map(said).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn given(text: &str) -> BaseSettings {
        BaseSettings::from_toml(&format!("model = \"m\"\n{text}")).unwrap()
    }

    fn run(dir: &Path, text: &str) -> Provenance {
        fs::write(dir.join(RUN_CONFIG), text).unwrap();
        Provenance::read(dir).unwrap().expect("known")
    }

    #[test]
    fn what_is_not_given_is_as_it_was_trained_and_what_differs_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let dense = run(dir.path(), "model = \"m\"\nuse-4bit = false\ntext-style = \"raw\"\nlora-r = 3\n");
        let taken = dense.complete(given(""), None).unwrap();
        assert!(!taken.base.use_4bit && taken.style == TextStyle::Raw);
        let [note] = &taken.notes[..] else { panic!("{:?}", taken.notes) };
        assert!(note.contains("`text-style = raw`, `use-4bit = false`") && note.contains("run.toml"), "{note}");
        let other = dense.complete(given("use-4bit = true\nbnb-4bit-compute-dtype = \"float32\""), None).unwrap();
        assert!(other.base.use_4bit && other.notes[0].contains("used with `use-4bit = true`"), "{other:?}");
        assert!(other.notes[0].contains("trained with `use-4bit = false` ("), "{other:?}");
        assert!(other.notes[1].contains("`text-style = raw`"), "the rest is still as trained: {other:?}");
        let same = dense.complete(given("use-4bit = false"), Some(TextStyle::Raw)).unwrap();
        assert_eq!(same.notes, Vec::<String>::new(), "nothing differs and nothing is taken");

        let head = run(dir.path(), "head-4bit = true\nbnb-4bit-compute-dtype = \"fp32\"\n");
        let taken = head.complete(given(""), None).unwrap().base;
        assert!(taken.head_4bit && taken.bnb_4bit_compute_dtype == crate::plan::settings::ComputeDtype::Float32);
        let dense = head.complete(given("use-4bit = false"), None).unwrap();
        assert!(!dense.base.head_4bit && dense.notes[0].contains("trained with `use-4bit = true`"), "{dense:?}");
        let e = run(dir.path(), "use-4bit = false").complete(given("head-4bit = true"), None).unwrap_err();
        assert!(e.to_string().contains("`use-4bit = true`"), "{e}");
    }

    #[test]
    fn it_is_found_beside_the_adapter_or_in_the_run_of_a_checkpoint_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        for name in ["checkpoint-7", "checkpoint-07", "other"] {
            fs::create_dir(out.join(name)).unwrap();
        }
        assert_eq!(Provenance::read(out).unwrap(), None);
        run(out, "head-4bit = true\n");
        let head = |place: &Path| Provenance::read(place).unwrap().map(|p| p.head_4bit());
        assert_eq!([out.to_path_buf(), out.join("checkpoint-7")].map(|p| head(&p)), [Some(true); 2]);
        assert_eq!(["other", "checkpoint-07"].map(|name| head(&out.join(name))), [None; 2], "another adapter's");
        for (text, wanted) in
            [("epochs = [", "run.toml: is not the config"), ("name = \"x\"\n", "key `name`"), ("", "is empty")]
        {
            fs::write(out.join(RUN_CONFIG), text).unwrap();
            let e = Provenance::read(&out.join("checkpoint-7")).unwrap_err().to_string();
            assert!(e.contains(wanted), "{e}");
        }
        // The adapter's own file is the one that counts.
        let base =
            Weights { fingerprint: "f".into(), likeness: "l".into(), config: "c".into(), stored: "dense".into() };
        let settings = [("use-4bit".to_owned(), toml::Value::Boolean(false))].into();
        let own = Written { format: 1, settings, base, text: None, records: Asking::default() };
        fs::write(out.join(PROVENANCE), own.bytes().unwrap()).unwrap();
        let read = Provenance::read(out).unwrap().unwrap();
        assert!(!read.use_4bit() && read.written == Some(own.clone()));
        for (bytes, wanted) in [
            (Written { format: 2, ..own }.bytes().unwrap(), "format 2"),
            (b"{\"format\": 1}".to_vec(), "not what irori writes beside an adapter"),
            (b"{".to_vec(), "not JSON"),
        ] {
            fs::write(out.join(PROVENANCE), bytes).unwrap();
            let e = Provenance::read(out).unwrap_err().to_string();
            assert!(e.contains("adapter_provenance.json") && e.contains(wanted), "{e}");
        }
    }

    #[test]
    fn relative_paths_mean_what_they_meant_where_the_run_was_started() {
        let dir = tempfile::tempdir().unwrap();
        let started = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(started.join("out/run/checkpoint-2")).unwrap();
        fs::create_dir_all(started.join("tok")).unwrap();
        let text = "model = \"org/name\"\ntokenizer = \"tok\"\noutput-dir = \"./out/run\"\n";
        fs::write(started.join("out/run").join(RUN_CONFIG), text).unwrap();
        for place in ["out/run", "out/run/checkpoint-2"] {
            let known = Provenance::read(&started.join(place)).unwrap().unwrap();
            assert_eq!(known.settings.base.tokenizer, Some(started.join("tok")), "{place}");
            assert_eq!(known.model(), "org/name", "an id, and no path that is there");
        }
        // Moved away, it is not known what the path was seen from.
        fs::create_dir(started.join("moved")).unwrap();
        fs::rename(started.join("out/run"), started.join("moved/away")).unwrap();
        let known = Provenance::read(&started.join("moved/away")).unwrap().unwrap();
        assert_eq!(known.settings.base.tokenizer, Some(PathBuf::from("tok")));
    }
}
