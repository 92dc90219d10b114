//! Where tests find the public data set and the real tokenizer, which are not part of this repository.

use std::path::PathBuf;

/// The path of `name` in the shared data, or `None` after saying aloud that the test is skipped.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("IRORI_SHARED_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")), PathBuf::from);
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIP: {} is not there (set IRORI_SHARED_DATA)", path.display());
    None
}
