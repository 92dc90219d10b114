//! Which question of one result file is which of another.
//!
//! Texts are compared as questions are everywhere: composed, in half width, white space as single spaces. A name is one only
//! if no other question of its file has it. Where a question occurs several times, entries with the same order of choices pair
//! first, the rest in order.

use crate::{
    Error, Result,
    data::questions::{excerpt, plain},
    eval::item::Item,
};
use std::collections::HashMap;

/// The results of a file, ready to be paired.
pub(super) struct File<'a> {
    /// What the file is called.
    pub(super) name: &'a str,
    items: &'a [Item],
    /// Their texts as they are compared.
    pub(super) plain: Vec<Plain>,
}

/// The texts of a question as they are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plain {
    question: String,
    /// In the question's own order; empty where the file does not say them.
    pub(super) choices: Vec<String>,
}

/// What makes two results the same question.
type Key<'a> = (&'a str, &'a str, Vec<&'a str>);

impl<'a> File<'a> {
    pub(super) fn new(name: &'a str, items: &'a [Item]) -> Self {
        let plain_of = |item: &Item| Plain {
            question: plain(&item.question),
            choices: item.texts.iter().map(|t| plain(t)).collect(),
        };
        Self { name, items, plain: items.iter().map(plain_of).collect() }
    }

    /// A file without names pairs by text alone.
    fn key(&self, i: usize, named: bool) -> Key<'_> {
        let mut choices: Vec<&str> = self.plain[i].choices.iter().map(String::as_str).collect();
        choices.sort_unstable();
        (if named { &self.items[i].file_name } else { "" }, &self.plain[i].question, choices)
    }

    fn named(&self) -> bool {
        self.items.iter().all(|i| !i.file_name.is_empty())
    }

    /// What a question is called: its name, else its number and beginning.
    fn called(&self, i: usize) -> String {
        match self.items[i].file_name.as_str() {
            "" => format!("results[{i}] ({})", excerpt(&self.plain[i].question)),
            name => name.to_owned(),
        }
    }

    /// Where it stands, for an error.
    fn place(&self, i: usize) -> String {
        let name = &self.items[i].file_name;
        format!("{}, results[{i}]{}", self.name, if name.is_empty() { String::new() } else { format!(" ({name})") })
    }

    /// The text of the right choice, or its letter where the file does not say texts.
    fn right(&self, i: usize) -> &str {
        let letter = self.items[i].correct;
        self.plain[i].choices.get(letter.index()).map_or(letter.letter(), String::as_str)
    }

    /// The names of questions that stand more than once, each with how often.
    pub(super) fn repeated(&self) -> Vec<String> {
        let named = self.named();
        let mut counts: HashMap<Key, (usize, usize)> = HashMap::new();
        for i in 0..self.items.len() {
            counts.entry(self.key(i, named)).or_insert((i, 0)).1 += 1;
        }
        let mut often: Vec<(usize, usize)> = counts.into_values().filter(|(_, n)| *n > 1).collect();
        often.sort_unstable();
        often.into_iter().map(|(i, n)| format!("{} ({n} times)", self.called(i))).collect()
    }

    /// Where the name stands, if it stands once.
    fn once(&self) -> HashMap<&str, usize> {
        let mut places: HashMap<&str, (usize, usize)> = HashMap::new();
        for (i, item) in self.items.iter().enumerate().filter(|(_, item)| !item.file_name.is_empty()) {
            places.entry(&item.file_name).or_insert((i, 0)).1 += 1;
        }
        places.into_iter().filter(|(_, (_, n))| *n == 1).map(|(name, (i, _))| (name, i)).collect()
    }
}

/// Indices (baseline, candidate) of the pairs, in the baseline's order.
type Pairs = Vec<(usize, usize)>;

/// The pairs, and the names of what has no partner on either side.
///
/// # Errors
/// If a question has the same name and another text in the two files, or the same text and another right choice.
pub(super) fn pair(baseline: &File, candidate: &File) -> Result<(Pairs, [Vec<String>; 2])> {
    let named = baseline.named() && candidate.named();
    let mut open: HashMap<Key, Vec<usize>> = HashMap::new();
    for j in 0..candidate.items.len() {
        open.entry(candidate.key(j, named)).or_default().push(j);
    }
    let mut partner: Vec<Option<usize>> = vec![None; baseline.items.len()];
    for same_order in [true, false] {
        for (i, partner) in partner.iter_mut().enumerate().filter(|(_, p)| p.is_none()) {
            let same = |&j: &usize| !same_order || candidate.plain[j] == baseline.plain[i];
            if let Some(list) = open.get_mut(&baseline.key(i, named))
                && let Some(at) = list.iter().position(same)
            {
                *partner = Some(list.remove(at));
            }
        }
    }
    let pairs: Pairs = partner.iter().enumerate().filter_map(|(i, j)| Some((i, (*j)?))).collect();
    let alone_b: Vec<usize> = (0..partner.len()).filter(|&i| partner[i].is_none()).collect();
    let mut alone_c: Vec<usize> = open.into_values().flatten().collect();
    alone_c.sort_unstable();
    check_right(baseline, candidate, &pairs)?;
    check_names(baseline, candidate, &alone_b)?;
    let called = |file: &File, places: Vec<usize>| places.into_iter().map(|i| file.called(i)).collect();
    Ok((pairs, [called(baseline, alone_b), called(candidate, alone_c)]))
}

/// Refuses pairs that do not have the same right choice.
fn check_right(baseline: &File, candidate: &File, pairs: &Pairs) -> Result<()> {
    let wrong: Vec<_> = pairs.iter().filter(|&&(i, j)| baseline.right(i) != candidate.right(j)).collect();
    let Some(&&(i, j)) = wrong.first() else { return Ok(()) };
    Err(Error::failed(format!(
        "{} and {}: the same question has the right choice {:?} in one and {:?} in the other{}; results that are judged by \
         different answers cannot be compared",
        baseline.place(i),
        candidate.place(j),
        excerpt(baseline.right(i)),
        excerpt(candidate.right(j)),
        more(wrong.len())
    )))
}

/// Refuses questions that have a name in common and are not the same.
fn check_names(baseline: &File, candidate: &File, alone: &[usize]) -> Result<()> {
    let (ours, theirs) = (baseline.once(), candidate.once());
    let same_name = |&i: &usize| {
        let name = baseline.items[i].file_name.as_str();
        ours.get(name).and_then(|_| theirs.get(name)).map(|&j| (i, j))
    };
    let wrong: Vec<(usize, usize)> = alone.iter().filter_map(same_name).collect();
    let Some(&(i, j)) = wrong.first() else { return Ok(()) };
    let (b, c) = (&baseline.plain[i], &candidate.plain[j]);
    let message = if b.question != c.question {
        format!("the questions are {:?} and {:?}", excerpt(&b.question), excerpt(&c.question))
    } else {
        let only = |file: &File, one: &Plain, other: &Plain| {
            let text = one.choices.iter().find(|t| !other.choices.contains(t))?;
            Some(format!("the choice {:?} is in {} only", excerpt(text), file.name))
        };
        let differ = only(baseline, b, c).or_else(|| only(candidate, c, b));
        differ.unwrap_or_else(|| "the choices are not as many".to_owned())
    };
    Err(Error::failed(format!(
        "{} and {}: {message}{}; results of one name and different questions cannot be compared",
        baseline.place(i),
        candidate.place(j),
        more(wrong.len())
    )))
}

/// " (and so in 2 more)", or nothing.
fn more(n: usize) -> String {
    if n > 1 { format!(" (and so in {} more)", n - 1) } else { String::new() }
}
