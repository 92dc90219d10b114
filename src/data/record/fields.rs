//! Which fields a record and a turn may have. A field with a meaning is used or refused by its name; only those listed here
//! as harmless are passed over.

use crate::settings::nearest;
use serde_json::{Map, Value};

/// What is wrong with a line: (field or nothing, message).
pub(super) type Wrong = (String, String);

/// Fields of a record that say where it comes from and nothing that is to be learned.
const HARMLESS: [&str; 40] = [
    "__index_level_0__",
    "_id",
    "author",
    "categories",
    "category",
    "comment",
    "conversation_id",
    "created_at",
    "creator",
    "dataset",
    "date",
    "difficulty",
    "domain",
    "guid",
    "hash",
    "id",
    "idx",
    "index",
    "lang",
    "language",
    "license",
    "line",
    "meta",
    "metadata",
    "model",
    "note",
    "notes",
    "origin",
    "prompt_id",
    "question_id",
    "record_id",
    "sample_id",
    "source",
    "split",
    "subset",
    "tag",
    "tags",
    "timestamp",
    "topic",
    "url",
];

/// The same for the turn of a conversation.
const HARMLESS_IN_TURN: [&str; 12] = [
    "comment",
    "created_at",
    "id",
    "index",
    "meta",
    "metadata",
    "message_id",
    "model",
    "source",
    "tags",
    "timestamp",
    "url",
];

/// The same for records of token ids: what tokenizers and collators put beside them.
const HARMLESS_WITH_TOKENS: [&str; 8] = [
    "length",
    "max_length_k",
    "max_length_q",
    "num_tokens",
    "offset_mapping",
    "special_tokens_mask",
    "text",
    "word_ids",
];

/// Fields of other programs, and what to do about each.
const ELSEWHERE: [(&[&str], &str); 16] = [
    (&["instruction", "system_prompt"], "it would be lost: put it into the text of the question or `system`"),
    (&["context", "question", "query", "passage", "document"], "it would be lost: put it into `input`"),
    (&["response", "answer", "answers", "target", "reasoning", "thought"], "it would be lost: put it into `output`"),
    (
        &["chosen", "rejected", "preferred_output", "non_preferred_output", "kto_tag"],
        "irori does not learn from preferences: give the answer to learn as `output`",
    ),
    (&["text"], "a record has a prompt and an answer: `input` and `output`, or token ids"),
    (
        &["image", "images", "image_url", "video", "videos", "video_url", "audio", "audios", "input_audio", "file"],
        "irori reads text only",
    ),
    (&["parallel_tool_calls", "tool_choice"], "irori has no such setting, and no template shows it: take it out"),
    (&["documents"], "irori gives the template no documents: put them into a message"),
    (
        &["chat_template", "chat_template_kwargs", "enable_thinking", "add_generation_prompt"],
        "the chat template is the model's, and the same for every record",
    ),
    (&["weight", "sample_weight", "weights"], "records have no weights; a turn of `messages` may have the `weight` 0"),
    (
        &["loss_weight", "train_on_turn", "train_detail", "training_detail", "reasoning_training_detail", "loss"],
        "a turn is learned or not: write it as `weight`, 0 or 1",
    ),
    (
        &["cu_seqlens", "seq_idx", "sequence_ids"],
        "several samples in one record: say so by `position_ids` or `seq_lengths`, or give each a record of its own",
    ),
    (
        &["label", "score", "reward", "rating"],
        "irori does not learn from it: put it into `meta` if it is only to be kept",
    ),
    (&["refusal", "audio", "annotations"], "it would be lost: put what is to be learned into `content`"),
    (&["segments"], "write text that is taken as it is as token ids with labels"),
    (&["prefix", "partial", "continue_final_message"], "irori learns a turn from its beginning"),
];

/// Of which object the fields are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// A record of text.
    Record,
    /// A record of token ids.
    Tokens,
    /// A turn, or what is in one.
    Turn,
}

/// Refuses a field that is neither one of `known`, nor harmless, nor unset. `place` is what messages put before the field's
/// name: nothing, or `messages[1].`.
pub(super) fn check(map: &Map<String, Value>, known: &[&str], of: Of, place: &str) -> Result<(), Wrong> {
    let harmless = |key: &str| match of {
        Of::Record => HARMLESS.contains(&key),
        Of::Tokens => HARMLESS.contains(&key) || HARMLESS_WITH_TOKENS.contains(&key),
        Of::Turn => HARMLESS_IN_TURN.contains(&key),
    };
    let wrong = |(key, value): (&String, &Value)| !known.contains(&key.as_str()) && !harmless(key) && !is_unset(value);
    match map.iter().find(|(key, value)| wrong((key, value))) {
        None => Ok(()),
        Some((key, _)) => Err((format!("{place}{key}"), unknown(key, known, of))),
    }
}

fn unknown(key: &str, known: &[&str], of: Of) -> String {
    if let Some(advice) = elsewhere(key) {
        return advice.into();
    }
    match nearest(key, known.iter().copied()) {
        Some(name) => format!("there is no such field; is `{name}` meant?"),
        None if of == Of::Turn => "there is no such field, and dropping it could change what is learned".into(),
        None => "there is no such field: put it into `meta` if it is only to be kept".into(),
    }
}

/// What to do about a field of another program.
pub(super) fn elsewhere(key: &str) -> Option<&'static str> {
    ELSEWHERE.iter().find(|(keys, _)| keys.contains(&key)).map(|(_, advice)| *advice)
}

/// Whether a field says nothing: tables that other programs write have every column in every row.
pub(super) fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
