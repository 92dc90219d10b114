//! Samples under chat templates that people have: every `.jinja` file below the folder that `IRORI_CHAT_TEMPLATES` names.

use super::*;
use crate::data::tokenizer::byte_tokenizer_with;
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf};

/// Begins the reason for which a sample is none that there may be.
const WRONG: &str = "WRONG";

/// Every template below `dir`.
fn templates(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(templates(&entry));
        } else if entry.extension().is_some_and(|e| e == "jinja") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// Conversations with an answer of every kind.
fn conversations() -> Vec<(&'static str, Value)> {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let (user, long) = (turn("user", "Which?"), turn("user", &"法律の条文 ".repeat(40)));
    let thought = json!({"role": "assistant", "content": "Answer: c", "reasoning_content": "because"});
    let of = |turns: Vec<Value>| json!({ "messages": turns });
    vec![
        ("answer", of(vec![user.clone(), turn("assistant", "Answer: c")])),
        ("answer with its end", of(vec![user.clone(), turn("assistant", "Answer: c<END>")])),
        ("thought in the text", of(vec![user.clone(), turn("assistant", "<think>\nbecause\n</think>\n\nAnswer: c")])),
        ("thought in a field", of(vec![user.clone(), thought])),
        ("system message", of(vec![turn("system", "Be brief."), user.clone(), turn("assistant", "Answer: c")])),
        ("three turns", of(vec![user.clone(), turn("assistant", "a?"), user, turn("assistant", "Answer: c")])),
        ("long", of(vec![turn("system", "Be brief."), long, turn("assistant", "Answer: c")])),
        ("long, without system", of(vec![turn("user", &"条文 ".repeat(60)), turn("assistant", "Answer: c")])),
    ]
}

/// What a sample of `line` is: one that the template shows, or the reason why there is none.
fn outcome(e: &Encoder, line: &Value, end: &str) -> std::result::Result<(), String> {
    let wrong =
        |what: &str, text: &dyn std::fmt::Debug| Err(format!("{WRONG} {}: {what}: {text:?}", e.chat.path().display()));
    let end_in_json = json!(end).to_string();
    let line = line.to_string().replace("<END>", end_in_json.trim_matches('"'));
    let path = Path::new("f.jsonl");
    let record = record::parse(path, line.as_bytes()).unwrap().remove(0);
    let Content::Messages(messages) = record.content else { panic!("{line}") };
    let text = e.turn_text(&messages, &[]).map_err(|e| reason(&e))?;
    let said = format!("{}{}", text.prompt, text.answer);
    let stripped: Vec<Message> = messages
        .iter()
        .map(|m| Message { content: m.content.strip_suffix(end).unwrap_or(&m.content).to_owned(), ..m.clone() })
        .collect();
    let shown = |thinking| e.chat.render(&stripped, false, thinking).unwrap();
    let whole = [shown(false), shown(true)];
    // What the model writes is in the whole conversation, but for a thought that the template leaves out of it.
    let left_out = messages.last().is_some_and(|m| m.content.contains("</think>")) && text.answer.contains("because");
    if !whole.iter().any(|whole| whole.starts_with(&said)) && !left_out {
        return wrong("not what it shows", &(&said, whole));
    }
    let tail = &said[text.prompt.rfind("Which?").or(text.prompt.rfind("条文 ")).unwrap_or(0)..];
    let (open, close) = (tail.matches("<think>").count(), tail.matches("</think>").count());
    if open != close && (open, close) != (0, 1) {
        return wrong("a thought is doubled or open", &said);
    }
    if text.answer.contains(end) {
        return wrong("an end within the answer", &said);
    }
    // Under a limit the same marks stay, and the prompt ends as it did.
    let whole = e.turn(&messages, &[]).map_err(|e| reason(&e))?;
    let limit = whole.prompt.len() + whole.answer.len() - 100.min(whole.prompt.len() / 3);
    let Some(short) = e.shortened(&messages, &[], limit).map_err(|e| reason(&e))? else { return Ok(()) };
    let special = |ids: &[u32]| ids.iter().copied().filter(|&id| id >= 256).collect::<Vec<_>>();
    if short.tokens.prompt.len() + short.tokens.answer.len() > limit
        || special(&short.tokens.prompt) != special(&whole.prompt)
        || short.tokens.answer != whole.answer
    {
        return wrong("shortened to", &e.tokenizer.decode(&short.tokens.prompt, false));
    }
    Ok(())
}

#[test]
fn samples_are_what_public_templates_show() {
    let Some(dir) = std::env::var_os("IRORI_CHAT_TEMPLATES").map(PathBuf::from) else {
        eprintln!("SKIP: IRORI_CHAT_TEMPLATES names no folder of chat templates");
        return;
    };
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let (mut made, mut all) = (0, 0);
    for path in templates(&dir) {
        let source = std::fs::read_to_string(&path).unwrap();
        let chat = match ChatTemplate::parse(&path, source) {
            Ok(chat) => chat,
            Err(e) => {
                *refused.entry(format!("template: {e}")).or_default() += 1;
                continue;
            }
        };
        let end = chat.end_of_turn().ok().flatten().unwrap_or_else(|| "<|im_end|>".into());
        let tokens = tempfile::tempdir().unwrap();
        let e = match Encoder::new(byte_tokenizer_with(tokens.path(), &[&end]), chat, TextStyle::Chat) {
            Ok(e) => e,
            Err(e) => {
                *refused.entry(format!("encoder: {}", reason(&e))).or_default() += 1;
                continue;
            }
        };
        for (kind, line) in conversations() {
            all += 1;
            match outcome(&e, &line, &end) {
                Ok(()) => made += 1,
                Err(why) if why.starts_with(WRONG) => {
                    *refused.entry(why).or_default() += 1;
                }
                Err(why) => {
                    let why = why.rsplit_once("chat template").map_or(why.clone(), |(_, why)| why.to_owned());
                    *refused.entry(format!("{kind}: {why}")).or_default() += 1;
                }
            }
        }
    }
    println!("{made} of {all} conversations are samples; the others:");
    refused.iter().for_each(|(why, count)| println!("{count:5} {why}"));
    assert!(!refused.keys().any(|why| why.starts_with(WRONG)));
    assert!(made * 2 > all, "most conversations must be samples");
}
