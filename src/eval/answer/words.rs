//! What stands on one line behind a marker: a choice, several, one that is denied, or none. All text here is NFKC and lower
//! case.

use crate::data::questions::Choice;

/// What follows a marker such as "Answer".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// One choice, and nothing on the line that takes it back.
    Choice(Choice),
    /// A choice that is said not to be the one.
    Denied(Choice),
    /// Several choices, or one that is asked about.
    Unsure,
    /// The model says that it has no answer.
    Abstains,
    /// Only punctuation until the end of the line.
    Nothing,
    /// Something else: not an answer.
    Prose,
}

/// What is known of a question's choices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choices<'a> {
    /// How many there are.
    pub(super) count: usize,
    /// Their texts without white space, where they are known; else empty.
    pub(super) texts: &'a [String],
}

/// What follows each of `markers` on the line. One that is part of its opposite ("不正解", "wrong answer") marks nothing.
pub(super) fn after_markers(line: &str, markers: &[&str], choices: Choices) -> Vec<Found> {
    const OPPOSITE: [&str; 15] = [
        "不",
        "未",
        "無",
        "誤",
        "誤った",
        "間違った",
        "誤りの",
        "他の",
        "wrong",
        "incorrect",
        "false",
        "other",
        "not the",
        " no",
        " not",
    ];
    let mut starts: Vec<(usize, usize)> =
        markers.iter().flat_map(|m| line.match_indices(m).map(|(at, m)| (at, at + m.len()))).collect();
    starts.sort_unstable();
    // A space in front, so that words of whole lines are found like those behind others.
    let before = |at: usize| format!(" {}", line[..at].trim_end());
    starts.retain(|&(at, _)| !OPPOSITE.iter().any(|word| before(at).ends_with(word)));
    starts.into_iter().map(|(_, end)| follow(&line[end..], choices)).collect()
}

/// Words and signs that may stand between a marker and its letter.
const BETWEEN: [&str; 16] = [
    "選択肢",
    "記号",
    "番号",
    "正解",
    "choice",
    "option",
    "is ",
    "is:",
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

/// Reads what follows a marker.
fn follow(rest: &str, choices: Choices) -> Found {
    let mut rest = rest;
    loop {
        rest = rest.trim_start_matches(is_decoration);
        if let Some(inner_on) = rest.strip_prefix('(') {
            let Some((inner, after)) = inner_on.split_once(')') else {
                return if bare(inner_on).is_empty() { Found::Nothing } else { Found::Prose };
            };
            if let Some(c) = alone(inner, choices.count) {
                return named(c, after, choices);
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
    if let Some((c, _)) = rest.strip_prefix("not ").and_then(|rest| standalone(rest.trim_start(), choices.count)) {
        return Found::Denied(c);
    }
    match worded(rest, choices).or_else(|| standalone(rest, choices.count)) {
        Some((c, after)) => named(c, after, choices),
        None => Found::Prose,
    }
}

/// What it means that the choice `c` is named, with `after` behind it on the line.
fn named(c: Choice, after: &str, choices: Choices) -> Found {
    let after = without_echo(c, after, choices.texts);
    let closed = after.trim_start_matches(|x: char| is_decoration(x) || x == ')');
    if denied(closed) {
        Found::Denied(c)
    } else if doubted(closed)
        || words_of_another(c, after, choices.texts)
        || another_follows(after, choices.count)
        || another_named(c, after, choices.count)
    {
        Found::Unsure
    } else {
        Found::Choice(c)
    }
}

/// "…?", "…かどうか", "…という見解".
fn doubted(after: &str) -> bool {
    const DOUBTS: [&str; 10] =
        ["?", "かどうか", "かもしれ", "かは", "とする", "という", "との", "の可能性", "か否か", "or not"];
    DOUBTS.iter().any(|w| after.starts_with(w))
}

/// Whether what stands behind the choice `c` is the whole text of another one.
fn words_of_another(c: Choice, after: &str, texts: &[String]) -> bool {
    let said = compact(after.trim_matches(|x: char| is_decoration(x) || x == '(' || x == ')'));
    let other = |(i, text): (usize, &String)| i != c.index() && !text.is_empty() && *text == said;
    texts.get(c.index()) != Some(&said) && texts.iter().enumerate().any(other)
}

/// What stands behind the choice's own text, where it is repeated whole; else all of `after`.
fn without_echo<'a>(c: Choice, after: &'a str, texts: &[String]) -> &'a str {
    let Some(text) = texts.get(c.index()).filter(|t| !t.is_empty()) else { return after };
    let start = after.trim_start_matches(|x: char| is_decoration(x) || x == ')');
    let mut own = text.chars();
    let mut next = own.next();
    for (at, x) in start.char_indices() {
        match next {
            None => return &start[at..],
            _ if x.is_whitespace() => {}
            Some(wanted) if wanted == x => next = own.next(),
            Some(_) => return after,
        }
    }
    if next.is_none() { "" } else { after }
}

/// A letter at the start of `text` with its choice's whole text behind it, whatever words these would otherwise be: "a call
/// to arms".
fn worded<'a>(text: &'a str, choices: Choices) -> Option<(Choice, &'a str)> {
    let c = Choice::from_char(text.chars().next()?)?.within(choices.count)?;
    let after = text.get(1..).filter(|after| !after.starts_with(|x: char| x.is_alphanumeric()))?;
    (without_echo(c, after, choices.texts).len() < after.len()).then_some((c, after))
}

/// Whether `after`, what stands behind a choice, repeats the choice's text or its beginning.
fn echoes(c: Choice, after: &str, texts: &[String]) -> bool {
    let said = compact(after);
    texts.get(c.index()).is_some_and(|text| {
        !text.is_empty() && (said.starts_with(text) || (text.starts_with(&said) && said.chars().count() >= 4))
    })
}

/// A text as it is compared with a choice's: without white space, and without the end of a sentence.
pub(super) fn compact(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    text.trim_end_matches(['。', '.']).to_owned()
}

/// Whether a letter of another choice than `c` stands anywhere in `after`, and neither to be denied ("c, not d", "d は誤り") nor
/// in the reasons that are given.
fn another_named(c: Choice, after: &str, choices: usize) -> bool {
    const REASONS: [&str; 14] = [
        "because",
        "since",
        "as ",
        "for ",
        "due to",
        "reason",
        "explanation",
        "なぜ",
        "理由",
        "ため",
        "から",
        "ので",
        "根拠",
        "解説",
    ];
    let mut before = ' ';
    for (at, x) in after.char_indices() {
        // The (b) of "5(b)" or "条(b)" is part of a reference.
        let inside = before.is_ascii_alphanumeric() || (before == '(' && follows_a_word(&after[..at]));
        before = x;
        if !x.is_ascii_lowercase() || inside {
            continue;
        }
        let Some((other, rest)) = letter(&after[at..]).and_then(|(other, rest)| Some((other.within(choices)?, rest)))
        else {
            continue;
        };
        let lead = after[..at].trim_end_matches(|x: char| is_decoration(x) || x == '(');
        let refused = denied(rest.trim_start_matches(|x: char| is_decoration(x) || x == ')')) || lead.ends_with("not");
        if other != c && !refused && !REASONS.iter().any(|word| lead.contains(word)) {
            return true;
        }
    }
    false
}

/// Whether the parenthesis that ends `text` stands directly behind a letter or a number.
fn follows_a_word(text: &str) -> bool {
    text.strip_suffix('(').and_then(|t| t.chars().next_back()).is_some_and(char::is_alphanumeric)
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
    const DENIALS: [&str; 24] = [
        "では",
        "じゃな",
        "でな",
        "以外",
        "は誤",
        "が誤",
        "も誤",
        "は間違",
        "も間違",
        "は違",
        "は正しくな",
        "は不",
        "とは言えな",
        "とはいえな",
        "とは限ら",
        "とは思",
        "is not",
        "is wrong",
        "is also wrong",
        "is incorrect",
        "is false",
        "isn't",
        "cannot",
        "can't",
    ];
    DENIALS.iter().any(|w| after.starts_with(w))
}

/// Whether another choice is offered beside the one before `after`: ", b", "と d", "または c".
fn another_follows(after: &str, choices: usize) -> bool {
    let trimmed = after.trim_start_matches(|c: char| c.is_whitespace() || "*_`\"'「」『』)]】}".contains(c));
    const JOIN: [&str; 18] = [
        ",",
        "、",
        "/",
        "・",
        ";",
        "|",
        "&",
        "+",
        "~",
        "〜",
        "と",
        "または",
        "又は",
        "もしくは",
        "あるいは",
        "か",
        "or ",
        "and ",
    ];
    let Some(rest) = JOIN.iter().find_map(|j| trimmed.strip_prefix(j)) else { return false };
    let rest = rest.trim_start_matches(|c: char| is_decoration(c) || c == '(');
    let rest = rest.strip_prefix("選択肢").unwrap_or(rest).trim_start();
    standalone(rest, choices).is_some()
}

/// The line without emphasis, brackets and the polite ending.
pub(super) fn bare(line: &str) -> &str {
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
pub(super) fn alone(line: &str, choices: usize) -> Option<Choice> {
    match standalone(bare(line), choices) {
        Some((c, "")) => Some(c),
        _ => None,
    }
}

/// "…を選びます", "…が正しい": the rest of a sentence that says no more than that it is the choice.
fn affirmed(after: &str) -> bool {
    let affirms = ["を選", "が正", "が適切", "が妥当", "です"].iter().any(|w| after.starts_with(w));
    affirms && !["ない", "なく", "ません", "ず", "か", "?"].iter().any(|w| after.contains(w))
}

/// The choice that a one-line response opens with, as choices are written: "c 株券等の…", "(b) …", "d. …". Behind a space alone
/// must stand the choice's text, as far as it is known, or what can be one: not the rest of a sentence.
pub(super) fn opening(line: &str, choices: Choices) -> Option<Choice> {
    let line = line.trim_start_matches(|c: char| is_decoration(c) || c == '(');
    let line = line.strip_prefix("選択肢").unwrap_or(line).trim_start();
    let (c, after) = worded(line, choices).or_else(|| standalone(line, choices.count))?;
    let punctuated = after.starts_with(|c: char| "):.、,】]」*".contains(c));
    let text = after.trim_start();
    let prose = |x: char| x.is_ascii_alphanumeric() || ('ぁ'..='ゟ').contains(&x);
    let spaced = after.starts_with(char::is_whitespace)
        && (echoes(c, text, choices.texts) || (choices.texts.is_empty() && !text.starts_with(prose)));
    let opens = line.starts_with(|c: char| c.is_ascii_alphabetic()) && (punctuated || spaced || affirmed(text));
    (opens && named(c, after, choices) == Found::Choice(c)).then_some(c)
}
