//! Greedy generation and the answer parser: the model writes until its end-of-turn token, and [`super::answer`] reads the
//! letter. Of a response that runs into the token limit what is finished is read, and the result says so (`stopped: false`).

use super::{
    ask::{Model, Prompter, too_long},
    item::Item,
};
use crate::{
    Error, Result,
    data::{permute::Permutation, questions::Question},
};

/// Answers every question; at most `max_new` tokens each. `done(n)` counts finished questions.
pub fn evaluate(
    model: &mut dyn Model,
    prompter: &dyn Prompter,
    questions: &[Question],
    max_new: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Item>> {
    let prompts: Vec<Vec<u32>> =
        questions.iter().map(|q| prompter.prompt(q, Permutation::identity(q.choices.len()))).collect::<Result<_>>()?;
    let (_, max_len) = model.limits();
    if let Some((q, p)) = questions.iter().zip(&prompts).find(|(_, p)| p.is_empty() || p.len() > max_len) {
        return Err(too_long(&q.name(), p.len(), max_len));
    }
    let stop = prompter.stop();
    let start = std::time::Instant::now();
    let mut finished = 0;
    let mut ended = vec![0.0; prompts.len()];
    let written = model.generate(&prompts, max_new, &stop, &mut |i, _| {
        finished += 1;
        if let Some(t) = ended.get_mut(i) {
            *t = start.elapsed().as_secs_f64();
        }
        done(finished);
    })?;
    if written.len() != questions.len() {
        return Err(Error::internal("the model returned the wrong number of responses"));
    }
    let mut items = Vec::with_capacity(questions.len());
    for (i, (q, tokens)) in questions.iter().zip(&written).enumerate() {
        let stopped = tokens.last().is_some_and(|t| stop.contains(t));
        let text = prompter.decode(&tokens[..tokens.len() - usize::from(stopped)])?;
        let mut item = Item::of(q);
        item.response = text;
        item.extra.insert("prompt_tokens".into(), prompts[i].len().into());
        item.extra.insert("new_tokens".into(), tokens.len().into());
        item.extra.insert("stopped".into(), stopped.into());
        item.extra.insert("finished_after_seconds".into(), ended[i].into());
        if in_thought(&prompter.decode(&prompts[i])?) {
            item.extra.insert("in_thought".into(), true.into());
        }
        item.predicted = item.read_response();
        items.push(item);
    }
    Ok(items)
}

/// Whether a prompt ends inside of a thought.
fn in_thought(prompt: &str) -> bool {
    prompt.trim_end().ends_with("<think>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::questions::Choice,
        eval::ask::tests::{Fake, Scripted, of_size, question},
    };

    /// Says "Answer: c" for even questions and stops; rambles to the limit for odd ones.
    fn writer() -> Scripted {
        let writes = |prompt: &[u32], max_new: usize, stop: &[u32]| {
            if prompt[0].is_multiple_of(2) { vec![9, 102, stop[0]] } else { vec![9; max_new] }
        };
        Scripted { limits: (100, 20), writes: Some(Box::new(writes)), ..Scripted::default() }
    }

    #[test]
    fn responses_are_parsed_and_runaways_are_marked() {
        let mut seen = Vec::new();
        let items =
            evaluate(&mut writer(), &Fake, &[question(2), question(3)], 4, &mut |n| seen.push(n)).expect("generated");
        assert_eq!(seen, [1, 2]);
        assert_eq!((items[0].response.as_str(), items[0].predicted), ("Answer: c", Choice::from_char('c')));
        assert!(items[0].is_correct());
        assert_eq!(items[0].extra["stopped"], true);
        assert_eq!((items[1].predicted, &items[1].extra["stopped"]), (None, &false.into()));
        assert!(in_thought("<|im_start|>assistant\n<think>\n") && !in_thought("<think>\n\n</think>\n\n"));
        assert_eq!(items[1].extra["new_tokens"], 4);
    }

    #[test]
    fn a_letter_that_the_question_does_not_have_is_unknown() {
        let questions: Vec<_> = [2, 3, 10].map(|size| of_size(size, 2)).into();
        let items = evaluate(&mut writer(), &Fake, &questions, 4, &mut |_| ()).expect("generated");
        let said: Vec<_> = items.iter().map(|i| (i.response.as_str(), i.predicted)).collect();
        let c = Choice::from_char('c');
        assert_eq!(said, [("Answer: c", None), ("Answer: c", c), ("Answer: c", c)]);
    }
}
