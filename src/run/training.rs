//! What a training run needs before its first step: the model opened, the data as tokens, the memory planned, and then the
//! engine loaded with the adapter that it starts from.

use super::{
    Listener,
    adapter::{self, FoundAdapter},
    device::{self, OpenDevice},
    engine,
    inference::tokenizer_of,
};
use crate::{
    Error, Result,
    data::{
        encode::{self, Encoded, Encoder, Limits},
        leak,
        questions::Asking,
        record::{self, Content, Record},
    },
    error::Setting,
    eval::accuracy::{ChoicePrompt, choice_prompts},
    model::{
        LoraConfig, ModelConfig,
        engine::EngineSpec,
        peft,
        source::{Opened, open},
    },
    plan::Plan,
    train::{Settings, TrainConfig, config::TrainMode, learner::EngineLearner, provenance::Written, steps::StepPlan},
};
use std::path::Path;

/// The setting that names the adapter to start from.
const INIT: &str = "init-adapter";

/// A training configuration with everything it names opened and read, and nothing loaded yet.
pub struct Inputs {
    /// The model.
    pub opened: Opened,
    /// The adapter's shape.
    pub lora: LoraConfig,
    /// Samples to train on, and what became of the records.
    pub train: Encoded,
    /// Samples to evaluate on.
    pub eval: Option<Encoded>,
    /// Multiple-choice questions among the records to evaluate on.
    pub questions: Vec<ChoicePrompt>,
    /// What the adapter is trained beside.
    pub provenance: Written,
    /// Lines of the training file and of the evaluation file that ask the same question and have different right answers.
    pub contradictions: Vec<(usize, usize)>,
}

/// Inputs and the plan to run them.
pub struct Prepared {
    /// What was opened and read.
    pub inputs: Inputs,
    /// What the run will take.
    pub plan: Plan,
    /// The adapter that training starts from, fresh or that of `init-adapter`: flat, in the order of
    /// [`LoraConfig::slots`]. It may take gigabytes, so there is none before the plan stands.
    adapter: Vec<f32>,
    device: OpenDevice,
}

/// Fills in what `settings` leave open: from the adapter that training starts from, if there is one, what it was trained
/// with; else the defaults.
///
/// # Errors
/// What is missing or impossible.
pub fn decide(mut settings: Settings, listener: &mut dyn Listener) -> Result<TrainConfig> {
    if let Some(adapter) = &settings.init_adapter {
        let decided = FoundAdapter::find(INIT, adapter)?.complete(settings.base, settings.text_style)?;
        decided.notes.iter().for_each(|note| listener.note(note));
        (settings.base, settings.text_style) = (decided.base.into(), Some(decided.style));
    }
    settings.decide()
}

/// Opens the model, reads and tokenises the data, and plans the memory.
///
/// # Errors
/// What is missing, malformed or does not fit: all of it before a weight is loaded.
pub fn prepare(config: &TrainConfig, listener: &mut dyn Listener) -> Result<Prepared> {
    let inputs = read(config, listener)?;
    if let Some(eval) = &config.eval_file {
        contradictory(&inputs.contradictions, config, eval).iter().for_each(|text| listener.note(text));
    }
    for text in inputs.doubts(config)? {
        listener.note(&format!("warning: {text}"));
    }
    let asked = inputs.asked(config);
    let device = device::open(&config.machine, listener)?;
    let plan = engine::plan(&inputs.opened, asked, &device).map_err(|e| with_length(e, config))?;
    let adapter = inputs.adapter(config)?;
    Ok(Prepared { inputs, plan, adapter, device })
}

/// The warning that questions have another right answer in the evaluation file `eval`, with the lines of the first few.
fn contradictory(lines: &[(usize, usize)], config: &TrainConfig, eval: &Path) -> Option<String> {
    const SHOWN: usize = 5;
    let shown: Vec<String> = lines.iter().take(SHOWN).map(|(line, other)| format!("{line} and {other}")).collect();
    let more = lines.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!lines.is_empty()).then(|| {
        format!(
            "warning: {} of the questions of {} have another right answer in {}: lines {}{more}",
            lines.len(),
            config.train_file.display(),
            eval.display(),
            shown.join(", ")
        )
    })
}

/// Fewer rows of a pass are advised together with a shorter sample where the setting for its length would forbid them.
pub(super) fn with_length(e: Error, config: &TrainConfig) -> Error {
    let Error::DoesNotFit { advice, .. } = &e else { return e };
    let number = |name: &str| advice.iter().find(|s| s.name == name)?.value.as_deref()?.parse::<usize>().ok();
    match (number("micro-batch-rows"), number("max-seq-length")) {
        (Some(rows), None) if rows < config.max_seq_length => e.advise([Setting::new("max-seq-length", rows)]),
        _ => e,
    }
}

/// Opens the model, and reads and tokenises the data.
///
/// # Errors
/// What is missing or malformed.
pub fn read(config: &TrainConfig, listener: &mut dyn Listener) -> Result<Inputs> {
    let opened = open(&config.base.model)?;
    let model = opened.source.config().clone();
    let encoder = encoder_of(config, &opened)?;
    let limits = Limits { vocab: model.vocab, max_len: config.max_seq_length };
    let read = |path: &Path| -> Result<(Vec<Record>, Encoded)> {
        let records = record::read(path)?;
        check_mode(path, &records, config.train_mode)?;
        let encoded = encode::encode(encoder.as_ref(), path, &records, limits, config.loss_on)?;
        Ok((records, encoded))
    };
    let (train_records, train) = read(&config.train_file)?;
    let (eval_records, eval) = match &config.eval_file {
        Some(path) => read(path).map(|(r, e)| (r, Some(e)))?,
        None => (Vec::new(), None),
    };
    let questions = match (&encoder, &config.eval_file) {
        (Some(encoder), Some(path)) => choice_prompts(encoder, path, &eval_records, limits)?,
        _ => Vec::new(),
    };
    let lora = lora_of(config, &opened, encoder.as_ref(), listener)?;
    let contradictions = leak::contradictions(&train_records, &eval_records);
    let text = encoder.as_ref().map(adapter::text).transpose()?;
    let provenance = Written::new(config, adapter::weights(&opened)?, text, Asking::of(&train_records))?;
    Ok(Inputs { opened, lora, train, eval, questions, provenance, contradictions })
}

/// The tokenizer that is named, else the model's own if it has one: records of token ids need none.
fn encoder_of(config: &TrainConfig, opened: &Opened) -> Result<Option<Encoder>> {
    let place = tokenizer_of(config.base.tokenizer.as_deref(), opened)?;
    place.map(|place| Encoder::load(&place, config.text_style)).transpose()
}

impl Inputs {
    /// The values of the adapter that training starts from.
    fn adapter(&self, config: &TrainConfig) -> Result<Vec<f32>> {
        let model = self.opened.source.config();
        match &config.init_adapter {
            None => Ok(peft::initial(&self.lora, model, config.seed)),
            Some(dir) => peft::values(&FoundAdapter::find(INIT, dir)?.dir, model, &self.lora),
        }
    }

    /// What keeps a run from learning what it is to learn, as far as that can be known before it starts.
    fn doubts(&self, config: &TrainConfig) -> Result<Vec<String>> {
        let mut doubts = Vec::new();
        let schedule = config.schedule(StepPlan::new(config, self.train.samples.len())?.total());
        let (steps, warmup) = (schedule.total, schedule.warmup);
        let highest = schedule.highest();
        let count = |n: u64, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let (run, rise) = (count(steps, "step"), count(warmup, "step"));
        if highest == 0.0 {
            doubts.push(format!(
                "the learning rate is 0 in the whole run of {run}, and warm-up takes {rise}: nothing will be learned; \
                 `warmup-ratio = 0` leaves warm-up out"
            ));
        } else if highest < schedule.peak && warmup >= steps {
            doubts.push(format!(
                "warm-up takes {rise}, and the run has {run}: the learning rate reaches {highest:.3e} instead of {:.3e}",
                schedule.peak
            ));
        }
        let lengths = self.train.report.lengths.iter().chain(self.eval.iter().flat_map(|e| &e.report.lengths));
        let (longest, positions) = (lengths.max().copied().unwrap_or(0), self.opened.source.config().max_positions);
        if longest > positions {
            doubts.push(format!(
                "the longest sample has {longest} tokens, and the model knows {positions} positions \
                 (`max_position_embeddings` of its config.json): it was not made for longer texts"
            ));
        }
        Ok(doubts)
    }

    /// What the planner is asked: micro-batches no larger than the largest that can occur.
    pub fn asked(&self, config: &TrainConfig) -> EngineSpec {
        let lengths = self.train.report.lengths.iter().chain(self.eval.iter().flat_map(|e| &e.report.lengths)).copied();
        let longest = lengths.chain(self.questions.iter().map(ChoicePrompt::rows)).max().unwrap_or(1);
        let rows = rows_needed(config, &self.train, self.eval.as_ref()).max(longest);
        asked(config, self.opened.source.config().clone(), self.lora.clone(), rows, longest)
    }
}

/// Training in micro-batches of at most `rows` rows, of documents of at most `longest`.
pub(super) fn asked(
    config: &TrainConfig,
    model: ModelConfig,
    lora: LoraConfig,
    rows: usize,
    longest: usize,
) -> EngineSpec {
    EngineSpec { lora: Some(lora), training: true, ..engine::asked(&config.base, model, rows, longest) }
}

impl Prepared {
    /// Values that are trained.
    pub fn parameters(&self) -> usize {
        self.adapter.len()
    }

    /// Loads the model, which a user calls `model`, onto its device and sets the adapter.
    ///
    /// # Errors
    /// As [`engine::load`].
    pub fn load(self, model: &str, listener: &mut dyn Listener) -> Result<(Inputs, EngineLearner)> {
        let Inputs { opened, provenance, .. } = &self.inputs;
        let mut engine = engine::load(opened, self.plan, self.device, listener)?;
        engine.set_adapter(&self.adapter)?;
        let learner = EngineLearner::new(engine, model.to_owned(), provenance.bytes()?)?;
        Ok((self.inputs, learner))
    }
}

/// Refuses records that do not hold what `train-mode` says, with the line of the first.
fn check_mode(path: &Path, records: &[Record], mode: TrainMode) -> Result<()> {
    let reasons = |r: &Record| match &r.content {
        Content::Messages(m) => m.last().is_some_and(|turn| turn.thinks() || turn.content.trim().lines().count() > 1),
        Content::Tokens { .. } => mode == TrainMode::Cot,
    };
    let (wrong, message) = match mode {
        TrainMode::Auto => return Ok(()),
        TrainMode::Direct => (
            records.iter().find(|r| reasons(r)),
            "has reasoning in its answer, and `train-mode` is direct: use cot or auto",
        ),
        TrainMode::Cot => (
            records.iter().find(|r| !reasons(r)),
            "has no reasoning in its answer, and `train-mode` is cot: use direct or auto",
        ),
    };
    match wrong {
        Some(r) => Err(Error::content(path, format!("line {}", r.line), message)),
        None => Ok(()),
    }
}

/// What the adapter is that training starts from: that of `init-adapter`, if there is one, must be what the run asks for.
fn lora_of(
    config: &TrainConfig,
    opened: &Opened,
    encoder: Option<&Encoder>,
    listener: &mut dyn Listener,
) -> Result<LoraConfig> {
    let model = opened.source.config();
    let lora = config.lora(model.layers)?;
    let Some(dir) = &config.init_adapter else {
        return Ok(lora);
    };
    let known = FoundAdapter::find(INIT, dir)?;
    known.check_base(&config.base.model, opened, config.other_base, listener)?;
    encoder.map_or(Ok(()), |encoder| known.check_text(encoder, listener))?;
    let found = peft::shape(&known.dir, model)?;
    let describe = |l: &LoraConfig| format!("r {}, alpha {}, rsLoRA {}, on {}", l.r, l.alpha, l.rslora, l.targets);
    if (LoraConfig { dropout: lora.dropout, ..found.clone() }) == lora {
        return Ok(lora);
    }
    let message = format!("has {}; this run asks for {}", describe(&found), describe(&lora));
    let layers = found.targets.layers().unwrap_or_default();
    let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
    let layers = (!layers.is_empty()).then(|| Setting::new("layers-to-transform", layers.join(",")));
    Err(Error::setting(Setting::new(INIT, dir.display()), message)
        .advise([
            Setting::new("lora-r", found.r),
            Setting::new("lora-alpha", found.alpha),
            Setting::new("rslora", found.rslora),
            Setting::new("target-modules", found.targets.names().join(",")),
        ])
        .advise(layers))
}

/// Rows of the largest micro-batch that can occur: the token budget, or less if a whole step or the whole evaluation set
/// is smaller.
fn rows_needed(config: &TrainConfig, train: &Encoded, eval: Option<&Encoded>) -> usize {
    let mut lengths = train.report.lengths.clone();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let step: usize = lengths.iter().take(config.samples_per_step()).sum();
    step.max(eval.map_or(0, |e| e.report.tokens)).min(config.token_budget())
}
