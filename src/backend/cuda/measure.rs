//! What a device can do at most, measured in a few milliseconds: kernels/measure.cu.

use super::{
    driver::Driver,
    launch::{Address, Args, Launch},
};
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// Floating-point operations of one mma of 16×8×16.
const MMA: f64 = 2.0 * 16.0 * 8.0 * 16.0;
const THREADS: u32 = 256;
const WARPS: u32 = THREADS / 32;

/// Peaks of a device.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Peaks {
    /// Floating-point operations a second of bf16 mma.sync with f32 accumulators.
    pub flops: f64,
    /// Bytes a second of a copy, read and written.
    pub bandwidth: f64,
    /// Bytes a second from pinned host memory to the device.
    pub bus: f64,
}

/// `rounds` × 8 mma by each warp of `blocks` blocks; `out` `f32 [blocks·256]`.
pub fn mma_peak(blocks: u32, rounds: u32, out: Address) -> Launch {
    Launch::new("measure", "mma_peak", [blocks, 1, 1], THREADS, Args::new().with(rounds).with(out))
}

/// Copies `bytes`, a multiple of 16.
pub fn copy_peak(blocks: u32, src: Address, dst: Address, bytes: usize) -> Launch {
    let args = Args::new().with(src).with(dst).with(bytes as u64 / 16);
    Launch::new("measure", "copy_peak", [blocks, 1, 1], THREADS, args)
}

/// Rounds of [`mma_peak`] that take a few milliseconds.
pub const ROUNDS: u32 = 4096;
/// Bytes of device memory that the measurement takes: far more than an L2 holds, where there is so much, and at least.
const BYTES: (usize, usize) = (1 << 30, 32 << 20);
/// Bytes of pinned memory.
const PINNED: usize = 16 << 20;
/// Clocks have gone up after this time.
const WARM: Duration = Duration::from_millis(200);
/// Measuring stops after this many tries without improvement.
const PATIENCE: u32 = 5;

/// Measures all of them, in memory that is given back; `rounds` of [`mma_peak`]. The kernels are loaded. The operands are all
/// one, which takes less power than a product of other numbers: on a card at its power limit real products clock lower.
///
/// # Errors
/// If little memory is free, the device fails, or its clock stands still.
pub fn peaks(driver: &mut dyn Driver, rounds: u32) -> Result<Peaks> {
    let free = driver.free_memory()?;
    let bytes = (free / 4).min(BYTES.0 as u64) as usize / 512 * 512;
    if bytes < BYTES.1 {
        return Err(Error::failed(format!("only {} MiB are free on the device", free >> 20)));
    }
    let memory = driver.alloc(bytes)?;
    let result = match driver.alloc_pinned(PINNED) {
        Ok(pinned) => {
            let result = measured(driver, rounds, memory, bytes, pinned);
            let ended = driver.synchronize().and_then(|()| driver.free(pinned));
            result.and_then(|peaks| ended.map(|()| peaks))
        }
        Err(e) => Err(e),
    };
    let ended = driver.free(memory);
    result.and_then(|peaks| ended.map(|()| peaks))
}

fn measured(driver: &mut dyn Driver, rounds: u32, memory: Address, bytes: usize, pinned: Address) -> Result<Peaks> {
    let (half, blocks) = (bytes / 2, driver.attributes().sms * 8);
    driver.zero(memory, bytes)?;
    driver.zero(pinned, PINNED)?;
    let mma = best_seconds(driver, &mma_peak(blocks, rounds, memory))?;
    let copy = best_seconds(driver, &copy_peak(blocks, memory, memory + half as u64, half))?;
    // Kernels read pinned memory over the bus, as the gather of a host embedding does.
    let bus = best_seconds(driver, &copy_peak(blocks, pinned, memory, PINNED))?;
    let mmas = f64::from(blocks) * f64::from(WARPS) * f64::from(rounds) * 8.0;
    Ok(Peaks { flops: mmas * MMA / mma, bandwidth: 2.0 * half as f64 / copy, bus: PINNED as f64 / bus })
}

/// The shortest of many launches, by the device's clock.
fn best_seconds(driver: &mut dyn Driver, launch: &Launch) -> Result<f64> {
    let (from, to) = (driver.event()?, driver.event()?);
    let (began, mut best, mut stale) = (Instant::now(), f64::INFINITY, 0);
    while stale < PATIENCE || began.elapsed() < WARM {
        driver.record(from)?;
        driver.launch(launch)?;
        driver.record(to)?;
        let seconds = f64::from(driver.elapsed_ms(from, to)?) * 1e-3;
        if seconds <= 0.0 {
            return Err(Error::failed(format!("{} took no time by the device's clock", launch.kernel)));
        }
        stale = if seconds < 0.99 * best { 0 } else { stale + 1 };
        best = best.min(seconds);
    }
    Ok(best)
}
