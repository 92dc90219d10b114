//! What the documentation shows is what the program takes: every `irori …` line in a shell block names a command that
//! exists and flags that its help lists; links and anchors lead somewhere; pages and comments name only files and modules
//! that are there; pages in two languages show the same commands. What the runbook shows is also run, by
//! `tests/runbook.sh`.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    process::Command,
};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn page(name: &str) -> String {
    read(&root().join(name))
}

/// What builds and runs leave behind, or what others wrote.
const NOT_OURS: [&str; 6] = ["target", ".git", ".toolchain", ".venv", "out", "proptest-regressions"];

/// Files of the repository whose names end in one of `endings`, by path from its root.
pub(crate) fn files(endings: &[&str]) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![root().to_path_buf()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                if !NOT_OURS.contains(&name.as_str()) && !name.starts_with("irori-demo") {
                    open.push(path);
                }
            } else if endings.iter().any(|e| name.ends_with(e)) {
                found.push(path.strip_prefix(root()).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

fn pages() -> Vec<String> {
    let pages: Vec<String> = files(&[".md"]).iter().map(|p| p.to_str().unwrap().to_owned()).collect();
    assert!(pages.len() > 12 && pages.contains(&"docs/design.md".to_owned()), "{pages:?}");
    pages
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
    for name in pages() {
        for line in commands(&name) {
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

/// The lines of all shell blocks, and the rows of the table of plans: what no language changes.
fn shown(name: &str) -> Vec<String> {
    let text = page(name);
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line.starts_with("```sh");
        }
        if inside || line.contains("| `--gpu ") || line.starts_with("| `--model ") {
            found.push(line.to_owned());
        }
    }
    found
}

#[test]
fn both_languages_show_the_same_commands_and_plans() {
    for (english, japanese, least) in [
        ("README.md", "README.ja.md", 20),
        ("docs/runbook.md", "docs/runbook.ja.md", 50),
        ("docs/plans.md", "docs/plans.ja.md", 8),
    ] {
        let lines = shown(english);
        assert_eq!(lines, shown(japanese), "{english} and {japanese}");
        assert!(lines.len() >= least, "{english}: few lines were found: {lines:?}");
    }
}

/// A page without its code blocks; what is code within a line stays.
fn prose(text: &str) -> String {
    let mut inside = false;
    let keep = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    };
    text.lines().filter(keep).collect::<Vec<_>>().join("\n")
}

/// The anchors of a page's headings, made as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let prose = prose(text);
    let headings = prose.lines().filter(|l| l.starts_with('#')).map(|l| l.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let slug: String = kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
            let count = seen.entry(slug.clone()).or_default();
            *count += 1;
            if *count == 1 { slug } else { format!("{slug}-{}", *count - 1) }
        })
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut checked = 0;
    for name in pages() {
        let text = page(&name);
        let prose = prose(&text);
        let of_images = prose.split("src=\"").skip(1).filter_map(|t| t.split('"').next());
        let targets = prose.split("](").skip(1).filter_map(|t| t.split(')').next()).chain(of_images);
        for target in targets.filter(|t| !t.starts_with("http")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path =
                if file.is_empty() { root().join(&name) } else { root().join(&name).parent().unwrap().join(file) };
            assert!(path.exists(), "{name}: the link to {target} leads nowhere");
            assert!(anchor.is_empty() || anchors(&read(&path)).contains(anchor), "{name}: {target}: no such heading");
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} links were found");
}

/// Paths from the root of the repository that a text names: words that begin with one of its folders. Patterns (`*`, `{`)
/// and placeholders (`X.rs`) are none.
fn named_paths(text: &str) -> Vec<&str> {
    const FOLDERS: [&str; 9] =
        ["src/", "kernels/", "tests/", "docs/", "benches/", "examples/", "ptxvm/", "toolchain/", ".github/"];
    let of_path = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let mut found = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || "`'\"()[],;:|<>".contains(c)) {
        let (path, rest) = word.split_at(word.find(|c| !of_path(c)).unwrap_or(word.len()));
        let pattern = rest.starts_with(['*', '{', '$', '…']) || path.split(['/', '.']).any(|part| part == "X");
        let path = path.trim_end_matches('.');
        if !pattern && FOLDERS.iter().any(|f| path.starts_with(f) && path.len() > f.len()) {
            found.push(path);
        }
    }
    found
}

#[test]
fn pages_name_files_that_are_there() {
    for name in pages() {
        for path in named_paths(&prose(&page(&name))) {
            assert!(root().join(path).exists(), "{name}: there is no {path}");
        }
    }
}

/// What a comment rests on must be in the repository: the file, and with `#` the heading.
#[test]
fn comments_cite_what_the_repository_holds() {
    let mut cited = 0;
    for file in files(&[".rs", ".cu", ".cuh", ".sh", ".py", "Makefile", ".ci/run"]) {
        let text = read(&root().join(&file));
        let is_comment = |l: &&str| ["//", "#"].iter().any(|c| l.trim_start().starts_with(c));
        for line in text.lines().filter(is_comment) {
            let at = file.display();
            for path in named_paths(line).into_iter().filter(|p| !p.ends_with('/')) {
                assert!(root().join(path).exists(), "{at}: there is no {path}: {line}");
                cited += 1;
            }
            for (page, rest) in line.match_indices(".md#").map(|(i, _)| line.split_at(i + 3)) {
                let page = page.rsplit(|c: char| c.is_whitespace() || "(`".contains(c)).next().unwrap();
                let anchor = rest[1..].split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))).next().unwrap();
                let headings = anchors(&read(&root().join(page)));
                assert!(headings.contains(anchor), "{at}: {page} has no heading {anchor}: {headings:?}");
            }
            for word in line.split(|c: char| !c.is_alphanumeric()) {
                assert!(!["DESIGN", "FACTS"].contains(&word), "{at}: cites a page that is not here: {line}");
            }
        }
    }
    assert!(cited > 20, "only {cited} paths were found");
}

/// Where the modules `path` (`train`, `train/metrics`, …) are written.
fn module(path: &Path) -> Option<PathBuf> {
    [path.with_extension("rs"), path.join("mod.rs")].into_iter().find(|p| root().join(p).is_file())
}

/// Module paths in code within a line of a page (`train::metrics::Record`) lead to a module, or to a name in one.
#[test]
fn pages_name_modules_that_are_there() {
    let mut checked = 0;
    for name in pages() {
        let prose = prose(&page(&name));
        for code in prose.split('`').skip(1).step_by(2).filter(|c| c.contains("::")) {
            let code = code.trim_start_matches("irori::");
            let mut segments =
                code.split("::").map(|s| s.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap());
            let mut at = Path::new("src").join(segments.next().unwrap());
            let Some(mut file) = module(&at) else { continue };
            for segment in segments {
                match module(&at.join(segment)) {
                    Some(inner) => (at, file) = (at.join(segment), inner),
                    None => {
                        let text = read(&root().join(&file));
                        let there = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == segment);
                        assert!(there, "{name}: `{code}`: {} has no {segment}", file.display());
                        break;
                    }
                }
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} module paths were found");
}
