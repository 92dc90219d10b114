//! What bitsandbytes stores beside a packed tensor: the names of its records, and the one that says what the tensor is, JSON
//! in a tensor of bytes.

use serde::{Deserialize, Serialize};

/// What a record's name ends in, behind the tensor's: the absmax values, F32, or their codes in U8.
pub const ABSMAX: &str = "absmax";
/// The codebook, F32 \[16\].
pub const QUANT_MAP: &str = "quant_map";
/// Scales of the codes of the absmax values, F32.
pub const NESTED_ABSMAX: &str = "nested_absmax";
/// Map of the codes of the absmax values, F32 \[256\].
pub const NESTED_QUANT_MAP: &str = "nested_quant_map";
/// [`QuantState`], U8.
pub const QUANT_STATE: &str = "quant_state.bitsandbytes__nf4";

/// What a packed tensor is. Field order is that of bitsandbytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantState {
    /// "nf4".
    pub quant_type: String,
    /// 64.
    pub blocksize: usize,
    /// Type of the values before quantisation: "bfloat16", "float16", "float32".
    pub dtype: String,
    /// Shape before packing.
    pub shape: Vec<usize>,
    /// 256 with double quantisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested_blocksize: Option<usize>,
    /// "float32" with double quantisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested_dtype: Option<String>,
    /// Mean of the absmax values, with double quantisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested_offset: Option<f64>,
}

impl QuantState {
    /// Of an NF4 tensor; `offset` with double quantisation.
    pub fn nf4(dtype: &str, shape: &[usize], offset: Option<f32>) -> Self {
        Self {
            quant_type: "nf4".into(),
            blocksize: super::nf4::BLOCK,
            dtype: dtype.into(),
            shape: shape.to_vec(),
            nested_blocksize: offset.map(|_| super::nested::BLOCK),
            nested_dtype: offset.map(|_| "float32".into()),
            nested_offset: offset.map(f64::from),
        }
    }

    /// Reads and checks the record.
    ///
    /// # Errors
    /// What is wrong with it, in words: if it is not JSON of this form, or not NF4 in blocks of 64 (256 for the absmax values).
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(bytes).map_err(|e| match number_that_json_has_not(bytes) {
            Some(found) => format!("quantisation record: holds {found}, which is no finite number"),
            None => format!("quantisation record: {e}"),
        })?;
        let wrong = |field: &str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display| {
            Err(format!("quantisation record: `{field}` is {found}, irori reads {expected}"))
        };
        if state.quant_type != "nf4" {
            return wrong("quant_type", &state.quant_type, &"nf4");
        }
        if state.blocksize != super::nf4::BLOCK {
            return wrong("blocksize", &state.blocksize, &super::nf4::BLOCK);
        }
        match state.nested_blocksize {
            Some(n) if n != super::nested::BLOCK => wrong("nested_blocksize", &n, &super::nested::BLOCK),
            Some(_) if state.nested_offset.is_none() => wrong("nested_offset", &"missing", &"a number"),
            _ => match state.nested_offset {
                Some(offset) if !(offset as f32).is_finite() => wrong("nested_offset", &offset, &"a number of f32"),
                _ => Ok(state),
            },
        }
    }

    /// The JSON text, with the spaces that Python's `json.dumps` writes.
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        let written = self.serialize(&mut serde_json::Serializer::with_formatter(&mut text, PythonSpacing));
        debug_assert!(written.is_ok(), "strings and numbers can always be written");
        String::from_utf8(text).unwrap_or_default()
    }
}

/// `NaN`, `Infinity` or `-Infinity`, which Python writes into JSON as they are.
fn number_that_json_has_not(bytes: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(bytes);
    let has = |word: &&str| text.split([':', '[', ',', ']', '}']).any(|value| value.trim() == *word);
    ["NaN", "Infinity", "-Infinity"].into_iter().find(has)
}

/// `{"a": 1, "b": [2, 3]}`.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: std::io::Write + ?Sized>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trips_and_has_the_usual_fields() {
        let state = QuantState::nf4("bfloat16", &[128, 64], Some(0.125));
        let json = state.to_json();
        assert_eq!(
            json,
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [128, 64], \
             \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.125}"
        );
        assert_eq!(QuantState::parse(json.as_bytes()).unwrap(), state);
        let plain = QuantState::nf4("float32", &[64], None);
        assert_eq!(QuantState::parse(plain.to_json().as_bytes()).unwrap(), plain);
    }

    #[test]
    fn other_formats_are_refused_by_field() {
        let message = |text: &str| QuantState::parse(text.as_bytes()).unwrap_err();
        let record = |kind: &str, size: usize, more: &str| {
            format!("{{\"quant_type\":\"{kind}\",\"blocksize\":{size},\"dtype\":\"bfloat16\",\"shape\":[64]{more}}}")
        };
        assert!(message("{").starts_with("quantisation record: "));
        assert_eq!(message(&record("fp4", 64, "")), "quantisation record: `quant_type` is fp4, irori reads nf4");
        assert_eq!(message(&record("nf4", 128, "")), "quantisation record: `blocksize` is 128, irori reads 64");
        assert!(message(&record("nf4", 64, ",\"nested_blocksize\":128")).contains("`nested_blocksize` is 128"));
        assert!(message(&record("nf4", 64, ",\"nested_blocksize\":256")).contains("`nested_offset` is missing"));
        for (offset, says) in [("NaN", "holds NaN"), ("-Infinity", "holds -Infinity"), ("1e39", "`nested_offset` is 1")]
        {
            let record = record("nf4", 64, &format!(",\"nested_blocksize\":256,\"nested_offset\": {offset}"));
            assert!(message(&record).contains(says), "{offset}");
        }
    }
}
