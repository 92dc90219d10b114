//! Records as samples.

mod public;
mod shortening;
mod turns;

use super::*;
use crate::data::{prompt::PromptTemplate, record, shared::shared, tokenizer::byte_tokenizer};

/// An encoder of bytes under `template`, ChatML if there is none.
pub(in crate::data) fn encoder_of(template: Option<&str>, style: TextStyle) -> Result<Encoder> {
    let dir = tempfile::tempdir().unwrap();
    let chat = match template {
        Some(source) => ChatTemplate::parse(Path::new("t.jinja"), source.to_owned())?,
        None => ChatTemplate::chatml()?,
    };
    Encoder::new(byte_tokenizer(dir.path()), chat, style)
}

/// The text of each sample of a line, with what is learned in ⟦ ⟧.
pub(in crate::data) fn texts(e: &Encoder, line: &Value, loss: LossOn) -> Result<Vec<String>> {
    texts_within(e, line, loss, 4000)
}

/// [`texts`] of at most `max_len` tokens.
fn texts_within(e: &Encoder, line: &Value, loss: LossOn, max_len: usize) -> Result<Vec<String>> {
    let path = Path::new("f.jsonl");
    let records = record::parse(path, line.to_string().as_bytes())?;
    let limits = Limits { vocab: e.tokenizer.vocab_size(), max_len };
    let text = |ids: &[u32]| e.tokenizer.decode(ids, false);
    let samples = e.encode(path, &records, limits, loss)?.samples;
    let shown = |s: &Sample| {
        assert!(s.tokens.len() <= max_len);
        let first = s.labels.iter().position(|&l| l != NO_LOSS).unwrap_or(0);
        Ok(format!("{}⟦{}⟧", text(&s.tokens[..first])?, text(&s.tokens[first..])?))
    };
    samples.iter().map(shown).collect()
}

/// The whole message of an error with its causes.
fn reason(error: &Error) -> String {
    std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn encoder(style: TextStyle) -> Encoder {
    encoder_of(None, style).unwrap()
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
    let line = r#"{"input":"q","output":"b"}"#;
    let chat = encoder(TextStyle::Chat);
    let out = encode(&chat, line, 100, LossOn::Answer).unwrap();
    let prompt = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(shown(&chat, &out.samples[0]), (format!("{prompt}b<|im_end|>"), "b<|im_end|>".into()));
    let spaced = encode(&chat, r#"{"input":"q","output":" b\n"}"#, 100, LossOn::Answer).unwrap();
    assert_eq!(shown(&chat, &spaced.samples[0]).1, " b\n<|im_end|>", "the template trims nothing");
    assert_eq!(
        out.samples[0].tokens[..out.samples[0].tokens.len() - 2],
        chat.prompt(&[Message::new("user", "q")]).unwrap()
    );
    assert_eq!((out.report.samples, out.report.targets, out.report.answers.row(4)), (1, 2, vec![0, 1, 0, 0]));
    let all = encode(&chat, line, 100, LossOn::Everything).unwrap();
    assert_eq!(shown(&chat, &all.samples[0]).1, format!("{prompt}b<|im_end|>"));
    let raw = encoder(TextStyle::Raw);
    let out = encode(&raw, r#"{"input":"q","output":" b\n"}"#, 100, LossOn::Answer).unwrap();
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
        text.starts_with("<|im_start|>user\nx") && text.ends_with("x?<|im_end|>\n<|im_start|>assistant\nb<|im_end|>")
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
    let none = encode(&e, &line, 3, LossOn::Answer).unwrap_err().to_string();
    assert!(none.contains("none of its 1 records has a target left"), "the role marks alone are more: {none}");
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
    let letters = |f| choice_tokens(&letter_answers(&e, f, 10).unwrap()).expect("letters of their own");
    let answer_of = |f: AnswerFormat| e.tokenizer.encode(&f.answer(Choice::ALL[2], None)).unwrap();
    for format in [AnswerFormat::Letter, AnswerFormat::AnswerLine] {
        let (prefix, tokens) = letters(format);
        assert_eq!([prefix.clone(), vec![tokens[2]]].concat(), answer_of(format), "scored as trained");
        for n in 2..10 {
            let fewer = choice_tokens(&letter_answers(&e, format, n).unwrap()).expect("distinct");
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
    assert_eq!((out.report.samples, out.report.truncated, out.report.answers.row(4)), (140, 0, vec![23, 37, 48, 32]));
    for s in &out.samples {
        let targets: Vec<u32> = s.labels.iter().filter(|&&l| l != NO_LOSS).map(|&l| l as u32).collect();
        assert_eq!(targets.last(), Some(&151_645));
        let text = e.tokenizer.decode(&s.tokens, false).unwrap();
        assert!(text[..text.rfind("Answer: ").unwrap()].ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    }
}
