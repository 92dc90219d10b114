//! From files to micro-batches: lawqa, prompts, splits, records, chat template, tokenizer, packing.

pub mod batch;

pub use batch::{MicroBatch, Sample};
