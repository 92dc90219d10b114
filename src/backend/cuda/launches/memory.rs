//! Launches of `kernels/memory.cu`, and what the driver does itself: zeros, copies, bytes from the host.

use super::Context;
use crate::{
    backend::{
        DType, HostTensor, Space,
        cuda::{
            command::{Command, Upload},
            launch::{Address, Args, Launch, blocks},
        },
        ops::{Convert, Copy, LoadDense, MakeDense, Zero},
    },
    rng::NearNormal,
};

/// Bytes of a tensor that lie in scratch at a time, on their way from the host to where a kernel puts them.
pub const CHUNK: usize = 8 << 20;
/// Elements of one store of `near_normal_bf16`.
const VECTOR: usize = 8;
const THREADS: u32 = 256;

/// See [`Zero`].
pub fn zero<'a>(op: &Zero, at: &Context) -> Vec<Command<'a>> {
    vec![Command::Zero { dst: at.of(op.dst), bytes: op.dst.bytes() }]
}

/// See [`struct@Copy`].
pub fn copy<'a>(op: &Copy, at: &Context) -> Vec<Command<'a>> {
    vec![Command::Copy { src: at.of(op.src), dst: at.of(op.dst), bytes: op.src.bytes() }]
}

/// See [`Convert`].
pub fn convert<'a>(op: &Convert, at: &Context) -> Vec<Command<'a>> {
    let Convert { src, dst } = *op;
    match dst.dtype() {
        _ if src == dst => Vec::new(),
        DType::F32 => copy(&Copy { src, dst }, at),
        _ => vec![Command::Launch(to_bf16(src.len(), at.of(src), at.of(dst)))],
    }
}

/// See [`LoadDense`]. What must be rounded is rounded on the device; what becomes f32 (norm weights, a few thousand
/// elements) does so on the host.
pub fn load_dense<'a>(op: &LoadDense<'a>, at: &Context) -> Result<Vec<Command<'a>>, String> {
    let (src, dst, to) = (op.src, at.of(op.dst), op.dst.dtype());
    if to == DType::F32 || src.dtype == to {
        return Ok(vec![Command::Upload { dst, data: Upload::new(src, to) }]);
    }
    through_scratch(src, at, |chunk| to_bf16(chunk.len, chunk.at, dst + (chunk.start * to.size()) as u64))
}

/// See [`MakeDense`]. What lies in host memory is made by the host.
pub fn make_dense<'a>(op: &MakeDense, at: &Context) -> Result<Vec<Command<'a>>, String> {
    let (dst, len, to) = (at.of(op.dst), op.dst.len(), op.dst.dtype());
    if op.dst.space() == Space::Host || !len.is_multiple_of(VECTOR) || to != DType::Bf16 {
        return Ok(vec![Command::Upload { dst, data: Upload::Made(op.recipe, len, to) }]);
    }
    Ok(vec![Command::Launch(made(&op.recipe, 0, len, dst))])
}

/// A piece of a tensor in scratch.
pub(super) struct Chunk {
    /// Its first element in the tensor.
    pub start: usize,
    /// Elements.
    pub len: usize,
    /// Where it lies.
    pub at: Address,
    /// Type of its elements there: Bf16 or F32.
    pub dtype: DType,
}

/// Sends a tensor in chunks through scratch, each with the launch that `put` says. Chunks are whole blocks of NF4. f16
/// becomes f32 on the way.
pub(super) fn through_scratch<'a>(
    src: HostTensor<'a>,
    at: &Context,
    put: impl Fn(Chunk) -> Launch,
) -> Result<Vec<Command<'a>>, String> {
    let scratch = at.scratch(CHUNK)?;
    let dtype = if src.dtype == DType::Bf16 { DType::Bf16 } else { DType::F32 };
    let (step, size) = (CHUNK / dtype.size(), src.dtype.size());
    let piece = |(i, bytes): (usize, &'a [u8])| {
        let data = Upload::new(HostTensor { bytes, ..src }, dtype);
        let chunk = Chunk { start: i * step, len: bytes.len() / size, at: scratch, dtype };
        [Command::Upload { dst: scratch, data }, Command::Launch(put(chunk))]
    };
    Ok(src.bytes.chunks(step * size).enumerate().flat_map(piece).collect())
}

/// f32 to bf16, rounding to nearest even.
fn to_bf16(count: usize, src: Address, dst: Address) -> Launch {
    let args = Args::new().with(src).with(count as u64).with(dst);
    Launch::new("memory", "convert", [blocks(count, THREADS as usize), 1, 1], THREADS, args)
}

/// Makes elements `start..start + count` of a random tensor, both multiples of 8, as bf16.
pub(super) fn made(recipe: &NearNormal, start: usize, count: usize, out: Address) -> Launch {
    let [key0, key1] = recipe.key;
    let args = Args::new().with(key0).with(key1).with(recipe.unit);
    let args = args.with(start as u64).with(count as u64).with(out);
    Launch::new("memory", "near_normal_bf16", [blocks(count, VECTOR * THREADS as usize), 1, 1], THREADS, args)
}
