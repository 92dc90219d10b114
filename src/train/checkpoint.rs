//! Directories `checkpoint-N` that are whole or not there.
//!
//! A checkpoint is made as `checkpoint-N.tmp-PID`: every file is written and synced, then [`MANIFEST`] with the size and
//! SHA-256 of each, then the directory is synced and renamed into place, and the parent is synced. So a process killed
//! at any instant leaves either a whole checkpoint or a directory under a name that is never taken for one; and whatever
//! happens to a file afterwards shows when the manifest is checked.

use super::learner::NamedFile;
use crate::{
    Error, Result, digest,
    error::{ResultExt, Setting},
    files::{self, Disk, Existing, StagedDir},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Name of the list of a checkpoint's files; written last.
pub const MANIFEST: &str = "MANIFEST.json";

/// The files of a checkpoint, with what they must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout: 1.
    pub format: u32,
    /// The step after which it was written.
    pub step: u64,
    /// By name.
    pub files: BTreeMap<String, FileDigest>,
}

/// What a file must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Size.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// The directory of the checkpoint after `step`.
pub fn directory(output: &Path, step: u64) -> PathBuf {
    output.join(format!("checkpoint-{step}"))
}

/// Writes a checkpoint and returns its directory. If it fails, no partial directory is left and whatever was there
/// before is untouched.
///
/// # Errors
/// Any failure of the disk (full, read-only, …), naming the file.
pub fn save(disk: &dyn Disk, output: &Path, step: u64, files: &[NamedFile]) -> Result<PathBuf> {
    let place = directory(output, step);
    // One that has the name already is broken: a resume passed over it.
    let mut staged = StagedDir::begin(disk, &place, Existing::Replace)?;
    let mut digests = BTreeMap::new();
    for file in files {
        staged.file(&file.name, &file.bytes)?;
        let digest = FileDigest { bytes: file.bytes.len() as u64, sha256: digest::sha256(&file.bytes) };
        digests.insert(file.name.clone(), digest);
    }
    let manifest = Manifest { format: 1, step, files: digests };
    staged.file(MANIFEST, &files::json(&manifest)?)?;
    staged.commit(MANIFEST)?;
    Ok(place)
}

/// Reads the manifest of `dir` and checks every file against it.
///
/// # Errors
/// What is wrong first: a missing, shortened or changed file, or the manifest itself.
pub fn verify(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let text = fs::read(&path).map_err(Error::io("read", &path))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| Error::content(&path, "", e.to_string()))?;
    if manifest.format != 1 {
        let message = format!("format {} is not one that this irori knows (1)", manifest.format);
        return Err(Error::content(&path, "field `format`", message));
    }
    if step_of(dir) != Some(manifest.step) {
        let message = format!("{} is not the step of this directory", manifest.step);
        return Err(Error::content(&path, "field `step`", message));
    }
    for (name, want) in &manifest.files {
        let path = dir.join(name);
        let size = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        if size != want.bytes {
            return Err(Error::content(&path, "", format!("has {size} bytes, the manifest says {}", want.bytes)));
        }
        if digest::of_file(&path)? != want.sha256 {
            return Err(Error::content(&path, "", "its SHA-256 is not that of the manifest: the content changed"));
        }
    }
    Ok(manifest)
}

/// N of a directory called `checkpoint-N`.
pub fn step_of(dir: &Path) -> Option<u64> {
    let digits = dir.file_name()?.to_str()?.strip_prefix("checkpoint-")?;
    let plain =
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    plain.then(|| digits.parse().ok()).flatten()
}

/// All directories `checkpoint-N`, whole or not, ascending by N.
///
/// # Errors
/// If the output directory cannot be read.
pub fn list(output: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(output).map_err(Error::io("read", output))? {
        let path = entry.map_err(Error::io("read", output))?.path();
        if let Some(step) = step_of(&path)
            && path.is_dir()
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest whole checkpoint; `note` hears of each broken one that is passed over, and why.
///
/// # Errors
/// If there are checkpoints but none is whole.
pub fn newest(output: &Path, note: &mut dyn FnMut(&str)) -> Result<Option<(u64, PathBuf)>> {
    let all = list(output)?;
    for (step, dir) in all.iter().rev() {
        match verify(dir) {
            Ok(_) => return Ok(Some((*step, dir.clone()))),
            Err(e) => note(&format!("warning: {} is broken and passed over: {}", dir.display(), chain(&e))),
        }
    }
    match all.len() {
        0 => Ok(None),
        n => Err(Error::content(
            output,
            "",
            format!("cannot resume: none of the {n} checkpoints is whole; start again in another directory"),
        )),
    }
}

/// An error and its causes on one line.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text.push_str(&format!(": {c}"));
        cause = c.source();
    }
    text
}

/// Removes the oldest checkpoints until at most `limit` are left. The newest and those in `keep` stay, even if that is
/// more than `limit`. Each is renamed first, so that a kill half-way leaves nothing that looks like a checkpoint.
///
/// # Errors
/// If one cannot be removed.
pub fn rotate(disk: &dyn Disk, output: &Path, limit: usize, newest: u64, keep: Option<u64>) -> Result<()> {
    let all: Vec<_> = list(output)?.into_iter().filter(|(step, _)| *step <= newest).collect();
    let mut excess = all.len().saturating_sub(limit.max(1));
    for (step, dir) in all {
        if excess == 0 {
            break;
        }
        if step == newest || Some(step) == keep {
            continue;
        }
        files::remove_dir(disk, &dir).with_context(|| {
            let limit = Setting::new("save-total-limit", limit);
            format!("{limit}: the old checkpoint {} was not removed", dir.display())
        })?;
        excess -= 1;
    }
    Ok(())
}

/// Removes what killed processes left half-done (`….tmp-PID`), telling `note`. Call it only with the directory locked.
///
/// # Errors
/// If something cannot be removed.
pub fn sweep(disk: &dyn Disk, output: &Path, note: &mut dyn FnMut(&str)) -> Result<()> {
    for entry in fs::read_dir(output).map_err(Error::io("read", output))? {
        let path = entry.map_err(Error::io("read", output))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let Some(stem) = files::of_temporary(name) else { continue };
        if !stem.starts_with("checkpoint-") && !super::output::OWN.contains(&stem) {
            continue;
        }
        note(&format!("removing {}, left half-written by a run that was cut off", path.display()));
        if path.is_dir() { disk.remove_dir(&path)? } else { disk.remove_file(&path)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::RealDisk;

    #[test]
    fn what_a_killed_run_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let left =
            ["checkpoint-3.tmp-9", "checkpoint-3.old.tmp-9", "adapter_model.safetensors.tmp-12", "report.html.tmp-1"];
        let others = ["checkpoint-3", "metrics.jsonl", "report.html.tmp-x", "run.toml.tmp-", "thesis.txt.tmp-3"];
        for name in left.iter().chain(&others) {
            match name.contains("checkpoint") {
                true => fs::create_dir(dir.path().join(name)).unwrap(),
                false => fs::write(dir.path().join(name), "x").unwrap(),
            }
        }
        let mut notes = Vec::new();
        sweep(&RealDisk, dir.path(), &mut |n| notes.push(n.to_owned())).unwrap();
        let mut found: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        assert_eq!(found, others);
        for name in left {
            assert!(notes.iter().any(|n| n.contains(name)), "{name}: {notes:?}");
        }
    }
}
