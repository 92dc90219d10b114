//! What a user may set for a run. One definition serves the command line (flags) and `--config` (TOML keys): the names
//! are the same, unknown ones are errors in both, and a flag wins over the file.
//!
//! Defaults are those of the user's script, except that every step is logged: with 33 steps in all and one line per
//! 50, he trained blind.

use super::{
    config::{BestBy, ComputeDtype, QuantType, TrainConfig, TrainMode},
    schedule::Shape,
};
use crate::{Error, Result, data::encode::TextStyle, data::order::DataOrder, model::Module};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Settings as given: all optional. [`Settings::resolve`] fills in the defaults.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Base model: a directory, a Hugging Face id in the local cache, or synthetic:qwen3-8b
    #[arg(long, alias = "model-name", alias = "model-name-or-path", value_name = "MODEL", help_heading = "What")]
    #[serde(alias = "model-name")]
    pub model: Option<String>,
    /// Samples to train on: JSON lines of {"input","output"}, {"prompt","completion"}, {"messages"} or {"input_ids","labels"}
    #[arg(long, value_name = "FILE", help_heading = "What")]
    pub train_file: Option<PathBuf>,
    /// Samples to evaluate on while training, at each epoch's end or every --eval-steps
    #[arg(long, value_name = "FILE", help_heading = "What")]
    pub eval_file: Option<PathBuf>,
    /// Where the adapter, the checkpoints and the log go; must be new or empty unless --resume
    #[arg(long, value_name = "DIR", help_heading = "What")]
    pub output_dir: Option<PathBuf>,
    /// Start from this PEFT adapter instead of a fresh one
    #[arg(long, value_name = "DIR", help_heading = "What")]
    pub init_adapter: Option<PathBuf>,

    /// Passes over the samples [default: 3]
    #[arg(long, alias = "epochs", alias = "num-train-epochs", value_name = "N", allow_negative_numbers = true)]
    pub num_epochs: Option<f64>,
    /// Stop after this many steps, whatever --num-epochs says
    #[arg(long, alias = "max-steps-override", value_name = "N", allow_negative_numbers = true)]
    #[serde(alias = "max-steps-override")]
    pub max_steps: Option<u64>,
    /// Samples per micro-batch at full length; times --max-seq-length it is the token budget of one [default: 2]
    #[arg(long, alias = "per-device-train-batch-size", value_name = "N", allow_negative_numbers = true)]
    pub batch_size: Option<usize>,
    /// A step takes batch-size times this many samples [default: 4]
    #[arg(long, alias = "accumulation", value_name = "N", allow_negative_numbers = true)]
    pub gradient_accumulation_steps: Option<usize>,
    /// Longest sample in tokens; longer ones are cut [default: 1024]
    #[arg(long, alias = "max-length", value_name = "N", allow_negative_numbers = true)]
    pub max_seq_length: Option<usize>,
    /// Most rows of one forward pass, at least --max-seq-length: fewer than the token budget take less memory [default:
    /// the token budget]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub micro_batch_rows: Option<usize>,
    /// Order of the samples in an epoch [default: shuffled]
    #[arg(long, value_name = "ORDER")]
    pub data_order: Option<DataOrder>,
    /// Decides shuffling, dropout and the fresh adapter [default: 42]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,

    /// Highest learning rate [default: 2e-4]
    #[arg(long, alias = "lr", value_name = "RATE", allow_negative_numbers = true, help_heading = "Optimizer")]
    pub learning_rate: Option<f64>,
    /// Course of the learning rate after warm-up [default: linear]
    #[arg(long, alias = "lr-scheduler-type", value_name = "SHAPE", help_heading = "Optimizer")]
    pub lr_scheduler: Option<Shape>,
    /// Part of the steps over which the learning rate rises from 0 [default: 0.03]
    #[arg(long, value_name = "RATIO", allow_negative_numbers = true, help_heading = "Optimizer")]
    pub warmup_ratio: Option<f64>,
    /// The same as a number of steps; above 0 it wins over --warmup-ratio
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Optimizer")]
    pub warmup_steps: Option<u64>,
    /// Decoupled weight decay [default: 0]
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true, help_heading = "Optimizer")]
    pub weight_decay: Option<f64>,
    /// AdamW's decay of the first moment [default: 0.9]
    #[arg(long, value_name = "BETA", allow_negative_numbers = true, help_heading = "Optimizer")]
    pub adam_beta1: Option<f64>,
    /// AdamW's decay of the second moment [default: 0.999]
    #[arg(long, value_name = "BETA", allow_negative_numbers = true, help_heading = "Optimizer")]
    pub adam_beta2: Option<f64>,
    /// AdamW's epsilon [default: 1e-8]
    #[arg(long, value_name = "EPS", allow_negative_numbers = true, help_heading = "Optimizer")]
    pub adam_epsilon: Option<f64>,
    /// Clip the gradient to this norm; 0 never clips [default: 1]
    #[arg(long, value_name = "NORM", allow_negative_numbers = true, help_heading = "Optimizer")]
    pub max_grad_norm: Option<f64>,

    /// Rank of the adapter, 1 to 256 [default: 16]
    #[arg(long, alias = "lora-rank", value_name = "R", allow_negative_numbers = true, help_heading = "Adapter")]
    pub lora_r: Option<usize>,
    /// Scale of the adapter times its rank [default: 32]
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true, help_heading = "Adapter")]
    pub lora_alpha: Option<f64>,
    /// Dropout on the adapter's input [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Adapter")]
    pub lora_dropout: Option<f64>,
    /// Scale by alpha/√r instead of alpha/r [default: false]
    #[arg(long, alias = "use-rslora", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Adapter")]
    pub rslora: Option<bool>,
    /// Modules that get an adapter [default: all seven linears]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "NAME", help_heading = "Adapter")]
    pub target_modules: Option<Vec<String>>,

    /// Hold the base weights in NF4 [default: true]
    #[arg(long, alias = "load-in-4bit", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Base weights")]
    pub use_4bit: Option<bool>,
    /// Keep the base weights as they are
    #[arg(long, conflicts_with = "use_4bit", help_heading = "Base weights")]
    #[serde(skip)]
    pub no_4bit: bool,
    /// Hold the head in NF4 too: saves memory and changes results [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          help_heading = "Base weights")]
    pub head_4bit: Option<bool>,
    /// The 4-bit type [default: nf4]
    #[arg(long, value_name = "TYPE", help_heading = "Base weights")]
    pub bnb_4bit_quant_type: Option<QuantType>,
    /// Type that a 4-bit weight is rounded to in use [default: bfloat16]
    #[arg(long, value_name = "DTYPE", help_heading = "Base weights")]
    pub bnb_4bit_compute_dtype: Option<ComputeDtype>,

    /// What the records must hold: answers alone, reasoning with answers, or either [default: auto]
    #[arg(long, value_name = "MODE", help_heading = "Text")]
    pub train_mode: Option<TrainMode>,
    /// Loss on the answer and its end of turn only, not on the prompt [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          help_heading = "Text")]
    pub loss_on_output_only: Option<bool>,
    /// How a conversation becomes text: the model's chat template, or `<USER>…<ASSISTANT>…` [default: chat]
    #[arg(long, value_name = "STYLE", help_heading = "Text")]
    pub text_style: Option<TextStyle>,
    /// Tokenizer and chat template, where the model's directory has none
    #[arg(long, value_name = "DIR", help_heading = "Text")]
    pub tokenizer: Option<PathBuf>,

    /// Log every N steps [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Log and checkpoints")]
    pub logging_steps: Option<u64>,
    /// Checkpoint every N steps, as well as at the end of every epoch [default: 500]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Log and checkpoints")]
    pub save_steps: Option<u64>,
    /// Keep at most this many checkpoints, the newest and the best among them [default: all]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Log and checkpoints")]
    pub save_total_limit: Option<usize>,
    /// Evaluate every N steps [default: at each epoch's end]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Log and checkpoints")]
    pub eval_steps: Option<u64>,
    /// What makes a checkpoint the best [default: loss]
    #[arg(long, value_name = "METRIC", help_heading = "Log and checkpoints")]
    pub metric_for_best_model: Option<BestBy>,
    /// Stop after this many evaluations without a new best
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Log and checkpoints")]
    pub early_stopping_patience: Option<u64>,
    /// Let the final adapter be that of the best checkpoint, not of the last step [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          help_heading = "Log and checkpoints")]
    pub load_best_model_at_end: Option<bool>,

    /// auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Machine")]
    pub device: Option<String>,
    /// Most memory to use: 20GiB, 9.5GiB, …
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Machine")]
    pub memory_limit: Option<String>,
    /// CPU threads; they change no result [default: all]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Machine")]
    pub threads: Option<usize>,
}

/// `first` where it is set, else `second`, field by field.
macro_rules! merge {
    ($first:ident, $second:ident, $no:ident, $($field:ident),* $(,)?) => {
        Settings { $($field: $first.$field.or($second.$field),)* $no: $first.$no }
    };
}

impl Settings {
    /// Reads a `--config` file.
    ///
    /// # Errors
    /// [`Error::Usage`] naming file, line and key.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::usage(format!("--config {}: cannot be read: {e}", path.display())))?;
        toml::from_str(&text).map_err(|e| {
            let at = e.span().map(|span| {
                let before = text.get(..span.start).unwrap_or(&text);
                let line = before.matches('\n').count() + 1;
                let key = text.lines().nth(line - 1).and_then(|l| l.split_once('=')).map(|(key, _)| key.trim());
                key.map_or_else(|| format!("line {line}: "), |key| format!("line {line}, key `{key}`: "))
            });
            let message = e.message().lines().collect::<Vec<_>>().join("; ");
            Error::usage(format!("{}: {}{message}", path.display(), at.unwrap_or_default()))
        })
    }

    /// These settings, and those of `file` where these are silent.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        let mut file = file;
        if self.no_4bit {
            file.use_4bit = None;
        }
        merge!(
            self,
            file,
            no_4bit,
            model,
            train_file,
            eval_file,
            output_dir,
            init_adapter,
            num_epochs,
            max_steps,
            batch_size,
            gradient_accumulation_steps,
            max_seq_length,
            micro_batch_rows,
            data_order,
            seed,
            learning_rate,
            lr_scheduler,
            warmup_ratio,
            warmup_steps,
            weight_decay,
            adam_beta1,
            adam_beta2,
            adam_epsilon,
            max_grad_norm,
            lora_r,
            lora_alpha,
            lora_dropout,
            rslora,
            target_modules,
            use_4bit,
            head_4bit,
            bnb_4bit_quant_type,
            bnb_4bit_compute_dtype,
            train_mode,
            loss_on_output_only,
            text_style,
            tokenizer,
            logging_steps,
            save_steps,
            save_total_limit,
            eval_steps,
            metric_for_best_model,
            early_stopping_patience,
            load_best_model_at_end,
            device,
            memory_limit,
            threads,
        )
    }

    /// Fills in the defaults and checks everything.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what is missing or impossible.
    pub fn resolve(self) -> Result<TrainConfig> {
        let config = TrainConfig {
            model: needed(self.model, "model")?,
            train_file: needed(self.train_file, "train-file")?,
            eval_file: self.eval_file,
            output_dir: needed(self.output_dir, "output-dir")?,
            init_adapter: self.init_adapter,
            num_epochs: self.num_epochs.unwrap_or(3.0),
            max_steps: self.max_steps,
            batch_size: self.batch_size.unwrap_or(2),
            gradient_accumulation_steps: self.gradient_accumulation_steps.unwrap_or(4),
            max_seq_length: self.max_seq_length.unwrap_or(1024),
            micro_batch_rows: self.micro_batch_rows,
            data_order: self.data_order.unwrap_or(DataOrder::Shuffled),
            seed: self.seed.unwrap_or(42),
            learning_rate: self.learning_rate.unwrap_or(2e-4),
            lr_scheduler: self.lr_scheduler.unwrap_or(Shape::Linear),
            warmup_ratio: self.warmup_ratio.unwrap_or(0.03),
            warmup_steps: self.warmup_steps,
            weight_decay: self.weight_decay.unwrap_or(0.0),
            adam_beta1: self.adam_beta1.unwrap_or(0.9),
            adam_beta2: self.adam_beta2.unwrap_or(0.999),
            adam_epsilon: self.adam_epsilon.unwrap_or(1e-8),
            max_grad_norm: self.max_grad_norm.unwrap_or(1.0),
            lora_r: self.lora_r.unwrap_or(16),
            lora_alpha: self.lora_alpha.unwrap_or(32.0),
            lora_dropout: self.lora_dropout.unwrap_or(0.05),
            rslora: self.rslora.unwrap_or(false),
            target_modules: self
                .target_modules
                .unwrap_or_else(|| Module::ALL.iter().map(|m| m.name().to_string()).collect()),
            use_4bit: !self.no_4bit && self.use_4bit.unwrap_or(true),
            head_4bit: self.head_4bit.unwrap_or(false),
            bnb_4bit_quant_type: self.bnb_4bit_quant_type.unwrap_or(QuantType::Nf4),
            bnb_4bit_compute_dtype: self.bnb_4bit_compute_dtype.unwrap_or(ComputeDtype::Bfloat16),
            train_mode: self.train_mode.unwrap_or(TrainMode::Auto),
            loss_on_output_only: self.loss_on_output_only.unwrap_or(true),
            text_style: self.text_style.unwrap_or_default(),
            tokenizer: self.tokenizer,
            logging_steps: self.logging_steps.unwrap_or(1),
            save_steps: self.save_steps.unwrap_or(500),
            save_total_limit: self.save_total_limit,
            eval_steps: self.eval_steps,
            metric_for_best_model: self.metric_for_best_model.unwrap_or(BestBy::Loss),
            early_stopping_patience: self.early_stopping_patience,
            load_best_model_at_end: self.load_best_model_at_end.unwrap_or(false),
            device: self.device.unwrap_or_else(|| "auto".into()),
            memory_limit: self.memory_limit,
            threads: self.threads,
        };
        config.validate()?;
        Ok(config)
    }
}

fn needed<T>(value: Option<T>, flag: &str) -> Result<T> {
    value.ok_or_else(|| Error::usage(format!("--{flag} is missing (give the flag, or the key `{flag}` in --config)")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn line(args: &str) -> Result<Settings, clap::Error> {
        Line::try_parse_from(std::iter::once("irori").chain(args.split_whitespace())).map(|l| l.settings)
    }

    fn config(args: &str) -> Result<TrainConfig> {
        line(&format!("--model m --train-file t --output-dir o {args}")).unwrap().resolve()
    }

    fn file(text: &str) -> Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        Settings::from_file(&path)
    }

    #[test]
    fn the_users_own_command_line() {
        let c = line(
            "--model-name m --train-file t --output-dir o --num-epochs 3 --batch-size 2 --max-seq-length 1024 \
             --gradient-accumulation-steps 4 --learning-rate 2e-4 --warmup-ratio 0.03 --weight-decay 0.0 --lora-r 16 \
             --lora-alpha 32 --lora-dropout 0.05 --target-modules q_proj k_proj,v_proj --use-4bit \
             --bnb-4bit-quant-type nf4 --bnb-4bit-compute-dtype bfloat16 --train-mode cot --loss-on-output-only \
             --logging-steps 50 --save-steps 500 --max-steps-override 50",
        )
        .unwrap()
        .resolve()
        .unwrap();
        assert_eq!(c.target_modules, ["q_proj", "k_proj", "v_proj"]);
        assert_eq!((c.max_steps, c.logging_steps, c.train_mode), (Some(50), 50, TrainMode::Cot));
        let defaults = config("").unwrap();
        assert_eq!(defaults.lora().unwrap().targets, Module::ALL);
        assert_eq!((defaults.samples_per_step(), defaults.token_budget(), defaults.logging_steps), (8, 2048, 1));
        assert_eq!(config("--micro-batch-rows 1024").unwrap().token_budget(), 1024);
        assert_eq!(config("--micro-batch-rows 4096").unwrap().token_budget(), 2048);
        assert!(defaults.use_4bit && defaults.loss_on_output_only);
        assert!(!config("--no-4bit").unwrap().use_4bit);
        assert!(!config("--loss-on-output-only=false").unwrap().loss_on_output_only);
    }

    #[test]
    fn absurd_values_are_usage_errors_that_name_the_flag() {
        for (flag, values) in [
            ("num-epochs", &["0", "-1", "nan", "inf"][..]),
            ("learning-rate", &["-1", "0", "nan", "2", "-0.0001"]),
            ("lora-r", &["0", "10000"]),
            ("lora-alpha", &["0", "-3", "inf"]),
            ("lora-dropout", &["1.5", "1", "-0.1", "NaN"]),
            ("batch-size", &["0", "99999999"]),
            ("gradient-accumulation-steps", &["0"]),
            ("max-seq-length", &["0", "1", "99999999999"]),
            ("warmup-ratio", &["1.1", "-0.1"]),
            ("weight-decay", &["-1", "7"]),
            ("max-grad-norm", &["-1", "nan"]),
            ("adam-beta2", &["1"]),
            ("adam-epsilon", &["0"]),
            ("max-steps", &["0"]),
            ("logging-steps", &["0"]),
            ("save-steps", &["0"]),
            ("save-total-limit", &["0"]),
            ("target-modules", &["lm_head", "q_proj,x"]),
            ("eval-steps", &["5"]),
            ("early-stopping-patience", &["3"]),
            ("head-4bit", &["--no-4bit"]),
            ("micro-batch-rows", &["0", "1023", "999999999"]),
            ("metric-for-best-model", &["accuracy"]),
        ] {
            for value in values {
                let e = config(&format!("--{flag} {value}")).expect_err(value);
                assert_eq!(e.exit_code(), 2);
                assert!(e.to_string().contains(&format!("--{flag}")), "{flag} {value}: {e}");
            }
        }
        // What is not even a number is clap's to refuse, which names the flag too.
        for args in ["--batch-size -1", "--lora-r x", "--bnb-4bit-quant-type fp4", "--save-steps 1.5", "--seed -4"] {
            let text = line(args).unwrap_err().to_string();
            assert!(text.contains(args.split(' ').next().unwrap()), "{text}");
        }
        let e = config("--batch-size 60000 --max-seq-length 100000").unwrap_err().to_string();
        assert!(e.contains("--batch-size 60000 times --max-seq-length 100000"), "{e}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let e = line("--model m --output-dir o").unwrap().resolve().unwrap_err();
        assert!(e.to_string().contains("--train-file"), "{e}");
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let from_file = file("learning-rate = 1e-3\nlora-r = 8\nlora-alpha = 16\nuse-4bit = true\n").unwrap();
        let c = line("--model m --train-file t --output-dir o --lora-r 4 --no-4bit").unwrap().or(from_file);
        let c = c.resolve().unwrap();
        assert_eq!((c.lora_r, c.learning_rate, c.lora_alpha, c.use_4bit), (4, 1e-3, 16.0, false));
    }

    #[test]
    fn errors_of_the_file_name_line_and_key() {
        for (text, want) in [
            ("lora-r = 8\n\nlearing-rate = 1.0\n", ["line 3", "`learing-rate`"]),
            ("lora-r = 8\nlearning-rate = \"high\"\n", ["line 2", "`learning-rate`"]),
            ("data-order = \"random\"\n", ["line 1", "`data-order`"]),
            ("lora-r = 8\nlora-r = 9\n", ["line 2", "`lora-r`"]),
            ("lora-r = \n", ["line 1", "`lora-r`"]),
            ("[train]\nlora-r = 8\n", ["line 1", "`train`"]),
            ("lora-r = -8\n", ["line 1", "`lora-r`"]),
        ] {
            let e = file(text).unwrap_err();
            assert_eq!(e.exit_code(), 2);
            let e = e.to_string();
            assert!(want.iter().all(|w| e.contains(w)) && e.contains("run.toml") && !e.contains('\n'), "{text:?}: {e}");
        }
        assert_eq!(Settings::from_file(Path::new("/no/such/run.toml")).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_written_configuration_reads_back_as_itself() {
        let full = "--eval-file e --init-adapter i --max-steps 9 --warmup-steps 2 --save-total-limit 2 --eval-steps 3 \
                    --early-stopping-patience 2 --memory-limit 9GiB --rslora --num-epochs 0.5 --no-4bit";
        for args in ["", full, "--head-4bit --micro-batch-rows 1024"] {
            let c = config(args).unwrap();
            let again = file(&c.to_toml().unwrap()).unwrap().resolve().unwrap();
            assert_eq!(c, again);
            assert_eq!(c.hash(), again.hash());
        }
    }

    #[test]
    fn the_hash_is_of_what_decides_the_course() {
        let base = config("").unwrap().hash();
        for same in ["--logging-steps 5", "--save-steps 7", "--device cpu", "--target-modules all", "--head-4bit=false"]
        {
            assert_eq!(config(same).unwrap().hash(), base, "{same}");
        }
        for other in [
            "--learning-rate 1e-4",
            "--seed 1",
            "--batch-size 1",
            "--max-steps 3",
            "--no-4bit",
            "--rslora",
            "--head-4bit",
            "--micro-batch-rows 1024",
        ] {
            assert_ne!(config(other).unwrap().hash(), base, "{other}");
        }
        let (a, b) = (config("").unwrap(), config("--learning-rate 0.001 --max-steps 3").unwrap());
        let what = super::super::config::differences(&a.trajectory(), &b.trajectory());
        assert_eq!(what, ["learning-rate was 0.0002, is 0.001", "max-steps was not set, is 3"]);
    }
}
