//! What a user can set, each defined once: name, type, default, help, and whether it decides the course of training.
//!
//! A group of settings is declared with [`settings!`](crate::settings!). One declaration serves the flags of the command
//! line ([`crate::cli`] makes them), the keys of a configuration file, the `run.toml` that a run writes, the comparison
//! when it is resumed, and the tables of `docs/commands.md`. So a new setting is one entry in its group, and its use.
//!
//! ```
//! use irori::settings::Group;
//! irori::settings! {
//!     /// As given.
//!     pub struct Given;
//!     /// As resolved.
//!     #[derive(Debug, PartialEq)]
//!     pub struct Oven;
//!     "Heat" {
//!         /// Degrees Celsius
//!         heat: u64 = 180 => { value: "C", aliases: &["temperature"] },
//!         /// Minutes after which it is switched off
//!         minutes: Option<u64> = None => { value: "N", decides: false },
//!     }
//! }
//! let file = Given::from_toml("temperature = 200").unwrap();
//! let flags = Given { minutes: Some(40), ..Given::default() };
//! assert_eq!(flags.or(file).resolve().unwrap(), Oven { heat: 200, minutes: Some(40) });
//! ```

mod bytes;
mod declare;
mod file;
mod value;

use crate::{Error, Result, error::Setting};
pub use bytes::Bytes;
#[doc(hidden)]
pub use declare::{enter, kebab, trimmed};
pub use file::{FileError, nearest};
use std::path::Path;
pub use value::{Choice, Given, Slot, Value, Words, choices_of, expected};

/// A setting: all that is known of it without its value.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Name in kebab case: the flag without its dashes, the key in a file.
    pub name: &'static str,
    /// Other names that are taken for it, from other programs or earlier versions.
    pub aliases: &'static [&'static str],
    /// For a setting that is true or false: the flag that says false.
    pub off: Option<&'static str>,
    /// What stands for the value in help.
    pub value: &'static str,
    /// What it does, in a sentence without an end. Names of other settings stand in backticks.
    pub help: &'static str,
    /// The heading it stands under.
    pub heading: &'static str,
    /// What holds where it is not set, in words, where the default itself does not say it.
    pub otherwise: Option<&'static str>,
    /// Whether it decides what is learned, so that a resumed run must have the same. A setting that checkpoints of earlier
    /// versions do not have is taken to have had its default: what such a version did.
    pub decides: bool,
    /// How many words its value has.
    pub words: Words,
    /// The values it can have, if they have names.
    pub choices: fn() -> Vec<Choice>,
    /// Whether a word can be its value (or a part of it); says why not.
    pub check: fn(&str) -> Result<(), String>,
    /// Its default as a value of TOML, if it has one.
    pub default: fn() -> Option<toml::Value>,
}

impl Definition {
    /// A setting of type `T` that decides the course of training, with nothing said yet but its name and its meaning.
    pub const fn of<T: Value>(name: &'static str, help: &'static str, heading: &'static str) -> Self {
        Self {
            name,
            aliases: &[],
            off: None,
            value: "VALUE",
            help,
            heading,
            otherwise: None,
            decides: true,
            words: T::WORDS,
            choices: T::choices,
            check: |word| T::parse(&[word]).map(drop),
            default: || None,
        }
    }

    /// Whether `name` is this setting's name or another one of it.
    pub fn is(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    /// The default in words, for help: "3", "all", or nothing.
    pub fn default_words(&self) -> Option<String> {
        self.otherwise.map(str::to_owned).or_else(|| Some(words_of(&(self.default)()?)))
    }
}

/// A value as one would give it to a flag.
pub fn words_of(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(x) if *x != 0.0 && x.abs() < 1e-2 => format!("{x:e}"),
        toml::Value::Float(x) => x.to_string(),
        toml::Value::Array(list) => list.iter().map(words_of).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A group of settings as a user gave them, each of them or not. [`settings!`](crate::settings!) implements it.
pub trait Group: Default + Sized {
    /// The group with every value decided.
    type Resolved;

    /// The settings in the order of their declaration.
    fn definitions() -> Vec<&'static Definition>;

    /// Takes the value of the setting called `name`; false if there is none of that name.
    ///
    /// # Errors
    /// If that cannot be its value: in words, without the name.
    fn put(&mut self, name: &str, given: Given<'_>) -> Result<bool, String>;

    /// These settings, and those of `other` where these are silent.
    #[must_use]
    fn or(self, other: Self) -> Self;

    /// Fills in the defaults.
    ///
    /// # Errors
    /// If one without a default is not given.
    fn resolve(self) -> Result<Self::Resolved>;

    /// Every setting that has a value, with it.
    ///
    /// # Errors
    /// If a value cannot be written: a path that is not UTF-8.
    fn entries(resolved: &Self::Resolved) -> Result<Vec<(&'static Definition, toml::Value)>>;

    /// Reads settings from text in TOML.
    ///
    /// # Errors
    /// What is wrong, and where.
    fn from_toml(text: &str) -> Result<Self, FileError> {
        file::read(text)
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`Error::Usage`] naming file, line and key.
    fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::usage(format!("the configuration {} cannot be read: {e}", path.display())))?;
        Self::from_toml(&text).map_err(|e| Error::usage(format!("{}: {e}", path.display())))
    }
}

/// The default of a setting that has none: an error that names it.
///
/// # Errors
/// Always.
pub fn needed<T>(name: &'static str) -> Result<T> {
    Err(Error::setting(Setting::named(name), "is missing: it has no default"))
}

/// Entries as a file that [`Group::from_file`] reads.
pub fn to_toml(entries: &[(&'static Definition, toml::Value)]) -> String {
    entries.iter().map(|(d, value)| format!("{} = {value}\n", d.name)).collect()
}

#[cfg(test)]
mod tests;
