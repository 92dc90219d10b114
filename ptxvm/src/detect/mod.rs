//! The detectors: what they are, and their switches.

pub(crate) mod global;
pub(crate) mod shared;

/// Which mistakes a launch looks for. All are on by default; with all of them off the checks cost nothing.
///
/// Memory is never touched out of bounds, whatever the switches say: without `bounds` such a load gives zero and
/// such a store does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detect {
    /// Accesses outside allocations or outside shared memory.
    pub bounds: bool,
    /// Addresses that are no multiple of the access's size.
    pub alignment: bool,
    /// Reads of global bytes that nobody wrote.
    pub uninitialised_global: bool,
    /// Reads of shared bytes that nobody wrote.
    pub uninitialised_shared: bool,
    /// Shared-memory races between warps, and differing values stored to one place by one instruction.
    pub shared_race: bool,
    /// Blocks that touch each other's writes. Volatile, relaxed, acquire and release accesses are exempt, and so are
    /// atomics among themselves: who writes those says that blocks talk to each other.
    pub block_race: bool,
    /// `.sync` instructions with absent lanes.
    pub absent_lanes: bool,
    /// Barriers that not all threads reach.
    pub barrier_divergence: bool,
    /// `cp.async`: destinations touched before their wait, copies in flight at exit.
    pub async_copies: bool,
}

impl Detect {
    /// Every detector on.
    pub const ALL: Detect = Detect {
        bounds: true,
        alignment: true,
        uninitialised_global: true,
        uninitialised_shared: true,
        shared_race: true,
        block_race: true,
        absent_lanes: true,
        barrier_divergence: true,
        async_copies: true,
    };

    /// Every detector off.
    pub const NONE: Detect = Detect {
        bounds: false,
        alignment: false,
        uninitialised_global: false,
        uninitialised_shared: false,
        shared_race: false,
        block_race: false,
        absent_lanes: false,
        barrier_divergence: false,
        async_copies: false,
    };

    /// Whether the shared-memory shadow is needed at all.
    pub(crate) fn shared_shadow(&self) -> bool {
        self.uninitialised_shared || self.shared_race || self.async_copies
    }
}

impl Default for Detect {
    fn default() -> Self {
        Detect::ALL
    }
}
