//! What an evaluation needs from the rooms below it: something that turns questions into tokens, and a model.
//!
//! [`Model`] is the part of [`Engine`] that evaluation uses, so that tests can put a scorer of their own in its place;
//! [`Prompter`] turns questions into tokens, [`TemplatePrompter`] does so with a prompt template, a chat template and a
//! tokenizer.

use crate::{
    Error, Result,
    data::{
        MicroBatch,
        encode::Encoder,
        packing,
        permute::Permutation,
        prompt::{self, Context, PromptTemplate},
        questions::{Choice, Question},
    },
    error::Setting,
    model::Engine,
};
use std::rc::Rc;

/// Turns questions into tokens.
pub trait Prompter {
    /// The tokens of the prompt, chat template included, up to where the model's turn begins, with the choices in `order`.
    fn prompt(&self, question: &Question, order: Permutation) -> Result<Vec<u32>>;

    /// The tokens of the answer that names `choice`, as training would write it ("c", "Answer: c").
    fn answer(&self, choice: Choice) -> Result<Vec<u32>>;

    /// Tokens that end the model's turn.
    fn stop(&self) -> Vec<u32>;

    /// The text of tokens.
    fn decode(&self, tokens: &[u32]) -> Result<String>;
}

/// How questions are worded.
#[derive(Debug, Clone)]
pub struct Wording {
    /// letter, answer-line, cot or a template file.
    pub prompt: String,
    /// Show the worked example.
    pub few_shot: bool,
    /// Whether the prompt shows the question's own statutes.
    pub context: Context,
}

/// A prompt template over a tokenizer with its chat template.
#[derive(Debug)]
pub struct TemplatePrompter {
    template: PromptTemplate,
    encoder: Rc<Encoder>,
    examples: Vec<Question>,
    context: Context,
}

impl TemplatePrompter {
    /// Loads the template that `wording` names.
    ///
    /// # Errors
    /// See [`PromptTemplate::load`].
    pub fn new(encoder: Rc<Encoder>, wording: &Wording) -> Result<Self> {
        Ok(Self {
            template: PromptTemplate::load(&wording.prompt)?,
            encoder,
            examples: if wording.few_shot { vec![prompt::worked_example()?] } else { Vec::new() },
            context: wording.context,
        })
    }
}

impl Prompter for TemplatePrompter {
    fn prompt(&self, question: &Question, order: Permutation) -> Result<Vec<u32>> {
        let messages = self.template.messages(&order.apply(question)?, self.context, &self.examples)?;
        self.encoder.question(&messages, &[], &self.template.answer.answer(Choice::ALL[0], None))
    }

    fn answer(&self, choice: Choice) -> Result<Vec<u32>> {
        self.encoder.answer(&self.template.answer.answer(choice, None))
    }

    fn stop(&self) -> Vec<u32> {
        self.encoder.stops()
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.encoder.tokenizer.decode(tokens, true)
    }
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

/// The error of a prompt that does not fit; `limit` is the most tokens that do.
pub(super) fn too_long(name: &str, tokens: usize, limit: usize) -> Error {
    let message = format!("{name} is {tokens} tokens long, and 1 to {limit} are read");
    Error::setting(Setting::new("max-seq-length", limit), message).advise([Setting::new("max-seq-length", tokens)])
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
        return Err(too_long(&name(i), lengths[i], limit));
    }
    packing::pack(lengths, max_rows)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Question number `n` with four choices.
    pub(crate) fn question(n: usize) -> Question {
        of_size(4, n)
    }

    /// Question number `n` with `size` choices, of which number n mod `size` is right.
    pub(crate) fn of_size(size: usize, n: usize) -> Question {
        Question {
            file_name: format!("金商法_{n}"),
            law: String::new(),
            context: None,
            text: format!("問{n}"),
            choices: (0..size).map(|c| format!("{n}の{c}")).collect(),
            answer: Choice::ALL[n % size],
            reasoning: None,
            references: Vec::new(),
        }
    }

    /// Prompt: [question number, the shown order…], padded to a length that differs; answers "9 letter".
    pub(crate) struct Fake;

    impl Prompter for Fake {
        fn prompt(&self, q: &Question, order: Permutation) -> Result<Vec<u32>> {
            let n: u32 = q.file_name.rsplit('_').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut tokens = vec![n];
            tokens.extend(order.places().map(|place| place as u32));
            tokens.extend(std::iter::repeat_n(7, n as usize % 3));
            Ok(tokens)
        }
        fn answer(&self, choice: Choice) -> Result<Vec<u32>> {
            Ok(vec![9, 100 + choice.index() as u32])
        }
        fn stop(&self) -> Vec<u32> {
            vec![0]
        }
        fn decode(&self, tokens: &[u32]) -> Result<String> {
            Ok(tokens
                .iter()
                .map(|&t| if t >= 100 { Choice::ALL[t as usize - 100].to_string() } else { "Answer: ".to_owned() })
                .collect())
        }
    }

    type Choices = Box<dyn FnMut(&MicroBatch, &[u32], &[u32]) -> Vec<f32>>;
    type Targets = Box<dyn FnMut(&MicroBatch) -> Vec<f32>>;
    type Writes = Box<dyn FnMut(&[u32], usize, &[u32]) -> Vec<u32>>;

    /// A model of which a test says what it answers; what it does not say fails.
    #[derive(Default)]
    pub(crate) struct Scripted {
        pub(crate) limits: (usize, usize),
        /// Passes so far.
        pub(crate) passes: usize,
        /// [`Model::choice_logprobs`].
        pub(crate) choices: Option<Choices>,
        /// [`Model::target_logprobs`].
        pub(crate) targets: Option<Targets>,
        /// What it writes after a prompt: most tokens, those that stop it.
        pub(crate) writes: Option<Writes>,
    }

    impl Model for Scripted {
        fn limits(&self) -> (usize, usize) {
            self.limits
        }
        fn choice_logprobs(&mut self, batch: &MicroBatch, rows: &[u32], ids: &[u32]) -> Result<Vec<f32>> {
            self.passes += 1;
            let choices = self.choices.as_mut().ok_or_else(|| Error::failed("not here"))?;
            Ok(choices(batch, rows, ids))
        }
        fn target_logprobs(&mut self, batch: &MicroBatch) -> Result<Vec<f32>> {
            self.passes += 1;
            let targets = self.targets.as_mut().ok_or_else(|| Error::failed("not here"))?;
            Ok(targets(batch))
        }
        fn generate(
            &mut self,
            prompts: &[Vec<u32>],
            max_new: usize,
            stop: &[u32],
            on_done: &mut dyn FnMut(usize, &[u32]),
        ) -> Result<Vec<Vec<u32>>> {
            let writes = self.writes.as_mut().ok_or_else(|| Error::failed("not here"))?;
            let written: Vec<Vec<u32>> = prompts.iter().map(|p| writes(p, max_new, stop)).collect();
            written.iter().enumerate().for_each(|(i, tokens)| on_done(i, tokens));
            Ok(written)
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
        assert_eq!(
            e,
            "`max-seq-length = 100`: question 1 is 101 tokens long, and 1 to 100 are read; try `max-seq-length = 101`"
        );
    }
}
