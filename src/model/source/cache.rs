//! The local Hugging Face cache, looked up as huggingface_hub does (`constants.py`, `file_download.py`): one directory, which
//! the environment names, with `models--ORGANISATION--NAME/refs/REVISION` and `snapshots/COMMIT` below it.

use crate::{Error, Result, error::Setting, files::stand_in};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// What the setting `name` means: a path that is there as it is, else the snapshot of the id `given` in the local cache.
///
/// # Errors
/// If there is neither (the message says where it was looked for), or several snapshots and nothing says which.
pub fn locate(name: &'static str, given: &Path) -> Result<PathBuf> {
    let wrong = |message: String| Error::setting(Setting::new(name, given.display()), message);
    // A link to nothing is named as one by whatever reads it.
    if stand_in::exists(given) {
        return Ok(given.to_path_buf());
    }
    let text = given.to_str().unwrap_or_default();
    Hub::of(&|variable| std::env::var_os(variable)).snapshot(text).map_err(|looked| {
        wrong(format!(
            "is neither a path that is there nor in the Hugging Face cache ({looked}); irori does not download: use \
             `huggingface-cli download` or wget"
        ))
    })
}

/// The places where a cache may be, the one that counts first, each with what names it.
struct Hub(Vec<(&'static str, PathBuf)>);

type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Hub {
    /// The places by these environment variables. An empty variable is one that is not set.
    fn of(variables: Variables) -> Self {
        let set = |name: &str| variables(name).filter(|v| !v.is_empty());
        // Where HOME is not set, Windows has USERPROFILE.
        let home = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
        let place = |name: &'static str, below: &str| {
            let value = set(name)?;
            Some((name, expand(&value, home.as_deref(), &set).join(below)))
        };
        let default = home.as_ref().map(|h| ("HOME", h.join(".cache/huggingface/hub")));
        let places = [
            place("HF_HUB_CACHE", ""),
            place("HUGGINGFACE_HUB_CACHE", ""),
            place("HF_HOME", "hub"),
            place("XDG_CACHE_HOME", "huggingface/hub"),
            default,
        ];
        Self(places.into_iter().flatten().collect())
    }

    /// The snapshot of `ID` or `ID@REVISION`, or why there is none.
    fn snapshot(&self, name: &str) -> std::result::Result<PathBuf, String> {
        let (id, revision) = name.split_once('@').map_or((name, None), |(id, r)| (id, Some(r)));
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| plain(part)) {
            return Err(format!("`{id}` is not an id of the form organisation/name"));
        }
        let folder = format!("models--{}", parts.join("--"));
        let Some(((variable, hub), others)) = self.0.split_first() else {
            return Err("HF_HOME and HOME are not set".into());
        };
        let repository = hub.join(&folder);
        if repository.is_dir() {
            return of_repository(&repository, id, revision);
        }
        let mut looked = format!("{}, by {variable}", repository.display());
        if let Some((_, other)) = others.iter().find(|(_, other)| other.join(&folder).is_dir()) {
            looked += &format!("; it is in {}, which {variable} leaves aside", other.display());
        }
        Err(looked)
    }
}

/// Whether `part` may be part of a path below the cache.
fn plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    !part.is_empty() && part.chars().all(allowed) && part != ".." && part != "."
}

/// The snapshot of a revision (`main`, where none is named) of a repository in the cache: a commit, or what `refs` says of a
/// branch or a tag. Where nothing says what `main` is, the only snapshot there is.
fn of_repository(repository: &Path, id: &str, revision: Option<&str>) -> std::result::Result<PathBuf, String> {
    let place = repository.display();
    let name = revision.unwrap_or("main");
    if !name.split('/').all(plain) {
        return Err(format!("`{name}` is not a revision"));
    }
    let snapshots = repository.join("snapshots");
    let mut there: Vec<String> = std::fs::read_dir(&snapshots)
        .map(|all| {
            all.flatten().filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect()
        })
        .unwrap_or_default();
    there.sort();
    let listed = there.iter().map(|commit| format!("{id}@{commit}")).collect::<Vec<_>>().join(", ");
    let there_are = if there.is_empty() { "no snapshot".to_owned() } else { listed };
    if there.iter().any(|commit| commit == name) {
        return Ok(snapshots.join(name));
    }
    match std::fs::read_to_string(repository.join("refs").join(name)) {
        Ok(commit) if there.iter().any(|c| c == commit.trim()) => Ok(snapshots.join(commit.trim())),
        Ok(commit) => Err(format!(
            "{place}: refs/{name} names the commit {}, of which there is no snapshot; there is {there_are}",
            commit.trim()
        )),
        Err(_) if revision.is_none() && there.len() == 1 => Ok(snapshots.join(&there[0])),
        Err(_) if revision.is_none() && there.len() > 1 => {
            Err(format!("{place} has several snapshots and no refs/main to say which: name one, {there_are}"))
        }
        Err(_) => Err(format!("{place} has no revision `{name}`; there is {there_are}")),
    }
}

/// Python's `expandvars(expanduser(value))`: `~` and `~/…` are the home directory; `$NAME` and `${NAME}` are replaced where
/// they are set and stay where they are not. A path that is not UTF-8 stays as it is.
fn expand(value: &OsString, home: Option<&Path>, set: Variables) -> PathBuf {
    let Some(text) = value.to_str() else { return PathBuf::from(value) };
    let text = match (text.strip_prefix('~'), home.and_then(Path::to_str)) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => format!("{home}{rest}"),
        _ => text.to_owned(),
    };
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        let after = &rest[at + 1..];
        let (name, whole) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match set(name).and_then(|v| v.into_string().ok()).filter(|_| !name.is_empty()) {
            Some(value) => out += &value,
            None => out += &rest[at..at + 1 + whole],
        }
        rest = &after[whole..];
    }
    PathBuf::from(out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn hub(variables: &[(&str, &str)]) -> Hub {
        Hub::of(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    }

    /// As `huggingface_hub.constants` has them in an environment of these variables.
    #[test]
    fn the_place_is_that_of_huggingface_hub() {
        let home = ("HOME", "/home/u");
        let xdg = ("XDG_CACHE_HOME", "/xdg");
        let hf = ("HF_HOME", "/hf");
        let old = ("HUGGINGFACE_HUB_CACHE", "/old");
        let new = ("HF_HUB_CACHE", "/new");
        for (variables, place) in [
            (&[home][..], "/home/u/.cache/huggingface/hub"),
            (&[("USERPROFILE", "/users/u")], "/users/u/.cache/huggingface/hub"),
            (&[home, xdg], "/xdg/huggingface/hub"),
            (&[home, xdg, hf], "/hf/hub"),
            (&[home, xdg, hf, old], "/old"),
            (&[home, xdg, hf, old, new], "/new"),
            (&[home, hf, ("HF_HUB_CACHE", "")], "/hf/hub"),
            (&[home, ("HF_HOME", "~")], "/home/u/hub"),
            (&[home, ("HF_HOME", "~/x")], "/home/u/x/hub"),
            (&[home, ("HF_HOME", "~other/x")], "~other/x/hub"),
            (&[home, ("XDG_CACHE_HOME", "~/c")], "/home/u/c/huggingface/hub"),
            (&[home, ("D", "/d"), ("HF_HOME", "$D/x")], "/d/x/hub"),
            (&[home, ("D", "/d"), ("HF_HUB_CACHE", "${D}x/$E/${F}/$")], "/dx/$E/${F}/$"),
            (&[home, ("D_1", "d"), ("HUGGINGFACE_HUB_CACHE", "~/$D_1-1")], "/home/u/d-1"),
        ] {
            // With a slash at its end or without.
            assert_eq!(hub(variables).0[0].1.components(), Path::new(place).components(), "{variables:?}");
        }
        assert_eq!(hub(&[]).snapshot("a/b").expect_err("nowhere"), "HF_HOME and HOME are not set");
    }

    #[test]
    fn a_snapshot_is_that_of_its_revision_or_the_only_one() {
        let root = tempfile::tempdir().expect("a directory");
        let at = root.path();
        let hub = hub(&[("HF_HUB_CACHE", at.to_str().expect("a path")), ("HOME", "/nowhere")]);
        let repository = at.join("models--org--model");
        let snapshot = |commit: &str| fs::create_dir_all(repository.join("snapshots").join(commit)).expect("made");
        let refer = |name: &str, commit: &str| {
            let path = repository.join("refs").join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, commit).expect("written");
        };
        let found =
            |name: &str| hub.snapshot(name).map(|p| p.file_name().expect("a name").to_str().expect("text").to_owned());
        let refused = |name: &str, says: &[&str]| {
            let error = found(name).expect_err(name);
            assert!(says.iter().all(|s| error.contains(s)), "{name}: {error} lacks one of {says:?}");
        };
        refused("org/model", &["models--org--model, by HF_HUB_CACHE"]);
        fs::create_dir_all(&repository).expect("made");
        refused("org/model", &["no revision `main`; there is no snapshot"]);
        snapshot("aaa");
        assert_eq!(found("org/model"), Ok("aaa".into()), "the only one");
        assert_eq!(found("org/model@aaa"), Ok("aaa".into()));
        refused("org/model@v1", &["no revision `v1`", "org/model@aaa"]);
        snapshot("bbb");
        refused("org/model", &["several snapshots", "org/model@aaa, org/model@bbb"]);
        assert_eq!(found("org/model@bbb"), Ok("bbb".into()));
        refer("v1", "bbb\n");
        refer("pr/1", "aaa");
        assert_eq!((found("org/model@v1"), found("org/model@pr/1")), (Ok("bbb".into()), Ok("aaa".into())));
        refused("org/model", &["several snapshots"]);
        refer("main", "ccc");
        refused("org/model", &["refs/main names the commit ccc", "org/model@aaa, org/model@bbb"]);
        refer("main", "aaa");
        assert_eq!(found("org/model"), Ok("aaa".into()));
        for (name, says) in [
            ("org/model/x", "not an id"),
            ("../model", "not an id"),
            ("", "not an id"),
            ("org/model@../../x", "not a revision"),
            ("org/model@/etc", "not a revision"),
            ("org/model@", "not a revision"),
        ] {
            refused(name, &[says]);
        }
    }

    #[test]
    fn a_cache_that_is_left_aside_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        let (home, other) = (root.path().join("home"), root.path().join("other"));
        fs::create_dir_all(home.join(".cache/huggingface/hub/models--org--model/snapshots/a")).expect("made");
        let text = |p: &Path| p.to_str().expect("a path").to_owned();
        let hub = hub(&[("HOME", &text(&home)), ("HF_HOME", &text(&other))]);
        let error = hub.snapshot("org/model").expect_err("elsewhere");
        assert!(error.contains("by HF_HOME; it is in") && error.contains(".cache/huggingface/hub"), "{error}");
    }
}
