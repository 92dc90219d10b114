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
    let environment = Environment { variables: &|variable| std::env::var_os(variable), account: &account };
    Hub::of(&environment).snapshot(text).map_err(|looked| {
        wrong(format!(
            "is neither a path that is there nor in the Hugging Face cache ({looked}); irori does not download: use \
             `huggingface-cli download` or wget"
        ))
    })
}

/// What decides where the cache is.
struct Environment<'a> {
    /// Environment variables.
    variables: &'a dyn Fn(&str) -> Option<OsString>,
    /// The home directory that the system knows of an account: of the process's own, or of the one that is named.
    account: &'a dyn Fn(Option<&str>) -> Option<PathBuf>,
}

/// See [`Environment`]. Accounts that are not in `/etc/passwd` are not found by name.
fn account(name: Option<&str>) -> Option<PathBuf> {
    let Some(name) = name else { return std::env::home_dir() };
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let found = accounts.lines().map(fields).find(|fields| fields.first().is_some_and(|f| f == name))?;
    found.get(5).map(PathBuf::from)
}

/// The places where a cache may be, the one that counts first, each with what names it.
struct Hub(Vec<(&'static str, PathBuf)>);

impl Hub {
    /// The places as `constants.py` makes them of the environment: it expands `HF_HOME` and then what follows from it once
    /// more, and an empty variable is one that is set, to the directory in which the process runs.
    fn of(environment: &Environment) -> Self {
        let set = |name: &'static str| (environment.variables)(name).map(|value| (name, PathBuf::from(value)));
        let expanded = |path: PathBuf| environment.expand(path);
        let default = environment.home().map(|home| ("HOME", home.join(".cache")));
        let below = |(name, path): (&'static str, PathBuf)| (name, expanded(path.join("huggingface")).join("hub"));
        let places = [
            set("HF_HUB_CACHE"),
            set("HUGGINGFACE_HUB_CACHE"),
            set("HF_HOME").map(|(name, path)| (name, expanded(path).join("hub"))),
            set("XDG_CACHE_HOME").map(below),
            default.map(below),
        ];
        Self(places.into_iter().flatten().map(|(name, path)| (name, expanded(path))).collect())
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

impl Environment<'_> {
    /// What `~` means: `HOME` (on Windows `USERPROFILE`) if it is set, else what the system says.
    fn home(&self) -> Option<PathBuf> {
        let variable = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        (self.variables)(variable).map(PathBuf::from).or_else(|| (self.account)(None))
    }

    /// Python's `expandvars(expanduser(path))`: `~` and `~/…` are the home directory, `~name` that of an account; `$NAME` and
    /// `${NAME}` are replaced, where they are set. What is not known stays. A path that is not UTF-8 stays as it is.
    fn expand(&self, path: PathBuf) -> PathBuf {
        let Some(text) = path.to_str() else { return path };
        let text = self.without_tilde(text);
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
            // The environment is not asked for names that cannot be in it.
            let valid = !name.is_empty() && !name.contains(['=', '\0']);
            let value = valid.then(|| (self.variables)(name)).flatten();
            match value.and_then(|v| v.into_string().ok()) {
                Some(value) => out += &value,
                None => out += &rest[at..at + 1 + whole],
            }
            rest = &after[whole..];
        }
        PathBuf::from(out + rest)
    }

    fn without_tilde(&self, text: &str) -> String {
        let Some(after) = text.strip_prefix('~') else { return text.to_owned() };
        let (name, rest) = after.split_at(after.find('/').unwrap_or(after.len()));
        let home = if name.is_empty() { self.home() } else { (self.account)(Some(name)) };
        match home.as_deref().and_then(Path::to_str).map(|home| home.trim_end_matches('/')) {
            Some("") if rest.is_empty() => "/".to_owned(),
            Some(home) => format!("{home}{rest}"),
            None => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn hub(variables: &[(&str, &str)]) -> Hub {
        Hub::of(&Environment {
            variables: &|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()),
            account: &|name| match name {
                None => variables.iter().find(|(n, _)| n.is_empty()).map(|(_, value)| (*value).into()),
                Some("other") => Some("/home/other/".into()),
                Some(_) => None,
            },
        })
    }

    /// As `huggingface_hub.constants` (2.4.0) has them in an environment of these variables: `tests/packages` compares them
    /// with the package itself.
    #[cfg(unix)]
    #[test]
    fn the_place_is_that_of_huggingface_hub() {
        let home = ("HOME", "/home/u");
        let xdg = ("XDG_CACHE_HOME", "/xdg");
        let hf = ("HF_HOME", "/hf");
        let old = ("HUGGINGFACE_HUB_CACHE", "/old");
        let new = ("HF_HUB_CACHE", "/new");
        for (variables, place) in [
            (&[home][..], "/home/u/.cache/huggingface/hub"),
            (&[("HOME", "/")], "/.cache/huggingface/hub"),
            // The system's home directory, where HOME is not set.
            (&[("", "/users/u"), ("USERPROFILE", "/elsewhere")], "/users/u/.cache/huggingface/hub"),
            (&[("", "/users/u"), ("HF_HOME", "~/x")], "/users/u/x/hub"),
            (&[home, xdg], "/xdg/huggingface/hub"),
            (&[home, xdg, hf], "/hf/hub"),
            (&[home, xdg, hf, old], "/old"),
            (&[home, xdg, hf, old, new], "/new"),
            (&[home, ("HF_HOME", "~")], "/home/u/hub"),
            (&[home, ("HF_HOME", "~/x")], "/home/u/x/hub"),
            (&[home, ("HF_HOME", "~other/x")], "/home/other/x/hub"),
            (&[home, ("HF_HOME", "~nobody/x")], "~nobody/x/hub"),
            (&[home, ("HF_HOME", "a/~")], "a/~/hub"),
            (&[home, ("XDG_CACHE_HOME", "~/c")], "/home/u/c/huggingface/hub"),
            (&[home, ("D", "/d"), ("HF_HOME", "$D/x")], "/d/x/hub"),
            (&[home, ("D", "/d"), ("HF_HUB_CACHE", "${D}x/$E/${F}/${}$")], "/dx/$E/${F}/${}$"),
            (&[home, ("D_1", "d"), ("HUGGINGFACE_HUB_CACHE", "~/$D_1-1")], "/home/u/d-1"),
            (&[home, ("E", ""), ("HF_HUB_CACHE", "/a${E}b")], "/ab"),
            // HF_HOME is expanded once for itself and once as a part of the hub's place; what is put in is not looked at again.
            (&[home, ("A", "$B"), ("B", "/b"), ("HF_HOME", "$A")], "/b/hub"),
            (&[home, ("A", "$B"), ("B", "/b"), ("HF_HUB_CACHE", "$A")], "$B"),
            (&[home, ("HF_HOME", "relative")], "relative/hub"),
            // An empty one counts: the directory in which the process runs.
            (&[home, xdg, ("HF_HOME", "")], "hub"),
            (&[home, hf, ("HF_HUB_CACHE", "")], ""),
            (&[home, ("XDG_CACHE_HOME", "")], "huggingface/hub"),
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
