//! What a checkpoint remembers beside the adapter: moments, position, best evaluation, history, and of what run it is.

use super::{
    config::{BestBy, TrainConfig, differences},
    learner::NamedFile,
    metrics::{Eval, Step},
};
use crate::{
    Error, Result, files,
    model::safetensors::{
        MappedFile,
        write::{self, Header},
    },
    tensor::{DType, Tensor},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// AdamW's moments.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// transformers' state, for tools that read it.
pub const TRAINER_STATE: &str = "trainer_state.json";
/// irori's own state.
pub const IRORI_STATE: &str = "irori_state.json";

/// Everything that decides how a run goes on. A function of the steps done: two runs that did the same have the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Version of this layout: 1.
    pub format: u32,
    /// Steps done. With `identity` it is also the position in the data and in every random stream.
    pub step: u64,
    /// Real rows seen.
    pub tokens_seen: u64,
    /// Steps done since the last log record (`logging-steps` above 1).
    pub since_log: Tally,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub stale_evals: u64,
    /// What run this is.
    pub identity: Identity,
}

/// Sums over steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Σ −ln p.
    pub loss_sum: f64,
    /// Targets.
    pub targets: u64,
    /// Rows.
    pub tokens: u64,
}

/// The best evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its step; the checkpoint is that of this step.
    pub step: u64,
    /// Loss or accuracy.
    pub value: f64,
    /// Which of them.
    pub by: BestBy,
}

/// What must be the same for a resumed run to be the undisturbed run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// [`TrainConfig::trajectory`].
    pub config: Map<String, Value>,
    /// [`TrainConfig::hash`].
    pub config_hash: String,
    /// Digest of the tokens and labels of the data set.
    pub data: String,
    /// Fingerprint of the base weights.
    pub base: String,
    /// The device in words. Another device may round differently: said aloud, not refused.
    pub device: String,
}

impl Identity {
    /// What changed since `old`, in words; empty if nothing did.
    pub fn changes_from(&self, old: &Self) -> Vec<String> {
        let mut changes = differences(&old.config, &self.config);
        if old.data != self.data {
            changes.push("the training samples are not the same tokens and labels".into());
        }
        if old.base != self.base {
            changes.push(format!(
                "the base model is not the same (was {}, is {})",
                short(&old.base),
                short(&self.base)
            ));
        }
        changes
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

impl RunState {
    /// The state before the first step.
    pub fn new(identity: Identity) -> Self {
        let since_log = Tally::default();
        Self { format: 1, step: 0, tokens_seen: 0, since_log, best: None, stale_evals: 0, identity }
    }

    /// As a file of a checkpoint.
    ///
    /// # Errors
    /// None that a user could cause.
    pub fn file(&self) -> Result<NamedFile> {
        Ok(NamedFile::new(IRORI_STATE, files::json(self)?))
    }

    /// Reads it from the checkpoint `dir`.
    ///
    /// # Errors
    /// If it is missing or not this format.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(IRORI_STATE);
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let state: Self = serde_json::from_slice(&text).map_err(|e| Error::content(&path, "", e.to_string()))?;
        if state.format != 1 {
            return Err(Error::content(&path, "field `format`", format!("{} is not known, only 1", state.format)));
        }
        Ok(state)
    }
}

/// The moments as a file: `exp_avg` and `exp_avg_sq` `F32 [n]`, `step` I64 \[1\].
///
/// # Errors
/// None that a user could cause.
pub fn optimizer_file(m: &[f32], v: &[f32], step: u64) -> Result<NamedFile> {
    let step = (step as i64).to_le_bytes();
    // Wider types first, then by name, as the format's own library orders them.
    let tensors = [
        (STEP, Tensor::new(DType::I64, [1], &step[..])),
        (EXP_AVG, Tensor::vector(m)),
        (EXP_AVG_SQ, Tensor::vector(v)),
    ];
    let bytes = write::file(Header::default(), tensors.iter().map(|(name, tensor)| (*name, tensor)))?;
    Ok(NamedFile::new(OPTIMIZER, bytes))
}

const EXP_AVG: &str = "exp_avg";
const EXP_AVG_SQ: &str = "exp_avg_sq";
const STEP: &str = "step";

/// Reads the moments, `n` each, of `step` from the checkpoint `dir`.
///
/// # Errors
/// If the file is missing, broken, of another size or of another step.
pub fn read_optimizer(dir: &Path, n: usize, step: u64) -> Result<(Vec<f32>, Vec<f32>)> {
    let file = MappedFile::open(&dir.join(OPTIMIZER))?;
    let get = |name: &str, dtype: DType, n: usize| match file.tensor(name, &[n])? {
        t if t.dtype == dtype => Ok(t.bytes.into_owned()),
        t => Err(file.wrong(name, format!("is of type {:?}, expected {dtype:?}", t.dtype))),
    };
    let found: Vec<i64> = bytemuck::pod_collect_to_vec(&get(STEP, DType::I64, 1)?);
    if found != [step as i64] {
        return Err(file.wrong(STEP, format!("is {}, not {step}", found[0])));
    }
    let floats = |name| -> Result<Vec<f32>> { Ok(bytemuck::pod_collect_to_vec(&get(name, DType::F32, n)?)) };
    Ok((floats(EXP_AVG)?, floats(EXP_AVG_SQ)?))
}

/// transformers' `trainer_state.json`, under its usual names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // transformers' `TrainerState`
pub struct TrainerState {
    pub best_global_step: Option<u64>,
    pub best_metric: Option<f64>,
    pub best_model_checkpoint: Option<String>,
    pub epoch: f64,
    pub eval_steps: Option<u64>,
    pub global_step: u64,
    pub is_hyper_param_search: bool,
    pub is_local_process_zero: bool,
    pub is_world_process_zero: bool,
    pub log_history: Vec<Map<String, Value>>,
    pub logging_steps: u64,
    pub max_steps: u64,
    pub num_input_tokens_seen: u64,
    pub num_train_epochs: f64,
    pub save_steps: u64,
    pub stateful_callbacks: Map<String, Value>,
    pub total_flos: f64,
    pub train_batch_size: usize,
    pub trial_name: Option<String>,
    pub trial_params: Option<Map<String, Value>>,
}

impl TrainerState {
    /// The state of `run` under `config`, of a run of `total` steps.
    pub fn new(config: &TrainConfig, run: &RunState, epoch: f64, total: u64, history: &[Map<String, Value>]) -> Self {
        let checkpoint = |b: Best| super::checkpoint::directory(&config.output_dir, b.step).display().to_string();
        Self {
            best_global_step: run.best.map(|b| b.step),
            best_metric: run.best.map(|b| b.value),
            best_model_checkpoint: run.best.map(checkpoint),
            epoch,
            eval_steps: config.eval_steps,
            global_step: run.step,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: history.to_vec(),
            logging_steps: config.logging_steps,
            max_steps: total,
            num_input_tokens_seen: run.tokens_seen,
            num_train_epochs: config.num_epochs,
            save_steps: config.save_steps,
            stateful_callbacks: Map::new(),
            total_flos: 0.0,
            train_batch_size: config.batch_size,
            trial_name: None,
            trial_params: None,
        }
    }

    /// Reads it from the checkpoint `dir`.
    ///
    /// # Errors
    /// If it is missing or not this format.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(TRAINER_STATE);
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|e| Error::content(&path, "", e.to_string()))
    }
}

/// A step as transformers logs it. Without times, so that the history of a resumed run is that of the undisturbed one.
pub fn step_entry(s: &Step) -> Map<String, Value> {
    object(
        json!({"epoch": s.epoch, "grad_norm": s.grad_norm, "learning_rate": s.learning_rate, "loss": s.loss, "step": s.step}),
    )
}

/// An evaluation as transformers logs it.
pub fn eval_entry(e: &Eval) -> Map<String, Value> {
    let mut entry = object(json!({"epoch": e.epoch, "eval_loss": e.loss, "step": e.step}));
    if let Some(accuracy) = e.accuracy {
        entry.insert("eval_accuracy".into(), accuracy.into());
    }
    entry
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
