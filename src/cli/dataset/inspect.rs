//! `irori dataset inspect`: records as tokens.

use crate::{
    Error, Result,
    cli::{common::note, print},
    data::{
        NO_LOSS, balance,
        encode::{EncodeReport, Encoder, Limits, LossOn, TextStyle},
        questions::Choice,
        record,
    },
    model::source::cache,
};
use std::{fmt::Write as _, path::PathBuf};

/// Arguments of `irori dataset inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// JSONL records
    file: PathBuf,
    /// A model or tokenizer directory
    #[arg(long, alias = "model-name", value_name = "MODEL")]
    model: PathBuf,
    /// Samples are shortened to this many tokens
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..))]
    max_seq_length: u32,
    /// How many samples to print
    #[arg(long, value_name = "N", default_value_t = 2)]
    samples: usize,
    /// How a conversation becomes text: the model's chat template, or `<USER>…<ASSISTANT>…`
    #[arg(long, alias = "style", value_name = "STYLE", value_enum, default_value = "chat")]
    text_style: TextStyle,
    /// Where loss falls: on the answer and its end of turn, on every turn of the model, or on the prompt too
    #[arg(long, value_name = "WHERE", default_value = "answer")]
    loss_on: LossOn,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<()> {
    let encoder = Encoder::load(&cache::locate("model", &args.model)?, args.text_style)?;
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
    text += &summary(report, args.max_seq_length as usize);
    print(&text)?;
    if !report.dropped.is_empty() {
        let lines: Vec<String> = report.dropped.iter().take(10).map(ToString::to_string).collect();
        note(&format!("warning: dropped, the answer alone exceeds the limit: lines {}", lines.join(", ")));
    }
    if let Some(warning) = balance::warning(&report.answers) {
        note(&format!("warning: {warning}"));
    }
    Ok(())
}

/// The report in lines; `limit` is the most tokens of a sample.
fn summary(report: &EncodeReport, limit: usize) -> String {
    let mut text = String::new();
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
    let width = limit.div_ceil(8);
    for bin in 0..8 {
        let n = lengths.iter().filter(|&&len| (len - 1) / width == bin).count();
        if n > 0 {
            let bar = "█".repeat((n * 40).div_ceil(lengths.len()));
            let _ = writeln!(text, "{:>10} {bar} {n}", format!("≤ {}", (bin + 1) * width));
        }
    }
    let _ = writeln!(text, "truncated  {} ({} prompt tokens cut; limit {limit})", report.truncated, report.cut_tokens);
    let answers: Vec<String> =
        Choice::first(report.answers.columns()).iter().map(|&c| format!("{c} {}", report.answers.of(c))).collect();
    let _ = writeln!(
        text,
        "answers    {}",
        if answers.is_empty() { "none is a letter".into() } else { answers.join(", ") }
    );
    text
}

/// The tokens as text, a bar between two, ⟦ ⟧ around what carries loss. Tokens that share a character stay together.
fn marked(encoder: &Encoder, tokens: &[u32], labels: &[i32]) -> Result<String> {
    let mut out = String::new();
    let mut pending: Vec<u32> = Vec::new();
    let mut inside = false;
    for (i, (&token, &label)) in tokens.iter().zip(labels).enumerate() {
        let carries = i > 0 && label != NO_LOSS;
        if carries != inside {
            out += if carries { "⟦" } else { "⟧" };
            inside = carries;
        }
        pending.push(token);
        let text = encoder.tokenizer.decode(&pending, false)?;
        let next_differs = labels.get(i + 1).is_none_or(|&l| (l != NO_LOSS) != carries);
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
