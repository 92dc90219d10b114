//! The declaration of a group of settings.

use super::{Definition, Slot};
use crate::{Error, Result, error::Setting};

/// Declares a group of settings: the struct of what was given (every field an `Option`), the struct of what was decided, and
/// how one becomes the other ([`Group`](crate::settings::Group)).
///
/// A setting is written as a field with its default, then what differs from
/// [`Definition::of`](crate::settings::Definition::of): `name: Type = default => { field: value, … },`. A default may end in
/// `?` (see [`needed`](crate::settings::needed)). The line of documentation is its help. `group name: Given,` takes in another
/// group whole (`first group` puts it before the others); `older { name: Type => {…}, }` declares settings that are still
/// read, for the group's own code to translate, and are no part of the result.
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
