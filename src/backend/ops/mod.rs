//! The operations that the graph is written over: one value each, found under one word.
//!
//! # Design
//! - **An operation is data**: a struct with named fields, which says its equation, the shapes and types of its buffers and
//!   its equivalent in PyTorch. [`Backend::run`](super::Backend::run) takes one; a device has one function for each.
//! - **It says itself what it touches.** [`Operation::operands`] lists its buffers with type, length and access. One check
//!   ([`super::check`]) reads the list in front of every device; the CPU lends memory by it; a recorder adds up its bytes.
//! - **It says itself what it costs.** [`Operation::flops`] counts what the mathematics asks for, whatever the device.
//! - **It allocates nothing.** It writes into buffers it is given. What it needs for itself comes out of one scratch buffer;
//!   how much is the device's to say ([`Properties::scratch`](super::Properties::scratch)).
//! - **Order.** Operations are queued and run in the order of the calls.
//! - **Numbers.** Activations have the type [`Properties::activation`](super::Properties::activation) (f32 on the CPU, bf16 on CUDA),
//!   called *act* below; accumulation, norms, RoPE, softmax, cross-entropy, gradients of adapters and the optimizer are f32.
//!   Reductions have a fixed order: the same operation on the same device gives the same bits.
//! - **Aliasing.** What is written overlaps nothing else, unless the operation says so.
//!
//! Shapes are row-major. `T` rows (token positions of all documents of the micro-batch, concatenated), `H` hidden,
//! `F` intermediate, `Hq`/`Hk` query and key/value heads, `D` head dimension, `V` vocabulary, `r` adapter rank.
//!
//! | file | operations |
//! |---|---|
//! | `memory` | zero, copy, convert, load and make dense tensors |
//! | `nf4` | load, make and unpack quantised tensors |
//! | `rows` | embedding, gather, scatter |
//! | `norm`, `rope`, `swiglu` | RMSNorm; head norm with rotary embedding; SwiGLU |
//! | `linear`, `lora` | products with frozen weights; with adapters |
//! | `attention`, `cache` | whole documents; generation |
//! | `loss`, `optim` | softmax over the vocabulary; gradient norm and AdamW |
//!
//! The CPU form, the kernel, its launches and its tests lie in files of the same names: `backend/cpu/`, `kernels/`,
//! `backend/cuda/launches/`, `backend/cpu/tests/` and `tests/kernels/`.

mod attention;
mod cache;
mod linear;
mod lora;
mod loss;
mod memory;
mod nf4;
mod norm;
mod operands;
mod optim;
mod rope;
mod rows;
mod swiglu;

pub use attention::{Attention, AttentionBackward, Heads};
pub use cache::{AttentionCached, KvCache, KvStore};
pub use linear::{Linear, LinearBackward, Weight, WeightStore};
pub use lora::{LoraBackward, LoraDown, LoraPart, Mask};
pub use loss::{Argmax, CrossEntropy, LogSoftmaxAt};
pub use memory::{Convert, Copy, LoadDense, MakeDense, Zero};
pub use nf4::{Dequantize, LoadNf4, MakeNf4};
pub use norm::{RmsNorm, RmsNormBackward};
pub use operands::{Access, Operand, Operands};
pub use optim::{AdamW, AdamWFactors, AdamWUpdate, GlobalNorm};
pub use rope::{HeadNormRope, HeadNormRopeBackward, Rotary};
pub use rows::{Embed, GatherRows, Rows, ScatterRows};
pub use swiglu::{SwiGlu, SwiGluBackward};

/// What every operation says of itself.
pub trait Operation {
    /// Adds its buffers to `to`.
    ///
    /// # Errors
    /// If its fields contradict each other: what is wrong, in words.
    fn operands(&self, to: &mut Operands) -> Result<(), String>;

    /// Floating-point operations of the equation, two for a multiply-add; 0 where moving the bytes is the work.
    fn flops(&self) -> f64 {
        0.0
    }
}

/// Declares [`Op`] and its conversions from a list of `Struct "name"`.
macro_rules! operations {
    ($($op:ident $(<$a:lifetime>)? $name:literal,)*) => {
        /// Any operation. Built from one with `.into()`.
        #[derive(Debug, Clone)]
        #[allow(missing_docs)] // each is documented where it is defined
        pub enum Op<'a> {
            $($op($op $(<$a>)?),)*
        }

        impl<'a> Op<'a> {
            /// Its name in tables and messages.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$op(_) => $name,)*
                }
            }

            /// What it says of itself.
            pub fn as_operation(&self) -> &(dyn Operation + 'a) {
                match self {
                    $(Self::$op(op) => op,)*
                }
            }
        }

        $(impl<'a> From<$op $(<$a>)?> for Op<'a> {
            fn from(op: $op $(<$a>)?) -> Self {
                Self::$op(op)
            }
        })*
    };
}

operations! {
    Zero "zero",
    Copy "copy",
    Convert "convert",
    LoadDense<'a> "load_dense",
    MakeDense "make_dense",
    LoadNf4<'a> "load_nf4",
    MakeNf4 "make_nf4",
    Dequantize "dequantize",
    Embed "embed",
    GatherRows "gather_rows",
    ScatterRows "scatter_rows",
    RmsNorm "rmsnorm",
    RmsNormBackward "rmsnorm_backward",
    HeadNormRope "headnorm_rope",
    HeadNormRopeBackward "headnorm_rope_backward",
    SwiGlu "swiglu",
    SwiGluBackward "swiglu_backward",
    Linear "linear",
    LinearBackward "linear_backward",
    LoraDown "lora_down",
    LoraBackward "lora_backward",
    Attention "attention",
    AttentionBackward "attention_backward",
    KvStore "kv_store",
    AttentionCached "attention_cached",
    LogSoftmaxAt "log_softmax_at",
    Argmax "argmax",
    CrossEntropy "cross_entropy",
    GlobalNorm "global_norm",
    AdamWUpdate "adamw",
}

impl Op<'_> {
    /// Floating-point operations, see [`Operation::flops`].
    pub fn flops(&self) -> f64 {
        self.as_operation().flops()
    }
}

/// Rows of `width` elements in a buffer of `len`, for messages called `name`.
fn rows_of(name: &str, len: usize, width: usize) -> Result<usize, String> {
    match len.checked_div(width) {
        Some(rows) if rows * width == len => Ok(rows),
        _ => Err(format!("{name} of {len} elements is not rows of {width}")),
    }
}

/// A product of [m, k] and [k, n].
fn product(m: usize, n: usize, k: usize) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}
