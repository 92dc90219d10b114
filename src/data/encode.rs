//! From records to [`Sample`]s: what the model reads, and which tokens carry loss.
//!
//! Prompt and answer are tokenised separately and joined, so the prompt's tokens are those of inference. Loss falls on
//! the answer and its end-of-turn token ([`LossOn::Answer`], the default). A conversation with several turns of the model
//! learns the last one; with [`LossOn::AllTurns`] each turn becomes a sample of its own, behind the history as the
//! template shows it at inference (Qwen's drops old thoughts, so one sample could not hold them all truthfully).
//!
//! **Truncation.** The answer is never cut: it is what is learned. A sample that is longer than the limit loses tokens
//! of the prompt from the beginning of the first message on; the template's opening and the system message before it, and
//! everything after the cut, stay. In law questions the statute comes first and the question last, so the statute gives
//! way. An answer that alone exceeds the limit is dropped and counted. Pre-tokenised samples keep their end.

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
}

/// What became of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct EncodeReport {
    /// Records read.
    pub records: usize,
    /// Samples made of them.
    pub samples: usize,
    /// Samples left out because no target fitted, by the lines of their records.
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
        Ok(Self { tokenizer, chat, style, end_of_turn })
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

    /// The text of a conversation up to where the model begins its turn.
    pub fn prompt_text(&self, messages: &[Message], thinking: bool) -> Result<String> {
        self.prompt_text_with(messages, &[], thinking)
    }

    /// [`Encoder::prompt_text`] with `tools` that the model may call.
    pub(super) fn prompt_text_with(&self, messages: &[Message], tools: &[Value], thinking: bool) -> Result<String> {
        match self.style {
            TextStyle::Chat => self.chat.render_with(messages, tools, true, thinking),
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

    /// The ids of [`Encoder::prompt_text`] with thinking off: the prompt of training and of inference.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt_with(messages, &[])
    }

    /// [`Encoder::prompt`] with `tools` that the model may call.
    ///
    /// # Errors
    /// As [`Encoder::prompt`].
    pub fn prompt_with(&self, messages: &[Message], tools: &[Value]) -> Result<Vec<u32>> {
        self.tokenizer.encode(&self.prompt_text_with(messages, tools, false)?)
    }

    /// [`encode`] with this tokenizer.
    pub fn encode(&self, path: &Path, records: &[Record], limits: Limits, loss: LossOn) -> Result<Encoded> {
        encode(Some(self), path, records, limits, loss)
    }

    /// The sample of the last of `messages`, behind the others.
    fn turn(&self, messages: &[Message], tools: &[Value], max_len: usize, loss: LossOn) -> Result<Made> {
        let history = &messages[..messages.len() - 1];
        let (text, answer) = self.turn_text(messages, tools)?;
        let mut prompt = self.tokenizer.encode(&text)?;
        let mut target = self.tokenizer.encode(&answer)?;
        target.push(self.end_of_turn);
        if target.len() >= max_len {
            return Ok(Made { sample: None, cut: 0 });
        }
        let cut = (prompt.len() + target.len()).saturating_sub(max_len);
        if cut > 0 {
            let first = history.iter().find(|m| m.role != "system");
            let opening = first.and_then(|m| text.find(&m.content)).map_or("", |at| &text[..at]);
            let keep = self.tokenizer.encode(opening)?.len();
            let from = if keep + cut < prompt.len() { keep } else { 0 };
            prompt.drain(from..from + cut);
        }
        let mut labels = match loss {
            LossOn::Everything => prompt.iter().map(|&id| id as i32).collect(),
            _ => vec![NO_LOSS; prompt.len()],
        };
        labels.extend(target.iter().map(|&id| id as i32));
        prompt.append(&mut target);
        let sample = Sample { tokens: prompt, labels };
        Ok(Made { sample: (sample.targets() > 0).then_some(sample), cut })
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
                .map(|i| encoder.turn(&messages[..=i], &record.tools, max_len, loss))
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

/// The answers that name each of `choices` letters in `format`, tokenised whole as in training: in `Answer: c` the space
/// belongs to the letter's token.
///
/// # Errors
/// If the tokenizer refuses a text.
pub fn letter_answers(tokenizer: &Tokenizer, format: AnswerFormat, choices: usize) -> Result<Vec<Vec<u32>>> {
    Choice::first(choices).iter().map(|&choice| tokenizer.encode(&format.answer(choice, None))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{prompt::PromptTemplate, record, shared::shared, tokenizer::byte_tokenizer};

    fn encoder(style: TextStyle) -> Encoder {
        let dir = tempfile::tempdir().unwrap();
        Encoder::new(byte_tokenizer(dir.path()), ChatTemplate::chatml().unwrap(), style).unwrap()
    }

    fn encode(e: &Encoder, lines: &str, max_len: usize, loss: LossOn) -> Result<Encoded> {
        let path = Path::new("f.jsonl");
        e.encode(path, &record::parse(path, lines.as_bytes())?, Limits { vocab: 261, max_len }, loss)
    }

    /// (whole text, text of what carries loss)
    fn shown(e: &Encoder, s: &Sample) -> (String, String) {
        assert_eq!(s.tokens.len(), s.labels.len());
        assert!(s.tokens.iter().zip(&s.labels).all(|(&t, &l)| l == NO_LOSS || l == t as i32));
        let targets: Vec<u32> = s.labels.iter().filter(|&&l| l != NO_LOSS).map(|&l| l as u32).collect();
        (e.tokenizer.decode(&s.tokens, false).unwrap(), e.tokenizer.decode(&targets, false).unwrap())
    }

    #[test]
    fn answer_and_end_of_turn_carry_loss() {
        let line = r#"{"input":"q","output":" b\n"}"#;
        let chat = encoder(TextStyle::Chat);
        let out = encode(&chat, line, 100, LossOn::Answer).unwrap();
        let prompt = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(shown(&chat, &out.samples[0]), (format!("{prompt}b<|im_end|>"), "b<|im_end|>".into()));
        assert_eq!(
            out.samples[0].tokens[..out.samples[0].tokens.len() - 2],
            chat.prompt(&[Message::new("user", "q")]).unwrap()
        );
        assert_eq!((out.report.samples, out.report.targets, out.report.answers.row(4)), (1, 2, vec![0, 1, 0, 0]));
        let all = encode(&chat, line, 100, LossOn::Everything).unwrap();
        assert_eq!(shown(&chat, &all.samples[0]).1, format!("{prompt}b<|im_end|>"));
        let raw = encoder(TextStyle::Raw);
        let out = encode(&raw, line, 100, LossOn::Answer).unwrap();
        assert_eq!(shown(&raw, &out.samples[0]), ("<USER>q<ASSISTANT>b<|im_end|>".into(), "b<|im_end|>".into()));
    }

    #[test]
    fn several_turns() {
        let e = encoder(TextStyle::Chat);
        let line = r#"{"messages":[{"role":"user","content":"1"},{"role":"assistant","content":"A"},{"role":"user","content":"2"},{"role":"assistant","content":"B"}]}"#;
        let one = encode(&e, line, 200, LossOn::Answer).unwrap();
        assert_eq!((one.samples.len(), shown(&e, &one.samples[0]).1), (1, "B<|im_end|>".into()));
        let both = encode(&e, line, 200, LossOn::AllTurns).unwrap();
        assert_eq!((both.samples.len(), both.lines), (2, vec![1, 1]));
        assert_eq!(shown(&e, &both.samples[0]).1, "A<|im_end|>");
        assert_eq!(both.samples[1], one.samples[0]);
    }

    #[test]
    fn truncation_spares_opening_question_and_answer() {
        let e = encoder(TextStyle::Chat);
        let line = format!(r#"{{"input":"{}?","output":"b"}}"#, "x".repeat(500));
        let out = encode(&e, &line, 60, LossOn::Answer).unwrap();
        let (text, target) = shown(&e, &out.samples[0]);
        assert!(
            text.starts_with("<|im_start|>user\nx")
                && text.ends_with("x?<|im_end|>\n<|im_start|>assistant\nb<|im_end|>")
        );
        assert_eq!((out.samples[0].tokens.len(), target.as_str()), (60, "b<|im_end|>"));
        assert_eq!((out.report.truncated, out.report.cut_tokens), (1, 1 + 5 + 501 + 2 + 11 + 2 - 60));
        let long = format!(r#"{{"input":"q","output":"{}"}}"#, "y".repeat(60));
        let mixed = encode(&e, &format!("{line}\n{long}"), 60, LossOn::Answer).unwrap();
        assert_eq!((mixed.report.dropped, mixed.report.samples), (vec![2], 1));
        let none = encode(&e, &long, 60, LossOn::Answer).unwrap_err().to_string();
        assert!(
            none.contains("none of its 1 records has a target left within the limit of `max-seq-length = 60`"),
            "{none}"
        );
        assert_eq!(encode(&e, &line, 3, LossOn::Answer).unwrap().samples[0].tokens.len(), 3);
    }

    #[test]
    fn ready_made_tokens() {
        let e = encoder(TextStyle::Chat);
        let out = encode(&e, r#"{"input_ids":[1,2,3],"labels":[-100,-100,3]}"#, 2, LossOn::Answer).unwrap();
        assert_eq!(out.samples[0], Sample { tokens: vec![2, 3], labels: vec![NO_LOSS, 3] });
        let bad = encode(&e, r#"{"input_ids":[1,261],"labels":[-100,3]}"#, 9, LossOn::Answer).unwrap_err().to_string();
        assert_eq!(bad, "f.jsonl: line 1, field `input_ids[1]`: token 261 is outside the model's vocabulary of 261");
        let bad = encode(&e, r#"{"input_ids":[1,2],"labels":[-100,300]}"#, 9, LossOn::Answer).unwrap_err().to_string();
        assert!(bad.contains("field `labels[1]`"));
        assert!(
            encode(&e, r#"{"input_ids":[1,2],"labels":[1,-100]}"#, 9, LossOn::Answer).is_err(),
            "the first predicts nothing"
        );
    }

    #[test]
    fn the_real_thing() {
        let (Some(dir), Some(file)) = (shared("qwen3_tokenizer"), shared("lawqa_jp/selection.json")) else { return };
        let e = Encoder::load(&dir, TextStyle::Chat).unwrap();
        let letters = |f| choice_tokens(&letter_answers(&e.tokenizer, f, 10).unwrap()).expect("letters of their own");
        let answer_of = |f: AnswerFormat| e.tokenizer.encode(&f.answer(Choice::ALL[2], None)).unwrap();
        for format in [AnswerFormat::Letter, AnswerFormat::AnswerLine] {
            let (prefix, tokens) = letters(format);
            assert_eq!([prefix.clone(), vec![tokens[2]]].concat(), answer_of(format), "scored as trained");
            for n in 2..10 {
                let fewer = choice_tokens(&letter_answers(&e.tokenizer, format, n).unwrap()).expect("distinct");
                assert_eq!(fewer, (prefix.clone(), tokens[..n].to_vec()));
            }
        }
        let template = PromptTemplate::load("answer-line").unwrap();
        let questions = crate::data::questions::lawqa::read(&file).unwrap().questions;
        let lines: Vec<String> = questions
            .iter()
            .map(|q| {
                let none = crate::data::prompt::Context::None;
                questions::records::line(q, &template, none, &[], crate::data::permute::Permutation::identity(4))
                    .unwrap()
                    .to_string()
            })
            .collect();
        let records = record::parse(&file, lines.join("\n").as_bytes()).unwrap();
        let out = e.encode(&file, &records, Limits { vocab: 151_936, max_len: 1024 }, LossOn::Answer).unwrap();
        assert_eq!(
            (out.report.samples, out.report.truncated, out.report.answers.row(4)),
            (140, 0, vec![23, 37, 48, 32])
        );
        for s in &out.samples {
            let targets: Vec<u32> = s.labels.iter().filter(|&&l| l != NO_LOSS).map(|&l| l as u32).collect();
            assert_eq!(targets.last(), Some(&151_645));
            let text = e.tokenizer.decode(&s.tokens, false).unwrap();
            assert!(
                text[..text.rfind("Answer: ").unwrap()].ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n")
            );
        }
    }
}
