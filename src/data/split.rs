//! Train, dev and test: disjoint, of exact sizes, alike in law and answer, the same for the same seed.
//!
//! Questions that are one and the same but for the order of their choices form a unit that is never divided. Units are
//! dealt out one by one, each to the split that is furthest behind its share: in its stratum, in each key of the stratum
//! alone, and over all. A split that has its number takes no more.

use super::{
    permute::identity,
    questions::{Choice, Question},
};
use crate::{Error, Result, error::Setting, rng::Rng};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The use of the generator that this is ("split" in ASCII).
const PURPOSE: u64 = 0x73_706c_6974;

/// The sizes of the splits.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitSpec {
    /// In the order given; the names are train, dev and test.
    parts: Vec<(&'static str, Size)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Size {
    Count(usize),
    Ratio(f64),
}

/// What splits are to be alike in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Key {
    /// The law a question is about.
    Law,
    /// The right letter, among questions of as many choices.
    Answer,
}

/// What splits are called.
pub const NAMES: [&str; 3] = ["train", "dev", "test"];

impl std::str::FromStr for SplitSpec {
    type Err = String;

    /// `train=100,test=40` (questions) or `train=0.6,dev=0.2,test=0.2` (shares).
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts: Vec<(&'static str, Size)> = Vec::new();
        for part in text.split(',') {
            let form =
                || format!("`{part}`: write NAME=COUNT or NAME=SHARE, such as train=100,test=40 or train=0.6,test=0.4");
            let (name, size) = part.split_once('=').ok_or_else(form)?;
            let name = match name.trim() {
                "train" => "train",
                "dev" | "valid" | "validation" => "dev",
                "test" => "test",
                other => return Err(format!("unknown split `{other}`: train, dev or test")),
            };
            if parts.iter().any(|p| p.0 == name) {
                return Err(format!("{name} is given twice"));
            }
            let size = match (size.trim().parse::<usize>(), size.trim().parse::<f64>()) {
                (Ok(count), _) if count > 0 => Size::Count(count),
                (Err(_), Ok(share)) if share > 0.0 && share <= 1.0 => Size::Ratio(share),
                _ => return Err(form()),
            };
            parts.push((name, size));
        }
        let shares: Vec<f64> =
            parts.iter().filter_map(|p| if let Size::Ratio(r) = p.1 { Some(r) } else { None }).collect();
        if !shares.is_empty() && shares.len() < parts.len() {
            return Err("give all sizes as counts, or all as shares".into());
        }
        let sum: f64 = shares.iter().sum();
        if sum > 1.0 + 1e-9 {
            return Err(format!("the shares add up to {sum}, more than 1"));
        }
        Ok(Self { parts })
    }
}

/// One split: its name, and the places of its questions in the file, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// train, dev or test.
    pub name: &'static str,
    /// Places of its questions.
    pub questions: Vec<usize>,
}

impl SplitSpec {
    /// The number of questions of each part of `total`, by largest remainders for shares.
    fn counts(&self, total: usize) -> Result<Vec<usize>> {
        let exact: Vec<f64> = self
            .parts
            .iter()
            .map(|p| match p.1 {
                Size::Count(n) => n as f64,
                Size::Ratio(r) => r * total as f64,
            })
            .collect();
        let mut counts: Vec<usize> = exact.iter().map(|&x| (x + 1e-9).floor() as usize).collect();
        let wanted = (exact.iter().sum::<f64>() + 1e-6).floor() as usize;
        let mut by_rest: Vec<usize> = (0..counts.len()).collect();
        by_rest.sort_by(|&a, &b| (exact[b] - counts[b] as f64).total_cmp(&(exact[a] - counts[a] as f64)));
        let add = |counts: &[usize]| counts.iter().copied().fold(0, usize::saturating_add);
        let missing = wanted.saturating_sub(add(&counts));
        for &i in by_rest.iter().take(missing) {
            counts[i] += 1;
        }
        let sum = add(&counts);
        if sum > total {
            let message = format!("it asks for {sum} questions, but there are only {total}");
            return Err(Error::setting(Setting::named("split"), message));
        }
        if let Some(i) = counts.iter().position(|&n| n == 0) {
            let name = self.parts[i].0;
            let message = format!("it leaves no question of {total} for {name}: give it a larger share");
            return Err(Error::setting(Setting::named("split"), message));
        }
        Ok(counts)
    }
}

/// Divides questions as `spec` says; those that nobody asked for are in no split.
///
/// # Errors
/// More are asked for than there are, or units of several questions do not add up to the numbers asked for.
pub fn split(questions: &[Question], spec: &SplitSpec, stratify: &[Key], seed: u64) -> Result<Vec<Split>> {
    let mut counts = spec.counts(questions.len())?;
    let named = counts.len();
    let rest = questions.len() - counts.iter().sum::<usize>();
    counts.push(rest);

    let mut table = Table::new(counts, questions.len());
    for (keys, unit) in dealing_order(questions, stratify, seed) {
        table.deal(keys, unit)?;
    }
    let named = spec.parts.iter().zip(table.parts.into_iter().take(named));
    Ok(named
        .map(|((name, _), mut questions)| {
            questions.sort_unstable();
            Split { name, questions }
        })
        .collect())
}

/// Places of questions that are one but for the order of their choices.
type Unit = Vec<usize>;

/// The units with the keys of their strata, in the order in which they are dealt: the largest first, else by stratum, else
/// as `seed` shuffles them.
fn dealing_order(questions: &[Question], stratify: &[Key], seed: u64) -> Vec<(Vec<String>, Unit)> {
    let mut units: Vec<Unit> = Vec::new();
    let mut unit_of: HashMap<String, usize> = HashMap::new();
    for (i, q) in questions.iter().enumerate() {
        let unit = *unit_of.entry(identity(q)).or_insert_with(|| {
            units.push(Vec::new());
            units.len() - 1
        });
        units[unit].push(i);
    }
    // The answers of a unit of several orders are not one letter: its stratum is all of them. A letter among two choices is
    // another answer than the same letter among five.
    let key = |unit: &[usize], key: Key| match key {
        Key::Law => format!("law {}", questions[unit[0]].law),
        Key::Answer => {
            let letters: BTreeSet<Choice> = unit.iter().map(|&i| questions[i].answer).collect();
            format!("answer {letters:?} of {}", questions[unit[0]].choices.len())
        }
    };
    Rng::new(seed, PURPOSE).shuffle(&mut units);
    let mut strata: BTreeMap<Vec<String>, Vec<Unit>> = BTreeMap::new();
    for unit in units {
        strata.entry(stratify.iter().map(|&k| key(&unit, k)).collect()).or_default().push(unit);
    }
    let mut order: Vec<(Vec<String>, Unit)> =
        strata.into_iter().flat_map(|(keys, units)| units.into_iter().map(move |u| (keys.clone(), u))).collect();
    order.sort_by_key(|(_, unit)| std::cmp::Reverse(unit.len()));
    order
}

/// Where units are dealt to parts.
struct Table {
    /// Each part's share of all questions.
    shares: Vec<f64>,
    /// How many questions each part still takes.
    room: Vec<usize>,
    /// For each level (all questions, a stratum, a key of it): how many were dealt, and how many to each part.
    seen: HashMap<String, (usize, Vec<usize>)>,
    /// What each part has been dealt.
    parts: Vec<Vec<usize>>,
}

impl Table {
    /// For parts of so many questions of `total`.
    fn new(counts: Vec<usize>, total: usize) -> Self {
        Self {
            shares: counts.iter().map(|&n| n as f64 / total as f64).collect(),
            parts: vec![Vec::new(); counts.len()],
            room: counts,
            seen: HashMap::new(),
        }
    }

    /// Gives the unit to the part that is furthest behind, in all levels together, of those with room for it.
    fn deal(&mut self, keys: Vec<String>, unit: Unit) -> Result<()> {
        let mut levels = vec![String::new(), keys.join("/")];
        if keys.len() > 1 {
            levels.extend(keys);
        }
        let behind = |part: usize| -> f64 {
            let at = |level: &String| {
                let (all, taken) = self.seen.get(level).map_or((0, 0), |(all, taken)| (*all, taken[part]));
                self.shares[part] * (all + unit.len()) as f64 - taken as f64
            };
            levels.iter().map(at).sum()
        };
        let fits = (0..self.parts.len()).filter(|&part| self.room[part] >= unit.len());
        let chosen = fits.max_by(|&a, &b| behind(a).total_cmp(&behind(b)).then(b.cmp(&a))).ok_or_else(|| {
            let n = unit.len();
            let message = format!(
                "{n} questions are the same but for the order of their choices and must stay together, but no split has room \
                 for them: make the numbers multiples of {n}"
            );
            Error::setting(Setting::named("split"), message)
        })?;
        self.room[chosen] -= unit.len();
        for level in levels {
            let (all, taken) = self.seen.entry(level).or_insert_with(|| (0, vec![0; self.room.len()]));
            *all += unit.len();
            taken[chosen] += unit.len();
        }
        self.parts[chosen].extend(unit);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        questions::{
            Choice,
            lawqa::{read, sample_question},
        },
        shared::shared,
    };

    fn spec(text: &str) -> SplitSpec {
        text.parse().unwrap()
    }

    fn questions(n: usize) -> Vec<Question> {
        (0..n)
            .map(|i| sample_question(&format!("法{}_{i}", i % 3), &format!("問{i}"), ['a', 'b', 'c', 'd'][i / 3 % 4]))
            .collect()
    }

    #[test]
    fn sizes() {
        assert_eq!(spec("train=100,test=40").counts(140).unwrap(), [100, 40]);
        assert_eq!(spec("train=0.6,dev=0.2,test=0.2").counts(140).unwrap(), [84, 28, 28]);
        assert_eq!(spec("train=0.5,dev=0.25,test=0.25").counts(7).unwrap().iter().sum::<usize>(), 7);
        assert_eq!(spec("train=0.5").counts(10).unwrap(), [5]);
        assert!(
            spec("train=100,test=41")
                .counts(140)
                .unwrap_err()
                .to_string()
                .contains("141 questions, but there are only 140")
        );
        assert!(spec("train=0.99,test=0.01").counts(5).unwrap_err().to_string().contains("for test"));
        for bad in [
            "",
            "train",
            "train=0",
            "train=-1",
            "train=NaN",
            "train=0.7,test=0.7",
            "train=5,test=0.5",
            "x=1",
            "train=1,train=2",
        ] {
            assert!(bad.parse::<SplitSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn exact_disjoint_seeded_and_alike() {
        let all = questions(240);
        let parts = split(&all, &spec("train=120,dev=60,test=36"), &[Key::Law, Key::Answer], 1).unwrap();
        assert_eq!(parts.iter().map(|p| p.questions.len()).collect::<Vec<_>>(), [120, 60, 36]);
        let mut together: Vec<usize> = parts.iter().flat_map(|p| p.questions.clone()).collect();
        together.sort_unstable();
        together.dedup();
        assert_eq!(together.len(), 216);
        for part in &parts {
            for &letter in Choice::first(4) {
                let n = part.questions.iter().filter(|&&i| all[i].answer == letter).count();
                assert!(n.abs_diff(part.questions.len() / 4) <= 1, "{} {letter} {n}", part.name);
            }
        }
        assert_eq!(parts, split(&all, &spec("train=120,dev=60,test=36"), &[Key::Law, Key::Answer], 1).unwrap());
        assert_ne!(parts, split(&all, &spec("train=120,dev=60,test=36"), &[Key::Law, Key::Answer], 2).unwrap());
    }

    #[test]
    fn the_real_set_in_one_order_and_in_four() {
        for (name, size, fold) in
            [("selection", "train=100,test=40", 1), ("selection_randomized", "train=400,test=160", 4)]
        {
            let Some(path) = shared(&format!("lawqa_jp/{name}.json")) else { return };
            let all = read(&path).unwrap().questions;
            let parts = split(&all, &spec(size), &[Key::Law, Key::Answer], 42).unwrap();
            assert_eq!((parts[0].questions.len(), parts[1].questions.len()), (100 * fold, 40 * fold));
            let ids: Vec<std::collections::HashSet<String>> =
                parts.iter().map(|p| p.questions.iter().map(|&i| identity(&all[i])).collect()).collect();
            assert!(ids[0].is_disjoint(&ids[1]));
            // 40 of 140: 金商法 80, 薬機法 39, 借地借家法 21 give 22.9, 11.1 and 6; one question either way.
            for (law, share) in [("金商法", 22.86), ("薬機法", 11.14), ("借地借家法", 6.0)] {
                let n = parts[1].questions.iter().filter(|&&i| all[i].law == law).count() / fold;
                assert!((n as f64 - share).abs() <= 1.2, "{law} {n}");
            }
        }
        let Some(path) = shared("lawqa_jp/selection_randomized.json") else { return };
        let all = read(&path).unwrap().questions;
        let odd = split(&all, &spec("train=401,test=159"), &[Key::Law], 42).unwrap_err().to_string();
        assert!(odd.contains("multiples of 4"), "{odd}");
    }
}
