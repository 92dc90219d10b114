//! `irori generate`: continues prompts, greedily.

use super::{flags::ModelArgs, print};
use crate::{
    Error, Result,
    data::{chat::Message, encode::TextStyle},
    run::inference::Generation,
};
use serde_json::json;
use std::{io::Read, path::PathBuf, time::Instant};

/// Arguments of `irori generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt [default: standard input]
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Continue the text as it is, without the chat template
    #[arg(long, conflicts_with = "text_style")]
    raw: bool,
    /// How the prompt becomes text: the model's chat template, or `<USER>…<ASSISTANT>…`
    /// [default: as the adapter was trained, else chat]
    #[arg(long, alias = "style", value_name = "STYLE", value_enum)]
    text_style: Option<TextStyle>,
    /// Most tokens to write
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32_768))]
    max_new_tokens: u32,
    /// Print text, tokens and time as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let asked = args.model.decide(args.text_style)?;
    let prompt = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(Error::io("read", path))?,
        (None, None) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(Error::io("read", "standard input"))?;
            text
        }
    };
    if prompt.trim().is_empty() {
        return Err(Error::usage("the prompt is empty: give --prompt, --prompt-file or standard input"));
    }
    let max_new = args.max_new_tokens as usize;
    let generation = Generation { sequences: 1, new_tokens: max_new };
    let mut session = args.model.open(&asked, Some(generation))?;
    let encoder = session.encoder()?.clone();
    let max_len = session.engine.spec().max_len;
    let tokens =
        if args.raw { encoder.tokenizer.encode(&prompt)? } else { encoder.prompt(&[Message::new("user", prompt)])? };
    if tokens.is_empty() || tokens.len() > max_len {
        return Err(Error::failed(format!(
            "the prompt is {} tokens long, and room was made for 1 to {max_len}: raise --max-seq-length",
            tokens.len()
        )));
    }
    let stop = encoder.stops();
    let start = Instant::now();
    let mut stream = encoder.tokenizer.stream();
    let mut shown = Ok(());
    let written = session.engine.generate(std::slice::from_ref(&tokens), max_new, &stop, &mut |_, text, _| {
        if let Some(&token) = text.last()
            && !args.json
            && shown.is_ok()
            && !stop.contains(&token)
        {
            shown = stream.push(token).and_then(|piece| print(&piece));
        }
    })?;
    shown?;
    let seconds = start.elapsed().as_secs_f64();
    let written = written.into_iter().next().unwrap_or_default();
    let stopped = written.last().is_some_and(|t| stop.contains(t));
    let text = encoder.tokenizer.decode(&written[..written.len() - usize::from(stopped)], true)?;
    if args.json {
        let out = json!({
            "text": text, "tokens": written, "prompt_tokens": tokens.len(), "new_tokens": written.len(),
            "stopped": stopped, "elapsed_seconds": seconds,
        });
        return print(&format!("{out}\n"));
    }
    print(&format!("{}\n", stream.finish()?))
}
