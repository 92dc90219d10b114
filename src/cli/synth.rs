//! `irori synth`: a random-weight Qwen3 as a complete Hugging Face directory, for trying things out.
//!
//! The weights are those of `--model synthetic:SIZE@SEED`. Without a tokenizer of the user's, one of irori's own is
//! written: the 256 bytes, kana as single tokens, and the three markers of the chat format.

use super::common::{note, parse_bytes};
use crate::{
    Error, Result,
    data::tokenizer::Tokenizer,
    files::RealDisk,
    model::{
        ModelConfig,
        catalogue::{ModelTensor, tensors},
        config::PRESETS,
        convert,
        sink::{HfOptions, HfSink, WeightSink, copy_file, copy_more_templates, json_file},
        source::{Synthetic, cache},
    },
    plan::host,
    tensor::DType,
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `irori synth`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size: tiny, qwen3-0.6b, 1.7b, 4b, 8b, 14b, 32b, or a config.json
    #[arg(long, value_name = "SIZE|CONFIG.json")]
    arch: String,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tokenizer to use instead of a small one of irori's own: tokenizer.json or the directory that holds it
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: Option<PathBuf>,
    /// Element type of the weights
    #[arg(long, default_value = "bf16", value_parser = ["bf16", "f32"])]
    dtype: String,
    /// Most bytes in one weight file
    #[arg(long, default_value = "5GB", value_parser = parse_bytes)]
    shard_size: u64,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let mut config = architecture(&args.arch)?;
    let dtype = if args.dtype == "f32" { DType::F32 } else { DType::Bf16 };
    let tokenizer = args.tokenizer.as_deref().map(|t| tokenizer_dir(&cache::locate("tokenizer", t)?)).transpose()?;
    let (rows, ids) = match &tokenizer {
        Some((file, _)) => {
            let tokenizer = Tokenizer::load(file.parent().unwrap_or(Path::new(".")))?;
            (tokenizer.vocab_size(), END_TOKENS.map(|t| tokenizer.id(t)))
        }
        None => {
            let first = kana_tokenizer().1 as u32;
            (first as usize + SPECIAL.len(), [Some(first + 2), Some(first)])
        }
    };
    config.vocab = config.vocab.max(rows);
    let all = tensors(&config);
    fits(&args.arch, &all)?;
    let options = HfOptions { shard_bytes: args.shard_size, ..HfOptions::new(all.len()) };
    let mut sink: Box<dyn WeightSink> = Box::new(HfSink::create(&RealDisk, &args.output, options)?);
    match &tokenizer {
        Some((file, None)) => {
            copy_file(sink.as_mut(), "tokenizer.json", file)?;
            json_file(sink.as_mut(), "tokenizer_config.json", &tokenizer_config())?;
        }
        Some((_, Some(dir))) => copy_tokenizer(sink.as_mut(), dir)?,
        None => {
            json_file(sink.as_mut(), "tokenizer.json", &kana_tokenizer().0)?;
            json_file(sink.as_mut(), "tokenizer_config.json", &tokenizer_config())?;
        }
    }
    let [end_of_turn, end_of_text] = ids;
    let ends: Vec<u32> = ids.into_iter().flatten().collect();
    let mut json = config.to_json(dtype.torch());
    if !ends.is_empty() {
        json["eos_token_id"] = json!(end_of_turn.or(end_of_text));
        json["pad_token_id"] = json!(end_of_text.or(end_of_turn));
        let pad = &json["pad_token_id"];
        let generation = json!({"do_sample": false, "eos_token_id": ends, "pad_token_id": pad});
        json_file(sink.as_mut(), "generation_config.json", &generation)?;
    }
    json_file(sink.as_mut(), "config.json", &json)?;
    let source = Synthetic::new(args.arch.as_str(), config.clone(), args.seed);
    convert::copy(&source, dtype, sink.as_mut())?;
    sink.commit()?;
    note(&format!("{}: {} parameters, seed {}", args.output.display(), config.parameters(), args.seed));
    Ok(())
}

/// Refuses a tensor that cannot be made in memory: tensors are written one by one, each as bf16 or f32.
fn fits(arch: &str, tensors: &[ModelTensor]) -> Result<()> {
    // Both forms at once, and the encoded bytes of the wide one.
    const BYTES: usize = 2 + 4 + 4;
    let size = |t: &ModelTensor| t.elements().saturating_mul(BYTES) as u64;
    let (Some(largest), Some(free)) = (tensors.iter().max_by_key(|t| size(t)), host::available()) else {
        return Ok(());
    };
    if size(largest) <= free.bytes {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--arch {arch}: the tensor {} {:?} takes {} bytes to make, and {} bytes of memory are left by {}",
        largest.name,
        largest.shape,
        size(largest),
        free.bytes,
        free.by
    )))
}

fn architecture(text: &str) -> Result<ModelConfig> {
    if let Some(config) = ModelConfig::preset(text) {
        return Ok(config);
    }
    let path = Path::new(text);
    if path.is_file() {
        let file = ModelConfig::read(path)?;
        file.remarks.iter().for_each(|remark| note(remark));
        return Ok(file.model);
    }
    Err(Error::usage(format!("--arch {text} is neither a file nor a known size; known are {}", PRESETS.join(", "))))
}

/// The tokenizer.json that `path` means, and the directory that holds it if the user gave one.
fn tokenizer_dir(path: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let (file, dir) = if path.is_dir() {
        (path.join("tokenizer.json"), Some(path.to_path_buf()))
    } else {
        (path.to_path_buf(), None)
    };
    if !file.is_file() {
        return Err(Error::usage(format!("--tokenizer: there is no {}", file.display())));
    }
    if file.file_name().is_none_or(|n| n != "tokenizer.json") {
        return Err(Error::usage(format!("--tokenizer {} is not called tokenizer.json", file.display())));
    }
    Ok((file, dir))
}

fn copy_tokenizer(sink: &mut dyn WeightSink, dir: &Path) -> Result<()> {
    const FILES: [&str; 8] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
    ];
    for name in FILES {
        let path = dir.join(name);
        if path.is_file() {
            copy_file(sink, name, &path)?;
        }
    }
    copy_more_templates(sink, dir)
}

/// The markers of the chat format, in the order of their ids.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// What ends an answer, and what ends a text.
const END_TOKENS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// The chat format: what the prompt shows with thinking off is what the whole conversation shows.
const TEMPLATE: &str = include_str!("synth_chat.jinja");

fn tokenizer_config() -> Value {
    json!({
        "add_prefix_space": false,
        "chat_template": TEMPLATE.trim_end(),
        "clean_up_tokenization_spaces": false,
        "eos_token": "<|im_end|>",
        "model_max_length": 131_072,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": null,
    })
}

/// The printable character that stands for a byte in byte-level vocabularies: itself where it is visible, else one of
/// U+0100 and up in order.
fn byte_char(byte: u8) -> char {
    let visible = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !visible(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or('\u{fffd}')
}

/// tokenizer.json and the id of its first special token: every byte, then kana and Japanese punctuation, which byte pairs
/// build in two merges each.
fn kana_tokenizer() -> (Value, usize) {
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        vocab.insert(byte_char(byte).to_string(), json!(vocab.len()));
    }
    let kana = ('ぁ'..='ゖ').chain('ァ'..='ー').chain(['\u{3000}', '、', '。', '「', '」']);
    let mut merges = Vec::new();
    let mut whole = Vec::new();
    for c in kana {
        let mut utf8 = [0; 4];
        let parts: Vec<String> = c.encode_utf8(&mut utf8).bytes().map(|b| byte_char(b).to_string()).collect();
        let [a, b, c] = parts.as_slice() else { continue };
        let pair = format!("{a}{b}");
        if !vocab.contains_key(&pair) {
            merges.push(json!([a, b]));
            vocab.insert(pair.clone(), json!(vocab.len()));
        }
        whole.push((pair, c.clone()));
    }
    for (pair, c) in whole {
        vocab.insert(format!("{pair}{c}"), json!(vocab.len()));
        merges.push(json!([pair, c]));
    }
    let first = vocab.len();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({"id": first + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level.clone(),
        "post_processor": byte_level.clone(),
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    });
    (tokenizer, first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::source::open;

    fn args(output: PathBuf, dtype: &str, shard_size: u64) -> Args {
        Args { arch: "tiny".into(), output, seed: 7, tokenizer: None, dtype: dtype.into(), shard_size }
    }

    #[test]
    fn a_directory_holds_the_weights_of_the_synthetic_model() {
        let root = tempfile::tempdir().expect("a directory");
        let made = open("synthetic:tiny@7").expect("opens").source;
        for (name, dtype, shard) in [("a", "bf16", 1 << 30), ("b", "f32", 1 << 30), ("c", "bf16", 100_000)] {
            let dir = root.path().join(name);
            run(args(dir.clone(), dtype, shard)).expect("made");
            let opened = open(dir.to_str().expect("a path")).expect("opens").source;
            assert_eq!(opened.config(), made.config());
            for t in tensors(made.config()) {
                let (a, b) = (made.tensor(&t.name, &t.shape), opened.tensor(&t.name, &t.shape));
                let values = |t: crate::Result<crate::tensor::Tensor>| t.and_then(|t| t.to_f32()).expect("read");
                assert_eq!(values(a), values(b), "{} as {dtype}", t.name);
            }
            let again = run(args(dir, dtype, shard)).expect_err("not overwritten");
            assert!(again.exit_code() == 2 && again.to_string().contains("not empty"), "{again}");
        }
    }

    #[test]
    fn the_chat_template_shows_in_the_whole_what_it_shows_in_the_prompt() {
        use crate::data::chat::{ChatTemplate, Message};
        let chat = ChatTemplate::parse(Path::new("synth_chat.jinja"), TEMPLATE.trim_end().to_owned()).expect("parses");
        let talk = [
            Message::new("user", "q"),
            Message::new("assistant", "<think>\nx\n</think>\n\na"),
            Message::new("user", "r"),
        ];
        let head = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nr<|im_end|>\n";
        for (answer, thinking, prompt, rest) in [
            ("b", false, "<think>\n\n</think>\n\n", "b"),
            ("<think>\ny\n</think>\n\nb", true, "", "<think>\ny\n</think>\n\nb"),
        ] {
            let whole = [&talk[..], &[Message::new("assistant", answer)]].concat();
            let prompt = format!("{head}<|im_start|>assistant\n{prompt}");
            assert_eq!(chat.render(&talk, true, thinking).expect("renders"), prompt);
            let expected = format!("{prompt}{rest}<|im_end|>\n");
            assert_eq!(chat.render(&whole, false, thinking).expect("renders"), expected);
        }
    }

    #[test]
    fn the_tokenizer_is_complete() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("m");
        run(args(out.clone(), "bf16", 1 << 30)).expect("made");
        let tokenizer = Tokenizer::load(&out).expect("loads");
        assert!(tokenizer.vocab_size() <= 512);
        for text in ["ひらがなとカタカナ、「かな」。", "漢字 and ASCII\n\t", "絵文字 🔥", "é"] {
            let ids = tokenizer.encode(text).expect("encoded");
            assert_eq!(tokenizer.decode(&ids, false).expect("decoded"), text);
        }
        assert_eq!(tokenizer.encode("ひらがな").expect("encoded").len(), 4);
        assert_eq!(tokenizer.encode("<|im_end|>").expect("encoded").len(), 1);
    }
}
