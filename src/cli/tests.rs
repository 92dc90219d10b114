//! What holds of the command line as a whole.

use super::Cli;
use crate::{
    settings::{Definition, Group, Words},
    train::Settings,
};
use clap::{Arg, Command, CommandFactory};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_command_line_is_well_formed() {
    super::numbers_may_be_negative(Cli::command()).debug_assert();
}

/// The commands with their arguments, by name: "dataset inspect".
fn commands() -> Vec<(String, Vec<Arg>)> {
    fn visit(command: &Command, name: &str, all: &mut Vec<(String, Vec<Arg>)>) {
        all.push((name.to_owned(), command.get_arguments().cloned().collect()));
        for sub in command.get_subcommands() {
            visit(sub, format!("{name} {}", sub.get_name()).trim(), all);
        }
    }
    let mut all = Vec::new();
    visit(&Cli::command(), "", &mut all);
    all
}

fn choices(arg: &Arg) -> Vec<String> {
    arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect()
}

/// A flag that a setting defines has the setting's aliases and choices wherever it occurs, and no command gives its name or
/// an alias to something else. What a flag means beside that may differ: the words of `--seed` do.
#[test]
fn a_flag_is_the_same_flag_in_every_command() {
    for d in Settings::definitions() {
        for (command, args) in commands() {
            for arg in args {
                let names: Vec<&str> =
                    arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default()).collect();
                let Some(name) = names.iter().find(|n| d.is(n)) else { continue };
                assert_eq!(arg.get_long(), Some(d.name), "`irori {command}` has another flag called --{name}");
                let expected: Vec<String> = (d.choices)().into_iter().map(|c| c.name).collect();
                assert_eq!(choices(&arg), expected, "`irori {command}`: --{name} takes other values");
            }
        }
    }
}

/// Whether `command` runs a model: then it has every flag of the machine.
#[test]
fn every_command_that_runs_a_model_has_the_flags_of_the_machine_and_the_base() {
    let all: BTreeMap<String, Vec<Arg>> = commands().into_iter().collect();
    let shared = ["Machine", "Base model"];
    for command in ["train", "plan", "eval", "score", "generate", "bench"] {
        for d in Settings::definitions().into_iter().filter(|d| shared.contains(&d.heading)) {
            let found = all[command].iter().any(|arg| arg.get_long() == Some(d.name));
            assert!(found, "`irori {command}` has no --{}", d.name);
        }
    }
}

/// A setting as a line of a table.
fn row(d: &Definition) -> String {
    let value = match d.words {
        Words::Switch => format!("[={}]", d.value),
        Words::Many => format!(" {}…", d.value),
        Words::One => format!(" {}", d.value),
    };
    let mut flags = format!("`--{}{value}`", d.name);
    if let Some(off) = d.off {
        let _ = write!(flags, ", `--{off}`");
    }
    let all = Settings::definitions();
    let named = |text: String, d: &&Definition| text.replace(&format!("`{}`", d.name), &format!("`--{}`", d.name));
    let mut meaning = all.iter().fold(d.help.to_owned(), named).replace('|', "\\|");
    let names: Vec<String> = (d.choices)().into_iter().map(|c| format!("`{}`", c.name)).collect();
    if !names.is_empty() && d.words == Words::One {
        let _ = write!(meaning, ": {}", names.join(", "));
    }
    if !d.aliases.is_empty() {
        let also: Vec<String> = d.aliases.iter().map(|a| format!("`--{a}`")).collect();
        let _ = write!(meaning, " (also {})", also.join(", "));
    }
    let default = d.default_words().unwrap_or_default();
    format!("| {flags} | {default} | {} | {meaning} |\n", if d.decides { "" } else { "yes" })
}

/// The tables of the settings under some headings.
fn tables(headings: &str) -> String {
    let mut text = String::new();
    for heading in headings.split(", ") {
        let of_it: Vec<_> = Settings::definitions().into_iter().filter(|d| d.heading == heading).collect();
        assert!(!of_it.is_empty(), "no setting stands under `{heading}`");
        let _ = write!(text, "\n**{heading}**\n\n| flag | default | free on resume | meaning |\n|---|---|---|---|\n");
        text.extend(of_it.into_iter().map(row));
    }
    text + "\n"
}

/// Between `<!-- settings: HEADING, … -->` and `<!-- /settings -->` docs/commands.md has the definitions.
#[test]
fn the_documented_settings_are_the_defined_ones() {
    const BEGIN: &str = "<!-- settings: ";
    const END: &str = "<!-- /settings -->";
    let path = root().join("docs/commands.md");
    let old = std::fs::read_to_string(&path).unwrap();
    let mut new = String::new();
    let mut documented = Vec::new();
    let mut rest = old.as_str();
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (headings, after) = after.split_once(" -->\n").expect("a marker ends");
        let (_, after) = after.split_once(END).expect("what begins ends");
        documented.extend(headings.split(", "));
        let _ = write!(new, "{before}{BEGIN}{headings} -->\n{}{END}", tables(headings));
        rest = after;
    }
    new += rest;
    for d in Settings::definitions() {
        assert!(documented.contains(&d.heading), "`{}` is in no table of docs/commands.md", d.heading);
    }
    if std::env::var_os("IRORI_WRITE_DOCS").is_some() {
        std::fs::write(&path, new).unwrap();
        return;
    }
    let differs = old.lines().zip(new.lines()).find(|(old, new)| old != new);
    if let Some((is, should_be)) = differs {
        let remedy = "Make it anew: IRORI_WRITE_DOCS=1 cargo test --lib documented_settings";
        panic!("docs/commands.md: is\n{is}\nand should be\n{should_be}\n{remedy}");
    }
    assert_eq!(old.len(), new.len());
}

/// The string literals of a source file that are not in its tests, with the lines they begin on.
fn strings(source: &str) -> Vec<(usize, String)> {
    let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(crate) mod tests {"];
    let end = tests.iter().filter_map(|begin| source.find(begin)).min().unwrap_or(source.len());
    let code = &source[..end];
    let mut found = Vec::new();
    let bytes = code.as_bytes();
    let line = |at: usize| code[..at].matches('\n').count() + 1;
    let mut at = 0;
    while at < bytes.len() {
        if code[at..].starts_with("//") {
            at += code[at..].find('\n').unwrap_or(code.len() - at);
        } else if code[at..].starts_with("r#\"") {
            let end = code[at + 3..].find("\"#").map_or(code.len(), |n| at + 3 + n);
            found.push((line(at), code[at + 3..end].to_owned()));
            at = end + 2;
        } else if code[at..].starts_with("'\"'") {
            at += 3;
        } else if bytes[at] == b'"' {
            let start = at + 1;
            at = start;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            found.push((line(start), code[start..at.min(code.len())].to_owned()));
            at += 1;
        } else {
            at += code[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

fn sources(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
}

/// A room below the command line does not know how a setting was given: it says `lora-r`, not `--lora-r`.
#[test]
fn no_room_below_the_command_line_names_a_flag() {
    let is_flag = |text: &str| {
        text.match_indices("--").any(|(i, _)| {
            let before = text[..i].chars().next_back();
            let after = text[i + 2..].chars().next();
            before.is_none_or(|c| !c.is_alphanumeric() && !"-<!".contains(c))
                && after.is_some_and(|c| c.is_ascii_lowercase())
        })
    };
    assert!(is_flag("give --lora-r 8") && is_flag("--device") && !is_flag("<!-- x -->") && !is_flag("a--b"));
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    assert!(files.len() > 80, "few sources were found");
    let mut named = Vec::new();
    for path in files {
        let relative = path.strip_prefix(root()).unwrap().display().to_string();
        let test = relative.contains("tests/") || relative.ends_with("tests.rs");
        if test || relative.starts_with("src/cli") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let of_it = strings(&source).into_iter().filter(|(_, text)| is_flag(text));
        named.extend(of_it.map(|(line, text)| format!("{relative}:{line}: {text}")));
    }
    assert!(named.is_empty(), "{}", named.join("\n"));
}
