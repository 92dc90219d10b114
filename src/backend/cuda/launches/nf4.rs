//! Launches of `kernels/nf4.cu`.

use super::{
    Context, Launches, bf16,
    linear::weight,
    memory::{self, CHUNK, Chunk, made, through_scratch},
};
use crate::{
    backend::{
        DType, WeightStore,
        cuda::{
            command::Command,
            launch::{Address, Args, Launch, blocks},
        },
        ops::{Copy, Dequantize, LoadNf4, MakeNf4},
    },
    quant::nf4,
};

/// Elements that a block takes.
const PER_BLOCK: usize = 2048;
const THREADS: u32 = 256;

/// See [`LoadNf4`].
pub fn load<'a>(op: &LoadNf4<'a>, at: &Context) -> Result<Vec<Command<'a>>, String> {
    let (packed, absmax) = (at.of(op.packed), at.of(op.absmax));
    through_scratch(op.src, at, |chunk| quantize(&chunk, packed, absmax))
}

/// See [`MakeNf4`]: made in scratch a chunk at a time, and quantised from there.
pub fn make(op: &MakeNf4, at: &Context) -> Launches {
    let (len, packed, absmax) = (2 * op.packed.len(), at.of(op.packed), at.of(op.absmax));
    let (scratch, dtype) = (at.scratch(CHUNK)?, DType::Bf16);
    let step = CHUNK / dtype.size();
    let piece = |start: usize| {
        let chunk = Chunk { start, len: step.min(len - start), at: scratch, dtype };
        [made(&op.recipe, start, chunk.len, scratch), quantize(&chunk, packed, absmax)]
    };
    Ok((0..len).step_by(step).flat_map(piece).collect())
}

/// See [`Dequantize`].
pub fn dequantize<'a>(op: &Dequantize, at: &Context) -> Result<Vec<Command<'a>>, String> {
    let (count, dst) = (op.w.n * op.w.k, op.dst);
    match op.w.store {
        WeightStore::Dense(src) if src.dtype() == dst.dtype() => return Ok(memory::copy(&Copy { src, dst }, at)),
        _ => bf16("dst", dst)?,
    }
    let (packed, absmax, _) = weight(&op.w, at)?;
    Ok(vec![Command::Launch(unpack(count, packed, absmax, at.of(dst)))])
}

/// Unpacks `count` elements to bf16.
pub(super) fn unpack(count: usize, packed: Address, absmax: Address, dst: Address) -> Launch {
    let args = Args::new().with(packed).with(absmax).with(count as u64).with(dst);
    Launch::new("nf4", "nf4_dequantize", [blocks(count, PER_BLOCK), 1, 1], THREADS, args)
}

/// Quantises a chunk of whole blocks into its place in the tensor's `packed` and `absmax`.
fn quantize(from: &Chunk, packed: Address, absmax: Address) -> Launch {
    let kernel = if from.dtype == DType::Bf16 { "nf4_quantize_bf16" } else { "nf4_quantize_f32" };
    let (packed, absmax) =
        (packed + from.start as u64 / 2, absmax + (from.start / nf4::BLOCK * DType::F32.size()) as u64);
    let args = Args::new().with(from.at).with(from.len as u64).with(packed).with(absmax);
    Launch::new("nf4", kernel, [blocks(from.len, PER_BLOCK), 1, 1], THREADS, args)
}
