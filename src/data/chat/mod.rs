//! The model's own conversation format: its Jinja chat template, rendered as transformers renders it.
//!
//! Where the template comes from is the matter of `source`, what the language is that of `data::jinja`. A model without a template
//! gets ChatML, the format that Qwen's own template produces. Thinking is off unless asked for.
//!
//! A template is given what `apply_chat_template` of transformers gives it: `messages` without the fields that are null and
//! with a thought under each of the names that templates know, `tools` and `documents` (none if there are none),
//! `add_generation_prompt`, `enable_thinking`, and the special tokens of tokenizer_config.json by their names.

mod source;
#[cfg(test)]
mod tests;

use super::jinja::{Fault, Template, Value, Variables};
use crate::{Error, Result};
use serde::Serialize;
pub use source::MORE_TEMPLATES;
use source::{Found, Origin};
use std::path::{Path, PathBuf};

/// What a model without a template gets: ChatML without an empty thought.
const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The fields of a turn in which templates look for the model's thought.
pub const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said.
    pub content: String,
    /// What else the template is given, such as `reasoning_content` and `tool_calls`.
    #[serde(flatten)]
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// Whether the turn may be learned, if it is the model's.
    #[serde(skip)]
    pub learned: bool,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: serde_json::Map::new(), learned: true }
    }

    /// Whether the turn has a thought in a field of its own.
    pub fn thinks(&self) -> bool {
        THOUGHTS.iter().any(|field| self.fields.contains_key(*field))
    }

    /// The turn as templates see it.
    fn for_template(&self) -> Value {
        let mut map = serde_json::Map::new();
        map.insert("role".into(), self.role.as_str().into());
        map.insert("content".into(), self.content.as_str().into());
        map.extend(self.fields.clone());
        for_template(map)
    }
}

/// A turn as transformers gives it to templates: a field that is null is not there, and a thought stands under
/// `reasoning_content` and `thinking`, whichever name it came under.
fn for_template(mut turn: serde_json::Map<String, serde_json::Value>) -> Value {
    turn.retain(|_, value| !value.is_null());
    let Some(thought) = THOUGHTS.iter().find_map(|name| turn.get(*name)).cloned() else {
        return Value::from_json(&turn.into());
    };
    let mut map = serde_json::Map::new();
    map.insert("thinking".into(), thought.clone());
    map.extend(turn);
    map.insert("reasoning_content".into(), thought);
    Value::from_json(&map.into())
}

/// A parsed template and where it comes from.
#[derive(Debug)]
struct Parsed {
    origin: Origin,
    text: String,
    template: Template,
}

impl Parsed {
    fn new(found: Found) -> Result<Self> {
        let template = Template::parse(&found.text).map_err(|fault| chat_error(&found.origin, &fault))?;
        Ok(Self { origin: found.origin, text: found.text, template })
    }
}

/// The chat template of a model, parsed.
#[derive(Debug)]
pub struct ChatTemplate {
    default: Parsed,
    /// What a conversation with tools is given, if the model has a template of its own for that.
    tool_use: Option<Parsed>,
    /// The special tokens by the names that templates have for them.
    tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// The template of the model or tokenizer in `dir`, or ChatML if it has none.
    ///
    /// # Errors
    /// A file that is there but cannot be read or parsed; named templates without a default.
    pub fn load(dir: &Path) -> Result<Self> {
        let found = source::find(dir)?;
        let default = match found.default {
            Some(default) => Parsed::new(default)?,
            None => Parsed::new(chatml())?,
        };
        let tool_use = found.tool_use.map(Parsed::new).transpose()?;
        Ok(Self { default, tool_use, tokens: found.tokens })
    }

    /// ChatML.
    pub fn chatml() -> Result<Self> {
        let default = Parsed::new(chatml())?;
        Ok(Self { default, tool_use: None, tokens: Vec::new() })
    }

    /// Parses a template; `path` is for messages.
    pub fn parse(path: &Path, source: String) -> Result<Self> {
        let origin = Origin { path: path.to_owned(), within: String::new() };
        Ok(Self { default: Parsed::new(Found { origin, text: source })?, tool_use: None, tokens: Vec::new() })
    }

    /// The text of a conversation. With `generation_prompt` it ends where the model is to begin its turn; `thinking`
    /// says whether that turn may begin with a thought.
    ///
    /// # Errors
    /// The template refuses the conversation (`raise_exception`) or does not fit it.
    pub fn render(&self, messages: &[Message], generation_prompt: bool, thinking: bool) -> Result<String> {
        self.render_with(messages, &[], generation_prompt, thinking)
    }

    /// [`ChatTemplate::render`] with `tools` that the model may call. As in transformers it is the template named `tool_use`
    /// that is given them, if the model has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_with(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        generation_prompt: bool,
        thinking: bool,
    ) -> Result<String> {
        let parsed = self.tool_use.as_ref().filter(|_| !tools.is_empty()).unwrap_or(&self.default);
        let tools =
            if tools.is_empty() { Value::None } else { Value::list(tools.iter().map(Value::from_json).collect()) };
        let mut variables: Variables =
            self.tokens.iter().map(|(name, token)| (name.as_str().into(), Value::str(token.as_str()))).collect();
        variables.extend([
            ("messages".into(), Value::list(messages.iter().map(Message::for_template).collect())),
            ("tools".into(), tools),
            ("documents".into(), Value::None),
            ("add_generation_prompt".into(), Value::Bool(generation_prompt)),
            ("enable_thinking".into(), Value::Bool(thinking)),
        ]);
        parsed.template.render(&variables).map_err(|fault| chat_error(&parsed.origin, &fault))
    }

    /// The template itself, and behind it the one for conversations with tools if there is one.
    pub fn source(&self) -> String {
        let tool_use = self.tool_use.as_ref().map(|parsed| format!("\n{}", parsed.text));
        self.default.text.clone() + &tool_use.unwrap_or_default()
    }

    /// Where the template comes from.
    pub fn path(&self) -> &Path {
        &self.default.origin.path
    }

    /// What the template puts behind the model's last turn, such as `<|im_end|>`; `None` if it puts nothing there.
    pub fn end_of_turn(&self) -> Result<Option<String>> {
        const MARK: &str = "irori-end-of-turn";
        let turns = [Message::new("user", "?"), Message::new("assistant", MARK)];
        let text = self.render(&turns, false, false)?;
        let end = text.rsplit_once(MARK).map(|(_, end)| end.trim().to_owned());
        Ok(end.filter(|end| !end.is_empty()))
    }
}

fn chatml() -> Found {
    let origin = Origin { path: PathBuf::from("ChatML (built in)"), within: String::new() };
    Found { origin, text: CHATML.to_owned() }
}

fn chat_error(origin: &Origin, fault: &Fault) -> Error {
    let line = if fault.line == 0 { String::new() } else { format!(", line {}", fault.line) };
    Error::content(&origin.path, format!("chat template{}{line}", origin.within), &fault.message)
}
