//! Values of settings: how they are read from the words of a command line and from TOML.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, path::PathBuf};
use toml::de::ValueDeserializer;

/// How many words a value has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// One.
    One,
    /// One, or none for `true`.
    Switch,
    /// One or more, also with commas between them.
    Many,
}

/// A value that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What it means.
    pub help: String,
}

/// A type that a setting can have.
pub trait Value: Serialize + DeserializeOwned {
    /// How many words it has.
    const WORDS: Words = Words::One;

    /// Reads it from the words of a command line, of which there is at least one.
    ///
    /// # Errors
    /// What is expected instead.
    fn parse(words: &[&str]) -> Result<Self, String>;

    /// Its values, if they have names.
    fn choices() -> Vec<Choice> {
        Vec::new()
    }
}

/// What a user gave for a setting.
pub enum Given<'a> {
    /// Words of a command line, at least one.
    Words(&'a [&'a str]),
    /// A value in a file.
    Toml(ValueDeserializer<'a>),
}

impl Given<'_> {
    /// The value.
    ///
    /// # Errors
    /// If it is none of this type: in words.
    pub fn read<T: Value>(self) -> Result<T, String> {
        match self {
            Self::Words(words) => T::parse(words),
            Self::Toml(value) => T::deserialize(value).map_err(|e| e.message().lines().collect::<Vec<_>>().join("; ")),
        }
    }
}

/// A value that is always there, or one that may be missing (`Option`).
pub trait Slot: Sized {
    /// The type of the value.
    type Value: Value;

    /// The slot with what was given; `None` if that is its default's to say.
    fn of(given: Option<Self::Value>) -> Option<Self>;

    /// What it holds.
    fn value(&self) -> Option<&Self::Value>;

    /// What it holds, for a file; `None` also for what no file can hold.
    fn entry(&self) -> Option<toml::Value> {
        toml::Value::try_from(self.value()?).ok()
    }
}

impl<T: Value> Slot for T {
    type Value = T;

    fn of(given: Option<T>) -> Option<T> {
        given
    }

    fn value(&self) -> Option<&T> {
        Some(self)
    }
}

impl<T: Value> Slot for Option<T> {
    type Value = T;

    fn of(given: Option<T>) -> Option<Self> {
        given.map(Some)
    }

    fn value(&self) -> Option<&T> {
        self.as_ref()
    }
}

fn one<'a>(words: &[&'a str]) -> &'a str {
    words.last().copied().unwrap_or_default()
}

macro_rules! whole {
    ($($ty:ty),*) => {$(
        impl Value for $ty {
            fn parse(words: &[&str]) -> Result<Self, String> {
                let range = || format!("expected a whole number from 0 to {}", Self::MAX);
                one(words).parse().map_err(|_| range())
            }
        }
    )*};
}

whole!(u32, u64, usize);

impl Value for f64 {
    fn parse(words: &[&str]) -> Result<Self, String> {
        one(words).parse().map_err(|_| "expected a number".into())
    }
}

impl Value for bool {
    const WORDS: Words = Words::Switch;

    fn parse(words: &[&str]) -> Result<Self, String> {
        one(words).parse().map_err(|_| "expected true or false".into())
    }

    fn choices() -> Vec<Choice> {
        let choice = |name: &str| Choice { name: name.into(), aliases: Vec::new(), help: String::new() };
        vec![choice("true"), choice("false")]
    }
}

impl Value for String {
    fn parse(words: &[&str]) -> Result<Self, String> {
        Ok(one(words).into())
    }
}

impl Value for PathBuf {
    fn parse(words: &[&str]) -> Result<Self, String> {
        match one(words) {
            "" => Err("expected a path".into()),
            path => Ok(path.into()),
        }
    }
}

impl Value for Vec<String> {
    const WORDS: Words = Words::Many;

    fn parse(words: &[&str]) -> Result<Self, String> {
        Ok(words.iter().flat_map(|w| w.split(',')).map(str::to_owned).collect())
    }
}

/// Makes enums whose variants have names ([`clap::ValueEnum`]) values of settings.
#[macro_export]
macro_rules! choices_are_values {
    ($($ty:ty),* $(,)?) => {$(
        impl $crate::settings::Value for $ty {
            fn parse(words: &[&str]) -> Result<Self, String> {
                let word = words.last().copied().unwrap_or_default();
                <Self as clap::ValueEnum>::from_str(word, false).map_err(|_| $crate::settings::expected(&Self::choices()))
            }

            fn choices() -> Vec<$crate::settings::Choice> {
                $crate::settings::choices_of::<Self>()
            }
        }
    )*};
}

/// The variants of an enum as choices.
pub fn choices_of<T: clap::ValueEnum>() -> Vec<Choice> {
    let variants = T::value_variants().iter().filter_map(T::to_possible_value);
    let choice = |v: clap::builder::PossibleValue| Choice {
        name: v.get_name().to_owned(),
        aliases: v.get_name_and_aliases().skip(1).map(str::to_owned).collect(),
        help: v.get_help().map(ToString::to_string).unwrap_or_default(),
    };
    variants.map(choice).collect()
}

/// "expected one of …".
pub fn expected(choices: &[Choice]) -> String {
    let names: Vec<&str> = choices.iter().map(|c| c.name.as_str()).collect();
    format!("expected one of {}", names.join(", "))
}

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
