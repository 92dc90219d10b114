//! What a launch cost: instructions by class, memory traffic in 32-byte sectors, shared-memory wavefronts.

use crate::regs::LANES;
use std::fmt;

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Classes of instructions, as issued by a warp.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Class { $($(#[$doc])* $name,)* }

        impl Class {
            /// All classes, in order.
            pub const ALL: &'static [Class] = &[$(Class::$name,)*];

            /// A short name for tables.
            pub fn name(self) -> &'static str {
                match self { $(Class::$name => $text,)* }
            }
        }
    };
}

classes! {
    /// Integer and logic, address arithmetic included.
    Integer => "integer",
    /// Single-precision arithmetic.
    Float32 => "f32",
    /// Double-precision arithmetic.
    Float64 => "f64",
    /// f16 and bf16 arithmetic, packed or not.
    Half => "half",
    /// Approximate functions (ex2, rcp, …): the special function unit.
    Special => "special",
    /// Conversions between types.
    Convert => "convert",
    /// Comparison, selection, predicate logic.
    Compare => "compare",
    /// Register moves (most vanish in machine code).
    Move => "move",
    /// Parameter reads (constant-bank operands in machine code).
    Param => "param",
    /// `ld.global` and generic loads.
    LoadGlobal => "ld.global",
    /// `st.global` and generic stores.
    StoreGlobal => "st.global",
    /// `ld.shared`.
    LoadShared => "ld.shared",
    /// `st.shared`.
    StoreShared => "st.shared",
    /// Accesses to local memory (spills, indexed arrays).
    Local => "local",
    /// `ld.const`.
    Constant => "ld.const",
    /// Atomics and reductions.
    Atomic => "atomic",
    /// `cp.async` copies.
    AsyncCopy => "cp.async",
    /// `cp.async` commit and wait.
    AsyncWait => "cp.async wait",
    /// `ldmatrix`, `stmatrix`.
    Matrix => "ldmatrix",
    /// `mma.sync`.
    Mma => "mma",
    /// `shfl`, `vote`, `match`, `redux`.
    Warp => "warp",
    /// `bar.sync` and its kin, fences.
    Barrier => "barrier",
    /// Branches, exit.
    Branch => "branch",
}

/// Costs of one launch, summed over all blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Instructions issued by warps (one per warp, whatever its active lanes), by [`Class`].
    pub issued: [u64; Class::ALL.len()],
    /// The same times the active lanes.
    pub lanes: u64,
    /// Global (and generic-to-global) load instructions with at least one active lane; `cp.async` counts here too.
    pub global_load_requests: u64,
    /// 32-byte sectors touched by those, per instruction.
    pub global_load_sectors: u64,
    /// Bytes that lanes asked for in those.
    pub global_load_bytes: u64,
    /// Global store instructions.
    pub global_store_requests: u64,
    /// 32-byte sectors touched by those.
    pub global_store_sectors: u64,
    /// Bytes that lanes wrote in those.
    pub global_store_bytes: u64,
    /// Atomic operations on global memory, per lane.
    pub global_atomics: u64,
    /// Shared-memory wavefronts that the accesses need (loads, stores, `ldmatrix`; not `cp.async` writes).
    pub shared_wavefronts: u64,
    /// Wavefronts they would need without bank conflicts.
    pub shared_wavefronts_ideal: u64,
    /// Wavefronts that `cp.async` needs to write its data.
    pub async_wavefronts: u64,
    /// The same without bank conflicts.
    pub async_wavefronts_ideal: u64,
    /// Local-memory instructions.
    pub local_accesses: u64,
    /// Barriers passed, per block.
    pub barriers: u64,
    /// `mma.sync` operations issued.
    pub mma: u64,
    /// 8×8 matrices moved by `ldmatrix`.
    pub matrices: u64,
    /// Blocks run.
    pub blocks: u64,
    /// Branches at which a warp split.
    pub divergent_branches: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            issued: [0; Class::ALL.len()],
            lanes: 0,
            global_load_requests: 0,
            global_load_sectors: 0,
            global_load_bytes: 0,
            global_store_requests: 0,
            global_store_sectors: 0,
            global_store_bytes: 0,
            global_atomics: 0,
            shared_wavefronts: 0,
            shared_wavefronts_ideal: 0,
            async_wavefronts: 0,
            async_wavefronts_ideal: 0,
            local_accesses: 0,
            barriers: 0,
            mma: 0,
            matrices: 0,
            blocks: 0,
            divergent_branches: 0,
        }
    }
}

impl Counters {
    /// Instructions issued by warps, all classes.
    pub fn instructions(&self) -> u64 {
        self.issued.iter().sum()
    }

    /// Instructions of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.issued[class as usize]
    }

    /// Shared wavefronts beyond the ideal, `cp.async` writes included.
    pub fn bank_conflicts(&self) -> u64 {
        self.shared_wavefronts + self.async_wavefronts - self.shared_wavefronts_ideal - self.async_wavefronts_ideal
    }

    /// Adds another launch's (or block's) costs.
    pub fn add(&mut self, o: &Counters) {
        for (a, b) in self.issued.iter_mut().zip(&o.issued) {
            *a += b;
        }
        self.lanes += o.lanes;
        self.global_load_requests += o.global_load_requests;
        self.global_load_sectors += o.global_load_sectors;
        self.global_load_bytes += o.global_load_bytes;
        self.global_store_requests += o.global_store_requests;
        self.global_store_sectors += o.global_store_sectors;
        self.global_store_bytes += o.global_store_bytes;
        self.global_atomics += o.global_atomics;
        self.shared_wavefronts += o.shared_wavefronts;
        self.shared_wavefronts_ideal += o.shared_wavefronts_ideal;
        self.async_wavefronts += o.async_wavefronts;
        self.async_wavefronts_ideal += o.async_wavefronts_ideal;
        self.local_accesses += o.local_accesses;
        self.barriers += o.barriers;
        self.mma += o.mma;
        self.matrices += o.matrices;
        self.blocks += o.blocks;
        self.divergent_branches += o.divergent_branches;
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} blocks, {} warp instructions, {} lane instructions",
            self.blocks,
            self.instructions(),
            self.lanes
        )?;
        for class in Class::ALL.iter().filter(|c| self.of(**c) > 0) {
            writeln!(f, "  {:<14}{:>12}", class.name(), self.of(*class))?;
        }
        let line = |f: &mut fmt::Formatter<'_>, what: &str, requests, sectors, bytes| {
            writeln!(f, "  global {what}: {requests} requests, {sectors} sectors, {bytes} bytes")
        };
        line(f, "loads", self.global_load_requests, self.global_load_sectors, self.global_load_bytes)?;
        line(f, "stores", self.global_store_requests, self.global_store_sectors, self.global_store_bytes)?;
        writeln!(f, "  shared wavefronts: {} (ideal {})", self.shared_wavefronts, self.shared_wavefronts_ideal)?;
        writeln!(f, "  cp.async wavefronts: {} (ideal {})", self.async_wavefronts, self.async_wavefronts_ideal)?;
        write!(f, "  local accesses: {}, barriers: {}, mma: {}", self.local_accesses, self.barriers, self.mma)
    }
}

/// Number of distinct 32-byte sectors under the accesses of `mask`, each `bytes` long.
pub(crate) fn sectors(addr: &[u64; LANES], mask: u32, bytes: u32) -> u64 {
    let mut list = [0u64; LANES];
    let mut n = 0;
    let (mut last, mut sorted) = (None, true);
    let mut m = mask;
    while m != 0 {
        let a = addr[m.trailing_zeros() as usize] >> 5;
        m &= m - 1;
        // An access of up to 16 aligned bytes lies in one sector; a 32-byte one too.
        if last == Some(a) {
            continue;
        }
        sorted &= last.is_none_or(|l| l < a);
        last = Some(a);
        list[n] = a;
        n += 1;
    }
    debug_assert!(bytes <= 32);
    if sorted {
        return n as u64;
    }
    let list = &mut list[..n];
    list.sort_unstable();
    1 + list.windows(2).filter(|w| w[0] != w[1]).count() as u64
}

/// (actual, ideal) wavefronts of a shared access: 32 banks of 4 bytes; 8-byte accesses go by half warps, 16-byte
/// ones by quarter warps; lanes that want the same word share it.
pub(crate) fn wavefronts(addr: &[u64; LANES], mask: u32, bytes: u32) -> (u64, u64) {
    let lanes_per_phase = match bytes {
        0..=4 => 32,
        8 => 16,
        _ => 8,
    };
    let words = (bytes / 4).max(1);
    let (mut actual, mut ideal) = (0, 0);
    let mut first = 0;
    while first < LANES {
        let part = if lanes_per_phase == 32 { mask } else { (mask >> first) & ((1 << lanes_per_phase) - 1) };
        if part != 0 {
            ideal += 1;
            actual += phase(&addr[first..], part, words);
        }
        first += lanes_per_phase;
    }
    (actual, ideal)
}

/// Wavefronts of one phase: the most distinct words that any bank must serve.
pub(crate) fn phase(addr: &[u64], mask: u32, words: u32) -> u64 {
    let mut seen = 0u32;
    let mut word_of = [0u32; 32];
    let mut m = mask;
    let mut clash = false;
    while m != 0 {
        let l = m.trailing_zeros() as usize;
        m &= m - 1;
        let w0 = (addr[l] >> 2) as u32;
        for w in w0..w0 + words {
            let bank = (w & 31) as usize;
            if seen >> bank & 1 == 0 {
                seen |= 1 << bank;
                word_of[bank] = w;
            } else {
                clash |= word_of[bank] != w;
            }
        }
    }
    if !clash {
        return 1;
    }
    let mut all: Vec<u32> = Vec::with_capacity(32);
    let mut m = mask;
    while m != 0 {
        let l = m.trailing_zeros() as usize;
        m &= m - 1;
        let w0 = (addr[l] >> 2) as u32;
        all.extend(w0..w0 + words);
    }
    all.sort_unstable();
    all.dedup();
    let mut per_bank = [0u64; 32];
    for w in all {
        per_bank[(w & 31) as usize] += 1;
    }
    per_bank.into_iter().max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(f: impl Fn(u64) -> u64) -> [u64; LANES] {
        std::array::from_fn(|l| f(l as u64))
    }

    #[test]
    fn sectors_of_common_patterns() {
        assert_eq!(sectors(&at(|l| l * 4), u32::MAX, 4), 4);
        assert_eq!(sectors(&at(|l| l * 16), u32::MAX, 16), 16);
        assert_eq!(sectors(&at(|l| (31 - l) * 4), u32::MAX, 4), 4);
        assert_eq!(sectors(&at(|l| l * 128), u32::MAX, 4), 32);
        assert_eq!(sectors(&at(|_| 64), 1, 4), 1);
        assert_eq!(sectors(&at(|l| 4 + l * 4), u32::MAX, 4), 5);
    }

    #[test]
    fn wavefronts_of_common_patterns() {
        assert_eq!(wavefronts(&at(|l| l * 4), u32::MAX, 4), (1, 1));
        assert_eq!(wavefronts(&at(|_| 12), u32::MAX, 4), (1, 1));
        assert_eq!(wavefronts(&at(|l| l * 8), u32::MAX, 4), (2, 1));
        assert_eq!(wavefronts(&at(|l| l * 128), u32::MAX, 4), (32, 1));
        assert_eq!(wavefronts(&at(|l| l * 2), u32::MAX, 2), (1, 1));
        assert_eq!(wavefronts(&at(|l| l * 8), u32::MAX, 8), (2, 2));
        assert_eq!(wavefronts(&at(|l| l * 16), u32::MAX, 16), (4, 4));
        assert_eq!(wavefronts(&at(|l| l * 128), u32::MAX, 16), (32, 4));
        assert_eq!(wavefronts(&at(|l| l * 16), 0xff, 16), (1, 1));
    }
}
