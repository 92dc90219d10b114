//! Small charts as inline SVG: lines over steps, proportions with intervals, grouped columns.
//!
//! Colours and fonts come from the page's style sheet through classes (`s-base`, `s-cand`, `s-truth`, …), so that a chart
//! follows light and dark schemes. Every chart has a title and a description; numbers that a reader may want are in a table
//! beside it.

use std::fmt::Write;

/// Escapes text for markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A line of a [`line_chart`].
#[derive(Debug, Clone)]
pub struct Series {
    /// In the legend; empty for none.
    pub name: String,
    /// CSS class that colours it: "s-cand", "s-base", "s-faint".
    pub class: &'static str,
    /// (x, y); points that are not finite leave a gap.
    pub points: Vec<(f64, f64)>,
    /// Draw a dot at each point.
    pub dots: bool,
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

/// At most `most` points of `points`: within each stretch the lowest and the highest y stay, so that peaks remain.
fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let size = points.len().div_ceil(most / 2);
    let mut out = Vec::with_capacity(most + 2);
    for chunk in points.chunks(size) {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        if let (Some(&low), Some(&high)) = (chunk.iter().min_by(by), chunk.iter().max_by(by)) {
            out.extend(if low.0 <= high.0 { [low, high] } else { [high, low] });
        }
    }
    out
}

/// Size of a [`line_chart`] that has the page's whole width.
pub const WIDE: (f64, f64) = (960.0, 300.0);
/// Size of a [`line_chart`] that has half of it.
pub const HALF: (f64, f64) = (460.0, 220.0);

/// Lines over steps, in a frame of `size`. `zero`: the y axis begins at 0 (where all values are positive). Returns "" without a finite point.
pub fn line_chart(size: (f64, f64), title: &str, x_name: &str, unit: &str, zero: bool, series: &[Series]) -> String {
    const L: f64 = 52.0;
    const R: f64 = 14.0;
    const T: f64 = 14.0;
    const B: f64 = 34.0;
    let (w, h) = size;
    let all = || series.iter().flat_map(|s| &s.points).filter(|p| p.0.is_finite() && p.1.is_finite());
    let bounds = |f: fn(&(f64, f64)) -> f64| {
        all().map(f).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    let ((x0, x1), (mut y0, mut y1)) = (bounds(|p| p.0), bounds(|p| p.1));
    if all().next().is_none() {
        return String::new();
    }
    if zero && y0 > 0.0 {
        y0 = 0.0;
    }
    if y0 == y1 {
        let pad = if y0 == 0.0 { 1.0 } else { y0.abs() * 0.5 };
        (y0, y1) = (if zero { y0.min(0.0) } else { y0 - pad }, y1 + pad);
    }
    let y_ticks = ticks(y0, y1, 4);
    let (y0, y1) = (y_ticks[0], y_ticks[y_ticks.len() - 1]);
    let x_span = if x1 > x0 { x1 - x0 } else { 1.0 };
    let px = |x: f64| L + (x - x0) / x_span * (w - L - R);
    let py = |y: f64| h - B - (y - y0) / (y1 - y0) * (h - T - B);
    let mut out = String::new();
    let last = series.iter().rev().find_map(|s| Some((s, s.points.iter().rev().find(|p| p.1.is_finite())?)));
    let described =
        last.map_or(String::new(), |(_, p)| format!("; at {} {} it is {}{unit}", x_name, short(p.0), short(p.1)));
    let _ = write!(
        out,
        r#"<svg class="chart" viewBox="0 0 {w} {h}" role="img"><title>{}</title><desc>Line chart over {x_name} {} to {}{}</desc>"#,
        escape(title),
        short(x0),
        short(x1),
        escape(&described)
    );
    for &y in &y_ticks {
        let at = py(y);
        let _ = write!(
            out,
            r#"<line class="grid" x1="{L}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}{}</text>"#,
            w - R,
            L - 7.0,
            at + 4.0,
            short(y),
            escape(unit)
        );
    }
    for x in ticks(x0, x1, 6).into_iter().filter(|x| (x0..=x1).contains(x) && (x1 - x0 > 6.0 || x.fract() == 0.0)) {
        let _ = write!(
            out,
            r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            px(x),
            h - B + 17.0,
            short(x)
        );
    }
    let _ = write!(
        out,
        r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
        w - R,
        h - 3.0,
        escape(x_name)
    );
    for s in series {
        let points = thin(&s.points, 600);
        let mut path = String::new();
        let mut pen_down = false;
        for &(x, y) in &points {
            if x.is_finite() && y.is_finite() {
                let _ = write!(path, "{}{:.1} {:.1}", if pen_down { "L" } else { "M" }, px(x), py(y));
                pen_down = true;
            } else {
                pen_down = false;
            }
        }
        let _ = write!(out, r#"<path class="line {}" d="{path}"/>"#, s.class);
        if s.dots || points.len() == 1 {
            for &(x, y) in points.iter().filter(|p| p.0.is_finite() && p.1.is_finite()) {
                let _ = write!(
                    out,
                    r#"<circle class="dot {}" cx="{:.1}" cy="{:.1}" r="3.2"><title>{}: {}{}</title></circle>"#,
                    s.class,
                    px(x),
                    py(y),
                    short(x),
                    short(y),
                    escape(unit)
                );
            }
        }
    }
    out.push_str("</svg>");
    out
}

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
    const W: f64 = 720.0;
    const L: f64 = 130.0;
    const R: f64 = 66.0;
    const STEP: f64 = 40.0;
    let height = STEP * rows.len() as f64 + 30.0;
    let px = |v: f64| L + v.clamp(0.0, 1.0) * (W - L - R);
    let said: Vec<String> = rows
        .iter()
        .map(|r| {
            format!("{} {:.1}% ({:.1} to {:.1})", r.label, 100.0 * r.value[0], 100.0 * r.value[1], 100.0 * r.value[2])
        })
        .collect();
    let mut out = format!(
        r#"<svg class="chart" viewBox="0 0 {W} {height}" role="img"><title>{}</title><desc>{}</desc>"#,
        escape(title),
        escape(&said.join("; "))
    );
    // A tick gives way to the mark of chance beside it.
    let free = |v: &f64| chance <= 0.0 || (v - chance).abs() > 0.12;
    let chance_tick = Some(chance).filter(|&v| v > 0.0);
    for v in [0.0, 0.25, 0.5, 0.75, 1.0].into_iter().filter(free).chain(chance_tick) {
        let x = px(v);
        let at_chance = chance_tick == Some(v);
        let class = if at_chance { "grid chance" } else { "grid" };
        let _ = write!(
            out,
            r#"<line class="{class}" x1="{x:.1}" x2="{x:.1}" y1="2" y2="{:.1}"/><text class="tick" x="{x:.1}" y="{:.1}" text-anchor="middle">{}%{}</text>"#,
            height - 22.0,
            height - 6.0,
            (1000.0 * v).round() / 10.0,
            if at_chance { " chance" } else { "" }
        );
    }
    for (i, row) in rows.iter().enumerate() {
        let y = STEP * i as f64 + 6.0;
        let [value, low, high] = row.value;
        let middle = y + 13.0;
        let _ = write!(
            out,
            r#"<text class="name" x="{:.1}" y="{:.1}" text-anchor="end">{}</text><rect class="bar {}" x="{L}" y="{y:.1}" width="{:.1}" height="26" rx="4"/><path class="whisker" d="M{:.1} {middle}H{:.1}M{:.1} {}v12M{:.1} {}v12"/><text class="value" x="{:.1}" y="{:.1}">{:.1}%</text>"#,
            L - 12.0,
            middle + 5.0,
            escape(&row.label),
            row.class,
            (px(value) - L).max(1.0),
            px(low),
            px(high),
            px(low),
            middle - 6.0,
            px(high),
            middle - 6.0,
            px(high) + 9.0,
            middle + 5.0,
            100.0 * value
        );
    }
    out.push_str("</svg>");
    out
}

/// Columns in groups: `groups` names the groups, each series has one count a group.
pub fn column_chart(title: &str, groups: &[&str], series: &[(&str, &'static str, Vec<u64>)]) -> String {
    const W: f64 = 720.0;
    const H: f64 = 220.0;
    const L: f64 = 36.0;
    const B: f64 = 26.0;
    const T: f64 = 18.0;
    let top = series.iter().flat_map(|s| &s.2).copied().max().unwrap_or(0).max(1) as f64;
    let marks: Vec<f64> = ticks(0.0, top, 4).into_iter().filter(|t| t.fract() == 0.0).collect();
    let top = marks.last().copied().unwrap_or(top).max(top);
    let py = |v: f64| H - B - v / top * (H - B - T);
    let group = (W - L) / groups.len().max(1) as f64;
    let width = (group * 0.78 / series.len().max(1) as f64).min(34.0);
    let said: Vec<String> = series
        .iter()
        .map(|(name, _, counts)| {
            let each: Vec<String> = groups.iter().zip(counts).map(|(g, c)| format!("{g} {c}")).collect();
            format!("{name}: {}", each.join(", "))
        })
        .collect();
    let mut out = format!(
        r#"<svg class="chart" viewBox="0 0 {W} {H}" role="img"><title>{}</title><desc>{}</desc>"#,
        escape(title),
        escape(&said.join("; "))
    );
    for &m in &marks {
        let y = py(m);
        let _ = write!(
            out,
            r#"<line class="grid" x1="{L}" x2="{W}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{m}</text>"#,
            L - 7.0,
            y + 4.0
        );
    }
    for (g, name) in groups.iter().enumerate() {
        let centre = L + group * (g as f64 + 0.5);
        let left = centre - width * series.len() as f64 / 2.0;
        for (s, (_, class, counts)) in series.iter().enumerate() {
            let Some(&count) = counts.get(g) else { continue };
            let (x, y) = (left + width * s as f64, py(count as f64));
            let _ = write!(
                out,
                r#"<rect class="bar {class}" x="{:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" rx="2"/><text class="count" x="{:.1}" y="{:.1}" text-anchor="middle">{count}</text>"#,
                x + 1.5,
                width - 3.0,
                (H - B - y).max(0.5),
                x + width / 2.0,
                y - 4.0
            );
        }
        let _ = write!(
            out,
            r#"<text class="name" x="{centre:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            H - 6.0,
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

    #[test]
    fn charts_are_well_formed_and_escaped() {
        let points: Vec<(f64, f64)> = (0..5000).map(|i| (f64::from(i), f64::from(i % 97))).collect();
        let s = |points: Vec<(f64, f64)>| Series { name: "x".into(), class: "s-cand", points, dots: false };
        let svg = line_chart(HALF, "a<b>&", "step", "", true, &[s(points)]);
        assert!(
            svg.starts_with("<svg") && svg.ends_with("</svg>") && svg.contains("a&lt;b&gt;&amp;") && svg.len() < 20_000
        );
        assert_eq!(line_chart(HALF, "t", "step", "", true, &[s(vec![(0.0, f64::NAN)])]), "");
        let gap = line_chart(HALF, "t", "step", "", false, &[s(vec![(0.0, 1.0), (1.0, f64::INFINITY), (2.0, 1.0)])]);
        assert!(gap.matches('M').count() == 2 && !gap.contains("NaN") && !gap.contains("inf"), "{gap}");
        let columns = column_chart("t", &["a", "b"], &[("x<y", "s-cand", vec![0, 3])]);
        assert!(columns.contains("x&lt;y: a 0, b 3"));
    }
}
