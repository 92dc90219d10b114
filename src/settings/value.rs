//! Values of settings: how they are read from the words of a command line and from TOML.

use serde::{Serialize, de::DeserializeOwned};
use std::path::PathBuf;
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

/// The word of a value that has one.
pub(super) fn one<'a>(words: &[&'a str]) -> &'a str {
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

impl Value for i64 {
    fn parse(words: &[&str]) -> Result<Self, String> {
        one(words).parse().map_err(|_| "expected a whole number".into())
    }
}

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
        let parts = words.iter().flat_map(|w| w.split(',')).map(str::trim).filter(|part| !part.is_empty());
        Ok(parts.map(str::to_owned).collect())
    }
}

impl Value for Vec<usize> {
    const WORDS: Words = Words::Many;

    fn parse(words: &[&str]) -> Result<Self, String> {
        <Vec<String>>::parse(words)?.iter().map(|part| usize::parse(&[part])).collect()
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
