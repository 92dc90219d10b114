//! Launches of `kernels/linear.cu`, `linear_nf4.cu` and `linear_gemv.cu`: the product with a frozen weight and its adapters.

pub mod tiles;

use super::{
    Context, Launches, bf16,
    dropout::{DropoutArgs, masked},
    nf4, vectors,
};
use crate::backend::{
    DType, LoraPart, Weight, WeightStore,
    cuda::{
        context::Nf4Path,
        launch::{Address, Args, Launch, blocks, int},
    },
    ops,
};
use bytemuck::{Pod, Zeroable};
use tiles::{Direction, Span, Stored, choose};

/// Adapters of one fused layer at most: q, k and v.
pub const PARTS: usize = 3;
/// A rank is a multiple of this: rows of u, v, B are read 16 bytes at a time.
pub const RANK_MULTIPLE: usize = 8;
/// Largest rank.
pub const RANK_MAX: usize = 256;
/// Rows that the product for few rows (linear_gemv.cu) takes at most.
pub const GEMV_ROWS: usize = 8;
/// Columns of a block of it.
const GEMV_COLUMNS: usize = 16;

/// One module's adapter, `Part` of linear.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct PartArgs {
    /// u [T, r] forward, v [T, r] backward, bf16.
    pub left: Address,
    /// B [end − start, r] forward, A [r, columns] backward, bf16.
    pub right: Address,
    /// First column of y that the module makes; forward only.
    pub start: u32,
    /// The column after its last; forward only.
    pub end: u32,
    /// r, a multiple of [`RANK_MULTIPLE`].
    pub rank: u32,
    /// Number of the module in the dropout counter.
    pub module: u32,
    /// alpha/r; forward only, v has it already.
    pub scale: f32,
    /// Padding.
    pub unused: u32,
}

/// Parameters of every linear kernel, `Linear` of linear.cuh. Addresses are 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct LinearArgs {
    /// z (forward) or dy (backward), bf16 [rows, depth].
    pub x: Address,
    /// W: bf16, or packed NF4. [columns, depth] forward, [depth, columns] backward.
    pub w: Address,
    /// Of packed weights, F32 for each 64.
    pub absmax: Address,
    /// Added to the product before it is rounded, bf16 [rows, columns]; may be `out`.
    pub add: Address,
    /// bf16 [rows, columns].
    pub out: Address,
    /// Sample of each row, `U32 [rows]`; read with dropout only.
    pub samples: Address,
    /// Position of each row, `U32 [rows]`; read with dropout only.
    pub positions: Address,
    /// T.
    pub rows: u32,
    /// Width of the output, a multiple of 8 (packed: of 64).
    pub columns: u32,
    /// Inner dimension, a multiple of 8 (packed: of 64).
    pub depth: u32,
    /// [`Span::group`].
    pub group: u32,
    /// [`Span::first`].
    pub first: u32,
    /// Dropout of the backward low-rank product.
    pub drop: DropoutArgs,
    /// How many of `part` count.
    pub parts: u32,
    /// Padding.
    pub unused: u32,
    /// Adapters.
    pub part: [PartArgs; PARTS],
}

/// A product as the kernels see it: `columns` × `depth` is W the way they multiply it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// How W is stored.
    pub stored: Stored,
    /// Which product.
    pub direction: Direction,
    /// What the kernel takes, but for the tiles of a launch.
    pub args: LinearArgs,
}

/// Bytes of scratch of a product of many rows with `w`: the dequantised weight, on the path that takes it.
pub(super) fn scratch(w: &Weight, nf4: Nf4Path) -> usize {
    match nf4 {
        Nf4Path::Scratch if w.is_packed() => w.n * w.k * DType::Bf16.size(),
        _ => 0,
    }
}

/// See [`ops::Linear`].
pub fn forward(op: &ops::Linear, at: &Context) -> Launches {
    let product = Product::forward(op, at)?;
    if op.rows() <= GEMV_ROWS { Ok(vec![product.gemv()]) } else { product.of_tiles(&op.w, at) }
}

/// See [`ops::LinearBackward`].
pub fn backward(op: &ops::LinearBackward, at: &Context) -> Launches {
    Product::backward(op, at)?.of_tiles(&op.w, at)
}

impl Product {
    /// y = z·Wᵀ + Σ scale·u·Bᵀ (+ add).
    ///
    /// # Errors
    /// If the kernels do not take it.
    pub fn forward(op: &ops::Linear, at: &Context) -> Result<Self, String> {
        let of_part = |p: &LoraPart| PartArgs {
            left: at.of(p.u),
            right: at.of(p.b),
            start: int(p.out.start),
            end: int(p.out.end),
            rank: int(p.r),
            module: p.module,
            scale: p.scale,
            unused: 0,
        };
        check_shape(&op.w)?;
        let (w, absmax, stored) = weight(&op.w, at)?;
        let args = LinearArgs {
            x: at.of(op.z),
            w,
            absmax,
            add: at.of_some(op.add),
            out: at.of(op.y),
            rows: int(op.rows()),
            columns: int(op.w.n),
            depth: int(op.w.k),
            drop: DropoutArgs::NONE,
            parts: int(op.parts.len()),
            part: parts(&op.parts, of_part)?,
            ..LinearArgs::zeroed()
        };
        Ok(Self { stored, direction: Direction::Forward, args })
    }

    /// dz = dy·W + Σ drop'(v·A).
    ///
    /// # Errors
    /// If the kernels do not take it.
    pub fn backward(op: &ops::LinearBackward, at: &Context) -> Result<Self, String> {
        let of_part = |p: &LoraPart| PartArgs {
            left: at.of(p.v),
            right: at.of(p.a),
            rank: int(p.r),
            module: p.module,
            ..PartArgs::zeroed()
        };
        check_shape(&op.w)?;
        let (w, absmax, stored) = weight(&op.w, at)?;
        let (samples, positions, drop) = masked(op.mask.filter(|_| !op.parts.is_empty()), at);
        let args = LinearArgs {
            x: at.of(op.dy),
            w,
            absmax,
            out: at.of(op.dz),
            samples,
            positions,
            rows: int(op.rows()),
            columns: int(op.w.k),
            depth: int(op.w.n),
            drop,
            parts: int(op.parts.len()),
            part: parts(&op.parts, of_part)?,
            ..LinearArgs::zeroed()
        };
        Ok(Self { stored, direction: Direction::Backward, args })
    }

    /// The launches for many rows of `w`: where the path says so its packed elements are dequantised first.
    fn of_tiles(mut self, w: &Weight, at: &Context) -> Launches {
        let bytes = scratch(w, at.nf4);
        if bytes == 0 {
            return self.tiled(at);
        }
        let dense = at.scratch(bytes)?;
        let unpack = nf4::unpack(w.n * w.k, self.args.w, self.args.absmax, dense);
        (self.stored, self.args.w, self.args.absmax) = (Stored::Dense, dense, 0);
        Ok(std::iter::once(unpack).chain(self.tiled(at)?).collect())
    }

    /// The quickest launches, by estimate.
    fn tiled(&self, at: &Context) -> Launches {
        let (rows, columns, depth) = (self.args.rows, self.args.columns, self.args.depth);
        let shape = (rows as usize, columns as usize, depth as usize);
        let spans = choose(&at.chip, self.stored, self.direction, shape)
            .ok_or_else(|| format!("no tile fits {} bytes of shared memory", at.chip.shared_per_block))?;
        Ok(spans.launches.iter().map(|span| self.launch(span)).collect())
    }

    /// The launch of some of its tiles.
    pub fn launch(&self, span: &Span) -> Launch {
        let (t, args) = (&span.tile, LinearArgs { group: span.group, first: span.first, ..self.args });
        let grid = [span.blocks, 1, 1];
        Launch { shared: t.shared, ..Launch::new(t.file, t.kernel, grid, t.threads(), Args::new().with(args)) }
    }

    /// The launch for at most [`GEMV_ROWS`] rows, forward.
    pub fn gemv(&self) -> Launch {
        let kernel = match self.stored {
            Stored::Dense => "gemv",
            Stored::Packed => "gemv_nf4",
        };
        let grid = [blocks(self.args.columns as usize, GEMV_COLUMNS), 1, 1];
        Launch::new("linear_gemv", kernel, grid, 256, Args::new().with(self.args))
    }
}

/// The adapters of a fused layer.
fn parts(of: &[LoraPart], args: impl Fn(&LoraPart) -> PartArgs) -> Result<[PartArgs; PARTS], String> {
    check_parts(of)?;
    let mut all = [PartArgs::zeroed(); PARTS];
    for (to, part) in all.iter_mut().zip(of) {
        *to = args(part);
    }
    Ok(all)
}

/// Fails unless there are at most [`PARTS`], all of one rank that the kernels take.
pub(super) fn check_parts(parts: &[LoraPart]) -> Result<(), String> {
    if parts.len() > PARTS {
        return Err(format!("{} adapters in one linear, at most {PARTS} on CUDA", parts.len()));
    }
    let Some(first) = parts.first() else { return Ok(()) };
    if parts.iter().any(|p| p.r != first.r) {
        return Err("adapters of different ranks in one linear, on CUDA of one".into());
    }
    if first.r > RANK_MAX || !first.r.is_multiple_of(RANK_MULTIPLE) {
        return Err(format!("rank {}, on CUDA a multiple of {RANK_MULTIPLE} up to {RANK_MAX}", first.r));
    }
    Ok(())
}

/// Fails unless rows of W, of x and of the output are whole vectors, and those of packed W backward whole blocks.
fn check_shape(w: &Weight) -> Result<(), String> {
    vectors("k", w.k)?;
    vectors("n", w.n)
}

/// (W or packed W, absmax or 0, how it is stored).
pub(super) fn weight(w: &Weight, at: &Context) -> Result<(Address, Address, Stored), String> {
    match w.store {
        WeightStore::Dense(dense) => {
            bf16("W", dense)?;
            Ok((at.of(dense), 0, Stored::Dense))
        }
        WeightStore::Nf4 { compute, .. } if compute != DType::Bf16 => {
            Err(format!("weights are rounded to bf16 on CUDA, not to {compute:?}"))
        }
        WeightStore::Nf4 { packed, absmax, .. } => Ok((at.of(packed), at.of(absmax), Stored::Packed)),
    }
}
