//! `irori eval`: answers multiple-choice questions, or reads stored answers again.

mod wording;

use super::{
    common::{Progress, note},
    flags::ModelArgs,
    output::OutputFile,
    print,
};
use crate::{
    Error, Result,
    data::{
        encode::TextStyle,
        prompt::Context,
        questions::{self, LetterCounts, Question},
    },
    eval::{ask::Wording, generate, label, letters, loglik, result::EvalResult},
    files,
    report::compare::columns,
    run::{
        adapter::FoundAdapter,
        inference::{Asked, Generation, Session},
    },
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// How an answer is got out of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    /// Compare the likelihood of the letters: one forward pass a question
    Loglik,
    /// Let the model write, and read the letter from its text
    Generate,
}

/// Arguments of `irori eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Questions: lawqa JSON, or JSONL records of `irori dataset`
    #[arg(long, required_unless_present = "rescore", value_name = "FILE")]
    data: Option<PathBuf>,
    /// Where the result goes (JSON)
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Overwrite the output file
    #[arg(long)]
    force: bool,
    /// Parse the responses of this earlier result again; needs no model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "model", "adapter", "method",
        "samples", "permute", "prompt", "few_shot", "use_cot", "context", "text_style", "max_new_tokens", "batch_size", "ensemble"])]
    rescore: Option<PathBuf>,
    /// Ask only the first N questions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    samples: Option<u64>,
    /// How to get the answer [default: loglik; generate with --use-cot]
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Ask in all cyclic orders of the choices and average: removes position bias (loglik)
    #[arg(long)]
    permute: bool,
    /// letter, answer-line, cot or a template file [default: the one that JSONL records were written with; else the one
    /// that the adapter was trained with; else answer-line, or letter with --context gold]
    #[arg(long, value_name = "PROMPT")]
    prompt: Option<String>,
    /// Show a worked example first [default: as the records or the adapter's records do]
    #[arg(long, overrides_with = "no_few_shot")]
    few_shot: bool,
    /// No worked example
    #[arg(long, overrides_with = "few_shot")]
    no_few_shot: bool,
    /// Reason before answering: the prompt `cot`
    #[arg(long, conflicts_with = "prompt")]
    use_cot: bool,
    /// What statutes the prompt shows [default: as the adapter was trained, if the data has them; else none]
    #[arg(long, value_enum)]
    context: Option<Context>,
    /// How a conversation becomes text: the model's chat template, or `<USER>…<ASSISTANT>…`
    /// [default: as the adapter was trained, else chat]
    #[arg(long, alias = "style", value_name = "STYLE", value_enum)]
    text_style: Option<TextStyle>,
    /// Most tokens of a response (generate) [default: 32; 1024 with reasoning]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32_768))]
    max_new_tokens: Option<u32>,
    /// Responses generated at once (generate)
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    batch_size: u32,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,

    /// Accepted from earlier command lines: irori never retrieves, --context gold shows the question's own statutes
    #[arg(long, help_heading = "Earlier flags")]
    no_rag: bool,
    /// Accepted from earlier command lines: without retrieval it has no effect
    #[arg(long, value_name = "N", help_heading = "Earlier flags")]
    top_k: Option<u64>,
    /// Earlier: several sampled answers and a vote. Here the same as --permute
    #[arg(long, num_args = 0..=1, default_missing_value = "4", value_name = "N", help_heading = "Earlier flags")]
    ensemble: Option<u64>,
    /// Accepted from earlier command lines: hf is the only one
    #[arg(long, value_parser = ["hf"], value_name = "BACKEND", help_heading = "Earlier flags")]
    llm_backend: Option<String>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let output = OutputFile::new(&args.output, args.force)?;
    let result = match &args.rescore {
        Some(old) => rescore(&args, old)?,
        None => answer(&args)?,
    };
    output.write(&files::json(&result.to_json())?)?;
    if args.json {
        return print(&format!("{:#}\n", Value::Object(result.summary())));
    }
    print(&summary(&result))?;
    print(&format!("written to {}\n", output.path().display()))
}

/// Reads the stored responses of `old` again.
fn rescore(args: &Args, old: &Path) -> Result<EvalResult> {
    let mut result = EvalResult::read(old)?;
    let before = result.accuracy();
    let said: Vec<_> = result.results.iter().map(|r| r.predicted).collect();
    let counts = result.rescore();
    let kept = counts.by_likelihood + counts.by_vote + counts.without_response;
    let rescored = json!({"read": counts.read, "changed": counts.changed, "kept": kept});
    result.config.insert("rescored".into(), rescored);
    result.config.insert("rescored_from".into(), old.display().to_string().into());
    result.config.insert("rescored_by".into(), concat!("irori ", env!("CARGO_PKG_VERSION")).into());
    if !args.json {
        let kept = counts.kept();
        let kept = if kept.is_empty() { kept } else { format!("; kept: {kept}") };
        note(&format!(
            "{} of {} responses are read again, {} of them differently{kept}; accuracy was {before}",
            counts.read,
            result.results.len(),
            counts.changed
        ));
        for (i, (r, before)) in result.results.iter().zip(said).enumerate().filter(|(_, (r, b))| r.predicted != *b) {
            let name = if r.file_name.is_empty() { format!("results[{i}]") } else { r.file_name.clone() };
            note(&format!("  {name}: {} → {} (right {})", label(before), label(r.predicted), r.correct));
        }
    }
    Ok(result)
}

/// How the questions are asked.
struct Asking {
    asked: Asked,
    data: PathBuf,
    method: Method,
    wording: Wording,
    permute: bool,
    /// Most tokens of a response.
    max_new: usize,
}

impl Asking {
    /// What the arguments and the data say together.
    fn of(args: &Args) -> Result<Self> {
        let asked = args.model.decide(args.text_style)?;
        let data = args.data.clone().ok_or_else(|| Error::usage("--data is missing: name the questions"))?;
        let method = args.method.unwrap_or(if args.use_cot { Method::Generate } else { Method::Loglik });
        let permute = args.permute || args.ensemble.is_some_and(|n| n > 1);
        let wording = wording::decide(args, &data, asked.adapter.as_ref().and_then(|a| a.provenance.as_ref()))?;
        if permute && method == Method::Generate {
            return Err(Error::usage("--permute and --ensemble average likelihoods: use them with --method loglik"));
        }
        let max_new = args.max_new_tokens.unwrap_or(if wording.prompt == "cot" { 1024 } else { 32 }) as usize;
        Ok(Self { asked, data, method, wording, permute, max_new })
    }

    /// What flags of earlier command lines mean here, and a method that does not do what the prompt asks for.
    fn notes(&self, args: &Args) {
        if args.top_k.is_some() {
            note("--top-k has no effect: irori does not retrieve; --context gold shows each question's own statutes");
        }
        if args.ensemble.is_some_and(|n| n > 1) {
            note("--ensemble: each question is asked in the cyclic orders of its choices and the likelihoods averaged");
        }
        if self.method == Method::Loglik && self.wording.prompt == "cot" {
            note("with --method loglik no reasoning is written: the letter is read right after the prompt");
        }
    }

    /// The questions to ask.
    fn questions(&self, samples: Option<u64>) -> Result<Vec<Question>> {
        let mut questions = questions::read(&self.data, self.wording.context == Context::Gold)?;
        if let Some(n) = samples {
            let (n, all) = (usize::try_from(n).unwrap_or(usize::MAX), questions.len());
            if n > all {
                note(&format!("--samples {n}: {} holds {all} questions, all are asked", self.data.display()));
            }
            questions.truncate(n);
        }
        Ok(questions)
    }

    /// The result's `config`; the names are those of earlier result files.
    fn config(&self, args: &Args, session: &Session, questions: &[Question]) -> Result<Map<String, Value>> {
        let gold = self.wording.context == Context::Gold;
        let generated = self.method == Method::Generate;
        // How many answers stand behind a question's: the orders of its choices, where all questions have as many.
        let sizes = questions.iter().map(|q| q.choices.len());
        let runs = sizes.clone().min().filter(|_| self.permute && sizes.clone().min() == sizes.max());
        let config = json!({
            "rag_enabled": gold, "retriever_type": if gold { "gold" } else { "none" }, "llm_model": self.asked.base.model,
            "few_shot_enabled": self.wording.few_shot, "cot_enabled": self.wording.prompt == "cot", "reranker_enabled": false,
            "reranker_model": null, "rerank_top_n": null, "ensemble_runs": runs,
            "top_k": args.top_k, "total_samples": questions.len(), "method": if generated { "generate" } else { "loglik" },
            "permute": self.permute, "prompt": self.wording.prompt,
            "style": if self.asked.style == TextStyle::Raw { "raw" } else { "chat" },
            "adapter": args.model.adapter.as_ref().map(|p| p.display().to_string()),
            "adapter_sha256": self.asked.adapter.as_ref().map(FoundAdapter::fingerprint).transpose()?,
            "four_bit": self.asked.base.use_4bit, "head_four_bit": self.asked.base.head_4bit, "device": session.description, "llm_fingerprint": session.fingerprint,
            "compute_dtype": self.asked.base.use_4bit.then_some(self.asked.base.bnb_4bit_compute_dtype),
            "data": self.data.display().to_string(), "max_new_tokens": generated.then_some(self.max_new),
            "irori_version": env!("CARGO_PKG_VERSION"),
        });
        match config {
            Value::Object(config) => Ok(config),
            _ => Err(Error::internal("the configuration of a result is no object")),
        }
    }
}

/// Asks the model.
fn answer(args: &Args) -> Result<EvalResult> {
    let asking = Asking::of(args)?;
    if !args.json {
        asking.notes(args);
    }
    let questions = asking.questions(args.samples)?;
    let generation = Generation { sequences: args.batch_size as usize, new_tokens: asking.max_new };
    let generation = (asking.method == Method::Generate).then_some(generation);
    let mut session = args.model.open(&asking.asked, generation)?;
    let config = asking.config(args, &session, &questions)?;
    let prompter = session.prompter(&asking.wording)?;
    let (total, what) = match asking.method {
        Method::Loglik => (loglik::prompt_count(&questions, asking.permute), "prompts"),
        Method::Generate => (questions.len(), "questions"),
    };
    let mut progress = Progress::new(total, what, args.json);
    let mut done = |n| progress.set(n);
    let engine = &mut session.engine;
    let results = match asking.method {
        Method::Loglik => loglik::evaluate(engine, &prompter, &questions, asking.permute, &mut done)?,
        Method::Generate => generate::evaluate(engine, &prompter, &questions, asking.max_new, &mut done)?,
    };
    let seconds = progress.finish();
    let mut facts = Map::new();
    facts.insert("elapsed_seconds".into(), seconds.into());
    facts.insert("questions_per_second".into(), (results.len() as f64 / seconds.max(1e-9)).into());
    Ok(EvalResult { config, facts, rest: Map::new(), results })
}

/// What the terminal shows.
fn summary(result: &EvalResult) -> String {
    let mut out = format!("accuracy {}\n", result.accuracy());
    let (truth, predicted) = (result.truth(), result.predicted());
    let width = truth.columns();
    let row = |name: &str, counts: &LetterCounts| {
        let counts = letters::row(counts, width);
        std::iter::once(name.to_owned()).chain(counts.iter().map(u64::to_string)).collect::<Vec<_>>()
    };
    let head = std::iter::once("answers").chain(letters::names(width)).map(str::to_owned).collect();
    out.push_str(&columns(&[head, row("right", &truth), row("predicted", &predicted)]));
    if let Some(warning) = letters::collapse(&predicted, &truth) {
        out.push_str(&format!("warning: {warning}\n"));
    }
    if predicted.none > 0 {
        let cut =
            result.results.iter().filter(|r| r.predicted.is_none() && r.extra.get("stopped") == Some(&false.into()));
        let cut = match cut.count() {
            0 => String::new(),
            n => format!("; {n} of them ran into --max-new-tokens"),
        };
        out.push_str(&format!(
            "{} answers are unknown and count as not right: a tie, or no choice that is named for certain{cut}\n",
            predicted.none
        ));
    }
    if let Some(rate) = result.facts.get("questions_per_second").and_then(Value::as_f64) {
        out.push_str(&format!("{rate:.2} questions/s\n"));
    }
    out
}
