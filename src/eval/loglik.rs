//! Choice log-likelihood: one forward pass over the prompt and the answer's common beginning; the letters are compared in the
//! distribution of the next token.
//!
//! *Where the letters are read.* The answers that training would write for the question's letters ("Answer: a", "Answer: b",
//! …) are tokenised; what they share is appended to the prompt, and the tokens at the first place where they differ stand for
//! the letters. So the tokens are those of training whatever the template, and a letter of several tokens is judged by its
//! first, which must be its own. Questions with the same number of choices are asked together.
//!
//! *Position bias.* With permutation, each question is asked in all cyclic orders of its choices, each order's probabilities
//! are mapped back to the choices and averaged: a model that always says "a" gets the same probability everywhere, and so has
//! no answer.
//!
//! *Ties.* Where the largest probability is that of two choices or more, the answer is unknown: the order in which they are
//! looked at is no reason to prefer one.

use super::{
    ask::{Model, Prompter, pack},
    item::{Item, PermutationDetail},
};
use crate::{
    Error, Result,
    data::{
        MicroBatch,
        encode::choice_tokens,
        permute::Permutation,
        questions::{Choice, Question},
    },
    error::Setting,
};
use std::collections::BTreeMap;

/// The shared beginning of the answers that name `choices` letters, and the token of each letter after it.
///
/// # Errors
/// If the tokenizer does not give each letter a token of its own.
pub fn letters(prompter: &dyn Prompter, choices: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    let answers: Vec<Vec<u32>> =
        Choice::first(choices).iter().map(|&choice| prompter.answer(choice)).collect::<Result<_>>()?;
    choice_tokens(&answers).ok_or_else(|| {
        let message = format!(
            "this tokenizer does not give {choices} letters tokens of their own after the prompt's answer prefix, and \
             another prompt template may"
        );
        Error::setting(Setting::new("method", "loglik"), message).advise([Setting::new("method", "generate")])
    })
}

/// ln p of the letters' tokens `ids` after each prompt: packed by length, under the model's row limit. `done(n)` is called
/// after each pass with the number of prompts finished; `name` names a prompt that is too long.
///
/// # Errors
/// A prompt that does not fit, a failing device, or a log-probability that is none.
pub fn score(
    model: &mut dyn Model,
    prompts: &[Vec<u32>],
    ids: &[u32],
    name: impl Fn(usize) -> String,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f64>>> {
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let mut out = vec![Vec::new(); prompts.len()];
    let mut finished = 0;
    for bin in pack(&lengths, model.limits(), &name)? {
        let mut batch = MicroBatch::new();
        let rows: Vec<u32> = bin.iter().map(|&i| batch.push_prompt(i as u32, &prompts[i])).collect();
        let logprobs = model.choice_logprobs(&batch, &rows, ids)?;
        if logprobs.len() != ids.len() * bin.len() {
            return Err(Error::internal("the model returned the wrong number of log-probabilities"));
        }
        for (&i, of_letters) in bin.iter().zip(logprobs.chunks_exact(ids.len())) {
            if of_letters.iter().any(|l| l.is_nan() || *l > 1e-3) {
                return Err(Error::failed(format!(
                    "{}: the model gives a log-probability that is none ({of_letters:?}): its weights or the adapter are \
                     broken",
                    name(i)
                )));
            }
            out[i] = of_letters.iter().map(|&l| f64::from(l)).collect();
        }
        finished += bin.len();
        done(finished);
    }
    Ok(out)
}

/// Probabilities over the letters (they sum to 1) and the mass of all of them together.
pub fn normalise(logprobs: &[f64]) -> (Vec<f64>, f64) {
    let top = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return (vec![1.0 / logprobs.len() as f64; logprobs.len()], 0.0);
    }
    let e: Vec<f64> = logprobs.iter().map(|l| (l - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    (e.iter().map(|x| x / sum).collect(), (sum * top.exp()).min(1.0))
}

/// The place of the largest by more than `apart`; `None` where there is none such, and so no answer that is certain.
pub fn best(values: &[f64], apart: f64) -> Option<usize> {
    let largest = (0..values.len()).reduce(|b, i| if values[i] > values[b] { i } else { b })?;
    let apart_from = |&i: &usize| i == largest || values[largest] - values[i] > apart;
    // Of two that are both -inf the difference is no number, and not larger than anything.
    (values[largest].is_finite() && (0..values.len()).all(|i| apart_from(&i))).then_some(largest)
}

/// Averages over orders are the same numbers added in other sequences: what they differ by at most when they are equal.
const ROUNDING: f64 = 1e-12;

/// The orders in which a question is asked.
fn orders(question: &Question, permute: bool) -> impl Iterator<Item = Permutation> {
    let n = question.choices.len();
    Permutation::cyclic(n).take(if permute { n } else { 1 })
}

/// Answers every question, with the results in their order. `done(n)` counts finished prompts, of which there are
/// [`prompt_count`].
///
/// # Errors
/// See [`letters`] and [`score`]; a prompt template that does not render.
pub fn evaluate(
    model: &mut dyn Model,
    prompter: &dyn Prompter,
    questions: &[Question],
    permute: bool,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Item>> {
    let mut sizes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, q) in questions.iter().enumerate() {
        sizes.entry(q.choices.len()).or_default().push(i);
    }
    let mut items: Vec<Item> = questions.iter().map(Item::of).collect();
    let mut finished = 0;
    for (size, places) in sizes {
        let (prefix, ids) = letters(prompter, size)?;
        let mut prompts: Vec<Vec<u32>> = Vec::new();
        let mut asked: Vec<usize> = Vec::new();
        for &i in &places {
            for order in orders(&questions[i], permute) {
                let mut tokens = prompter.prompt(&questions[i], order)?;
                tokens.extend_from_slice(&prefix);
                prompts.push(tokens);
                asked.push(i);
            }
        }
        let scores = score(model, &prompts, &ids, |p| questions[asked[p]].name(), &mut |n| done(finished + n))?;
        finished += prompts.len();
        let each = prompts.len() / places.len();
        for ((&i, scores), prompts) in places.iter().zip(scores.chunks(each)).zip(prompts.chunks(each)) {
            items[i].extra.insert("prompt_tokens".into(), prompts[0].len().into());
            average(&mut items[i], orders(&questions[i], permute), scores);
        }
    }
    Ok(items)
}

fn chosen(place: Option<usize>) -> Option<Choice> {
    place.and_then(Choice::from_index)
}

/// Writes into `item` what the `scores` of its `orders` say together.
fn average(item: &mut Item, orders: impl Iterator<Item = Permutation>, scores: &[Vec<f64>]) {
    let (mut mean, mut mean_mass) = (vec![0.0; item.choice_count], 0.0);
    let share = scores.len() as f64;
    let mut details = Vec::new();
    for (order, logprobs) in orders.zip(scores) {
        let (shown, mass) = normalise(logprobs);
        let mut own = vec![0.0; shown.len()];
        for (&p, choice) in shown.iter().zip(order.places()) {
            own[choice] = p;
            mean[choice] += p / share;
        }
        mean_mass += mass / share;
        details.push(PermutationDetail { order, probabilities: own, mass, said: chosen(best(logprobs, 0.0)) });
    }
    item.predicted = chosen(match scores {
        [only] => best(only, 0.0),
        _ => best(&mean, ROUNDING),
    });
    item.response = super::label(item.predicted).to_owned();
    item.probabilities = Some(mean);
    item.mass = Some(mean_mass);
    if details.len() > 1 {
        item.permutations = details;
    }
}

/// Forward documents that [`evaluate`] takes.
pub fn prompt_count(questions: &[Question], permute: bool) -> usize {
    questions.iter().map(|q| if permute { q.choices.len() } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ask::tests::{Fake, Scripted, of_size, question};

    /// A model that gives the letters ln p by the document's own prompt: `rule(prompt, choices)`.
    fn scorer(rule: impl Fn(&[u32], usize) -> Vec<f32> + 'static) -> Scripted {
        let choices = move |batch: &MicroBatch, rows: &[u32], ids: &[u32]| {
            assert!(ids.iter().copied().eq(100..100 + ids.len() as u32));
            assert!(batch.rows() <= 40);
            let docs = batch.cu_seqlens.windows(2).zip(rows);
            docs.flat_map(|(w, &row)| {
                assert_eq!(row, w[1] - 1, "the last row of the document");
                assert_eq!(batch.tokens[row as usize], 9, "the answer's prefix is there");
                rule(&batch.tokens[w[0] as usize..w[1] as usize], ids.len())
            })
            .collect()
        };
        Scripted { limits: (40, 40), choices: Some(Box::new(choices)), ..Scripted::default() }
    }

    /// A model that knows the right choice (question number mod choices) wherever it stands: three times as likely as any
    /// other, and 0.6 for all letters together.
    fn knows(prompt: &[u32], choices: usize) -> Vec<f32> {
        let share = 0.6 / (choices as f32 + 2.0);
        let right = prompt[0] % choices as u32;
        (1..=choices).map(|i| if prompt[i] == right { (3.0 * share).ln() } else { share.ln() }).collect()
    }

    #[test]
    fn right_choices_are_found_in_any_order_among_two_to_ten() {
        // Sizes alternate, so that the questions asked together are not neighbours.
        let questions: Vec<Question> = (0..36).map(|n| of_size(2 + n % 9, n)).collect();
        for permute in [false, true] {
            let mut seen = Vec::new();
            let mut model = scorer(knows);
            let items = evaluate(&mut model, &Fake, &questions, permute, &mut |n| seen.push(n)).expect("scored");
            assert_eq!(seen.last(), Some(&prompt_count(&questions, permute)));
            assert!(seen.is_sorted() && model.passes < prompt_count(&questions, permute), "several questions a pass");
            for (item, q) in items.iter().zip(&questions) {
                let n = q.choices.len();
                assert!(item.file_name == q.file_name && item.is_correct() && item.choice_count == n);
                let p = item.probabilities.as_ref().expect("probabilities");
                assert!(p.len() == n && (p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                assert!((p[item.correct.index()] - 3.0 / (n as f64 + 2.0)).abs() < 1e-6);
                assert!((item.mass.expect("mass") - 0.6).abs() < 1e-6);
                assert_eq!(item.permutations.len(), if permute { n } else { 0 });
            }
        }
        assert_eq!((prompt_count(&questions[..9], false), prompt_count(&questions[..9], true)), (9, 54));
    }

    #[test]
    fn permutation_removes_position_bias() {
        let always_a = |_: &[u32], n: usize| (0..n).map(|i| if i == 0 { 0.7f32.ln() } else { 0.01f32.ln() }).collect();
        for n in 2..=10 {
            let questions = [of_size(n, 6)];
            let plain = evaluate(&mut scorer(always_a), &Fake, &questions, false, &mut |_| ()).expect("scored");
            assert_eq!(plain[0].predicted, Some(Choice::ALL[0]));
            let averaged = evaluate(&mut scorer(always_a), &Fake, &questions, true, &mut |_| ()).expect("scored");
            for p in averaged[0].probabilities.as_ref().expect("probabilities") {
                assert!((p - 1.0 / n as f64).abs() < 1e-7);
            }
            assert_eq!((averaged[0].predicted, averaged[0].response.as_str()), (None, "unknown"), "a tie of all");
            let details = &averaged[0].permutations;
            assert!(details.iter().all(|d| d.said == Some(Choice::ALL[0])));
            assert!(details[1].order.name().starts_with('b') && details[1].order.name().ends_with('a'));
            let own = &details[1].probabilities;
            assert!(own[1] > 10.0 * own[0], "what was said for place a is the question's own b");
        }
    }

    #[test]
    fn a_tie_is_no_answer() {
        let infinite = f64::NEG_INFINITY;
        for (values, apart, wanted) in [
            (&[-1.0, -2.0, -3.0][..], 0.0, Some(0)),
            (&[-3.0, -1.0, -1.0], 0.0, None),
            (&[-1.0, -3.0, -1.0], 0.0, None),
            (&[-1.0, -1.0 - 1e-9], 0.0, Some(0)),
            (&[0.25, 0.25 + 1e-16, 0.25, 0.25], ROUNDING, None),
            (&[0.2, 0.3, 0.3 + 1e-9, 0.2], ROUNDING, Some(2)),
            (&[infinite, infinite], 0.0, None),
            (&[infinite, -700.0, infinite], 0.0, Some(1)),
            (&[], 0.0, None),
        ] {
            assert_eq!(best(values, apart), wanted, "{values:?}");
        }
        // Two choices as likely as each other, whichever place they stand in; the right one is among them.
        let two = |prompt: &[u32], n: usize| (1..=n).map(|i| if prompt[i] < 2 { 0.4f32.ln() } else { -9.0 }).collect();
        let none = |_: &[u32], n: usize| vec![f32::NEG_INFINITY; n];
        for permute in [false, true] {
            let questions: Vec<Question> = (2..=10).map(|n| of_size(n, 0)).collect();
            let items = evaluate(&mut scorer(two), &Fake, &questions, permute, &mut |_| ()).expect("scored");
            assert!(items.iter().all(|i| i.predicted.is_none() && !i.is_correct() && i.response == "unknown"));
            let items = evaluate(&mut scorer(none), &Fake, &questions, permute, &mut |_| ()).expect("scored");
            assert!(items.iter().all(|i| i.predicted.is_none() && i.mass == Some(0.0)));
            assert!(items.iter().flat_map(|i| &i.permutations).all(|p| p.said.is_none()));
        }
    }

    #[test]
    fn broken_numbers_and_tokenizers_are_errors() {
        let nan = |_: &[u32], n| vec![f32::NAN; n];
        let e = evaluate(&mut scorer(nan), &Fake, &[question(1)], false, &mut |_| ()).expect_err("NaN").to_string();
        assert!(e.contains("金商法_1"), "{e}");
        /// Letter number 3 has this answer, the others one of two tokens.
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
        assert_eq!(letters(&Same(vec![5, 3]), 4).expect("distinct"), (vec![5], vec![0, 1, 2, 3]));
        assert_eq!(letters(&Same(vec![5, 3]), 10).expect("distinct"), (vec![5], (0..10).collect()));
        for bad in [vec![5], vec![], vec![5, 2], vec![5, 0, 1]] {
            let e = letters(&Same(bad.clone()), 4).expect_err("no tokens").to_string();
            assert!(e.ends_with("try `method = generate`"), "{e}");
            assert_eq!(letters(&Same(bad), 3).expect("the fourth is not asked for"), (vec![5], vec![0, 1, 2]));
        }
        assert_eq!(normalise(&[f64::NEG_INFINITY; 5]), (vec![0.2; 5], 0.0));
    }
}
