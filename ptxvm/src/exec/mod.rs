//! Running kernels: [`launch`] spreads blocks over host threads, [`block`] schedules a block's warps and its barriers,
//! [`warp`] is the instruction loop, and one module for each family of instructions.

pub(crate) mod alu;
mod atomics;
mod block;
mod cmp;
mod copy;
mod cvt;
mod half2;
mod lanes;
pub(crate) mod launch;
mod matrix;
mod mem;
mod mma;
mod warp;

use crate::count::Counters;
use crate::decode::inst::Code;
use crate::detect::Detect;
use crate::detect::shared::SharedShadow;
use crate::error::{Fault, FaultKind, SourceLine};
use crate::memory::Global;
use crate::parse::ast::Loc;
use crate::regs::Regs;
use std::collections::HashMap;

/// Everything that a launch's blocks share.
pub(crate) struct Machine<'a> {
    pub code: &'a Code,
    pub text: &'a str,
    pub files: &'a HashMap<u32, String>,
    pub global: &'a Global,
    /// Addresses of the module's variables.
    pub vars: &'a [u64],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: &'a [u8],
    pub detect: Detect,
    pub seed: u64,
    pub fast: bool,
    /// Instructions that one warp may issue.
    pub budget: u64,
    pub count_memory: bool,
    /// Warp instructions between switches, on average.
    pub quantum: u32,
}

/// Whether this processor has what `alu`'s and `mma`'s fast versions are compiled for.
pub(crate) fn has_fast_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("lzcnt")
            && std::arch::is_x86_feature_detected!("popcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// A fault on its way up.
pub(crate) type Stopped = Box<Fault>;

/// One level of divergence below the current one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub pc: u32,
    pub join: u32,
    pub mask: u32,
}

/// What a warp is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Waiting(u8),
    Done,
}

/// One warp.
pub(crate) struct Warp {
    pub id: u32,
    pub regs: Regs,
    pub pc: u32,
    pub active: u32,
    pub join: u32,
    pub stack: Vec<Level>,
    /// Lanes that exist at all, and those that have not exited.
    pub exists: u32,
    pub live: u32,
    pub state: State,
    pub issued: u64,
    pub local: Vec<u8>,
    pub copies: copy::Copies,
    /// The allocation hit last.
    pub hint: usize,
}

/// What a block's instructions act on beside their warp.
pub(crate) struct Ctx<'m> {
    pub m: &'m Machine<'m>,
    pub index: [u32; 3],
    /// Linear block number.
    pub number: u32,
    pub shared: Vec<u8>,
    pub shadow: Option<SharedShadow>,
    pub count: Counters,
    pub clock: u64,
    /// Faults other than divergence are looked for.
    pub rng: Rng,
}

impl Ctx<'_> {
    /// A fault at the warp's current instruction.
    #[cold]
    pub fn fault(
        &self,
        warp: &Warp,
        kind: FaultKind,
        lane: Option<u32>,
        address: Option<u64>,
        what: impl Into<String>,
    ) -> Stopped {
        self.fault_at(warp.id, warp.pc, kind, lane, address, what)
    }

    #[cold]
    pub fn fault_at(
        &self,
        warp: u32,
        pc: u32,
        kind: FaultKind,
        lane: Option<u32>,
        address: Option<u64>,
        what: impl Into<String>,
    ) -> Stopped {
        let m = self.m;
        let inst = m.code.insts.get(pc as usize);
        let source = inst.and_then(|i| m.code.locs.get(i.loc as usize)).map(|l| source(m.files, l));
        let text = inst.map_or(String::new(), |i| {
            let raw = m.text.get(i.text.0 as usize..i.text.1 as usize).unwrap_or("");
            raw.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        let thread = lane.map(|l| {
            let t = warp * 32 + l;
            let [x, y, _] = m.block;
            [t % x, t / x % y, t / x / y]
        });
        Box::new(Fault {
            kind,
            what: what.into(),
            kernel: m.code.name.clone(),
            line: inst.map_or(0, |i| i.line),
            text,
            source,
            block: self.index,
            thread,
            address,
        })
    }
}

fn source(files: &HashMap<u32, String>, loc: &Loc) -> SourceLine {
    let name = |n: u32| files.get(&n).cloned().unwrap_or_else(|| format!("file {n}"));
    SourceLine { file: name(loc.file), line: loc.line, inlined_at: loc.inlined.map(|(f, l)| (name(f), l)) }
}

/// SplitMix64: schedules must differ between seeds and repeat for one.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub fn new(seed: u64, stream: u64) -> Rng {
        let mut r = Rng(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        r.next();
        r
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next() >> 32) * n as u64) >> 32) as u32
    }
}

/// Iterates over the lanes of a mask.
#[inline(always)]
pub(crate) fn each(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let l = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(l)
    })
}
