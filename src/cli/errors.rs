//! An error as the terminal shows it: settings as the flags that one would type, the causes below it.

use super::flags::{flag, flags_in};
use crate::{
    Error,
    error::{Setting, bound, gib, printable},
};
use clap::CommandFactory;
use std::error::Error as _;

/// Settings of which another value gives another model, not only another speed or rounding.
const CHANGES_RESULTS: [&str; 2] = ["head-4bit", "lora-r"];

/// `text` with the settings in it as flags. A setting is what some command has a flag for and stands in backticks with its
/// value, or alone if it has a hyphen: a single word in backticks may as well be a field of a file.
pub fn with_flags(text: &str) -> String {
    let command = super::Cli::command();
    flags_in(text, &|name, value| (value.is_some() || name.contains('-')) && is_flag(&command, name))
}

fn is_flag(command: &clap::Command, name: &str) -> bool {
    let of = |arg: &clap::Arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    };
    command.get_arguments().any(of) || command.get_subcommands().any(|c| is_flag(c, name))
}

fn shown(setting: &Setting) -> String {
    flag(setting.name, setting.value.as_deref())
}

/// The error alone, without its causes.
fn line(e: &Error) -> String {
    match e {
        Error::Setting { setting, message, advice } => {
            format!("{}: {}{}", shown(setting), with_flags(message), advised(advice))
        }
        Error::DoesNotFit { what, need, have, by, advice } => {
            let (need, have) = (gib(*need), gib(*have));
            let other = advice.iter().any(|s| CHANGES_RESULTS.contains(&s.name));
            let results = if other { ", with other results" } else { "" };
            let (by, advice) = (bound(by), advised(advice));
            format!("{what} needs at least {need} of memory and {have} are available{by}{advice}{results}")
        }
        // A command's own words, or a file's.
        Error::Usage(_) | Error::Io { .. } => e.to_string(),
        _ => with_flags(&e.to_string()),
    }
}

/// "; try --a 1 --b 2", or nothing.
fn advised(advice: &[Setting]) -> String {
    match advice {
        [] => String::new(),
        _ => format!("; try {}", advice.iter().map(shown).collect::<Vec<_>>().join(" ")),
    }
}

/// The error and its causes, each in a line.
fn lines(e: &Error) -> Vec<String> {
    let mut lines = vec![line(e)];
    let mut outer = e;
    while let Error::Context { source, .. } = outer {
        lines.push(line(source));
        outer = source;
    }
    let mut cause = outer.source();
    while let Some(c) = cause {
        lines.push(c.to_string());
        cause = c.source();
    }
    lines.iter().map(|line| printable(line)).collect()
}

/// The error in a line, and each of its causes in a line below it.
pub fn render(e: &Error) -> String {
    format!("error: {}\n", lines(e).join("\n  because: "))
}

/// The error and its causes in one line, for where it is one finding among others.
pub fn in_one_line(e: &Error) -> String {
    lines(e).join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_as_flags_and_causes_below() {
        let e = Error::setting(Setting::new("lora-r", 7), "must be a multiple of 8, see `max-seq-length`")
            .advise([Setting::new("lora-r", 8), Setting::new("use-4bit", false), Setting::new("head-4bit", true)])
            .context("planning with `device = cuda:1`");
        assert_eq!(
            render(&e),
            "error: planning with --device cuda:1\n  because: --lora-r 7: must be a multiple of 8, see --max-seq-length; try \
             --lora-r 8 --no-4bit --head-4bit\n"
        );
        let e = Error::failed("the loss is NaN: a lower `learning-rate` may help");
        assert_eq!(render(&e), "error: the loss is NaN: a lower --learning-rate may help\n");
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let e = |advice| Error::DoesNotFit { what: "this run", need: 3 << 30, have: 2 << 30, by: None, advice };
        assert_eq!(
            render(&e(vec![])),
            "error: this run needs at least 3.00 GiB of memory and 2.00 GiB are available\n"
        );
        let shown = render(&e(vec![Setting::new("head-4bit", true), Setting::new("micro-batch-rows", 512)]));
        assert!(shown.ends_with("; try --head-4bit --micro-batch-rows 512, with other results\n"), "{shown}");
        let shown = render(&e(vec![Setting::new("memory-limit", "3GiB")]));
        assert!(shown.ends_with("; try --memory-limit 3GiB\n"), "{shown}");
    }

    /// A field of a file, a command's own words and the name of a file stay what they are.
    #[test]
    fn what_is_no_setting_stays() {
        for e in [
            Error::content("a.jsonl", "line 3, field `output`", "expected `model`, found `no-such-flag`"),
            Error::usage("run.toml: line 3, key `lora-r`: expected usize"),
            Error::failed("`seed` is no flag here"),
        ] {
            assert_eq!(render(&e), format!("error: {e}\n"));
        }
    }
}
