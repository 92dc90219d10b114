//! Host side of the adapters' skinny products (kernels/lora.cu) and of the thin product for decoding (kernels/gemv.cu):
//! parameters as the kernels take them, grids, scratch.

use super::{
    launch::{Args, Launch},
    linear::{DropoutArgs, PARTS},
};
use bytemuck::{Pod, Zeroable};

/// Rows of z or dy that make one partial sum of dA and dB.
pub const SPLIT_ROWS: usize = 512;
/// Rows of u or v that one block makes.
const PROJECT_ROWS: usize = 16;
/// Columns of z or dy that one block of the gradient products takes.
const GRADIENT_COLUMNS: usize = 64;
/// Rows that the thin product takes at most.
pub const THIN_ROWS: usize = 8;

/// One module in a skinny product, `SkinnyPart` of lora.cu. Pointers are device addresses.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct SkinnyPart {
    /// u or v, bf16 [T, r]: written by the projections, read by the gradients.
    pub narrow: u64,
    /// A [r, depth] or Bᵀ [r, depth], bf16; projections only.
    pub wide: u64,
    /// f32 [splits, r, depth]; gradients only.
    pub partial: u64,
    /// First column of x that the module sees.
    pub column: i32,
    /// Columns of x that the module sees, a multiple of 8.
    pub depth: i32,
    /// r, a multiple of 8.
    pub rank: i32,
    /// Number of the module in the dropout counter.
    pub module: u32,
    /// The projection is multiplied by this: the dropout's scale for u, alpha/r for v.
    pub scale: f32,
    /// Padding.
    pub unused: i32,
}

/// Parameters of `lora_project_*` and `lora_gradient_*`, `Skinny` of lora.cu.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Skinny {
    /// z or dy, bf16 [rows, pitch].
    pub x: u64,
    /// Sample of each row, `u32 [rows]`; read with dropout only.
    pub samples: u64,
    /// Position of each row, `u32 [rows]`; read with dropout only.
    pub positions: u64,
    /// T.
    pub rows: i32,
    /// Elements between rows of x, a multiple of 8.
    pub pitch: i32,
    /// Rows of a partial sum; gradients only.
    pub split: i32,
    /// Which elements of x count.
    pub drop: DropoutArgs,
    /// How many of `part` count.
    pub parts: i32,
    /// Padding.
    pub unused: i32,
    /// Modules.
    pub part: [SkinnyPart; PARTS],
}

/// A launch: kernel, grid (x, y, z), threads of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkinnyLaunch {
    /// Kernel file.
    pub module: &'static str,
    /// Kernel.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
}

impl SkinnyLaunch {
    /// With its arguments.
    pub fn with(self, args: Args) -> Launch {
        Launch::new(self.module, self.kernel, self.grid, self.threads, args)
    }
}

/// Columns of the rank that one pass takes: 16 or 32.
fn pass(rank: usize) -> usize {
    if rank <= 16 { 16 } else { 32 }
}

// The kernels' own sizes.
const _: () = assert!(size_of::<SkinnyPart>() == 48 && size_of::<Skinny>() == 208);

/// Kernels by parts that go through x together, and whether a pass takes 32 columns of the rank.
const PROJECT: [[&str; 2]; PARTS] = [
    ["lora_project_1x16", "lora_project_1x32"],
    ["lora_project_2x16", "lora_project_2x32"],
    ["lora_project_3x16", "lora_project_3x32"],
];
/// As [`PROJECT`].
const GRADIENT: [[&str; 2]; PARTS] = [
    ["lora_gradient_1x16", "lora_gradient_1x32"],
    ["lora_gradient_2x16", "lora_gradient_2x32"],
    ["lora_gradient_3x16", "lora_gradient_3x32"],
];

/// `shared` parts read the same columns of x and go through it together, one read for all (z); others each read their own
/// (dy), side by side in the grid.
fn kernel(of: &[[&'static str; 2]; PARTS], shared: bool, parts: usize, rank: usize) -> &'static str {
    of[if shared { parts - 1 } else { 0 }][usize::from(pass(rank) == 32)]
}

/// u = drop(z)·Aᵀ (`shared`: all parts see the same columns) or v = scale·dy·B.
pub fn project(shared: bool, parts: usize, rank: usize, rows: usize) -> SkinnyLaunch {
    SkinnyLaunch {
        module: "lora",
        kernel: kernel(&PROJECT, shared, parts, rank),
        grid: [
            rows.div_ceil(PROJECT_ROWS) as u32,
            rank.div_ceil(pass(rank)) as u32,
            if shared { 1 } else { parts as u32 },
        ],
        threads: 256,
    }
}

/// Partial sums of dA (`shared`) or dBᵀ. `depth` is the largest of the parts'.
pub fn gradient(shared: bool, parts: usize, rank: usize, rows: usize, depth: usize) -> SkinnyLaunch {
    let passes = rank.div_ceil(pass(rank));
    SkinnyLaunch {
        module: "lora",
        kernel: kernel(&GRADIENT, shared, parts, rank),
        grid: [
            depth.div_ceil(GRADIENT_COLUMNS) as u32,
            rows.div_ceil(SPLIT_ROWS) as u32,
            (passes * if shared { 1 } else { parts }) as u32,
        ],
        threads: 128,
    }
}

/// Floats of partial sums of one part.
pub fn partial_len(rows: usize, rank: usize, depth: usize) -> usize {
    rows.div_ceil(SPLIT_ROWS) * rank * depth
}

/// Adds up partial sums: `lora_reduce` (dA, [r, depth]) or `lora_reduce_transposed` (dB, [depth, r]), whose blocks go round
/// as often as they must.
pub fn reduce(transposed: bool, rank: usize, depth: usize) -> SkinnyLaunch {
    let kernel = if transposed { "lora_reduce_transposed" } else { "lora_reduce" };
    let threads = 256;
    SkinnyLaunch {
        module: "lora",
        kernel,
        grid: [(rank * depth / 4).div_ceil(threads) as u32, 1, 1],
        threads: threads as u32,
    }
}

/// B [n, r] to Bᵀ [r, n].
pub fn transpose(rank: usize, n: usize) -> SkinnyLaunch {
    SkinnyLaunch {
        module: "lora",
        kernel: "lora_transpose",
        grid: [n.div_ceil(64) as u32, rank.div_ceil(8) as u32, 1],
        threads: 64,
    }
}

/// The thin product, `T` ≤ [`THIN_ROWS`] rows, takes the parameters of [`super::linear::Linear`].
pub fn thin(packed: bool, columns: usize) -> SkinnyLaunch {
    let kernel = if packed { "gemv_nf4" } else { "gemv" };
    SkinnyLaunch { module: "gemv", kernel, grid: [columns.div_ceil(16) as u32, 1, 1], threads: 256 }
}
