//! A size of memory as people write it.

use super::value::{Value, one};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A number of bytes, written with a unit: `20GiB`, `9.5GiB`, `800MB`, or the number alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Spelling", into = "String")]
pub struct Bytes(pub u64);

/// A size in a file: text with a unit, or a number of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Spelling {
    Text(String),
    Number(u64),
}

/// Units by size, the largest first; those of a power of two before their decimal neighbours.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
];

impl Bytes {
    /// `bytes` rounded up to whole MiB.
    pub fn at_least(bytes: u64) -> Self {
        Self(bytes.next_multiple_of(1 << 20))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS.iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match exact {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

impl TryFrom<Spelling> for Bytes {
    type Error = String;

    fn try_from(spelling: Spelling) -> Result<Self, String> {
        match spelling {
            Spelling::Text(text) => text.parse(),
            Spelling::Number(0) => Err("0 is out of range".into()),
            Spelling::Number(bytes) => Ok(Self(bytes)),
        }
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: f64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0 * 1024.0,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            other => return Err(format!("unknown unit `{other}`: use B, KiB, MiB, GiB, KB, MB or GB")),
        };
        let value: f64 = digits.trim().parse().map_err(|_| format!("`{text}` is not a size; write 20GiB or 9.5GiB"))?;
        let bytes = value * unit;
        if bytes.is_finite() && (1.0..9e18).contains(&bytes) {
            Ok(Self(bytes as u64))
        } else {
            Err(format!("{text} is out of range"))
        }
    }
}

impl Value for Bytes {
    fn parse(words: &[&str]) -> Result<Self, String> {
        one(words).parse()
    }
}
