//! Reads the chosen letter out of a model's free text.
//!
//! Three rules, the first that finds a letter wins:
//! 1. the last line on which *Answer* or 回答 is followed by a choice (`Answer: c`, `**回答（1文字のみ）：ｃ**`, `【回答】c`,
//!    `回答は選択肢3です`; a marker alone on its line takes the letter from the next one);
//! 2. the last line on which 正解 (or 正答, 解答, 答え, 正しい選択肢) is followed by a choice;
//! 3. a last line that is nothing but a choice (`c`, `（c）`, `\boxed{b}`), or a response of one line that opens with one in the way
//!    choices are written (`c 株券等の売買…`).
//!
//! A choice is a letter a–d or a digit 1–4, of any width, circled or not, in any brackets or emphasis. Prose is not guessed
//! at: "a, b, c, d のいずれか", "b と d", "a ではない", "a company" and the 1 of "1文字" name no choice, and a line that was cut
//! off after its marker is passed over in favour of an earlier one. What a reasoning model thought (`<think>…</think>`) is
//! no answer, and a thought that never ended leaves none.

use unicode_normalization::UnicodeNormalization;

/// What follows a marker such as "Answer".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// One choice, 0..4.
    Choice(usize),
    /// The model says that it has no answer.
    Abstains,
    /// Only punctuation until the end of the line.
    Nothing,
    /// Something else: not an answer.
    Prose,
}

/// The choice (0..4) that a response names, or `None` where it names none or several.
///
/// ```
/// use irori::eval::answer::parse;
/// assert_eq!(parse("理由は…\n\n**回答（1文字のみ）：ｃ**"), Some(2));
/// assert_eq!(parse("正解は「b」です。"), Some(1));
/// assert_eq!(parse("b または d"), None);
/// ```
pub fn parse(response: &str) -> Option<usize> {
    let text: String = response.nfkc().collect::<String>().to_ascii_lowercase();
    let text = without_thoughts(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    for markers in [&["answer", "回答"][..], &["正解", "正答", "解答", "答え", "正しい選択肢"]] {
        for (i, line) in lines.iter().enumerate().rev() {
            match after_markers(line, markers) {
                Some(Found::Choice(c)) => return Some(c),
                Some(Found::Abstains) => return None,
                Some(Found::Nothing) => {
                    // A heading: the letter may stand alone on the next line that holds anything.
                    let below = lines[i + 1..].iter().find(|l| !bare(l).is_empty());
                    if let Some(c) = below.and_then(|l| alone(l)) {
                        return Some(c);
                    }
                }
                Some(Found::Prose) | None => {}
            }
        }
    }
    let last = lines.iter().rev().find(|l| !bare(l).is_empty())?;
    alone(last).or_else(|| if lines.len() == 1 { opening(last) } else { None })
}

/// The choice (0..4) that `text` is: a letter or digit of any width, case and emphasis and nothing else.
pub fn exact(text: &str) -> Option<usize> {
    alone(&text.nfkc().collect::<String>().to_ascii_lowercase())
}

fn without_thoughts(text: &str) -> &str {
    match (text.rfind("</think>"), text.rfind("<think>")) {
        (Some(end), open) if open.is_none_or(|open| open < end) => &text[end + "</think>".len()..],
        (_, Some(_)) => "",
        _ => text,
    }
}

/// What follows the last of `markers` on the line that is followed by a choice; else what follows the last one at all.
fn after_markers(line: &str, markers: &[&str]) -> Option<Found> {
    let mut found = None;
    let mut starts: Vec<usize> =
        markers.iter().flat_map(|m| line.match_indices(m).map(|(at, m)| at + m.len())).collect();
    starts.sort_unstable();
    for &at in starts.iter().rev() {
        match follow(&line[at..]) {
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
fn follow(rest: &str) -> Found {
    let mut rest = rest;
    loop {
        rest = rest.trim_start_matches(is_decoration);
        if let Some(inner_on) = rest.strip_prefix('(') {
            let Some((inner, after)) = inner_on.split_once(')') else {
                return if bare(inner_on).is_empty() { Found::Nothing } else { Found::Prose };
            };
            if let Some(c) = alone(inner) {
                return if another_follows(after) { Found::Prose } else { Found::Choice(c) };
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
    match standalone(rest) {
        Some((c, after)) if !denied(after) && !another_follows(after) => Found::Choice(c),
        _ => Found::Prose,
    }
}

/// A choice at the start of `text` that is not the beginning of a word or a number, and what follows it.
fn standalone(text: &str) -> Option<(usize, &str)> {
    let c = text.chars().next()?;
    let after = &text[c.len_utf8()..];
    let next = after.chars().next();
    match c {
        'a'..='d' => {
            let in_word = next.is_some_and(|n| n.is_ascii_alphanumeric());
            let article = c == 'a' && is_article(after);
            (!in_word && !article).then_some((c as usize - 'a' as usize, after))
        }
        '1'..='4' => {
            let ends = next.is_none_or(|n| !n.is_alphanumeric())
                || ["番", "です", "だ", "が"].iter().any(|w| after.starts_with(w));
            let decimal = matches!(next, Some('.' | ',' | '/' | '%'))
                && after[1..].chars().next().is_some_and(|n| n.is_ascii_digit());
            (ends && !decimal && next != Some('%')).then_some((c as usize - '1' as usize, after))
        }
        _ => None,
    }
}

/// Whether the "a" before `after` is the English article: "a company may…", but not "a is right".
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
fn another_follows(after: &str) -> bool {
    let trimmed = after.trim_start_matches(|c: char| c.is_whitespace() || "*_`\"'「」『』)]】}".contains(c));
    const JOIN: [&str; 15] =
        [",", "、", "/", "・", "&", "+", "~", "〜", "と", "または", "又は", "もしくは", "か", "or ", "and "];
    let Some(rest) = JOIN.iter().find_map(|j| trimmed.strip_prefix(j)) else { return false };
    let rest = rest.trim_start_matches(|c: char| is_decoration(c) || c == '(');
    let rest = rest.strip_prefix("選択肢").unwrap_or(rest).trim_start();
    standalone(rest).is_some()
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
fn alone(line: &str) -> Option<usize> {
    match standalone(bare(line)) {
        Some((c, "")) => Some(c),
        _ => None,
    }
}

/// The choice that a one-line response opens with, as choices are written: "c 株券等の…", "(b) …", "d. …".
fn opening(line: &str) -> Option<usize> {
    let line = line.trim_start_matches(|c: char| is_decoration(c) || c == '(');
    let line = line.strip_prefix("選択肢").unwrap_or(line).trim_start();
    let (c, after) = standalone(line)?;
    let separated = after.starts_with(|c: char| c.is_whitespace() || "):.、,】]」*".contains(c));
    (line.starts_with(|c: char| c.is_ascii_alphabetic()) && separated && !denied(after) && !another_follows(after))
        .then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(text: &str, letter: &str) {
        assert_eq!(crate::eval::label(parse(text)), letter, "{text:?}");
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

    #[test]
    fn exact_letters() {
        assert_eq!(exact("c"), Some(2));
        assert_eq!(exact(" Ｃ "), Some(2));
        assert_eq!(exact("3"), Some(2));
        assert_eq!(exact("cc"), None);
        assert_eq!(exact(""), None);
        assert_eq!(exact("e"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "[ -~ａ-ｅ１-５①-⑤回答正解は：（）【】*\n、a-d]{0,60}") {
            let _ = parse(&text);
            let _ = exact(&text);
        }
    }
}
