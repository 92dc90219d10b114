//! Reads the chosen letter out of a model's free text.
//!
//! Three rules, the first that finds a letter wins:
//! 1. the last line on which *Answer* or 回答 is followed by a choice (`Answer: c`, `**回答（1文字のみ）：ｃ**`, `【回答】c`,
//!    `回答は選択肢3です`; a marker alone on its line takes the letter from the next one);
//! 2. the last line on which 正解 (or 正答, 解答, 答え, 正しい選択肢) is followed by a choice;
//! 3. a last line that is nothing but a choice (`c`, `（c）`, `\boxed{b}`), or a response of one line that opens with one in the way
//!    choices are written (`c 株券等の売買…`).
//!
//! A choice is a letter or a number among those of the question (of ten choices a–j or 1–10), of any width, circled or not, in
//! any brackets or emphasis. A letter or number beyond them is no choice. Prose is not guessed at: "a, b, c, d のいずれか",
//! "b と d", "a ではない", "a company", "I think", "e.g." and the 1 of "1文字" name no choice, and a line that was cut off after
//! its marker is passed over in favour of an earlier one. What a reasoning model thought (`<think>…</think>`) is no answer, and
//! a thought that never ended leaves none.

use crate::data::questions::Choice;
use unicode_normalization::UnicodeNormalization;

/// What follows a marker such as "Answer".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// One choice.
    Choice(Choice),
    /// The model says that it has no answer.
    Abstains,
    /// Only punctuation until the end of the line.
    Nothing,
    /// Something else: not an answer.
    Prose,
}

/// The choice that a response to a question with `choices` choices names, or `None` where it names none or several.
///
/// ```
/// use irori::eval::answer::parse;
/// let letter = |response, choices| parse(response, choices).map(|c| c.letter());
/// assert_eq!(letter("理由は…\n\n**回答（1文字のみ）：ｃ**", 4), Some("c"));
/// assert_eq!(letter("正解は「b」です。", 2), Some("b"));
/// assert_eq!(letter("b または d", 4), None);
/// assert_eq!(letter("Answer: e", 4), None);
/// ```
pub fn parse(response: &str, choices: usize) -> Option<Choice> {
    let text: String = response.nfkc().collect::<String>().to_ascii_lowercase();
    let text = without_thoughts(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    for markers in [&["answer", "回答"][..], &["正解", "正答", "解答", "答え", "正しい選択肢"]] {
        for (i, line) in lines.iter().enumerate().rev() {
            match after_markers(line, markers, choices) {
                Some(Found::Choice(c)) => return Some(c),
                Some(Found::Abstains) => return None,
                Some(Found::Nothing) => {
                    // A heading: the letter may stand alone on the next line that holds anything.
                    let below = lines[i + 1..].iter().find(|l| !bare(l).is_empty());
                    if let Some(c) = below.and_then(|l| alone(l, choices)) {
                        return Some(c);
                    }
                }
                Some(Found::Prose) | None => {}
            }
        }
    }
    let last = lines.iter().rev().find(|l| !bare(l).is_empty())?;
    alone(last, choices).or_else(|| if lines.len() == 1 { opening(last, choices) } else { None })
}

/// The choice that `text` is: a letter or number of any width, case and emphasis and nothing else.
pub fn exact(text: &str) -> Option<Choice> {
    alone(&text.nfkc().collect::<String>().to_ascii_lowercase(), Choice::MOST)
}

fn without_thoughts(text: &str) -> &str {
    match (text.rfind("</think>"), text.rfind("<think>")) {
        (Some(end), open) if open.is_none_or(|open| open < end) => &text[end + "</think>".len()..],
        (_, Some(_)) => "",
        _ => text,
    }
}

/// What follows the last of `markers` on the line that is followed by a choice; else what follows the last one at all.
fn after_markers(line: &str, markers: &[&str], choices: usize) -> Option<Found> {
    let mut found = None;
    let mut starts: Vec<usize> =
        markers.iter().flat_map(|m| line.match_indices(m).map(|(at, m)| at + m.len())).collect();
    starts.sort_unstable();
    for &at in starts.iter().rev() {
        match follow(&line[at..], choices) {
            f @ (Found::Choice(_) | Found::Abstains) => return Some(f),
            f => found = found.or(Some(f)),
        }
    }
    found
}

/// Words and signs that may stand between a marker and its letter.
const BETWEEN: [&str; 15] = [
    "選択肢",
    "記号",
    "番号",
    "正解",
    "choice",
    "option",
    "is ",
    "\\boxed",
    "\\text",
    "->",
    "は",
    "が",
    "の",
    "→",
    "**",
];

fn is_decoration(c: char) -> bool {
    c.is_whitespace() || "*_`~#:=\"'“”‘’「」『』[]【】{}<>〈〉《》|$-–—、,;・✅.。!".contains(c)
}

/// Reads what follows a marker. `rest` is NFKC and lower case.
fn follow(rest: &str, choices: usize) -> Found {
    let mut rest = rest;
    loop {
        rest = rest.trim_start_matches(is_decoration);
        if let Some(inner_on) = rest.strip_prefix('(') {
            let Some((inner, after)) = inner_on.split_once(')') else {
                return if bare(inner_on).is_empty() { Found::Nothing } else { Found::Prose };
            };
            if let Some(c) = alone(inner, choices) {
                return if another_follows(after, choices) { Found::Prose } else { Found::Choice(c) };
            }
            rest = after;
        } else if let Some(r) = rest.strip_prefix(')') {
            rest = r;
        } else if let Some(r) = BETWEEN.iter().find_map(|w| rest.strip_prefix(w)) {
            rest = r;
        } else {
            break;
        }
    }
    if rest.is_empty() {
        return Found::Nothing;
    }
    const ABSTAIN: [&str; 6] = ["unknown", "不明", "わからな", "分からな", "わかりません", "分かりません"];
    if ABSTAIN.iter().any(|w| rest.starts_with(w)) {
        return Found::Abstains;
    }
    match standalone(rest, choices) {
        Some((c, after)) if !denied(after) && !another_follows(after, choices) => Found::Choice(c),
        _ => Found::Prose,
    }
}

/// A choice at the start of `text` that is not the beginning of a word or a number, and what follows it.
fn standalone(text: &str, choices: usize) -> Option<(Choice, &str)> {
    let (found, after) = if text.starts_with(|c: char| c.is_ascii_digit()) { number(text)? } else { letter(text)? };
    found.within(choices).map(|choice| (choice, after))
}

/// A letter at the start of `text` that stands alone.
fn letter(text: &str) -> Option<(Choice, &str)> {
    let c = text.chars().next().filter(char::is_ascii_lowercase)?;
    let after = &text[1..];
    let in_word = after.starts_with(|n: char| n.is_ascii_alphanumeric());
    let word = match c {
        'a' => is_article(after),
        'i' => is_article(after) || after.starts_with(['\'', '’']) || after.starts_with(".e"),
        'e' => after.starts_with(".g"),
        _ => false,
    };
    if in_word || word { None } else { Some((Choice::from_char(c)?, after)) }
}

/// A number at the start of `text` that counts choices: not that of "4.5 %", "10件" or "1文字".
fn number(text: &str) -> Option<(Choice, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, after) = text.split_at(digits);
    let next = after.chars().next();
    let ends =
        next.is_none_or(|n| !n.is_alphanumeric()) || ["番", "です", "だ", "が"].iter().any(|w| after.starts_with(w));
    let decimal =
        matches!(next, Some('.' | ',' | '/' | '%')) && after[1..].chars().next().is_some_and(|n| n.is_ascii_digit());
    let counts = ends && !decimal && next != Some('%') && !number.starts_with('0');
    let place = number.parse::<usize>().ok().filter(|_| counts)?.checked_sub(1)?;
    Some((Choice::from_index(place)?, after))
}

/// Whether the "a" before `after` is the English article ("a company may…", but not "a is right"), or the "i" the pronoun.
fn is_article(after: &str) -> bool {
    let Some(word) = after.strip_prefix(' ') else { return false };
    let word: &str = word.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("");
    !word.is_empty() && !["is", "because", "since", "as", "for", "and", "or"].contains(&word)
}

/// "…ではない", "…以外", "…is not".
fn denied(after: &str) -> bool {
    let after = after.trim_start_matches(|c: char| is_decoration(c) || c == ')');
    ["では", "じゃな", "でな", "以外", "は誤", "は正しくな", "は不", "is not", "is wrong", "isn't"]
        .iter()
        .any(|w| after.starts_with(w))
}

/// Whether another choice is offered beside the one before `after`: ", b", "と d", "または c".
fn another_follows(after: &str, choices: usize) -> bool {
    let trimmed = after.trim_start_matches(|c: char| c.is_whitespace() || "*_`\"'「」『』)]】}".contains(c));
    const JOIN: [&str; 15] =
        [",", "、", "/", "・", "&", "+", "~", "〜", "と", "または", "又は", "もしくは", "か", "or ", "and "];
    let Some(rest) = JOIN.iter().find_map(|j| trimmed.strip_prefix(j)) else { return false };
    let rest = rest.trim_start_matches(|c: char| is_decoration(c) || c == '(');
    let rest = rest.strip_prefix("選択肢").unwrap_or(rest).trim_start();
    standalone(rest, choices).is_some()
}

/// The line without emphasis, brackets and the polite ending.
fn bare(line: &str) -> &str {
    let trim = |c: char| is_decoration(c) || c == '(' || c == ')';
    let mut line = line.trim_matches(trim);
    for lead in ["選択肢", "\\boxed", "\\text", "choice", "option"] {
        line = line.strip_prefix(lead).unwrap_or(line).trim_start_matches(trim);
    }
    for tail in ["です", "番"] {
        line = line.strip_suffix(tail).unwrap_or(line).trim_end_matches(trim);
    }
    line
}

/// The choice that a line is.
fn alone(line: &str, choices: usize) -> Option<Choice> {
    match standalone(bare(line), choices) {
        Some((c, "")) => Some(c),
        _ => None,
    }
}

/// The choice that a one-line response opens with, as choices are written: "c 株券等の…", "(b) …", "d. …".
fn opening(line: &str, choices: usize) -> Option<Choice> {
    let line = line.trim_start_matches(|c: char| is_decoration(c) || c == '(');
    let line = line.strip_prefix("選択肢").unwrap_or(line).trim_start();
    let (c, after) = standalone(line, choices)?;
    let separated = after.starts_with(|c: char| c.is_whitespace() || "):.、,】]」*".contains(c));
    (line.starts_with(|c: char| c.is_ascii_alphabetic())
        && separated
        && !denied(after)
        && !another_follows(after, choices))
    .then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(text: &str, letter: &str) {
        assert_eq!(crate::eval::label(parse(text, 4)), letter, "{text:?}");
    }

    #[test]
    fn answer_lines() {
        for text in [
            "Answer: c",
            "answer：C",
            "Reasoning: 1. b は誤り\n\nAnswer: c",
            "**Answer: c**",
            "**Answer:** c",
            "Answer: (c)",
            "Answer: [c]",
            "The answer is c.",
            "Final Answer: \\boxed{c}",
            "回答：c",
            "回答（1文字のみ）: c",
            "回答（１文字のみ）：ｃ",
            "回答(c)",
            "【回答】c",
            "**回答：c**  ",
            "回答は選択肢cです。",
            "回答: 3",
            "回答：３",
            "回答：③",
            "回答は3番です",
            "回答：ⓒ",
            "Answer: c 株券等の売買に係るコール・オプションの取得",
            "Answer: b\nAnswer: c",
            "## 回答\n\n**c**",
            "Answer:\nc",
            "Answer: c, because d is wrong",
            "<think>\nAnswer: a\n</think>\n\nAnswer: c",
        ] {
            is(text, "c");
        }
    }

    #[test]
    fn right_answer_lines() {
        for text in [
            "したがって、**正解は b** です。",
            "正解が b である",
            "正解：選択肢 b",
            "### **正解：B**",
            "正解は「b」です。",
            "正しい選択肢は「b 民法」です。",
            "正解は２です",
            "- **正解：選択肢 b**\n- **理由**：所有権を失う",
            "答えはbです",
        ] {
            is(text, "b");
        }
        // An answer line outranks a later 正解.
        is("Answer: a\n正解は b です", "a");
    }

    #[test]
    fn last_lines() {
        for text in
            ["d", "ｄ", "D.", "４", "④", "（d）", "**（d）**", "理由…\n\nd", "$$\n\\boxed{d}\n$$", "選択肢d", "dです。"]
        {
            is(text, "d");
        }
        is("d 株券等の売買に係るプット・オプションの付与", "d");
        is("d. 株券等", "d");
    }

    #[test]
    fn cut_off_lines_are_passed_over() {
        is("回答（1文字のみ）: b\n回答（1文字のみ）: b\n回答（1文字", "b");
        is("回答（1文字のみ）: b\n回答（1文字のみ）", "b");
        is("回答（1文字のみ）: b\n回答", "b");
    }

    #[test]
    fn prose_is_no_answer() {
        for text in [
            "",
            "   \n\n",
            "---",
            "回答",
            "回答（1文字のみ）",
            "回答は a, b, c, d のいずれか1文字のみ。",
            "回答は1つ選んでください",
            "回答 4.5%",
            "正解は **b** と **d** が正しい可能性があります。",
            "正解は b または d",
            "選択肢aとcです。",
            "Answer: a company that files a report",
            "Answer: apple",
            "Answer: e",
            "Answer: 5",
            "Answer: 12",
            "正解は a ではない",
            "Answer: a\nAnswer: unknown",
            "回答: 不明",
            "d は誤り",
            "a quick look",
            "<think>\nAnswer: a",
            "12",
            "🏮",
            "(",
            "Answer: (",
            "Answer: ()",
            "回答（",
        ] {
            is(text, "unknown");
        }
    }

    /// Every form in which a choice may be named, `{}` standing for it.
    const FORMS: [&str; 12] = [
        "{}",
        "Answer: {}",
        "**Answer: {}**",
        "Answer:\n{}",
        "回答：{}",
        "【回答】{}",
        "（{}）",
        "正解は「{}」です。",
        "回答は選択肢{}です",
        "\\boxed{{}}",
        "Answer: {}, because the others are wrong",
        "<think>\nAnswer: a\n</think>\n\nAnswer: {}",
    ];

    #[test]
    fn the_choices_are_those_of_the_question() {
        for choices in 2..=10 {
            for (i, choice) in Choice::ALL.into_iter().enumerate() {
                let circled = char::from_u32('①' as u32 + i as u32).unwrap();
                let wide = char::from_u32('ａ' as u32 + i as u32).unwrap();
                let names = [choice.to_string(), choice.to_string().to_uppercase(), (i + 1).to_string()];
                for name in names.into_iter().chain([circled.to_string(), wide.to_string()]) {
                    for form in FORMS {
                        let text = form.replacen("{}", &name, 1);
                        assert_eq!(parse(&text, choices), choice.within(choices), "{text:?} of {choices}");
                    }
                }
            }
        }
    }

    #[test]
    fn words_of_one_letter_are_no_choice_among_ten() {
        for text in [
            "Answer: I think that it depends",
            "I think b",
            "Answer: I’d say so",
            "Answer: I'm not sure",
            "Answer: e.g. the first",
            "Answer: i.e. none",
            "Answer: b または j",
            "Answer: k",
            "回答：11",
            "回答は10個あります",
            "回答 10.5%",
            "10件",
        ] {
            assert_eq!(parse(text, 10), None, "{text:?}");
        }
        for (text, letter) in [
            ("Answer: i", "i"),
            ("Answer: I, because of article 9", "i"),
            ("Answer: i is right", "i"),
            ("e", "e"),
            ("回答：10番", "j"),
            ("j 株券等", "j"),
        ] {
            assert_eq!(crate::eval::label(parse(text, 10)), letter, "{text:?}");
        }
    }

    #[test]
    fn exact_letters() {
        let c = Choice::from_char('c');
        for text in ["c", " Ｃ ", "3", "③"] {
            assert_eq!(exact(text), c, "{text}");
        }
        for text in ["j", "10", "⑩", "１０", "ｊ", "(J)"] {
            assert_eq!(exact(text), Choice::from_index(9), "{text}");
        }
        for text in ["cc", "", "k", "11", "0", "01", "10.5", "100"] {
            assert_eq!(exact(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "[ -~ａ-ｋ０-９①-⑪回答正解は：（）【】*\n、a-k]{0,60}") {
            for choices in 2..=10 {
                assert!(parse(&text, choices).is_none_or(|c| c.index() < choices));
            }
            let _ = exact(&text);
        }
    }
}
