//! What ptxas said when it made the machine code: nothing spills, nothing lives in local memory.

use crate::harness::there_are_kernels;
use irori::backend::cuda::modules::{MODULES, RESOURCES};

/// One kernel's machine code.
struct Compiled {
    /// "linear sm_80 linear_nt".
    name: String,
    stack: u32,
    spills: u32,
    registers: u32,
}

fn number_before(line: &str, word: &str) -> u32 {
    let text = line.split(word).next().unwrap_or_default();
    text.split_whitespace()
        .next_back()
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no number before {word:?}: {line}"))
}

fn compiled() -> Vec<Compiled> {
    let (mut module, mut sm) = ("", "");
    let mut all: Vec<Compiled> = Vec::new();
    for line in RESOURCES.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            module = name;
        } else if line.starts_with("sm_") {
            sm = line;
        } else if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default();
            all.push(Compiled { name: format!("{module} {sm} {kernel}"), stack: 0, spills: 0, registers: 0 });
        } else if let Some(last) = all.last_mut() {
            if line.contains("bytes stack frame") {
                last.stack = number_before(line, " bytes stack frame");
                last.spills = number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
            } else if line.contains("Used ") {
                last.registers = number_before(line, " registers");
            }
        }
    }
    all
}

#[test]
fn no_kernel_spills_or_uses_local_memory() {
    if !there_are_kernels() {
        return;
    }
    let all = compiled();
    assert!(all.len() >= MODULES.len() * 4, "{} kernels of {} files", all.len(), MODULES.len());
    for k in &all {
        println!("{:<48}{:>5} registers", k.name, k.registers);
    }
    let bad: Vec<_> = all.iter().filter(|k| k.stack > 0 || k.spills > 0).map(|k| &k.name).collect();
    assert!(bad.is_empty(), "a stack frame or spills in {bad:?}");
    assert!(all.iter().all(|k| k.registers > 0), "ptxas did not say how many registers");
}

/// What older drivers take, and what leaves no rounding to the assembler: see the head of build.rs.
#[test]
fn the_ptx_is_portable_and_says_how_it_rounds() {
    for m in MODULES {
        let version = m.ptx.lines().find_map(|l| l.strip_prefix(".version ")).expect("PTX begins with its version");
        let (major, minor) = version.split_once('.').expect("a version has two parts");
        let version: (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
        assert!(version <= (8, 0), "{}: {version:?}", m.name);
        assert!(m.ptx.contains(".target sm_80"), "{}", m.name);
        let open = |l: &&str| ["add.f32", "sub.f32", "mul.f32"].iter().any(|op| l.contains(op));
        assert_eq!(m.ptx.lines().find(open), None, "{}: could be fused", m.name);
    }
}

/// Machine code lies as it would in a file.
#[test]
fn machine_code_is_aligned() {
    for (sm, code) in MODULES.iter().flat_map(|m| m.cubins) {
        assert!(code.as_ptr().addr().is_multiple_of(64), "sm_{sm}");
        assert_eq!(&code[..4], b"\x7fELF", "sm_{sm}");
    }
}
