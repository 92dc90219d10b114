//! How questions are put: as the flags say, else as the records were written, else as those that the adapter was trained on,
//! else in the usual way. What is asked in another way than it was learned is said.

use super::Args;
use crate::{
    Result,
    cli::common::note,
    data::{
        prompt::Context,
        questions::{Asking, only},
    },
    eval::ask::Wording,
    train::provenance::Provenance,
};
use std::{collections::BTreeSet, path::Path};

/// The wording for the questions of `data`, asked with an adapter of which `trained` is known.
///
/// # Errors
/// If the data cannot be read.
pub(super) fn decide(args: &Args, data: &Path, trained: Option<&Provenance>) -> Result<Wording> {
    let recorded = Asking::of_file(data)?;
    let learned = trained.and_then(|t| t.written.as_ref()).map(|w| &w.records);
    let mut taken = Vec::new();
    let mut take = |flag: String| taken.push(flag);

    // Records do not hold their statutes by themselves: only lawqa JSON can show them.
    let with_statutes = learned.filter(|_| recorded.is_none()).and_then(|l| only(&l.context)) == Some("gold");
    let context = match args.context {
        Some(given) => given,
        None if with_statutes => {
            take("--context gold".into());
            Context::Gold
        }
        None => Context::None,
    };
    let by_records = recorded.as_ref().and_then(|r| only(&r.prompt));
    let prompt = match (&args.prompt, args.use_cot, by_records, learned.and_then(|l| only(&l.prompt))) {
        (Some(prompt), ..) => prompt.clone(),
        (None, true, ..) => "cot".to_owned(),
        (None, false, Some(known), _) => known.to_owned(),
        (None, false, None, Some(known)) => {
            take(format!("--prompt {known}"));
            known.to_owned()
        }
        (None, false, None, None) if context == Context::Gold => "letter".to_owned(),
        (None, false, None, None) => "answer-line".to_owned(),
    };
    let few_shot = match &recorded {
        _ if args.few_shot || args.no_few_shot => args.few_shot,
        Some(records) => records.few_shot,
        None => learned.is_some_and(|l| l.few_shot),
    };
    if recorded.is_none() && few_shot && !args.few_shot {
        take("--few-shot".into());
    }
    if let Some(from) = trained.map(|t| t.from.display()).filter(|_| !taken.is_empty()) {
        note(&format!("as the adapter was trained ({from}): {}", taken.join(", ")));
    }
    let wording = Wording { prompt, few_shot, context };
    if let Some(records) = &recorded {
        let differ = differences(&wording, records, |_| true);
        warn(&differ, &format!("{} was written", data.display()), "what is measured is not what was trained");
    }
    if let (Some(learned), Some(trained)) = (learned, trained) {
        // What the data says too has been said.
        let differ = differences(&wording, learned, |values| recorded.as_ref().is_none_or(|r| !said_by(r, values)));
        warn(&differ, "the adapter was trained on records that were written", &trained.from.display().to_string());
    }
    Ok(wording)
}

fn said_by(records: &Asking, values: &BTreeSet<String>) -> bool {
    [&records.prompt, &records.context].contains(&values)
}

/// Where the wording is not that of the records: what of it, as they were written, as they are asked.
fn differences(
    wording: &Wording,
    records: &Asking,
    counts: impl Fn(&BTreeSet<String>) -> bool,
) -> Vec<(&'static str, String, String)> {
    let context = if wording.context == Context::Gold { "gold" } else { "none" };
    let of = |what, values: &BTreeSet<String>, used: &str| {
        let differs = !values.is_empty() && !values.contains(used) && counts(values);
        let written = values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
        differs.then(|| (what, written, format!("`{used}`")))
    };
    let few_shot = records.few_shot && !wording.few_shot;
    let few_shot = few_shot.then(|| ("few-shot", "a worked example".to_owned(), "none".to_owned()));
    let prompt = of("prompt", &records.prompt, &wording.prompt);
    [prompt, of("context", &records.context, context), few_shot].into_iter().flatten().collect()
}

fn warn(differences: &[(&'static str, String, String)], who: &str, why: &str) {
    for (what, written, asked) in differences {
        note(&format!("warning: {who} with the {what} {written} and is asked with {asked}: {why}"));
    }
}
