//! Conversations that are longer than a limit: their texts are shortened, and the template shows them again.
//!
//! Role marks, turn ends, tools, the system message and the model's turn stay whole. The oldest text gives way first, from its
//! beginning: in law questions the statute comes first and the question last, so the statute gives way. Of every text at least
//! its last character stays.

use super::{Encoder, turn::Tokens};
use crate::{Error, Result, data::chat::Message};
use serde_json::Value;

/// A turn under the limit.
pub(super) struct Shortened {
    /// What it consists of.
    pub(super) tokens: Tokens,
    /// Tokens by which its prompt is shorter than it was.
    pub(super) cut: usize,
}

impl Encoder {
    /// The tokens of the last of `messages` behind the others, shortened to `max_len` tokens in all; `None` if they cannot be.
    ///
    /// # Errors
    /// As [`Encoder::turn_text`].
    pub(super) fn shortened(&self, messages: &[Message], tools: &[Value], max_len: usize) -> Result<Option<Shortened>> {
        let tokens = self.turn(messages, tools)?;
        let (whole, answer) = (tokens.prompt.len(), tokens.answer.len());
        if whole + answer <= max_len {
            return Ok(Some(Shortened { tokens, cut: 0 }));
        }
        if answer >= max_len {
            return Ok(None);
        }
        let Some((_, history)) = messages.split_last() else {
            return Err(Error::internal("a conversation without a turn"));
        };
        let mut messages = messages.to_vec();
        let mut over = whole + answer - max_len;
        for i in (0..history.len()).filter(|&i| history[i].role != "system") {
            if let Some(tokens) = self.shorten_one(&mut messages, i, tools, max_len, over)? {
                let cut = whole.saturating_sub(tokens.prompt.len());
                return Ok(Some(Shortened { tokens, cut }));
            }
            let left = self.turn_again(&messages, tools)?;
            over = (left.prompt.len() + left.answer.len()).saturating_sub(max_len);
        }
        Ok(None)
    }

    /// [`Encoder::question`] as in a sample of at most `max_len` tokens; `None` if there is no such sample.
    ///
    /// # Errors
    /// As [`Encoder::question`].
    pub fn question_within(
        &self,
        messages: &[Message],
        tools: &[Value],
        answer: &str,
        max_len: usize,
    ) -> Result<Option<Vec<u32>>> {
        let whole = [messages, &[Message::new("assistant", answer)]].concat();
        Ok(self.shortened(&whole, tools, max_len)?.map(|shortened| shortened.tokens.prompt))
    }

    /// Cuts the beginning off the text of turn `i`, as little as brings the whole under the limit; all but its last character,
    /// and `None`, if that does not. `over` tokens are too many.
    fn shorten_one(
        &self,
        messages: &mut [Message],
        i: usize,
        tools: &[Value],
        max_len: usize,
        over: usize,
    ) -> Result<Option<Tokens>> {
        let text = std::mem::take(&mut messages[i].content);
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let Some(last) = starts.len().checked_sub(1) else { return Ok(None) };
        let mut found = None;
        // The least that is enough is looked for where the surplus tokens end.
        let token = self.tokenizer.starts(&text)?.get(over).copied().unwrap_or(text.len());
        let guess = starts.partition_point(|&at| at < token).min(last);
        let mut fits = |n: usize| -> Result<bool> {
            messages[i].content.replace_range(.., &text[starts[n]..]);
            let tokens = self.turn_again(messages, tools)?;
            let fits = tokens.prompt.len() + tokens.answer.len() <= max_len;
            if fits && found.as_ref().is_none_or(|(least, _)| n < *least) {
                found = Some((n, tokens));
            }
            Ok(fits)
        };
        least(guess, last, &mut fits)?;
        let cut = found.as_ref().map_or(last, |(n, _)| *n);
        messages[i].content.replace_range(.., &text[starts[cut]..]);
        Ok(found.map(|(_, tokens)| tokens))
    }
}

/// Looks for the least of 1 to `last` that `fits`, near `guess` first, under the assumption that whatever is more fits too.
fn least(guess: usize, last: usize, fits: &mut impl FnMut(usize) -> Result<bool>) -> Result<()> {
    // `low` does not fit and `high` does, or is one more than there is.
    let (mut low, mut high) = (0, last + 1);
    let (mut at, mut step) = (guess.clamp(1, last.max(1)), 4);
    while low + 1 < high {
        let enough = at <= last && fits(at)?;
        (low, high) = if enough { (low, at) } else { (at, high) };
        // Galloping ends with the first two that differ; then the place between them is halved.
        at = if high > last {
            (low + step).min(last)
        } else if low == 0 && high > step {
            high - step
        } else {
            low.midpoint(high)
        };
        step *= 2;
    }
    Ok(())
}
