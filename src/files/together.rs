//! Files that belong together, in a directory that may hold others.

use super::{Disk, Existing, put, staged::aside, stand_in, temporary};
use crate::Result;
use std::path::{Path, PathBuf};

/// Writes files of one directory that mean something only together. All are whole under [`temporary`] names before the first
/// gets its own, and what they replace is moved aside before that: so there are never old and new ones beside each other.
/// What fails is undone. A process that dies leaves, of the old or of the new files, all or some, and the rest under names of
/// temporaries (old ones as `NAME.old.tmp-PID`).
///
/// # Errors
/// Any failure of the disk, and with [`Existing::Refuse`] a file that has one of the names.
pub fn write_together(disk: &dyn Disk, dir: &Path, files: &[(String, String)], existing: Existing) -> Result<()> {
    let places: Vec<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
    let mut done = Done::default();
    match swap(disk, dir, files, &places, existing, &mut done) {
        Ok(()) => done.aside.iter().try_for_each(|(_, old)| disk.remove_file(old)),
        Err(e) => {
            done.placed.iter().chain(&done.written).for_each(|path| drop(disk.remove_file(path)));
            done.aside.iter().for_each(|(place, old)| drop(disk.rename(old, place)));
            Err(e)
        }
    }
}

/// What is to be undone.
#[derive(Default)]
struct Done {
    /// Temporaries, whole or not.
    written: Vec<PathBuf>,
    /// Old files, and where they are now.
    aside: Vec<(PathBuf, PathBuf)>,
    /// New files under their own names.
    placed: Vec<PathBuf>,
}

fn swap(
    disk: &dyn Disk,
    dir: &Path,
    files: &[(String, String)],
    places: &[PathBuf],
    existing: Existing,
    done: &mut Done,
) -> Result<()> {
    for (place, (_, text)) in places.iter().zip(files) {
        done.written.push(temporary(place));
        disk.write(&temporary(place), text.as_bytes())?;
    }
    if existing == Existing::Replace {
        for place in places.iter().filter(|place| stand_in::exists(place)) {
            disk.rename(place, &aside(place))?;
            done.aside.push((place.clone(), aside(place)));
        }
        // The old names are gone for good before there are new ones.
        disk.sync_dir(dir)?;
    }
    for place in places {
        put(disk, &temporary(place), place, Existing::Refuse)?;
        done.written.remove(0);
        done.placed.push(place.clone());
    }
    disk.sync_dir(dir)
}
