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

mod file;
mod value;

use crate::{Error, Result, error::Setting};
pub use file::FileError;
use std::path::Path;
pub use value::{Bytes, Choice, Given, Slot, Value, Words, choices_of, expected};

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
fn words_of(value: &toml::Value) -> String {
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
    Err(Error::setting(Setting::named(name), "is missing: set it on the command line or in a configuration file"))
}

/// Entries as a file that [`Group::from_file`] reads.
pub fn to_toml(entries: &[(&'static Definition, toml::Value)]) -> String {
    entries.iter().map(|(d, value)| format!("{} = {value}\n", d.name)).collect()
}

/// `name_in_snake_case` in kebab case.
#[doc(hidden)]
pub const fn kebab<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        let byte = name.as_bytes()[i];
        bytes[i] = if byte == b'_' { b'-' } else { byte };
        i += 1;
    }
    bytes
}

/// The help of a setting: its documentation without the space that begins a line.
#[doc(hidden)]
pub const fn trimmed(doc: &'static str) -> &'static str {
    doc.trim_ascii()
}

/// Declares a group of settings: the struct of what was given (every field an `Option`), the struct of what was decided, and
/// how one becomes the other ([`Group`]).
///
/// A setting is written as a field with its default, then what differs from [`Definition::of`]:
/// `name: Type = default => { field: value, … },`. A default may end in `?` (see [`needed`]). The line of documentation is
/// its help. `group name: Given,` takes in another group whole (`first group` puts it before the others); `older { name: Type => {…}, }` declares settings that are
/// still read, for the group's own code to translate, and are no part of the result.
#[macro_export]
macro_rules! settings {
    (
        $(#[$given_meta:meta])* $given_vis:vis struct $given:ident;
        $(#[$meta:meta])* $vis:vis struct $resolved:ident;
        $(first group $first:ident: $first_given:ty,)*
        $($heading:literal {
            $($(#[doc = $help:literal])+ $field:ident: $ty:ty = $default:expr => { $($part:ident: $what:expr),* $(,)? },)*
        })*
        $(group $inner:ident: $inner_given:ty,)*
        $(older $older_heading:literal {
            $($(#[doc = $older_help:literal])+ $older:ident: $older_ty:ty => { $($older_part:ident: $older_what:expr),* $(,)? },)*
        })?
    ) => {
        $(#[$given_meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        $given_vis struct $given {
            $(#[doc = "The settings of another group."] pub $first: $first_given,)*
            $($($(#[doc = $help])+ pub $field: Option<<$ty as $crate::settings::Slot>::Value>,)*)*
            $($($(#[doc = $older_help])+ pub $older: Option<$older_ty>,)*)?
            $(#[doc = "The settings of another group."] pub $inner: $inner_given,)*
        }

        $(#[$meta])*
        $vis struct $resolved {
            $(#[doc = "The settings of another group."] pub $first: <$first_given as $crate::settings::Group>::Resolved,)*
            $($($(#[doc = $help])+ pub $field: $ty,)*)*
            $(#[doc = "The settings of another group."] pub $inner: <$inner_given as $crate::settings::Group>::Resolved,)*
        }

        #[allow(non_upper_case_globals)]
        impl $given {
            $($(const $field: $crate::settings::Definition = $crate::settings::Definition {
                default: || {
                    let made = || -> $crate::Result<$ty> { Ok($default) };
                    $crate::settings::Slot::entry(&made().ok()?)
                },
                $($part: $what,)*
                ..$crate::settings::Definition::of::<<$ty as $crate::settings::Slot>::Value>(
                    $crate::settings!(@name $field), $crate::settings::trimmed(concat!($($help),+)), $heading,
                )
            };)*)*
            $($(const $older: $crate::settings::Definition = $crate::settings::Definition {
                $($older_part: $older_what,)*
                ..$crate::settings::Definition::of::<$older_ty>(
                    $crate::settings!(@name $older), $crate::settings::trimmed(concat!($($older_help),+)), $older_heading,
                )
            };)*)?
        }

        impl $crate::settings::Group for $given {
            type Resolved = $resolved;

            fn definitions() -> Vec<&'static $crate::settings::Definition> {
                let own: &[&'static $crate::settings::Definition] = &[$($(&Self::$field,)*)* $($(&Self::$older,)*)?];
                let mut all = Vec::new();
                $(all.extend(<$first_given as $crate::settings::Group>::definitions());)*
                all.extend_from_slice(own);
                $(all.extend(<$inner_given as $crate::settings::Group>::definitions());)*
                all
            }

            fn put(&mut self, name: &str, given: $crate::settings::Given<'_>) -> $crate::Result<bool, String> {
                $($(if Self::$field.is(name) {
                    self.$field = Some(given.read()?);
                    return Ok(true);
                })*)*
                $($(if Self::$older.is(name) {
                    self.$older = Some(given.read()?);
                    return Ok(true);
                })*)?
                $(if <$first_given as $crate::settings::Group>::definitions().iter().any(|d| d.is(name)) {
                    return self.$first.put(name, given);
                })*
                $(if <$inner_given as $crate::settings::Group>::definitions().iter().any(|d| d.is(name)) {
                    return self.$inner.put(name, given);
                })*
                Ok(false)
            }

            fn or(self, other: Self) -> Self {
                Self {
                    $($first: self.$first.or(other.$first),)*
                    $($($field: self.$field.or(other.$field),)*)*
                    $($($older: self.$older.or(other.$older),)*)?
                    $($inner: self.$inner.or(other.$inner),)*
                }
            }

            fn resolve(self) -> $crate::Result<$resolved> {
                Ok($resolved {
                    $($first: self.$first.resolve()?,)*
                    $($($field: match <$ty as $crate::settings::Slot>::of(self.$field) {
                        Some(given) => given,
                        None => $default,
                    },)*)*
                    $($inner: self.$inner.resolve()?,)*
                })
            }

            fn entries(resolved: &$resolved) -> $crate::Result<Vec<(&'static $crate::settings::Definition, toml::Value)>> {
                let mut all = Vec::new();
                $(all.extend(<$first_given as $crate::settings::Group>::entries(&resolved.$first)?);)*
                $($($crate::settings::enter(&mut all, &Self::$field, &resolved.$field)?;)*)*
                $(all.extend(<$inner_given as $crate::settings::Group>::entries(&resolved.$inner)?);)*
                Ok(all)
            }
        }
    };
    (@name $field:ident) => {{
        const NAME: &str = stringify!($field);
        const BYTES: [u8; NAME.len()] = $crate::settings::kebab(NAME);
        match std::str::from_utf8(&BYTES) {
            Ok(name) => name,
            Err(_) => NAME,
        }
    }};
}

/// Adds what `slot` holds, if it holds something.
#[doc(hidden)]
pub fn enter(
    all: &mut Vec<(&'static Definition, toml::Value)>,
    definition: &'static Definition,
    slot: &impl Slot,
) -> Result<()> {
    if slot.value().is_some() {
        let refusal = "cannot be written to a file: it is not UTF-8";
        let value = slot.entry().ok_or_else(|| Error::setting(Setting::named(definition.name), refusal))?;
        all.push((definition, value));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
