//! The tokenizer of the model, and nothing of the crate that implements it: text to ids and back.
//!
//! No token is ever added to a text (a chat template says what belongs there), special tokens written in the text are
//! recognised, and normalisation is what tokenizer.json says (NFC for Qwen). Padding and truncation settings that some
//! tokenizer.json carry are switched off: they would silently cut long prompts.

use crate::{Error, Result, files::stand_in};
use serde_json::Value;
use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::Once,
};
use tokenizers::Tokenizer as Inner;

/// A loaded tokenizer.
pub struct Tokenizer {
    inner: Inner,
    path: PathBuf,
    vocab_size: usize,
    end_of_turn: Option<u32>,
    stops: Vec<u32>,
}

/// Runs `f`, catching a panic without a word on standard error: the caller has an error of its own for it. Other threads
/// are heard as ever.
pub(super) fn quietly<T>(f: impl FnOnce() -> T + std::panic::UnwindSafe) -> std::thread::Result<T> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    QUIET.set(true);
    let result = std::panic::catch_unwind(f);
    QUIET.set(false);
    result
}

/// More tokens than that a byte are no tokens of the text: byte-level tokens are one a byte, and NFKC makes at most 18
/// characters of one.
const MOST_TOKENS_A_BYTE: usize = 64;
/// What to do about a tokenizer that does not work.
const CHECK: &str = "compare its normalizer, pre_tokenizer, model and decoder with the original of the model";

/// That the parts of a tokenizer.json decide tokens by the text alone, and come to an end.
///
/// # Errors
/// A model with `dropout`, which splits words at random; a piece length of 0.
fn steady(path: &Path, bytes: &[u8]) -> Result<()> {
    // What is no JSON is said by the crate.
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return Ok(()) };
    if json["model"]["dropout"].as_f64().is_some_and(|rate| rate != 0.0) {
        let message = "it splits words at random, and the same text would have other tokens each time: set it to null";
        return Err(Error::content(path, "field `model.dropout`", message));
    }
    let mut parts = vec![&json["pre_tokenizer"]];
    while let Some(part) = parts.pop() {
        if part["type"] == "FixedLength" && part["length"].as_u64() == Some(0) {
            let message = "pieces of length 0 have no end: give a length from 1";
            return Err(Error::content(path, "field `pre_tokenizer`, FixedLength", message));
        }
        parts.extend(part["pretokenizers"].as_array().into_iter().flatten());
    }
    Ok(())
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).field("vocab_size", &self.vocab_size).finish()
    }
}

impl Tokenizer {
    /// Loads the tokenizer of a model directory, or a tokenizer.json with the configuration files beside it.
    ///
    /// # Errors
    /// Files that are missing, corrupt, or inconsistent; the error names the file.
    pub fn load(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        stand_in::check(&path)?;
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        // The crate is careful, but some inconsistent files (merges without their vocabulary) have made it panic.
        steady(&path, &bytes)?;
        let parsed = quietly(|| Inner::from_bytes(&bytes));
        let mut inner = match parsed {
            Ok(Ok(inner)) => inner,
            Ok(Err(e)) => return Err(Error::content(&path, "", format!("not a tokenizer: {e}"))),
            Err(_) => return Err(Error::content(&path, "", "not a consistent tokenizer")),
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::content(&path, "", e.to_string()))?;
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size =
            largest.map(|id| id as usize + 1).ok_or_else(|| Error::content(&path, "", "it has no token"))?;
        let mut tokenizer = Self { inner, path, vocab_size, end_of_turn: None, stops: Vec::new() };
        tokenizer.find_stops()?;
        Ok(tokenizer)
    }

    /// Reads which tokens end a turn from tokenizer_config.json, generation_config.json and config.json.
    fn find_stops(&mut self) -> Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("")).to_owned();
        let read = |name: &str| -> Result<Value> {
            let path = dir.join(name);
            let Some(text) = stand_in::read_optional(&path)? else { return Ok(Value::Null) };
            match serde_json::from_str(&text) {
                Ok(value @ Value::Object(_)) => Ok(value),
                Ok(_) => Err(Error::content(&path, "", "is not a JSON object: put the model's own file there")),
                Err(e) => Err(Error::content(&path, "", format!("not valid JSON: {e}"))),
            }
        };
        let config = read("tokenizer_config.json")?;
        let eos = config["eos_token"].as_str().or_else(|| config["eos_token"]["content"].as_str());
        if let Some(content) = eos {
            let unknown = || {
                let message = format!("`{content}` is not in {}", self.path.display());
                Error::content(dir.join("tokenizer_config.json"), "field `eos_token`", message)
            };
            self.stops.push(self.id(content).ok_or_else(unknown)?);
        }
        for name in ["generation_config.json", "config.json"] {
            let value = read(name)?["eos_token_id"].take();
            let ids = match &value {
                Value::Array(ids) => ids.as_slice(),
                Value::Null => &[],
                one => std::slice::from_ref(one),
            };
            for id in ids {
                let known =
                    id.as_u64().filter(|&id| self.inner.id_to_token(id as u32).is_some() && id <= u64::from(u32::MAX));
                let unknown = || Error::content(dir.join(name), "field `eos_token_id`", format!("{id} is not a token"));
                self.stops.push(known.ok_or_else(unknown)? as u32);
            }
        }
        self.stops.extend(self.stops.is_empty().then(|| self.id("<|im_end|>")).flatten());
        self.end_of_turn = self.stops.first().copied();
        let mut seen = std::collections::HashSet::new();
        self.stops.retain(|&id| seen.insert(id));
        Ok(())
    }

    /// The tokenizer.json this was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the largest id. A model may have more rows (Qwen pads its embedding).
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The ids of `text`. Nothing is added; special tokens in it are recognised.
    ///
    /// # Errors
    /// What the tokenizer refuses; a panic of it, or more tokens than a text of this length can have.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text, |inner| inner.encode_fast(text, false))?.get_ids().to_vec())
    }

    /// Runs the crate on a text. tokenizer.json is a stranger's program: it may panic, or blow a text up.
    fn encoding(
        &self,
        text: &str,
        encode: impl FnOnce(&Inner) -> tokenizers::Result<tokenizers::Encoding>,
    ) -> Result<tokenizers::Encoding> {
        let wrong = |message: String| Error::content(&self.path, "", format!("cannot tokenise with it: {message}"));
        let encoding = quietly(std::panic::AssertUnwindSafe(|| encode(&self.inner)))
            .map_err(|_| wrong(format!("it panics; {CHECK}")))?
            .map_err(|e| wrong(e.to_string()))?;
        let most = MOST_TOKENS_A_BYTE.saturating_mul(text.len()).saturating_add(1024);
        if encoding.len() > most {
            let (tokens, bytes) = (encoding.len(), text.len());
            return Err(wrong(format!("it makes {tokens} tokens of a text of {bytes} bytes; {CHECK}")));
        }
        Ok(encoding)
    }

    /// The text of `ids`, special tokens left out if `plain`. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// What the tokenizer refuses, or a panic of it.
    pub fn decode(&self, ids: &[u32], plain: bool) -> Result<String> {
        let wrong = |message: String| Error::content(&self.path, "", format!("cannot decode with it: {message}"));
        quietly(std::panic::AssertUnwindSafe(|| self.inner.decode(ids, plain)))
            .map_err(|_| wrong(format!("it panics; {CHECK}")))?
            .map_err(|e| wrong(e.to_string()))
    }

    /// The id of the token whose content is exactly `token`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The contents of the special tokens, in the order of their ids.
    pub fn special_tokens(&self) -> Vec<String> {
        let added = self.inner.get_added_tokens_decoder();
        let mut special: Vec<(u32, String)> =
            added.into_iter().filter(|(_, token)| token.special).map(|(id, token)| (id, token.content)).collect();
        special.sort_unstable();
        special.into_iter().map(|(_, content)| content).collect()
    }

    /// Where the tokens of `text` begin, in bytes of it.
    pub fn starts(&self, text: &str) -> Result<Vec<usize>> {
        let encoding = self.encoding(text, |inner| inner.encode(text, false))?;
        Ok(encoding.get_offsets().iter().map(|(start, _)| *start).collect())
    }

    /// What ends a turn when no chat template says otherwise: eos_token, else eos_token_id, else `<|im_end|>`.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.end_of_turn
    }

    /// Every id that ends generation according to the model's files; the first is [`Tokenizer::end_of_turn`].
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// A decoder for ids that come one by one.
    pub fn stream(&self) -> Stream<'_> {
        Stream { tokenizer: self, pending: Vec::new() }
    }
}

/// Decodes token by token. A character of several bytes may be cut between tokens: text comes out once it is whole.
#[derive(Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u32>,
}

impl Stream<'_> {
    /// Takes an id and returns the text that is certain now, often all of it, sometimes none. Special tokens are silent.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.pending.push(id);
        let text = self.tokenizer.decode(&self.pending, true)?;
        // Four tokens of a byte each complete any character: what is still broken then is not UTF-8.
        if text.ends_with('\u{fffd}') && self.pending.len() < 4 {
            return Ok(String::new());
        }
        self.pending.clear();
        Ok(text)
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.pending, true)?;
        self.pending.clear();
        Ok(text)
    }
}

/// A small byte-level tokenizer with Qwen's special tokens, for tests that have no real one: a token for each byte.
#[cfg(test)]
pub(crate) fn byte_tokenizer(dir: &Path) -> Tokenizer {
    byte_tokenizer_with(dir, &[])
}

/// [`byte_tokenizer`] with `more` special tokens.
#[cfg(test)]
pub(crate) fn byte_tokenizer_with(dir: &Path, more: &[&str]) -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    for (id, c) in tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .enumerate()
    {
        vocab.insert(c.to_string(), id.into());
    }
    let special = |(i, content): (usize, &&str)| {
        serde_json::json!({"id": 256 + i, "content": content, "special": !(3..5).contains(&i), "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    let own = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"];
    let tokens: Vec<&str> = own.iter().chain(more.iter().filter(|token| !own.contains(token))).copied().collect();
    let level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let json = serde_json::json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": tokens.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": {"type": "NFC"}, "pre_tokenizer": level, "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    });
    std::fs::write(dir.join("tokenizer.json"), json.to_string()).expect("a writable directory");
    Tokenizer::load(dir).expect("a right tokenizer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shared::shared;

    #[test]
    fn bytes_specials_and_settings() {
        let dir = tempfile::tempdir().unwrap();
        let t = byte_tokenizer(dir.path());
        let ids = t.encode("か\u{3099}ab<|im_end|>").unwrap();
        assert_eq!(ids.len(), 3 + 2 + 1, "NFC made one character; the truncation to 3 is off");
        assert_eq!(ids[5], 258);
        assert_eq!(t.decode(&ids, true).unwrap(), "がab");
        assert_eq!(t.decode(&ids, false).unwrap(), "がab<|im_end|>");
        assert_eq!((t.vocab_size(), t.end_of_turn(), t.stops()), (261, Some(258), &[258][..]));
        let mut stream = t.stream();
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["", "", "が", "a", "b", ""]);
        assert_eq!(stream.push(ids[0]).unwrap() + &stream.finish().unwrap(), "\u{fffd}");
    }

    #[test]
    fn what_ends_a_turn() {
        let dir = tempfile::tempdir().unwrap();
        drop(byte_tokenizer(dir.path()));
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("generation_config.json", r#"{"eos_token_id": [258, 256]}"#);
        assert_eq!(Tokenizer::load(dir.path()).unwrap().stops(), [258, 256]);
        write("tokenizer_config.json", r#"{"eos_token": {"content": "<|endoftext|>"}}"#);
        assert_eq!(Tokenizer::load(dir.path()).unwrap().stops(), [256, 258]);
        write("generation_config.json", r#"{"eos_token_id": 99999}"#);
        let message = Tokenizer::load(dir.path()).unwrap_err().to_string();
        assert!(message.ends_with("generation_config.json: field `eos_token_id`: 99999 is not a token"), "{message}");
        write("tokenizer_config.json", r#"{"eos_token": "<end>"}"#);
        assert!(Tokenizer::load(dir.path()).unwrap_err().to_string().contains("field `eos_token`: `<end>` is not in"));
    }

    #[test]
    fn corrupt_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        drop(byte_tokenizer(dir.path()));
        let path = dir.path().join("tokenizer.json");
        let whole = std::fs::read_to_string(&path).unwrap();
        let merges = whole.replace("\"merges\":[]", "\"merges\":[[\"zz\",\"y\"]]");
        let nested = "[".repeat(200_000);
        for bad in ["", "{}", "[1]", &whole[..whole.len() / 2], &merges, &nested, &whole.replace("\"BPE\"", "\"XYZ\"")]
        {
            std::fs::write(&path, bad).unwrap();
            let message = Tokenizer::load(&path).unwrap_err().to_string();
            let says = if bad.is_empty() { "tokenizer.json: is empty" } else { "tokenizer.json: not a" };
            assert!(message.contains(says), "{message}");
        }
        assert!(Tokenizer::load(&dir.path().join("no")).unwrap_err().to_string().starts_with("cannot read"));
    }

    /// A tokenizer.json is a stranger's program: nothing that it says may panic, hang, or depend on chance.
    #[test]
    fn strange_tokenizers_are_errors_that_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        drop(byte_tokenizer(dir.path()));
        let path = dir.path().join("tokenizer.json");
        let whole: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let with = |at: &str, value: Value| {
            let mut json = whole.clone();
            *json.pointer_mut(at).unwrap() = value;
            std::fs::write(&path, json.to_string()).unwrap();
            Tokenizer::load(dir.path())
        };
        let mut model = whole["model"].clone();
        model["dropout"] = 0.5.into();
        let message = with("/model", model.clone()).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: field `model.dropout`"), "{message}");
        model["dropout"] = 0.0.into();
        assert_eq!(with("/model", model).unwrap().encode("ab").unwrap().len(), 2);
        let zero = serde_json::json!({"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 0}]});
        let message = with("/pre_tokenizer", zero).unwrap_err().to_string();
        assert!(message.contains("FixedLength: pieces of length 0"), "{message}");
        let large = serde_json::json!({"type": "Prepend", "prepend": "x".repeat(9999)});
        let message = with("/normalizer", large).unwrap().encode("ab").unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: cannot tokenise with it: it makes "), "{message}");
        let strip = serde_json::json!({"type": "Strip", "content": "a", "start": 1_000_000, "stop": 1_000_000});
        if let Ok(tokenizer) = with("/decoder", strip)
            && let Err(error) = tokenizer.decode(&[1, 2], false)
        {
            assert!(error.to_string().contains("tokenizer.json: cannot decode with it"), "{error}");
        }
    }

    #[test]
    fn configurations_that_are_no_objects_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        drop(byte_tokenizer(dir.path()));
        for name in ["tokenizer_config.json", "generation_config.json", "config.json"] {
            for bad in ["[1]", "3", "null", "\"text\"", "true"] {
                std::fs::write(dir.path().join(name), bad).unwrap();
                let message = Tokenizer::load(dir.path()).unwrap_err().to_string();
                assert!(message.contains(&format!("{name}: is not a JSON object")), "{message}");
            }
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
    }

    #[test]
    fn the_real_tokenizer() {
        let Some(dir) = shared("qwen3_tokenizer") else { return };
        let t = Tokenizer::load(&dir).unwrap();
        assert_eq!(
            (t.id("<|im_end|>"), t.end_of_turn(), t.id("<think>")),
            (Some(151_645), Some(151_645), Some(151_667))
        );
        assert_eq!(t.vocab_size(), 151_669);
        let text = "第3条　𠮷野家の社債券は、2,000円とする。<|im_end|>\n";
        let ids = t.encode(text).unwrap();
        assert_eq!(t.decode(&ids, false).unwrap(), text);
        let mut stream = t.stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        streamed += &stream.finish().unwrap();
        assert_eq!(streamed, text.replace("<|im_end|>", ""));
    }
}
