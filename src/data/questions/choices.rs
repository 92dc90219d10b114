//! Choices as one text, a line "a …" for each: how lawqa files and results hold them.

use super::{Choice, choice::half_width, excerpt};
use unicode_normalization::UnicodeNormalization;

/// The choices as lines "a …", "b …". [`parse`] reads them back, unless a choice of several lines has one that begins as
/// the next choice would.
pub fn format<T: AsRef<str>>(choices: &[T]) -> String {
    lines(choices).join("\n")
}

/// The choices with their letters before them.
pub fn lines<T: AsRef<str>>(choices: &[T]) -> Vec<String> {
    choices.iter().zip(Choice::ALL).map(|(text, choice)| format!("{choice} {}", text.as_ref())).collect()
}

/// Splits lines "a …", "b …" into the texts of 2 to 10 choices. A line that does not begin with the next letter and a
/// separator continues the choice before it; the letters may be of either case and width.
///
/// # Errors
/// In words: the first line is not that of a, a choice is empty, there are fewer than two or more than ten, or a letter
/// beyond the last one begins a line, written as the first is, so that a line between them seems to be missing.
pub fn parse(text: &str) -> Result<Vec<String>, String> {
    let mut choices: Vec<String> = Vec::new();
    let mut separator = None;
    let mut others: Vec<&str> = Vec::new();
    for line in text.lines() {
        let next =
            opening(line).filter(|(letter, _)| usize::from(*letter) == choices.len() && choices.len() < Choice::MOST);
        match (next, choices.last_mut()) {
            (Some((_, rest)), _) => {
                separator = separator.or(rest.chars().next());
                choices.push(rest.trim_start_matches(is_separator).trim().to_owned());
            }
            (None, Some(last)) if !line.trim().is_empty() => {
                last.push('\n');
                last.push_str(line.trim_end());
                others.push(line);
            }
            (None, Some(_)) => {}
            (None, None) if line.trim().is_empty() => {}
            (None, None) => return Err(format!("expected a first line \"a …\", found {:?}", excerpt(line))),
        }
    }
    if let Some(empty) = choices.iter().position(String::is_empty).and_then(Choice::from_index) {
        return Err(format!("choice {empty} is empty"));
    }
    let found = choices.len();
    let beyond = |line: &&str| {
        opening(line).is_some_and(|(letter, rest)| usize::from(letter) >= found && rest.chars().next() == separator)
    };
    match (others.into_iter().find(beyond), Choice::from_index(found)) {
        (Some(line), None) => Err(format!("expected at most 10 choices, and {:?} would be one more", excerpt(line))),
        (Some(line), Some(missing)) => {
            Err(format!("a line for choice {missing} is missing before {:?}", excerpt(line)))
        }
        (None, _) if found < Choice::FEWEST => Err(format!("expected 2 to 10 lines \"a …\", \"b …\", found {found}")),
        (None, _) => Ok(choices),
    }
}

/// The letter at the beginning of a line, as its place in the alphabet, and what follows it: nothing, or a separator and
/// a text.
fn opening(line: &str) -> Option<(u8, &str)> {
    let mut chars = line.trim_start().chars();
    let letter = half_width(chars.next()?);
    let rest = chars.as_str();
    (letter.is_ascii_lowercase() && (rest.is_empty() || rest.starts_with(is_separator)))
        .then(|| (letter as u8 - b'a', rest))
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, '.' | '．' | ':' | '：' | '、' | ')' | '）')
}

/// Splits choices that another program wrote: letters or numbers, in brackets or not ("(a) …", "ｂ．…", "③ …"). Without
/// such marks every line is a choice. The second value says whether at least two choices have marks.
pub fn parse_loosely(text: &str) -> (Vec<String>, bool) {
    let mut starts: Vec<usize> = Vec::new();
    let mut style = None;
    for line in text.split_inclusive('\n') {
        let at = line.as_ptr() as usize - text.as_ptr() as usize;
        if let Some((choice, found, _)) = mark(line)
            && choice.index() == starts.len()
            && style.is_none_or(|s| s == found)
        {
            style = Some(found);
            starts.push(at);
        }
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let marked: Vec<String> =
        starts.iter().zip(ends).map(|(&start, end)| unmarked(&text[start..end]).to_owned()).collect();
    if marked.is_empty() {
        return (text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect(), false);
    }
    let several = marked.len() >= Choice::FEWEST;
    (marked, several)
}

/// The texts of a list of choices: without their marks where each has its own.
pub fn parse_list(list: &[String]) -> Vec<String> {
    let has_its_own = |(i, text): (usize, &String)| mark(text).is_some_and(|(choice, ..)| choice.index() == i);
    if !list.is_empty() && list.iter().enumerate().all(has_its_own) {
        list.iter().map(|text| unmarked(text).to_owned()).collect()
    } else {
        list.to_vec()
    }
}

/// What a choice is called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Letter,
    Number,
}

/// The mark at the beginning of a text and what follows it.
fn mark(text: &str) -> Option<(Choice, Style, &str)> {
    let text = text.trim_start().trim_start_matches(['(', '（', '[', '【']);
    let mut chars = text.chars();
    let first: String = chars.next()?.nfkc().collect();
    let rest = chars.as_str();
    let (number, rest) = match (first.as_str(), rest.strip_prefix(['0', '０'])) {
        ("1", Some(after)) => ("10", after),
        _ => (first.as_str(), rest),
    };
    let (choice, style) = match number.parse::<usize>() {
        Ok(n) => (Choice::from_index(n.checked_sub(1)?)?, Style::Number),
        Err(_) => (Choice::parse(number)?, Style::Letter),
    };
    rest.chars().next().is_none_or(|c| !c.is_ascii_alphanumeric()).then_some((choice, style, rest))
}

/// A choice without its mark.
fn unmarked(choice: &str) -> &str {
    let rest = mark(choice).map_or(choice, |(.., rest)| rest);
    rest.trim_start_matches([')', '）', ']', '】', '.', '．', ':', '：', '、', ' ', '　', '\t']).trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|&t| t.to_owned()).collect()
    }

    #[test]
    fn choices_of_every_form() {
        let plain = texts(&["x", "y\n  z", "b", "w"]);
        assert_eq!(parse("a x\nb y\n  z\nc b\nd w").unwrap(), plain);
        assert_eq!(parse("ａ　x\r\nＢ．y\r\n  z\r\n\r\nC) b\r\nd：w\n").unwrap(), plain);
        assert_eq!(parse(&format(&plain)).unwrap(), plain);
        assert_eq!(parse("a はい\nb いいえ").unwrap(), ["はい", "いいえ"]);
        assert!(parse("a\nb y\nc z\nd w").unwrap_err().contains("choice a is empty"));
        assert!(parse("about\nb y").unwrap_err().contains("about"));
    }

    #[test]
    fn fewer_than_two_and_more_than_ten_are_refused_and_so_is_a_gap() {
        assert_eq!(parse("a x").unwrap_err(), "expected 2 to 10 lines \"a …\", \"b …\", found 1");
        assert_eq!(parse("").unwrap_err(), "expected 2 to 10 lines \"a …\", \"b …\", found 0");
        let ten: String = ('a'..='j').map(|c| format!("{c} x\n")).collect();
        assert_eq!(parse(&ten).unwrap().len(), 10);
        assert!(parse(&format!("{ten}k x")).unwrap_err().contains("at most 10"));
        assert_eq!(parse("a x\nb y\nd z").unwrap_err(), "a line for choice c is missing before \"d z\"");
        assert_eq!(parse("ａ　x\nｂ　y\nｄ　z").unwrap_err(), "a line for choice c is missing before \"ｄ\\u{3000}z\"");
    }

    #[test]
    fn lines_within_a_choice_may_begin_with_a_letter() {
        // A letter that is not the next one, and words, continue a choice.
        let within = "a x\na again\nc not yet\nbeside\nb y\nc z\nd w";
        assert_eq!(parse(within).unwrap(), ["x\na again\nc not yet\nbeside", "y", "z", "w"]);
        // Beyond the last choice only a line that is written as the first one is says that one is missing.
        assert_eq!(parse("a x\nb y\ne.g. z\nf: w").unwrap(), ["x", "y\ne.g. z\nf: w"]);
        assert!(parse("a x\nb y\nf w").is_err());
    }

    #[test]
    fn choices_that_others_wrote() {
        let four = texts(&["一", "二", "三", "四"]);
        assert_eq!(parse_loosely("a 一\nb 二\nc 三\nd 四"), (four.clone(), true));
        assert_eq!(parse_loosely("(a) 一\n続き\nｂ．二\nc: 三\nd、四").0, ["一\n続き", "二", "三", "四"]);
        assert_eq!(parse_loosely("1. 一\n② 二\n３）三\n【4】四"), (four, true));
        let ten: String = (1..=10).map(|n| format!("{n}. 第{n}\n")).collect();
        assert_eq!(parse_loosely(&ten).0[9], "第10");
        assert_eq!(parse_loosely(&ten).0.len(), 10);
        // A numbered list within a choice with letters is none of the choices.
        assert_eq!(parse_loosely("a 一\n2. 続き\nb 二").0, ["一\n2. 続き", "二"]);
        assert_eq!(parse_loosely("一\n二"), (texts(&["一", "二"]), false));
        assert_eq!(parse_loosely("a 一つだけ"), (texts(&["一つだけ"]), false));
        assert_eq!(parse_loosely(""), (Vec::new(), false));
        assert_eq!(parse_list(&texts(&["a 一", "b 二"])), ["一", "二"]);
        assert_eq!(parse_list(&texts(&["a 一", "c 二"])), ["a 一", "c 二"]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(list in prop::collection::vec("[あ-ん][あ-んa-z 0-9]{0,8}(\n[あ-んl-z][a-zあ-ん]{0,8}){0,2}", 2..=10)) {
            let list: Vec<String> = list.iter().map(|t| t.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")).collect();
            prop_assert_eq!(parse(&format(&list)).unwrap(), list.clone());
            prop_assert_eq!(parse_loosely(&format(&list)), (list.clone(), true));
            prop_assert_eq!(parse_list(&lines(&list)), list);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[a-mａ-ｌ０-９①-⑪1-9()（）.、：\n 一二]{0,60}") {
            if let Ok(list) = parse(&text) {
                prop_assert!((2..=10).contains(&list.len()) && list.iter().all(|t| !t.is_empty()));
            }
            parse_loosely(&text);
        }
    }
}
