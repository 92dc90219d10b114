//! Which chat template and which special tokens a model has, by the rules of transformers.
//!
//! Files go before tokenizer_config.json: `chat_template.jinja` is the template named `default`, and each
//! `additional_chat_templates/NAME.jinja` one named NAME. Without any, `chat_template` in tokenizer_config.json is a text or a
//! list of named ones, and last `chat_template` in chat_template.json, where processors had it.

use crate::{Error, Result, files::stand_in};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The special tokens that every tokenizer of transformers has a name for.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Where a template comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    pub path: PathBuf,
    /// Which one of the file: ` "tool_use"`, or empty.
    pub within: String,
}

/// The text of a template.
#[derive(Debug)]
pub struct Found {
    pub origin: Origin,
    pub text: String,
}

/// What a model has.
#[derive(Debug, Default)]
pub struct Model {
    /// `None` if there is no template at all.
    pub default: Option<Found>,
    pub tool_use: Option<Found>,
    /// By their names.
    pub tokens: Vec<(String, String)>,
}

/// Looks in the directory of a model or a tokenizer.
///
/// # Errors
/// Files that cannot be read or are not what they should be; named templates of which none is `default`.
pub fn find(dir: &Path) -> Result<Model> {
    let config_path = dir.join("tokenizer_config.json");
    let config = json(&config_path)?;
    let mut named = in_files(dir)?;
    if named.is_empty() {
        named = in_config(&config_path, &config)?;
    }
    if named.is_empty() {
        let path = dir.join("chat_template.json");
        named = in_config(&path, &json(&path)?)?;
    }
    let names: Vec<String> = named.iter().map(|(name, _)| format!("`{name}`")).collect();
    if let Some((_, found)) = named.first()
        && !names.iter().any(|name| name == "`default`")
    {
        let message =
            format!("there is no template named `default`, and irori takes no other; it has {}", names.join(", "));
        return Err(Error::content(&found.origin.path, "chat template", message));
    }
    let mut model = Model { tokens: tokens(dir, &config_path, config)?, ..Model::default() };
    for (name, found) in named {
        match name.as_str() {
            "default" => model.default = Some(found),
            "tool_use" => model.tool_use = Some(found),
            _ => {}
        }
    }
    Ok(model)
}

fn json(path: &Path) -> Result<Value> {
    match stand_in::read_optional(path)? {
        Some(text) => serde_json::from_str(&text).map_err(|e| Error::content(path, "", format!("not valid JSON: {e}"))),
        None => Ok(Value::Null),
    }
}

/// Folder of a model directory with named templates, `NAME.jinja` each.
pub const MORE_TEMPLATES: &str = "additional_chat_templates";

/// The templates that are files of their own.
fn in_files(dir: &Path) -> Result<Vec<(String, Found)>> {
    let mut out = Vec::new();
    let path = dir.join("chat_template.jinja");
    if let Some(text) = stand_in::read_optional(&path)? {
        out.push(("default".to_owned(), Found { origin: Origin { path, within: String::new() }, text }));
    }
    let folder = dir.join(MORE_TEMPLATES);
    if !folder.is_dir() {
        return Ok(out);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
        files.push(entry.map_err(Error::io("read", &folder))?.path());
    }
    files.sort();
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jinja")).map(str::to_owned);
        if let Some(name) = name
            && let Some(text) = stand_in::read_optional(&path)?
        {
            // A file named default.jinja there goes before the one beside the tokenizer.
            out.retain(|(other, _)| *other != name);
            out.push((name, Found { origin: Origin { path, within: String::new() }, text }));
        }
    }
    Ok(out)
}

/// The templates in the field `chat_template`.
fn in_config(path: &Path, config: &Value) -> Result<Vec<(String, Found)>> {
    let wrong = |at: String, message: &str| Err(Error::content(path, format!("field `{at}`"), message));
    let origin = |within: String| Origin { path: path.to_owned(), within };
    let mut out: Vec<(String, Found)> = Vec::new();
    match &config["chat_template"] {
        Value::Null => {}
        Value::String(text) => {
            out.push(("default".to_owned(), Found { origin: origin(String::new()), text: text.clone() }));
        }
        Value::Array(list) => {
            for (i, entry) in list.iter().enumerate() {
                let at = format!("chat_template[{i}]");
                let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) else {
                    return wrong(at, "expected an object with the texts `name` and `template`");
                };
                if out.iter().any(|(other, _)| other == name) {
                    return wrong(at, &format!("a second template of the name `{name}`"));
                }
                out.push((name.to_owned(), Found { origin: origin(format!(" `{name}`")), text: text.to_owned() }));
            }
        }
        _ => {
            return wrong("chat_template".into(), "expected a text, or a list with a template named `default`");
        }
    }
    Ok(out)
}

/// The special tokens as transformers gives them to templates: those that are set. special_tokens_map.json counts where
/// tokenizer_config.json does not list its added tokens.
fn tokens(dir: &Path, config_path: &Path, config: Value) -> Result<Vec<(String, String)>> {
    let Value::Object(mut fields) = config else { return Ok(Vec::new()) };
    let text = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
    let mut out = Vec::new();
    if !fields.contains_key("added_tokens_decoder") {
        let path = dir.join("special_tokens_map.json");
        if let Value::Object(map) = json(&path)? {
            fields.extend(map);
        }
    }
    for (name, value) in &fields {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            (name, value) if TOKENS.contains(&name) => {
                let token = text(value).ok_or_else(|| {
                    Error::content(config_path, format!("field `{name}`"), "expected a token, as a text or an object")
                })?;
                out.push((name.to_owned(), token));
            }
            // Tokens that only this model has, such as `image_token`.
            (name, Value::String(token)) if name.ends_with("_token") => out.push((name.to_owned(), token.clone())),
            ("extra_special_tokens", Value::Object(map)) => {
                out.extend(map.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))));
            }
            _ => {}
        }
    }
    Ok(out)
}
