//! One question with its answer, as a result file holds it.

use super::label;
use crate::{
    Error, Result,
    data::{
        permute::Permutation,
        questions::{Choice, Question, choices, kind, letters},
    },
    eval::answer,
};
use serde_json::{Map, Value, json};
use std::path::Path;

/// One choice order that was scored.
#[derive(Debug, Clone, PartialEq)]
pub struct PermutationDetail {
    /// Which choice, in the question's own order, was shown at each place.
    pub order: Permutation,
    /// Probability of each choice among all, in the question's own order.
    pub probabilities: Vec<f64>,
    /// Probability of the letters together before they were normalised.
    pub mass: f64,
    /// The letter that was said, as shown.
    pub said: Option<Choice>,
}

/// One question with its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The question.
    pub question: String,
    /// The choices as the file has them, usually a line "a …" for each; may be empty.
    pub choices: String,
    /// The texts of the choices without their letters.
    pub texts: Vec<String>,
    /// How many choices the question has.
    pub choice_count: usize,
    /// The right choice.
    pub correct: Choice,
    /// The chosen one, or `None` where no answer could be read.
    pub predicted: Option<Choice>,
    /// What the model wrote; for log-likelihood the letter.
    pub response: String,
    /// Where the question comes from (lawqa's ファイル名); may be empty.
    pub file_name: String,
    /// Sources the data set names.
    pub references: Vec<String>,
    /// The law, or empty.
    pub law: String,
    /// Probability of each choice among all; log-likelihood only.
    pub probabilities: Option<Vec<f64>>,
    /// Probability of the letters together over the whole vocabulary; log-likelihood only.
    pub mass: Option<f64>,
    /// Each choice order, where more than one was scored.
    pub permutations: Vec<PermutationDetail>,
    /// Everything else that a read file held, and `prompt_tokens`, `new_tokens`, `elapsed_seconds`, `stopped`.
    pub extra: Map<String, Value>,
}

impl Item {
    /// A result of `question` without an answer yet.
    pub fn of(question: &Question) -> Self {
        Self {
            question: question.text.clone(),
            choices: choices::format(&question.choices),
            texts: question.choices.clone(),
            choice_count: question.choices.len(),
            correct: question.answer,
            predicted: None,
            response: String::new(),
            file_name: question.file_name.clone(),
            references: question.references.clone(),
            law: question.law.clone(),
            probabilities: None,
            mass: None,
            permutations: Vec::new(),
            extra: Map::new(),
        }
    }

    /// Whether the chosen letter is the right one.
    pub fn is_correct(&self) -> bool {
        self.predicted == Some(self.correct)
    }

    /// What its response names for certain, as far as the entry says how the response came to be: `stopped` is false where it
    /// ran into the limit of tokens, `in_thought` is true where the prompt ended inside of a thought.
    pub(super) fn read_response(&self) -> Option<Choice> {
        let says = |field: &str, value: bool| self.extra.get(field) == Some(&value.into());
        let texts = if self.texts.len() == self.choice_count { self.texts.as_slice() } else { &[] };
        let response = answer::Response {
            text: &self.response,
            choices: self.choice_count,
            texts,
            ended: !says("stopped", false),
            thinking: says("in_thought", true),
        };
        response.answer()
    }

    /// The law: the field if set, else the first part of `file_name` ("金商法_第2章_…"), else "その他".
    pub fn law(&self) -> &str {
        match (self.law.as_str(), self.file_name.split('_').next()) {
            ("", Some(first)) if !first.is_empty() => first,
            ("", _) => "その他",
            (law, _) => law,
        }
    }

    /// The entry of a result file.
    pub(super) fn to_json(&self) -> Value {
        let mut o = Map::new();
        o.insert("question".into(), json!(self.question));
        o.insert("choices".into(), self.choices_json());
        o.insert("correct_answer".into(), json!(self.correct.letter()));
        o.insert("predicted_answer".into(), json!(label(self.predicted)));
        o.insert("is_correct".into(), json!(self.is_correct()));
        o.insert("response".into(), json!(self.response));
        o.insert("retrieved_docs_count".into(), self.extra.get("retrieved_docs_count").cloned().unwrap_or(json!(0)));
        o.insert("file_name".into(), json!(self.file_name));
        o.insert("references".into(), json!(self.references));
        o.insert("law".into(), json!(self.law()));
        if let Some(p) = &self.probabilities {
            o.insert("probabilities".into(), by_letter(p));
        }
        if let Some(m) = self.mass {
            o.insert("letter_mass".into(), json!(m));
        }
        if !self.permutations.is_empty() {
            let list = self.permutations.iter().map(|p| {
                json!({"order": p.order.name(), "said": label(p.said), "probabilities": by_letter(&p.probabilities), "letter_mass": p.mass})
            });
            o.insert("permutations".into(), Value::Array(list.collect()));
        }
        for (k, v) in &self.extra {
            if !o.contains_key(k) {
                o.insert(k.clone(), v.clone());
            }
        }
        Value::Object(o)
    }

    /// The choices as one text, unless it would be read back as other choices: then as a list.
    fn choices_json(&self) -> Value {
        if choices::parse_loosely(&self.choices).0 == self.texts {
            json!(self.choices)
        } else {
            json!(choices::lines(&self.texts))
        }
    }

    /// Reads entry number `index` of a result file. `choice_count` is 0 where the entry does not say how many choices the
    /// question has: [`Item::settle`] is to follow.
    pub(super) fn read(path: &Path, index: usize, value: Value) -> Result<Self> {
        let Value::Object(fields) = value else {
            return Err(Error::content(path, format!("results[{index}]"), expected("an object", &value)));
        };
        let mut entry = Entry { path, index, fields };
        let question = entry.text("question", true)?;
        let correct = entry.text("correct_answer", true)?;
        let predicted = entry.text("predicted_answer", true)?;
        let response = entry.text("response", false)?;
        let file_name = entry.text("file_name", false)?;
        let law = entry.text("law", false)?;
        let correct = answer::exact(&correct).ok_or_else(|| {
            entry.error("correct_answer", format!("expected a letter from a to j, found {correct:?}"))
        })?;
        let (choices, texts, choice_count) = entry.choices(correct)?;
        let references = entry.references()?;
        let probabilities = entry.probabilities()?;
        let mass = entry.fields.remove("letter_mass").and_then(|m| m.as_f64());
        entry.fields.remove("is_correct");
        Ok(Self {
            question,
            choices,
            texts,
            choice_count,
            correct,
            predicted: answer::exact(&predicted),
            response,
            file_name,
            references,
            law,
            probabilities,
            mass,
            // Details of permutations stay as they are in `extra`.
            permutations: Vec::new(),
            extra: entry.fields,
        })
    }

    /// Settles how many choices there are, `unsaid` if the entry does not say it, and holds the letters to it.
    pub(super) fn settle(&mut self, path: &Path, index: usize, unsaid: usize) -> Result<()> {
        let n = if self.choice_count == 0 { unsaid } else { self.choice_count };
        let error =
            |field: &str, message| Err(Error::content(path, format!("results[{index}], field `{field}`"), message));
        if self.correct.within(n).is_none() {
            let found = self.correct;
            return error("correct_answer", format!("expected the letter of a choice ({}), found {found}", letters(n)));
        }
        if let Some(p) = self.probabilities.as_ref().filter(|p| p.len() != n) {
            return error("probabilities", format!("expected those of {n} choices, found {}", p.len()));
        }
        self.choice_count = n;
        self.predicted = self.predicted.and_then(|c| c.within(n));
        Ok(())
    }

    /// How many choices an entry must have that does not say it: by its right answer, and its probabilities.
    pub(super) fn least_choices(&self) -> usize {
        self.probabilities.as_ref().map_or(0, Vec::len).max(self.correct.index() + 1)
    }
}

/// Values by letter.
fn by_letter(values: &[f64]) -> Value {
    Choice::ALL.iter().zip(values).map(|(c, p)| (c.to_string(), json!(p))).collect::<Map<_, _>>().into()
}

/// "expected …, found a number".
pub(super) fn expected(what: &str, found: &Value) -> String {
    format!("expected {what}, found {}", kind(found))
}

/// An entry that is being read.
struct Entry<'a> {
    path: &'a Path,
    index: usize,
    /// What has not been read yet.
    fields: Map<String, Value>,
}

impl Entry<'_> {
    fn error(&self, field: &str, message: impl Into<String>) -> Error {
        Error::content(self.path, format!("results[{}], field `{field}`", self.index), message)
    }

    fn text(&mut self, field: &'static str, required: bool) -> Result<String> {
        match self.fields.remove(field) {
            Some(Value::String(s)) => Ok(s),
            None | Some(Value::Null) if required => Err(self.error(field, "is missing")),
            None | Some(Value::Null) => Ok(String::new()),
            Some(other) => Err(self.error(field, expected("text", &other))),
        }
    }

    /// The choices as they stand, their texts, and how many there are, or 0 where that is not said: lines without letters
    /// are only taken for choices if the right one is among them.
    fn choices(&mut self, correct: Choice) -> Result<(String, Vec<String>, usize)> {
        let possible = Choice::FEWEST..=Choice::MOST;
        match self.fields.remove("choices") {
            Some(Value::String(text)) => {
                let (texts, marked) = choices::parse_loosely(&text);
                let said = possible.contains(&texts.len()) && (marked || correct.index() < texts.len());
                let count = if said { texts.len() } else { 0 };
                Ok((text, texts, count))
            }
            None | Some(Value::Null) => Ok((String::new(), Vec::new(), 0)),
            Some(Value::Array(list)) => {
                let list: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
                let list = list.ok_or_else(|| self.error("choices", "expected texts in the list"))?;
                if !list.is_empty() && !possible.contains(&list.len()) {
                    return Err(self.error("choices", format!("expected 2 to 10 choices, found {}", list.len())));
                }
                let texts = choices::parse_list(&list);
                let count = texts.len();
                Ok((list.join("\n"), texts, count))
            }
            Some(other) => Err(self.error("choices", expected("text", &other))),
        }
    }

    fn references(&mut self) -> Result<Vec<String>> {
        match self.fields.remove("references") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(s)) => Ok(vec![s]),
            Some(Value::Array(list)) => Ok(list.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            Some(other) => Err(self.error("references", expected("a list", &other))),
        }
    }

    /// The probabilities of a, b and so on without a gap.
    fn probabilities(&mut self) -> Result<Option<Vec<f64>>> {
        let found = match self.fields.remove("probabilities") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(found)) => found,
            Some(other) => return Err(self.error("probabilities", expected("an object", &other))),
        };
        let of = |c: &Choice| found.get(c.letter()).and_then(Value::as_f64).filter(|p| (0.0..=1.0).contains(p));
        let read: Vec<f64> = Choice::ALL.iter().map_while(of).collect();
        if read.len() < Choice::FEWEST || read.len() != found.len() {
            return Err(self.error("probabilities", "expected a number between 0 and 1 for each of a, b and so on"));
        }
        Ok(Some(read))
    }
}
