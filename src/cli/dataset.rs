//! `irori dataset`: law questions in, JSONL records and splits out; and `irori dataset inspect`, records as tokens.

use crate::{
    Error, Result,
    cli::{common::note, print},
    data::{
        balance,
        encode::{Encoder, Limits, LossOn, TextStyle},
        leak,
        permute::Permutation,
        prompt::{self, AnswerFormat, Context, PromptTemplate},
        questions::{self, Choice, Question, lawqa},
        record,
        split::{self, Key, SplitSpec},
    },
    rng::Rng,
};
use clap::Subcommand;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// Arguments of `irori dataset`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// lawqa JSON: a list of samples, or an object with `samples`
    #[arg(long, required = true)]
    input: Option<PathBuf>,
    /// Where train.jsonl, dev.jsonl, test.jsonl and each split's lawqa JSON go
    #[arg(long, required = true)]
    output_dir: Option<PathBuf>,
    /// What the answer is: the letter at once, or reasoning before it (default: what the prompt asks for)
    #[arg(long)]
    mode: Option<Mode>,
    /// Whether the prompt shows the question's own statute
    #[arg(long, default_value = "none")]
    context: Context,
    /// Show a worked example (of our own, about another law) before the question
    #[arg(long)]
    few_shot: bool,
    /// letter, answer-line, cot, or a template file (default: answer-line; cot with --mode cot)
    #[arg(long)]
    prompt: Option<String>,
    /// Sizes of the splits, as questions (train=100,test=40) or shares
    #[arg(long, default_value = "train=0.6,dev=0.2,test=0.2")]
    split: SplitSpec,
    /// What the splits are to be alike in
    #[arg(long, value_delimiter = ',', default_value = "law,answer")]
    stratify: Vec<Key>,
    /// Show each training question in N orders of its choices; 4 puts every answer at every letter (train only)
    #[arg(long, visible_alias = "augment", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=24))]
    permute_choices: u8,
    /// Warn of training questions that occur in these files too (lawqa JSON or JSONL)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    check_against: Vec<PathBuf>,
    /// Decides the splits and the orders of choices
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Replace files of an earlier run
    #[arg(long)]
    force: bool,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Direct,
    Cot,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print records as tokens with what carries loss, and what truncation does
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// JSONL records
    file: PathBuf,
    /// A model or tokenizer directory
    #[arg(long, alias = "model-name")]
    model: PathBuf,
    /// Samples are shortened to this many tokens
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..))]
    max_seq_length: u32,
    /// How many samples to print
    #[arg(long, default_value_t = 2)]
    samples: usize,
    /// How a conversation becomes text: the model's chat template, or `<USER>…<ASSISTANT>…`
    #[arg(long, alias = "style", value_name = "STYLE", value_enum, default_value = "chat")]
    text_style: TextStyle,
    /// Where loss falls
    #[arg(long, default_value = "answer")]
    loss_on: LossOn,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    match (&args.command, &args.input, &args.output_dir) {
        (Some(Command::Inspect(inspect)), ..) => run_inspect(inspect),
        (None, Some(input), Some(output)) => run_make(&args, input, output),
        _ => Err(Error::usage("--input and --output-dir are needed")),
    }
}

fn run_make(args: &Args, input: &Path, output: &Path) -> Result<()> {
    let default = if args.mode == Some(Mode::Cot) { "cot" } else { "answer-line" };
    let mut template = PromptTemplate::load(args.prompt.as_deref().unwrap_or(default))?;
    match (args.mode, template.answer) {
        (Some(Mode::Cot), format) if format != AnswerFormat::Cot => {
            return Err(Error::usage(format!(
                "--mode cot trains on reasoning, but the prompt {} asks for `{}`: use --prompt cot",
                template.name(),
                format.name()
            )));
        }
        (Some(Mode::Direct), AnswerFormat::Cot) => template.answer = AnswerFormat::AnswerLine,
        _ => {}
    }
    let examples = if args.few_shot { vec![prompt::worked_example()?] } else { Vec::new() };
    let file = lawqa::read(input)?;
    let splits = split::split(&file.questions, &args.split, &args.stratify, args.seed)?;

    let mut files: Vec<(PathBuf, String)> = Vec::new();
    let mut parts: Vec<(&str, Vec<Question>, usize)> = Vec::new();
    for part in &splits {
        let questions: Vec<Question> = part.questions.iter().map(|&i| file.questions[i].clone()).collect();
        let versions = if part.name == "train" { usize::from(args.permute_choices) } else { 1 };
        let mut lines = String::new();
        for (question, &place) in questions.iter().zip(&part.questions) {
            for permutation in orders(versions, args.seed, place) {
                let record = questions::records::line(question, &template, args.context, &examples, permutation)?;
                let _ = writeln!(lines, "{record}");
            }
        }
        files.push((output.join(format!("{}.jsonl", part.name)), lines));
        files.push((output.join(format!("{}.json", part.name)), file.to_json(&questions)));
        parts.push((part.name, questions, versions));
    }
    if let Some((existing, _)) = files.iter().find(|(path, _)| path.exists())
        && !args.force
    {
        return Err(Error::usage(format!("{} exists: choose another --output-dir, or --force", existing.display())));
    }
    let warnings = warnings(args, &template, &parts)?;
    std::fs::create_dir_all(output).map_err(Error::io("create", output))?;
    for (path, text) in &files {
        let beside = path.with_extension("part");
        std::fs::write(&beside, text).map_err(Error::io("write", &beside))?;
        std::fs::rename(&beside, path).map_err(Error::io("rename", &beside))?;
    }
    for warning in &warnings {
        note(&format!("warning: {warning}"));
    }
    let unused = file.questions.len() - parts.iter().map(|p| p.1.len()).sum::<usize>();
    if args.json { print(&json(&parts, unused, &warnings)) } else { print(&table(&parts, unused, output)) }
}

/// The orders in which a training question is shown: itself first, then rotations and orders that the seed picks, such
/// that each multiple of four has every answer at every letter equally often.
fn orders(versions: usize, seed: u64, place: usize) -> Vec<Permutation> {
    let mut rng = Rng::new(seed, 0x7065_726d ^ ((place as u64) << 32));
    let mut runs: Vec<Vec<Permutation>> = Permutation::all().chunks(4).map(<[_]>::to_vec).collect();
    rng.shuffle(&mut runs[1..]);
    for (i, run) in runs.iter_mut().enumerate() {
        rng.shuffle(&mut run[usize::from(i == 0)..]);
    }
    runs.concat().into_iter().take(versions).collect()
}

fn counts(questions: &[Question]) -> [usize; 4] {
    Choice::ALL.map(|letter| questions.iter().filter(|q| q.answer == letter).count())
}

fn warnings(args: &Args, template: &PromptTemplate, parts: &[(&str, Vec<Question>, usize)]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (name, questions, versions) in parts {
        if let Some(text) = balance::warning(counts(questions)).filter(|_| versions % 4 != 0) {
            let cure = if *name == "train" { "; --permute-choices 4 makes the letters equal" } else { "" };
            out.push(format!("{name}: {text}{cure}"));
        }
        if template.answer == AnswerFormat::Cot {
            let without = questions.iter().filter(|q| q.reasoning.is_none()).count();
            if without > 0 {
                let n = questions.len();
                out.push(format!(
                    "{name}: {without} of {n} questions have no reasoning: their answer is the line `Answer: x` alone"
                ));
            }
        }
        if args.context == Context::Gold {
            let without = questions.iter().filter(|q| q.context.is_none()).count();
            if without > 0 {
                out.push(format!("{name}: {without} questions have no コンテキスト: their prompt shows none"));
            }
        }
    }
    for (i, (name, questions, _)) in parts.iter().enumerate() {
        for (other, others, _) in &parts[..i] {
            let shared = leak::shared_questions(questions, others).len();
            if shared > 0 {
                out.push(format!("{other} and {name} share {shared} questions"));
            }
        }
        for file in &args.check_against {
            let shared = leak::shared_with_file(questions, file)?;
            if let Some(&first) = shared.first() {
                let example = &questions[first].file_name;
                out.push(format!(
                    "{name} shares {} questions with {} (such as {example})",
                    shared.len(),
                    file.display()
                ));
            }
        }
    }
    Ok(out)
}

fn table(parts: &[(&str, Vec<Question>, usize)], unused: usize, output: &Path) -> String {
    let mut text = String::from("split       a     b     c     d   all  records  law\n");
    for (name, questions, versions) in parts {
        let mut row = |questions: &[Question], split: &str, records: String, law: &str| {
            let [a, b, c, d] = counts(questions);
            let _ = writeln!(text, "{split:<7} {a:>5} {b:>5} {c:>5} {d:>5} {:>5} {records:>8}  {law}", questions.len());
        };
        row(questions, name, (questions.len() * versions).to_string(), "all");
        for (law, _) in questions::laws(questions) {
            let of_law: Vec<Question> = questions.iter().filter(|q| q.law == law).cloned().collect();
            row(&of_law, "", String::new(), &law);
        }
    }
    if unused > 0 {
        let _ = writeln!(text, "{unused} questions are in no split");
    }
    let _ = writeln!(text, "written to {}", output.display());
    text
}

fn json(parts: &[(&str, Vec<Question>, usize)], unused: usize, warnings: &[String]) -> String {
    let splits: serde_json::Map<String, serde_json::Value> = parts
        .iter()
        .map(|(name, questions, versions)| {
            let laws: serde_json::Map<String, serde_json::Value> = questions::laws(questions)
                .into_iter()
                .map(|(law, _)| {
                    let of_law: Vec<Question> = questions.iter().filter(|q| q.law == law).cloned().collect();
                    (law, letters(counts(&of_law)))
                })
                .collect();
            let value = serde_json::json!({
                "questions": questions.len(), "records": questions.len() * versions, "answers": letters(counts(questions)), "laws": laws,
                "p_value": balance::p_value(counts(questions)),
            });
            ((*name).to_owned(), value)
        })
        .collect();
    format!("{:#}\n", serde_json::json!({"splits": splits, "unused": unused, "warnings": warnings}))
}

fn letters(counts: [usize; 4]) -> serde_json::Value {
    serde_json::json!({"a": counts[0], "b": counts[1], "c": counts[2], "d": counts[3]})
}

fn run_inspect(args: &Inspect) -> Result<()> {
    let encoder = Encoder::load(&args.model, args.text_style)?;
    let records = record::read(&args.file)?;
    let vocab = encoder.tokenizer.vocab_size();
    let encoded =
        encoder.encode(&args.file, &records, Limits { vocab, max_len: args.max_seq_length as usize }, args.loss_on)?;
    let report = &encoded.report;
    if args.json {
        let text = serde_json::to_string_pretty(report).map_err(|e| Error::failed(e.to_string()))?;
        return print(&(text + "\n"));
    }
    let mut text = String::new();
    for (sample, line) in encoded.samples.iter().zip(&encoded.lines).take(args.samples) {
        let _ = writeln!(text, "line {line}: {} tokens, {} carry loss (in ⟦ ⟧)", sample.tokens.len(), sample.targets());
        text += &marked(&encoder, &sample.tokens, &sample.labels)?;
        text += "\n\n";
    }
    let mut lengths = report.lengths.clone();
    lengths.sort_unstable();
    let at = |share: f64| lengths[((lengths.len() - 1) as f64 * share).round() as usize];
    let _ =
        writeln!(text, "records    {} ({} samples, {} dropped)", report.records, report.samples, report.dropped.len());
    let _ = writeln!(text, "tokens     {} ({} carry loss)", report.tokens, report.targets);
    let _ = writeln!(
        text,
        "length     min {}, 10 % {}, median {}, 90 % {}, max {}, mean {:.1}",
        at(0.0),
        at(0.1),
        at(0.5),
        at(0.9),
        at(1.0),
        report.tokens as f64 / report.samples as f64
    );
    let width = (args.max_seq_length as usize).div_ceil(8);
    for bin in 0..8 {
        let n = lengths.iter().filter(|&&len| (len - 1) / width == bin).count();
        if n > 0 {
            let bar = "█".repeat((n * 40).div_ceil(lengths.len()));
            let _ = writeln!(text, "{:>10} {bar} {n}", format!("≤ {}", (bin + 1) * width));
        }
    }
    let _ = writeln!(
        text,
        "truncated  {} ({} prompt tokens cut; limit {})",
        report.truncated, report.cut_tokens, args.max_seq_length
    );
    let [a, b, c, d] = report.answers;
    let _ = writeln!(text, "answers    a {a}, b {b}, c {c}, d {d}");
    print(&text)?;
    if !report.dropped.is_empty() {
        let lines: Vec<String> = report.dropped.iter().take(10).map(ToString::to_string).collect();
        note(&format!("warning: dropped, the answer alone exceeds the limit: lines {}", lines.join(", ")));
    }
    if let Some(warning) = balance::warning(report.answers) {
        note(&format!("warning: {warning}"));
    }
    Ok(())
}

/// The tokens as text, a bar between two, ⟦ ⟧ around what carries loss. Tokens that share a character stay together.
fn marked(encoder: &Encoder, tokens: &[u32], labels: &[i32]) -> Result<String> {
    let mut out = String::new();
    let mut pending: Vec<u32> = Vec::new();
    let mut inside = false;
    for (i, (&token, &label)) in tokens.iter().zip(labels).enumerate() {
        let carries = i > 0 && label != crate::data::NO_LOSS;
        if carries != inside {
            out += if carries { "⟦" } else { "⟧" };
            inside = carries;
        }
        pending.push(token);
        let text = encoder.tokenizer.decode(&pending, false)?;
        let next_differs = labels.get(i + 1).is_none_or(|&l| (l != crate::data::NO_LOSS) != carries);
        if text.ends_with('\u{fffd}') && pending.len() < 4 && !next_differs {
            continue;
        }
        out += &text.replace('\n', "↵\n");
        pending.clear();
        if !next_differs && !text.ends_with('\n') {
            out.push('|');
        }
    }
    if inside {
        out += "⟧";
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_begin_with_the_question_itself_and_balance_every_four() {
        for place in 0..20 {
            let all = orders(24, 7, place);
            assert_eq!(all[0], Permutation::IDENTITY);
            assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 24);
            for run in all.chunks(4) {
                let letters: std::collections::HashSet<_> = run.iter().map(|p| p.letter(Choice::ALL[1])).collect();
                assert_eq!(letters.len(), 4);
            }
            assert_eq!(orders(5, 7, place), all[..5]);
        }
    }
}
