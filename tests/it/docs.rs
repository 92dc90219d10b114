//! What the documentation shows is what the program takes: every `irori …` line in a shell block names a command that
//! exists and flags that its help lists. And pages in two languages show the same commands. What the runbook shows is also
//! run, by `tests/runbook.sh`.

use std::{collections::HashMap, path::Path, process::Command};

const PAGES: [&str; 7] = [
    "README.md",
    "README.ja.md",
    "docs/commands.md",
    "docs/formats.md",
    "docs/architecture.md",
    "docs/runbook.md",
    "docs/runbook.ja.md",
];

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The lines of a page's shell blocks that call irori, continuation lines joined.
fn commands(name: &str) -> Vec<String> {
    let text = page(name).replace("\\\n", " ");
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside && line.starts_with("irori ") {
            found.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    found
}

#[test]
fn every_command_line_shown_is_one_that_irori_takes() {
    let mut help = HashMap::new();
    for name in PAGES {
        for line in commands(name) {
            let words: Vec<&str> = line.split(' ').skip(1).collect();
            let command: Vec<&str> =
                if words.starts_with(&["dataset", "inspect"]) { words[..2].into() } else { words[..1].into() };
            let text = help.entry(command.join(" ")).or_insert_with(|| {
                let output = Command::new(env!("CARGO_BIN_EXE_irori")).args(&command).arg("--help").output().unwrap();
                assert!(output.status.success(), "{name}: `{line}`: no such command");
                String::from_utf8(output.stdout).unwrap()
            });
            for flag in words.iter().filter(|w| w.starts_with("--")) {
                let listed = text.split(|c: char| c.is_whitespace() || "[]=,<>".contains(c)).any(|w| w == *flag);
                assert!(listed, "{name}: `{line}`: the command has no {flag}");
            }
        }
    }
    assert!(help.len() > 8, "few commands were found: {:?}", help.keys());
}

#[test]
fn both_readmes_show_the_same_commands() {
    assert_eq!(commands("README.md"), commands("README.ja.md"));
}

/// The lines of all shell blocks, and the rows of the table of plans: what no language changes.
fn shown(name: &str) -> Vec<String> {
    let text = page(name);
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line.starts_with("```sh");
        }
        if inside || line.contains("| `--gpu ") {
            found.push(line.to_owned());
        }
    }
    found
}

#[test]
fn both_runbooks_show_the_same_commands_and_plans() {
    let english = shown("docs/runbook.md");
    assert_eq!(english, shown("docs/runbook.ja.md"));
    assert!(english.len() > 50, "few lines were found: {english:?}");
}

/// What a heading is called in a link: its words in lower case, with hyphens between them.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words.chars().filter(|c| c.is_alphanumeric() || " -".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    for name in PAGES {
        let text = page(name);
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(name).parent().unwrap().to_path_buf();
        for target in text.split("](").skip(1).filter_map(|t| t.split(')').next()).filter(|t| !t.starts_with("http")) {
            let there = match target.strip_prefix('#') {
                Some(place) => text.lines().any(|line| line.starts_with('#') && anchor(line) == place),
                None => dir.join(target).exists(),
            };
            assert!(there, "{name}: the link to {target} leads nowhere");
        }
    }
}
