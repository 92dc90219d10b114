//! Launches of `kernels/lora.cu`: the adapters' skinny products, and their order in the backward pass.

use super::{
    Context, Launches,
    dropout::{DropoutArgs, masked},
    linear::{PARTS, check_parts},
};
use crate::backend::{
    Buffer, DType, LoraPart,
    cuda::launch::{Address, Args, Launch, blocks, int},
    ops::{LoraBackward, LoraDown, Mask},
};
use bytemuck::{Pod, Zeroable};
use std::iter::zip;

/// Rows of z or dy that make one partial sum of dA and dB.
pub const SPLIT_ROWS: usize = 512;
/// Rows of u or v that one block makes.
const PROJECT_ROWS: usize = 16;
/// Columns of z or dy that one block of the gradient products takes.
const GRADIENT_COLUMNS: usize = 64;

/// One module in a skinny product, `LoraPart` of lora.cu.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct LoraPartArgs {
    /// u or v, bf16 [T, r]: written by the projections, read by the gradients.
    pub narrow: Address,
    /// A [r, depth] or Bᵀ [r, depth], bf16; projections only.
    pub wide: Address,
    /// F32 [splits, r, depth]; gradients only.
    pub partial: Address,
    /// First column of x that the module sees.
    pub column: u32,
    /// Columns of x that the module sees, a multiple of 8.
    pub depth: u32,
    /// r, a multiple of 8.
    pub rank: u32,
    /// Number of the module in the dropout counter.
    pub module: u32,
    /// The projection is multiplied by this: the dropout's scale for u, alpha/r for v.
    pub scale: f32,
    /// Padding.
    pub unused: u32,
}

/// Parameters of `lora_project_*` and `lora_gradient_*`, `Lora` of lora.cu.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct LoraArgs {
    /// z or dy, bf16 [rows, pitch].
    pub x: Address,
    /// Sample of each row, `U32 [rows]`; read with dropout only.
    pub samples: Address,
    /// Position of each row, `U32 [rows]`; read with dropout only.
    pub positions: Address,
    /// T.
    pub rows: u32,
    /// Elements between rows of x, a multiple of 8.
    pub pitch: u32,
    /// Rows of a partial sum; gradients only.
    pub split: u32,
    /// Which elements of x count.
    pub drop: DropoutArgs,
    /// How many of `part` count.
    pub parts: u32,
    /// Padding.
    pub unused: u32,
    /// Modules.
    pub part: [LoraPartArgs; PARTS],
}

/// See [`LoraDown`].
pub fn down(op: &LoraDown, at: &Context) -> Launches {
    check_parts(&op.parts)?;
    if op.parts.is_empty() {
        return Ok(Vec::new());
    }
    let over_z = LoraArgs::over(op.z, op.rows(), op.k, op.mask, at);
    let u = |p: &LoraPart| LoraPartArgs { narrow: at.of(p.u), wide: at.of(p.a), ..over_z.all_columns(p) };
    Ok(vec![over_z.with(op.parts.iter().map(u)).project(Reads::Together)])
}

/// See [`LoraBackward`]. v needs Bᵀ, dA needs v; dB needs u, which is there. Partial sums take the place of Bᵀ in scratch,
/// first those of dA, then those of dB.
pub fn backward(op: &LoraBackward, at: &Context) -> Launches {
    check_parts(&op.parts)?;
    if op.parts.is_empty() {
        return Ok(Vec::new());
    }
    let (parts, rows) = (&op.parts, op.rows());
    let scratch = at.scratch(backward_scratch(op))?;
    let over_dy = LoraArgs::over(op.dy, rows, op.n, None, at);
    let over_z = LoraArgs::over(op.z, rows, op.k, op.mask, at);
    let mut launches = Vec::with_capacity(3 + 3 * parts.len());

    // v = scale·dy·(Bᵀ)ᵀ
    let transposed = in_turn(scratch, parts, transposed_bytes);
    launches.extend(zip(parts, &transposed).map(|(p, &to)| transpose(p, at.of(p.b), to)));
    let v = |(p, &wide): (&LoraPart, _)| LoraPartArgs { narrow: at.of(p.v), wide, ..own_columns(p) };
    launches.push(over_dy.with(zip(parts, &transposed).map(v)).project(Reads::Apart));

    // dA += vᵀ·drop(z)
    let partial = in_turn(scratch, parts, |p| partial_bytes(rows, p.r, op.k));
    let da = |(p, &partial): (&LoraPart, _)| LoraPartArgs { narrow: at.of(p.v), partial, ..over_z.all_columns(p) };
    let da = over_z.with(zip(parts, &partial).map(da));
    launches.push(da.gradient(Reads::Together));
    launches.extend(zip(parts, &da.part).map(|(p, from)| reduce("lora_reduce", from, rows, at.of(p.da))));

    // dB += scale·dyᵀ·u
    let partial = in_turn(scratch, parts, |p| partial_bytes(rows, p.r, p.out.len()));
    let db = |(p, &partial): (&LoraPart, _)| LoraPartArgs { narrow: at.of(p.u), partial, ..own_columns(p) };
    let db = over_dy.with(zip(parts, &partial).map(db));
    launches.push(db.gradient(Reads::Apart));
    launches.extend(zip(parts, &db.part).map(|(p, from)| reduce("lora_reduce_transposed", from, rows, at.of(p.db))));
    Ok(launches)
}

/// Bytes for Bᵀ of all parts, or the partial sums of all dA, or those of all dB: whatever is most.
pub fn backward_scratch(op: &LoraBackward) -> usize {
    let all = |bytes: &dyn Fn(&LoraPart) -> usize| op.parts.iter().map(bytes).sum::<usize>();
    let da = all(&|p| partial_bytes(op.rows(), p.r, op.k));
    let db = all(&|p| partial_bytes(op.rows(), p.r, p.out.len()));
    all(&transposed_bytes).max(da).max(db)
}

/// Bytes of one part's Bᵀ, bf16 [r, n].
fn transposed_bytes(p: &LoraPart) -> usize {
    p.r * p.out.len() * DType::Bf16.size()
}

/// Bytes of one part's partial sums, F32 [splits, r, depth].
fn partial_bytes(rows: usize, rank: usize, depth: usize) -> usize {
    rows.div_ceil(SPLIT_ROWS) * rank * depth * DType::F32.size()
}

/// Addresses of one piece of memory for each part, one behind the other.
fn in_turn(mut at: Address, parts: &[LoraPart], bytes: impl Fn(&LoraPart) -> usize) -> Vec<Address> {
    let next = |p| {
        let here = at;
        at += bytes(p) as u64;
        here
    };
    parts.iter().map(next).collect()
}

/// How parts read x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// All see all of x (z): one pass serves them together.
    Together,
    /// Each sees its own columns (of dy): they lie side by side in the grid.
    Apart,
}

/// Kernels by parts that go through x together, and whether a pass takes 32 columns of the rank or 16.
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

impl LoraArgs {
    /// Over x, act [rows, pitch]; its modules are still missing.
    fn over(x: Buffer, rows: usize, pitch: usize, mask: Option<Mask>, at: &Context) -> Self {
        let (samples, positions, drop) = masked(mask, at);
        let (x, rows, pitch, split) = (at.of(x), int(rows), int(pitch), int(SPLIT_ROWS));
        Self { x, samples, positions, rows, pitch, split, drop, ..Self::zeroed() }
    }

    fn with(mut self, parts: impl IntoIterator<Item = LoraPartArgs>) -> Self {
        for (to, part) in self.part.iter_mut().zip(parts) {
            *to = part;
            self.parts += 1;
        }
        self
    }

    /// A module that sees all columns of x, dropped and scaled as x is.
    fn all_columns(&self, p: &LoraPart) -> LoraPartArgs {
        let (depth, rank, scale) = (self.pitch, int(p.r), self.drop.scale);
        LoraPartArgs { depth, rank, module: p.module, scale, ..LoraPartArgs::zeroed() }
    }

    /// Kernel, passes over the rank, and how many parts lie side by side in the grid.
    fn layout(&self, of: &[[&'static str; 2]; PARTS], reads: Reads) -> (&'static str, u32, u32) {
        let rank = self.part[0].rank;
        let wide = rank > 16;
        let (together, apart) = match reads {
            Reads::Together => (self.parts, 1),
            Reads::Apart => (1, self.parts),
        };
        (of[together as usize - 1][usize::from(wide)], rank.div_ceil(if wide { 32 } else { 16 }), apart)
    }

    /// Each part's `narrow` from x and its `wide`.
    fn project(self, reads: Reads) -> Launch {
        let (kernel, passes, apart) = self.layout(&PROJECT, reads);
        let grid = [blocks(self.rows as usize, PROJECT_ROWS), passes, apart];
        Launch::new("lora", kernel, grid, 256, Args::new().with(self))
    }

    /// Each part's `partial` from x and its `narrow`.
    fn gradient(self, reads: Reads) -> Launch {
        let (kernel, passes, apart) = self.layout(&GRADIENT, reads);
        let widest = self.part.iter().map(|p| p.depth).max().unwrap_or(0);
        let grid = [blocks(widest as usize, GRADIENT_COLUMNS), self.rows.div_ceil(self.split), passes * apart];
        Launch::new("lora", kernel, grid, 128, Args::new().with(self))
    }
}

/// A module that sees its own columns of dy.
fn own_columns(p: &LoraPart) -> LoraPartArgs {
    let (column, depth, rank) = (int(p.out.start), int(p.out.len()), int(p.r));
    LoraPartArgs { column, depth, rank, module: p.module, scale: p.scale, ..LoraPartArgs::zeroed() }
}

/// B [n, r] to Bᵀ [r, n].
fn transpose(p: &LoraPart, from: Address, to: Address) -> Launch {
    let args = Args::new().with(from).with(int(p.out.len())).with(int(p.r)).with(to);
    Launch::new("lora", "lora_transpose", [blocks(p.out.len(), 64), blocks(p.r, 8), 1], 64, args)
}

/// Adds a part's partial sums onto its gradient: `lora_reduce` to dA [r, depth], `lora_reduce_transposed` to dB [depth, r].
fn reduce(kernel: &'static str, from: &LoraPartArgs, rows: usize, to: Address) -> Launch {
    let args = Args::new().with(from.partial).with(to).with(blocks(rows, SPLIT_ROWS));
    let args = args.with(from.rank).with(from.depth).with(from.scale);
    let elements = (from.rank * from.depth) as usize;
    Launch::new("lora", kernel, [blocks(elements / 4, 256), 1, 1], 256, args)
}
