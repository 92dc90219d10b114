//! `irori compare`.

use super::{output::OutputFile, print};
use crate::{
    Error, Result,
    eval::{compare::compare, result::EvalResult},
    report,
};
use std::path::{Path, PathBuf};

/// Arguments of `irori compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Result of `irori eval` to compare with
    baseline: PathBuf,
    /// Result to judge
    candidate: PathBuf,
    /// Write the comparison here: .html, .md, .json or .txt
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the output file
    #[arg(long)]
    force: bool,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy)]
enum Format {
    Html,
    Markdown,
    Json,
    Text,
}

fn format_of(path: &Path) -> Result<Format> {
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("html" | "htm") => Ok(Format::Html),
        Some("md" | "markdown") => Ok(Format::Markdown),
        Some("json") => Ok(Format::Json),
        Some("txt") => Ok(Format::Text),
        _ => Err(Error::usage(format!(
            "--output {}: name a file that ends in .html, .md, .json or .txt",
            path.display()
        ))),
    }
}

/// The name of a side: the file's without its ending, with its directory where both are called alike.
fn names(a: &Path, b: &Path) -> [String; 2] {
    let stem = |p: &Path| p.file_stem().map_or_else(|| p.display().to_string(), |s| s.to_string_lossy().into_owned());
    if stem(a) == stem(b) { [a, b].map(|p| p.display().to_string()) } else { [stem(a), stem(b)] }
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let output = match &args.output {
        Some(path) => Some((format_of(path)?, OutputFile::new(path, args.force)?)),
        None => None,
    };
    let (baseline, candidate) = (EvalResult::read(&args.baseline)?, EvalResult::read(&args.candidate)?);
    let [name_b, name_c] = names(&args.baseline, &args.candidate);
    let c = compare([&name_b, &name_c], &baseline, &candidate)?;
    if c.pairs == 0 {
        return Err(Error::failed(format!(
            "{} and {} have no question in common ({} and {} questions): they cannot be compared",
            args.baseline.display(),
            args.candidate.display(),
            baseline.results.len(),
            candidate.results.len()
        )));
    }
    let mut json = serde_json::to_value(&c).map_err(|e| Error::failed(format!("cannot write JSON: {e}")))?;
    json["verdict"] = c.verdict().into();
    let json = format!("{json:#}\n");
    if let Some((format, file)) = &output {
        let text = match format {
            Format::Html => report::compare_html(&c)?,
            Format::Markdown => report::compare_markdown(&c),
            Format::Json => json.clone(),
            Format::Text => report::compare_text(&c),
        };
        file.write(text.as_bytes())?;
    }
    if args.json {
        return print(&json);
    }
    print(&report::compare_text(&c))?;
    match output {
        Some((_, file)) => print(&format!("\nwritten to {}\n", file.path().display())),
        None => Ok(()),
    }
}
