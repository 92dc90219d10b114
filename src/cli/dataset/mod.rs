//! `irori dataset`: law questions in, JSONL records and splits out; and `irori dataset inspect`, records as tokens.

mod inspect;

use crate::{
    Error, Result,
    cli::{common::note, print},
    data::{
        balance, leak,
        permute::{self, order_count},
        prompt::{self, AnswerFormat, Context, PromptTemplate},
        questions::{self, Choice, LetterCounts, Question, lawqa},
        split::{self, Key, SplitSpec},
    },
    files::{self, Existing, RealDisk, stand_in},
};
use clap::Subcommand;
use serde_json::{Map, Value, json};
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
    /// Show each training question in N orders of its choices, or in as many as it has choices (cyclic): so every answer
    /// stands at every letter (train only)
    #[arg(long, visible_alias = "augment", value_name = "N|cyclic", default_value = "1")]
    permute_choices: Orders,
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

/// In how many orders of its choices a training question is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orders {
    /// In as many as it has choices.
    Cyclic,
    /// In so many.
    Count(u8),
}

impl std::str::FromStr for Orders {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u8>() {
            Ok(n @ 1..=100) => Ok(Self::Count(n)),
            _ if text == "cyclic" => Ok(Self::Cyclic),
            _ => Err("a number from 1 to 100, or cyclic".into()),
        }
    }
}

impl Orders {
    /// How many for a question with `choices` choices.
    fn of(self, choices: usize) -> usize {
        match self {
            Self::Cyclic => choices,
            Self::Count(n) => n.into(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print records as tokens with what carries loss, and what truncation does
    Inspect(inspect::Args),
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    match (&args.command, &args.input, &args.output_dir) {
        (Some(Command::Inspect(inspect)), ..) => inspect::run(inspect),
        (None, Some(input), Some(output)) => run_make(&args, input, output),
        _ => Err(Error::usage("--input and --output-dir are needed")),
    }
}

/// A part of the questions: what the records of one file are made of.
struct Part {
    name: &'static str,
    /// Places in the input file.
    places: Vec<usize>,
    questions: Vec<Question>,
    /// In how many orders each question is shown.
    orders: Orders,
}

impl Part {
    fn records(&self) -> usize {
        self.questions.iter().map(|q| self.orders.of(q.choices.len())).sum()
    }

    /// Whether the orders put every answer at every letter equally often.
    fn balanced(&self) -> bool {
        self.questions.iter().all(|q| self.orders.of(q.choices.len()).is_multiple_of(q.choices.len()))
    }
}

fn run_make(args: &Args, input: &Path, output: &Path) -> Result<()> {
    let template = template(args)?;
    let examples = if args.few_shot { vec![prompt::worked_example()?] } else { Vec::new() };
    let file = lawqa::read(input)?;
    let parts = parts(args, &file.questions)?;
    let mut outputs: Vec<(String, String)> = Vec::new();
    for part in &parts {
        let mut lines = String::new();
        for (question, &place) in part.questions.iter().zip(&part.places) {
            let choices = question.choices.len();
            for order in permute::orders(choices, part.orders.of(choices), args.seed, place) {
                let line = questions::records::line(question, &template, args.context, &examples, order)?;
                let _ = writeln!(lines, "{line}");
            }
        }
        outputs.push((format!("{}.jsonl", part.name), lines));
        outputs.push((format!("{}.json", part.name), file.to_json(&part.places)));
    }
    refuse_existing(output, &outputs, args.force)?;
    let warnings = warnings(args, &template, &parts)?;
    files::create_dirs(output)?;
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    files::write_together(&RealDisk, output, &outputs, existing)?;
    for warning in &warnings {
        note(&format!("warning: {warning}"));
    }
    let unused = file.questions.len() - parts.iter().map(|p| p.questions.len()).sum::<usize>();
    if args.json { print(&counts_json(&parts, unused, &warnings)) } else { print(&table(&parts, unused, output)) }
}

/// Nothing, if the files of one split may be written: none is there or they are to be replaced, and none of another split
/// would be left beside them. Whose that is, or whether it shares questions, cannot be told.
fn refuse_existing(output: &Path, outputs: &[(String, String)], force: bool) -> Result<()> {
    let there = |name: &str| stand_in::exists(&output.join(name));
    if let Some((name, _)) = outputs.iter().find(|(name, _)| there(name) && !force) {
        let path = output.join(name);
        return Err(Error::usage(format!("{} exists: choose another --output-dir, or --force", path.display())));
    }
    if let Some((name, _)) = outputs.iter().find(|(name, _)| output.join(name).is_dir()) {
        return Err(Error::usage(format!("{} is a directory: move it away", output.join(name).display())));
    }
    let names = split::NAMES.iter().flat_map(|split| [format!("{split}.jsonl"), format!("{split}.json")]);
    match names.into_iter().find(|name| there(name) && outputs.iter().all(|(new, _)| new != name)) {
        Some(name) => Err(Error::usage(format!(
            "{} is of another split, and would stand beside files that may share its questions: move it away, or choose \
             another --output-dir",
            output.join(name).display()
        ))),
        None => Ok(()),
    }
}

/// The prompt that the records are worded with.
fn template(args: &Args) -> Result<PromptTemplate> {
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
    Ok(template)
}

/// The questions of each split.
fn parts(args: &Args, all: &[Question]) -> Result<Vec<Part>> {
    let splits = split::split(all, &args.split, &args.stratify, args.seed)?;
    let part = |split: split::Split| Part {
        name: split.name,
        questions: split.questions.iter().map(|&i| all[i].clone()).collect(),
        places: split.questions,
        orders: if split.name == "train" { args.permute_choices } else { Orders::Count(1) },
    };
    let parts: Vec<Part> = splits.into_iter().map(part).collect();
    for part in &parts {
        let few = |q: &&Question| part.orders.of(q.choices.len()) > order_count(q.choices.len());
        if let (Some(q), Orders::Count(n)) = (part.questions.iter().find(few), part.orders) {
            let choices = q.choices.len();
            return Err(Error::usage(format!(
                "--permute-choices {n}: {} has {choices} choices, which have only {} orders: give a smaller number, or \
                 cyclic",
                q.name(),
                order_count(choices)
            )));
        }
    }
    Ok(parts)
}

fn counts<'a>(questions: impl IntoIterator<Item = &'a Question>) -> LetterCounts {
    questions.into_iter().map(|q| (Some(q.answer), q.choices.len())).collect()
}

fn warnings(args: &Args, template: &PromptTemplate, parts: &[Part]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for part in parts {
        let (name, questions) = (part.name, &part.questions);
        if let Some(text) = balance::warning(&counts(questions)).filter(|_| !part.balanced()) {
            let cure = if name == "train" { "; --permute-choices cyclic makes the letters equal" } else { "" };
            out.push(format!("{name}: {text}{cure}"));
        }
        let without = questions.iter().filter(|q| q.reasoning.is_none()).count();
        if template.answer == AnswerFormat::Cot && without > 0 {
            let n = questions.len();
            out.push(format!(
                "{name}: {without} of {n} questions have no reasoning: their answer is the line `Answer: x` alone"
            ));
        }
        let without = questions.iter().filter(|q| q.context.is_none()).count();
        if args.context == Context::Gold && without > 0 {
            out.push(format!("{name}: {without} questions have no コンテキスト: their prompt shows none"));
        }
    }
    for (i, part) in parts.iter().enumerate() {
        let (name, questions) = (part.name, &part.questions);
        for other in &parts[..i] {
            let shared = leak::shared_questions(questions, &other.questions).len();
            if shared > 0 {
                out.push(format!("{} and {name} share {shared} questions", other.name));
            }
        }
        for file in &args.check_against {
            let shared = leak::shared_with_file(questions, file)?;
            if let Some(&first) = shared.first() {
                let (n, file, example) = (shared.len(), file.display(), &questions[first].file_name);
                out.push(format!("{name} shares {n} questions with {file} (such as {example})"));
            }
        }
    }
    Ok(out)
}

/// The most choices that a question has.
fn columns(parts: &[Part]) -> usize {
    parts.iter().map(|p| counts(&p.questions).columns()).max().unwrap_or(0)
}

fn table(parts: &[Part], unused: usize, output: &Path) -> String {
    let width = columns(parts);
    let letters: String = Choice::first(width).iter().map(|c| format!("{:>6}", c.letter())).collect();
    let mut text = format!("split  {letters}   all  records  law\n");
    for part in parts {
        let mut row = |questions: &[&Question], split: &str, records: String, law: &str| {
            let counts = counts(questions.iter().copied()).row(width);
            let counts: String = counts.iter().map(|n| format!("{n:>6}")).collect();
            let _ = writeln!(text, "{split:<7}{counts} {:>5} {records:>8}  {law}", questions.len());
        };
        row(&part.questions.iter().collect::<Vec<_>>(), part.name, part.records().to_string(), "all");
        for (law, _) in questions::laws(&part.questions) {
            let of_law: Vec<&Question> = part.questions.iter().filter(|q| q.law == law).collect();
            row(&of_law, "", String::new(), &law);
        }
    }
    if unused > 0 {
        let _ = writeln!(text, "{unused} questions are in no split");
    }
    let _ = writeln!(text, "written to {}", output.display());
    text
}

fn counts_json(parts: &[Part], unused: usize, warnings: &[String]) -> String {
    let width = columns(parts);
    let letters = |counts: &LetterCounts| -> Value {
        let row = Choice::first(width).iter().zip(counts.row(width));
        row.map(|(c, n)| (c.to_string(), json!(n))).collect::<Map<_, _>>().into()
    };
    let split = |part: &Part| {
        let of_law = |law: &str| counts(part.questions.iter().filter(|q| q.law == law));
        let laws: Map<String, Value> = questions::laws(&part.questions)
            .into_iter()
            .map(|(law, _)| (law.clone(), letters(&of_law(&law))))
            .collect();
        let all = counts(&part.questions);
        let value = json!({
            "questions": part.questions.len(), "records": part.records(), "answers": letters(&all), "laws": laws,
            "p_value": balance::test(&all).p,
        });
        (part.name.to_owned(), value)
    };
    let splits: Map<String, Value> = parts.iter().map(split).collect();
    format!("{:#}\n", json!({"splits": splits, "unused": unused, "warnings": warnings}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_a_number_or_cyclic() {
        assert_eq!("cyclic".parse(), Ok(Orders::Cyclic));
        assert_eq!("24".parse(), Ok(Orders::Count(24)));
        for bad in ["0", "101", "-1", "4.5", "", "all", "Cyclic"] {
            assert!(bad.parse::<Orders>().is_err(), "{bad}");
        }
        assert_eq!((Orders::Cyclic.of(7), Orders::Count(3).of(7)), (7, 3));
    }
}
