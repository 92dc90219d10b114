//! The output directory of a run: who may write into it, and what is there already.

use super::{checkpoint, config::TrainConfig, metrics, provenance::PROVENANCE, state::TRAINER_STATE};
use crate::{
    Error, Result,
    error::Setting,
    files::{self, Disk},
    model::peft,
};
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

/// Files that a run writes at the top of its output directory.
pub const OWN: [&str; 7] = [peft::CONFIG, peft::WEIGHTS, PROVENANCE, TRAINER_STATE, "report.html", METRICS, RUN_CONFIG];
/// The log.
pub const METRICS: &str = "metrics.jsonl";
/// The resolved configuration.
pub const RUN_CONFIG: &str = "run.toml";

/// Whether a run goes on from what an earlier one left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// A new run in an empty directory.
    No,
    /// Go on from the newest whole checkpoint; start afresh if there never was one.
    Yes,
    /// The same, even if configuration, data or base are no longer what they were.
    Anyway,
}

/// An output directory that this process alone writes to.
#[derive(Debug)]
pub struct OutputDir {
    /// Where it is.
    pub path: PathBuf,
    /// The newest whole checkpoint, if the run is to go on from one: its step and directory.
    pub checkpoint: Option<(u64, PathBuf)>,
    /// How it was opened.
    pub resume: Resume,
    /// An advisory lock on the directory, held until the end of the process or of this value. Windows opens no directory as
    /// a file, and has none.
    _lock: Option<File>,
}

impl OutputDir {
    /// Creates or opens the directory and looks for what to resume. Cheap: call it before the model is loaded.
    ///
    /// # Errors
    /// - [`Error::Setting`] if it is not empty and nothing is to be resumed, or if it has no checkpoint but a file, not of
    ///   irori's making, under a name that a run writes: nothing of the user's is ever overwritten;
    /// - if another run is writing to it, if no checkpoint is whole, or if it cannot be written.
    pub fn open(disk: &dyn Disk, path: &Path, resume: Resume, note: &mut dyn FnMut(&str)) -> Result<Self> {
        files::create_dirs(path)?;
        let lock = cfg!(unix).then(|| File::open(path).map_err(Error::io("open", path))).transpose()?;
        // A file system without locks (some network ones) is no reason not to train.
        if let Some(Err(TryLockError::WouldBlock)) = lock.as_ref().map(File::try_lock) {
            return Err(Error::failed(format!("another irori is training in {}", path.display())));
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
            names.push(entry.map_err(Error::io("read", path))?.file_name());
        }
        let shown = path.display();
        if resume == Resume::No {
            if let Some(name) = names.first() {
                let message = format!(
                    "is not empty (it has {}): resume the run in it, or choose another directory",
                    name.to_string_lossy()
                );
                let setting = Setting::new("output-dir", &shown);
                return Err(Error::setting(setting, message).advise([Setting::named("resume")]));
            }
            return Ok(Self { path: path.into(), checkpoint: None, resume, _lock: lock });
        }
        let checkpoint = checkpoint::newest(path, note)?;
        if checkpoint.is_none() {
            if names.iter().any(|n| n == peft::WEIGHTS) {
                let message =
                    "has an adapter but no checkpoint to resume from; to train it further, choose another directory";
                return Err(Error::setting(Setting::new("output-dir", &shown), message)
                    .advise([Setting::new("init-adapter", &shown)]));
            }
            refuse_others(path)?;
            note(&format!("nothing to resume in {shown}: starting from the beginning"));
        }
        checkpoint::sweep(disk, path, note)?;
        Ok(Self { path: path.into(), checkpoint, resume, _lock: lock })
    }
}

/// Nothing, if a run may start afresh in `dir`, which has no checkpoint: under the names that it writes there is nothing, or
/// what a run leaves that is killed before its first checkpoint: its configuration and its log.
fn refuse_others(dir: &Path) -> Result<()> {
    for name in OWN {
        let path = dir.join(name);
        if !files::stand_in::exists(&path) {
            continue;
        }
        let ours = match name {
            _ if !path.symlink_metadata().is_ok_and(|m| m.is_file()) => false,
            RUN_CONFIG => fs::read_to_string(&path).is_ok_and(|text| TrainConfig::wrote(&text)),
            METRICS => fs::read(&path).is_ok_and(|text| metrics::wrote(&text)),
            _ => false,
        };
        if !ours {
            let message = format!(
                "has no checkpoint to resume from, and its {name} is not of a run that was cut off: it would be \
                 overwritten. Move it away, or choose another directory"
            );
            return Err(Error::setting(Setting::new("output-dir", dir.display()), message));
        }
    }
    Ok(())
}
