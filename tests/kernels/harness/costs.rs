//! Bounds on what a kernel costs.

use ptxvm::Counters;

/// Bytes that a kernel must move at least.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub loads: usize,
    pub stores: usize,
}

/// Bytes of the sectors under `rows` rows of `width` bf16 that lie one after the other but are moved one by one.
pub fn in_sectors(rows: usize, width: usize) -> usize {
    rows * (width * 2).next_multiple_of(32)
}

/// Fails unless the kernel moved, in whole sectors, at most 5 % more than it must, and stayed out of local memory.
#[track_caller]
pub fn assert_traffic(what: &str, c: &Counters, t: Traffic) {
    let moved = [("load", c.global_load_sectors, t.loads), ("store", c.global_store_sectors, t.stores)];
    for (direction, sectors, least) in moved {
        let bytes = sectors as usize * 32;
        assert!(
            bytes as f64 <= 1.05 * least as f64,
            "{what}: {direction} traffic is {bytes} bytes, the least is {least} ({:.3} times)",
            bytes as f64 / least as f64
        );
    }
    assert_eq!(c.local_accesses, 0, "{what} uses local memory");
}

/// Fails if an access to shared memory has a bank conflict.
#[track_caller]
pub fn assert_no_conflicts(what: &str, c: &Counters) {
    assert_eq!(c.bank_conflicts(), 0, "{what} has bank conflicts:\n{c}");
}
