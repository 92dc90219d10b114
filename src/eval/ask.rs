//! What an evaluation needs from the rooms below it: a question, something that turns it into tokens, and a model.
//!
//! [`Model`] is the part of [`Engine`] that evaluation uses, so that tests can put a scorer of their own in its place;
//! [`Prompter`] is a prompt template with its chat template and tokenizer.

use super::{LETTERS, result::Item};
use crate::{
    Error, Result,
    data::{MicroBatch, packing},
    model::Engine,
};

/// A multiple-choice question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// The question.
    pub question: String,
    /// Texts of the four choices, without letters.
    pub choices: [String; 4],
    /// The right one, 0..4.
    pub correct: usize,
    /// Where it comes from; may be empty.
    pub file_name: String,
    /// The law, or empty.
    pub law: String,
    /// The statutes it rests on (lawqa's コンテキスト); may be empty.
    pub context: String,
    /// Sources the data set names.
    pub references: Vec<String>,
}

impl Question {
    /// The choices in `order` (place → choice) as lines "a …".
    pub fn lines(&self, order: [usize; 4]) -> String {
        let line = |place: usize| format!("{} {}", LETTERS[place], self.choices[order[place]]);
        [0, 1, 2, 3].map(line).join("\n")
    }

    /// A result without an answer yet.
    pub fn item(&self) -> Item {
        Item {
            question: self.question.clone(),
            choices: self.lines([0, 1, 2, 3]),
            correct: self.correct,
            file_name: self.file_name.clone(),
            law: self.law.clone(),
            references: self.references.clone(),
            ..Item::default()
        }
    }

    /// What messages call it: its file name or the beginning of its text.
    pub fn name(&self) -> String {
        if self.file_name.is_empty() { self.question.chars().take(30).collect() } else { self.file_name.clone() }
    }
}

/// Turns questions into tokens.
pub trait Prompter {
    /// The tokens of the prompt, chat template included, up to where the model's turn begins; `order[place]` is the choice shown
    /// at that place.
    fn prompt(&self, question: &Question, order: [usize; 4]) -> Result<Vec<u32>>;

    /// The tokens of the answer that names `letter` (0..4), as training would write it ("c", "Answer: c").
    fn answer(&self, letter: usize) -> Result<Vec<u32>>;

    /// Tokens that end the model's turn.
    fn stop(&self) -> Vec<u32>;

    /// The text of tokens.
    fn decode(&self, tokens: &[u32]) -> Result<String>;
}

/// A language model, as evaluation uses it.
pub trait Model {
    /// Most rows of a micro-batch, longest document.
    fn limits(&self) -> (usize, usize);

    /// See [`Engine::choice_logprobs`].
    fn choice_logprobs(&mut self, batch: &MicroBatch, rows: &[u32], ids: &[u32]) -> Result<Vec<f32>>;

    /// See [`Engine::target_logprobs`].
    fn target_logprobs(&mut self, batch: &MicroBatch) -> Result<Vec<f32>>;

    /// See [`Engine::generate`].
    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        max_new: usize,
        stop: &[u32],
        on_done: &mut dyn FnMut(usize, &[u32]),
    ) -> Result<Vec<Vec<u32>>>;
}

impl Model for Engine {
    fn limits(&self) -> (usize, usize) {
        (self.spec().max_rows, self.spec().max_len)
    }

    fn choice_logprobs(&mut self, batch: &MicroBatch, rows: &[u32], ids: &[u32]) -> Result<Vec<f32>> {
        Self::choice_logprobs(self, batch, rows, ids)
    }

    fn target_logprobs(&mut self, batch: &MicroBatch) -> Result<Vec<f32>> {
        Self::target_logprobs(self, batch)
    }

    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        max_new: usize,
        stop: &[u32],
        on_done: &mut dyn FnMut(usize, &[u32]),
    ) -> Result<Vec<Vec<u32>>> {
        let mut on_token = |i: usize, text: &[u32], ended: bool| {
            if ended {
                on_done(i, text);
            }
        };
        Self::generate(self, prompts, max_new, stop, &mut on_token)
    }
}

/// Packs documents of these lengths into micro-batches of at most `max_rows` rows (see [`packing::pack`]). A document that
/// fits in none is an error; `name` names it.
pub fn pack(
    lengths: &[usize],
    (max_rows, max_len): (usize, usize),
    name: impl Fn(usize) -> String,
) -> Result<Vec<Vec<usize>>> {
    let limit = max_rows.min(max_len);
    if let Some(i) = lengths.iter().position(|n| !(1..=limit).contains(n)) {
        return Err(Error::failed(format!(
            "{} is {} tokens long, and this evaluation was laid out for 1 to {limit}: raise --max-seq-length",
            name(i),
            lengths[i]
        )));
    }
    packing::pack(lengths, max_rows)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn question(n: usize) -> Question {
        Question {
            question: format!("問{n}"),
            choices: ["零", "一", "二", "三"].map(|c| format!("{n}の{c}")),
            correct: n % 4,
            file_name: format!("金商法_{n}"),
            ..Question::default()
        }
    }

    /// Prompt: [question number, the shown order…], padded to a length that differs; answers "9 letter".
    pub(crate) struct Fake;

    impl Prompter for Fake {
        fn prompt(&self, q: &Question, order: [usize; 4]) -> Result<Vec<u32>> {
            let n: u32 = q.file_name.rsplit('_').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut tokens = vec![n, order[0] as u32, order[1] as u32, order[2] as u32, order[3] as u32];
            tokens.extend(std::iter::repeat_n(7, n as usize % 3));
            Ok(tokens)
        }
        fn answer(&self, letter: usize) -> Result<Vec<u32>> {
            Ok(vec![9, 100 + letter as u32])
        }
        fn stop(&self) -> Vec<u32> {
            vec![0]
        }
        fn decode(&self, tokens: &[u32]) -> Result<String> {
            Ok(tokens.iter().map(|&t| if t >= 100 { LETTERS[t as usize - 100] } else { "Answer: " }).collect())
        }
    }

    #[test]
    fn packing_is_complete_and_within_the_budget() {
        let lengths: Vec<usize> = (0..57).map(|i| 1 + (i * 37) % 90).collect();
        let bins = pack(&lengths, (100, 90), |i| i.to_string()).expect("packed");
        let mut seen: Vec<usize> = bins.iter().flatten().copied().collect();
        assert!(bins.iter().all(|b| b.iter().map(|&i| lengths[i]).sum::<usize>() <= 100));
        seen.sort_unstable();
        assert_eq!(seen, (0..57).collect::<Vec<_>>());
        let e = pack(&[3, 101], (100, 100), |i| format!("question {i}")).expect_err("too long").to_string();
        assert!(e.starts_with("question 1 is 101 tokens long") && e.contains("--max-seq-length"), "{e}");
    }
}
