//! What a user can set for a training run: the flags of `irori train`, the keys of its configuration file and of
//! `run.toml`.
//!
//! Defaults are those of transformers' scripts, except that every step is logged: a small run has few of them.

use super::{
    config::{BestBy, TrainMode},
    schedule::Shape,
};
use crate::{
    Error, Result, choices_are_values,
    data::{
        encode::{LossOn, TextStyle},
        order::DataOrder,
    },
    error::Setting,
    model::Module,
    plan::settings::{BaseSettings, MachineSettings},
    settings::{Group, needed},
};
use std::path::PathBuf;

choices_are_values!(BestBy, TrainMode, Shape, LossOn, TextStyle, DataOrder);

crate::settings! {
    /// Settings of a run as given: all optional. [`Settings::decide`] fills in the defaults.
    pub struct Settings;
    /// Everything that a run is told, every value decided.
    #[derive(Debug, Clone, PartialEq)]
    pub struct TrainConfig;

    first group base: BaseSettings,

    "Data and output" {
        /// Samples to train on: JSON lines of {"input","output"}, {"prompt","completion"}, {"messages"} or
        /// {"input_ids","labels"}
        train_file: PathBuf = needed("train-file")? => { value: "FILE", decides: false },
        /// Samples to evaluate on while training, at each epoch's end or every `eval-steps`
        eval_file: Option<PathBuf> = None => { value: "FILE", decides: false },
        /// Where the adapter, the checkpoints and the log go; must be new or empty unless the run is resumed
        output_dir: PathBuf = needed("output-dir")? => { value: "DIR", decides: false },
        /// Start from this PEFT adapter instead of a fresh one
        init_adapter: Option<PathBuf> = None => { value: "DIR", decides: false },
        /// Take an adapter although it was trained beside other weights than the model's
        other_base: bool = false => { value: "BOOL", decides: false },
    }

    "Steps" {
        /// Passes over the samples
        num_epochs: f64 = 3.0 => { value: "N", aliases: &["epochs", "num-train-epochs"] },
        /// Stop after this many steps, whatever `num-epochs` says; −1 sets no number
        max_steps: Option<i64> = None => { value: "N", aliases: &["max-steps-override"] },
        /// Samples per micro-batch at full length; times `max-seq-length` it is the token budget of one
        batch_size: usize = 2 => { value: "N", aliases: &["per-device-train-batch-size"] },
        /// A step takes `batch-size` times this many samples
        gradient_accumulation_steps: usize = 4 => { value: "N", aliases: &["accumulation"] },
        /// Longest sample in tokens; longer ones lose tokens of their prompt
        max_seq_length: usize = 1024 => { value: "N", aliases: &["max-length"] },
        /// Most rows of one forward pass, at least `max-seq-length`: fewer than the token budget take less memory
        micro_batch_rows: Option<usize> = None => { value: "N", otherwise: Some("the token budget") },
        /// Order of the samples in an epoch
        data_order: DataOrder = DataOrder::Shuffled => { value: "ORDER" },
        /// Decides shuffling, dropout and the fresh adapter
        seed: u64 = 42 => { value: "N" },
    }

    "Optimizer" {
        /// Highest learning rate
        learning_rate: f64 = 2e-4 => { value: "RATE", aliases: &["lr"] },
        /// Course of the learning rate after warm-up
        lr_scheduler: Shape = Shape::Linear => { value: "SHAPE", aliases: &["lr-scheduler-type"] },
        /// Part of the steps over which the learning rate rises from 0
        warmup_ratio: f64 = 0.03 => { value: "RATIO" },
        /// The same as a number of steps; above 0 it wins over `warmup-ratio`
        warmup_steps: Option<u64> = None => { value: "N" },
        /// Decoupled weight decay
        weight_decay: f64 = 0.0 => { value: "DECAY" },
        /// AdamW's decay of the first moment
        adam_beta1: f64 = 0.9 => { value: "BETA" },
        /// AdamW's decay of the second moment
        adam_beta2: f64 = 0.999 => { value: "BETA" },
        /// AdamW's epsilon
        adam_epsilon: f64 = 1e-8 => { value: "EPS" },
        /// Clip the gradient to this norm; 0 never clips
        max_grad_norm: f64 = 1.0 => { value: "NORM" },
    }

    "Adapter" {
        /// Rank of the adapter, 1 to 256
        lora_r: usize = 16 => { value: "R", aliases: &["lora-rank"] },
        /// Scale of the adapter times its rank
        lora_alpha: f64 = 32.0 => { value: "ALPHA" },
        /// Dropout on the adapter's input
        lora_dropout: f64 = 0.05 => { value: "P" },
        /// Scale by alpha/√r instead of alpha/r
        rslora: bool = false => { value: "BOOL", aliases: &["use-rslora"] },
        /// Modules that get an adapter, by name or by the end of their path (`layers.3.mlp.up_proj`)
        target_modules: Vec<String> = Module::ALL.map(|m| m.name().to_owned()).to_vec() => {
            value: "NAME", otherwise: Some("all seven linears"),
        },
        /// Modules among them that get none
        exclude_modules: Vec<String> = Vec::new() => { value: "NAME", otherwise: Some("none") },
        /// Numbers of the layers that get adapters, from 0
        layers_to_transform: Vec<usize> = Vec::new() => { value: "N", otherwise: Some("all") },
    }

    "Text" {
        /// What the records must hold: answers alone, reasoning with answers, or either
        train_mode: TrainMode = TrainMode::Auto => { value: "MODE", decides: false },
        /// Where loss falls: on the answer and its end of turn, on every turn of the model, or on the prompt too
        loss_on: LossOn = LossOn::Answer => { value: "WHERE" },
        /// How a conversation becomes text: the model's chat template, or `<USER>…<ASSISTANT>…`
        text_style: TextStyle = TextStyle::Chat => { value: "STYLE", aliases: &["style"] },
    }

    "Log and checkpoints" {
        /// Log every N steps
        logging_steps: u64 = 1 => { value: "N", decides: false },
        /// Checkpoint every N steps, as well as at the end of every epoch
        save_steps: u64 = 500 => { value: "N", decides: false },
        /// Keep at most this many checkpoints, the newest and the best among them
        save_total_limit: Option<usize> = None => { value: "N", otherwise: Some("all"), decides: false },
        /// Evaluate every N steps
        eval_steps: Option<u64> = None => { value: "N", otherwise: Some("at each epoch's end"), decides: false },
        /// What makes a checkpoint the best
        metric_for_best_model: BestBy = BestBy::Loss => { value: "METRIC", decides: false },
        /// Stop after this many evaluations without a new best
        early_stopping_patience: Option<u64> = None => { value: "N", decides: false },
        /// Let the final adapter be that of the best checkpoint, not of the last step
        load_best_model_at_end: bool = false => { value: "BOOL", decides: false },
    }

    group machine: MachineSettings,

    older "Of other programs" {
        /// Older spelling of `loss-on`: true is answer, false is everything
        loss_on_output_only: bool => { value: "BOOL" },
        /// Accepted as true: activations are bf16 on a GPU
        bf16: bool => { value: "BOOL" },
        /// Accepted as false: there is no training in fp16
        fp16: bool => { value: "BOOL" },
        /// Accepted as none: biases are not trained
        lora_bias: String => { value: "BIAS", aliases: &["bias"] },
        /// Accepted as adamw_torch and its like: the optimizer is AdamW in f32
        optim: String => { value: "NAME" },
        /// Accepted: the planner decides what is computed again, and results do not depend on it
        gradient_checkpointing: bool => { value: "BOOL" },
    }
}

impl Settings {
    /// These settings, and those of a configuration file where these are silent.
    #[must_use]
    pub fn over(self, mut file: Self) -> Self {
        // Two spellings of one setting: what is given here wins, however it is spelled.
        if self.loss_on.is_some() || self.loss_on_output_only.is_some() {
            (file.loss_on, file.loss_on_output_only) = (None, None);
        }
        self.or(file)
    }

    /// Fills in the defaults and checks everything.
    ///
    /// # Errors
    /// [`Error::Setting`] naming what is missing or impossible.
    pub fn decide(mut self) -> Result<TrainConfig> {
        self.loss_on = loss_on(self.loss_on, self.loss_on_output_only)?;
        self.check_others()?;
        if self.max_steps == Some(-1) {
            self.max_steps = None;
        }
        for names in [&mut self.target_modules, &mut self.exclude_modules].into_iter().flatten() {
            names.iter_mut().for_each(|name| *name = name.trim().to_owned());
        }
        let config = self.resolve()?;
        config.validate()?;
        Ok(config)
    }
}

impl Settings {
    /// Refuses what other programs can be told and irori does not do.
    fn check_others(&self) -> Result<()> {
        let refuse = |name, value: &dyn std::fmt::Display, message: &str| {
            Err(Error::setting(Setting::new(name, value), message))
        };
        if self.bf16 == Some(false) {
            return refuse("bf16", &false, "activations are bf16 on a GPU, and f32 on a CPU; there is no other choice");
        }
        if self.fp16 == Some(true) {
            return refuse(
                "fp16",
                &true,
                "there is no training in fp16; activations are bf16 on a GPU, and f32 on a CPU",
            );
        }
        match self.lora_bias.as_deref() {
            None | Some("none") => {}
            Some(other) => return refuse("lora-bias", &other, "biases are not trained: must be none"),
        }
        match self.optim.as_deref() {
            None | Some("adamw" | "adamw_hf" | "adamw_torch" | "adamw_torch_fused") => Ok(()),
            Some(other) => refuse("optim", &other, "the optimizer is AdamW with moments in f32: must be adamw_torch"),
        }
    }
}

/// Where loss falls, by both spellings.
fn loss_on(loss_on: Option<LossOn>, output_only: Option<bool>) -> Result<Option<LossOn>> {
    match (loss_on, output_only) {
        (None, Some(true)) => Ok(Some(LossOn::Answer)),
        (None, Some(false)) => Ok(Some(LossOn::Everything)),
        (Some(on), Some(only)) if (on == LossOn::Answer) != only => {
            let message = "contradicts `loss-on`, of which it is the older spelling: leave one of them out";
            Err(Error::setting(Setting::new("loss-on-output-only", only), message))
        }
        (given, _) => Ok(given),
    }
}

#[cfg(test)]
mod tests;
