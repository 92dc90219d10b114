//! What is left when an operation fails or the process dies at it, for each kind of file; and that nothing is written
//! otherwise.

use super::{
    faulty::{Fault, Faulty},
    *,
};
use std::collections::BTreeMap;

/// A place for files: in memory where there is such a place, since thousands of syncs fear no power cut here.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Every file below `dir` by its relative path.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(files(&path).into_iter().map(|(n, b)| (format!("{name}/{n}"), b))),
            false => drop(found.insert(name, fs::read(&path).unwrap())),
        }
    }
    found
}

/// What stands under names that are not temporary.
fn whole(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = files(dir);
    all.retain(|n, _| n.split('/').all(|part| of_temporary(part).is_none()));
    all
}

/// Runs `work` in a fresh `before` once without a fault, then with each fault at each of its operations. Under names that
/// count there is then what was there before, or all of the new; and where only one operation failed, nothing else either.
fn every_fault(before: impl Fn(&Path), work: impl Fn(&dyn Disk, &Path) -> Result<()>) {
    let run = |disk: &Faulty| {
        let dir = place();
        before(dir.path());
        let old = whole(dir.path());
        (work(disk, dir.path()), old, dir)
    };
    let disk = Faulty::new(u64::MAX, Fault::Kill);
    let (done, old, dir) = run(&disk);
    done.unwrap();
    let new = files(dir.path());
    assert_ne!(old, new);
    assert_eq!(new, whole(dir.path()), "a temporary is left");
    assert!(disk.count() > 2);
    for at in 0..disk.count() {
        for fault in [Fault::Full, Fault::Kill] {
            let (done, old, dir) = run(&Faulty::new(at, fault));
            let error = done.expect_err("an operation failed").to_string();
            assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
            let found = whole(dir.path());
            // A directory is replaced in two steps, and the process may die between them.
            let between = fault == Fault::Kill && found.is_empty() && old.keys().any(|n| n.contains('/'));
            assert!(found == old || found == new || between, "{fault:?} at {at}: {:?}", found.keys());
            let left: Vec<_> = files(dir.path()).into_keys().filter(|n| !found.contains_key(n)).collect();
            // A directory that was moved aside and could not be removed keeps a temporary name.
            assert!(fault == Fault::Kill || left.iter().all(|n| n.contains(".old.tmp-")), "{at}: {left:?}");
        }
    }
}

#[test]
fn a_file_is_what_it_was_or_all_of_the_new() {
    every_fault(|dir| fs::write(dir.join("a"), "old").unwrap(), |disk, dir| replace(disk, &dir.join("a"), b"the new"));
    every_fault(|_| (), |disk, dir| write(disk, &dir.join("a"), b"the new", Existing::Refuse));
}

#[test]
fn a_large_file_too() {
    for existing in [Existing::Replace, Existing::Refuse] {
        every_fault(
            |dir| {
                if existing == Existing::Replace {
                    fs::write(dir.join("a"), "old").unwrap();
                }
            },
            |disk, dir| {
                let mut file = StreamedFile::create(disk, &dir.join("a"), existing)?;
                for i in 0..6u8 {
                    file.write(&vec![i; 700_000])?;
                }
                file.commit()
            },
        );
    }
}

fn directory(disk: &dyn Disk, dir: &Path, existing: Existing) -> Result<()> {
    let mut staged = StagedDir::begin(disk, &dir.join("out"), existing)?;
    staged.file("last", b"{}")?;
    let mut weights = staged.stream("0")?;
    weights.seek(8)?;
    weights.write(&vec![7; 1_500_000])?;
    weights.seek(0)?;
    weights.write(b"12345678")?;
    weights.finish()?;
    staged.rename("0", "weights")?;
    staged.file("words", b"[]")?;
    staged.file("more/words", b"[1]")?;
    staged.commit("last")
}

#[test]
fn a_directory_is_there_whole_or_not_at_all() {
    every_fault(|_| (), |disk, dir| directory(disk, dir, Existing::Refuse));
    every_fault(
        |dir| {
            fs::create_dir(dir.join("out")).unwrap();
            fs::write(dir.join("out/old"), "old").unwrap();
        },
        |disk, dir| directory(disk, dir, Existing::Replace),
    );
}

/// Filled in place, since it may be a mounted disk. Only a kill between two renames leaves a part, and never the last file.
#[test]
fn an_empty_directory_is_filled_with_the_last_file_last() {
    let run = |disk: &Faulty| {
        let dir = place();
        fs::create_dir(dir.path().join("out")).unwrap();
        (directory(disk, dir.path(), Existing::Refuse), dir)
    };
    let disk = Faulty::new(u64::MAX, Fault::Kill);
    let (done, dir) = run(&disk);
    done.unwrap();
    let new = files(dir.path());
    assert_eq!(new.keys().collect::<Vec<_>>(), ["out/last", "out/more/words", "out/weights", "out/words"]);
    for at in 0..disk.count() {
        for fault in [Fault::Full, Fault::Kill] {
            let (done, dir) = run(&Faulty::new(at, fault));
            done.unwrap_err();
            let found = whole(dir.path());
            match (found.contains_key("out/last"), fault) {
                (true, _) => assert_eq!(found, new, "{fault:?} at {at}"),
                (false, Fault::Full) => {
                    assert!(files(dir.path()).is_empty(), "at {at}: {:?}", files(dir.path()).keys())
                }
                (false, Fault::Kill) => {}
            }
        }
    }
}

/// At every operation: what fails is undone, and a process that dies leaves no old file beside a new one.
#[test]
fn files_that_belong_together_are_never_of_two_kinds() {
    let names = ["train", "dev", "test"];
    let run = |disk: &Faulty, existing: Existing| {
        let dir = place();
        fs::write(dir.path().join("thesis"), "years").unwrap();
        if existing == Existing::Replace {
            names.iter().for_each(|name| fs::write(dir.path().join(name), "old").unwrap());
        }
        let new = names.map(|name| (name.to_owned(), "the new".to_owned()));
        (write_together(disk, dir.path(), &new, existing), dir)
    };
    for existing in [Existing::Replace, Existing::Refuse] {
        let disk = Faulty::new(u64::MAX, Fault::Kill);
        let (done, dir) = run(&disk, existing);
        done.unwrap();
        let new = files(dir.path());
        assert!(new.len() == 4 && names.iter().all(|name| new[*name] == b"the new"), "{:?}", new.keys());
        for (at, fault) in (0..disk.count()).flat_map(|at| [(at, Fault::Full), (at, Fault::Kill)]) {
            let (done, dir) = run(&Faulty::new(at, fault), existing);
            done.unwrap_err();
            let found = whole(dir.path());
            assert_eq!(found["thesis"], b"years");
            let mut kinds: Vec<_> = names.iter().filter_map(|name| found.get(*name)).collect();
            let count = kinds.len();
            kinds.dedup();
            assert!(kinds.len() <= 1, "{existing:?} {fault:?} at {at}: {:?}", found);
            let all = if existing == Existing::Replace || found == new { 3 } else { 0 };
            assert!(fault == Fault::Kill || count == all, "{existing:?} at {at}: {:?}", found.keys());
        }
    }
    // One that appears meanwhile stays.
    let dir = place();
    fs::write(dir.path().join("dev"), "mine").unwrap();
    let new = names.map(|name| (name.to_owned(), "the new".to_owned()));
    write_together(&RealDisk, dir.path(), &new, Existing::Refuse).unwrap_err();
    assert_eq!(files(dir.path()), BTreeMap::from([("dev".into(), b"mine".to_vec())]));
}

/// Content is synced before its name is given, and the name after.
#[test]
fn nothing_gets_its_name_before_it_is_durable() {
    let operations = |work: &dyn Fn(&dyn Disk, &Path) -> Result<()>| {
        let (disk, dir) = (Faulty::new(u64::MAX, Fault::Kill), place());
        work(&disk, dir.path()).unwrap();
        disk.operations().join(" ")
    };
    assert_eq!(operations(&|disk, dir| replace(disk, &dir.join("a"), b"x")), "write rename sync_dir");
    let streamed = |disk: &dyn Disk, dir: &Path| {
        let mut file = StreamedFile::create(disk, &dir.join("a"), Existing::Refuse)?;
        file.write(b"x")?;
        file.commit()
    };
    assert_eq!(operations(&streamed), "create append sync rename_new sync_dir");
    assert_eq!(
        operations(&|disk, dir| directory(disk, dir, Existing::Refuse)),
        "create_dir write create append append sync rename write create_dir write sync_dir sync_dir \
         rename sync_dir"
    );
}

#[test]
fn what_is_there_is_refused_and_stays() {
    let dir = place();
    let (file, full) = (dir.path().join("file"), dir.path().join("full"));
    fs::write(&file, "mine").unwrap();
    fs::create_dir(&full).unwrap();
    fs::write(full.join("thesis"), "years").unwrap();
    let before = files(dir.path());
    write(&RealDisk, &file, b"new", Existing::Refuse).unwrap_err();
    let mut streamed = StreamedFile::create(&RealDisk, &file, Existing::Refuse).unwrap();
    streamed.write(b"new").unwrap();
    streamed.commit().unwrap_err();
    for (place, says) in [(&file, "is a file"), (&full, "not empty")] {
        let Err(e) = StagedDir::begin(&RealDisk, place, Existing::Refuse) else { panic!("begun") };
        assert!(e.exit_code() == 2 && e.to_string().contains(says), "{e}");
    }
    // What appears while the files are made.
    let staged = StagedDir::begin(&RealDisk, &dir.path().join("late"), Existing::Refuse).unwrap();
    fs::create_dir(dir.path().join("late")).unwrap();
    fs::write(dir.path().join("late/thesis"), "years").unwrap();
    staged.commit("last").unwrap_err();
    fs::remove_dir_all(dir.path().join("late")).unwrap();
    assert_eq!(files(dir.path()), before);
}

#[test]
fn what_is_not_committed_is_removed() {
    let dir = place();
    let mut file = StreamedFile::create(&RealDisk, &dir.path().join("a"), Existing::Replace).unwrap();
    file.write(b"half").unwrap();
    drop(file);
    let mut staged = StagedDir::begin(&RealDisk, &dir.path().join("b"), Existing::Refuse).unwrap();
    staged.file("x", b"half").unwrap();
    drop(staged);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_temporary_is_beside_its_file_and_known_by_its_name() {
    for (path, name) in [("a/b.json", "b.json"), ("b.json", "b.json"), ("a/out/", "out"), ("a/x.tmp-7", "x.tmp-7")] {
        let temporary = temporary(Path::new(path));
        assert_eq!(parent(&temporary), parent(Path::new(path)), "{path}");
        assert_eq!(of_temporary(temporary.file_name().unwrap().to_str().unwrap()), Some(name), "{path}");
    }
    for name in ["a", "a.tmp-", "a.tmp-x1", "a.tmp", ".a.1.tmp"] {
        assert_eq!(of_temporary(name), None, "{name}");
    }
}

#[test]
fn directories_are_made_with_those_above_them() {
    let dir = place();
    let deep = dir.path().join("a/b/c");
    create_dirs(&deep).unwrap();
    create_dirs(&deep).unwrap();
    assert!(deep.is_dir());
    fs::write(dir.path().join("file"), "").unwrap();
    for error in [
        create_dirs(&dir.path().join("file/b")).unwrap_err(),
        StagedDir::begin(&RealDisk, &dir.path().join("file/b"), Existing::Refuse).map(drop).unwrap_err(),
    ] {
        assert!(error.to_string().contains("file/b"), "{error}");
    }
}

#[test]
fn a_log_grows_by_whole_records() {
    let dir = place();
    let path = dir.path().join("log");
    assert!(Appender::open(&path).is_err(), "a log is begun by a write");
    replace(&RealDisk, &path, b"one\n").unwrap();
    let mut log = Appender::open(&path).unwrap();
    log.append(b"two\n").unwrap();
    log.sync().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
}

/// Of a source file, the lines that are compiled into the program, with their numbers.
fn without_tests(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        if line != "#[cfg(test)]" {
            kept.push((number, line));
        } else if lines.next().is_some_and(|(_, item)| !item.ends_with(';')) {
            lines.by_ref().take_while(|(_, line)| *line != "}").for_each(drop);
        }
    }
    kept
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn nothing_else_in_the_program_writes_files() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    sources(&src, &mut all);
    assert!(all.len() > 100);
    let here = src.join("files");
    let is_test = |path: &Path| path.components().any(|c| c.as_os_str() == "tests") || path.ends_with("tests.rs");
    let called = |line: &str, call: &str| {
        let before = |at: usize| line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        !line.trim_start().starts_with("//") && line.match_indices(call).any(|(at, _)| !before(at))
    };
    for path in all.iter().filter(|p| !p.starts_with(&here) && !is_test(p)) {
        let text = fs::read_to_string(path).unwrap();
        for (number, line) in without_tests(&text) {
            for call in [
                "fs::write",
                "File::create",
                "fs::rename",
                "fs::copy",
                "fs::create_dir",
                "fs::remove",
                "hard_link",
                "OpenOptions",
                "MmapMut",
            ] {
                assert!(!called(line, call), "{}:{number}: {call} belongs in files", path.display());
            }
        }
    }
}
