//! `irori eval`: answers multiple-choice questions, or reads stored answers again.

use super::{
    common::{Progress, note},
    flags::ModelArgs,
    print,
};
use crate::{
    Error, Result,
    data::{
        encode::TextStyle,
        prompt::Context,
        questions::{self, records},
    },
    eval::{
        ask::Wording,
        generate, label, loglik,
        result::{EvalResult, check_output},
        stats::Labels,
    },
    report::compare::columns,
    run::inference::{Generation, adapter_fingerprint},
};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// How an answer is got out of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    /// Compare the likelihood of the four letters: one forward pass a question
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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "model", "adapter", "method", "samples"])]
    rescore: Option<PathBuf>,
    /// Ask only the first N questions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    samples: Option<u64>,
    /// How to get the answer [default: loglik; generate with --use-cot]
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Ask in all four cyclic orders of the choices and average: removes position bias (loglik)
    #[arg(long)]
    permute: bool,
    /// letter, answer-line, cot or a template file [default: the one that JSONL records were written with; else
    /// answer-line, or letter with --context gold]
    #[arg(long, value_name = "PROMPT")]
    prompt: Option<String>,
    /// Show a worked example first
    #[arg(long, overrides_with = "no_few_shot")]
    few_shot: bool,
    /// No worked example (the default)
    #[arg(long, overrides_with = "few_shot")]
    no_few_shot: bool,
    /// Reason before answering: the prompt `cot`
    #[arg(long, conflicts_with = "prompt")]
    use_cot: bool,
    /// What statutes the prompt shows
    #[arg(long, value_enum, default_value = "none")]
    context: Context,
    /// How a conversation becomes text: the model's chat template, or `<USER>…<ASSISTANT>…`
    #[arg(long, alias = "style", value_name = "STYLE", value_enum, default_value = "chat")]
    text_style: TextStyle,
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
    check_output(&args.output, args.force)?;
    let result = match &args.rescore {
        Some(old) => {
            let mut result = EvalResult::read(old)?;
            let before = result.accuracy();
            let (total, changed) = (result.results.len(), result.rescore());
            result.config.insert("rescored_from".into(), old.display().to_string().into());
            result.config.insert("rescored_by".into(), concat!("irori ", env!("CARGO_PKG_VERSION")).into());
            if !args.json {
                note(&format!("{changed} of {total} answers are read differently; accuracy was {before}"));
                for r in result.results.iter().filter(|r| r.extra.contains_key("previous_answer")) {
                    let old = r.extra.get("previous_answer").and_then(Value::as_str).unwrap_or_default();
                    note(&format!(
                        "  {}: {old} → {} (right {})",
                        r.file_name,
                        label(r.predicted),
                        label(Some(r.correct))
                    ));
                }
            }
            result
        }
        None => answer(&args)?,
    };
    result.write(&args.output, args.force)?;
    if args.json {
        let mut all = result.to_json();
        return print(&format!("{:#}\n", all["summary"].take()));
    }
    print(&summary(&result))?;
    print(&format!("written to {}\n", args.output.display()))
}

/// Asks the model.
fn answer(args: &Args) -> Result<EvalResult> {
    let base = args.model.base()?;
    let data = args.data.as_deref().ok_or_else(|| Error::usage("--data is missing: name the questions"))?;
    let method = args.method.unwrap_or(if args.use_cot { Method::Generate } else { Method::Loglik });
    let gold = args.context == Context::Gold;
    let recorded = records::recorded_prompt(data)?;
    let prompt = match (&args.prompt, args.use_cot, gold, &recorded) {
        (Some(p), ..) => p.clone(),
        (None, true, ..) => "cot".into(),
        (None, false, _, Some(recorded)) => recorded.clone(),
        (None, false, true, None) => "letter".into(),
        (None, false, false, None) => "answer-line".into(),
    };
    if let Some(other) = recorded.filter(|r| *r != prompt) {
        note(&format!(
            "warning: {} was written with the prompt `{other}` and is asked with `{prompt}`: what is measured is not \
             what was trained",
            data.display()
        ));
    }
    let permute = args.permute || args.ensemble.is_some_and(|n| n > 1);
    if permute && method == Method::Generate {
        return Err(Error::usage("--permute and --ensemble average likelihoods: use them with --method loglik"));
    }
    if !args.json {
        if args.top_k.is_some() {
            note("--top-k has no effect: irori does not retrieve; --context gold shows each question's own statutes");
        }
        if args.ensemble.is_some_and(|n| n > 1) {
            note(
                "--ensemble: each question is asked in the four cyclic orders of its choices and the likelihoods averaged",
            );
        }
        if method == Method::Loglik && prompt == "cot" {
            note("with --method loglik no reasoning is written: the letter is read right after the prompt");
        }
    }
    let mut questions = questions::read(data, gold)?;
    if let Some(n) = args.samples {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        if n > questions.len() {
            note(&format!("--samples {n}: {} holds {} questions, all are asked", data.display(), questions.len()));
        }
        questions.truncate(n);
    }
    let max_new = args.max_new_tokens.unwrap_or(if prompt == "cot" { 1024 } else { 32 }) as usize;
    let generation = Generation { sequences: args.batch_size as usize, new_tokens: max_new };
    let fingerprint = args.model.adapter.as_deref().map(adapter_fingerprint).transpose()?;
    let mut session = args.model.open(args.text_style, (method == Method::Generate).then_some(generation))?;
    let wording = Wording { prompt, few_shot: args.few_shot, context: args.context };
    let prompter = session.prompter(&wording)?;
    let (total, what) = match method {
        Method::Loglik => (loglik::prompt_count(questions.len(), permute), "prompts"),
        Method::Generate => (questions.len(), "questions"),
    };
    let mut progress = Progress::new(total, what, args.json);
    let mut done = |n| progress.set(n);
    let results = match method {
        Method::Loglik => loglik::evaluate(&mut session.engine, &prompter, &questions, permute, &mut done)?,
        Method::Generate => generate::evaluate(&mut session.engine, &prompter, &questions, max_new, &mut done)?,
    };
    let seconds = progress.finish();
    let config = json!({
        "rag_enabled": gold, "retriever_type": if gold { "gold" } else { "none" }, "llm_model": base.model,
        "few_shot_enabled": wording.few_shot, "cot_enabled": wording.prompt == "cot", "reranker_enabled": false,
        "reranker_model": null, "rerank_top_n": null, "ensemble_runs": if permute { json!(4) } else { Value::Null },
        "top_k": args.top_k, "total_samples": results.len(), "method": if method == Method::Loglik { "loglik" } else { "generate" },
        "permute": permute, "prompt": wording.prompt, "style": if args.text_style == TextStyle::Raw { "raw" } else { "chat" },
        "adapter": args.model.adapter.as_ref().map(|p| p.display().to_string()), "adapter_sha256": fingerprint,
        "four_bit": base.use_4bit, "head_four_bit": base.head_4bit, "device": session.description, "data": data.display().to_string(),
        "max_new_tokens": if method == Method::Generate { json!(max_new) } else { Value::Null },
        "irori_version": env!("CARGO_PKG_VERSION"),
    });
    let Value::Object(config) = config else { return Err(Error::failed("the configuration is no object")) };
    let mut timing = Map::new();
    timing.insert("elapsed_seconds".into(), seconds.into());
    timing.insert("questions_per_second".into(), (results.len() as f64 / seconds.max(1e-9)).into());
    Ok(EvalResult { config, timing, results })
}

/// What the terminal shows.
fn summary(result: &EvalResult) -> String {
    let mut out = format!("accuracy {}\n", result.accuracy());
    let (truth, predicted) = (result.truth(), result.predicted());
    let row = |name: &str, l: Labels| {
        std::iter::once(name.to_owned()).chain(l.0.iter().map(u64::to_string)).collect::<Vec<_>>()
    };
    let head = std::iter::once("answers").chain(Labels::NAMES).map(str::to_owned).collect();
    out.push_str(&columns(&[head, row("right", truth), row("predicted", predicted)]));
    if let Some(warning) = predicted.collapse(&truth) {
        out.push_str(&format!("warning: {warning}\n"));
    }
    if predicted.0[4] > 0 {
        out.push_str(&format!("{} responses name no choice\n", predicted.0[4]));
    }
    if let Some(rate) = result.timing.get("questions_per_second").and_then(Value::as_f64) {
        out.push_str(&format!("{rate:.2} questions/s\n"));
    }
    out
}
