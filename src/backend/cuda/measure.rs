//! What a device can do at most, measured in a few milliseconds: kernels/measure.cu.

use super::{
    driver::{Driver, Stream},
    launch::{Address, Args, Launch},
};
use crate::{Error, Result};

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

/// Rounds of [`mma_peak`] that take about a millisecond.
pub const ROUNDS: u32 = 4096;

/// Measures all of them, in memory that is given back; `rounds` of [`mma_peak`]. The kernels are loaded.
///
/// # Errors
/// If the device fails, or its clock stands still.
pub fn peaks(driver: &mut dyn Driver, rounds: u32) -> Result<Peaks> {
    let sms = driver.attributes().sms;
    // Larger than every L2, smaller where memory is short.
    let bytes = (driver.free_memory()? as usize / 4).min(256 << 20) / 512 * 512;
    let half = bytes / 2;
    let memory = driver.alloc(bytes)?;
    let pinned_bytes = half.min(16 << 20);
    let pinned = driver.alloc_pinned(pinned_bytes)?;
    let blocks = sms * 8;
    let run = |driver: &mut dyn Driver| -> Result<Peaks> {
        driver.zero(memory, bytes, Stream::MAIN)?;
        driver.zero(pinned, pinned_bytes, Stream::MAIN)?;
        let mma = best_seconds(driver, &mma_peak(blocks, rounds, memory))?;
        let copy = best_seconds(driver, &copy_peak(blocks, memory, memory + half as u64, half))?;
        // Kernels read pinned memory over the bus, as the gather of a host embedding does.
        let bus = best_seconds(driver, &copy_peak(blocks, pinned, memory, pinned_bytes))?;
        let mmas = f64::from(blocks) * f64::from(WARPS) * f64::from(rounds) * 8.0;
        Ok(Peaks { flops: mmas * MMA / mma, bandwidth: 2.0 * half as f64 / copy, bus: pinned_bytes as f64 / bus })
    };
    let peaks = run(driver);
    driver.synchronize(Stream::MAIN)?;
    driver.free(memory)?;
    driver.free(pinned)?;
    peaks
}

/// The shortest of some launches, by the device's clock.
fn best_seconds(driver: &mut dyn Driver, launch: &Launch) -> Result<f64> {
    let (from, to) = (driver.event()?, driver.event()?);
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        driver.record(from, Stream::MAIN)?;
        driver.launch(launch, Stream::MAIN)?;
        driver.record(to, Stream::MAIN)?;
        best = best.min(f64::from(driver.elapsed_ms(from, to)?) * 1e-3);
    }
    if best > 0.0 {
        Ok(best)
    } else {
        Err(Error::failed(format!("{} took no time by the device's clock", launch.kernel)))
    }
}
