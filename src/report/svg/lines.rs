//! Lines over steps.

use super::{escape, open, short, ticks};
use std::fmt::Write;

/// A line of a [`line_chart`].
#[derive(Debug, Clone)]
pub struct Series {
    /// CSS class that colours it: "s-cand", "s-base", "s-faint".
    pub class: &'static str,
    /// (x, y); points that are not finite leave a gap.
    pub points: Vec<(f64, f64)>,
    /// Draw a dot at each point.
    pub dots: bool,
}

/// Size of a [`line_chart`] that has the page's whole width.
pub const WIDE: (f64, f64) = (960.0, 300.0);
/// Size of a [`line_chart`] that has half of it.
pub const HALF: (f64, f64) = (460.0, 220.0);

const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// Most points that a line is drawn with.
const MOST_POINTS: usize = 600;

/// From values to places in the chart.
struct Frame {
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
    y_ticks: Vec<f64>,
}

impl Frame {
    /// A frame around all finite points, its y axis ending at ticks; `None` without such a point.
    fn around(size: (f64, f64), series: &[Series]) -> Option<Self> {
        let finite = || series.iter().flat_map(|s| &s.points).filter(|p| is_finite(p));
        finite().next()?;
        let bounds = |f: fn(&(f64, f64)) -> f64| {
            finite().map(f).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
        };
        let (x, (low, mut high)) = (bounds(|p| p.0), bounds(|p| p.1));
        let low = low.min(0.0);
        if low == high {
            high += 1.0;
        }
        let y_ticks = ticks(low, high, 4);
        Some(Self { width: size.0, height: size.1, x, y: (y_ticks[0], y_ticks[y_ticks.len() - 1]), y_ticks })
    }

    fn px(&self, x: f64) -> f64 {
        let span = if self.x.1 > self.x.0 { self.x.1 - self.x.0 } else { 1.0 };
        LEFT + (x - self.x.0) / span * (self.width - LEFT - RIGHT)
    }

    fn py(&self, y: f64) -> f64 {
        self.height - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (self.height - TOP - BOTTOM)
    }

    /// Grid lines with their values, and the steps below.
    fn axes(&self, out: &mut String, x_name: &str, unit: &str) {
        for &y in &self.y_ticks {
            let at = self.py(y);
            let _ = write!(
                out,
                r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}{}</text>"#,
                self.width - RIGHT,
                LEFT - 7.0,
                at + 4.0,
                short(y),
                escape(unit)
            );
        }
        let (first, last) = self.x;
        let whole = |x: &f64| last - first > 6.0 || x.fract() == 0.0;
        for x in ticks(first, last, 6).into_iter().filter(|x| (first..=last).contains(x)).filter(whole) {
            let _ = write!(
                out,
                r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                self.px(x),
                self.height - BOTTOM + 17.0,
                short(x)
            );
        }
        let _ = write!(
            out,
            r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            self.width - RIGHT,
            self.height - 3.0,
            escape(x_name)
        );
    }

    /// The line of a series and, where it has them, its dots.
    fn line(&self, out: &mut String, series: &Series, unit: &str) {
        let points = thin(&series.points);
        let mut path = String::new();
        let mut pen_down = false;
        for p in &points {
            if is_finite(p) {
                let _ = write!(path, "{}{:.1} {:.1}", if pen_down { "L" } else { "M" }, self.px(p.0), self.py(p.1));
            }
            pen_down = is_finite(p);
        }
        let _ = write!(out, r#"<path class="line {}" d="{path}"/>"#, series.class);
        if !series.dots && points.len() > 1 {
            return;
        }
        for &(x, y) in points.iter().filter(|p| is_finite(p)) {
            let _ = write!(
                out,
                r#"<circle class="dot {}" cx="{:.1}" cy="{:.1}" r="3.2"><title>{}: {}{}</title></circle>"#,
                series.class,
                self.px(x),
                self.py(y),
                short(x),
                short(y),
                escape(unit)
            );
        }
    }
}

fn is_finite(p: &(f64, f64)) -> bool {
    p.0.is_finite() && p.1.is_finite()
}

/// At most [`MOST_POINTS`] of `points`: within each stretch the lowest and the highest y stay, so that peaks remain.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let size = points.len().div_ceil(MOST_POINTS / 2);
    let mut out = Vec::with_capacity(MOST_POINTS + 2);
    for chunk in points.chunks(size) {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        if let (Some(&low), Some(&high)) = (chunk.iter().min_by(by), chunk.iter().max_by(by)) {
            out.extend(if low.0 <= high.0 { [low, high] } else { [high, low] });
        }
    }
    out
}

/// Lines over steps, in a frame of `size`; the y axis has 0 in it. `unit` follows each value. Returns "" without a finite
/// point.
pub fn line_chart(size: (f64, f64), title: &str, x_name: &str, unit: &str, series: &[Series]) -> String {
    let Some(frame) = Frame::around(size, series) else { return String::new() };
    let last = series.iter().rev().find_map(|s| s.points.iter().rev().find(|p| is_finite(p)));
    let last = last.map_or_else(String::new, |p| format!("; at {x_name} {} it is {}{unit}", short(p.0), short(p.1)));
    let description = format!("Line chart over {x_name} {} to {}{last}", short(frame.x.0), short(frame.x.1));
    let mut out = open(frame.width, frame.height, title, &description);
    frame.axes(&mut out, x_name, unit);
    for s in series {
        frame.line(&mut out, s, unit);
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(title: &str, points: Vec<(f64, f64)>) -> String {
        line_chart(HALF, title, "step", "", &[Series { class: "s-cand", points, dots: false }])
    }

    #[test]
    fn charts_are_well_formed_small_and_escaped() {
        let svg = chart("a<b>&", (0..5000).map(|i| (f64::from(i), f64::from(i % 97))).collect());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && svg.contains("a&lt;b&gt;&amp;"));
        assert!(svg.len() < 20_000, "{} bytes", svg.len());
    }

    #[test]
    fn what_is_not_finite_is_a_gap_or_no_chart() {
        assert_eq!(chart("t", vec![(0.0, f64::NAN)]), "");
        let gap = chart("t", vec![(0.0, 1.0), (1.0, f64::INFINITY), (2.0, 1.0)]);
        assert!(gap.matches('M').count() == 2 && !gap.contains("NaN") && !gap.contains("inf"), "{gap}");
    }

    #[test]
    fn a_line_that_stays_where_it_is_has_an_axis() {
        for value in [0.0, 3.0, -2.0] {
            let svg = chart("t", vec![(1.0, value), (2.0, value)]);
            assert!(!svg.contains("NaN") && svg.matches("class=\"grid\"").count() > 2, "{value}: {svg}");
        }
    }
}
