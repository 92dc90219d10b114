//! What every kernel test needs: an operation is written once and run on two devices ([`Device`]), the reference ([`Cpu`])
//! and the kernels ([`Gpu`]: the virtual machine, by the launches that the backend would queue); random bf16 inputs,
//! comparisons, and bounds on what a kernel costs.
//!
//! With IRORI_TEST_DEVICE=N kernels run on GPU number N instead. Nothing is counted there, so tests of costs say so and pass
//! (those that ask [`Gpu::counting`]) or are left out by name (`--skip traffic --skip cost --skip counts`).

mod costs;
mod cpu;
mod gpu;

use half::bf16;
use irori::{
    backend::{Buffer, DType, Op, Rows, cuda::context::Chip, ops::Mask},
    rng::{Dropout, Rng},
};
use ptxvm::Counters;

pub use costs::{Traffic, assert_no_conflicts, assert_traffic, in_sectors};
pub use cpu::Cpu;
pub use gpu::{Gpu, compiler, module, open_real, real_device, there_are_kernels};

/// Schedules that a kernel must give the same bits under.
pub const SEEDS: [u64; 3] = [0, 1, 2];

/// Half a unit in the last place of bf16 (8 significant bits), relative: the error of one rounding to nearest.
pub const U: f32 = 1.0 / 256.0;

/// A 2g.20gb slice of an A100: the smallest device that irori is meant for, and what the virtual machine pretends to be.
pub const SLICE: Chip = Chip { sms: 28, shared_per_block: 163 << 10, shared_per_sm: 164 << 10 };

/// Where a test runs operations. Buffers are declared with their content, then used.
pub trait Device {
    /// Elements of an activation: bf16 on a GPU, f32 on the CPU.
    const ACT: DType;

    /// A buffer with this content.
    fn upload(&mut self, dtype: DType, bytes: &[u8]) -> Buffer;

    /// A buffer that nobody has written; on the virtual machine reading it before is a fault.
    fn out(&mut self, dtype: DType, len: usize) -> Buffer;

    /// Runs an operation, and says what each of its launches cost. A fault, or a refusal, fails the test with its words.
    #[track_caller]
    fn run<'a>(&mut self, op: impl Into<Op<'a>>) -> Vec<Counters>;

    /// Bytes of a buffer; all must have been written.
    #[track_caller]
    fn bytes_of(&mut self, b: Buffer) -> Vec<u8>;

    /// An activation: f32 values, rounded where activations are bf16.
    fn act(&mut self, x: &[f32]) -> Buffer {
        match Self::ACT {
            DType::Bf16 => self.bf16(x),
            _ => self.f32(x),
        }
    }

    /// f32 values, rounded to bf16.
    fn bf16(&mut self, x: &[f32]) -> Buffer {
        let rounded: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
        self.upload(DType::Bf16, bytemuck::cast_slice(&rounded))
    }

    fn f32(&mut self, x: &[f32]) -> Buffer {
        self.upload(DType::F32, bytemuck::cast_slice(x))
    }

    fn u32(&mut self, x: &[u32]) -> Buffer {
        self.upload(DType::U32, bytemuck::cast_slice(x))
    }

    fn bytes(&mut self, x: &[u8]) -> Buffer {
        self.upload(DType::U8, x)
    }

    /// An activation that nobody has written.
    fn act_out(&mut self, len: usize) -> Buffer {
        self.out(Self::ACT, len)
    }

    /// Elements of a buffer of f32 or bf16.
    #[track_caller]
    fn get(&mut self, b: Buffer) -> Vec<f32> {
        let bytes = self.bytes_of(b);
        match b.dtype() {
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            DType::Bf16 => bytes.chunks_exact(2).map(|c| bf16::from_le_bytes([c[0], c[1]]).to_f32()).collect(),
            other => panic!("{other:?} are no real numbers"),
        }
    }

    #[track_caller]
    fn get_u32(&mut self, b: Buffer) -> Vec<u32> {
        bytemuck::pod_collect_to_vec(&self.bytes_of(b))
    }

    /// The rows of these documents.
    fn rows(&mut self, d: &Documents) -> Rows {
        Rows {
            count: d.positions.len(),
            docs: d.bounds.len() - 1,
            max_len: d.bounds.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0),
            tokens: self.u32(&vec![0; d.positions.len()]),
            positions: self.u32(&d.positions),
            samples: self.u32(&d.samples),
            cu_seqlens: self.u32(&d.bounds),
        }
    }
}

/// Dropout on these rows.
pub fn mask(drop: Option<Dropout>, rows: &Rows) -> Option<Mask> {
    drop.map(|dropout| Mask { dropout, samples: rows.samples, positions: rows.positions })
}

/// Random inputs that bf16 represents exactly: the reference and the kernel see the same numbers.
pub struct Noise(Rng);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(Rng::new(seed, 0x6b65_726e))
    }

    /// Standard normal values times `size`, rounded to bf16.
    pub fn normal(&mut self, len: usize, size: f32) -> Vec<f32> {
        (0..len).map(|_| round(self.0.normal() * size)).collect()
    }

    /// Standard normal values times `size`, not rounded.
    pub fn normal_f32(&mut self, len: usize, size: f32) -> Vec<f32> {
        (0..len).map(|_| self.0.normal() * size).collect()
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0.below(n)
    }
}

/// To the nearest bf16.
pub fn round(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// Documents packed into rows.
#[derive(Debug, Clone)]
pub struct Documents {
    pub positions: Vec<u32>,
    pub samples: Vec<u32>,
    /// First row of each document, then the number of rows.
    pub bounds: Vec<u32>,
}

impl Documents {
    /// Of the given lengths; sample numbers 100, 101, …
    pub fn new(lengths: &[usize]) -> Self {
        let mut d = Self { positions: Vec::new(), samples: Vec::new(), bounds: vec![0] };
        for (i, &n) in lengths.iter().enumerate() {
            d.positions.extend(0..n as u32);
            d.samples.extend(std::iter::repeat_n(100 + i as u32, n));
            d.bounds.push(d.positions.len() as u32);
        }
        d
    }

    pub fn rows(&self) -> usize {
        self.positions.len()
    }
}

/// `|got − want| ≤ relative·|want| + absolute(i)` for every element; says where it is worst.
#[track_caller]
pub fn assert_near(what: &str, got: &[f32], want: &[f32], relative: f32, absolute: impl Fn(usize) -> f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let mut worst = (0.0f32, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let share = (g - w).abs() / (relative * w.abs() + absolute(i));
        // A NaN on either side counts as infinitely wrong.
        let share = if share.is_nan() && g.to_bits() != w.to_bits() { f32::INFINITY } else { share };
        if share > worst.0 {
            worst = (share, i);
        }
    }
    let (share, i) = worst;
    assert!(
        share <= 1.0,
        "{what}[{i}] = {}, expected {}: {share} times the tolerance of {:e}",
        got[i],
        want[i],
        relative * want[i].abs() + absolute(i)
    );
}

/// The same bits everywhere.
#[track_caller]
pub fn assert_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    if let Some(i) = got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits()) {
        panic!("{what}[{i}] = {} ({:#x}), expected {} ({:#x})", got[i], got[i].to_bits(), want[i], want[i].to_bits());
    }
}

/// Runs `test` on the kernels under every schedule: each must give the bits of the first, whose results and costs are given
/// back. `None` in a build without kernels.
#[track_caller]
pub fn on_gpu<const N: usize>(mut test: impl FnMut(&mut Gpu) -> Run<N>) -> Option<Run<N>> {
    let first = test(&mut Gpu::new(SEEDS[0])?);
    for &seed in &SEEDS[1..] {
        let again = test(&mut Gpu::new(seed)?);
        for (i, (a, b)) in again.results.iter().zip(&first.results).enumerate() {
            assert_bits(&format!("result {i} under schedule {seed}"), a, b);
        }
    }
    Some(first)
}

/// What a test's operations left, and what each launch cost.
#[derive(Debug, Clone)]
pub struct Run<const N: usize> {
    pub results: [Vec<f32>; N],
    pub costs: Vec<Counters>,
}
