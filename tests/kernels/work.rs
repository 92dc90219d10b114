//! What counted work takes at least on an sm_80 multiprocessor: throughputs from the CUDA programming guide and the A100
//! white paper, no latencies.

use ptxvm::{Class, Counters};
use std::ops::{Add, AddAssign, Mul, Sub};

/// Counted work: of a block, a launch, or a difference of two. Numbers are of warps unless they say bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    pub mma: f64,
    /// Instructions of the PTX that become machine instructions: all but moves and reads of parameters.
    pub issued: f64,
    /// Single-precision arithmetic.
    pub f32: f64,
    /// Approximate functions.
    pub special: f64,
    /// Wavefronts of shared memory; a shfl is one.
    pub shared: f64,
    /// Bytes in whole sectors that loads and stores ask for, from wherever they come: L1, L2 or memory.
    pub asked: f64,
}

impl Work {
    /// Of these counters.
    pub fn of(c: &Counters) -> Self {
        let issued = Class::ALL.iter().filter(|c| !matches!(c, Class::Move | Class::Param)).map(|&class| c.of(class));
        Self {
            mma: c.mma as f64,
            issued: issued.sum::<u64>() as f64,
            f32: c.of(Class::Float32) as f64,
            special: c.of(Class::Special) as f64,
            shared: (c.shared_wavefronts + c.async_wavefronts + c.of(Class::Warp)) as f64,
            asked: (32 * (c.global_load_sectors + c.global_store_sectors)) as f64,
        }
    }

    /// Cycles of the tensor cores: four of them take 8 cycles an mma.
    pub fn tensor_cycles(&self) -> f64 {
        self.mma * 2.0
    }

    /// Cycles of the schedulers and pipes: four instructions a cycle, 64 lanes of f32, 16 lanes of approximate functions.
    pub fn issue_cycles(&self) -> f64 {
        (self.issued / 4.0).max(self.f32 / 2.0).max(self.special * 2.0)
    }

    /// Cycles of one multiprocessor at least, its memory aside: shared memory serves a wavefront a cycle.
    pub fn cycles(&self) -> f64 {
        self.tensor_cycles().max(self.issue_cycles()).max(self.shared)
    }

    fn each(&self, o: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            mma: f(self.mma, o.mma),
            issued: f(self.issued, o.issued),
            f32: f(self.f32, o.f32),
            special: f(self.special, o.special),
            shared: f(self.shared, o.shared),
            asked: f(self.asked, o.asked),
        }
    }
}

impl Add for Work {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        self.each(&o, |a, b| a + b)
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}

impl Sub for Work {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        self.each(&o, |a, b| a - b)
    }
}

impl Mul<f64> for Work {
    type Output = Self;
    fn mul(self, by: f64) -> Self {
        self.each(&self, |a, _| a * by)
    }
}

/// A line through two measurements: work that grows evenly with `x`.
pub fn line((x0, w0): (usize, Work), (x1, w1): (usize, Work), x: usize) -> Work {
    w0 + (w1 - w0) * ((x as f64 - x0 as f64) / (x1 as f64 - x0 as f64))
}
