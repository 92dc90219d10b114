//! Tokens and chat texts as transformers makes them with Qwen3's own tokenizer, which is not part of this repository: the
//! tests pass over aloud where it is not there.

use super::{ids, json};
use crate::shared::shared;
use irori::data::{
    chat::{ChatTemplate, Message},
    tokenizer::Tokenizer,
};
use serde_json::Value;
use std::path::PathBuf;

/// Directory of Qwen3's tokenizer, if it is there and the one of the goldens.
fn tokenizer() -> Option<PathBuf> {
    let dir = shared("qwen3_tokenizer")?;
    let bytes = std::fs::read(dir.join("tokenizer.json")).expect("tokenizer.json");
    if irori::digest::sha256(&bytes) != json("text.json")["tokenizer_sha256"].as_str().expect("digest") {
        eprintln!("SKIP: {} is another tokenizer than that of the goldens", dir.display());
        return None;
    }
    Some(dir)
}

fn entries<'a>(file: &'a Value, part: &str) -> &'a [Value] {
    file[part].as_array().expect("entries")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

#[test]
fn strings_become_the_same_tokens_and_back() {
    let Some(dir) = tokenizer() else { return };
    let tokenizer = Tokenizer::load(&dir).expect("tokenizer");
    for entry in entries(&json("text.json"), "strings") {
        let string = text(&entry["text"]);
        let expected = ids(&entry["ids"]);
        assert_eq!(tokenizer.encode(string).expect("ids"), expected, "{string:?}");
        assert_eq!(tokenizer.decode(&expected, false).expect("text"), text(&entry["decoded"]));
        assert_eq!(tokenizer.decode(&expected, true).expect("text"), text(&entry["decoded_skipping_special"]));
    }
}

#[test]
fn conversations_become_the_same_text_and_tokens() {
    let Some(dir) = tokenizer() else { return };
    let (tokenizer, template) =
        (Tokenizer::load(&dir).expect("tokenizer"), ChatTemplate::load(&dir).expect("template"));
    for entry in entries(&json("text.json"), "chats") {
        let Some(thinking) = entry["enable_thinking"].as_bool() else { continue };
        let message = |turn: &Value| {
            let mut message = Message::new(text(&turn["role"]), text(&turn["content"]));
            let fields = turn
                .as_object()
                .expect("a turn")
                .iter()
                .filter(|(name, _)| !["role", "content"].contains(&name.as_str()));
            message.fields.extend(fields.map(|(name, value)| (name.clone(), value.clone())));
            message
        };
        let messages: Vec<Message> = entries(entry, "messages").iter().map(message).collect();
        let generation = entry["add_generation_prompt"].as_bool().expect("a flag");
        let found = template.render(&messages, generation, thinking).expect("text");
        assert_eq!(found, text(&entry["text"]), "{} (generation {generation}, thinking {thinking})", entry["name"]);
        assert_eq!(tokenizer.encode(&found).expect("ids"), ids(&entry["ids"]), "{}", entry["name"]);
    }
}
