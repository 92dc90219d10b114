//! JSON and JSONL as irori reads them: a key that stands twice in an object is an error, and a file of another kind is called
//! by its name.

use super::questions::{excerpt, kind};
use crate::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{fmt, path::Path};

/// What other files begin with, and what they are.
const OTHERS: [(&[u8], &str); 9] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "it is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`",
    ),
    (b"\xff\xfe\0\0", "it is UTF-32 text: convert it to UTF-8"),
    (b"\0\0\xfe\xff", "it is UTF-32 text: convert it to UTF-8"),
    (b"\xff\xfe", "it is UTF-16 text: convert it to UTF-8"),
    (b"\xfe\xff", "it is UTF-16 text: convert it to UTF-8"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with Zstandard: unpack it first"),
    (b"PK\x03\x04", "it is a zip archive: unpack it first"),
    (b"PAR1", "it is a Parquet file: write it as JSONL (`Dataset.to_json` of datasets does)"),
];

/// The bytes without a byte-order mark. `path` is for messages.
///
/// # Errors
/// The file is of another kind: a Git LFS pointer, UTF-16 or UTF-32, an archive, a Parquet file.
pub fn plain<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let other = OTHERS.iter().find(|(mark, _)| bytes.starts_with(mark)).map(|(_, what)| *what);
    // JSON begins with an ASCII character, which in UTF-16 has a zero byte beside it.
    let utf16 = bytes.len() > 1 && (bytes[0] == 0) != (bytes[1] == 0);
    let utf16 = utf16.then_some("it is UTF-16 text: convert it to UTF-8");
    match other.or(utf16) {
        Some(what) => Err(Error::content(path, "", what)),
        None => Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)),
    }
}

/// The value that `text` is.
///
/// # Errors
/// serde_json's, or that a key stands twice in one object, or that a number is an integer that would become another one.
pub fn value(text: &str) -> serde_json::Result<Value> {
    if let Some(number) = beyond_64_bits(text) {
        return Err(serde_json::Error::custom(format!("the integer {} does not fit 64 bits", excerpt(number))));
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

/// The first integer of a JSON text that serde_json would read as a float, where Python reads it as it stands. It would be
/// shown with other digits. `-0` is one of them.
fn beyond_64_bits(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let begin = at;
        at += 1;
        match bytes[begin] {
            b'"' => {
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let is_number = |b: &&u8| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                at += bytes[at..].iter().take_while(is_number).count();
                let number = &text[begin..at];
                let integer = number.bytes().skip(1).all(|b| b.is_ascii_digit()) && number != "-";
                let fits = number.parse::<u64>().is_ok() || number.parse::<i64>().is_ok_and(|n| n != 0);
                if integer && !fits {
                    return Some(number);
                }
            }
            _ => {}
        }
    }
    None
}

/// The one value that a JSON file holds. A byte-order mark is passed over. `path` is for messages.
///
/// # Errors
/// As [`plain`]; the file is not UTF-8, or not one value.
pub fn one(path: &Path, bytes: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(plain(path, bytes)?).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
        Error::content(path, format!("line {line}"), "not UTF-8")
    })?;
    value(text).map_err(|e| {
        let message = e.to_string();
        let reason = message.split(" at line ").next().unwrap_or_default();
        let lines =
            if reason == "trailing characters" { ": expected one JSON value, not several lines of them" } else { "" };
        let at = if e.line() == 0 { String::new() } else { format!("line {}", e.line()) };
        Error::content(path, at, format!("not valid JSON: {reason}{lines}"))
    })
}

/// The lines of a JSONL file that are not blank: the number of each, from 1, and its value. A byte-order mark and CRLF are
/// passed over. `path` is for messages.
///
/// # Errors
/// As [`plain`]; a line is not UTF-8 or not JSON; the file is one JSON value and not lines.
pub fn lines(path: &Path, bytes: &[u8]) -> Result<Vec<(usize, Value)>> {
    let bytes = plain(path, bytes)?;
    let mut out = Vec::new();
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let number = i + 1;
        let text = std::str::from_utf8(line).map_err(|e| {
            Error::content(path, format!("line {number}"), format!("not UTF-8 from byte {} on", e.valid_up_to() + 1))
        })?;
        if text.trim().is_empty() {
            continue;
        }
        let value = value(text).map_err(|e| {
            if out.is_empty()
                && let Some(e) = one_value(path, bytes)
            {
                return e;
            }
            // serde_json counts lines within the text it was given, which is always one.
            let message = e.to_string();
            let reason = message.split(" at line ").next().unwrap_or_default();
            let column = if e.column() == 0 { String::new() } else { format!(" at column {}", e.column()) };
            Error::content(path, format!("line {number}"), format!("not valid JSON: {reason}{column}"))
        })?;
        if out.is_empty()
            && value.as_array().and_then(|list| list.first()).is_some_and(Value::is_object)
            && let Some(e) = one_value(path, bytes)
        {
            return Err(e);
        }
        out.push((number, value));
    }
    Ok(out)
}

/// The error for a file that is one JSON list or object over all of its lines.
fn one_value(path: &Path, bytes: &[u8]) -> Option<Error> {
    let message = match value(std::str::from_utf8(bytes).ok()?).ok()? {
        Value::Array(list) => {
            let n = list.len();
            format!("it is one JSON list of {n}, and records are one object a line: `jq -c '.[]'` writes it so")
        }
        Value::Object(map) if map.contains_key("samples") => {
            "it is one JSON object with `samples`: `irori dataset` makes records of law questions".to_owned()
        }
        Value::Object(map) => {
            let keys: Vec<&str> = map.keys().map(String::as_str).collect();
            format!(
                "it is one JSON object over several lines (with {}), and a record is one line: `jq -c .` writes it so",
                excerpt(&keys.join(", "))
            )
        }
        other => format!("it is {} and no record", kind(&other)),
    };
    Some(Error::content(path, "", message))
}

/// A JSON value whose objects have no key twice: of two values one would be lost.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, x: bool) -> Result<Value, E> {
        Ok(Value::Bool(x))
    }

    fn visit_i64<E>(self, x: i64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_u64<E>(self, x: u64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(Number::from_f64(x).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{}` stands twice", excerpt(&key))));
            }
            let value = entries.next_value_seed(Self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        lines(Path::new("f"), bytes).unwrap_err().to_string()
    }

    #[test]
    fn files_of_another_kind_are_called_by_their_name() {
        let utf16 = |first: &[u16]| -> Vec<u8> {
            let units = first.iter().copied().chain("{\"input\":\"あ\"}\n".encode_utf16());
            units.flat_map(u16::to_le_bytes).collect()
        };
        for (bytes, wanted) in [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n".to_vec(), "a Git LFS pointer"),
            (utf16(&[0xfeff]), "UTF-16"),
            (utf16(&[]), "UTF-16"),
            (utf16(&[]).chunks(2).flat_map(|unit| [unit[1], unit[0]]).collect(), "UTF-16"),
            (b"\xff\xfe\0\0{\0\0\0".to_vec(), "UTF-32"),
            (b"\x1f\x8b\x08\0".to_vec(), "gzip"),
            (b"PAR1\x15".to_vec(), "Parquet"),
            (b"PK\x03\x04\n".to_vec(), "zip"),
            (b"[{\"input\":\"q\"},\n{\"input\":\"r\"}]\n".to_vec(), "one JSON list of 2"),
            (b"\xef\xbb\xbf[\n  {\n    \"input\": 1}]".to_vec(), "one JSON list of 1"),
            (b"[{\"input\":\"q\"}]".to_vec(), "one JSON list of 1"),
            (
                b"{\n\"input\": \"q\",\n\"output\": \"b\"\n}\n".to_vec(),
                "one JSON object over several lines (with input, output)",
            ),
            (b"{\"samples\": [\n]}".to_vec(), "`irori dataset` makes records"),
        ] {
            let message = error(&bytes);
            assert!(message.starts_with("f: it is ") && message.contains(wanted), "{message}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_an_error_at_any_depth() {
        for line in [r#"{"a":1,"b":2,"a":3}"#, r#"[{"m":{"a":null,"a":null}}]"#, r#"{"a":1,"\u0061":1}"#] {
            let message = error(line.as_bytes());
            assert!(message.starts_with("f: line 1: not valid JSON: the key `a` stands twice"), "{message}");
        }
    }

    #[test]
    fn integers_that_would_change_are_refused() {
        for integer in ["123456789012345678901234567890", "18446744073709551616", "-9223372036854775809", "-0"] {
            let message = error(format!(r#"{{"a\"{integer}":[1,{integer}]}}"#).as_bytes());
            assert!(message.contains(&format!("the integer {integer} does not fit 64 bits")), "{message}");
            assert!(!message.contains("column"), "{message}");
        }
        for fine in [
            "18446744073709551615",
            "-9223372036854775808",
            "0",
            "-0.0",
            "1e99",
            "-1e-9",
            "0e1",
            r#""-0 12345678901234567890123""#,
        ] {
            assert!(value(&format!("[{fine}]")).is_ok(), "{fine}");
        }
    }

    #[test]
    fn values_are_those_of_serde_json() {
        let text = r#"{"a":[1,-2,3.5,1e99,18446744073709551615,null,true,"\u3042\n",{}],"b":{"c":[[]]}}"#;
        assert_eq!(value(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert!(value("{} {}").is_err());
        let read = lines(Path::new("f"), b"\xef\xbb\xbf\r\n{}\r\n\n  \n[1]").unwrap();
        assert_eq!(read.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 5]);
    }
}
