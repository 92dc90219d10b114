//! A choice of a question, named by its letter.

use std::fmt;

/// One of the choices of a question: a for the first, j for the tenth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Choice(u8);

impl Choice {
    /// A question has at least so many choices.
    pub const FEWEST: usize = 2;
    /// A question has at most so many choices.
    pub const MOST: usize = 10;
    /// a to j.
    pub const ALL: [Self; Self::MOST] =
        [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5), Self(6), Self(7), Self(8), Self(9)];

    /// The choices of a question that has `n` of them.
    pub fn first(n: usize) -> &'static [Self] {
        const { &Self::ALL }.split_at(n.min(Self::MOST)).0
    }

    /// The choice at place `index`, from 0.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// 0 for a, 9 for j.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The lower-case letter.
    pub fn letter(self) -> &'static str {
        const LETTERS: [&str; Choice::MOST] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        LETTERS[self.index()]
    }

    /// The choice, if a question with `n` choices has it.
    pub fn within(self, n: usize) -> Option<Self> {
        (self.index() < n).then_some(self)
    }

    /// Reads a letter in either case, half or full width.
    pub fn from_char(c: char) -> Option<Self> {
        let c = half_width(c);
        matches!(c, 'a'..='j').then(|| Self(c as u8 - b'a'))
    }

    /// Reads a text that is a letter and nothing else but surrounding white space.
    pub fn parse(text: &str) -> Option<Self> {
        let mut chars = text.trim().chars();
        let choice = Self::from_char(chars.next()?)?;
        chars.next().is_none().then_some(choice)
    }
}

/// How many choices questions are taken to have that do not say it: four, or as many more as the furthest of the letters that
/// such questions are known to have needs. `known` is for each of them the least number of its choices.
pub fn unsaid_choices(known: impl IntoIterator<Item = usize>) -> usize {
    known.into_iter().fold(4, usize::max)
}

/// A letter of either case and width as lower case and half width; any other character as it is.
pub(super) fn half_width(c: char) -> char {
    let first = match c {
        'Ａ'..='Ｚ' => 'Ａ',
        'ａ'..='ｚ' => 'ａ',
        _ => return c.to_ascii_lowercase(),
    };
    char::from_u32(c as u32 - first as u32 + 'a' as u32).unwrap_or(c)
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.letter())
    }
}

/// The letters of a question with `n` choices as a list for messages: "a, b or c".
pub fn letters(n: usize) -> String {
    match Choice::first(n) {
        [] => String::new(),
        [one] => one.to_string(),
        [firsts @ .., last] => {
            let firsts: Vec<&str> = firsts.iter().map(|c| c.letter()).collect();
            format!("{} or {last}", firsts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_every_case_and_width_from_a_to_j() {
        for (i, choice) in Choice::ALL.into_iter().enumerate() {
            assert_eq!((choice.index(), Choice::from_index(i)), (i, Some(choice)));
            let offset = i as u32;
            for first in ['a', 'A', 'ａ', 'Ａ'] {
                let c = char::from_u32(first as u32 + offset).unwrap();
                assert_eq!(Choice::from_char(c), Some(choice), "{c}");
                assert_eq!(Choice::parse(&format!("　{c}\n")), Some(choice));
            }
            assert_eq!(choice.within(i), None);
            assert_eq!(choice.within(i + 1), Some(choice));
        }
        for no in ["k", "Ｋ", "", " ", "aa", "1", "あ", "j."] {
            assert_eq!(Choice::parse(no), None, "{no}");
        }
        assert_eq!(Choice::from_index(10), None);
        assert_eq!((Choice::first(2).len(), Choice::first(99).len()), (2, 10));
        assert_eq!((letters(2), letters(4)), ("a or b".into(), "a, b, c or d".into()));
    }
}
