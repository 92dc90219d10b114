//! irori fine-tunes Qwen3 language models with QLoRA on one small GPU, or on a CPU.
//!
//! The rooms of the house, from the top down; a room imports only from rooms below it:
//!
//! | room | what is in it |
//! |---|---|
//! | [`cli`] | one file per subcommand: arguments in, calls, printing out |
//! | [`run`] | a run, assembled: device, model, data, plan, engine |
//! | [`report`] | HTML and SVG of a run or a comparison |
//! | [`eval`] | multiple-choice scoring, answer parsing, paired comparison |
//! | [`train`] | trainer, optimizer, schedule, checkpoint, metrics log |
//! | [`plan`] | memory and time plan |
//! | [`model`] | Qwen3 graph forward and backward, LoRA, weights, model sources |
//! | [`data`] | lawqa, prompts, splits, records, chat template, tokenizer, packing |
//! | [`backend`] | the set of operations, and the devices that implement it |
//! | [`quant`] | NF4: codebook, quantise, dequantise, bitsandbytes format |
//! | [`mod@settings`] | how a setting is defined: once |
//! | [`files`] | every file that irori writes: whole or not there |
//! | [`tensor`] | element types, and tensors in host memory |
//! | [`digest`] | SHA-256 as text |
//! | [`simd`] | hot loops compiled for AVX2 besides the baseline, the exponential |
//! | [`stats`] | intervals and tests, each of them once |
//! | [`rng`] | Philox: every random number in irori |
//! | [`error`] | the error type |

pub mod backend;
pub mod cli;
pub mod data;
pub mod digest;
pub mod error;
pub mod eval;
pub mod files;
pub mod model;
pub mod plan;
pub mod quant;
pub mod report;
pub mod rng;
pub mod run;
pub mod settings;
pub mod simd;
pub mod stats;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
