//! How a question is put to the model, and which answer is expected: the one place that training and evaluation share.
//!
//! A template is a Jinja file. It begins with a front matter that fixes the form of the answer, then words the message
//! of the user:
//!
//! ```text
//! ---
//! answer: answer-line
//! system: あなたは法律の専門家です。
//! ---
//! {% if context %}{{ context }}{% endif %}
//! {{ question }}
//! {% for c in choices %}
//! {{ c.letter }} {{ c.text }}
//! {% endfor %}
//! ```
//!
//! `answer` is `letter` (the letter alone), `answer-line` (`Answer: x`) or `cot` (reasoning, an empty line,
//! `Answer: x`); `system` is optional. The variables are `context` (text or none), `question`, `choices` (each with
//! `letter` and `text`), and `examples` (a list, usually empty, of worked examples with the same three and `answer` and
//! `reasoning`). A line that holds only a tag leaves no line behind. Any other variable is an error, so a misspelt name
//! cannot train on nothing.

use super::{
    chat::Message,
    questions::{Choice, Question},
    tokenizer::quietly,
};
use crate::{Error, Result};
use minijinja::{Environment, UndefinedBehavior, Value, context};
use std::path::{Path, PathBuf};

/// The largest template, in bytes.
const LARGEST_SOURCE: u64 = 1 << 20;
/// The most steps that a template may run.
const FUEL: u64 = 2_000_000;
/// The most macros and blocks within each other.
const DEEPEST: usize = 50;
/// The longest message, in bytes.
const LONGEST: usize = 16 << 20;

/// Text up to [`LONGEST`]. A template that goes on is ended there, full.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = LONGEST - self.0.len();
        if bytes.len() > room {
            self.0.resize(LONGEST, b' ');
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const BUILT_IN: [(&str, &str); 3] = [
    ("letter", include_str!("prompts/letter.jinja")),
    ("answer-line", include_str!("prompts/answer-line.jinja")),
    ("cot", include_str!("prompts/cot.jinja")),
];

/// The form of the answer that a template asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerFormat {
    /// The letter alone: `c`.
    Letter,
    /// One line: `Answer: c`.
    AnswerLine,
    /// Numbered reasoning, an empty line, `Answer: c`.
    Cot,
}

impl AnswerFormat {
    /// The name used in templates and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Letter => "letter",
            Self::AnswerLine => "answer-line",
            Self::Cot => "cot",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Letter, Self::AnswerLine, Self::Cot].into_iter().find(|f| f.name() == name)
    }

    /// What stands before the letter, for scoring the letters by their likelihood. Never tokenise it alone: the
    /// space belongs to the letter's token (see [`choice_tokens`](super::encode::choice_tokens)).
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Letter => "",
            Self::AnswerLine | Self::Cot => "Answer: ",
        }
    }

    /// The answer to train on. `Cot` without reasoning is the answer line alone: nothing is invented.
    pub fn answer(self, letter: Choice, reasoning: Option<&str>) -> String {
        match (self, reasoning) {
            (Self::Cot, Some(reasoning)) => format!("{}\n\n{}{letter}", reasoning.trim(), self.prefix()),
            _ => format!("{}{letter}", self.prefix()),
        }
    }
}

/// Whether the prompt shows the statute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Context {
    /// The question alone.
    None,
    /// The question's own コンテキスト.
    Gold,
}

/// A template, parsed and tried.
#[derive(Debug)]
pub struct PromptTemplate {
    name: String,
    path: PathBuf,
    /// The form of the answer.
    pub answer: AnswerFormat,
    /// The system message, if the front matter has one.
    pub system: Option<String>,
    environment: Environment<'static>,
}

impl PromptTemplate {
    /// The template called `spec` (`letter`, `answer-line`, `cot`), or else the file of that path.
    ///
    /// # Errors
    /// No such file; a front matter or template error with its line; a template that does not show the question.
    pub fn load(spec: &str) -> Result<Self> {
        if let Some((name, source)) = BUILT_IN.iter().find(|(name, _)| *name == spec) {
            return Self::parse(name, Path::new(&format!("{name}.jinja (built in)")), source);
        }
        let path = Path::new(spec);
        crate::files::stand_in::bounded(path, LARGEST_SOURCE)?;
        let text = std::fs::read(path).map_err(|e| {
            let hint = "a prompt is letter, answer-line, cot or a template file";
            Error::io("read", path)(e).context(hint)
        })?;
        let text = String::from_utf8(text).map_err(|_| Error::content(path, "", "the template is not UTF-8"))?;
        Self::parse(spec, path, text.strip_prefix('\u{feff}').unwrap_or(&text))
    }

    /// Parses a template; `path` is for messages.
    pub fn parse(name: &str, path: &Path, source: &str) -> Result<Self> {
        let source = source.replace("\r\n", "\n");
        let front = FrontMatter::parse(path, &source)?;
        // A comment of as many lines stands for the front matter, so that error messages count lines as the file does.
        let body = format!("{{#{}#}}{}", "\n".repeat(front.lines), front.body);
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEEPEST);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_template_owned("prompt", body).map_err(|e| template_error(path, &e))?;
        let template = Self {
            name: name.to_owned(),
            path: path.to_owned(),
            answer: front.answer,
            system: front.system,
            environment,
        };
        let example = worked_example()?;
        let shown = template.user(&example, Context::Gold, &[])?;
        template.user(&example, Context::None, std::slice::from_ref(&example))?;
        if let Some(missing) = std::iter::once(&example.text).chain(&example.choices).find(|t| !shown.contains(*t)) {
            let message =
                format!("the template does not show the whole question and its choices (tried with {missing:?})");
            return Err(Error::content(path, "", message));
        }
        Ok(template)
    }

    /// `letter`, `answer-line`, `cot`, or the path it was read from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user's message: `question` in the order of its choices, after the worked `examples`.
    pub fn user(&self, question: &Question, context: Context, examples: &[Question]) -> Result<String> {
        let worked = |q: &Question| {
            let statute = q.context.as_deref().filter(|_| context == Context::Gold);
            context! {
                context => statute, question => q.text.trim(), choices => choices(q), answer => q.answer.to_string(),
                reasoning => q.reasoning.as_deref().unwrap_or_default(),
            }
        };
        let examples: Vec<Value> = examples.iter().map(worked).collect();
        let statute = question.context.as_deref().filter(|_| context == Context::Gold);
        let variables = context! {
            context => statute, question => question.text.trim(), choices => choices(question), examples => examples,
        };
        let template = self.environment.get_template("prompt").map_err(|e| template_error(&self.path, &e))?;
        let mut out = Bounded(Vec::new());
        // A template is a stranger's program: a width or a precision of 10^9 has made the engine panic.
        let rendered =
            quietly(std::panic::AssertUnwindSafe(|| template.render_captured_to(variables, &mut out).map(drop)));
        let wrong = |message: String| Error::content(&self.path, "", message);
        match rendered {
            Err(_) => return Err(wrong("the template cannot be rendered: look for enormous widths or numbers".into())),
            Ok(Err(_)) if out.0.len() >= LONGEST => {
                return Err(wrong(format!("the template writes more than {LONGEST} bytes: look for loops in it")));
            }
            Ok(rendered) => rendered.map_err(|e| template_error(&self.path, &e))?,
        }
        let text = String::from_utf8(out.0).map_err(|_| wrong("the template writes what is not UTF-8".into()))?;
        Ok(text.trim().to_owned())
    }

    /// The conversation up to the model's turn: the system message if there is one, and [`PromptTemplate::user`].
    pub fn messages(&self, question: &Question, context: Context, examples: &[Question]) -> Result<Vec<Message>> {
        let user = Message::new("user", self.user(question, context, examples)?);
        Ok(self.system.iter().map(|s| Message::new("system", s.clone())).chain([user]).collect())
    }

    /// The answer to train on.
    pub fn expected(&self, question: &Question) -> String {
        self.answer.answer(question.answer, question.reasoning.as_deref())
    }
}

/// The worked example of few-shot prompts: our own, about a law and an article that no public set asks about.
pub fn worked_example() -> Result<Question> {
    let path = Path::new("example.json (built in)");
    let mut file = super::questions::lawqa::parse(path, include_bytes!("prompts/example.json"))?;
    file.questions.pop().ok_or_else(|| Error::content(path, "", "there is no sample in it"))
}

fn choices(question: &Question) -> Vec<Value> {
    let choice = |(letter, text): (Choice, &String)| context! { letter => letter.to_string(), text => text };
    Choice::ALL.into_iter().zip(&question.choices).map(choice).collect()
}

fn template_error(path: &Path, e: &minijinja::Error) -> Error {
    let at = e.line().map_or_else(String::new, |line| format!("line {line}"));
    let detail = e.detail().map_or_else(|| e.kind().to_string(), |detail| format!("{}: {detail}", e.kind()));
    let hint = match e.kind() {
        minijinja::ErrorKind::UndefinedError => " (the variables are context, question, choices, examples)",
        minijinja::ErrorKind::OutOfFuel => " (a prompt takes a few thousand steps: look for loops within loops)",
        _ => "",
    };
    Error::content(path, at, format!("{detail}{hint}"))
}

struct FrontMatter<'a> {
    answer: AnswerFormat,
    system: Option<String>,
    lines: usize,
    body: &'a str,
}

impl<'a> FrontMatter<'a> {
    fn parse(path: &Path, source: &'a str) -> Result<Self> {
        let error = |line: usize, message: String| Error::content(path, format!("line {line}"), message);
        let form = "begin the template with `---`, `answer: letter` (or answer-line, or cot), `---`";
        let Some(mut rest) = source.strip_prefix("---\n") else {
            return Err(error(1, format!("the form of the answer is not given: {form}")));
        };
        let (mut answer, mut system, mut lines) = (None, None, 1);
        loop {
            let Some((line, after)) = rest.split_once('\n') else {
                return Err(error(lines + 1, format!("the front matter has no end: {form}")));
            };
            rest = after;
            lines += 1;
            match line.trim().split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
                None if line.trim() == "---" => break,
                None if line.trim().is_empty() => {}
                Some(("answer", value)) => {
                    let unknown = || error(lines, format!("unknown answer form `{value}`: letter, answer-line or cot"));
                    answer = Some(AnswerFormat::from_name(value).ok_or_else(unknown)?);
                }
                Some(("system", value)) if !value.is_empty() => system = Some(value.to_owned()),
                _ => return Err(error(lines, format!("expected `answer: …`, `system: …` or `---`, found `{line}`"))),
            }
        }
        let answer = answer.ok_or_else(|| error(1, format!("the form of the answer is not given: {form}")))?;
        Ok(Self { answer, system, lines, body: rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::questions::lawqa::{sample_of_size, sample_question};

    fn error(source: &str) -> String {
        PromptTemplate::parse("t", Path::new("t.jinja"), source).unwrap_err().to_string()
    }

    #[test]
    fn built_in_prompts() {
        let q = sample_question("民法_1", "成年は何歳か。", 'b');
        let letter = PromptTemplate::load("letter").unwrap();
        assert_eq!(
            letter.user(&q, Context::Gold, &[]).unwrap(),
            "【条文】\n## 民法\n第四条　年齢十八歳をもって、成年とする。\n\n【問題】\n成年は何歳か。\n\n【選択肢】\na 十六歳\nb 十八歳\n\
             c 二十歳\nd 二十二歳\n\n問題の答えとなる選択肢を一つ選び、その記号（a、b、c、d のいずれか一文字）だけを書いてください。"
        );
        assert_eq!((letter.expected(&q).as_str(), letter.answer.prefix()), ("b", ""));
        for (name, _) in BUILT_IN {
            let t = PromptTemplate::load(name).unwrap();
            let example = worked_example().unwrap();
            let plain = t.user(&q, Context::None, &[]).unwrap();
            assert!(!plain.contains("【条文】") && !plain.contains("例題") && !plain.contains("\n\n\n"), "{plain}");
            let shown = t.user(&q, Context::Gold, std::slice::from_ref(&example)).unwrap();
            assert!(shown.contains("【条文】") && shown.contains("例題") && !shown.contains("\n\n\n"), "{shown}");
            assert!(t.expected(&q).ends_with('b') && t.expected(&q).starts_with(t.answer.prefix()));
        }
        let cot = PromptTemplate::load("cot").unwrap();
        assert!(cot.expected(&worked_example().unwrap()).starts_with("1. "));
        assert!(
            cot.expected(&worked_example().unwrap())
                .ends_with("c がこの定めに一致し、他の選択肢は異なる年齢を挙げています。\n\nAnswer: c")
        );
    }

    #[test]
    fn built_in_prompts_say_the_letters_that_there_are() {
        let [two, ten] = [2, 10].map(|n| sample_of_size(n, "民法_1", "成年は何歳か。", 'b'));
        let user = |name: &str, q: &Question| PromptTemplate::load(name).unwrap().user(q, Context::None, &[]).unwrap();
        assert_eq!(
            user("letter", &two),
            "【問題】\n成年は何歳か。\n\n【選択肢】\na 十六歳\nb 十八歳\n\n問題の答えとなる選択肢を一つ選び、その記号（a、b のいずれか一文字）だけを\
             書いてください。"
        );
        for (name, _) in BUILT_IN {
            let text = user(name, &ten);
            assert!(
                text.contains("（a、b、c、d、e、f、g、h、i、j のいずれか一文字）") && text.contains("\nj 三十四歳\n"),
                "{text}"
            );
        }
        for name in ["answer-line", "cot"] {
            let four = sample_question("民法_1", "成年は何歳か。", 'b');
            for (q, count) in [(&two, "二"), (&four, "四"), (&ten, "十")] {
                assert!(user(name, q).starts_with(&format!("日本の法令に関する{count}択問題です。")));
            }
            assert!(user(name, &four).contains("（a、b、c、d のいずれか一文字）"));
        }
    }

    #[test]
    fn own_templates() {
        let source = "---\r\nanswer: letter\r\nsystem: あなたは法律家です。\r\n---\r\n{{ question }}<b>{% for c in choices %}{{ c.text }}{% endfor %}";
        let t = PromptTemplate::parse("t", Path::new("t"), source).unwrap();
        let messages = t.messages(&sample_question("民法_1", "A & B <i>?", 'b'), Context::None, &[]).unwrap();
        assert_eq!(messages[0], Message::new("system", "あなたは法律家です。"));
        assert_eq!(messages[1].content, "A & B <i>?<b>十六歳十八歳二十歳二十二歳", "nothing is escaped");
    }

    #[test]
    fn templates_of_strangers_end() {
        let head = "---\nanswer: cot\n---\n{{ question }}{% for c in choices %}{{ c.text }}{% endfor %}";
        for body in [
            "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{{ '%.1000000000f'|format(1.5) }}",
            "{% for i in range(9999) %}{{ question * 1000 }}{% endfor %}",
            "{{ 'x'|indent(1, true) ~ nothing }}",
        ] {
            let message = error(&format!("{head}{body}"));
            assert!(message.starts_with("t.jinja: "), "{body}: {message}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.jinja");
        std::fs::write(&path, vec![b'x'; (LARGEST_SOURCE + 1) as usize]).unwrap();
        for path in [path.as_path(), dir.path()] {
            let message = PromptTemplate::load(&path.display().to_string()).unwrap_err().to_string();
            assert!(message.starts_with(&path.display().to_string()), "{message}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let head = "---\nanswer: cot\n---\n";
        assert!(error("{{ question }}").starts_with("t.jinja: line 1: the form of the answer"));
        assert!(error("---\nanswer: cot\n").starts_with("t.jinja: line 3: the front matter has no end"));
        assert!(error("---\nanswer: xml\n---\n").starts_with("t.jinja: line 2: unknown answer form `xml`"));
        assert!(error("---\ncolour: red\n---\n").starts_with("t.jinja: line 2: expected `answer"));
        let unknown = error(&format!("{head}a\n{{{{ qestion }}}}"));
        assert!(unknown.starts_with("t.jinja: line 5: undefined value"), "{unknown}");
        let syntax = error(&format!("{head}{{% if context %}}\n"));
        assert!(syntax.starts_with("t.jinja: line "), "{syntax}");
        assert!(error(&format!("{head}hello")).contains("does not show the whole question"));
        let deep = format!("{head}{}", "{% if 1 %}".repeat(3000));
        assert!(error(&deep).starts_with("t.jinja"));
        let missing = PromptTemplate::load("no/such.jinja").unwrap_err();
        assert!(missing.to_string().contains("a prompt is letter"));
    }
}
