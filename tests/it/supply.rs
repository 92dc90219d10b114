//! What irori is built from: `docs/dependencies.md` has every direct dependency and every build script as they are in
//! `Cargo.lock`, `deny.toml` allows the same scripts, and what comes by pip is of a fixed version.

use crate::docs::{files, page, read, root};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// A crate, its name and version without what stands behind `+`.
type Package = (String, String);

fn package(name: &str, version: &str) -> Package {
    (name.to_owned(), version.split('+').next().unwrap().to_owned())
}

fn toml_file(name: &str) -> toml::Table {
    page(name).parse().unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The packages of `Cargo.lock`.
fn locked() -> Vec<toml::Table> {
    let packages = toml_file("Cargo.lock")["package"].as_array().unwrap().clone();
    packages.into_iter().map(|p| p.try_into().unwrap()).collect()
}

fn text<'a>(package: &'a toml::Table, key: &str) -> Option<&'a str> {
    package.get(key).and_then(toml::Value::as_str)
}

/// The tables under a heading of docs/dependencies.md: the cells of each row that begins with a crate.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let page = page("docs/dependencies.md");
    let section =
        page.split("\n## ").find(|s| s.starts_with(heading)).unwrap_or_else(|| panic!("no heading {heading}"));
    let rows = section.lines().filter(|l| l.starts_with("| `"));
    rows.map(|l| l.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
        .collect()
}

/// The packages that rows of the page are about; each stands there once.
fn named(rows: &[Vec<String>]) -> BTreeSet<Package> {
    let named: BTreeSet<Package> = rows.iter().map(|r| (r[0].clone(), r[1].clone())).collect();
    assert_eq!(named.len(), rows.len(), "docs/dependencies.md has a row twice");
    named
}

/// That a file and the page name the same packages.
fn assert_same(file: &str, there: &BTreeSet<Package>, page: &BTreeSet<Package>) {
    let (missing, surplus): (Vec<_>, Vec<_>) = (there.difference(page).collect(), page.difference(there).collect());
    let fits = missing.is_empty() && surplus.is_empty();
    assert!(fits, "docs/dependencies.md lacks {missing:?} of {file}, and has {surplus:?} that {file} has not");
}

/// What cargo knows of packages, from crates that are on this machine: of all systems or, where those of others were never
/// fetched, of this one. With it, whether it is all.
fn metadata() -> Option<(Vec<Value>, bool)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |arguments: &[&str]| {
        let output = Command::new(&cargo).current_dir(root()).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    let offline = ["metadata", "--format-version", "1", "--locked", "--offline"];
    let packages = |json: String| serde_json::from_str::<Value>(&json).unwrap()["packages"].as_array().unwrap().clone();
    if let Some(json) = run(&offline) {
        return Some((packages(json), true));
    }
    let about = run(&["-vV"])?;
    let host = about.lines().find_map(|l| l.strip_prefix("host: "))?;
    Some((packages(run(&[&offline[..], &["--filter-platform", host]].concat())?), false))
}

/// Packages with a target of this kind (`custom-build`, `proc-macro`), irori's own left out.
fn with_target(packages: &[Value], kind: &str) -> BTreeSet<Package> {
    let has = |p: &&Value| {
        let mut kinds = p["targets"].as_array().unwrap().iter().flat_map(|t| t["kind"].as_array().unwrap());
        kinds.any(|k| k == kind) && !p["source"].is_null()
    };
    packages.iter().filter(has).map(|p| package(p["name"].as_str().unwrap(), p["version"].as_str().unwrap())).collect()
}

#[test]
fn the_page_names_every_direct_dependency_with_its_version() {
    let locked = locked();
    let versions = |name: &str| locked.iter().filter(|p| text(p, "name") == Some(name)).collect::<Vec<_>>();
    let irori = versions("irori")[0];
    // "name", or "name version" where there are several.
    let of_lock = irori["dependencies"].as_array().unwrap().iter().map(|d| {
        let d = d.as_str().unwrap();
        match d.split_once(' ') {
            Some((name, version)) => package(name, version),
            None => package(d, text(versions(d)[0], "version").unwrap()),
        }
    });
    assert_same("Cargo.lock", &of_lock.collect(), &named(&rows("Direct dependencies")));

    let manifest = toml_file("Cargo.toml");
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"].map(|t| manifest.get(t));
    let declared: usize = tables.into_iter().flatten().map(|t| t.as_table().unwrap().len()).sum();
    assert_eq!(rows("Direct dependencies").len(), declared, "docs/dependencies.md and Cargo.toml");
}

#[test]
fn crates_come_from_the_registry_with_a_digest() {
    let locked = locked();
    let ours = ["irori", "ptxvm"];
    for package in locked.iter().filter(|p| !ours.contains(&text(p, "name").unwrap())) {
        assert_eq!(
            text(package, "source"),
            Some("registry+https://github.com/rust-lang/crates.io-index"),
            "{package:?}"
        );
        assert_eq!(text(package, "checksum").map(str::len), Some(64), "{package:?}");
    }
    assert!(locked.len() > 100);
}

#[test]
fn deny_toml_allows_the_build_scripts_that_the_page_describes() {
    let rows = rows("Build scripts");
    let locked = locked();
    let locked: BTreeSet<Package> =
        locked.iter().map(|p| package(text(p, "name").unwrap(), text(p, "version").unwrap())).collect();
    let gone: Vec<_> = named(&rows).difference(&locked).cloned().collect();
    assert!(gone.is_empty(), "docs/dependencies.md describes what is not in Cargo.lock: {gone:?}");

    let deny = toml_file("deny.toml");
    let allowed = deny["bans"]["build"]["allow-build-scripts"].as_array().unwrap().iter();
    let allowed = allowed.map(|a| {
        let (name, version) = a.as_str().unwrap().split_once("@=").expect("an exact version");
        package(name, version)
    });
    let compiled: Vec<_> = rows.into_iter().filter(|r| r[2] != "none").collect();
    assert_same("deny.toml", &allowed.collect(), &named(&compiled));
}

#[test]
fn the_page_names_everything_that_runs_while_building() {
    let Some((packages, all)) = metadata() else {
        println!("SKIP: cargo metadata gives nothing without the network");
        return;
    };
    let (there, named) = (with_target(&packages, "custom-build"), named(&rows("Build scripts")));
    let unread: Vec<_> = there.difference(&named).collect();
    assert!(unread.is_empty(), "build scripts that docs/dependencies.md does not describe: {unread:?}");
    assert!(there.len() > 20, "few build scripts were found: {there:?}");
    if all {
        assert_same("Cargo.lock", &there, &named);
    }

    let page = page("docs/dependencies.md");
    let macros = page.split("Macros run while building").nth(1).unwrap().split("\n\n").next().unwrap();
    for (name, _) in with_target(&packages, "proc-macro") {
        assert!(macros.contains(&format!("`{name}`")), "docs/dependencies.md does not name the macros of {name}");
    }

    let licences: BTreeMap<Package, &str> = packages
        .iter()
        .map(|p| (package(p["name"].as_str().unwrap(), p["version"].as_str().unwrap()), p["license"].as_str().unwrap()))
        .collect();
    for row in rows("Direct dependencies") {
        assert_eq!(licences[&package(&row[0], &row[1])], row[2], "docs/dependencies.md: the licence of {}", row[0]);
    }
}

/// Whether a requirement of pip's names one version.
fn is_exact(requirement: &str) -> bool {
    requirement
        .split_once("==")
        .is_some_and(|(_, version)| !version.is_empty() && !version.contains(['*', ',', '>', '<']))
}

#[test]
fn each_wheel_of_nvcc_is_of_one_version_and_has_a_digest_for_each_machine() {
    let list = page("toolchain/wheels.txt").replace("\\\n", " ");
    let mut digests = BTreeSet::new();
    let wheels: Vec<&str> = list.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    for wheel in &wheels {
        let mut words = wheel.split_whitespace();
        assert!(is_exact(words.next().unwrap()), "toolchain/wheels.txt: {wheel}");
        let found: Vec<&str> = words.filter_map(|w| w.strip_prefix("--hash=sha256:")).collect();
        assert_eq!(found.len(), 2, "toolchain/wheels.txt: x86-64 and aarch64: {wheel}");
        for digest in found {
            assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}");
            assert!(digests.insert(digest), "toolchain/wheels.txt has {digest} twice");
        }
    }
    assert!(wheels.len() >= 6, "{wheels:?}");
    assert!(page("Makefile").contains("--require-hashes --only-binary :all: -r $(WHEELS)"));
}

#[test]
fn what_pip_is_told_to_install_is_of_one_version() {
    let mut checked = 0;
    for file in files(&[".md", ".sh", ".py", ".yml", "Makefile", ".ci/run"]) {
        let text = read(&root().join(&file)).replace("\\\n", " ");
        // Of a page what its code blocks show.
        let mut shown = file.extension().is_none_or(|e| e != "md");
        for line in text.lines().filter(|l| !l.is_empty()) {
            shown ^= line.starts_with("```");
            let Some((_, rest)) = line.split_once(" install ").filter(|(before, _)| shown && before.contains("pip"))
            else {
                continue;
            };
            let command = rest.split(['&', ';', '`', '|', '#']).next().unwrap();
            // Of options only those with a value that are in use here.
            let mut words = command.split_whitespace();
            while let Some(word) = words.next() {
                match word {
                    "-r" | "--only-binary" => drop(words.next()),
                    option if option.starts_with('-') => {}
                    _ => {
                        assert!(is_exact(word), "{}: {word} is of no fixed version: {line}", file.display());
                        checked += 1;
                    }
                }
            }
        }
    }
    for file in files(&[".txt"]).iter().filter(|f| f.file_name().unwrap().to_str().unwrap().starts_with("requirements"))
    {
        for line in read(&root().join(file)).lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            assert!(is_exact(line), "{}: {line}", file.display());
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} requirements were found");
}
