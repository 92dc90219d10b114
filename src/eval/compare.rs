//! Paired comparison of two result files: the same questions, answered twice.
//!
//! Questions are paired by file name, text and the *set* of their choices, so a file whose choices were permuted pairs with one
//! whose choices were not: each result is judged by its own letter. Where a question occurs several times, entries with the same
//! choice order pair first, the rest in order. What has no partner is counted, not dropped in silence.

use super::{item::Item, label, letters, result::EvalResult};
use crate::{
    data::questions::LetterCounts,
    stats::{Paired, Proportion, mcnemar, p_text},
};
use serde::Serialize;
use std::collections::HashMap;

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
    /// Questions of the file without a partner.
    pub unpaired: u64,
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

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
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

/// What makes two results the same question; a file without names pairs by text alone.
fn key(item: &Item, named: bool) -> (&str, &str, Vec<&str>) {
    let mut choices: Vec<&str> = item.texts.iter().map(String::as_str).collect();
    choices.sort_unstable();
    (if named { &item.file_name } else { "" }, item.question.trim(), choices)
}

/// Indices (baseline, candidate) of the pairs, in the baseline's order.
fn pairs(baseline: &[Item], candidate: &[Item]) -> Vec<(usize, usize)> {
    let named = baseline.iter().chain(candidate).all(|i| !i.file_name.is_empty());
    let mut open: HashMap<_, Vec<usize>> = HashMap::new();
    for (j, c) in candidate.iter().enumerate() {
        open.entry(key(c, named)).or_default().push(j);
    }
    let mut partner = vec![None; baseline.len()];
    for same_order in [true, false] {
        for (i, b) in baseline.iter().enumerate().filter(|&(i, _)| partner[i].is_none()).collect::<Vec<_>>() {
            if let Some(list) = open.get_mut(&key(b, named))
                && let Some(at) = list.iter().position(|&j| !same_order || candidate[j].texts == b.texts)
            {
                partner[i] = Some(list.remove(at));
            }
        }
    }
    partner.into_iter().enumerate().filter_map(|(i, j)| Some((i, j?))).collect()
}

fn side(name: &str, all: &[Item], paired: &[&Item], columns: usize) -> Side {
    let right = paired.iter().filter(|i| i.is_correct()).count() as u64;
    let predicted: LetterCounts = paired.iter().map(|i| (i.predicted, i.choice_count)).collect();
    let truth: LetterCounts = paired.iter().map(|i| (Some(i.correct), i.choice_count)).collect();
    Side {
        name: name.to_owned(),
        accuracy: Proportion::new(right, paired.len() as u64),
        predicted: letters::row(&predicted, columns),
        truth: letters::row(&truth, columns),
        confusion: letters::confusion(paired.iter().map(|i| (i.correct, i.predicted)), columns),
        unpaired: (all.len() - paired.len()) as u64,
        warning: letters::collapse(&predicted, &truth),
    }
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
pub fn compare(names: [&str; 2], baseline: &EvalResult, candidate: &EvalResult) -> Comparison {
    let index = pairs(&baseline.results, &candidate.results);
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
    Comparison {
        pairs: table.total(),
        permuted: paired.iter().filter(|(b, c)| b.texts != c.texts).count() as u64,
        letters: letters::names(columns),
        chance: paired.iter().map(|(b, _)| 1.0 / b.choice_count as f64).sum::<f64>() / paired.len().max(1) as f64,
        baseline: side(names[0], &baseline.results, &paired.iter().map(|p| p.0).collect::<Vec<_>>(), columns),
        candidate: side(names[1], &candidate.results, &paired.iter().map(|p| p.1).collect::<Vec<_>>(), columns),
        difference: [d, low, high],
        table,
        p_value: mcnemar(table.won, table.lost),
        laws: by_law(&paired),
        won,
        lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::questions::choices,
        eval::result::tests::{item, of_size, recorded},
    };

    fn result(items: Vec<Item>) -> EvalResult {
        EvalResult { results: items, ..EvalResult::default() }
    }

    fn with(item: Item, texts: [&str; 4]) -> Item {
        Item { choices: choices::format(&texts), texts: texts.map(str::to_owned).into(), ..item }
    }

    #[test]
    fn questions_of_different_sizes_are_compared_together() {
        let five = |said| of_size(5, "民法_5", 4, said);
        let base = result(vec![of_size(2, "民法_2", 1, Some(0)), five(Some(4)), item("民法_4", 0, None)]);
        let cand = result(vec![five(Some(0)), of_size(2, "民法_2", 1, Some(1)), of_size(3, "民法_4", 0, None)]);
        let c = compare(["x", "y"], &base, &cand);
        assert_eq!((c.pairs, c.baseline.unpaired, c.candidate.unpaired), (2, 1, 1), "other choices, another question");
        assert_eq!(c.letters, ["a", "b", "c", "d", "e", "unknown"]);
        assert_eq!((&c.baseline.predicted, &c.candidate.truth), (&vec![1, 0, 0, 0, 1, 0], &vec![0, 1, 0, 0, 1, 0]));
        assert_eq!(c.candidate.confusion[4], [1, 0, 0, 0, 0, 0]);
        assert_eq!(c.candidate.confusion.len(), 5);
        assert!((c.chance - (0.5 + 0.2) / 2.0).abs() < 1e-12);
        assert_eq!(c.table, Paired { both: 0, lost: 1, won: 1, neither: 0 });
        assert_eq!((c.won[0].correct, c.lost[0].baseline, c.lost[0].candidate), ("b", "e", "a"));
        let twos = result(vec![of_size(2, "民法_2", 1, Some(0))]);
        let c = compare(["x", "x"], &twos, &twos);
        assert_eq!((c.letters.len(), c.chance, c.baseline.confusion.len()), (3, 0.5, 2));
    }

    #[test]
    fn pairs_by_question_even_when_permuted() {
        let turned = with(item("金商法_1", 1, Some(1)), ["四", "一", "二", "三"]);
        let base = result(vec![item("金商法_1", 0, Some(2)), item("薬機法_2", 3, Some(3)), item("only", 0, None)]);
        let cand = result(vec![item("薬機法_2", 3, Some(0)), turned, item("other", 0, None)]);
        let c = compare(["x", "y"], &base, &cand);
        assert_eq!((c.pairs, c.permuted, c.baseline.unpaired, c.candidate.unpaired), (2, 1, 1, 1));
        assert_eq!(c.table, Paired { both: 0, lost: 1, won: 1, neither: 0 });
        assert_eq!((c.won[0].file_name.as_str(), c.won[0].correct), ("金商法_1", "b"));
        assert_eq!(c.lost[0].law, "薬機法");
        assert_eq!(c.laws.len(), 2);
        assert_eq!(c.p_value, 1.0);
    }

    #[test]
    fn repeated_questions_pair_once_each_and_same_orders_first() {
        let turned = with(item("x", 1, Some(1)), ["四", "一", "二", "三"]);
        let a = result(vec![item("x", 0, Some(0)), turned.clone()]);
        let b = result(vec![turned, item("x", 0, Some(0))]);
        assert_eq!(pairs(&a.results, &b.results), [(0, 1), (1, 0)]);
        assert_eq!(compare(["a", "b"], &a, &b).permuted, 0);
        let other = result(vec![with(item("x", 0, None), ["別", "二", "三", "四"])]);
        assert_eq!(compare(["a", "b"], &a, &other).pairs, 0, "other choices make another question");
    }

    #[test]
    fn the_recorded_pair() {
        let (Some(small), Some(large)) =
            (recorded("qwen3_8b_norag_direct_dev27.json"), recorded("qwen3_8b_rag_cot_140.json"))
        else {
            return;
        };
        let c = compare(["direct", "rag"], &small, &large);
        assert_eq!((c.pairs, c.baseline.unpaired, c.candidate.unpaired, c.permuted), (27, 0, 113, 0));
        assert_eq!(c.baseline.accuracy.count, 13);
        assert_eq!(c.table.total(), 27);
        assert_eq!(c.candidate.accuracy.count, c.table.both + c.table.won);
        eprintln!("{:?} {} {}", c.table, c.p_value, c.verdict());
        assert_eq!(c.laws.iter().map(|l| l.law.as_str()).collect::<Vec<_>>(), ["金商法", "薬機法", "借地借家法"]);
        let whole = compare(["rag", "rag"], &large, &large);
        assert_eq!((whole.pairs, whole.table.won, whole.table.lost), (140, 0, 0));
    }
}
