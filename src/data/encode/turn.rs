//! One turn of the model as the chat template shows it: the text up to where the model begins to write, and what it writes.
//!
//! The template is asked twice: for the prompt, as at inference, and for the whole conversation. Where the prompt is the
//! beginning of the whole, the rest is what the model writes. Where it is not (a prompt that opens a thought, before a turn
//! without one), the whole conversation counts, and the model's turn begins where it differs from that of a turn with
//! another text. A turn that the template does not show as it is, or that would stand in a thought that nothing closes, is
//! refused.

use super::{Encoder, TextStyle};
use crate::{
    Error, Result,
    data::{
        chat::{ChatTemplate, Message, THOUGHTS},
        questions::excerpt,
        tokenizer::Tokenizer,
    },
};
use serde_json::Value;
use std::borrow::Cow;

/// Texts of a turn that no record has: from Unicode's private use, so that no other text shares a beginning with them.
const MARKS: [&str; 2] = ["\u{f8fe}irori", "\u{f8ff}irori"];

/// What models write around a thought within their text.
const THOUGHT: [(&str, &str); 7] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
];

/// What a template writes around the texts of a conversation, as far as every conversation has it.
#[derive(Debug)]
pub(super) struct Scaffold {
    /// The text of the token that ends the model's turn.
    end: String,
    /// What stands behind the model's last turn, up to the end of the conversation.
    closing: String,
    /// What the template leaves out of its prompts although the model's turn begins with it.
    opening: String,
    /// Tokens that begin or end a turn. In the text of a turn they would begin or end another.
    marks: Vec<String>,
}

/// The text of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::data) struct Text {
    /// Everything up to where the model begins to write.
    pub(in crate::data) prompt: String,
    /// What it writes, without the token that ends the turn.
    pub(in crate::data) answer: String,
}

/// The tokens of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tokens {
    /// Everything up to where the model begins to write.
    pub(super) prompt: Vec<u32>,
    /// What it writes, and the token that ends the turn.
    pub(super) answer: Vec<u32>,
}

impl Scaffold {
    /// What `chat` writes around a question and its answer. `end` is the token that ends the model's turn.
    pub(super) fn of(chat: &ChatTemplate, tokenizer: &Tokenizer, style: TextStyle, end: u32) -> Result<Self> {
        let end = tokenizer.decode(&[end], false)?;
        let stops = tokenizer.stops().iter().map(|&id| tokenizer.decode(&[id], false));
        let marks = std::iter::once(Ok(end.clone())).chain(stops).collect::<Result<_>>()?;
        let none = Self { end, closing: String::new(), opening: String::new(), marks };
        if style == TextStyle::Raw {
            return Ok(none);
        }
        let [one, two] =
            MARKS.map(|mark| chat.render(&[Message::new("user", "?"), Message::new("assistant", mark)], false, false));
        let (one, two) = (one?, two?);
        let asked = [Message::new("user", "?")];
        let prompt = chat.render(&asked, true, false)?;
        // A template that knows no generation prompt leaves the role's mark to the model. A space is no mark: where one
        // stands between prompt and answer, it belongs to the answer's first token.
        let opening = match one[..common(&one, &two)].strip_prefix(&prompt).map(|rest| rest.trim_end_matches(' ')) {
            Some(rest) if !rest.trim().is_empty() && prompt == chat.render(&asked, false, false)? => rest.to_owned(),
            _ => String::new(),
        };
        let thought = |token: &str| THOUGHT.iter().any(|(open, close)| token == *open || token == *close);
        let written = |token: &String| one.contains(token.as_str()) || prompt.contains(token.as_str());
        let of_template = tokenizer.special_tokens().into_iter().filter(|token| !thought(token) && written(token));
        let marks = of_template.chain(none.marks.clone()).collect();
        let closing = one.split_once(MARKS[0]).map(|(_, closing)| closing.to_owned()).unwrap_or_default();
        Ok(Self { closing, opening, marks, ..none })
    }
}

impl Encoder {
    /// The text of a conversation up to where the model begins its turn, with `tools` that it may call. `thinking` says
    /// whether that turn may begin with a thought.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn prompt_text(&self, messages: &[Message], tools: &[Value], thinking: bool) -> Result<String> {
        match self.style {
            TextStyle::Chat => Ok(self.chat.render_with(messages, tools, true, thinking)? + &self.scaffold.opening),
            TextStyle::Raw => {
                let mut text = String::new();
                for m in messages {
                    match m.role.as_str() {
                        "assistant" => text += &format!("<ASSISTANT>{}", m.content),
                        "system" => text += &format!("<SYSTEM>{}", m.content),
                        _ => text += &format!("<USER>{}", m.content),
                    }
                }
                Ok(text + "<ASSISTANT>")
            }
        }
    }

    /// The text of the last of `messages` behind the others.
    ///
    /// # Errors
    /// The template refuses the conversation, does not show a part of it, or shows the turn in another way than the model
    /// would write it.
    pub(in crate::data) fn turn_text(&self, messages: &[Message], tools: &[Value]) -> Result<Text> {
        let messages = &*self.without_ends(messages);
        self.check_marks(messages)?;
        self.check_fields(messages, tools)?;
        let text = self.shown_text(messages, tools)?;
        if let (TextStyle::Chat, Some((turn, history))) = (self.style, messages.split_last()) {
            self.check_texts(history, turn, tools)?;
        }
        Ok(text)
    }

    /// [`Encoder::turn_text`] of a conversation that is known to be shown whole: one that was checked with longer texts.
    fn shown_text(&self, messages: &[Message], tools: &[Value]) -> Result<Text> {
        let Some((turn, history)) = messages.split_last() else {
            return Err(Error::internal("a conversation without a turn"));
        };
        if self.style == TextStyle::Raw {
            let prompt = self.prompt_text(history, tools, false)?;
            return Ok(Text { prompt, answer: turn.content.trim().to_owned() });
        }
        let (at, whole) = self.begins(turn, history, messages, tools)?;
        let text = Text { prompt: whole[..at].to_owned(), answer: self.ended(&whole[at..]).to_owned() };
        let text = match shown(turn, &text.answer) {
            Shown::Whole => text,
            // A template may leave the thoughts out of every turn because it leaves them out of the history. The model
            // writes them nevertheless, behind the prompt.
            Shown::WithoutThought => {
                let prompt = self.prompt_text(history, tools, true)?;
                if opened(&prompt).is_none() && !begins_with_thought(&turn.content) {
                    return Err(self.refuse("it leaves out the last turn's thought, whose beginning is not marked"));
                }
                Text { prompt, answer: turn.content.clone() }
            }
            Shown::Not => return Err(self.refuse("it does not show the last turn's text as it is")),
        };
        if text.answer.trim().is_empty() {
            return Err(self.refuse("it shows nothing of the last turn, which is what is learned"));
        }
        self.closed(text)
    }

    /// The whole conversation, and where in it the model begins to write the last turn.
    fn begins(
        &self,
        turn: &Message,
        history: &[Message],
        messages: &[Message],
        tools: &[Value],
    ) -> Result<(usize, String)> {
        let mut whole = String::new();
        let thinks = turn.thinks() || begins_with_thought(&turn.content);
        for thinking in [thinks, !thinks] {
            let prompt = self.prompt_text(history, tools, thinking)?;
            whole = self.chat.render_with(messages, tools, false, thinking)?;
            if whole.starts_with(&prompt) {
                return Ok((prompt.len(), whole));
            }
        }
        let mark = MARKS.into_iter().find(|mark| !turn.content.starts_with(mark)).unwrap_or(MARKS[0]);
        let other = [history, &[Message::new("assistant", mark)]].concat();
        let at = common(&whole, &self.chat.render_with(&other, tools, false, true)?);
        Ok((whole[..at].trim_end_matches(' ').len(), whole))
    }

    /// `text`, if no thought that its prompt opens is opened again or stays open.
    fn closed(&self, mut text: Text) -> Result<Text> {
        let closes = THOUGHT.iter().any(|(_, close)| text.prompt.trim_end().ends_with(close));
        if closes && begins_with_thought(&text.answer) {
            return Err(self.refuse("it closes the thought in front of the last turn, which begins with one"));
        }
        let Some((open, close)) = opened(&text.prompt) else { return Ok(text) };
        if let Some(rest) = text.answer.trim_start().strip_prefix(open) {
            let space = &text.prompt[text.prompt.trim_end().len()..];
            text.answer = rest.strip_prefix(space).unwrap_or(rest.trim_start()).to_owned();
        }
        if !text.answer.contains(close) {
            return Err(self.refuse(format!(
                "it opens a thought with `{open}` in front of the turn, and nothing closes it: write the thought and \
                 `{close}` before the answer"
            )));
        }
        Ok(text)
    }

    /// The end of a rendered conversation without what stands behind the model's text.
    fn ended<'a>(&self, rest: &'a str) -> &'a str {
        let Scaffold { end, closing, .. } = &self.scaffold;
        // White space in front of the token that ends the turn is what the model writes.
        let written = closing.find(end.as_str()).unwrap_or(0);
        match rest.strip_suffix(closing.as_str()) {
            Some(text) => &rest[..text.len() + written],
            None => rest.trim_end().strip_suffix(end.as_str()).unwrap_or(rest),
        }
    }

    /// The messages without an end of turn that a turn of the model already brings: the template writes it.
    fn without_ends<'a>(&self, messages: &'a [Message]) -> Cow<'a, [Message]> {
        let end = self.scaffold.end.as_str();
        let ends = |m: &Message| m.role == "assistant" && m.content.trim_end().ends_with(end);
        if !messages.iter().any(ends) {
            return Cow::Borrowed(messages);
        }
        let mut messages = messages.to_vec();
        for m in messages.iter_mut().filter(|m| ends(m)) {
            m.content.truncate(m.content.trim_end().len() - end.len());
        }
        Cow::Owned(messages)
    }

    /// Refuses texts that hold a token by which turns begin or end: the model would see other turns than the record has.
    fn check_marks(&self, messages: &[Message]) -> Result<()> {
        for (i, m) in messages.iter().enumerate() {
            if let Some(mark) = self.scaffold.marks.iter().find(|mark| m.content.contains(mark.as_str())) {
                return Err(Error::failed(format!(
                    "the text of turn {} ({}: {:?}) holds `{mark}`, by which turns begin or end: give the turns as \
                     `messages`, without the marks between them",
                    i + 1,
                    m.role,
                    excerpt(&m.content)
                )));
            }
        }
        Ok(())
    }

    fn refuse(&self, message: impl Into<String>) -> Error {
        Error::content(self.chat.path(), "chat template", message)
    }

    /// The tokens of the last of `messages` behind the others.
    ///
    /// # Errors
    /// As [`Encoder::turn_text`].
    pub(super) fn turn(&self, messages: &[Message], tools: &[Value]) -> Result<Tokens> {
        self.tokens(&self.turn_text(messages, tools)?)
    }

    /// [`Encoder::turn`] of a conversation that was checked with longer texts.
    pub(super) fn turn_again(&self, messages: &[Message], tools: &[Value]) -> Result<Tokens> {
        self.tokens(&self.shown_text(&self.without_ends(messages), tools)?)
    }

    fn tokens(&self, text: &Text) -> Result<Tokens> {
        let mut answer = self.tokenizer.encode(&text.answer)?;
        answer.push(self.end_of_turn);
        Ok(Tokens { prompt: self.tokenizer.encode(&text.prompt)?, answer })
    }
}

/// How much of a turn's text a template shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// All of it; white space around it and around its thought may be another.
    Whole,
    /// All but the thought that it begins with.
    WithoutThought,
    /// Less.
    Not,
}

/// How much of `turn` stands in `answer`.
fn shown(turn: &Message, answer: &str) -> Shown {
    let thought = THOUGHTS.iter().filter_map(|field| turn.fields.get(*field)?.as_str());
    if thought.into_iter().any(|thought| !answer.contains(thought.trim())) {
        return Shown::Not;
    }
    if answer.contains(turn.content.trim()) {
        return Shown::Whole;
    }
    let parts = THOUGHT.iter().find_map(|(open, close)| Some((open, turn.content.rsplit_once(close)?)));
    let Some((open, (thought, visible))) = parts else { return Shown::Not };
    let thought = thought.trim().strip_prefix(open).unwrap_or(thought).trim();
    match (answer.find(thought), answer.rfind(visible.trim())) {
        (Some(thought), Some(visible)) if thought <= visible => Shown::Whole,
        (_, Some(_)) => Shown::WithoutThought,
        _ => Shown::Not,
    }
}

/// The thought that `prompt` opens at its end.
fn opened(prompt: &str) -> Option<(&'static str, &'static str)> {
    THOUGHT.into_iter().find(|(open, _)| prompt.trim_end().ends_with(open))
}

/// Whether `content` begins with a thought.
fn begins_with_thought(content: &str) -> bool {
    THOUGHT.iter().any(|(open, _)| content.trim_start().starts_with(open))
}

/// Bytes that two texts share at their beginning.
fn common(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

impl Encoder {
    /// The ids of a question up to where the model begins to write `answer`, as in a sample of the two.
    ///
    /// # Errors
    /// The template refuses the conversation, or does not show it as it is.
    pub fn question(&self, messages: &[Message], tools: &[Value], answer: &str) -> Result<Vec<u32>> {
        let whole = [messages, &[Message::new("assistant", answer)]].concat();
        self.tokenizer.encode(&self.turn_text(&whole, tools)?.prompt)
    }

    /// The ids that the model writes to say `answer`, as in a sample, without the token that ends its turn.
    ///
    /// # Errors
    /// As [`Encoder::question`].
    pub fn answer(&self, answer: &str) -> Result<Vec<u32>> {
        let turns = [Message::new("user", "?"), Message::new("assistant", answer)];
        self.tokenizer.encode(&self.turn_text(&turns, &[])?.answer)
    }
}
