//! What `irori train` and `irori plan` make of a training configuration: the model opened, the data as tokens, the memory
//! planned.

use super::common::{self, DeviceArgs, Job, parse_bytes, parse_device};
use crate::{
    Error, Result,
    backend::DType,
    data::{
        MicroBatch,
        encode::{self, Encoded, Encoder, Limits, LossOn},
        lawqa::Letter,
        packing, prompt,
        record::{self, Content, Record},
    },
    model::{
        Engine, LoraConfig, ModelConfig, peft,
        source::{Opened, open},
    },
    plan::{Plan, Unpack},
    train::{
        TrainConfig,
        config::{ComputeDtype, TrainMode},
        learner::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterFormat, EngineLearner, NamedFile},
    },
};
use std::{collections::BTreeMap, path::Path};

/// A training configuration with everything it names opened and read, and nothing loaded yet.
pub struct Prepared {
    /// The model.
    pub opened: Opened,
    /// The adapter's shape.
    pub lora: LoraConfig,
    /// The fresh adapter, or that of `--init-adapter`: flat, in the order of [`LoraConfig::slots`].
    pub adapter: Vec<f32>,
    /// Samples to train on, and what became of the records.
    pub train: Encoded,
    /// The answer's letter of each of them, where it is one.
    pub answers: Vec<Option<char>>,
    /// Samples to evaluate on.
    pub eval: Option<Encoded>,
    /// Multiple-choice questions among the records to evaluate on.
    pub questions: Vec<ChoiceQuestion>,
    /// What the run will take.
    pub plan: Plan,
    job: Job,
    device: DeviceArgs,
}

/// A question whose four answers are compared while training: everything up to the letter, and the letters' tokens.
#[derive(Debug, Clone)]
pub struct ChoiceQuestion {
    prompt: Vec<u32>,
    letters: [u32; 4],
    right: Letter,
}

/// Opens the model, reads and tokenises the data, and plans the memory.
///
/// # Errors
/// What is missing, malformed or does not fit: all of it before a weight is loaded.
pub fn prepare(config: &TrainConfig) -> Result<Prepared> {
    let device = device_of(config)?;
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
    let (records, train) = read(&config.train_file)?;
    let (eval_records, eval) = match &config.eval_file {
        Some(path) => read(path).map(|(r, e)| (r, Some(e)))?,
        None => (Vec::new(), None),
    };
    let questions = match &encoder {
        Some(encoder) => choice_questions(encoder, &eval_records, limits)?,
        None => Vec::new(),
    };
    let (lora, adapter) = adapter_of(config, &model)?;
    let rows = rows_needed(config, &train, eval.as_ref());
    let longest = train.report.lengths.iter().chain(eval.iter().flat_map(|e| &e.report.lengths)).copied();
    let longest = longest.chain(questions.iter().map(|q| q.prompt.len())).max().unwrap_or(1);
    let job = Job {
        lora: Some(lora.clone()),
        training: true,
        rows: rows.max(longest),
        max_len: longest,
        four_bit: config.use_4bit,
        compute: compute_of(config),
        kv_slots: 0,
        kv_capacity: 0,
        unpack: Unpack::Never,
    };
    let plan = common::plan(&opened, &job, &device)?;
    let letters: BTreeMap<usize, char> = records.iter().filter_map(|r| Some((r.line, r.answer()?.as_char()))).collect();
    let answers = train.lines.iter().map(|line| letters.get(line).copied()).collect();
    Ok(Prepared { opened, lora, adapter, train, answers, eval, questions, plan, job, device })
}

impl Prepared {
    /// Loads the model onto its device and sets the adapter.
    pub fn load(&self) -> Result<EngineLearner> {
        let mut engine = common::engine(&self.opened, &self.job, &self.device)?;
        engine.set_adapter(&self.adapter)?;
        let base = self.opened.dir.as_ref().map_or(self.opened.source.describe(), |d| d.display().to_string());
        let format = Peft { lora: self.lora.clone(), model: self.opened.source.config().clone(), base };
        EngineLearner::new(engine, Box::new(format))
    }

    /// What the run will take, in lines to print.
    pub fn plan_lines(&self) -> Vec<String> {
        let gib = |b: usize| b as f64 / (1u64 << 30) as f64;
        let items: Vec<String> = self
            .plan
            .items
            .iter()
            .filter(|(_, bytes)| *bytes >= 1 << 20)
            .map(|(kind, bytes)| format!("{} {:.2}", kind.label(), gib(*bytes)))
            .collect();
        let [all, no_gate_up, input_only] = self.plan.saved_counts();
        let mut lines = vec![format!("memory: {:.2} GiB ({})", gib(self.plan.bytes), items.join(", "))];
        if no_gate_up + input_only > 0 {
            lines.push(format!(
                "to fit, {input_only} layers are recomputed in the backward pass and {no_gate_up} in part; {all} are kept whole"
            ));
        }
        lines
    }
}

fn device_of(config: &TrainConfig) -> Result<DeviceArgs> {
    let device = parse_device(&config.device).map_err(|e| Error::usage(format!("--device: {e}")))?;
    let memory_limit = config
        .memory_limit
        .as_deref()
        .map(|limit| parse_bytes(limit).map_err(|e| Error::usage(format!("--memory-limit: {e}"))))
        .transpose()?;
    Ok(DeviceArgs { device, memory_limit, threads: config.threads })
}

fn compute_of(config: &TrainConfig) -> DType {
    match config.bnb_4bit_compute_dtype {
        ComputeDtype::Bfloat16 => DType::Bf16,
        ComputeDtype::Float32 => DType::F32,
    }
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

/// The records that ask for a letter, as prompts. Those that do not fit are left out, as training would shorten them.
fn choice_questions(encoder: &Encoder, records: &[Record], limits: Limits) -> Result<Vec<ChoiceQuestion>> {
    let mut questions = Vec::new();
    for record in records {
        let (Some(right), Content::Messages(messages)) = (record.answer(), &record.content) else { continue };
        let Some((answer, history)) = messages.split_last() else { continue };
        let line = answer.content.trim().lines().next_back().unwrap_or("");
        let format = if line.starts_with(prompt::AnswerFormat::AnswerLine.prefix()) {
            prompt::AnswerFormat::AnswerLine
        } else {
            prompt::AnswerFormat::Letter
        };
        let (prefix, letters) = encode::choice_tokens(&encoder.tokenizer, format)?;
        let mut prompt = encoder.prompt(history)?;
        prompt.extend(prefix);
        if prompt.len() <= limits.max_len && prompt.iter().chain(&letters).all(|&id| (id as usize) < limits.vocab) {
            questions.push(ChoiceQuestion { prompt, letters, right });
        }
    }
    Ok(questions)
}

/// Part of the questions whose right letter is the most probable of the four.
///
/// # Errors
/// If the device fails.
pub fn accuracy(engine: &mut Engine, questions: &[ChoiceQuestion]) -> Result<f64> {
    let lengths: Vec<usize> = questions.iter().map(|q| q.prompt.len()).collect();
    let mut right = 0;
    for group in packing::pack(&lengths, engine.spec().max_rows)? {
        let mut batch = MicroBatch::new();
        let rows: Vec<u32> = group.iter().map(|&i| batch.push_prompt(i as u32, &questions[i].prompt)).collect();
        // The letters' tokens depend on the answer's form; one set at a time is asked for.
        let mut forms: Vec<[u32; 4]> = group.iter().map(|&i| questions[i].letters).collect();
        forms.sort_unstable();
        forms.dedup();
        for form in forms {
            let places: Vec<usize> = (0..group.len()).filter(|&p| questions[group[p]].letters == form).collect();
            let wanted: Vec<u32> = places.iter().map(|&p| rows[p]).collect();
            let scores = engine.choice_logprobs(&batch, &wanted, &form)?;
            for (&place, four) in places.iter().zip(scores.chunks_exact(4)) {
                let best = (0..4).max_by(|&a, &b| four[a].total_cmp(&four[b]).then(b.cmp(&a)));
                right += usize::from(best == Some(questions[group[place]].right.index()));
            }
        }
    }
    Ok(right as f64 / questions.len().max(1) as f64)
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
