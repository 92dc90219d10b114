//! Small charts as inline SVG: [`lines`] over steps, [`bars`] for proportions and counts.
//!
//! Colours and fonts come from the page's style sheet through classes (`s-base`, `s-cand`, `s-truth`, …), so that a chart
//! follows light and dark schemes. Every chart has a title and a description; numbers that a reader may want are in a table
//! beside it.

mod bars;
mod lines;

pub use bars::{IntervalRow, column_chart, interval_chart};
pub use lines::{HALF, Series, WIDE, line_chart};

/// Escapes text for markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number as an axis shows it: "0.25", "1.2k", "3.4M", "2e-5".
pub fn short(x: f64) -> String {
    let a = x.abs();
    let trim = |s: String| {
        if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_owned() } else { s }
    };
    match a {
        0.0 => "0".into(),
        _ if a >= 1e9 => trim(format!("{:.2}", x / 1e9)) + "G",
        _ if a >= 1e6 => trim(format!("{:.2}", x / 1e6)) + "M",
        _ if a >= 1e4 => trim(format!("{:.1}", x / 1e3)) + "k",
        _ if a >= 100.0 => trim(format!("{x:.1}")),
        _ if a >= 0.01 => trim(format!("{x:.3}")),
        _ => {
            let s = format!("{x:.2e}");
            match s.split_once('e') {
                Some((m, e)) => format!("{}e{e}", trim(m.to_owned())),
                None => s,
            }
        }
    }
}

/// Round tick positions that cover low..=high: about `count` of them, in steps of 1, 2 or 5 times a power of ten.
pub fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = (high - low).max(f64::MIN_POSITIVE);
    let raw = span / count.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&s| s >= raw * 0.999).unwrap_or(power * 10.0);
    let first = (low / step).floor();
    let last = (high / step).ceil();
    if !(step.is_finite() && first.is_finite() && last.is_finite()) || last - first > 50.0 {
        return vec![low, high];
    }
    (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect()
}

/// The opening tag of a chart of `width` × `height`, with its title and its description for screen readers.
fn open(width: f64, height: f64, title: &str, description: &str) -> String {
    format!(
        r#"<svg class="chart" viewBox="0 0 {width} {height}" role="img"><title>{}</title><desc>{}</desc>"#,
        escape(title),
        escape(description)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (x, s) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (2.5, "2.5"),
            (40.0, "40"),
            (1500.0, "1500"),
            (12_345.0, "12.3k"),
            (2e6, "2M"),
            (0.0002, "2e-4"),
            (-1.5, "-1.5"),
        ] {
            assert_eq!(short(x), s);
        }
    }

    #[test]
    fn ticks_cover_the_range() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(1.1, 2.9, 4), [1.0, 1.5, 2.0, 2.5, 3.0]);
        for (l, h) in [(1e-9, 2e-9), (0.0, 1e12), (-3.0, 4.0), (5.0, 5.0 + 1e-12)] {
            let t = ticks(l, h, 4);
            assert!(t[0] <= l && t[t.len() - 1] >= h && t.len() < 60, "{l} {h} {t:?}");
        }
    }
}
