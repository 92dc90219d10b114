//! A launch: blocks in a seeded random order over host threads, until all are done or one faults.

use super::block::Block;
use super::{Machine, Rng, Stopped};
use crate::count::Counters;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Runs every block of the grid.
pub(crate) fn run(m: &Machine<'_>, threads: usize) -> Result<Counters, Stopped> {
    let blocks = m.grid.iter().map(|n| *n as u64).product::<u64>();
    // An affine map with a multiplier coprime to the count visits every block once, in scattered order.
    let mut rng = Rng::new(m.seed, u64::MAX);
    let start = rng.next() % blocks.max(1);
    let step = (0..64).map(|_| rng.next() % blocks.max(1)).find(|s| gcd(*s, blocks) == 1).unwrap_or(1);
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new((Counters::default(), None::<(u64, Stopped)>));
    let work = || {
        let mut block: Option<Block<'_>> = None;
        while !stop.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= blocks {
                break;
            }
            let number = ((start as u128 + i as u128 * step as u128) % blocks as u128) as u64;
            let b = block.get_or_insert_with(|| Block::new(m));
            if let Err(fault) = b.run(number) {
                stop.store(true, Ordering::Relaxed);
                let mut t = lock(&total);
                if t.1.as_ref().is_none_or(|(first, _)| number < *first) {
                    t.1 = Some((number, fault));
                }
            }
        }
        if let Some(b) = block {
            lock(&total).0.add(&b.ctx.count);
        }
    };
    let threads = threads.clamp(1, blocks.clamp(1, 1024) as usize);
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(work);
            }
        });
    }
    let (mut counters, fault) = match total.into_inner() {
        Ok(t) => t,
        Err(poisoned) => poisoned.into_inner(),
    };
    counters.blocks = blocks;
    match fault {
        Some((_, fault)) => Err(fault),
        None => Ok(counters),
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    match m.lock() {
        Ok(g) => g,
        Err(poisoned) => poisoned.into_inner(),
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
