//! A disk for tests that fails once, or for good.

use super::{Disk, OpenFile, RealDisk};
use crate::{Error, Result};
use std::{
    cell::RefCell,
    fs,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
    rc::Rc,
};

/// What is to happen at one file operation, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// It fails (a write half-way); the ones after it work.
    Full,
    /// The process dies: neither it nor any after it happens.
    Kill,
}

/// A file system that fails at one operation. A write to an open file is an operation too.
#[derive(Clone)]
pub(crate) struct Faulty {
    at: u64,
    fault: Fault,
    done: Rc<RefCell<Vec<&'static str>>>,
}

impl Faulty {
    pub(crate) fn new(at: u64, fault: Fault) -> Self {
        Self { at, fault, done: Rc::default() }
    }

    /// Operations so far, by the names of their methods.
    pub(crate) fn operations(&self) -> Vec<&'static str> {
        self.done.borrow().clone()
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.done.borrow().len() as u64
    }

    fn fails(&self, operation: &'static str, half: impl FnOnce()) -> bool {
        let n = self.count();
        self.done.borrow_mut().push(operation);
        if n == self.at {
            half();
        }
        n == self.at || n > self.at && self.fault == Fault::Kill
    }

    fn check(&self, operation: &'static str, path: &Path, half: impl FnOnce()) -> Result<()> {
        match self.fails(operation, half) {
            true => Err(Error::io("write", path)(full())),
            false => Ok(()),
        }
    }
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl Disk for Faulty {
    fn create_dir(&self, path: &Path) -> Result<()> {
        self.check("create_dir", path, || ())?;
        RealDisk.create_dir(path)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.check("write", path, || fs::write(path, &bytes[..bytes.len() / 2]).unwrap())?;
        RealDisk.write(path, bytes)
    }
    fn create(&self, path: &Path) -> Result<Box<dyn OpenFile>> {
        self.check("create", path, || ())?;
        Ok(Box::new(FaultyFile { disk: self.clone(), file: RealDisk.create(path)? }))
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.check("sync_dir", path, || ())?;
        RealDisk.sync_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.check("rename", from, || ())?;
        RealDisk.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        self.check("rename_new", from, || ())?;
        RealDisk.rename_new(from, to)
    }
    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.check("remove_dir", path, || ())?;
        RealDisk.remove_dir(path)
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.check("remove_file", path, || ())?;
        RealDisk.remove_file(path)
    }
}

/// A file on it.
struct FaultyFile {
    disk: Faulty,
    file: Box<dyn OpenFile>,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = &mut self.file;
        match self.disk.fails("append", || file.write_all(&bytes[..bytes.len() / 2]).unwrap()) {
            true => Err(full()),
            false => self.file.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for FaultyFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl OpenFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        if self.disk.fails("sync", || ()) { Err(full()) } else { self.file.sync() }
    }
}
