//! Accuracy on multiple-choice records while a model is trained: the right letter against the others, by likelihood.

use super::{ask::Model, loglik};
use crate::{
    Error, Result,
    data::{
        encode::{self, Encoder, Limits},
        prompt::AnswerFormat,
        questions::{self, Choice},
        record::{Content, Record},
    },
    train::evaluate::Answered,
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
    /// Rows that a pass must have room for to ask it: its tokens, and no fewer than the letters that are compared.
    pub fn rows(&self) -> usize {
        self.prompt.len().max(self.letters.len())
    }
}

/// The records that ask for a letter, as prompts, shortened as samples are. Those that no sample is made of are left out.
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
        let said = format.answer(right, None);
        let Some(mut prompt) = encoder.question_within(history, &record.tools, &said, limits.max_len)? else {
            continue;
        };
        prompt.extend(prefix);
        if prompt.len() <= limits.max_len && prompt.iter().chain(&letters).all(|&id| (id as usize) < limits.vocab) {
            prompts.push(ChoicePrompt { prompt, letters, right });
        }
    }
    Ok(prompts)
}

/// The tokens that the answers of `choices` letters share, and the token of each letter after them.
fn letter_tokens(encoder: &Encoder, format: AnswerFormat, choices: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    let answers = encode::letter_answers(encoder, format, choices)?;
    encode::choice_tokens(&answers).ok_or_else(|| {
        Error::failed(format!(
            "the tokenizer does not give {choices} letters tokens of their own in answers of the form `{}`: right answers \
             cannot be counted while training",
            format.name()
        ))
    })
}

/// Counts the prompts whose right letter is the most probable, and those that have no most probable letter.
///
/// # Errors
/// If the device fails.
pub fn accuracy(model: &mut dyn Model, prompts: &[ChoicePrompt]) -> Result<Answered> {
    // The letters' tokens depend on the answer's form; those of one form are asked together.
    let mut forms: BTreeMap<&[u32], Vec<&ChoicePrompt>> = BTreeMap::new();
    for p in prompts {
        forms.entry(&p.letters).or_default().push(p);
    }
    let mut all = Answered { right: 0, unknown: 0, asked: prompts.len() as u64 };
    for (letters, asked) in forms {
        let texts: Vec<Vec<u32>> = asked.iter().map(|p| p.prompt.clone()).collect();
        let scores = loglik::score(model, &texts, letters, |i| format!("evaluation question {}", i + 1), &mut |_| ())?;
        for (p, scores) in asked.iter().zip(scores) {
            let said = loglik::best(&scores, 0.0);
            all.right += u64::from(said == Some(p.right.index()));
            all.unknown += u64::from(said.is_none());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{MicroBatch, chat::ChatTemplate, encode::TextStyle, record, tokenizer::byte_tokenizer};
    use crate::eval::ask::tests::Scripted;

    /// Says the letter whose number, from 0, is the last digit of the prompt; with `both`, the one after it as readily.
    fn digits(both: bool) -> Scripted {
        let choices = move |batch: &MicroBatch, rows: &[u32], ids: &[u32]| {
            // The tokenizer's ids of printable ASCII are the codes less that of '!'.
            let id = |c: u8| u32::from(c - b'!');
            let said = |&row: &u32| {
                let document = &batch.tokens[..=row as usize];
                let digit = document.iter().rev().find(|t| (id(b'0')..=id(b'9')).contains(t)).expect("a digit");
                let said = digit - id(b'0') + id(b'a');
                let likely = move |id: u32| id == said || (both && id == said + 1);
                ids.iter().map(move |&id| if likely(id) { -0.1 } else { -5.0 }).collect::<Vec<f32>>()
            };
            rows.iter().flat_map(said).collect()
        };
        Scripted { limits: (400, 200), choices: Some(Box::new(choices)), ..Scripted::default() }
    }

    #[test]
    fn records_of_every_size_are_asked_for_their_own_letters() {
        let dir = tempfile::tempdir().unwrap();
        let encoder =
            Encoder::new(byte_tokenizer(dir.path()), ChatTemplate::chatml().unwrap(), TextStyle::Raw).unwrap();
        let line = |said: &str, answer: &str, choices: usize| {
            serde_json::json!({"input": format!("q {said}?"), "output": answer, "meta": {"choices": (0..choices).map(|i| format!("x{i}")).collect::<Vec<_>>()}}).to_string()
        };
        let lines = [
            line("1", "b", 2),
            line("0", "b", 2),
            line("9", "j", 10),
            line("4", "Answer: e", 5),
            line("2", "a free text", 5),
            serde_json::json!({"input": "q 2?", "output": "c"}).to_string(),
        ];
        let path = Path::new("f.jsonl");
        let records = record::parse(path, lines.join("\n").as_bytes()).unwrap();
        let prompts = choice_prompts(&encoder, path, &records, Limits { vocab: 261, max_len: 200 }).unwrap();
        assert_eq!(prompts.iter().map(|p| p.letters.len()).collect::<Vec<_>>(), [2, 2, 10, 5, 4]);
        assert!(prompts.iter().all(|p| p.rows() == p.prompt.len().max(p.letters.len())));
        assert_eq!(accuracy(&mut digits(false), &prompts).unwrap(), Answered { right: 4, unknown: 0, asked: 5 });
        // Of two letters as likely as each other neither is the answer; the last choice has no letter after it.
        assert_eq!(accuracy(&mut digits(true), &prompts).unwrap(), Answered { right: 3, unknown: 2, asked: 5 });
        let short = Limits { vocab: 261, max_len: prompts[0].prompt.len() };
        assert!(
            choice_prompts(&encoder, path, &records, short).unwrap().len() < prompts.len(),
            "what is too long is left out"
        );
    }
}
