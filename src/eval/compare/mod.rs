//! Paired comparison of two result files: the same questions, answered twice.
//!
//! Questions are paired by file name, text and the *set* of their choices (`pairs.rs`), so a file whose choices were permuted
//! pairs with one whose choices were not: each result is judged by its own letter. What has no partner is named, and so is
//! what the two files were made with, where that differs. An unknown answer is not right: where both sides do not know, the
//! pair says nothing, and where one does, it is won or lost like any other.

mod pairs;
#[cfg(test)]
mod tests;

use super::{item::Item, label, letters, result::EvalResult};
use crate::{
    Result,
    data::questions::LetterCounts,
    stats::{Paired, Proportion, mcnemar, p_text},
};
use pairs::{File, pair};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// One of the two sides, over the paired questions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// Its name, usually the file's.
    pub name: String,
    /// Accuracy on the pairs.
    pub accuracy: Proportion,
    /// How often each of [`Comparison::letters`] was predicted.
    pub predicted: Vec<u64>,
    /// How often each of them was right.
    pub truth: Vec<u64>,
    /// For each right letter, how often each of them was predicted.
    pub confusion: Vec<Vec<u64>>,
    /// Answers that are unknown, and count as not right.
    pub unknown: u64,
    /// Questions of the file without a partner.
    pub unpaired: u64,
    /// Their names.
    pub only_here: Vec<String>,
    /// Questions that stand in the file more than once, by name.
    pub repeated: Vec<String>,
    /// A sentence, if the predictions have collapsed towards one letter.
    pub warning: Option<String>,
}

/// The pairs of one law.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LawRow {
    /// Its name.
    pub law: String,
    /// Right in the baseline.
    pub baseline: Proportion,
    /// Right in the candidate.
    pub candidate: Proportion,
    /// Right only in the candidate.
    pub won: u64,
    /// Right only in the baseline.
    pub lost: u64,
}

/// A question on which the two differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Where it comes from.
    pub file_name: String,
    /// Its law.
    pub law: String,
    /// The question.
    pub question: String,
    /// The choices as the candidate saw them.
    pub choices: String,
    /// The right letter in the candidate's order.
    pub correct: &'static str,
    /// The baseline's letter, in its own order.
    pub baseline: &'static str,
    /// The candidate's letter.
    pub candidate: &'static str,
    /// The baseline's response.
    pub baseline_response: String,
    /// The candidate's response.
    pub candidate_response: String,
}

impl Change {
    fn of(baseline: &Item, candidate: &Item) -> Self {
        Self {
            file_name: candidate.file_name.clone(),
            law: candidate.law().to_owned(),
            question: candidate.question.clone(),
            choices: candidate.choices.clone(),
            correct: candidate.correct.letter(),
            baseline: label(baseline.predicted),
            candidate: label(candidate.predicted),
            baseline_response: baseline.response.clone(),
            candidate_response: candidate.response.clone(),
        }
    }
}

/// A field of the two files' `config` that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its name.
    pub field: String,
    /// The baseline's; null where it says nothing.
    pub baseline: Value,
    /// The candidate's.
    pub candidate: Value,
    /// Whether it is how questions were asked, not what was asked.
    pub asking: bool,
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What the two files were made with, where that differs.
    pub differences: Vec<Difference>,
    /// Number of pairs.
    pub pairs: u64,
    /// Pairs whose choices stand in another order on the two sides.
    pub permuted: u64,
    /// The letters that the questions have, and "unknown": what counts of answers are about.
    pub letters: Vec<&'static str>,
    /// Part of the questions that guessing would get right: the mean of 1 / number of choices.
    pub chance: f64,
    /// The first file.
    pub baseline: Side,
    /// The second file.
    pub candidate: Side,
    /// Candidate minus baseline accuracy, with the ends of its 95 % interval.
    pub difference: [f64; 3],
    /// Both, lost, won, neither.
    pub table: Paired,
    /// Exact two-sided McNemar probability.
    pub p_value: f64,
    /// By law, in order of appearance.
    pub laws: Vec<LawRow>,
    /// Wrong before, right now.
    pub won: Vec<Change>,
    /// Right before, wrong now.
    pub lost: Vec<Change>,
}

impl Comparison {
    /// What the numbers say, in one sentence.
    pub fn verdict(&self) -> String {
        let [d, low, high] = self.difference.map(|x| 100.0 * x);
        let p = p_text(self.p_value);
        let relation = if p.starts_with('<') { "" } else { "= " };
        let range = format!("95% interval {low:+.1} to {high:+.1}, exact McNemar p {relation}{p}");
        if self.p_value < 0.05 {
            let word = if d > 0.0 { "better" } else { "worse" };
            format!("The candidate is {word} by {:.1} percentage points ({range}).", d.abs())
        } else {
            format!("No difference is shown: {d:+.1} percentage points ({range}).")
        }
    }
}

fn side(file: &File, paired: &[&Item], only_here: Vec<String>, columns: usize) -> Side {
    let right = paired.iter().filter(|i| i.is_correct()).count() as u64;
    let predicted: LetterCounts = paired.iter().map(|i| (i.predicted, i.choice_count)).collect();
    let truth: LetterCounts = paired.iter().map(|i| (Some(i.correct), i.choice_count)).collect();
    Side {
        name: file.name.to_owned(),
        accuracy: Proportion::new(right, paired.len() as u64),
        predicted: letters::row(&predicted, columns),
        truth: letters::row(&truth, columns),
        confusion: letters::confusion(paired.iter().map(|i| (i.correct, i.predicted)), columns),
        unknown: predicted.none,
        unpaired: only_here.len() as u64,
        only_here,
        repeated: file.repeated(),
        warning: letters::collapse(&predicted, &truth),
    }
}

/// Fields of `config` that say nothing of how answers came about.
const INCIDENTAL: [&str; 5] = ["irori_version", "total_samples", "rescored", "rescored_from", "rescored_by"];

/// Fields of `config` that say how questions were asked.
const ASKING: [&str; 10] = [
    "method",
    "prompt",
    "style",
    "permute",
    "few_shot_enabled",
    "cot_enabled",
    "rag_enabled",
    "retriever_type",
    "ensemble_runs",
    "max_new_tokens",
];

/// Where the two files' `config` differ. A field that is missing is one that is null.
fn differences(baseline: &EvalResult, candidate: &EvalResult) -> Vec<Difference> {
    let fields: BTreeSet<&String> = baseline.config.keys().chain(candidate.config.keys()).collect();
    let difference = |field: &String| {
        let of = |r: &EvalResult| r.config.get(field).cloned().unwrap_or_default();
        let (baseline, candidate) = (of(baseline), of(candidate));
        let asking = ASKING.contains(&field.as_str());
        (baseline != candidate && !INCIDENTAL.contains(&field.as_str())).then(|| Difference {
            field: field.clone(),
            baseline,
            candidate,
            asking,
        })
    };
    fields.into_iter().filter_map(difference).collect()
}

/// The pairs by law, in order of appearance.
fn by_law(paired: &[(&Item, &Item)]) -> Vec<LawRow> {
    let mut laws: Vec<(&str, [u64; 5])> = Vec::new();
    for &(b, c) in paired {
        let at = laws.iter().position(|l| l.0 == c.law()).unwrap_or_else(|| {
            laws.push((c.law(), [0; 5]));
            laws.len() - 1
        });
        let (rb, rc) = (u64::from(b.is_correct()), u64::from(c.is_correct()));
        for (sum, add) in laws[at].1.iter_mut().zip([1, rb, rc, rc * (1 - rb), rb * (1 - rc)]) {
            *sum += add;
        }
    }
    let row = |(law, [n, b, c, won, lost]): (&str, [u64; 5])| LawRow {
        law: law.to_owned(),
        baseline: Proportion::new(b, n),
        candidate: Proportion::new(c, n),
        won,
        lost,
    };
    laws.into_iter().map(row).collect()
}

/// Compares `candidate` with `baseline`; the names are what the report calls them. Without a common question the comparison
/// has no pairs: callers say so.
///
/// # Errors
/// If a question is another one in the two files although it has the same name, or has another right choice.
pub fn compare(names: [&str; 2], baseline: &EvalResult, candidate: &EvalResult) -> Result<Comparison> {
    let files = [File::new(names[0], &baseline.results), File::new(names[1], &candidate.results)];
    let (index, [only_b, only_c]) = pair(&files[0], &files[1])?;
    let paired: Vec<(&Item, &Item)> =
        index.iter().map(|&(i, j)| (&baseline.results[i], &candidate.results[j])).collect();
    let mut table = Paired::default();
    let (mut won, mut lost) = (Vec::new(), Vec::new());
    for &(b, c) in &paired {
        match (b.is_correct(), c.is_correct()) {
            (true, true) => table.both += 1,
            (false, false) => table.neither += 1,
            (true, false) => {
                table.lost += 1;
                lost.push(Change::of(b, c));
            }
            (false, true) => {
                table.won += 1;
                won.push(Change::of(b, c));
            }
        }
    }
    let (d, low, high) = table.difference();
    let columns = paired.iter().map(|(b, c)| b.choice_count.max(c.choice_count)).max().unwrap_or(0);
    let permuted = index.iter().filter(|&&(i, j)| files[0].plain[i].choices != files[1].plain[j].choices).count();
    Ok(Comparison {
        differences: differences(baseline, candidate),
        pairs: table.total(),
        permuted: permuted as u64,
        letters: letters::names(columns),
        chance: paired.iter().map(|(b, _)| 1.0 / b.choice_count as f64).sum::<f64>() / paired.len().max(1) as f64,
        baseline: side(&files[0], &paired.iter().map(|p| p.0).collect::<Vec<_>>(), only_b, columns),
        candidate: side(&files[1], &paired.iter().map(|p| p.1).collect::<Vec<_>>(), only_c, columns),
        difference: [d, low, high],
        table,
        p_value: mcnemar(table.won, table.lost),
        laws: by_law(&paired),
        won,
        lost,
    })
}
