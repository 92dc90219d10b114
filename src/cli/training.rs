//! What `irori train` and `irori plan` make of a training configuration: the model opened, the data as tokens, the memory
//! planned.

use super::common::{self, DeviceArgs, Job, OpenDevice, PackedCache, parse_bytes, parse_device};
use crate::{
    Error, Result,
    data::{
        encode::{self, Encoded, Encoder, Limits, LossOn},
        record::{self, Content, Record},
    },
    eval::accuracy::{ChoicePrompt, choice_prompts},
    model::{
        LoraConfig, ModelConfig,
        engine::HeadStore,
        peft,
        source::{Opened, open},
    },
    plan::{Plan, Unpack},
    train::{
        TrainConfig,
        config::TrainMode,
        learner::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterFormat, EngineLearner, NamedFile},
    },
};
use std::path::Path;

/// A training configuration with everything it names opened and read, and nothing loaded yet.
pub struct Inputs {
    /// The model.
    pub opened: Opened,
    /// The adapter's shape.
    pub lora: LoraConfig,
    /// The fresh adapter, or that of `--init-adapter`: flat, in the order of [`LoraConfig::slots`].
    pub adapter: Vec<f32>,
    /// Samples to train on, and what became of the records.
    pub train: Encoded,
    /// Samples to evaluate on.
    pub eval: Option<Encoded>,
    /// Multiple-choice questions among the records to evaluate on.
    pub questions: Vec<ChoicePrompt>,
}

/// Inputs and the plan to run them.
pub struct Prepared {
    /// What was opened and read.
    pub inputs: Inputs,
    /// What the run will take.
    pub plan: Plan,
    device: OpenDevice,
}

/// Opens the model, reads and tokenises the data, and plans the memory.
///
/// # Errors
/// What is missing, malformed or does not fit: all of it before a weight is loaded.
pub fn prepare(config: &TrainConfig, packed_cache: PackedCache) -> Result<Prepared> {
    let device = DeviceArgs { packed_cache, ..device_of(config)? };
    let inputs = read(config)?;
    let job = inputs.job(config);
    let device = device.open()?;
    let plan = common::plan(&inputs.opened, &job, &device)?;
    Ok(Prepared { inputs, plan, device })
}

/// Opens the model, and reads and tokenises the data.
///
/// # Errors
/// What is missing or malformed.
pub fn read(config: &TrainConfig) -> Result<Inputs> {
    let opened = open(&config.model)?;
    let model = opened.source.config().clone();
    let tokenizer = config.tokenizer.as_deref().or(opened.dir.as_deref());
    let encoder = match tokenizer {
        Some(dir) if config.tokenizer.is_some() || dir.join("tokenizer.json").exists() => {
            Some(Encoder::load(dir, config.text_style)?)
        }
        _ => None,
    };
    let limits = Limits { vocab: model.vocab, max_len: config.max_seq_length };
    let read = |path: &Path| -> Result<(Vec<Record>, Encoded)> {
        let records = record::read(path)?;
        check_mode(path, &records, config.train_mode)?;
        let loss = if config.loss_on_output_only { LossOn::Answer } else { LossOn::Everything };
        let encoded = encode::encode(encoder.as_ref(), path, &records, limits, loss)?;
        Ok((records, encoded))
    };
    let (_, train) = read(&config.train_file)?;
    let (eval_records, eval) = match &config.eval_file {
        Some(path) => read(path).map(|(r, e)| (r, Some(e)))?,
        None => (Vec::new(), None),
    };
    let questions = match &encoder {
        Some(encoder) => choice_prompts(encoder, &eval_records, limits)?,
        None => Vec::new(),
    };
    let (lora, adapter) = adapter_of(config, &model)?;
    Ok(Inputs { opened, lora, adapter, train, eval, questions })
}

impl Inputs {
    /// What the planner is asked: micro-batches no larger than the largest that can occur.
    pub fn job(&self, config: &TrainConfig) -> Job {
        let lengths = self.train.report.lengths.iter().chain(self.eval.iter().flat_map(|e| &e.report.lengths)).copied();
        let longest = lengths.chain(self.questions.iter().map(ChoicePrompt::len)).max().unwrap_or(1);
        let rows = rows_needed(config, &self.train, self.eval.as_ref()).max(longest);
        job(config, self.lora.clone(), rows, longest)
    }
}

/// A training job of micro-batches of at most `rows` rows in documents of at most `longest`.
pub fn job(config: &TrainConfig, lora: LoraConfig, rows: usize, longest: usize) -> Job {
    Job {
        lora: Some(lora),
        training: true,
        rows,
        max_len: longest,
        four_bit: config.use_4bit,
        compute: config.bnb_4bit_compute_dtype.dtype(),
        head: if config.head_4bit { HeadStore::Nf4 } else { HeadStore::Dense },
        kv_slots: 0,
        kv_capacity: 0,
        unpack: Unpack::Never,
    }
}

impl Prepared {
    /// Loads the model onto its device and sets the adapter.
    pub fn load(self) -> Result<(Inputs, EngineLearner)> {
        let Inputs { opened, lora, adapter, .. } = &self.inputs;
        let mut engine = common::load(opened, self.plan, self.device)?;
        engine.set_adapter(adapter)?;
        let base = opened.dir.as_ref().map_or(opened.source.describe(), |d| d.display().to_string());
        let format = Peft { lora: lora.clone(), model: opened.source.config().clone(), base };
        let learner = EngineLearner::new(engine, Box::new(format))?;
        Ok((self.inputs, learner))
    }

    /// What the run will take, in lines to print.
    pub fn plan_lines(&self) -> Vec<String> {
        plan_lines(&self.plan)
    }
}

/// A plan in lines to print.
pub fn plan_lines(plan: &Plan) -> Vec<String> {
    let gib = |b: usize| b as f64 / (1u64 << 30) as f64;
    let items: Vec<String> = plan
        .items
        .iter()
        .filter(|(_, bytes)| *bytes >= 1 << 20)
        .map(|(kind, bytes)| format!("{} {:.2}", kind.label(), gib(*bytes)))
        .collect();
    let [all, no_gate_up, input_only] = plan.saved_counts();
    let mut lines = vec![format!("memory: {:.2} GiB ({})", gib(plan.bytes), items.join(", "))];
    if plan.host_bytes > 0 {
        lines.push(format!("the embedding lies in host memory: {:.2} GiB", gib(plan.host_bytes)));
    }
    if no_gate_up + input_only > 0 {
        lines.push(format!(
            "to fit, {input_only} layers are recomputed in the backward pass and {no_gate_up} in part; {all} are kept whole"
        ));
    }
    lines
}

/// Where to compute, as the configuration says it.
///
/// # Errors
/// A device or size that cannot be read.
pub fn device_of(config: &TrainConfig) -> Result<DeviceArgs> {
    let device = parse_device(&config.device).map_err(|e| Error::usage(format!("--device: {e}")))?;
    let memory_limit = config
        .memory_limit
        .as_deref()
        .map(|limit| parse_bytes(limit).map_err(|e| Error::usage(format!("--memory-limit: {e}"))))
        .transpose()?;
    Ok(DeviceArgs {
        device,
        memory_limit,
        sm_limit: None,
        packed_cache: PackedCache::default(),
        threads: config.threads,
    })
}

/// Refuses records that do not hold what `--train-mode` says, with the line of the first.
fn check_mode(path: &Path, records: &[Record], mode: TrainMode) -> Result<()> {
    let reasons = |r: &Record| match &r.content {
        Content::Messages(m) => m.last().is_some_and(|turn| turn.content.trim().lines().count() > 1),
        Content::Tokens { .. } => mode == TrainMode::Cot,
    };
    let (wrong, message) = match mode {
        TrainMode::Auto => return Ok(()),
        TrainMode::Direct => (
            records.iter().find(|r| reasons(r)),
            "has reasoning in its answer, and --train-mode is direct: use cot or auto",
        ),
        TrainMode::Cot => (
            records.iter().find(|r| !reasons(r)),
            "has no reasoning in its answer, and --train-mode is cot: use direct or auto",
        ),
    };
    match wrong {
        Some(r) => Err(Error::content(path, format!("line {}", r.line), message)),
        None => Ok(()),
    }
}

/// The adapter that training starts from.
fn adapter_of(config: &TrainConfig, model: &ModelConfig) -> Result<(LoraConfig, Vec<f32>)> {
    let lora = config.lora()?;
    let Some(dir) = &config.init_adapter else {
        let flat = peft::initial(&lora, model, config.seed);
        return Ok((lora, flat));
    };
    let found = peft::load(dir, model)?;
    let describe = |l: &LoraConfig| {
        let targets: Vec<&str> = l.targets.iter().map(|m| m.name()).collect();
        format!("r {}, alpha {}, rsLoRA {}, on {}", l.r, l.alpha, l.rslora, targets.join(" "))
    };
    if (LoraConfig { dropout: lora.dropout, ..found.lora.clone() }) != lora {
        return Err(Error::usage(format!(
            "--init-adapter {} has {}; this run asks for {}: give the same --lora-r, --lora-alpha, --rslora and \
             --target-modules",
            dir.display(),
            describe(&found.lora),
            describe(&lora)
        )));
    }
    Ok((lora, found.flat))
}

/// Rows of the largest micro-batch that can occur: the token budget, or less if a whole step or the whole evaluation set
/// is smaller.
fn rows_needed(config: &TrainConfig, train: &Encoded, eval: Option<&Encoded>) -> usize {
    let mut lengths = train.report.lengths.clone();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let step: usize = lengths.iter().take(config.batch_size * config.gradient_accumulation_steps).sum();
    step.max(eval.map_or(0, |e| e.report.tokens)).min(config.token_budget())
}

/// An adapter in PEFT's files.
struct Peft {
    lora: LoraConfig,
    model: ModelConfig,
    base: String,
}

impl AdapterFormat for Peft {
    fn encode(&self, flat: &[f32]) -> Result<Vec<NamedFile>> {
        Ok(vec![
            NamedFile::new(ADAPTER_CONFIG, peft::config_file(&self.lora, &self.base)),
            NamedFile::new(ADAPTER_WEIGHTS, peft::weights_file(&self.lora, &self.model, flat)?),
        ])
    }

    fn decode(&self, dir: &Path) -> Result<Vec<f32>> {
        let found = peft::load(dir, &self.model)?;
        if found.lora.targets != self.lora.targets || found.lora.r != self.lora.r {
            let message = "holds an adapter of another rank or other modules than this run";
            return Err(Error::content(dir, "", message));
        }
        Ok(found.flat)
    }
}
