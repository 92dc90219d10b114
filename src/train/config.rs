//! The resolved configuration of a run: every value decided, checked and written beside the result.
//!
//! `run.toml` in the output directory holds it under the names of the flags, so that `--config O/run.toml` repeats the
//! run. What decides the course of training is also compared when a run is resumed ([`TrainConfig::trajectory`]).

use super::schedule::{Schedule, Shape, warmup_steps};
use crate::{
    Error, Result,
    backend::DType,
    data::{encode::TextStyle, order::DataOrder},
    model::{LoraConfig, Module},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Type that a quantised weight is rounded to when it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// bf16.
    #[default]
    #[value(name = "bfloat16", alias = "bf16")]
    #[serde(alias = "bf16")]
    Bfloat16,
    /// f32: not rounded.
    #[value(name = "float32", alias = "fp32", alias = "f32")]
    #[serde(alias = "fp32", alias = "f32")]
    Float32,
}

impl ComputeDtype {
    /// The type itself.
    pub fn dtype(self) -> DType {
        match self {
            Self::Bfloat16 => DType::Bf16,
            Self::Float32 => DType::F32,
        }
    }
}

/// The 4-bit type. There is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum QuantType {
    /// bitsandbytes' NormalFloat 4.
    Nf4,
}

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

/// Everything that a run is told. Field names, in kebab case, are the names of the flags.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // each is documented where it is set: `Settings`
pub struct TrainConfig {
    pub model: String,
    pub train_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_file: Option<PathBuf>,
    pub output_dir: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_adapter: Option<PathBuf>,

    pub num_epochs: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub max_seq_length: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_rows: Option<usize>,
    pub data_order: DataOrder,
    pub seed: u64,

    pub learning_rate: f64,
    pub lr_scheduler: Shape,
    pub warmup_ratio: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub max_grad_norm: f64,

    pub lora_r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub rslora: bool,
    pub target_modules: Vec<String>,

    pub use_4bit: bool,
    pub head_4bit: bool,
    pub bnb_4bit_quant_type: QuantType,
    pub bnb_4bit_compute_dtype: ComputeDtype,

    pub train_mode: TrainMode,
    pub loss_on_output_only: bool,
    pub text_style: TextStyle,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,

    pub logging_steps: u64,
    pub save_steps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_total_limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<u64>,
    pub metric_for_best_model: BestBy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u64>,
    pub load_best_model_at_end: bool,

    pub device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// Settings that change neither a weight nor the order of anything: a resumed run may have others. Paths are here
/// because contents are compared instead: the tokens of the data set and the fingerprint of the base.
const FREE: [&str; 17] = [
    "model",
    "train-file",
    "eval-file",
    "output-dir",
    "init-adapter",
    "logging-steps",
    "save-steps",
    "save-total-limit",
    "eval-steps",
    "metric-for-best-model",
    "early-stopping-patience",
    "load-best-model-at-end",
    "device",
    "memory-limit",
    "threads",
    "tokenizer",
    "train-mode",
];

impl TrainConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag, the value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        real("num-epochs", self.num_epochs, "above 0 and at most 100000", |v| v > 0.0 && v <= 1e5)?;
        whole("batch-size", self.batch_size as u64, 1, 65_536)?;
        whole("gradient-accumulation-steps", self.gradient_accumulation_steps as u64, 1, 65_536)?;
        if let Some(n) = self.threads {
            whole("threads", n as u64, 1, 1024)?;
        }
        whole("max-seq-length", self.max_seq_length as u64, 2, 1 << 20)?;
        if self.batch_size * self.max_seq_length > 1 << 26 {
            return Err(Error::usage(format!(
                "--batch-size {} times --max-seq-length {} is {} rows in one micro-batch: lower one of them",
                self.batch_size,
                self.max_seq_length,
                self.batch_size * self.max_seq_length
            )));
        }
        if let Some(n) = self.micro_batch_rows {
            whole("micro-batch-rows", n as u64, 1, 1 << 26)?;
            if n < self.max_seq_length {
                return Err(Error::usage(format!(
                    "--micro-batch-rows {n} is less than --max-seq-length {}: a sample is never cut in two, so lower the \
                     second or raise the first",
                    self.max_seq_length
                )));
            }
        }
        if let Some(n) = self.max_steps {
            whole("max-steps", n, 1, 1 << 40)?;
        }
        real("learning-rate", self.learning_rate, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0)?;
        real("warmup-ratio", self.warmup_ratio, "from 0 to 1", |v| (0.0..=1.0).contains(&v))?;
        real("weight-decay", self.weight_decay, "from 0 to 1", |v| (0.0..=1.0).contains(&v))?;
        real("adam-beta1", self.adam_beta1, "from 0 to below 1", |v| (0.0..1.0).contains(&v))?;
        real("adam-beta2", self.adam_beta2, "from 0 to below 1", |v| (0.0..1.0).contains(&v))?;
        real("adam-epsilon", self.adam_epsilon, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0)?;
        real("max-grad-norm", self.max_grad_norm, "0 (no clipping) or more", |v| v >= 0.0)?;
        whole("lora-r", self.lora_r as u64, 1, 256)?;
        real("lora-alpha", self.lora_alpha, "above 0 and at most 65536", |v| v > 0.0 && v <= 65_536.0)?;
        real("lora-dropout", self.lora_dropout, "from 0 to below 1", |v| (0.0..1.0).contains(&v))?;
        self.targets()?;
        if self.head_4bit && !self.use_4bit {
            return Err(Error::usage("--head-4bit is for a base in 4 bits: leave out --no-4bit"));
        }
        whole("seed", self.seed, 0, ANY)?;
        whole("logging-steps", self.logging_steps, 1, ANY)?;
        whole("save-steps", self.save_steps, 1, ANY)?;
        if let Some(n) = self.save_total_limit {
            whole("save-total-limit", n as u64, 1, ANY)?;
        }
        if let Some(n) = self.eval_steps {
            whole("eval-steps", n, 1, ANY)?;
        }
        if let Some(n) = self.early_stopping_patience {
            whole("early-stopping-patience", n, 1, ANY)?;
        }
        if self.eval_file.is_none() {
            let needs = [
                ("eval-steps", self.eval_steps.is_some()),
                ("early-stopping-patience", self.early_stopping_patience.is_some()),
                ("load-best-model-at-end", self.load_best_model_at_end),
                ("metric-for-best-model accuracy", self.metric_for_best_model == BestBy::Accuracy),
            ];
            if let Some((flag, _)) = needs.iter().find(|(_, set)| *set) {
                return Err(Error::usage(format!("--{flag} needs --eval-file: there is nothing to evaluate on")));
            }
        }
        Ok(())
    }

    /// The modules that carry an adapter, ascending.
    fn targets(&self) -> Result<Vec<Module>> {
        let mut targets = Vec::new();
        for name in &self.target_modules {
            if matches!(name.as_str(), "all" | "all-linear") {
                targets.extend(Module::ALL);
                continue;
            }
            targets.push(Module::from_name(name).ok_or_else(|| {
                let known: Vec<_> = Module::ALL.iter().map(|m| m.name()).collect();
                Error::usage(format!("--target-modules: no module `{name}`; there are {} and all", known.join(", ")))
            })?);
        }
        targets.sort_unstable();
        targets.dedup();
        if targets.is_empty() {
            return Err(Error::usage("--target-modules names no module: nothing would be trained"));
        }
        Ok(targets)
    }

    /// What the adapter is.
    ///
    /// # Errors
    /// An unknown target module.
    pub fn lora(&self) -> Result<LoraConfig> {
        Ok(LoraConfig {
            r: self.lora_r,
            alpha: self.lora_alpha as f32,
            dropout: self.lora_dropout as f32,
            rslora: self.rslora,
            targets: self.targets()?,
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

    /// The settings that decide the course of training, by flag name: what a resume must find unchanged.
    pub fn trajectory(&self) -> serde_json::Map<String, serde_json::Value> {
        let serde_json::Value::Object(mut all) = serde_json::to_value(self).unwrap_or_default() else {
            return serde_json::Map::new();
        };
        all.retain(|key, _| !FREE.contains(&key.as_str()));
        if let Ok(targets) = self.targets() {
            let names: Vec<_> = targets.iter().map(|m| m.name()).collect();
            all.insert("target-modules".into(), names.into());
        }
        if !self.use_4bit {
            all.retain(|key, _| !key.starts_with("bnb-4bit"));
        }
        if !self.head_4bit {
            all.remove("head-4bit"); // as in checkpoints of versions without this setting
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

    /// The configuration as a file that `--config` takes.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub fn to_toml(&self) -> Result<String> {
        let body = toml::to_string(self)
            .map_err(|e| Error::usage(format!("the configuration cannot be written as TOML: {e}")))?;
        Ok(format!("# The resolved configuration of this run; `irori train --config` takes it.\n{body}"))
    }
}

/// What differs between two sets of settings, in words: "learning-rate was 0.0002, is 0.0003".
pub fn differences(
    old: &serde_json::Map<String, serde_json::Value>,
    new: &serde_json::Map<String, serde_json::Value>,
) -> Vec<String> {
    let show = |v: Option<&serde_json::Value>| v.map_or_else(|| "not set".to_string(), ToString::to_string);
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| format!("{k} was {}, is {}", show(old.get(k)), show(new.get(k))))
        .collect()
}

/// The largest integer of TOML: as good as no bound.
const ANY: u64 = i64::MAX as u64;

fn real(flag: &str, value: f64, allowed: &str, ok: impl Fn(f64) -> bool) -> Result<()> {
    if value.is_finite() && ok(value) {
        return Ok(());
    }
    Err(Error::usage(format!("--{flag} must be {allowed}, not {value}")))
}

fn whole(flag: &str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let allowed = match most {
        ANY if value < least => format!("at least {least}"),
        ANY => format!("at most {most} (the largest integer of TOML)"),
        _ => format!("from {least} to {most}"),
    };
    Err(Error::usage(format!("--{flag} must be {allowed}, not {value}")))
}
