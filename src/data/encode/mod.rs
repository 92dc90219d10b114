//! From records to [`Sample`]s: what the model reads, and which tokens carry loss.
//!
//! A sample is the conversation as the chat template shows it, from its beginning to the end of the model's turn (`turn`).
//! Prompt and answer are tokenised separately and joined, so the prompt's tokens are those of inference. Loss falls on
//! the answer and its end-of-turn token ([`LossOn::Answer`], the default). A conversation with several turns of the model
//! learns the last one; with [`LossOn::AllTurns`] each turn becomes a sample of its own, behind the history as the
//! template shows it at inference (Qwen's drops old thoughts, so one sample could not hold them all truthfully).
//!
//! **Truncation.** The answer is never cut: it is what is learned. In a sample that is longer than the limit the texts of
//! the conversation are shortened, and the template shows it again (`shorten`). An answer that does not fit even then is
//! dropped and counted. Samples of token ids lose tokens from their front, none that carries loss.

mod shorten;
#[cfg(test)]
pub(in crate::data) mod tests;
mod turn;

use self::turn::Scaffold;
use super::{
    batch::{NO_LOSS, Sample},
    chat::{ChatTemplate, Message},
    prompt::AnswerFormat,
    questions::{self, Choice, LetterCounts},
    record::{Content, Record},
    tokenizer::Tokenizer,
};
use crate::{Error, Result, error::Setting};
use rayon::prelude::*;
use serde_json::Value;
use std::path::Path;

/// How a conversation becomes text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextStyle {
    /// The model's own chat template.
    #[default]
    Chat,
    /// `<USER>…<ASSISTANT>…`, for adapters that were trained on it.
    Raw,
}

/// Where loss falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossOn {
    /// The model's last turn and the token that ends it.
    #[default]
    Answer,
    /// Every turn of the model, each as a sample of its own.
    AllTurns,
    /// Every token but the first, the prompt's too.
    Everything,
}

/// Turns conversations into token ids.
#[derive(Debug)]
pub struct Encoder {
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// The model's chat template.
    pub chat: ChatTemplate,
    /// How a conversation becomes text.
    pub style: TextStyle,
    end_of_turn: u32,
    scaffold: Scaffold,
}

/// What became of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct EncodeReport {
    /// Records read.
    pub records: usize,
    /// Samples made of them.
    pub samples: usize,
    /// Samples left out because what carries loss did not fit, by the lines of their records.
    pub dropped: Vec<usize>,
    /// Samples whose prompt was shortened.
    pub truncated: usize,
    /// Prompt tokens that were cut off in all.
    pub cut_tokens: usize,
    /// Tokens in all samples.
    pub tokens: usize,
    /// Targets in all samples.
    pub targets: usize,
    /// Tokens of each sample, in their order.
    pub lengths: Vec<usize>,
    /// How often each letter is the answer among the records that gave a sample.
    pub answers: LetterCounts,
}

/// An encoded data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// In the order of the file.
    pub samples: Vec<Sample>,
    /// The line each sample comes from.
    pub lines: Vec<usize>,
    /// What became of the records.
    pub report: EncodeReport,
}

/// One sample, and how many tokens it lost.
struct Made {
    sample: Option<Sample>,
    cut: usize,
}

impl Encoder {
    /// Loads tokenizer and chat template from a model or tokenizer directory, or a tokenizer.json in one.
    ///
    /// # Errors
    /// Files that are missing or broken, or a model that nothing ends the turn of.
    pub fn load(path: &Path, style: TextStyle) -> Result<Self> {
        let tokenizer = Tokenizer::load(path)?;
        let chat = ChatTemplate::load(tokenizer.path().parent().unwrap_or(Path::new(".")))?;
        Self::new(tokenizer, chat, style)
    }

    /// Puts tokenizer and template together. The end of turn is the token that the template puts behind an answer, else
    /// the tokenizer's own.
    pub fn new(tokenizer: Tokenizer, chat: ChatTemplate, style: TextStyle) -> Result<Self> {
        let of_template = match style {
            TextStyle::Chat => chat.end_of_turn()?.and_then(|token| tokenizer.id(&token)),
            TextStyle::Raw => None,
        };
        let end_of_turn = of_template.or(tokenizer.end_of_turn()).ok_or_else(|| {
            let message = "no token ends a turn: name one as `eos_token` in tokenizer_config.json beside it";
            Error::content(tokenizer.path(), "", message)
        })?;
        let scaffold = Scaffold::of(&chat, &tokenizer, style, end_of_turn)?;
        Ok(Self { tokenizer, chat, style, end_of_turn, scaffold })
    }

    /// The token that ends the model's turn.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// Every token that ends generation: [`Encoder::end_of_turn`] and those the model's files name.
    pub fn stops(&self) -> Vec<u32> {
        let others = self.tokenizer.stops().iter().copied().filter(|&id| id != self.end_of_turn);
        std::iter::once(self.end_of_turn).chain(others).collect()
    }

    /// The ids of a conversation up to where the model begins its turn, with thinking off.
    ///
    /// # Errors
    /// The template refuses the conversation, or the tokenizer its text.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.tokenizer.encode(&self.prompt_text(messages, &[], false)?)
    }

    /// [`encode`] with this tokenizer.
    pub fn encode(&self, path: &Path, records: &[Record], limits: Limits, loss: LossOn) -> Result<Encoded> {
        encode(Some(self), path, records, limits, loss)
    }

    /// The sample of the last of `messages`, behind the others.
    fn sample(&self, messages: &[Message], tools: &[Value], max_len: usize, loss: LossOn) -> Result<Made> {
        let Some(shortened) = self.shortened(messages, tools, max_len)? else {
            return Ok(Made { sample: None, cut: 0 });
        };
        let turn::Tokens { prompt, answer } = shortened.tokens;
        let mut labels = match loss {
            LossOn::Everything => prompt.iter().map(|&id| id as i32).collect(),
            _ => vec![NO_LOSS; prompt.len()],
        };
        labels.extend(answer.iter().map(|&id| id as i32));
        let sample = Sample { tokens: [prompt, answer].concat(), labels };
        Ok(Made { sample: (sample.targets() > 0).then_some(sample), cut: shortened.cut })
    }
}

/// What a sample must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows of the model's embedding.
    pub vocab: usize,
    /// Most tokens of a sample.
    pub max_len: usize,
}

/// Encodes a file's records in parallel; `path` is for messages. Without an encoder every record must be tokens already.
///
/// # Errors
/// A record the template refuses, text where there is no tokenizer, a token id outside the vocabulary, or no sample with
/// a target at all.
pub fn encode(
    encoder: Option<&Encoder>,
    path: &Path,
    records: &[Record],
    limits: Limits,
    loss: LossOn,
) -> Result<Encoded> {
    let one = |record: &Record| encode_one(encoder, path, record, limits, loss).map(|made| (record.line, made));
    let all: Vec<(usize, Vec<Made>)> = records.par_iter().map(one).collect::<Result<_>>()?;
    let mut out = Encoded::default();
    out.report.records = records.len();
    for (line, made) in all.into_iter().flat_map(|(line, made)| made.into_iter().map(move |m| (line, m))) {
        let Some(sample) = made.sample else {
            out.report.dropped.push(line);
            continue;
        };
        out.report.truncated += usize::from(made.cut > 0);
        out.report.cut_tokens += made.cut;
        out.report.tokens += sample.tokens.len();
        out.report.targets += sample.targets();
        out.report.lengths.push(sample.tokens.len());
        out.lines.push(line);
        out.samples.push(sample);
    }
    out.report.samples = out.samples.len();
    for (record, answer) in records.iter().zip(questions::records::answers(path, records)?) {
        match answer {
            _ if out.lines.binary_search(&record.line).is_err() => {}
            Some((choice, choices)) => out.report.answers.add(Some(choice), choices),
            None => out.report.answers.none += 1,
        }
    }
    if out.samples.is_empty() {
        let message = format!(
            "none of its {} records has a target left within the limit of {}",
            records.len(),
            Setting::new("max-seq-length", limits.max_len)
        );
        return Err(Error::content(path, "", message));
    }
    Ok(out)
}

fn encode_one(
    encoder: Option<&Encoder>,
    path: &Path,
    record: &Record,
    limits: Limits,
    loss: LossOn,
) -> Result<Vec<Made>> {
    let Limits { vocab, max_len } = limits;
    let at = format!("line {}", record.line);
    match &record.content {
        Content::Tokens { input_ids, labels } => {
            let outside = |field: &str, i: usize, id: i64| {
                let message = format!("token {id} is outside the model's vocabulary of {vocab}");
                Error::content(path, format!("{at}, field `{field}[{i}]`"), message)
            };
            if let Some(i) = input_ids.iter().position(|&id| id as usize >= vocab) {
                return Err(outside("input_ids", i, input_ids[i].into()));
            }
            if let Some(i) = labels.iter().position(|&l| l != NO_LOSS && l as usize >= vocab) {
                return Err(outside("labels", i, labels[i].into()));
            }
            let cut = input_ids.len().saturating_sub(max_len);
            // The first token that is kept has nothing before it that could predict it: its label is lost as well.
            let loses = labels.iter().take(cut + 1).skip(1).any(|&l| l != NO_LOSS);
            if cut > 0 && loses {
                return Ok(vec![Made { sample: None, cut: 0 }]);
            }
            let sample = Sample { tokens: input_ids[cut..].to_vec(), labels: labels[cut..].to_vec() };
            Ok(vec![Made { sample: (sample.targets() > 0).then_some(sample), cut }])
        }
        Content::Messages(messages) => {
            let Some(encoder) = encoder else {
                let message = format!("{}: {at} is text, and the model brings no tokenizer: name one", path.display());
                return Err(Error::setting(Setting::named("tokenizer"), message));
            };
            let last = messages.len() - 1;
            check_weights(messages, loss).map_err(|e| e.context(format!("{}: {at}", path.display())))?;
            let turns = (0..messages.len())
                .filter(|&i| messages[i].role == "assistant" && messages[i].learned && i > 0)
                .filter(|&i| i == last || loss == LossOn::AllTurns);
            let made: Vec<Made> = turns
                .map(|i| encoder.sample(&messages[..=i], &record.tools, max_len, loss))
                .collect::<Result<_>>()
                .map_err(|e| e.context(format!("{}: {at}", path.display())))?;
            let largest = made.iter().filter_map(|m| m.sample.as_ref()?.tokens.iter().max()).max();
            match largest {
                Some(&id) if id as usize >= vocab => {
                    let message = format!(
                        "the tokenizer gives token {id}, outside the model's vocabulary of {vocab}: it is another model's"
                    );
                    Err(Error::content(path, at, message))
                }
                _ => Ok(made),
            }
        }
    }
}

/// Refuses turns of weight 0 where `loss` asks to learn them.
fn check_weights(messages: &[Message], loss: LossOn) -> Result<()> {
    let unlearned = |m: &Message| m.role == "assistant" && !m.learned;
    let refused = match loss {
        LossOn::AllTurns => false,
        LossOn::Answer => messages.last().is_some_and(unlearned),
        LossOn::Everything => messages.iter().any(unlearned),
    };
    if !refused {
        return Ok(());
    }
    let (value, what) = match loss {
        LossOn::Everything => ("everything", "a turn"),
        _ => ("answer", "the last turn, which alone is learned,"),
    };
    let message = format!("{what} has the `weight` 0, so it must not be learned");
    Err(Error::setting(Setting::new("loss-on", value), message).advise([Setting::new("loss-on", "all-turns")]))
}

/// The answers that name each of `choices` letters in `format`, tokenised whole as in a sample: in `Answer: c` the space
/// belongs to the letter's token.
///
/// # Errors
/// If the chat template or the tokenizer refuses a text.
pub fn letter_answers(encoder: &Encoder, format: AnswerFormat, choices: usize) -> Result<Vec<Vec<u32>>> {
    Choice::first(choices).iter().map(|&choice| encoder.answer(&format.answer(choice, None))).collect()
}

/// For scoring letters by their likelihood: the tokens that their answers share, to append to the prompt, then the token of
/// each letter, the first in which they differ. `None` if they do not all differ in one place.
pub fn choice_tokens(answers: &[Vec<u32>]) -> Option<(Vec<u32>, Vec<u32>)> {
    let first = answers.first()?;
    let shared = (0..first.len()).take_while(|&i| answers.iter().all(|a| a.get(i) == first.get(i))).count();
    let letters: Vec<u32> = answers.iter().map(|a| a.get(shared).copied()).collect::<Option<_>>()?;
    let distinct = (1..letters.len()).all(|i| !letters[..i].contains(&letters[i]));
    distinct.then(|| (first[..shared].to_vec(), letters))
}
