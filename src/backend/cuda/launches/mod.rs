//! What an operation is on CUDA: launches, as data.
//!
//! # Design
//! - **No device.** [`of`] is a function of the operation, the chip and addresses. The backend queues what it says; tests run
//!   it on a virtual machine; a recorder counts it with addresses that are made up.
//! - **Checked before.** Types, lengths, bounds and aliasing are [`crate::backend::check`]'s business. What is refused here
//!   are limits of these kernels, which the CPU does not share: [`Properties::check`](crate::backend::Properties::check) tells a user
//!   of them beforehand, so that here they are mistakes of the caller.
//! - **Scratch** is counted by a function beside the launches that use it; [`scratch`] collects them for the planner.
//!
//! The files are those of [`crate::backend::ops`] and of `kernels/`. A structure that a kernel takes by value is called as in
//! the kernel's file with `Args` behind; a test compares the layouts.

pub mod attention;
pub mod cache;
pub mod dropout;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod limits;
pub mod linear;
pub mod lora;
mod loss;
pub mod memory;
mod nf4;
pub mod norm;
mod optim;
mod rope;
mod rows;
mod swiglu;

use super::{
    command::Command,
    context::{Context, Nf4Path},
    launch::Launch,
};
use crate::{
    Result,
    backend::{
        Buffer, DType, Op,
        check::{self, Checked},
    },
};

/// The launches of an operation, or what the kernels do not take.
type Launches = Result<Vec<Launch>, String>;

/// What an operation puts into the device's queue.
///
/// # Errors
/// If it is beyond the kernels' limits, or needs more scratch than there is.
pub fn of<'a>(op: &Checked<'a>, at: &Context) -> Result<Vec<Command<'a>>> {
    commands(op.op(), at).map_err(|message| check::error(op.op().name(), message))
}

fn commands<'a>(op: &Op<'a>, at: &Context) -> Result<Vec<Command<'a>>, String> {
    let launches = match op {
        Op::Zero(op) => return Ok(memory::zero(op, at)),
        Op::Copy(op) => return Ok(memory::copy(op, at)),
        Op::Convert(op) => return Ok(memory::convert(op, at)),
        Op::LoadDense(op) => return memory::load_dense(op, at),
        Op::MakeDense(op) => return memory::make_dense(op, at),
        Op::LoadNf4(op) => return nf4::load(op, at),
        Op::MakeNf4(op) => nf4::make(op, at),
        Op::Dequantize(op) => return nf4::dequantize(op, at),
        Op::Embed(op) => rows::embed(op, at),
        Op::GatherRows(op) => rows::gather(op, at),
        Op::ScatterRows(op) => rows::scatter(op, at),
        Op::RmsNorm(op) => norm::forward(op, at),
        Op::RmsNormBackward(op) => norm::backward(op, at),
        Op::HeadNormRope(op) => rope::forward(op, at),
        Op::HeadNormRopeBackward(op) => rope::backward(op, at),
        Op::SwiGlu(op) => swiglu::forward(op, at),
        Op::SwiGluBackward(op) => swiglu::backward(op, at),
        Op::Linear(op) => linear::forward(op, at),
        Op::LinearBackward(op) => linear::backward(op, at),
        Op::LoraDown(op) => lora::down(op, at),
        Op::LoraBackward(op) => lora::backward(op, at),
        Op::Attention(op) => attention::forward(op, at),
        Op::AttentionBackward(op) => attention::backward(op, at),
        Op::KvStore(op) => cache::store(op, at),
        Op::AttentionCached(op) => cache::attention(op, at),
        Op::LogSoftmaxAt(op) => loss::log_softmax_at(op, at),
        Op::Argmax(op) => loss::argmax(op, at),
        Op::CrossEntropy(op) => loss::cross_entropy(op, at),
        Op::GlobalNorm(op) => optim::global_norm(op, at),
        Op::AdamWUpdate(op) => optim::adamw(op, at),
    };
    Ok(launches?.into_iter().map(Command::Launch).collect())
}

/// Bytes of scratch that an operation's launches use, or the same operation's with fewer rows.
pub fn scratch(op: &Op, nf4: Nf4Path) -> usize {
    match op {
        Op::Linear(op) if op.rows() > linear::GEMV_ROWS => linear::scratch(&op.w, nf4),
        Op::LinearBackward(op) => linear::scratch(&op.w, nf4),
        Op::LoadDense(_) | Op::LoadNf4(_) | Op::MakeNf4(_) => memory::CHUNK,
        Op::LoraBackward(op) => lora::backward_scratch(op),
        Op::AttentionBackward(op) => attention::backward_scratch(op),
        Op::AttentionCached(op) => cache::attention_scratch(op),
        Op::CrossEntropy(op) => loss::cross_entropy_scratch(op),
        Op::GlobalNorm(op) => optim::global_norm_scratch(op),
        _ => 0,
    }
}

/// Elements that a thread reads or writes at once: 16 bytes of bf16.
const VECTOR: usize = 8;

/// Fails unless rows of `width` are whole vectors.
fn vectors(name: &str, width: usize) -> Result<(), String> {
    if width.is_multiple_of(VECTOR) {
        return Ok(());
    }
    Err(format!("{name} is {width}, on CUDA a multiple of {VECTOR}"))
}

/// Fails unless a buffer that may be of more types elsewhere is of bf16.
fn bf16(name: &str, b: Buffer) -> Result<(), String> {
    if b.dtype() == DType::Bf16 { Ok(()) } else { Err(format!("{name} is {:?}, on CUDA Bf16", b.dtype())) }
}
