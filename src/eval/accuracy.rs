//! Accuracy on multiple-choice records while a model is trained: the right letter against the others, by likelihood.

use super::loglik;
use crate::{
    Error, Result,
    data::{
        encode::{self, Encoder, Limits},
        prompt::AnswerFormat,
        questions::{self, Choice},
        record::{Content, Record},
    },
    model::Engine,
};
use std::{collections::BTreeMap, path::Path};

/// A record that asks for a letter: everything up to the letter, and the letters' tokens.
#[derive(Debug, Clone)]
pub struct ChoicePrompt {
    prompt: Vec<u32>,
    letters: Vec<u32>,
    right: Choice,
}

impl ChoicePrompt {
    /// Tokens of the prompt.
    pub fn len(&self) -> usize {
        self.prompt.len()
    }

    /// Whether there is no token, which no chat template makes.
    pub fn is_empty(&self) -> bool {
        self.prompt.is_empty()
    }
}

/// The records that ask for a letter, as prompts. Those that do not fit are left out, as training would shorten them.
///
/// # Errors
/// A record whose answer is none of its choices, or a tokenizer that does not give the letters tokens of their own; `path` is
/// for messages.
pub fn choice_prompts(encoder: &Encoder, path: &Path, records: &[Record], limits: Limits) -> Result<Vec<ChoicePrompt>> {
    let mut prompts = Vec::new();
    for (record, answer) in records.iter().zip(questions::records::answers(path, records)?) {
        let (Some((right, choices)), Content::Messages(messages)) = (answer, &record.content) else { continue };
        let Some((answer, history)) = messages.split_last() else { continue };
        let line = answer.content.trim().lines().next_back().unwrap_or("");
        let format = if line.starts_with(AnswerFormat::AnswerLine.prefix()) {
            AnswerFormat::AnswerLine
        } else {
            AnswerFormat::Letter
        };
        let (prefix, letters) = letter_tokens(encoder, format, choices)?;
        let mut prompt = encoder.prompt(history)?;
        prompt.extend(prefix);
        if prompt.len() <= limits.max_len && prompt.iter().chain(&letters).all(|&id| (id as usize) < limits.vocab) {
            prompts.push(ChoicePrompt { prompt, letters, right });
        }
    }
    Ok(prompts)
}

/// The tokens that the answers of `choices` letters share, and the token of each letter after them.
fn letter_tokens(encoder: &Encoder, format: AnswerFormat, choices: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    let answers = encode::letter_answers(&encoder.tokenizer, format, choices)?;
    encode::choice_tokens(&answers).ok_or_else(|| {
        Error::failed(format!(
            "the tokenizer does not give {choices} letters tokens of their own in answers of the form `{}`: right answers \
             cannot be counted while training",
            format.name()
        ))
    })
}

/// Part of the prompts whose right letter is the most probable.
///
/// # Errors
/// If the device fails.
pub fn accuracy(engine: &mut Engine, prompts: &[ChoicePrompt]) -> Result<f64> {
    // The letters' tokens depend on the answer's form; those of one form are asked together.
    let mut forms: BTreeMap<&[u32], Vec<&ChoicePrompt>> = BTreeMap::new();
    for p in prompts {
        forms.entry(&p.letters).or_default().push(p);
    }
    let mut right = 0;
    for (letters, asked) in forms {
        let texts: Vec<Vec<u32>> = asked.iter().map(|p| p.prompt.clone()).collect();
        let scores = loglik::score(engine, &texts, letters, |i| format!("evaluation question {}", i + 1), &mut |_| ())?;
        right += asked.iter().zip(scores).filter(|(p, scores)| loglik::best(scores) == p.right.index()).count();
    }
    Ok(right as f64 / prompts.len().max(1) as f64)
}
