//! Memory of the host that a process can still have: the least of what the machine has available and of what each
//! control group around the process leaves.
//!
//! A container is a control group, and it may lie in others that have limits too: a batch system's job, a user's slice.
//! Linux keeps them in two hierarchies (cgroups(7)): version 2, where one tree has all resources, and version 1, where
//! memory has a tree of its own. `/proc/self/cgroup` names the process's group in each, `/proc/self/mountinfo` says where
//! the trees can be read and at which of their groups the readable part begins.

use crate::error::gib;
use std::{
    ffi::OsString,
    fmt, fs,
    os::unix::ffi::OsStringExt,
    path::{Component, Path, PathBuf},
};

/// From here on a number means that there is no limit: version 1 writes the largest multiple of a page in an `i64`.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes that a process can still have, and what allows no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// What sets them.
    pub by: Bound,
}

/// What bounds the memory of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// The machine's free memory.
    Machine,
    /// The limit of a control group.
    Group {
        /// Its directory.
        path: PathBuf,
        /// The file there that has the limit.
        file: &'static str,
        /// The limit, bytes.
        limit: u64,
    },
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("this machine (MemAvailable in /proc/meminfo)"),
            Self::Group { path, file, limit } => {
                write!(f, "the control group {} (its {file} is {})", path.display(), gib(*limit))
            }
        }
    }
}

/// What this process can have. `None` where the system tells nothing.
pub fn available() -> Option<Available> {
    available_under(Path::new("/"))
}

/// [`available`], with `/proc` and the control groups under `root`. What is missing or malformed sets no limit.
fn available_under(root: &Path) -> Option<Available> {
    let machine = mem_available(root).map(|bytes| Available { bytes, by: Bound::Machine });
    let groups = [Version::Two, Version::One].into_iter().flat_map(|version| limits(root, version));
    machine.into_iter().chain(groups).min_by_key(|a| a.bytes)
}

fn mem_available(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A kind of hierarchy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Files with a limit. The second of version 2 does not kill: beyond it the kernel holds a process up.
    const fn limits(self) -> &'static [&'static str] {
        match self {
            Self::One => &["memory.limit_in_bytes"],
            Self::Two => &["memory.max", "memory.high"],
        }
    }

    /// The file with the bytes in use, groups below included.
    const fn usage(self) -> &'static str {
        match self {
            Self::One => "memory.usage_in_bytes",
            Self::Two => "memory.current",
        }
    }

    /// The line of `memory.stat` with the page cache that is given back when memory is short, groups below included.
    const fn cache(self) -> &'static str {
        match self {
            Self::One => "total_inactive_file",
            Self::Two => "inactive_file",
        }
    }

    /// Where systems mount it, for a process that is not told.
    const fn usual_place(self) -> &'static str {
        match self {
            Self::One => "/sys/fs/cgroup/memory",
            Self::Two => "/sys/fs/cgroup",
        }
    }
}

/// A tree of groups as it is mounted: the part from the group `root` down is at `point`.
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

/// What the process's own group and those above it leave, as far as they can be read.
fn limits(root: &Path, version: Version) -> Vec<Available> {
    let own = own_group(root, version).unwrap_or_else(|| PathBuf::from("/"));
    let mut mounts = mounts(root, version);
    if mounts.is_empty() {
        mounts.push(Mount { root: "/".into(), point: version.usual_place().into() });
    }
    let below = |mount: &Mount| {
        let path = own.strip_prefix(&mount.root).ok()?;
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        // Not `join`, which ends a path to which nothing is added with a slash.
        plain.then(|| mount.point.components().chain(path.components()).collect())
    };
    let mut found: Vec<(PathBuf, &Path)> =
        mounts.iter().filter_map(|mount| Some((below(mount)?, mount.point.as_path()))).collect();
    if found.is_empty() {
        // The path is told from elsewhere than the mount was made: a container is shown its own group all the same.
        found.extend(mounts.iter().map(|mount| (mount.point.clone(), mount.point.as_path())));
    }
    let mut limits = Vec::new();
    for (own, top) in found {
        let groups = own.ancestors().take_while(|group| group.starts_with(top));
        groups.for_each(|group| limits.extend(of_group(root, group, group == own, version)));
    }
    limits
}

/// The group of this process: a path from the root of the hierarchy, or from that of its namespace.
fn own_group(root: &Path, version: Version) -> Option<PathBuf> {
    let text = fs::read(root.join("proc/self/cgroup")).ok()?;
    text.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |&b| b == b':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match version {
            Version::One => controllers.split(|&b| b == b',').any(|c| c == b"memory"),
            Version::Two => number == b"0" && controllers.is_empty(),
        };
        is_it.then(|| PathBuf::from(OsString::from_vec(path.to_vec())))
    })
}

/// Where the hierarchy is mounted, by proc_pid_mountinfo(5): fields by blanks, of which the fourth is the root and the
/// fifth the place; behind a lone hyphen the type of the file system, its source, and its options.
fn mounts(root: &Path, version: Version) -> Vec<Mount> {
    let text = fs::read(root.join("proc/self/mountinfo")).unwrap_or_default();
    let of_line = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
        let kind = fields.iter().position(|&f| f == b"-")? + 1;
        let is_it = match version {
            Version::One => {
                *fields.get(kind)? == b"cgroup" && fields.get(kind + 2)?.split(|&b| b == b',').any(|o| o == b"memory")
            }
            Version::Two => *fields.get(kind)? == b"cgroup2",
        };
        is_it.then(|| Some(Mount { root: unescaped(fields.get(3)?), point: unescaped(fields.get(4)?) }))?
    };
    text.split(|&b| b == b'\n').filter_map(of_line).collect()
}

/// A path of mountinfo: blanks, tabs, line ends and backslashes stand there as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// What the limits of one group leave. `own` is whether the process is in it and not in one below.
fn of_group(root: &Path, group: &Path, own: bool, version: Version) -> Vec<Available> {
    let read = |file: &str| {
        let path = group.join(file);
        fs::read_to_string(root.join(path.strip_prefix("/").unwrap_or(&path))).ok()
    };
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    // In version 1 a group may leave those below it alone.
    if version == Version::One && !own && number("memory.use_hierarchy") == Some(0) {
        return Vec::new();
    }
    let stat = read("memory.stat").unwrap_or_default();
    let of_stat = |name: &str| {
        let value = stat.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse::<u64>().ok()
    };
    let cache = of_stat(version.cache()).unwrap_or(0);
    let used = number(version.usage()).unwrap_or(0).saturating_sub(cache);
    // The least limit on the way up, also of groups that a container cannot see.
    const OF_ALL: &str = "hierarchical_memory_limit";
    let of_all = of_stat(OF_ALL).filter(|_| version == Version::One && own);
    let limits = version.limits().iter().filter_map(|&file| Some((file, number(file)?)));
    let limits = limits.chain(of_all.map(|limit| (OF_ALL, limit))).filter(|(_, limit)| *limit < NO_LIMIT);
    limits
        .map(|(file, limit)| Available {
            bytes: limit.saturating_sub(used),
            by: Bound::Group { path: group.to_path_buf(), file, limit },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Files under a directory that stands for `/`.
    struct Machine(tempfile::TempDir);

    impl Machine {
        /// One with 64 GiB available.
        fn new(cgroup: &str, mountinfo: &str) -> Self {
            let machine = Self(tempfile::tempdir().expect("a directory"));
            machine
                .with("proc/meminfo", &format!("MemTotal: 99 kB\nMemAvailable:   {} kB\n", 64 * GIB / 1024))
                .with("proc/self/cgroup", cgroup)
                .with("proc/self/mountinfo", mountinfo)
        }

        fn with(self, path: &str, text: &str) -> Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
            self
        }

        /// A group with a limit, bytes in use, and page cache among them.
        fn group(self, version: Version, dir: &str, limit: impl fmt::Display, used: u64, cache: u64) -> Self {
            // Version 1 has the group's own cache beside that of all below it.
            let stat = format!("inactive_file {}\n", if version == Version::One { 0 } else { cache });
            let stat = if version == Version::One { format!("{stat}total_inactive_file {cache}\n") } else { stat };
            self.with(&format!("{dir}/{}", version.limits()[0]), &format!("{limit}\n"))
                .with(&format!("{dir}/{}", version.usage()), &format!("{used}\n"))
                .with(&format!("{dir}/memory.stat"), &stat)
        }

        fn available(&self) -> Option<Available> {
            available_under(self.0.path())
        }

        /// Asserts that `path` is what bounds the process, to so many GiB.
        fn is_bound(&self, path: &str, file: &str, gibs: u64) {
            let found = self.available().expect("known");
            let Bound::Group { path: by, file: of, .. } = &found.by else { panic!("{found:?}") };
            assert_eq!((by.to_str().unwrap(), *of, found.bytes), (path, file, gibs * GIB), "{found:?}");
        }
    }

    const MACHINE: Available = Available { bytes: 64 * GIB, by: Bound::Machine };
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "40 32 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 32 0:31 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";
    /// What version 1 writes where nothing is set.
    const UNSET: &str = "9223372036854771712";
    use Version::{One, Two};

    #[test]
    fn the_least_of_all_groups_above_counts() {
        let nested = |own: &str, job: &str, top: &str| {
            Machine::new("0::/job/step_0/task\n", V2)
                .group(Two, "sys/fs/cgroup/job/step_0/task", own, 0, 0)
                .group(Two, "sys/fs/cgroup/job/step_0", "max", 9 * GIB, 0)
                .group(Two, "sys/fs/cgroup/job", job, 2 * GIB, 0)
                .with("sys/fs/cgroup/memory.max", top)
        };
        let gibs = |n: u64| (n * GIB).to_string();
        nested(&gibs(4), &gibs(32), "max").is_bound("/sys/fs/cgroup/job/step_0/task", "memory.max", 4);
        nested(&gibs(31), &gibs(32), "max").is_bound("/sys/fs/cgroup/job", "memory.max", 30);
        nested("max", "max", &gibs(3)).is_bound("/sys/fs/cgroup", "memory.max", 3);
        assert_eq!(nested("max", "max", "max").available(), Some(MACHINE));
        assert_eq!(nested(&gibs(65), "max", "max").available(), Some(MACHINE));
        nested("max", "max", "max").with("sys/fs/cgroup/job/memory.high", &gibs(8)).is_bound(
            "/sys/fs/cgroup/job",
            "memory.high",
            6,
        );
    }

    #[test]
    fn page_cache_is_not_used_memory() {
        let two = Machine::new("0::/a\n", V2).group(Two, "sys/fs/cgroup/a", 8 * GIB, 7 * GIB, 5 * GIB);
        two.is_bound("/sys/fs/cgroup/a", "memory.max", 6);
        let one = Machine::new("4:memory:/a\n", V1).group(One, "sys/fs/cgroup/memory/a", 8 * GIB, 7 * GIB, 5 * GIB);
        one.is_bound("/sys/fs/cgroup/memory/a", "memory.limit_in_bytes", 6);
        // Figures that do not go together, as they are read one after the other.
        let odd = Machine::new("0::/a\n", V2).group(Two, "sys/fs/cgroup/a", 8 * GIB, GIB, 5 * GIB);
        odd.is_bound("/sys/fs/cgroup/a", "memory.max", 8);
        let over = Machine::new("0::/a\n", V2).group(Two, "sys/fs/cgroup/a", 8 * GIB, 9 * GIB, 0);
        over.is_bound("/sys/fs/cgroup/a", "memory.max", 0);
    }

    #[test]
    fn version_1_is_read_at_every_group_above() {
        let nested = |mountinfo: &str, hierarchy: &str| {
            Machine::new("9:cpu,cpuacct:/x\n7:hugetlb,memory:/docker/abc\n1:name=systemd:/y\n0::/\n", mountinfo)
                .group(One, "sys/fs/cgroup/memory/docker/abc", UNSET, GIB, 0)
                .group(One, "sys/fs/cgroup/memory/docker", 16 * GIB, 4 * GIB, 0)
                .with("sys/fs/cgroup/memory/docker/memory.use_hierarchy", hierarchy)
                .group(One, "sys/fs/cgroup/memory", UNSET, 50 * GIB, 0)
        };
        nested(V1, "1\n").is_bound("/sys/fs/cgroup/memory/docker", "memory.limit_in_bytes", 12);
        // Nobody says where it is mounted: where it is usual.
        nested("", "1\n").is_bound("/sys/fs/cgroup/memory/docker", "memory.limit_in_bytes", 12);
        assert_eq!(nested(V1, "0\n").available(), Some(MACHINE));
    }

    /// A container without a namespace of its own: its group is named as the host names it, and mounted at the top.
    #[test]
    fn a_mount_may_begin_below_the_root() {
        let one = "50 32 0:31 /docker/abc /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory\n";
        let machine = |path: &str| {
            Machine::new(&format!("7:memory:{path}\n"), one)
                .group(One, "sys/fs/cgroup/memory", 6 * GIB, GIB, 0)
                .group(One, "sys/fs/cgroup/memory/job", 3 * GIB, GIB, 0)
                .with("sys/fs/memory.limit_in_bytes", "1")
        };
        machine("/docker/abc").is_bound("/sys/fs/cgroup/memory", "memory.limit_in_bytes", 5);
        machine("/docker/abc/job").is_bound("/sys/fs/cgroup/memory/job", "memory.limit_in_bytes", 2);
        // Told from elsewhere.
        machine("/").is_bound("/sys/fs/cgroup/memory", "memory.limit_in_bytes", 5);
        machine("/../x").is_bound("/sys/fs/cgroup/memory", "memory.limit_in_bytes", 5);
        // One that is out of sight has a limit.
        machine("/docker/abc")
            .with("sys/fs/cgroup/memory/memory.stat", &format!("hierarchical_memory_limit {}\n", 4 * GIB))
            .is_bound("/sys/fs/cgroup/memory", "hierarchical_memory_limit", 3);
        // A place with a blank in its name, and a mount of another group beside it.
        let two = "50 32 0:31 /elsewhere /mnt/other rw - cgroup2 none rw\n50 32 0:31 /a /mnt/my\\040groups rw - cgroup2 none rw\n";
        let machine = Machine::new("0::/a/b\n", two)
            .group(Two, "mnt/my groups/b", 5 * GIB, 0, 0)
            .group(Two, "mnt/other", GIB, 0, 0)
            .group(Two, "mnt/other/b", GIB, 0, 0);
        machine.is_bound("/mnt/my groups/b", "memory.max", 5);
    }

    /// systemd's hybrid: version 2 is there for its names, and memory is under version 1.
    #[test]
    fn both_versions_may_be_there() {
        let two = "42 32 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let hybrid = |of_two: u64| {
            Machine::new("4:memory:/job\n0::/user\n", &format!("{V1}{two}"))
                .group(One, "sys/fs/cgroup/memory/job", 4 * GIB, 0, 0)
                .group(Two, "sys/fs/cgroup/unified/user", of_two, 0, 0)
        };
        hybrid(5 * GIB).is_bound("/sys/fs/cgroup/memory/job", "memory.limit_in_bytes", 4);
        hybrid(3 * GIB).is_bound("/sys/fs/cgroup/unified/user", "memory.max", 3);
    }

    #[test]
    fn what_is_missing_or_malformed_sets_no_limit() {
        let nothing = Machine(tempfile::tempdir().expect("a directory"));
        assert_eq!(nothing.available(), None);
        for (cgroup, mountinfo) in [("", ""), ("0::\n", V2), (":::\n0:\n\n", " - \n- cgroup2\n\n"), ("0::/gone\n", V2)]
        {
            assert_eq!(Machine::new(cgroup, mountinfo).available(), Some(MACHINE), "{cgroup:?} {mountinfo:?}");
        }
        for text in ["", "max", "-1", "4e9", "99999999999999999999999", "\u{0}", UNSET, "9223372036854775807"] {
            let machine = Machine::new("0::/a\n", V2).with("sys/fs/cgroup/a/memory.max", text);
            assert_eq!(machine.available(), Some(MACHINE), "{text:?}");
        }
        // Only a limit, or a limit beside garbage.
        let machine = Machine::new("0::/a\n", V2).with("sys/fs/cgroup/a/memory.max", "1073741824");
        machine.is_bound("/sys/fs/cgroup/a", "memory.max", 1);
        let machine = machine
            .with("sys/fs/cgroup/a/memory.current", "much")
            .with("sys/fs/cgroup/a/memory.stat", "inactive_file\ninactive_file lots\n")
            .with("proc/meminfo", "MemAvailable: 18446744073709551615 kB\n");
        machine.is_bound("/sys/fs/cgroup/a", "memory.max", 1);
    }

    #[test]
    fn a_bound_says_where_it_is() {
        let machine = Machine::new("0::/a\n", V2).group(Two, "sys/fs/cgroup/a", 8 * GIB, GIB, 0);
        let by = machine.available().expect("known").by;
        assert_eq!(by.to_string(), "the control group /sys/fs/cgroup/a (its memory.max is 8.00 GiB)");
        assert!(Bound::Machine.to_string().contains("this machine"));
    }
}
