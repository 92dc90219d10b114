//! Compiles `kernels/*.cu`, where an nvcc is found, to machine code for each supported architecture and to PTX, and embeds
//! both. Without nvcc the program is built for the CPU only, and one line says how to get the other.
//!
//! Per kernel file and architecture one cubin is embedded, and the program picks by the device's compute capability; the
//! PTX serves newer chips and the tests. All of it is made of one text, the PTX of nvcc with two changes ([`portable`]):
//! - nvcc 13 writes PTX that only r580 drivers take. The version line is lowered, and where a ptxas of CUDA 12 lies in the
//!   toolchain it makes the machine code: both load from r525 on.
//! - f32 additions and products say that they round. ptxas would fuse some into fma otherwise, and a GPU would not have the
//!   bits of the tests; what nvcc itself has fused stays.
//!
//! Environment: `NVCC` (path of nvcc), `CUDA_HOME`. Without the feature `cuda` no nvcc is looked for.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

/// Compute capabilities that get machine code of their own.
const ARCHITECTURES: [u32; 4] = [80, 86, 89, 90];
/// Version of PTX that drivers from r525 on understand.
const PORTABLE_PTX: (u32, u32) = (8, 0);
/// The oldest nvcc that knows what the kernels use and all of [`ARCHITECTURES`].
const OLDEST_NVCC: (u32, u32) = (11, 8);

fn main() {
    println!("cargo:rustc-check-cfg=cfg(irori_cuda)");
    for name in ["NVCC", "CUDA_HOME", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    // Only if it is there: for a missing file cargo would run this, and build the crate, every time.
    if root.join(".toolchain/ready").is_file() {
        println!("cargo:rerun-if-changed=.toolchain/ready");
    }
    let modules = if env::var_os("CARGO_FEATURE_CUDA").is_some() { kernels(&root, &out) } else { Vec::new() };
    write_table(&out, &modules);
}

/// Every kernel file, compiled; none, and a line of advice, where there is no nvcc.
fn kernels(root: &Path, out: &Path) -> Vec<Compiled> {
    let dir = root.join("kernels");
    let sources = kernel_sources(&dir);
    if sources.is_empty() {
        return Vec::new();
    }
    let Some(nvcc) = find_nvcc(root) else {
        println!(
            "cargo:warning=no nvcc found: building irori for the CPU only; `make toolchain` puts one into .toolchain/"
        );
        return Vec::new();
    };
    println!("cargo:rustc-cfg=irori_cuda");
    compile_all(&Toolchain::new(nvcc, root), &sources, &dir, out)
}

/// A compiled kernel file.
struct Compiled {
    name: String,
    ptx: PathBuf,
    cubins: Vec<(u32, PathBuf)>,
    /// What ptxas says of registers, shared memory and spills.
    resources: String,
}

struct Toolchain {
    nvcc: PathBuf,
    /// ptxas of CUDA 12, for machine code that older drivers load.
    portable_ptxas: Option<PathBuf>,
    version: String,
}

impl Toolchain {
    fn new(nvcc: PathBuf, root: &Path) -> Self {
        let version = run(Command::new(&nvcc).arg("--version"));
        let portable_ptxas =
            site_packages(root).into_iter().map(|p| p.join("cuda_nvcc/bin/ptxas")).find(|p| p.is_file());
        Self { nvcc, portable_ptxas, version }
    }

    /// ptxas beside nvcc.
    fn own_ptxas(&self) -> PathBuf {
        self.nvcc.with_file_name("ptxas")
    }
}

fn kernel_sources(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut sources: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "cu")).collect();
    sources.sort();
    sources
}

/// `nvidia` folders of the Python environment that `make toolchain` makes.
fn site_packages(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join(".toolchain/lib")) else { return Vec::new() };
    entries.flatten().map(|e| e.path().join("site-packages/nvidia")).filter(|p| p.is_dir()).collect()
}

/// The first nvcc that is new enough: the one named, the toolchain's, then what the machine has (a cluster's module is
/// often an old one).
fn find_nvcc(root: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os("NVCC").map(PathBuf::from) {
        match nvcc_version(&named) {
            Some(version) if version >= OLDEST_NVCC => return Some(named),
            Some((major, minor)) => fail(&format!("NVCC={} is {major}.{minor}; irori needs 11.8", named.display())),
            None => fail(&format!("NVCC={} does not say its version", named.display())),
        }
    }
    let mut candidates = Vec::new();
    candidates.extend(site_packages(root).into_iter().map(|p| p.join("cu13/bin/nvcc")));
    candidates.extend(env::var_os("CUDA_HOME").map(|h| PathBuf::from(h).join("bin/nvcc")));
    candidates.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|p| p.join("nvcc")));
    candidates.push("/usr/local/cuda/bin/nvcc".into());
    candidates.into_iter().filter(|p| p.is_file()).find(|p| match nvcc_version(p) {
        Some(version) if version >= OLDEST_NVCC => true,
        Some((major, minor)) => {
            println!("cargo:warning={} is {major}.{minor} and not used: irori needs 11.8", p.display());
            false
        }
        None => false,
    })
}

/// Major and minor version, from "release 12.4, V12.4.131".
fn nvcc_version(nvcc: &Path) -> Option<(u32, u32)> {
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split("release ").nth(1)?.split(',').next()?;
    let (major, minor) = release.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The PTX that is embedded and assembled; see the head of this file.
fn portable(ptx: &str) -> String {
    let line = |l: &str| -> String {
        if let Some(version) = l.strip_prefix(".version ") {
            let (major, minor) = version.trim().split_once('.').unwrap_or((version, "0"));
            let found = (major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
            let (major, minor) = found.min(PORTABLE_PTX);
            return format!(".version {major}.{minor}");
        }
        ["add", "sub", "mul"].iter().fold(l.to_owned(), |l, op| {
            l.replace(&format!("{op}.f32 "), &format!("{op}.rn.f32 "))
                .replace(&format!("{op}.f32\t"), &format!("{op}.rn.f32\t"))
        })
    };
    // The pragma is a hint that version 8.0 does not know.
    ptx.lines()
        .filter(|l| !l.contains(".pragma \"used_bytes_mask"))
        .map(line)
        .fold(String::new(), |all, l| all + &l + "\n")
}

/// Runs a command and returns what it printed; a failure ends the build with the command and its output.
fn run(command: &mut Command) -> String {
    let output = match command.output() {
        Ok(o) => o,
        Err(e) => fail(&format!("cannot run {command:?}: {e}")),
    };
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { text } else { fail(&format!("{command:?} failed:\n{text}")) }
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1)
}

/// Compiles every source that changed, as many at once as cargo allows.
fn compile_all(tools: &Toolchain, sources: &[PathBuf], dir: &Path, out: &Path) -> Vec<Compiled> {
    let headers: String = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "cuh"))
        .map(|p| fs::read_to_string(p).unwrap_or_default())
        .collect();
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(2usize).max(1);
    let queue = Mutex::new(sources.iter().rev());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.min(sources.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread panics while holding it").next_back();
                    let Some(source) = next else { break };
                    let compiled = compile(tools, source, &headers, out);
                    done.lock().expect("no thread panics while holding it").push(compiled);
                }
            });
        }
    });
    let mut modules = done.into_inner().expect("no thread panics while holding it");
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    modules
}

/// One kernel file: PTX, then machine code from it. Skipped if nothing it depends on has changed.
fn compile(tools: &Toolchain, source: &Path, headers: &str, out: &Path) -> Compiled {
    let name = source.file_stem().expect("a file has a stem").to_string_lossy().into_owned();
    let (written, ptx) = (out.join(format!("{name}.nvcc.ptx")), out.join(format!("{name}.ptx")));
    let cubins: Vec<(u32, PathBuf)> =
        ARCHITECTURES.iter().map(|&sm| (sm, out.join(format!("{name}.sm_{sm}.cubin")))).collect();
    let (log, key_file) = (out.join(format!("{name}.log")), out.join(format!("{name}.key")));
    let text = fs::read_to_string(source).unwrap_or_else(|e| fail(&format!("cannot read {}: {e}", source.display())));
    // This file's own text stands for flags, architectures and changes of the PTX.
    let key = format!("{}\n{:?}\n{}\n{headers}\n{text}", tools.version, tools.portable_ptxas, include_str!("build.rs"));
    if fs::read_to_string(&key_file).is_ok_and(|k| k == key) {
        let resources = fs::read_to_string(&log).unwrap_or_default();
        return Compiled { name, ptx, cubins, resources };
    }
    let _ = fs::remove_file(&key_file);
    run(Command::new(&tools.nvcc)
        .args(["-ptx", "-arch=compute_80", "-std=c++17", "-O3", "-lineinfo", "--expt-relaxed-constexpr", "-o"])
        .arg(&written)
        .arg(source));
    let text =
        fs::read_to_string(&written).unwrap_or_else(|e| fail(&format!("cannot read {}: {e}", written.display())));
    fs::write(&ptx, portable(&text)).unwrap_or_else(|e| fail(&format!("cannot write {}: {e}", ptx.display())));
    let mut resources = String::new();
    let ptxas = tools.portable_ptxas.clone().unwrap_or_else(|| tools.own_ptxas());
    for (sm, cubin) in &cubins {
        let said = run(Command::new(&ptxas)
            .args(["-v", "-O3", "-lineinfo"])
            .arg(format!("-arch=sm_{sm}"))
            .arg("-o")
            .arg(cubin)
            .arg(&ptx));
        let _ = write!(resources, "sm_{sm}\n{said}");
    }
    let _ = fs::write(&log, &resources);
    let _ = fs::write(&key_file, &key);
    Compiled { name, ptx, cubins, resources }
}

/// `kernels.rs`: the table that `src/backend/cuda` includes. `kernels.txt`: the resources, for people and tests.
fn write_table(out: &Path, modules: &[Compiled]) {
    let mut table = String::from("/// Compiled kernel files.\npub static MODULES: &[CompiledModule] = &[\n");
    let mut resources = String::new();
    for m in modules {
        let _ = writeln!(table, "    CompiledModule {{ name: {:?}, ptx: include_str!({:?}), cubins: &[", m.name, m.ptx);
        for (sm, path) in &m.cubins {
            let _ = writeln!(table, "        ({sm}, &Aligned(*include_bytes!({path:?})).0),");
        }
        let _ = writeln!(table, "    ] }},");
        let _ = write!(resources, "== {}\n{}", m.name, m.resources);
    }
    table.push_str("];\n");
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).unwrap_or_else(|e| fail(&format!("cannot write {}: {e}", path.display())));
    };
    write("kernels.rs", &table);
    write("kernels.txt", &resources);
}
