//! Proportions with intervals, and grouped columns of counts.

use super::{escape, open, ticks};
use std::fmt::Write;

const WIDTH: f64 = 720.0;

/// A row of [`interval_chart`]: a proportion with its interval.
#[derive(Debug, Clone)]
pub struct IntervalRow {
    /// Left of the bar.
    pub label: String,
    /// CSS class that colours it.
    pub class: &'static str,
    /// The value and the interval's ends, in 0..=1.
    pub value: [f64; 3],
}

/// Horizontal bars of proportions with whiskers; a thin line marks the part that guessing gets right, if it is over 0.
pub fn interval_chart(title: &str, rows: &[IntervalRow], chance: f64) -> String {
    const ROW: f64 = 40.0;
    let height = ROW * rows.len() as f64 + 30.0;
    let said = rows.iter().map(|r| {
        format!("{} {:.1}% ({:.1} to {:.1})", r.label, 100.0 * r.value[0], 100.0 * r.value[1], 100.0 * r.value[2])
    });
    let mut out = open(WIDTH, height, title, &said.collect::<Vec<_>>().join("; "));
    for v in marks(chance) {
        let x = interval_x(v);
        let (class, said) = if v == chance && chance > 0.0 { ("grid chance", " chance") } else { ("grid", "") };
        let _ = write!(
            out,
            r#"<line class="{class}" x1="{x:.1}" x2="{x:.1}" y1="2" y2="{:.1}"/><text class="tick" x="{x:.1}" y="{:.1}" text-anchor="middle">{}%{said}</text>"#,
            height - 22.0,
            height - 6.0,
            (1000.0 * v).round() / 10.0
        );
    }
    for (i, row) in rows.iter().enumerate() {
        interval_row(&mut out, row, ROW * i as f64 + 6.0);
    }
    out.push_str("</svg>");
    out
}

/// Left end of the bars of an [`interval_chart`].
const BARS_LEFT: f64 = 130.0;

fn interval_x(v: f64) -> f64 {
    const RIGHT: f64 = 66.0;
    BARS_LEFT + v.clamp(0.0, 1.0) * (WIDTH - BARS_LEFT - RIGHT)
}

/// Quarters, and chance if it is over 0; no quarter stands so near to chance that their texts would overlap.
fn marks(chance: f64) -> Vec<f64> {
    let chance = Some(chance).filter(|&v| v > 0.0);
    let far = |v: &f64| chance.is_none_or(|chance| (v - chance).abs() > 0.095);
    [0.0, 0.25, 0.5, 0.75, 1.0].into_iter().filter(far).chain(chance).collect()
}

fn interval_row(out: &mut String, row: &IntervalRow, y: f64) {
    let [value, low, high] = row.value;
    let middle = y + 13.0;
    let _ = write!(
        out,
        r#"<text class="name" x="{:.1}" y="{:.1}" text-anchor="end">{}</text><rect class="bar {}" x="{BARS_LEFT}" y="{y:.1}" width="{:.1}" height="26" rx="4"/>"#,
        BARS_LEFT - 12.0,
        middle + 5.0,
        escape(&row.label),
        row.class,
        (interval_x(value) - BARS_LEFT).max(1.0),
    );
    let (from, to, upper) = (interval_x(low), interval_x(high), middle - 6.0);
    let _ = write!(
        out,
        r#"<path class="whisker" d="M{from:.1} {middle}H{to:.1}M{from:.1} {upper}v12M{to:.1} {upper}v12"/><text class="value" x="{:.1}" y="{:.1}">{:.1}%</text>"#,
        to + 9.0,
        middle + 5.0,
        100.0 * value
    );
}

/// Columns in groups: `groups` names the groups; a series has its name, its CSS class and one count a group.
pub fn column_chart(title: &str, groups: &[&str], series: &[(&str, &'static str, Vec<u64>)]) -> String {
    const HEIGHT: f64 = 220.0;
    const LEFT: f64 = 36.0;
    const BOTTOM: f64 = 26.0;
    const TOP: f64 = 18.0;
    let top = series.iter().flat_map(|s| &s.2).copied().max().unwrap_or(0).max(1) as f64;
    let marks: Vec<f64> = ticks(0.0, top, 4).into_iter().filter(|t| t.fract() == 0.0).collect();
    let top = marks.last().copied().unwrap_or(top).max(top);
    let py = |v: f64| HEIGHT - BOTTOM - v / top * (HEIGHT - BOTTOM - TOP);
    let said = series.iter().map(|(name, _, counts)| {
        let each: Vec<String> = groups.iter().zip(counts).map(|(g, c)| format!("{g} {c}")).collect();
        format!("{name}: {}", each.join(", "))
    });
    let mut out = open(WIDTH, HEIGHT, title, &said.collect::<Vec<_>>().join("; "));
    for &m in &marks {
        let y = py(m);
        let _ = write!(
            out,
            r#"<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{m}</text>"#,
            LEFT - 7.0,
            y + 4.0
        );
    }
    let group = (WIDTH - LEFT) / groups.len().max(1) as f64;
    let width = (group * 0.78 / series.len().max(1) as f64).min(34.0);
    for (g, name) in groups.iter().enumerate() {
        let centre = LEFT + group * (g as f64 + 0.5);
        let left = centre - width * series.len() as f64 / 2.0;
        for (s, (_, class, counts)) in series.iter().enumerate() {
            let Some(&count) = counts.get(g) else { continue };
            let (x, y) = (left + width * s as f64, py(count as f64));
            let _ = write!(
                out,
                r#"<rect class="bar {class}" x="{:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" rx="2"/><text class="count" x="{:.1}" y="{:.1}" text-anchor="middle">{count}</text>"#,
                x + 1.5,
                width - 3.0,
                (HEIGHT - BOTTOM - y).max(0.5),
                x + width / 2.0,
                y - 4.0
            );
        }
        let _ = write!(
            out,
            r#"<text class="name" x="{centre:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            HEIGHT - 6.0,
            escape(name)
        );
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_say_their_counts() {
        let columns = column_chart("t", &["a", "b"], &[("x<y", "s-cand", vec![0, 3])]);
        assert!(columns.contains("x&lt;y: a 0, b 3"));
    }

    #[test]
    fn without_a_chance_there_is_no_mark() {
        assert!(!interval_chart("t", &[], 0.0).contains("chance"));
        assert_eq!(marks(0.0), [0.0, 0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn chance_is_marked_once_and_has_room_for_its_name() {
        let row = IntervalRow { label: "tuned".into(), class: "s-cand", value: [0.5, 0.4, 0.6] };
        for choices in 2..=10u32 {
            let chart = interval_chart("t", std::slice::from_ref(&row), 1.0 / f64::from(choices));
            assert_eq!(chart.matches(" chance</text>").count(), 1, "{choices} choices: {chart}");
            let mut at = marks(1.0 / f64::from(choices)).into_iter().map(interval_x).collect::<Vec<_>>();
            at.sort_by(f64::total_cmp);
            assert!(at.windows(2).all(|w| w[1] - w[0] > 48.0), "{choices} choices: {at:?}");
        }
    }
}
