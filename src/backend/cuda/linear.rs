//! Host side of the linear kernels: parameters as the kernels take them, and the choice of a tile.
//!
//! Nothing here touches a device; the backend and the tests launch with what it says.

use super::launch::{Args, Launch};
use crate::rng::Dropout;
use bytemuck::{Pod, Zeroable};

/// Parts of one fused layer at most: q, k and v.
pub const PARTS: usize = 3;
/// A rank is a multiple of this: rows of u, v, B are read 16 bytes at a time.
pub const RANK_MULTIPLE: usize = 8;
/// Largest rank.
pub const RANK_MAX: usize = 256;

/// [`Dropout`] as kernels take it, `Dropout` of philox.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct DropoutArgs {
    /// Low and high half of the key.
    pub key: [u32; 2],
    /// Decoder layer.
    pub layer: u32,
    /// Survivors have at least these bits; 0 without dropout.
    pub threshold: u32,
    /// Survivors are multiplied by this; 1 without dropout.
    pub scale: f32,
}

impl DropoutArgs {
    /// From the definition; `None` drops nothing.
    pub fn new(drop: Option<Dropout>) -> Self {
        match drop {
            None => Self { key: [0; 2], layer: 0, threshold: 0, scale: 1.0 },
            Some(d) => Self {
                key: [d.key as u32, (d.key >> 32) as u32],
                layer: d.layer,
                threshold: d.threshold(),
                scale: d.scale(),
            },
        }
    }
}

/// One module's adapter, `Part` of linear.cuh. Pointers are device addresses of bf16.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Part {
    /// u [T, r] forward, v [T, r] backward.
    pub left: u64,
    /// B [end − start, r] forward, A [r, columns] backward.
    pub right: u64,
    /// First column of y that the module makes; forward only.
    pub start: i32,
    /// The column after its last; forward only.
    pub end: i32,
    /// r, a multiple of [`RANK_MULTIPLE`].
    pub rank: i32,
    /// Number of the module in the dropout counter.
    pub module: u32,
    /// alpha/r; forward only, v has it already.
    pub scale: f32,
    /// Padding.
    pub unused: i32,
}

/// Parameters of every linear kernel, `Linear` of linear.cuh. Pointers are device addresses, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Linear {
    /// z (forward) or dy (backward), bf16 [rows, depth].
    pub x: u64,
    /// W: bf16, or packed NF4. [columns, depth] forward, [depth, columns] backward.
    pub w: u64,
    /// Of packed weights, f32 for each 64.
    pub absmax: u64,
    /// Added to the product before it is rounded, bf16 [rows, columns]; may be `out`.
    pub add: u64,
    /// bf16 [rows, columns].
    pub out: u64,
    /// Sample of each row, `u32 [rows]`; read with dropout only.
    pub samples: u64,
    /// Position of each row, `u32 [rows]`; read with dropout only.
    pub positions: u64,
    /// T.
    pub rows: i32,
    /// Width of the output, a multiple of 8 (packed: of 64).
    pub columns: i32,
    /// Inner dimension, a multiple of 8 (packed: of 64).
    pub depth: i32,
    /// [`Tile::group`].
    pub group: i32,
    /// Dropout of the backward low-rank product.
    pub drop: DropoutArgs,
    /// How many of `part` count.
    pub parts: i32,
    /// Adapters.
    pub part: [Part; PARTS],
}

// The kernels' own sizes.
const _: () = assert!(size_of::<Part>() == 40 && size_of::<Linear>() == 216);

/// What the choice of a kernel depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// Streaming multiprocessors that this process may use (a MIG slice has fewer).
    pub sms: u32,
    /// Bytes of shared memory that one block may have (opt-in limit).
    pub shared_per_block: u32,
    /// Bytes of shared memory of one multiprocessor.
    pub shared_per_sm: u32,
}

/// The two directions of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// y = z·Wᵀ.
    Forward,
    /// dz = dy·W.
    Backward,
}

/// How W is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stored {
    /// bf16.
    Dense,
    /// NF4, decoded by the kernel.
    Packed,
}

/// A compiled tile shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Kernel file.
    pub module: &'static str,
    /// Kernel.
    pub kernel: &'static str,
    /// Rows of the output tile.
    pub rows: u32,
    /// Columns of the output tile.
    pub columns: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    /// Blocks that one multiprocessor holds at most, by registers.
    pub per_sm: u32,
    /// Cycles of a multiprocessor that one step of the main loop takes: those of its tensor cores, or of shared memory where
    /// they are more.
    pub step: u32,
}

impl Tile {
    /// Threads of a block: a warp for each 64×64.
    pub fn threads(&self) -> u32 {
        self.rows / 64 * (self.columns / 64) * 32
    }

    /// The launch over these parameters.
    pub fn launch(&self, p: &Linear) -> Launch {
        let grid = [self.blocks(p.rows as usize, p.columns as usize), 1, 1];
        let args = Args::new().with(*p);
        Launch { shared: self.shared, ..Launch::new(self.module, self.kernel, grid, self.threads(), args) }
    }

    /// Blocks for an output of `rows` × `columns`.
    pub fn blocks(&self, rows: usize, columns: usize) -> u32 {
        (rows.div_ceil(self.rows as usize) * columns.div_ceil(self.columns as usize)) as u32
    }

    /// Row tiles that run side by side: the blocks on the device at one time then cover about a square, which reads the
    /// fewest operand bytes from L2.
    pub fn group(&self, chip: &Chip, rows: usize) -> i32 {
        let resident = f64::from(chip.sms * self.resident(chip));
        let square = (resident * f64::from(self.columns) / f64::from(self.rows)).sqrt().round() as usize;
        square.clamp(1, rows.div_ceil(self.rows as usize).max(1)) as i32
    }

    /// Blocks that one multiprocessor of `chip` holds.
    pub fn resident(&self, chip: &Chip) -> u32 {
        // Each block takes 1 KiB of shared memory for the system.
        (chip.shared_per_sm / (self.shared + 1024)).clamp(1, self.per_sm)
    }

    /// Bytes of operands that a block reads from global memory: its share of x and of W, each once. With `rows` and
    /// `columns` a whole tile inside the matrix. Packed weights: 4.5 bits each, where backward whole 32-byte sectors of
    /// absmax are fetched for 8 bytes of use.
    pub fn operand_bytes(&self, stored: Stored, direction: Direction, depth: usize) -> usize {
        let (rows, columns) = (self.rows as usize, self.columns as usize);
        let left = rows * depth * 2;
        left + match (stored, direction) {
            (Stored::Dense, _) => columns * depth * 2,
            (Stored::Packed, Direction::Forward) => columns * depth / 2 + columns * depth / 64 * 4,
            (Stored::Packed, Direction::Backward) => columns * depth / 2 + depth * 32,
        }
    }

    /// Estimated cycles for a whole product: tensor-core time of the busiest multiprocessor, and what a block spends
    /// before its first and after its last step, half hidden where another block runs beside it.
    pub fn cycles(&self, chip: &Chip, rows: usize, columns: usize, depth: usize) -> u64 {
        let busiest = u64::from(self.blocks(rows, columns).div_ceil(chip.sms));
        let edge = EDGE_CYCLES / u64::from(self.resident(chip));
        busiest * (depth.div_ceil(STEP) as u64 * u64::from(self.step) + edge)
    }

    /// Share of the tensor cores' time on the whole chip that the product itself needs, if [`Tile::cycles`] is right.
    pub fn efficiency(&self, chip: &Chip, rows: usize, columns: usize, depth: usize) -> f64 {
        let work = rows as f64 * columns as f64 * depth as f64 / MULTIPLY_ADDS as f64;
        work / (f64::from(chip.sms) * self.cycles(chip, rows, columns, depth) as f64)
    }
}

/// Inner elements of one step of the main loop.
const STEP: usize = 32;
/// Multiply-adds of the tensor cores of one sm_80 multiprocessor in a cycle: an mma of 2048 takes one of four 8 cycles.
const MULTIPLY_ADDS: u32 = 1024;
/// Cycles of a block outside its main loop: first operands from memory, epilogue.
const EDGE_CYCLES: u64 = 3000;

/// Cycles of the tensor cores for a step of `rows` × 128.
const fn tensor_cycles(rows: u32) -> u32 {
    rows * 128 * STEP as u32 / MULTIPLY_ADDS
}

const fn dense(kernel: &'static str, rows: u32, per_sm: u32) -> Tile {
    // Four steps of both operands.
    let shared = 4 * (rows + 128) * 64;
    Tile { module: "linear", kernel, rows, columns: 128, shared, per_sm, step: tensor_cycles(rows) }
}

const fn packed(kernel: &'static str, rows: u32, per_sm: u32, rings: u32) -> Tile {
    // Three steps of x, two of decoded W, the rings of packed W and absmax.
    let shared = 3 * rows * 64 + 2 * 128 * 64 + rings;
    // Decoding 4096 weights costs about 232 wavefronts, whatever the rows; the rest is ldmatrix and the copies of x.
    let wavefronts = 2 * rows + rows / 2 + 232;
    let tensor = tensor_cycles(rows);
    let step = if wavefronts > tensor { wavefronts } else { tensor };
    Tile { module: "linear_nf4", kernel, rows, columns: 128, shared, per_sm, step }
}

/// Two units of 64 columns of packed weights, two of eight blocks of absmax.
const FORWARD_RINGS: u32 = 2 * 128 * 32 + 2 * 8 * 132 * 4;
/// Three steps of packed weights and their absmax.
const BACKWARD_RINGS: u32 = 3 * (32 * 64 + 64) + 3 * 32 * 8;

/// Tiles for a product, the preferred first.
pub fn tiles(stored: Stored, direction: Direction) -> &'static [Tile] {
    const FORWARD: [Tile; 2] = [dense("linear_256x128", 256, 1), dense("linear_128x128", 128, 2)];
    const BACKWARD: [Tile; 2] = [dense("linear_backward_256x128", 256, 1), dense("linear_backward_128x128", 128, 2)];
    const PACKED_FORWARD: [Tile; 2] =
        [packed("linear_nf4_256x128", 256, 1, FORWARD_RINGS), packed("linear_nf4_128x128", 128, 2, FORWARD_RINGS)];
    const PACKED_BACKWARD: [Tile; 2] = [
        packed("linear_nf4_backward_256x128", 256, 1, BACKWARD_RINGS),
        packed("linear_nf4_backward_128x128", 128, 2, BACKWARD_RINGS),
    ];
    match (stored, direction) {
        (Stored::Dense, Direction::Forward) => &FORWARD,
        (Stored::Dense, Direction::Backward) => &BACKWARD,
        (Stored::Packed, Direction::Forward) => &PACKED_FORWARD,
        (Stored::Packed, Direction::Backward) => &PACKED_BACKWARD,
    }
}

/// The quickest tile by estimate whose shared memory the chip has; `None` if none fits.
pub fn choose(
    chip: &Chip,
    stored: Stored,
    direction: Direction,
    rows: usize,
    columns: usize,
    depth: usize,
) -> Option<Tile> {
    tiles(stored, direction)
        .iter()
        .filter(|t| t.shared <= chip.shared_per_block)
        .min_by_key(|t| t.cycles(chip, rows, columns, depth))
        .copied()
}
