//! What stands in place of a file that was to be downloaded or copied: a pointer, a link to nothing, a server's page. It is
//! named as what it is, because "not JSON" and "not a whole file" send people looking in the wrong place.

use crate::{Error, Result};
use std::{fs, io::Read, path::Path};

/// What a file begins with that is something else than a model's, and what to say of it.
const BEGINNINGS: [(&[u8], &str); 7] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "is a pointer of Git LFS, not the file itself: fetch it, for example with `git lfs pull`",
    ),
    (b"PK\x03\x04", "is a zip archive, as PyTorch pickles weights; irori reads safetensors, JSON and text"),
    (b"\x80\x02", "is pickled; irori reads safetensors, JSON and text"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard: unpack it"),
    (b"GGUF", "is a GGUF file; irori reads safetensors"),
    (b"\x89HDF", "is an HDF5 file; irori reads safetensors"),
];

/// How a page begins that a server sends in place of a file.
const PAGES: [&str; 4] = ["<!doctype html", "<html", "<head", "<?xml"];

/// True if there is anything of that name, be it a link to nothing.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Looks at the beginning of a file; does nothing if it cannot be read, which reading it says better.
///
/// # Errors
/// If it is a link to nothing, empty, or begins as something that stands in place of a file.
pub fn check(path: &Path) -> Result<()> {
    let wrong = |message: String| Err(Error::content(path, "", message));
    if let Ok(target) = fs::read_link(path)
        && !path.exists()
    {
        return wrong(format!(
            "is a link to {}, which is not there: an interrupted download, or a copy of a cache without its blobs",
            target.display()
        ));
    }
    // A model may be a directory; who reads a file there refuses it.
    if path.is_dir() {
        return Ok(());
    }
    regular(path)?;
    let mut bytes = Vec::new();
    let Ok(file) = fs::File::open(path) else { return Ok(()) };
    if file.take(256).read_to_end(&mut bytes).is_err() {
        return Ok(());
    }
    match what(&bytes) {
        Some(message) => wrong(message.to_owned()),
        None => Ok(()),
    }
}

/// That a file is none that has no end or no beginning; says nothing of one that is not there. It is asked before the file
/// is opened: opening a pipe waits for somebody who writes.
///
/// # Errors
/// It is a directory, a pipe, a device or a socket.
pub fn regular(path: &Path) -> Result<()> {
    let wrong = |what: &str| {
        Err(Error::content(path, "", format!("is {what}, not a file: give the path of a regular file in its place")))
    };
    match fs::metadata(path) {
        Ok(m) if m.is_dir() => wrong("a directory"),
        Ok(m) if !m.is_file() => wrong("a device, a pipe or a socket"),
        _ => Ok(()),
    }
}

/// What stands there, if it is not what a file of a model begins with.
fn what(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("is empty: a download or a copy that did not get through");
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let begins = |page: &&str| text.get(..page.len()).is_some_and(|b| b.eq_ignore_ascii_case(page.as_bytes()));
    if PAGES.iter().any(begins) {
        return Some("is a page of a web server, not the file: a download that was refused or redirected");
    }
    BEGINNINGS.iter().find(|(begin, _)| text.starts_with(begin)).map(|(_, message)| *message)
}

/// The most bytes that a configuration, a template or an index of weights may have; the largest known has 20 MB.
const LARGEST_TEXT: u64 = 256 << 20;

/// That a file that is to be read whole has at most `most` bytes; says nothing of one that is not there.
///
/// # Errors
/// It is no regular file, or larger.
pub fn bounded(path: &Path, most: u64) -> Result<()> {
    regular(path)?;
    match fs::metadata(path) {
        Ok(m) if m.len() > most => {
            let message =
                format!("has {} bytes, and a file of its kind has at most {most}: is it the right one?", m.len());
            Err(Error::content(path, "", message))
        }
        _ => Ok(()),
    }
}

/// Reads a file of a model that is text.
///
/// # Errors
/// As [`check`], if it cannot be read, is larger than any configuration, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    check(path)?;
    bounded(path, LARGEST_TEXT)?;
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// Reads a file of a model that is JSON.
///
/// # Errors
/// As [`read_text`], or if it is not JSON.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|e| Error::content(path, "", format!("is not JSON: {e}")))
}

/// [`read_text`] of a file that need not be there.
///
/// # Errors
/// As [`read_text`].
pub fn read_optional(path: &Path) -> Result<Option<String>> {
    if exists(path) { read_text(path).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_place_of_a_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.json");
        let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3955\n";
        for (bytes, says) in [
            (lfs.as_bytes(), "Git LFS"),
            (b"", "is empty"),
            (b"\n <!DOCTYPE html><html><body>404</body>", "web server"),
            (b"\xef\xbb\xbf<HTML>", "web server"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "web server"),
            (b"PK\x03\x04archive/data.pkl", "zip archive"),
            (b"\x80\x02}q\x00", "pickled"),
            (b"GGUF\x03\x00", "GGUF"),
            (b"\x1f\x8b\x08", "gzip"),
        ] {
            fs::write(&path, bytes).expect("written");
            for error in [check(&path).map(drop), read_text(&path).map(drop), read_optional(&path).map(drop)] {
                let error = error.expect_err(says).to_string();
                assert!(error.contains("config.json: ") && error.contains(says), "{error} lacks {says}");
            }
        }
        fs::write(&path, "{}").expect("written");
        assert_eq!(read_text(&path).expect("read"), "{}");
        assert_eq!(read_optional(&dir.path().join("none")).expect("none"), None);
        assert!(read_text(&dir.path().join("none")).expect_err("none").to_string().starts_with("cannot read"));
    }

    #[cfg(unix)]
    #[test]
    fn what_has_no_end_is_refused_before_it_is_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        let device = |path: &str| Path::new(path).to_owned();
        for path in [device("/dev/zero"), device("/dev/null"), pipe, socket, dir.path().to_owned()] {
            assert_eq!(check(&path).is_ok(), path.is_dir(), "a model may be a directory");
            for error in [read_text(&path).map(drop), read_json(&path).map(drop)] {
                let error = error.expect_err("refused").to_string();
                assert!(error.starts_with(&path.display().to_string()) && error.contains("not a file"), "{error}");
            }
        }
        let large = dir.path().join("config.json");
        let file = fs::File::create(&large).expect("created");
        file.set_len(LARGEST_TEXT + 1).expect("sparse");
        let error = read_text(&large).expect_err("too large").to_string();
        assert!(error.contains("config.json: has 268435457 bytes"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_there_and_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tokenizer.json");
        std::os::unix::fs::symlink("../../blobs/4d7a", &path).expect("linked");
        assert!(exists(&path) && !path.exists());
        let error = read_optional(&path).expect_err("dangling").to_string();
        assert!(error.contains("tokenizer.json: is a link to ../../blobs/4d7a, which is not there"), "{error}");
    }
}
