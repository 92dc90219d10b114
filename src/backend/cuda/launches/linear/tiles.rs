//! The tiles that the linear kernels are compiled for, and the choice among them.
//!
//! The choice is by estimated cycles of the busiest multiprocessor. It never changes a bit of the result.

use crate::backend::cuda::{context::Chip, launch::int};

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

/// Rows, columns and inner dimension of a product.
pub type Shape = (usize, usize, usize);

/// A compiled tile shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Kernel file.
    pub file: &'static str,
    /// Kernel.
    pub kernel: &'static str,
    /// Rows of the output tile.
    pub rows: u32,
    /// Columns of the output tile.
    pub columns: u32,
    /// Rows of a warp; it has 64 columns.
    pub warp_rows: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    /// Blocks that one multiprocessor holds at most, by registers.
    pub per_sm: u32,
    /// Cycles of a multiprocessor that one step of the main loop takes: those of its tensor cores, or of shared memory where
    /// they are more.
    pub step: u32,
}

impl Tile {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.rows / self.warp_rows * (self.columns / 64) * 32
    }

    /// Blocks for an output of `rows` × `columns`.
    pub fn blocks(&self, rows: usize, columns: usize) -> u32 {
        (rows.div_ceil(self.rows as usize) * columns.div_ceil(self.columns as usize)) as u32
    }

    /// Row tiles that run side by side: the blocks on the device at one time then cover about a square, which reads the
    /// fewest operand bytes from L2.
    pub fn group(&self, chip: &Chip, rows: usize) -> u32 {
        let resident = f64::from(chip.sms * self.resident(chip));
        let square = (resident * f64::from(self.columns) / f64::from(self.rows)).sqrt().round() as usize;
        square.clamp(1, rows.div_ceil(self.rows as usize).max(1)) as u32
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

    /// Estimated cycles of a multiprocessor for one block: the steps of its main loop, and what it spends before the first
    /// and after the last one, partly hidden where other blocks run beside it.
    fn block_cycles(&self, chip: &Chip, depth: usize) -> u64 {
        // Small tiles ask for more operands than L2 can serve.
        let operands = (self.rows + self.columns) * (2 * STEP as u32) / L2_BYTES;
        depth.div_ceil(STEP) as u64 * u64::from(self.step.max(operands)) + EDGE_CYCLES / u64::from(self.resident(chip))
    }
}

/// A launch of a linear kernel. Blocks go through the tiles by columns, `group` rows of tiles at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The kernel.
    pub tile: Tile,
    /// Row tiles that run side by side, [`Tile::group`].
    pub group: u32,
    /// Number of the first tile.
    pub first: u32,
    /// Blocks to launch.
    pub blocks: u32,
}

/// The launches of one product: what the first leaves, if anything, the second makes in smaller tiles. Every
/// output is made once, and its bits do not depend on which tile makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spans {
    /// One launch or two.
    pub launches: Vec<Span>,
    /// Estimated cycles of the busiest multiprocessor.
    pub cycles: u64,
}

impl Spans {
    /// All of a product in one tile.
    pub fn whole(tile: &Tile, chip: &Chip, (rows, columns, depth): Shape) -> Self {
        let blocks = tile.blocks(rows, columns);
        let cycles = u64::from(blocks.div_ceil(chip.sms)) * tile.block_cycles(chip, depth);
        Self { launches: vec![Span { tile: *tile, group: tile.group(chip, rows), first: 0, blocks }], cycles }
    }

    /// As many whole waves of `tile` as there are, and the rest in a smaller one, of a divisor of its rows and the same
    /// columns. `None` if nothing is left, or nothing comes before.
    pub fn with_tail(tile: &Tile, tail: &Tile, chip: &Chip, (rows, columns, depth): Shape) -> Option<Self> {
        let blocks = tile.blocks(rows, columns);
        let (waves, left) = (blocks / chip.sms, blocks % chip.sms);
        if waves == 0 || left == 0 || tail.rows >= tile.rows {
            return None;
        }
        // The tile after the last whole wave: its group, its column, its row in the group. In the smaller tiles' order the
        // same place comes after the same outputs.
        let (group, across) = (tile.group(chip, rows), int(columns).div_ceil(tile.columns));
        let (times, down) = (tile.rows / tail.rows, int(rows).div_ceil(tile.rows));
        let (done, begin) = (blocks - left, (blocks - left) / (group * across) * group);
        let (height, within) = (group.min(down - begin), done - begin * across);
        let small_height = (group * times).min(int(rows).div_ceil(tail.rows) - begin * times);
        let first = begin * times * across + within / height * small_height + within % height * times;
        let rest = Span { tile: *tail, group: group * times, first, blocks: tail.blocks(rows, columns) - first };
        let cycles = u64::from(waves) * tile.block_cycles(chip, depth)
            + u64::from(rest.blocks.div_ceil(chip.sms)) * tail.block_cycles(chip, depth)
            + EDGE_CYCLES;
        Some(Self { launches: vec![Span { tile: *tile, group, first: 0, blocks: done }, rest], cycles })
    }

    /// Share of the tensor cores' time on the whole chip that the product itself needs, if `cycles` is right.
    pub fn efficiency(&self, chip: &Chip, (rows, columns, depth): Shape) -> f64 {
        let work = rows as f64 * columns as f64 * depth as f64 / MULTIPLY_ADDS as f64;
        work / (f64::from(chip.sms) * self.cycles as f64)
    }
}

/// Inner elements of one step of the main loop.
const STEP: usize = 32;
/// Multiply-adds of the tensor cores of one sm_80 multiprocessor in a cycle: an mma of 2048 takes one of four 8 cycles.
const MULTIPLY_ADDS: u32 = 1024;
/// Cycles of a block outside its main loop: first operands from memory, epilogue.
const EDGE_CYCLES: u64 = 3000;

/// Bytes of operands that L2 serves one multiprocessor in a cycle when all ask: 47 on a whole A100 by its data sheet, less
/// what is lost.
const L2_BYTES: u32 = 40;

/// Rows of a warp: 64, but in a tile of 64 rows 32, for four warps.
const fn warp_rows(rows: u32) -> u32 {
    if rows == 64 { 32 } else { 64 }
}

/// Cycles of a step of `rows` × 128, whose W costs shared memory `right` wavefronts: those of the tensor cores, or of shared
/// memory where they are more.
const fn step_cycles(rows: u32, right: u32) -> u32 {
    let (tensor, warp) = (rows * 128 * STEP as u32 / MULTIPLY_ADDS, warp_rows(rows));
    // Twice, for 16 of the depth each, a warp reads its rows and its 64 columns, 16 in four wavefronts; x is copied in.
    let shared = 2 * (rows / warp * 2) * (warp / 16 + 4) * 4 + rows / 2 + right;
    if shared > tensor { shared } else { tensor }
}

const fn dense(kernel: &'static str, rows: u32, per_sm: u32) -> Tile {
    // Four steps of both operands.
    let shared = 4 * (rows + 128) * 64;
    let step = step_cycles(rows, 128 / 2);
    Tile { file: "linear", kernel, rows, columns: 128, warp_rows: warp_rows(rows), shared, per_sm, step }
}

const fn packed(kernel: &'static str, rows: u32, per_sm: u32, rings: u32) -> Tile {
    // Three steps of x, two of decoded W, the rings of packed W and absmax.
    let shared = 3 * rows * 64 + 2 * 128 * 64 + rings;
    // Decoding 4096 weights costs about 232 wavefronts, whatever the rows.
    let step = step_cycles(rows, 232);
    Tile { file: "linear_nf4", kernel, rows, columns: 128, warp_rows: warp_rows(rows), shared, per_sm, step }
}

/// Two units of 64 columns of packed weights, two of eight blocks of absmax.
const FORWARD_RINGS: u32 = 2 * 128 * 32 + 2 * 8 * 132 * 4;
/// Three steps of packed weights and their absmax.
const BACKWARD_RINGS: u32 = 3 * (32 * 64 + 64) + 3 * 32 * 8;

/// Tiles for a product, the preferred first.
pub fn tiles(stored: Stored, direction: Direction) -> &'static [Tile] {
    const FORWARD: [Tile; 3] =
        [dense("linear_256x128", 256, 1), dense("linear_128x128", 128, 2), dense("linear_64x128", 64, 3)];
    const BACKWARD: [Tile; 3] = [
        dense("linear_backward_256x128", 256, 1),
        dense("linear_backward_128x128", 128, 2),
        dense("linear_backward_64x128", 64, 3),
    ];
    const PACKED_FORWARD: [Tile; 3] = [
        packed("linear_nf4_256x128", 256, 1, FORWARD_RINGS),
        packed("linear_nf4_128x128", 128, 2, FORWARD_RINGS),
        packed("linear_nf4_64x128", 64, 3, FORWARD_RINGS),
    ];
    const PACKED_BACKWARD: [Tile; 3] = [
        packed("linear_nf4_backward_256x128", 256, 1, BACKWARD_RINGS),
        packed("linear_nf4_backward_128x128", 128, 2, BACKWARD_RINGS),
        packed("linear_nf4_backward_64x128", 64, 3, BACKWARD_RINGS),
    ];
    match (stored, direction) {
        (Stored::Dense, Direction::Forward) => &FORWARD,
        (Stored::Dense, Direction::Backward) => &BACKWARD,
        (Stored::Packed, Direction::Forward) => &PACKED_FORWARD,
        (Stored::Packed, Direction::Backward) => &PACKED_BACKWARD,
    }
}

/// The quickest launches by estimate whose shared memory the chip has; `None` if no tile fits.
pub fn choose(chip: &Chip, stored: Stored, direction: Direction, shape: Shape) -> Option<Spans> {
    let fit = || tiles(stored, direction).iter().filter(|t| t.shared <= chip.shared_per_block);
    let whole = fit().map(|t| Spans::whole(t, chip, shape));
    let parted = fit().flat_map(|t| fit().filter_map(move |tail| Spans::with_tail(t, tail, chip, shape)));
    whole.chain(parted).min_by_key(|s| s.cycles)
}
