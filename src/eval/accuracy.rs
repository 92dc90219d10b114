//! Accuracy on multiple-choice records while a model is trained: the right letter against the others, by likelihood.

use super::loglik;
use crate::{
    Result,
    data::{
        encode::{self, Encoder, Limits},
        prompt::AnswerFormat,
        questions::Choice,
        record::{Content, Record},
    },
    model::Engine,
};
use std::collections::BTreeMap;

/// A record that asks for a letter: everything up to the letter, and the letters' tokens.
#[derive(Debug, Clone)]
pub struct ChoicePrompt {
    prompt: Vec<u32>,
    letters: [u32; 4],
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
/// If the tokenizer does not give the letters tokens of their own.
pub fn choice_prompts(encoder: &Encoder, records: &[Record], limits: Limits) -> Result<Vec<ChoicePrompt>> {
    let mut prompts = Vec::new();
    for record in records {
        let (Some(right), Content::Messages(messages)) = (record.answer(), &record.content) else { continue };
        let Some((answer, history)) = messages.split_last() else { continue };
        let line = answer.content.trim().lines().next_back().unwrap_or("");
        let format = if line.starts_with(AnswerFormat::AnswerLine.prefix()) {
            AnswerFormat::AnswerLine
        } else {
            AnswerFormat::Letter
        };
        let (prefix, letters) = encode::choice_tokens(&encode::letter_answers(&encoder.tokenizer, format)?)?;
        let mut prompt = encoder.prompt(history)?;
        prompt.extend(prefix);
        if prompt.len() <= limits.max_len && prompt.iter().chain(&letters).all(|&id| (id as usize) < limits.vocab) {
            prompts.push(ChoicePrompt { prompt, letters, right });
        }
    }
    Ok(prompts)
}

/// Part of the prompts whose right letter is the most probable.
///
/// # Errors
/// If the device fails.
pub fn accuracy(engine: &mut Engine, prompts: &[ChoicePrompt]) -> Result<f64> {
    // The letters' tokens depend on the answer's form; those of one form are asked together.
    let mut forms: BTreeMap<[u32; 4], Vec<&ChoicePrompt>> = BTreeMap::new();
    for p in prompts {
        forms.entry(p.letters).or_default().push(p);
    }
    let mut right = 0;
    for (letters, asked) in forms {
        let texts: Vec<Vec<u32>> = asked.iter().map(|p| p.prompt.clone()).collect();
        let scores = loglik::score(engine, &texts, letters, |i| format!("evaluation question {}", i + 1), &mut |_| ())?;
        for (p, four) in asked.iter().zip(scores) {
            let best = (0..4).max_by(|&a, &b| four[a].total_cmp(&four[b]).then(b.cmp(&a)));
            right += usize::from(best == Some(p.right.index()));
        }
    }
    Ok(right as f64 / prompts.len().max(1) as f64)
}
