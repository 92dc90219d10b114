//! The configuration of a run, every value decided: checked, written beside the result, and compared when a run is resumed.
//!
//! `run.toml` in the output directory holds it under the names of the settings, so that the file repeats the run. What
//! decides the course of training is also compared when a run is resumed ([`TrainConfig::trajectory`]).

pub use super::settings::TrainConfig;
use super::{
    schedule::{Schedule, warmup_steps},
    settings::Settings,
};
use crate::{
    Error, Result,
    error::Setting,
    model::{
        LoraConfig, Module, Targets,
        lora::MAX_RANK,
        targets::{self, Names, Selection},
    },
    settings::{Group, to_toml},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// What kind of answer the records hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TrainMode {
    /// The answer alone.
    Direct,
    /// Reasoning, then the answer.
    Cot,
    /// As the records have it.
    Auto,
}

/// What decides which checkpoint is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BestBy {
    /// Lowest evaluation loss.
    #[value(alias = "eval_loss", alias = "eval-loss")]
    Loss,
    /// Highest accuracy on the evaluation questions.
    #[value(alias = "eval_accuracy", alias = "eval-accuracy")]
    Accuracy,
}

impl BestBy {
    /// Whether `new` is better than `old`. Nothing is better than itself.
    pub fn better(self, new: f64, old: f64) -> bool {
        match self {
            Self::Loss => new < old,
            Self::Accuracy => new > old,
        }
    }
}

impl TrainConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Setting`] with the value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        self.base.validate()?;
        self.machine.validate()?;
        self.validate_steps()?;
        real("learning-rate", self.learning_rate, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0)?;
        real("warmup-ratio", self.warmup_ratio, "from 0 to 1", |v| (0.0..=1.0).contains(&v))?;
        real("weight-decay", self.weight_decay, "from 0 to 1", |v| (0.0..=1.0).contains(&v))?;
        real("adam-beta1", self.adam_beta1, "from 0 to below 1", |v| (0.0..1.0).contains(&v))?;
        real("adam-beta2", self.adam_beta2, "from 0 to below 1", |v| (0.0..1.0).contains(&v))?;
        real("adam-epsilon", self.adam_epsilon, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0)?;
        real("max-grad-norm", self.max_grad_norm, "0 (no clipping) or more", |v| v >= 0.0)?;
        whole("lora-r", self.lora_r as u64, 1, MAX_RANK as u64)?;
        real("lora-alpha", self.lora_alpha, "above 0 and at most 65536", |v| v > 0.0 && v <= 65_536.0)?;
        real("lora-dropout", self.lora_dropout, "from 0 to below 1", |v| (0.0..1.0).contains(&v))?;
        for (name, given) in [("target-modules", &self.target_modules), ("exclude-modules", &self.exclude_modules)] {
            given.iter().try_for_each(|module| known(name, module).map(drop))?;
        }
        if self.target_modules.is_empty() {
            let setting = Setting::named("target-modules");
            return Err(Error::setting(setting, "names no module: nothing would be trained"));
        }
        whole("logging-steps", self.logging_steps, 1, ANY)?;
        whole("save-steps", self.save_steps, 1, ANY)?;
        for (name, given) in [
            ("save-total-limit", self.save_total_limit.map(|n| n as u64)),
            ("eval-steps", self.eval_steps),
            ("early-stopping-patience", self.early_stopping_patience),
        ] {
            given.map_or(Ok(()), |n| whole(name, n, 1, ANY))?;
        }
        self.validate_evaluation()
    }

    /// How long, how many samples, how many rows.
    fn validate_steps(&self) -> Result<()> {
        real("num-epochs", self.num_epochs, "above 0 and at most 100000", |v| v > 0.0 && v <= 1e5)?;
        whole("batch-size", self.batch_size as u64, 1, 65_536)?;
        whole("gradient-accumulation-steps", self.gradient_accumulation_steps as u64, 1, 65_536)?;
        whole("max-seq-length", self.max_seq_length as u64, 2, 1 << 20)?;
        whole("seed", self.seed, 0, ANY)?;
        self.warmup_steps.map_or(Ok(()), |n| whole("warmup-steps", n, 0, MOST_STEPS))?;
        let length = Setting::new("max-seq-length", self.max_seq_length);
        let rows = self.batch_size * self.max_seq_length;
        if rows > 1 << 26 {
            let message = format!("times {length} is {rows} rows in one micro-batch: lower one of them");
            return Err(Error::setting(Setting::new("batch-size", self.batch_size), message));
        }
        if let Some(n) = self.max_steps.filter(|n| !(1..=1 << 40).contains(n)) {
            let message = format!("must be from 1 to {}, or -1 for no number of steps", 1u64 << 40);
            return Err(Error::setting(Setting::new("max-steps", n), message));
        }
        let Some(n) = self.micro_batch_rows else { return Ok(()) };
        whole("micro-batch-rows", n as u64, 1, 1 << 26)?;
        if n < self.max_seq_length {
            let message = format!("is less than {length}: a sample is never cut in two, so lower that or raise this");
            return Err(Error::setting(Setting::new("micro-batch-rows", n), message));
        }
        Ok(())
    }

    /// What asks for evaluation needs something to evaluate on.
    fn validate_evaluation(&self) -> Result<()> {
        if self.eval_file.is_some() {
            return Ok(());
        }
        let asked = [
            self.eval_steps.map(|n| Setting::new("eval-steps", n)),
            self.early_stopping_patience.map(|n| Setting::new("early-stopping-patience", n)),
            self.load_best_model_at_end.then(|| Setting::new("load-best-model-at-end", true)),
            (self.metric_for_best_model == BestBy::Accuracy).then(|| Setting::new("metric-for-best-model", "accuracy")),
        ];
        match asked.into_iter().flatten().next() {
            Some(setting) => Err(Error::setting(setting, "needs `eval-file`: there is nothing to evaluate on")),
            None => Ok(()),
        }
    }

    /// The linears of a model of `layers` layers that carry an adapter.
    fn targets(&self, layers: usize) -> Result<Targets> {
        let outside =
            |layer: usize| format!("there is no layer {layer} in a model of {layers}, from 0 to {}", layers - 1);
        if let Some(&layer) = self.layers_to_transform.iter().find(|&&layer| layer >= layers) {
            return Err(Error::setting(Setting::new("layers-to-transform", layer), outside(layer)));
        }
        for (name, given) in [("target-modules", &self.target_modules), ("exclude-modules", &self.exclude_modules)] {
            for module in given {
                if let Some(layer) = known(name, module)?.and_then(|(layer, _)| layer).filter(|&layer| layer >= layers)
                {
                    return Err(Error::setting(Setting::new(name, module), outside(layer)));
                }
            }
        }
        let names = |given: &[String]| match given.iter().any(|name| is_all(name)) {
            true => Names::All,
            false => Names::Ends(given.to_vec()),
        };
        let select = |exclude: &[String]| Selection {
            targets: names(&self.target_modules),
            exclude: (!exclude.is_empty()).then(|| names(exclude)),
            layers: (!self.layers_to_transform.is_empty()).then(|| self.layers_to_transform.clone()),
        };
        let asked = select(&[]).in_model(layers);
        for name in &self.exclude_modules {
            if select(std::slice::from_ref(name)).in_model(layers) == asked {
                let message = format!("excludes nothing of what `target-modules` names ({asked})");
                return Err(Error::setting(Setting::new("exclude-modules", name), message));
            }
        }
        let targets = select(&self.exclude_modules).in_model(layers);
        if targets.is_empty() {
            let parts = [
                ("target-modules", self.target_modules.join(",")),
                ("exclude-modules", self.exclude_modules.join(",")),
                (
                    "layers-to-transform",
                    self.layers_to_transform.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                ),
            ];
            let given = parts.iter().filter(|(_, value)| !value.is_empty());
            let given: Vec<String> = given.map(|(name, value)| Setting::new(name, value).to_string()).collect();
            let message = format!("{} name no linear together: nothing would be trained", given.join(", "));
            return Err(Error::setting(Setting::named("target-modules"), message));
        }
        Ok(targets)
    }

    /// What the adapter is on a model of `layers` layers.
    ///
    /// # Errors
    /// A module or a layer that there is not, or none at all.
    pub fn lora(&self, layers: usize) -> Result<LoraConfig> {
        Ok(LoraConfig {
            r: self.lora_r,
            alpha: self.lora_alpha as f32,
            dropout: self.lora_dropout as f32,
            rslora: self.rslora,
            targets: self.targets(layers)?,
        })
    }

    /// Samples of a full step.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size * self.gradient_accumulation_steps
    }

    /// Most rows of a micro-batch: batch-size × max-seq-length, or micro-batch-rows if that is less.
    pub fn token_budget(&self) -> usize {
        let budget = self.batch_size * self.max_seq_length;
        self.micro_batch_rows.map_or(budget, |n| n.min(budget))
    }

    /// The learning rates of a run of `total` steps.
    pub fn schedule(&self, total: u64) -> Schedule {
        Schedule {
            shape: self.lr_scheduler,
            peak: self.learning_rate,
            warmup: warmup_steps(self.warmup_steps, self.warmup_ratio, total),
            total,
        }
    }

    /// The settings that decide the course of training, by name: what a resume must find unchanged.
    pub fn trajectory(&self) -> Map<String, Value> {
        let entries = Settings::entries(self).unwrap_or_default();
        let deciding = entries.into_iter().filter(|(d, _)| d.decides);
        let mut all: Map<_, _> = deciding.map(|(d, value)| (d.name.to_owned(), json(&value))).collect();
        // The same modules in another order are the same adapter.
        for (name, given) in [("target-modules", &self.target_modules), ("exclude-modules", &self.exclude_modules)] {
            all.insert(name.into(), in_order(given).into());
        }
        let layers: BTreeSet<usize> = self.layers_to_transform.iter().copied().collect();
        all.insert("layers-to-transform".into(), layers.into_iter().collect());
        if !self.base.use_4bit {
            all.retain(|key, _| !key.starts_with("bnb-4bit"));
        }
        all
    }

    /// SHA-256 of [`TrainConfig::trajectory`], hexadecimal.
    pub fn hash(&self) -> String {
        let mut settings: Vec<_> = self.trajectory().into_iter().collect();
        settings.sort_by(|a, b| a.0.cmp(&b.0));
        let mut hash = Sha256::new();
        for (key, value) in settings {
            hash.update(format!("{key}={value}\n"));
        }
        crate::digest::hex(&hash.finalize())
    }

    /// The configuration as a file that [`Group::from_file`] reads.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub fn to_toml(&self) -> Result<String> {
        let body = to_toml(&Settings::entries(self)?);
        Ok(format!(
            "# The settings of this run, all of them: given as a configuration file, it repeats the run.\n{body}"
        ))
    }

    /// Whether `text` is what [`Self::to_toml`] writes, and nothing that somebody wrote or edited by hand.
    pub fn wrote(text: &str) -> bool {
        let Ok(settings) = Settings::from_toml(text) else { return false };
        settings.decide().and_then(|config| config.to_toml()).is_ok_and(|again| again == text)
    }
}

/// What differs between two trajectories, in words: "learning-rate was 0.0002, is 0.0003". Either may be of an earlier
/// version.
pub fn differences(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let show = |v: Option<&Value>| v.map_or_else(|| "not set".to_string(), ToString::to_string);
    let (old, new) = (of_this_version(old), of_this_version(new));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| format!("{k} was {}, is {}", show(old.get(k)), show(new.get(k))))
        .collect()
}

/// A trajectory as this version would have written it: older spellings translated, and settings that an earlier version did
/// not have at their defaults, which are what it did.
fn of_this_version(trajectory: &Map<String, Value>) -> Map<String, Value> {
    let mut all = trajectory.clone();
    if let Some(only) = all.remove("loss-on-output-only") {
        all.insert("loss-on".into(), if only == Value::Bool(false) { "everything" } else { "answer" }.into());
    }
    let four_bit = all.get("use-4bit") != Some(&Value::Bool(false));
    for d in Settings::definitions().into_iter().filter(|d| d.decides) {
        let of_no_use = !four_bit && d.name.starts_with("bnb-4bit");
        if let Some(default) = (d.default)().filter(|_| !of_no_use && !all.contains_key(d.name)) {
            all.insert(d.name.into(), json(&default));
        }
    }
    all
}

/// Whether a name of `target-modules` means every linear.
fn is_all(name: &str) -> bool {
    matches!(name, "all" | "all-linear")
}

/// What `module` in the setting `name` means: a layer, if it names one, and a module; `None` for all.
fn known(name: &'static str, module: &str) -> Result<Option<(Option<usize>, Module)>> {
    if is_all(module) && name == "target-modules" {
        return Ok(None);
    }
    targets::parse(module).map(Some).ok_or_else(|| {
        let known: Vec<_> = Module::ALL.iter().map(|m| m.name()).collect();
        let message = format!("there is no such module; there are {} and all", known.join(", "));
        Error::setting(Setting::new(name, module), message)
    })
}

/// Names of modules without duplicates: those of whole modules in the order of a layer, then paths.
fn in_order(names: &[String]) -> Vec<String> {
    let all = if names.iter().any(|name| is_all(name)) { &Module::ALL[..] } else { &[] };
    let modules = names.iter().filter_map(|name| Module::from_name(name)).chain(all.iter().copied());
    let modules: BTreeSet<Module> = modules.collect();
    let paths: BTreeSet<&String> = names.iter().filter(|n| !is_all(n) && Module::from_name(n).is_none()).collect();
    modules.iter().map(|m| m.name().to_owned()).chain(paths.into_iter().cloned()).collect()
}

fn json(value: &toml::Value) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Steps of warm-up: more than any run has, so a larger number is a slip.
const MOST_STEPS: u64 = 1 << 40;

/// The largest integer of TOML: as good as no bound.
const ANY: u64 = i64::MAX as u64;

fn real(name: &'static str, value: f64, allowed: &str, ok: impl Fn(f64) -> bool) -> Result<()> {
    if value.is_finite() && ok(value) {
        return Ok(());
    }
    Err(Error::setting(Setting::new(name, value), format!("must be {allowed}")))
}

fn whole(name: &'static str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let allowed = match most {
        ANY if value < least => format!("at least {least}"),
        ANY => format!("at most {most} (the largest integer of TOML)"),
        _ => format!("from {least} to {most}"),
    };
    Err(Error::setting(Setting::new(name, value), format!("must be {allowed}")))
}
