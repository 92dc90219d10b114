//! The command line: one file per subcommand. Arguments in, calls, printing out; no mathematics.

mod bench;
mod common;
mod compare;
mod completions;
mod dataset;
mod demo;
mod doctor;
mod errors;
mod eval;
mod flags;
mod generate;
mod merge;
mod output;
mod plan;
mod quantize;
mod score;
mod synth;
mod train;

use crate::{Error, Result};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::{io::Write, process::ExitCode};

/// Fine-tunes Qwen3 with QLoRA on one small GPU, or on a CPU.
#[derive(Debug, Parser)]
#[command(name = "irori", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole job on data and a tiny model made on the spot: what to try first
    Demo(demo::Args),
    /// Turn law questions into training and evaluation records, or inspect records as tokens
    Dataset(dataset::Args),
    /// Say what a run will take before it starts: memory by item, steps, tokens, time
    Plan(Box<plan::Args>),
    /// Fine-tune an adapter
    Train(Box<train::Args>),
    /// Answer multiple-choice questions and score the answers
    Eval(eval::Args),
    /// Compare two evaluation results question by question
    Compare(compare::Args),
    /// Log-probability of each token of given texts
    Score(score::Args),
    /// Continue prompts
    Generate(generate::Args),
    /// Write a model as a bitsandbytes-format NF4 checkpoint
    Quantize(quantize::Args),
    /// Merge an adapter into its base model
    Merge(merge::Args),
    /// Make a random-weight Qwen3 of any size as a Hugging Face directory
    Synth(synth::Args),
    /// Measure this machine: steps, loading, kernels
    Bench(bench::Args),
    /// Check this machine: processor, memory, driver, GPU, and a self-test
    Doctor(doctor::Args),
    /// Print the script that lets a shell complete commands and flags
    Completions(completions::Completions),
    /// Print the manual page, or write one for every command
    Man(completions::Pages),
}

/// Lets every flag with a value take a negative number, so that `--threads -1` is refused by the name of its flag and not
/// as an unknown flag `-1`.
fn numbers_may_be_negative(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let takes_value = arg.get_long().is_some() && arg.get_action().takes_values();
            if takes_value { arg.allow_negative_numbers(true) } else { arg }
        })
        .mut_subcommands(numbers_may_be_negative)
}

/// Runs the program and says how it ended: 0 done, 1 the work failed, 2 the command line or a configuration is wrong.
pub fn main() -> ExitCode {
    let parsed = numbers_may_be_negative(Cli::command()).try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => report(&e),
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(a) => demo::run(a),
        Command::Dataset(a) => dataset::run(a),
        Command::Plan(a) => plan::run(*a),
        Command::Train(a) => train::run(*a),
        Command::Eval(a) => eval::run(a),
        Command::Compare(a) => compare::run(a),
        Command::Score(a) => score::run(a),
        Command::Generate(a) => generate::run(a),
        Command::Quantize(a) => quantize::run(a),
        Command::Merge(a) => merge::run(a),
        Command::Synth(a) => synth::run(a),
        Command::Bench(a) => bench::run(a),
        Command::Doctor(a) => doctor::run(a),
        Command::Completions(a) => completions::completions(&a),
        Command::Man(a) => completions::man(&a),
    }
}

/// Runs a command line (the words after `irori`) in this process, as if it had been typed.
fn invoke(words: &[String]) -> Result<()> {
    parse(words).and_then(|cli| run(cli.command))
}

fn parse(words: &[String]) -> Result<Cli> {
    let line = std::iter::once("irori").chain(words.iter().map(String::as_str));
    Cli::try_parse_from(line).map_err(|e| Error::usage(e.to_string().trim_end().to_owned()))
}

/// Prints an error and its causes on standard error; a reader that went away (`| head`) is no error.
fn report(e: &Error) -> ExitCode {
    if let Error::Io { action: "write to", source, .. } = e
        && source.kind() == std::io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    let _ = std::io::stderr().write_all(errors::render(e).as_bytes());
    ExitCode::from(e.exit_code())
}

/// Writes to standard output; every command prints through this, so that a closed pipe ends the program quietly.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("write to", "standard output"))
}

#[cfg(test)]
mod tests;
