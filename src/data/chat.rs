//! The model's own conversation format: its Jinja chat template, rendered as transformers renders it.
//!
//! The template comes from `chat_template.jinja` beside the tokenizer, or from `chat_template` in
//! tokenizer_config.json (a text, or a list of named ones of which `default` is taken). A model without one gets
//! ChatML, the format that Qwen's own template produces. Thinking is off unless asked for.

use crate::{Error, Result, files::stand_in};
use minijinja::{Environment, ErrorKind, State, Value, context};
use serde::Serialize;
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
}

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template of the model or tokenizer in `dir`, or ChatML if it has none.
    ///
    /// # Errors
    /// A file that is there but cannot be read or parsed.
    pub fn load(dir: &Path) -> Result<Self> {
        let config_path = dir.join("tokenizer_config.json");
        let config = match stand_in::read_optional(&config_path)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| Error::content(&config_path, "", format!("not valid JSON: {e}")))?,
            None => serde_json::Value::Null,
        };
        let token = |key: &str| {
            let value = &config[key];
            value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_owned()
        };
        let jinja = dir.join("chat_template.jinja");
        let (path, source) = if let Some(source) = stand_in::read_optional(&jinja)? {
            (jinja, source)
        } else {
            match &config["chat_template"] {
                serde_json::Value::String(source) => (config_path, source.clone()),
                serde_json::Value::Array(named) => {
                    let default = named.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str());
                    let missing = "expected a text, or a list with a template named `default`";
                    let source =
                        default.ok_or_else(|| Error::content(&config_path, "field `chat_template`", missing))?;
                    (config_path.clone(), source.to_owned())
                }
                serde_json::Value::Null => (PathBuf::from("ChatML (built in)"), CHATML.to_owned()),
                _ => return Err(Error::content(&config_path, "field `chat_template`", "expected a text or a list")),
            }
        };
        let mut template = Self::parse(&path, source)?;
        (template.bos, template.eos) = (token("bos_token"), token("eos_token"));
        Ok(template)
    }

    /// ChatML.
    pub fn chatml() -> Result<Self> {
        Self::parse(Path::new("ChatML (built in)"), CHATML.to_owned())
    }

    /// Parses a template; `path` is for messages.
    pub fn parse(path: &Path, source: String) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_template_owned("chat", source).map_err(|e| chat_error(path, &e))?;
        Ok(Self { path: path.to_owned(), environment, bos: String::new(), eos: String::new() })
    }

    /// The text of a conversation. With `generation_prompt` it ends where the model is to begin its turn; `thinking`
    /// says whether that turn may begin with a thought.
    ///
    /// # Errors
    /// The template refuses the conversation (`raise_exception`) or does not fit it.
    pub fn render(&self, messages: &[Message], generation_prompt: bool, thinking: bool) -> Result<String> {
        self.render_with(messages, &[], generation_prompt, thinking)
    }

    /// [`ChatTemplate::render`] with `tools` that the model may call.
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
        let template = self.environment.get_template("chat").map_err(|e| chat_error(&self.path, &e))?;
        let variables = context! {
            messages => messages, add_generation_prompt => generation_prompt, enable_thinking => thinking,
            bos_token => self.bos, eos_token => self.eos,
        };
        let variables = if tools.is_empty() {
            variables
        } else {
            context! { tools => tools, ..variables }
        };
        template.render(variables).map_err(|e| chat_error(&self.path, &e))
    }

    /// The template itself.
    pub fn source(&self) -> String {
        self.environment.get_template("chat").map_or_else(|_| String::new(), |t| t.source().to_owned())
    }

    /// Where the template comes from.
    pub fn path(&self) -> &Path {
        &self.path
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

fn chat_error(path: &Path, e: &minijinja::Error) -> Error {
    let at = e.line().map_or_else(|| "chat template".to_owned(), |line| format!("chat template, line {line}"));
    Error::content(path, at, e.detail().map_or_else(|| e.kind().to_string(), |d| format!("{}: {d}", e.kind())))
}

/// JSON as Python's `json.dumps(…, ensure_ascii=False)` writes it, which is what transformers gives templates.
fn tojson(value: &Value, kwargs: minijinja::value::Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let failed = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(64));
            let format = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format)).map_err(failed)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonSpacing)).map_err(failed)?
        }
    }
    let text = String::from_utf8(out).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(text))
}

/// `", "` and `": "` between items.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

/// Today's date (UTC) for templates that show it: %Y, %m, %d, %B and %b; anything else is refused. A prompt that holds
/// the date is not reproducible, which is why Qwen's has none.
fn strftime_now(_state: &State, format: String) -> Result<String, minijinja::Error> {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('Y')) => out.push_str(&year.to_string()),
            ('%', Some('m')) => out.push_str(&format!("{month:02}")),
            ('%', Some('d')) => out.push_str(&format!("{day:02}")),
            ('%', Some('B')) => out.push_str(name),
            ('%', Some('b')) => out.push_str(&name[..3]),
            ('%', other) => {
                let message = format!("strftime_now does not know %{}", other.unwrap_or(' '));
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
            }
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}

/// Year, month and day of a number of days after 1970-01-01, by counting years and months.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shared::shared;

    fn turns(list: &[(&str, &str)]) -> Vec<Message> {
        list.iter().map(|(role, content)| Message::new(*role, *content)).collect()
    }

    #[test]
    fn the_real_template() {
        let Some(dir) = shared("qwen3_tokenizer") else { return };
        let template = ChatTemplate::load(&dir).unwrap();
        let user = turns(&[("user", "問い <b>&'\"")]);
        let off = "<|im_start|>user\n問い <b>&'\"<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
        assert_eq!(template.render(&user, true, false).unwrap(), off);
        assert_eq!(template.render(&user, true, true).unwrap(), off.strip_suffix("<think>\n\n</think>\n\n").unwrap());
        let talk = turns(&[
            ("system", "S"),
            ("user", "一"),
            ("assistant", "<think>\nt\n</think>\n\nA1"),
            ("user", "二"),
            ("assistant", "<think>\nu\n</think>\n\nA2"),
        ]);
        assert_eq!(
            template.render(&talk, false, false).unwrap(),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n一<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n\
             <|im_start|>user\n二<|im_end|>\n<|im_start|>assistant\n<think>\nu\n</think>\n\nA2<|im_end|>\n"
        );
        assert_eq!(template.end_of_turn().unwrap().as_deref(), Some("<|im_end|>"));
    }

    /// Byte for byte as Python's jinja2 with transformers' settings, over conversations of every form.
    #[test]
    fn as_jinja2_renders_it() {
        let Some(dir) = shared("qwen3_tokenizer") else { return };
        let template = ChatTemplate::load(&dir).unwrap();
        let contents = [
            "",
            "あ\n",
            "\n<think>\nx\n\n</think>\n\n\ny",
            "<tool_response>r</tool_response>",
            "{{ a }} </think>",
            " é\t",
        ];
        let mut talks = Vec::new();
        for (i, first) in contents.iter().enumerate() {
            for second in contents {
                let third = contents[(i + 1) % contents.len()];
                talks.push(turns(&[("user", first), ("assistant", second)]));
                talks.push(turns(&[("system", second), ("user", first), ("assistant", third), ("user", second)]));
                talks.push(turns(&[("user", third), ("assistant", first), ("assistant", second), ("system", "s")]));
            }
        }
        let script = "import json,sys\nfrom jinja2.sandbox import ImmutableSandboxedEnvironment as E\n\
            e=E(trim_blocks=True,lstrip_blocks=True,extensions=['jinja2.ext.loopcontrols'])\n\
            t=e.from_string(open(sys.argv[1]).read())\n\
            print(json.dumps([t.render(messages=m,add_generation_prompt=g,enable_thinking=k) for m in json.load(open(sys.argv[2])) for g in (0,1) for k in (False,True)]))";
        let input = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&input, &talks).unwrap();
        let python = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(dir.join("chat_template.jinja"))
            .arg(input.path())
            .output();
        let output = match python {
            Ok(output) if output.status.success() => output.stdout,
            _ => return eprintln!("SKIP: python3 with jinja2 is not there"),
        };
        let expected: Vec<String> = serde_json::from_slice(&output).unwrap();
        let mut expected = expected.iter();
        for talk in &talks {
            for (generation, thinking) in [(false, false), (false, true), (true, false), (true, true)] {
                let ours = template.render(talk, generation, thinking).unwrap();
                assert_eq!(&ours, expected.next().unwrap(), "{talk:?}");
            }
        }
        assert!(expected.next().is_none());
    }

    #[test]
    fn where_the_template_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let render = || ChatTemplate::load(dir.path()).and_then(|t| t.render(&turns(&[("user", "x")]), true, false));
        assert_eq!(render().unwrap(), "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
        write(
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>",
            "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "{{ bos_token }}D{{ eos_token }}"}]}"#,
        );
        assert_eq!(render().unwrap(), "<s>D</s>");
        write("tokenizer_config.json", r#"{"chat_template": "{{ {'a': [1, 'あ<']} | tojson }}"}"#);
        assert_eq!(render().unwrap(), r#"{"a": [1, "あ<"]}"#);
        write("chat_template.jinja", "{{ raise_exception('no system\\nplease') }}");
        assert!(render().unwrap_err().to_string().ends_with("line 1: invalid operation: no system\nplease"));
        write("chat_template.jinja", "{{ strftime_now('%d %b %Y') }}");
        assert_eq!(render().unwrap().len(), 11);
        write("chat_template.jinja", "\n{% for %}");
        assert!(render().unwrap_err().to_string().contains("chat_template.jinja: chat template, line 2: syntax error"));
        std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
        write("tokenizer_config.json", "{");
        assert!(render().unwrap_err().to_string().contains("tokenizer_config.json: not valid JSON"));
        write("tokenizer_config.json", r#"{"chat_template": 3}"#);
        assert!(render().unwrap_err().to_string().contains("field `chat_template`: expected a text"));
    }

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_779), (2026, 11, 22));
    }
}
