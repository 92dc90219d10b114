//! From files to micro-batches. The way of a question through this room:
//!
//! [`questions`] reads it, [`split`] says where it belongs, [`permute`] makes variants of it, [`prompt`] words it, [`record`]
//! is the line of JSONL it becomes; [`chat`] puts a record into the model's own conversation format, [`tokenizer`] and
//! [`encode`] turn that into a [`Sample`], [`order`] and [`packing`] decide which samples share a [`MicroBatch`].
//! [`balance`] and [`leak`] are the two questions to ask of any data set before training on it.

pub mod balance;
pub mod batch;
pub mod chat;
pub mod encode;
mod jinja;
pub mod json;
pub mod leak;
pub mod order;
pub mod packing;
pub mod permute;
pub mod prompt;
pub mod questions;
pub mod record;
#[cfg(test)]
pub(crate) mod shared;
mod shown;
pub mod split;
pub mod tokenizer;

pub use batch::{MicroBatch, NO_LOSS, Sample};
