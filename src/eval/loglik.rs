//! Choice log-likelihood: one forward pass over the prompt and the answer's common beginning; the four letters are compared in
//! the distribution of the next token.
//!
//! *Where the letters are read.* The four answers that training would write ("Answer: a" … "Answer: d") are tokenised; what
//! they share is appended to the prompt, and the tokens at the first place where they differ stand for the letters. So the
//! tokens are those of training whatever the template, and a letter of several tokens is judged by its first, which must be
//! its own.
//!
//! *Position bias.* With permutation, each question is asked in the four cyclic orders of its choices, each order's
//! probabilities are mapped back to the choices and averaged: a model that always says "a" gets ¼ everywhere.

use super::{
    LETTERS,
    ask::{Model, Prompter, pack},
    label,
    result::{Item, PermutationDetail},
};
use crate::{
    Error, Result,
    data::{
        MicroBatch,
        encode::choice_tokens,
        permute::Permutation,
        questions::{Choice, Question},
    },
};

/// The shared beginning of the four answers, and the token of each letter after it.
pub fn letters(prompter: &dyn Prompter) -> Result<(Vec<u32>, [u32; 4])> {
    let mut answers: [Vec<u32>; 4] = Default::default();
    for (letter, answer) in Choice::ALL.into_iter().zip(&mut answers) {
        *answer = prompter.answer(letter)?;
    }
    choice_tokens(&answers)
}

/// ln p of the four letters after each prompt: packed by length, under the model's row limit. `done(n)` is called
/// after each pass with the number of prompts finished; `name` names a prompt that is too long.
pub fn score(
    model: &mut dyn Model,
    prompts: &[Vec<u32>],
    ids: [u32; 4],
    name: impl Fn(usize) -> String,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<[f64; 4]>> {
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let mut out = vec![[f64::NAN; 4]; prompts.len()];
    let mut finished = 0;
    for bin in pack(&lengths, model.limits(), &name)? {
        let mut batch = MicroBatch::new();
        let rows: Vec<u32> = bin.iter().map(|&i| batch.push_prompt(i as u32, &prompts[i])).collect();
        let logprobs = model.choice_logprobs(&batch, &rows, &ids)?;
        if logprobs.len() != 4 * bin.len() {
            return Err(Error::failed("the model returned the wrong number of log-probabilities"));
        }
        for (&i, four) in bin.iter().zip(logprobs.chunks_exact(4)) {
            if four.iter().any(|l| l.is_nan() || *l > 1e-3) {
                return Err(Error::failed(format!(
                    "{}: the model gives a log-probability that is none ({four:?}): its weights or the adapter are broken",
                    name(i)
                )));
            }
            out[i] = [four[0], four[1], four[2], four[3]].map(f64::from);
        }
        finished += bin.len();
        done(finished);
    }
    Ok(out)
}

/// Probabilities over the four letters (they sum to 1) and the mass of the four together.
pub fn normalise(logprobs: [f64; 4]) -> ([f64; 4], f64) {
    let top = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return ([0.25; 4], 0.0);
    }
    let e = logprobs.map(|l| (l - top).exp());
    let sum: f64 = e.iter().sum();
    (e.map(|x| x / sum), (sum * top.exp()).min(1.0))
}

/// The largest, the first of equals.
fn best(p: [f64; 4]) -> usize {
    (1..4).fold(0, |b, i| if p[i] > p[b] { i } else { b })
}

/// The cyclic order number `shift`: place → choice.
pub fn cyclic(shift: usize) -> [usize; 4] {
    [0, 1, 2, 3].map(|place| (place + shift) % 4)
}

/// Answers every question. `done(n)` counts finished prompts, of which there are [`prompt_count`].
pub fn evaluate(
    model: &mut dyn Model,
    prompter: &dyn Prompter,
    questions: &[Question],
    permute: bool,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Item>> {
    let (prefix, ids) = letters(prompter)?;
    let shifts = if permute { 4 } else { 1 };
    let mut prompts = Vec::with_capacity(questions.len() * shifts);
    for q in questions {
        for order in Permutation::cyclic().into_iter().take(shifts) {
            let mut tokens = prompter.prompt(q, order)?;
            tokens.extend_from_slice(&prefix);
            prompts.push(tokens);
        }
    }
    let scores = score(model, &prompts, ids, |i| questions[i / shifts].name(), done)?;
    let mut items = Vec::with_capacity(questions.len());
    for ((q, scores), prompts) in questions.iter().zip(scores.chunks(shifts)).zip(prompts.chunks(shifts)) {
        let (mut mean, mut mean_mass) = ([0.0; 4], 0.0);
        let mut details = Vec::new();
        for (shift, &logprobs) in scores.iter().enumerate() {
            let (shown, mass) = normalise(logprobs);
            let order = cyclic(shift);
            let mut own = [0.0; 4];
            for (place, &choice) in order.iter().enumerate() {
                own[choice] = shown[place];
                mean[choice] += shown[place] / shifts as f64;
            }
            mean_mass += mass / shifts as f64;
            details.push(PermutationDetail {
                order: order.map(|c| LETTERS[c]),
                probabilities: own,
                mass,
                said: LETTERS[best(shown)],
            });
        }
        let mut item = Item::of(q);
        let chosen = best(mean);
        item.predicted = Some(chosen);
        item.response = label(Some(chosen)).to_owned();
        item.probabilities = Some(mean);
        item.mass = Some(mean_mass);
        item.extra.insert("prompt_tokens".into(), prompts[0].len().into());
        if permute {
            item.permutations = details;
        }
        items.push(item);
    }
    Ok(items)
}

/// Forward documents that [`evaluate`] takes.
pub fn prompt_count(questions: usize, permute: bool) -> usize {
    questions * if permute { 4 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ask::tests::{Fake, question};

    /// ln p from the last document row's own prompt: `rule(prompt)`.
    struct Rule<F>(F, usize);

    impl<F: Fn(&[u32]) -> [f32; 4]> Model for Rule<F> {
        fn limits(&self) -> (usize, usize) {
            (20, 20)
        }
        fn choice_logprobs(&mut self, batch: &MicroBatch, rows: &[u32], ids: &[u32]) -> Result<Vec<f32>> {
            assert_eq!(ids, [100, 101, 102, 103]);
            assert!(batch.rows() <= 20);
            self.1 += 1;
            let docs = batch.cu_seqlens.windows(2).zip(rows);
            Ok(docs
                .flat_map(|(w, &row)| {
                    assert_eq!(row, w[1] - 1, "the last row of the document");
                    assert_eq!(batch.tokens[row as usize], 9, "the answer's prefix is there");
                    (self.0)(&batch.tokens[w[0] as usize..w[1] as usize])
                })
                .collect())
        }
        fn target_logprobs(&mut self, _: &MicroBatch) -> Result<Vec<f32>> {
            Err(Error::failed("not here"))
        }
        fn generate(
            &mut self,
            _: &[Vec<u32>],
            _: usize,
            _: &[u32],
            _: &mut dyn FnMut(usize, &[u32]),
        ) -> Result<Vec<Vec<u32>>> {
            Err(Error::failed("not here"))
        }
    }

    /// A model that knows the right choice (number mod 4) wherever it stands, with odds 3 : 1 : 1 : 1 on a mass of 0.6.
    fn knows(prompt: &[u32]) -> [f32; 4] {
        [1, 2, 3, 4].map(|i| if prompt[i] == prompt[0] % 4 { 0.3f32.ln() } else { 0.1f32.ln() })
    }

    #[test]
    fn right_choices_are_found_in_any_order() {
        let questions: Vec<Question> = (0..9).map(question).collect();
        for permute in [false, true] {
            let mut seen = 0;
            let mut model = Rule(knows, 0);
            let items = evaluate(&mut model, &Fake, &questions, permute, &mut |n| seen = n).expect("scored");
            assert_eq!(seen, prompt_count(9, permute));
            assert!(model.1 < seen, "several questions a pass");
            for item in &items {
                assert!(item.is_correct());
                let p = item.probabilities.expect("probabilities");
                assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                assert!((p[item.correct] - 0.5).abs() < 1e-6 && (item.mass.expect("mass") - 0.6).abs() < 1e-6);
                assert_eq!(item.permutations.len(), if permute { 4 } else { 0 });
            }
        }
    }

    #[test]
    fn permutation_removes_position_bias() {
        let always_a = |_: &[u32]| [0.7f32.ln(), 0.1f32.ln(), 0.1f32.ln(), 0.1f32.ln()];
        let questions = [question(6)];
        let plain = evaluate(&mut Rule(always_a, 0), &Fake, &questions, false, &mut |_| ()).expect("scored");
        assert_eq!(plain[0].predicted, Some(0));
        let averaged = evaluate(&mut Rule(always_a, 0), &Fake, &questions, true, &mut |_| ()).expect("scored");
        for p in averaged[0].probabilities.expect("probabilities") {
            assert!((p - 0.25).abs() < 1e-7);
        }
        let details = &averaged[0].permutations;
        assert!(details.iter().all(|d| d.said == "a"));
        assert_eq!(details[1].order, ["b", "c", "d", "a"]);
        assert!((details[1].probabilities[1] - 0.7).abs() < 1e-6, "what was said for place a is the question's own b");
    }

    #[test]
    fn broken_numbers_and_tokenizers_are_errors() {
        let nan = |_: &[u32]| [f32::NAN; 4];
        let e = evaluate(&mut Rule(nan, 0), &Fake, &[question(1)], false, &mut |_| ()).expect_err("NaN").to_string();
        assert!(e.contains("金商法_1"), "{e}");
        struct Same(Vec<u32>);
        impl Prompter for Same {
            fn prompt(&self, _: &Question, _: Permutation) -> Result<Vec<u32>> {
                Ok(vec![1])
            }
            fn answer(&self, choice: Choice) -> Result<Vec<u32>> {
                let letter = choice.index() as u32;
                Ok(if letter == 3 { self.0.clone() } else { vec![5, letter] })
            }
            fn stop(&self) -> Vec<u32> {
                vec![]
            }
            fn decode(&self, _: &[u32]) -> Result<String> {
                Ok(String::new())
            }
        }
        assert_eq!(letters(&Same(vec![5, 3])).expect("distinct"), (vec![5], [0, 1, 2, 3]));
        for bad in [vec![5], vec![], vec![5, 2], vec![5, 0, 1]] {
            assert!(letters(&Same(bad)).expect_err("no tokens").to_string().contains("--method generate"));
        }
        assert_eq!(normalise([f64::NEG_INFINITY; 4]), ([0.25; 4], 0.0));
    }
}
