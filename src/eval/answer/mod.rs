//! Reads the chosen letter out of a model's free text, where it can be read for certain.
//!
//! Three rules, the first that finds a choice decides:
//! 1. lines on which *Answer* or 回答 is followed by a choice (`Answer: c`, `**回答（1文字のみ）：ｃ**`, `【回答】c`,
//!    `回答は選択肢3です`; a marker alone on its line takes the letter from the next one);
//! 2. lines on which 正解 (or 正答, 解答, 答え, 正しい選択肢) is followed by a choice;
//! 3. lines that are nothing but a choice (`c`, `（c）`, `\boxed{b}`), of which the last line must be one; or a response of one
//!    line that opens with one in the way choices are written (`c 株券等の売買…`).
//!
//! The lines of a rule must agree, and nothing behind them may say otherwise: `Answer: b` and then `Answer: c`, `c or maybe d`,
//! `c?`, or `Answer: c` and below it `正解は a です` name no choice for certain. What is considered *before* the answer counts
//! for nothing: that a reasoning tries 正解は a and ends in `Answer: c`, or that the instruction is repeated.
//!
//! A choice is a letter or a number among those of the question (of ten choices a–j or 1–10), of any width, circled or not, in
//! any brackets or emphasis. A letter or number beyond them is no choice. Prose is not guessed at: "a, b, c, d のいずれか",
//! "b と d", "a ではない", "不正解は a", "a company", "I think", "e.g." and the 1 of "1文字" name no choice, and a line that was cut
//! off after its marker is passed over in favour of an earlier one. What a reasoning model thought (`<think>…</think>`) is no
//! answer, and a thought that never ended leaves none. Of a response that ran into the limit of tokens the sentence that was
//! not finished is not read: `Answer: c` may have gone on as "company".

#[cfg(test)]
mod tests;
mod words;

use crate::data::questions::Choice;
use unicode_normalization::UnicodeNormalization;
use words::{Choices, Found, after_markers, alone, bare, compact, opening};

/// What a model wrote, with what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// The text.
    pub text: &'a str,
    /// How many choices the question has.
    pub choices: usize,
    /// Their texts, where they are known; else empty.
    pub texts: &'a [String],
    /// Whether the model ended it itself; else it ran into the limit of tokens.
    pub ended: bool,
    /// Whether the prompt ends inside of a thought, which the response first has to end.
    pub thinking: bool,
}

/// The choice that a whole response to a question with `choices` choices names, or `None` where it names none or several.
///
/// ```
/// use irori::eval::answer::parse;
/// let letter = |response, choices| parse(response, choices).map(|c| c.letter());
/// assert_eq!(letter("理由は…\n\n**回答（1文字のみ）：ｃ**", 4), Some("c"));
/// assert_eq!(letter("正解は「b」です。", 2), Some("b"));
/// assert_eq!(letter("b または d", 4), None);
/// assert_eq!(letter("Answer: b\nAnswer: d", 4), None);
/// assert_eq!(letter("Answer: e", 4), None);
/// ```
pub fn parse(response: &str, choices: usize) -> Option<Choice> {
    Response { text: response, choices, texts: &[], ended: true, thinking: false }.answer()
}

/// The choice that `text` is: a letter or number of any width, case and emphasis and nothing else.
pub fn exact(text: &str) -> Option<Choice> {
    alone(&plain(text), Choice::MOST)
}

/// Text as it is read: NFKC, in lower case.
fn plain(text: &str) -> String {
    text.nfkc().collect::<String>().to_ascii_lowercase()
}

impl Response<'_> {
    /// The choice that it names for certain.
    pub fn answer(&self) -> Option<Choice> {
        let text = plain(self.text);
        if self.thinking && !text.contains("</think>") {
            return None;
        }
        let text = without_thoughts(&text);
        let text = if self.ended { text } else { finished(text) };
        let texts: Vec<String> = self.texts.iter().map(|t| compact(&plain(t))).collect();
        let choices = Choices { count: self.choices, texts: &texts };
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !bare(l).is_empty()).collect();
        let strong = said(&lines, &["answer", "回答"], choices);
        let weak = said(&lines, &["正解", "正答", "解答", "答え", "正しい選択肢"], choices);
        let lone = lines.iter().enumerate().filter_map(|(i, l)| Some((i, Found::Choice(alone(l, self.choices)?))));
        let lone: Vec<Said> = lone.collect();
        match (decide(&strong), decide(&weak)) {
            (Some(answer), _) => answer.held_to(&[&strong, &weak, &lone]),
            (None, Some(answer)) => answer.held_to(&[&strong, &weak, &lone]),
            (None, None) => match lone.last() {
                Some((i, _)) if i + 1 == lines.len() => decide(&lone)?.held_to(&[&lone]),
                _ if lines.len() == 1 => opening(lines[0], choices),
                _ => None,
            },
        }
    }
}

/// What is found on a line, with its number.
type Said = (usize, Found);

/// What the markers on the lines are followed by; a marker alone on its line takes the choice that the next line is.
fn said(lines: &[&str], markers: &[&str], choices: Choices) -> Vec<Said> {
    let mut all = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        for found in after_markers(line, markers, choices) {
            let below = || lines.get(i + 1).and_then(|l| alone(l, choices.count));
            match found {
                Found::Nothing => all.extend(below().map(|c| (i + 1, Found::Choice(c)))),
                Found::Prose => {}
                found => all.push((i, found)),
            }
        }
    }
    all
}

/// An answer as the lines of one rule give it.
struct Decided {
    /// The choice; `None` where they do not agree, or the model says that it has none.
    choice: Option<Choice>,
    /// The last line that gives it.
    line: usize,
}

/// What the lines of a rule say together; `None` if none of them gives an answer.
fn decide(said: &[Said]) -> Option<Decided> {
    let gives = |&(line, found): &Said| match found {
        Found::Choice(c) => Some((line, Some(c))),
        Found::Abstains => Some((line, None)),
        _ => None,
    };
    let given: Vec<(usize, Option<Choice>)> = said.iter().filter_map(gives).collect();
    let &(line, last) = given.last()?;
    Some(Decided { choice: last.filter(|_| given.iter().all(|(_, c)| *c == last)), line })
}

impl Decided {
    /// The choice, unless something that is said on its last line or behind it is against it.
    fn held_to(&self, all: &[&[Said]]) -> Option<Choice> {
        let choice = self.choice?;
        let against = |&(line, found): &Said| {
            line >= self.line
                && match found {
                    Found::Choice(other) => other != choice,
                    Found::Denied(denied) => denied == choice,
                    Found::Unsure | Found::Abstains => true,
                    Found::Nothing | Found::Prose => false,
                }
        };
        (!all.iter().any(|said| said.iter().any(against))).then_some(choice)
    }
}

fn without_thoughts(text: &str) -> &str {
    match (text.rfind("</think>"), text.rfind("<think>")) {
        (Some(end), open) if open.is_none_or(|open| open < end) => &text[end + "</think>".len()..],
        (_, Some(_)) => "",
        _ => text,
    }
}

/// What of a response that was cut off is finished: its lines but the last, and the sentences of that.
fn finished(text: &str) -> &str {
    let line = text.rfind('\n').map_or(0, |at| at + 1);
    let ends = |(at, c): (usize, char)| {
        let end = at + c.len_utf8();
        let sentence = c == '。' || (".!".contains(c) && text[line + end..].starts_with(char::is_whitespace));
        sentence.then_some(end)
    };
    let end = text[line..].char_indices().rev().find_map(ends);
    &text[..line + end.unwrap_or(0)]
}
