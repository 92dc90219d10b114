//! One self-contained HTML page per run and per comparison, with charts in SVG; the comparison also as text and Markdown.
//!
//! Pages are rendered by minijinja with HTML escaping on for every value. The charts are drawn by `svg`, not by a plotting
//! crate: a page that follows the reader's light or dark scheme needs charts coloured by the page's style sheet, with titles
//! and descriptions for screen readers, and a plotting crate writes fixed colours into each element and measures text that
//! the browser will set in another font. Nothing is loaded from anywhere: no scripts, fonts or images.

pub mod compare;
mod run;
mod svg;

pub use compare::{compare_html, compare_markdown, compare_text};
pub use run::run_report;

use crate::{Error, Result};

const BASE: &str = include_str!("templates/base.html");

/// Renders the page `template` (which extends "base.html").
fn render(template: &str, context: minijinja::Value) -> Result<String> {
    let failed = |e: minijinja::Error| Error::failed(format!("the report cannot be rendered: {e:#}"));
    let mut env = minijinja::Environment::new();
    env.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    env.add_template("base.html", BASE).map_err(failed)?;
    env.add_template("page.html", template).map_err(failed)?;
    env.get_template("page.html").and_then(|t| t.render(context)).map_err(failed)
}

/// Markup made by `svg`, which has escaped its texts itself.
fn markup(svg: String) -> minijinja::Value {
    minijinja::Value::from_safe_string(svg)
}
