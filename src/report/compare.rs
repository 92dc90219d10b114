//! A comparison as text, Markdown and HTML.

use super::{markup, render, svg};
use crate::{
    Result,
    eval::compare::{Change, Comparison, Difference, Side},
    stats::p_text,
};
use std::fmt::Write;

/// The self-contained page.
pub fn compare_html(c: &Comparison) -> Result<String> {
    let row = |label: &str, class, side: &Side| svg::IntervalRow {
        label: label.into(),
        class,
        value: [side.accuracy.value, side.accuracy.low, side.accuracy.high],
    };
    let accuracy = svg::interval_chart(
        "Accuracy with 95% intervals",
        &[row("baseline", "s-base", &c.baseline), row("candidate", "s-cand", &c.candidate)],
        c.chance,
    );
    let labels = svg::column_chart(
        "How often each letter was right and was predicted",
        &c.letters,
        &[
            ("right answers", "s-truth", c.candidate.truth.clone()),
            ("baseline", "s-base", c.baseline.predicted.clone()),
            ("candidate", "s-cand", c.candidate.predicted.clone()),
        ],
    );
    let most = [&c.baseline, &c.candidate].iter().flat_map(|s| s.confusion.iter().flatten()).max().copied();
    render(
        include_str!("templates/compare.html"),
        minijinja::context! {
            c, remarks => remarks(c), names => c.letters, most => most.unwrap_or(1).max(1), verdict => c.verdict(), p => p_text(c.p_value),
            accuracy_chart => markup(accuracy), label_chart => markup(labels), version => env!("CARGO_PKG_VERSION"),
        },
    )
}

/// Columns a text takes on a terminal: two for each wide East Asian character.
pub fn width(text: &str) -> usize {
    let wide = |c: char| matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd);
    text.chars().map(|c| 1 + usize::from(wide(c))).sum()
}

/// A table in columns: the first to the left, the others to the right.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..count).map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| width(c)).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - width(cell));
            let _ = if i == 0 { write!(line, " {cell}{pad}") } else { write!(line, "  {pad}{cell}") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn pct(x: f64) -> String {
    format!("{:.1}%", 100.0 * x)
}

fn table_rows(c: &Comparison) -> [Vec<Vec<String>>; 2] {
    let head =
        |first: &str, rest: &[&str]| std::iter::once(first).chain(rest.iter().copied()).map(str::to_owned).collect();
    let counts = |name: &str, counts: &[u64]| {
        std::iter::once(name.to_owned()).chain(counts.iter().map(u64::to_string)).collect::<Vec<_>>()
    };
    let labels = vec![
        head("answers", &c.letters),
        counts("right", &c.candidate.truth),
        counts("baseline", &c.baseline.predicted),
        counts("candidate", &c.candidate.predicted),
    ];
    let mut laws = vec![head("law", &["n", "baseline", "candidate", "won", "lost"])];
    for l in &c.laws {
        laws.push(vec![
            l.law.clone(),
            l.baseline.total.to_string(),
            pct(l.baseline.value),
            pct(l.candidate.value),
            l.won.to_string(),
            l.lost.to_string(),
        ]);
    }
    [labels, laws]
}

fn confusion_rows(side: &Side, letters: &[&str]) -> Vec<Vec<String>> {
    let mut rows =
        vec![std::iter::once("right \\ said").chain(letters.iter().copied()).map(str::to_owned).collect::<Vec<_>>()];
    for (name, row) in letters.iter().zip(&side.confusion) {
        rows.push(std::iter::once((*name).to_owned()).chain(row.iter().map(u64::to_string)).collect());
    }
    rows
}

/// The first few names, and how many more there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// A field that differs, with both values.
fn difference(d: &Difference) -> String {
    let word = |v: &serde_json::Value| match v {
        serde_json::Value::Null => "not said".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!("{} ({} / {})", d.field, word(&d.baseline), word(&d.candidate))
}

/// What cannot be compared and what to beware of, one sentence each.
fn remarks(c: &Comparison) -> Vec<String> {
    let mut out = Vec::new();
    for (role, side) in [("baseline", &c.baseline), ("candidate", &c.candidate)] {
        if side.unpaired > 0 {
            let names = some(&side.only_here);
            out.push(format!("{} questions of the {role} have no partner and are left out: {names}", side.unpaired));
        }
        if !side.repeated.is_empty() {
            out.push(format!("questions that stand more than once in the {role}: {}", some(&side.repeated)));
        }
        if side.unknown > 0 {
            out.push(format!("{} answers of the {role} are unknown and count as not right", side.unknown));
        }
    }
    for (asking, what) in [(true, "were asked differently"), (false, "were made with other things")] {
        let fields: Vec<String> = c.differences.iter().filter(|d| d.asking == asking).map(difference).collect();
        if !fields.is_empty() {
            out.push(format!("the two {what}: {}", fields.join(", ")));
        }
    }
    if c.permuted > 0 {
        out.push(format!("{} pairs show their choices in different orders", c.permuted));
    }
    out
}

/// Sides of which one letter is nearly all that is said.
fn warnings(c: &Comparison) -> Vec<String> {
    let of = |(role, side): (&str, &Side)| side.warning.as_ref().map(|w| format!("warning: {role}: {w}"));
    [("baseline", &c.baseline), ("candidate", &c.candidate)].into_iter().filter_map(of).collect()
}

/// For the terminal.
pub fn compare_text(c: &Comparison) -> String {
    let mut out = format!("{} questions in both\n", c.pairs);
    for r in remarks(c).into_iter().chain(warnings(c)) {
        let _ = writeln!(out, "  {r}");
    }
    let _ = writeln!(out, "  baseline   {}  {}", c.baseline.accuracy, c.baseline.name);
    let _ = writeln!(out, "  candidate  {}  {}", c.candidate.accuracy, c.candidate.name);
    let t = c.table;
    let _ = writeln!(out, "  both right {}, won {}, lost {}, both wrong {}", t.both, t.won, t.lost, t.neither);
    let _ = writeln!(out, "{}\n", c.verdict());
    let [labels, laws] = table_rows(c);
    let _ = write!(out, "{}\n{}", columns(&labels), columns(&laws));
    for (role, side) in [("baseline", &c.baseline), ("candidate", &c.candidate)] {
        let _ = write!(out, "\n{role}\n{}", columns(&confusion_rows(side, &c.letters)));
    }
    for (word, list) in [("won", &c.won), ("lost", &c.lost)] {
        let _ = writeln!(out, "\n{word}: {}", list.len());
        for x in list {
            let _ = writeln!(out, "  {}  {} → {} (right {})", name_of(x), x.baseline, x.candidate, x.correct);
        }
    }
    out
}

fn name_of(c: &Change) -> String {
    let first: String = c.question.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(40).collect();
    if c.file_name.is_empty() { first } else { c.file_name.clone() }
}

fn cell(text: &str) -> String {
    svg::escape(text).replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn markdown_table(rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|c| cell(c)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
        if i == 0 {
            let _ = writeln!(out, "|---{}|", "|---:".repeat(row.len().saturating_sub(1)));
        }
    }
    out
}

/// For a pull request or a notebook.
pub fn compare_markdown(c: &Comparison) -> String {
    let mut out = format!("# {} against {}\n\n{}\n\n", cell(&c.candidate.name), cell(&c.baseline.name), c.verdict());
    let _ = writeln!(out, "{} questions in both.", c.pairs);
    for r in remarks(c).into_iter().chain(warnings(c)) {
        let _ = writeln!(out, "- {}", cell(&r));
    }
    let accuracy = |role: &str, s: &Side| {
        vec![
            role.to_owned(),
            format!("{}/{}", s.accuracy.count, s.accuracy.total),
            pct(s.accuracy.value),
            format!("{}–{}", pct(s.accuracy.low), pct(s.accuracy.high)),
        ]
    };
    let rows = vec![
        ["", "right", "accuracy", "95% interval"].map(str::to_owned).to_vec(),
        accuracy("baseline", &c.baseline),
        accuracy("candidate", &c.candidate),
    ];
    let t = c.table;
    let pairs = vec![
        ["", "candidate right", "candidate wrong"].map(str::to_owned).to_vec(),
        vec!["baseline right".into(), t.both.to_string(), format!("{} lost", t.lost)],
        vec!["baseline wrong".into(), format!("{} won", t.won), t.neither.to_string()],
    ];
    let [labels, laws] = table_rows(c);
    for (title, rows) in [("Accuracy", rows), ("Pairs", pairs), ("Answers", labels), ("By law", laws)] {
        let _ = write!(out, "\n## {title}\n\n{}", markdown_table(&rows));
    }
    for (role, side) in [("baseline", &c.baseline), ("candidate", &c.candidate)] {
        let _ = write!(out, "\n## Confusion of the {role}\n\n{}", markdown_table(&confusion_rows(side, &c.letters)));
    }
    for (word, list) in [("Won", &c.won), ("Lost", &c.lost)] {
        let _ = writeln!(out, "\n## {word}: {}\n", list.len());
        for x in list {
            let from = if x.file_name.is_empty() { "" } else { &format!("{}: ", cell(&x.file_name)) };
            let _ =
                writeln!(out, "- {from}{} ({} → {}, right {})", cell(&x.question), x.baseline, x.candidate, x.correct);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{
        compare::compare,
        result::{
            EvalResult,
            tests::{item, recorded},
        },
    };

    fn small() -> Comparison {
        let mut hostile = item("<script>alert(1)</script>_1", 0, Some(0));
        hostile.response = "</pre><img src=x onerror=alert(1)>|".into();
        let base = EvalResult {
            results: vec![item("<script>alert(1)</script>_1", 0, None), item("薬機法_2", 1, Some(1))],
            ..EvalResult::default()
        };
        let cand = EvalResult { results: vec![hostile, item("薬機法_2", 1, Some(0))], ..EvalResult::default() };
        compare(["base <1>", "cand"], &base, &cand).expect("comparable")
    }

    #[test]
    fn html_is_escaped_and_complete() {
        let page = compare_html(&small()).expect("rendered");
        assert!(!page.contains("<script") && !page.contains("<img") && page.contains("&lt;img src=x onerror"));
        for outside in ["http://", "https://", "url(", "@import", " src=x"] {
            assert!(!page.replace("&lt;img src=x", "").contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("No difference is shown"));
    }

    #[test]
    fn empty_comparison_renders() {
        let c = compare(["a", "b"], &EvalResult::default(), &EvalResult::default()).expect("comparable");
        assert!(compare_html(&c).expect("rendered").contains("</html>"));
        assert!(compare_text(&c).contains("0 questions"));
    }

    #[test]
    fn text_and_markdown() {
        let c = small();
        let text = compare_text(&c);
        assert!(text.contains("won 1, lost 1") && text.contains("薬機法_2  b → a (right b)"), "{text}");
        let md = compare_markdown(&c);
        assert!(md.contains("| baseline right | 0 | 1 lost |") && !md.contains("<script"), "{md}");
        assert_eq!(
            columns(&[vec!["薬".into(), "1".into()], vec!["abc".into(), "22".into()]]),
            "  薬    1\n  abc  22\n"
        );
    }

    /// Writes the page of the recorded pair where IRORI_KEEP_REPORT says, to be looked at.
    #[test]
    fn recorded_pair_as_page() {
        let (Some(small), Some(large)) =
            (recorded("qwen3_8b_norag_direct_dev27.json"), recorded("qwen3_8b_rag_cot_140.json"))
        else {
            return;
        };
        let c = compare(["qwen3_8b_norag_direct_dev27", "qwen3_8b_rag_cot_140"], &small, &large).expect("comparable");
        let page = compare_html(&c).expect("rendered");
        assert_eq!(page.matches("<details>").count() as u64, c.table.won + c.table.lost);
        if let Some(dir) = std::env::var_os("IRORI_KEEP_REPORT") {
            std::fs::write(std::path::Path::new(&dir).join("compare.html"), page).expect("kept");
        }
    }
}
