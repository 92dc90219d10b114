//! `irori demo`: the whole job on data and a tiny model made on the spot, so that a newcomer sees every command work without a
//! model or a data set.
//!
//! Each step is a command line. It is shown, then parsed and run in this process exactly as if it had been typed, so what
//! the demo teaches cannot drift from what the commands take. Nothing is computed here.
//!
//! What it shows is a fine-tune that looks good and is not: the training questions come out right afterwards, the held-out
//! ones do not, and only the held-out ones say what was learned.

use super::{common::ensure_new_dir, print};
use crate::{
    Error, Result,
    error::ResultExt,
    eval::result::EvalResult,
    files::{self, Existing, RealDisk},
    stats::Proportion,
};
use std::path::{Path, PathBuf};

/// The law questions of `examples/`, so that the program alone is enough.
const QUESTIONS: &str = include_str!("../../examples/lawqa/selection.json");
/// Where the demo writes unless told: the first of irori-demo, irori-demo-2, … that is free.
const DIRECTORY: &str = "irori-demo";

/// Arguments of `irori demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to put everything [default: irori-demo, or irori-demo-2, … if that is taken]
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Seed of the split, the model and the training
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let dir = match args.output_dir {
        Some(dir) => dir,
        None => free_directory()?,
    };
    ensure_new_dir(&dir)?;
    let started = std::time::Instant::now();
    let place = |name: &str| dir.join(name);
    let questions = place("selection.json");
    files::write(&RealDisk, &questions, QUESTIONS.as_bytes(), Existing::Refuse)?;
    print(&format!(
        "This is the whole job, small: law questions, a tiny Qwen3 with random weights, a QLoRA fine-tune, and an\n\
         honest comparison. Each step is a command that you can repeat. All files go to {}.\n",
        dir.display()
    ))?;
    for (number, step) in steps(&dir, args.seed).iter().enumerate() {
        print(&format!("\n[{}] {}\n$ {}\n", number + 1, step.what, step.shown()))?;
        super::invoke(&step.words)
            .with_context(|| format!("the demo stopped at step {}: {}", number + 1, step.what))?;
    }
    let score = |name: &str| EvalResult::read(&place(name)).map(|r| r.accuracy());
    print(&summary(&Scores {
        seen: [score("base-on-train.json")?, score("tuned-on-train.json")?],
        held_out: [score("base-on-test.json")?, score("tuned-on-test.json")?],
    }))?;
    print(&format!(
        "\nThe demo took {:.0} s. What it made is worth a look:\n  the comparison on held-out questions  {}\n  \
         the same on training questions        {}\n  the training run                      {}\n",
        started.elapsed().as_secs_f64(),
        place("report.html").display(),
        place("report-on-train.html").display(),
        place("run/report.html").display(),
    ))
}

/// A command of the job.
struct Stage {
    /// What it is for.
    what: &'static str,
    /// The words after `irori`.
    words: Vec<String>,
}

impl Stage {
    /// The command line as one would type it, flags that do not fit on a line below it.
    fn shown(&self) -> String {
        let mut lines = vec![String::from("irori")];
        let mut words = self.words.iter().peekable();
        while let Some(word) = words.next() {
            let mut piece = quoted(word);
            if word.starts_with("--") {
                while let Some(value) = words.next_if(|w| !w.starts_with("--")) {
                    piece.push(' ');
                    piece.push_str(&quoted(value));
                }
            }
            match lines.last_mut() {
                Some(line) if line.chars().count() + piece.chars().count() < 108 => {
                    line.push(' ');
                    line.push_str(&piece);
                }
                _ => lines.push(format!("    {piece}")),
            }
        }
        lines.join(" \\\n")
    }
}

/// The word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The job: what each step is for, and its command. DIR and SEED stand for the arguments. A random model has to learn the
/// questions by heart, hence the many passes at a high rate.
const JOB: &[(&str, &str)] = &[
    (
        "Split the questions: half to train on, half held out, alike in laws and in answers",
        "dataset --input DIR/selection.json --output-dir DIR/data --prompt letter --split train=32,test=32 \
         --stratify law,answer --seed SEED",
    ),
    (
        "Make a tiny Qwen3. Its weights are random: it knows no law, nor any Japanese",
        "synth --arch tiny --output DIR/model --seed SEED",
    ),
    (
        "Look at what is trained on: the tokens that carry loss are marked",
        "dataset inspect DIR/data/train.jsonl --model DIR/model --samples 1",
    ),
    (
        "Ask what the run will take before it starts",
        "plan --model DIR/model --train-file DIR/data/train.jsonl --num-epochs 12",
    ),
    (
        "Measure first: the base model on the held-out questions",
        "eval --model DIR/model --data DIR/data/test.jsonl --prompt letter --output DIR/base-on-test.json",
    ),
    (
        "… and on the questions that it is about to be trained on",
        "eval --model DIR/model --data DIR/data/train.jsonl --prompt letter --output DIR/base-on-train.json",
    ),
    (
        "Fine-tune",
        "train --model DIR/model --train-file DIR/data/train.jsonl --output-dir DIR/run --num-epochs 12 \
         --learning-rate 5e-3 --lora-dropout 0 --logging-steps 4 --save-total-limit 2 --seed SEED",
    ),
    (
        "Measure again: held-out questions",
        "eval --model DIR/model --adapter DIR/run --data DIR/data/test.jsonl --prompt letter \
         --output DIR/tuned-on-test.json",
    ),
    (
        "… and training questions",
        "eval --model DIR/model --adapter DIR/run --data DIR/data/train.jsonl --prompt letter \
         --output DIR/tuned-on-train.json",
    ),
    (
        "Compare, question by question, on held-out questions: the comparison that counts",
        "compare DIR/base-on-test.json DIR/tuned-on-test.json --output DIR/report.html",
    ),
    (
        "… and on training questions: the comparison that misleads",
        "compare DIR/base-on-train.json DIR/tuned-on-train.json --output DIR/report-on-train.html",
    ),
];

/// The job in `dir`.
fn steps(dir: &Path, seed: u64) -> Vec<Stage> {
    let (dir, seed) = (dir.display().to_string(), seed.to_string());
    let word = |w: &str| match w.strip_prefix("DIR") {
        Some(rest) => format!("{dir}{rest}"),
        None if w == "SEED" => seed.clone(),
        None => w.to_owned(),
    };
    JOB.iter().map(|&(what, line)| Stage { what, words: line.split_whitespace().map(word).collect() }).collect()
}

/// Accuracies before and after.
struct Scores {
    seen: [Proportion; 2],
    held_out: [Proportion; 2],
}

/// The table and what it means, in words that follow from the numbers.
fn summary(scores: &Scores) -> String {
    let row = |name: &str, [before, after]: &[Proportion; 2]| {
        let cell = |p: &Proportion| format!("{}/{} ({:.0} %)", p.count, p.total, 100.0 * p.value);
        format!("{name:<22}{:>16}{:>16}\n", cell(before), cell(after))
    };
    let mut text = format!("\n{:<22}{:>16}{:>16}\n", "right answers", "base", "fine-tuned");
    text += &row("training questions", &scores.seen);
    text += &row("held-out questions", &scores.held_out);
    let [_, seen] = &scores.seen;
    let [_, held_out] = &scores.held_out;
    text += if seen.low > 0.25 {
        "\nThe model learned the training questions by heart. "
    } else {
        "\nThe model did not learn even the training questions: more epochs or another seed would show it. "
    };
    text += if held_out.low <= 0.25 && held_out.high >= 0.25 {
        "On questions it has never seen it is still where\nguessing among four is (25 % lies within the 95 % interval): \
         a random model knows no law, and 32 questions\nteach none. "
    } else {
        "On questions it has never seen, guessing among\nfour would give 25 %, which lies outside the 95 % interval: \
         with a random model that is luck. "
    };
    text + "Had it been tested on its training data, as happens, it would have looked like an expert.\n\
            With a pretrained model the same commands measure what fine-tuning really did.\n"
}

/// The first of `irori-demo`, `irori-demo-2`, … that does not exist.
fn free_directory() -> Result<PathBuf> {
    let names = std::iter::once(DIRECTORY.to_owned()).chain((2..1000).map(|n| format!("{DIRECTORY}-{n}")));
    names.map(PathBuf::from).find(|p| !p.exists()).ok_or_else(|| {
        Error::usage(format!("{DIRECTORY} to {DIRECTORY}-999 exist: remove some, or choose a place with --output-dir"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_a_shell_takes_them() {
        let step = Stage { what: "", words: ["a", "--b", "c d", "x", "--it's", "", "--n=1"].map(String::from).into() };
        assert_eq!(step.shown(), "irori a --b 'c d' x '--it'\\''s' '' --n=1");
        let long = Stage { what: "", words: (0..30).flat_map(|n| [format!("--flag-{n}"), "value".into()]).collect() };
        let shown = long.shown();
        assert!(shown.lines().count() > 3 && shown.lines().all(|l| l.len() <= 112), "{shown}");
        assert_eq!(shown.replace(" \\\n    ", " "), format!("irori {}", long.words.join(" ")));
    }

    #[test]
    fn every_step_is_a_command_that_parses() {
        for step in steps(Path::new("a place"), 7) {
            crate::cli::parse(&step.words).unwrap_or_else(|e| panic!("{}: {e}", step.shown()));
        }
    }

    #[test]
    fn the_summary_says_what_the_numbers_say() {
        let p = |count| Proportion::new(count, 32);
        let text = summary(&Scores { seen: [p(8), p(32)], held_out: [p(9), p(7)] });
        assert!(text.contains("held-out questions         9/32 (28 %)     7/32 (22 %)"), "{text}");
        assert!(text.contains("by heart") && text.contains("25 % lies within"), "{text}");
        let text = summary(&Scores { seen: [p(8), p(9)], held_out: [p(9), p(30)] });
        assert!(text.contains("did not learn") && text.contains("lies outside"), "{text}");
    }
}
