//! The charts of a run's page.

use super::{
    super::{markup, svg},
    log::Log,
};
use crate::train::metrics::{Eval, Step};

/// A chart with its heading and its legend: the class and the name of each line.
#[derive(serde::Serialize)]
pub(super) struct Chart {
    title: &'static str,
    svg: minijinja::Value,
    legend: Vec<(&'static str, &'static str)>,
}

/// Loss of training and evaluation over steps. Many points are drawn faintly behind their moving average.
pub(super) fn loss(log: &Log) -> Option<Chart> {
    let train: Vec<(f64, f64)> = log.steps().map(|s| (s.step as f64, s.loss)).collect();
    let eval: Vec<(f64, f64)> = log.evals().map(|e| (e.step as f64, e.loss)).collect();
    let series = |class, points, dots| svg::Series { class, points, dots };
    let (mut lines, mut legend) = (Vec::new(), Vec::new());
    if train.len() > 40 {
        let average = smooth(&train);
        lines.extend([series("s-faint", train, false), series("s-cand", average, false)]);
        legend.push(("s-cand", "training, smoothed (raw behind it)"));
    } else {
        lines.push(series("s-cand", train, false));
        legend.push(("s-cand", "training"));
    }
    if !eval.is_empty() {
        lines.push(series("s-base", eval, true));
        legend.push(("s-base", "evaluation"));
    }
    let title = "Loss (nats per target token)";
    let chart = svg::line_chart(svg::WIDE, "Loss in nats per target token", "step", "", &lines);
    (!chart.is_empty()).then(|| Chart { title, svg: markup(chart), legend })
}

/// Exponential moving average with a span of about a twentieth of the points, started without bias.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 2.0 / (points.len() as f64 / 20.0 + 1.0).max(2.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let step = |&(x, y): &(f64, f64)| {
        sum = keep * sum + y;
        weight = keep * weight + 1.0;
        (x, sum / weight)
    };
    points.iter().map(step).collect()
}

/// Accuracy, learning rate, gradient norm, speed and memory, each where it was logged.
pub(super) fn small(log: &Log) -> Vec<Chart> {
    let steps = |value: fn(&Step) -> f64| log.steps().map(|s| (s.step as f64, value(s))).collect::<Vec<_>>();
    let accuracy = |e: &Eval| Some((e.step as f64, 100.0 * e.accuracy?));
    [
        ("Evaluation accuracy", "%", "s-base", true, log.evals().filter_map(accuracy).collect()),
        ("Learning rate", "", "s-base", false, steps(|s| s.learning_rate)),
        ("Gradient norm before clipping", "", "s-cand", false, steps(|s| s.grad_norm)),
        ("Speed (tokens per second)", "", "s-base", false, steps(|s| s.tokens_per_second)),
        ("Peak memory (GiB)", "", "s-base", false, steps(|s| s.peak_memory_bytes as f64 / (1u64 << 30) as f64)),
    ]
    .into_iter()
    .filter_map(|(title, unit, class, dots, points)| {
        let chart = svg::line_chart(svg::HALF, title, "step", unit, &[svg::Series { class, points, dots }]);
        (!chart.is_empty()).then(|| Chart { title, svg: markup(chart), legend: Vec::new() })
    })
    .collect()
}
