//! Why a template cannot be parsed or rendered.

/// A message and the line of the template it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1; 0 as long as it is not known.
    pub line: u32,
    /// What is wrong, in the words of Jinja2 or Python where they have some.
    pub message: String,
}

impl Fault {
    /// A fault whose line is filled in by whoever knows it.
    pub fn new(message: impl Into<String>) -> Self {
        Self { line: 0, message: message.into() }
    }

    /// A fault at a line.
    pub fn at(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }

    /// Jinja2 has `what` and irori does not, or its result would not be certain.
    pub fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(format!("irori does not render {what}"))
    }

    /// The same fault at `line`, if it had none.
    #[must_use]
    pub fn or_at(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

/// The result of a step of rendering.
pub type Outcome<T> = Result<T, Fault>;
