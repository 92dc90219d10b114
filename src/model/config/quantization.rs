//! `quantization_config` of config.json: bitsandbytes in 4 bits, and which modules it leaves out.

use super::read::Fields;
use crate::{Error, Result};
use fancy_regex::Regex;
use serde_json::Value;

/// Fields that are read, and those that only the 8 bits of bitsandbytes look at.
const KNOWN: [&str; 13] = [
    "_load_in_4bit",
    "_load_in_8bit",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "llm_int8_skip_modules",
    "llm_int8_threshold",
    "load_in_4bit",
    "load_in_8bit",
    "quant_method",
];

/// That a checkpoint's linears are NF4 in bitsandbytes' format.
#[derive(Debug, Clone)]
pub struct Quantization {
    /// Type that a weight is rounded to in use, as the file says it: "bfloat16".
    pub compute: Option<String>,
    skip: Vec<Skip>,
}

/// An entry of `llm_int8_skip_modules`.
#[derive(Debug, Clone)]
struct Skip {
    ending: String,
    beginning: Regex,
}

impl Quantization {
    /// Whether the linear `path` is left out, as transformers' `should_convert_module` decides it: an entry is the end of its
    /// name, or, as a regular expression, its beginning up to the end of one of its parts.
    ///
    /// # Errors
    /// The entry, and why nobody can say: an expression that takes too long.
    pub fn skips(&self, path: &str) -> Result<bool, String> {
        for Skip { ending, beginning } in &self.skip {
            if path.ends_with(ending) || beginning.is_match(path).map_err(|e| format!("`{ending}` on {path}: {e}"))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Skip {
    /// Fails with what is wrong if it is no regular expression.
    fn new(entry: &str) -> Result<Self, String> {
        let beginning = Regex::new(&format!(r"^(?:{entry})(?:(?<=\.)|(?=\.|$))")).map_err(|e| e.to_string())?;
        Ok(Self { ending: entry.to_owned(), beginning })
    }
}

impl Fields<'_> {
    /// How the checkpoint is quantised; what else is said there goes to `remarks`.
    pub fn quantization(&self, remarks: &mut Vec<String>) -> Result<Option<Quantization>> {
        let Some(q) = self.json.get("quantization_config").filter(|q| !q.is_null()) else { return Ok(None) };
        let at = |field: &str| format!("quantization_config.{field}");
        let nf4 = "irori reads bitsandbytes NF4";
        let Some(object) = q.as_object() else {
            return Err(self.wrong("quantization_config", format!("is {q}, expected an object")));
        };
        let text = |field: &str| match object.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(v) => Err(self.wrong(&at(field), format!("is {v}, expected text"))),
        };
        let method = text("quant_method")?;
        if method != Some("bitsandbytes") {
            return Err(self.wrong(&at("quant_method"), format!("is {}; {nf4}", quoted(method))));
        }
        for field in ["load_in_8bit", "_load_in_8bit"] {
            if self.truth_in(q, field, &at(field))? {
                return Err(self.wrong(&at(field), format!("is true; {nf4}")));
            }
        }
        let kind = text("bnb_4bit_quant_type")?;
        if kind != Some("nf4") {
            let means = if kind.is_none() { ", which means fp4" } else { "" };
            return Err(self.wrong(&at("bnb_4bit_quant_type"), format!("is {}{means}; {nf4}", quoted(kind))));
        }
        let unknown = object.iter().filter(|(k, v)| !KNOWN.contains(&k.as_str()) && asks(v));
        remarks.extend(unknown.map(|(k, _)| self.unused(&at(k))));
        let compute = text("bnb_4bit_compute_dtype")?.map(str::to_owned);
        Ok(Some(Quantization { compute, skip: self.skip_modules(object.get("llm_int8_skip_modules"))? }))
    }

    fn skip_modules(&self, list: Option<&Value>) -> Result<Vec<Skip>> {
        let wrong = |message: String| self.wrong("quantization_config.llm_int8_skip_modules", message);
        let entries = match list {
            // The head alone, which irori does not quantise unless it is asked to.
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(entries)) => entries,
            Some(v) => return Err(wrong(format!("is {v}, expected a list of modules"))),
        };
        let skip = |entry: &Value| -> Result<Skip, Error> {
            let text = entry.as_str().ok_or_else(|| wrong(format!("holds {entry}, expected the name of a module")))?;
            Skip::new(text).map_err(|e| wrong(format!("holds `{text}`, which is no expression that irori reads: {e}")))
        };
        entries.iter().map(skip).collect()
    }
}

fn quoted(text: Option<&str>) -> String {
    text.map_or("missing".into(), |text| format!("`{text}`"))
}

/// Whether a field of this value asks for anything.
pub(super) fn asks(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}
