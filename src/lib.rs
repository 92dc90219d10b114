//! irori fine-tunes Qwen3 language models with QLoRA on one small GPU, or on a CPU.
//!
//! # The rooms
//!
//! From the top down; a room imports only from rooms below it.
//!
//! | room | what is in it |
//! |---|---|
//! | [`cli`] | one file per subcommand: arguments in, calls, printing out |
//! | [`run`] | a run, assembled: device, model, data, plan, engine |
//! | [`report`] | HTML and SVG of a run or a comparison |
//! | [`eval`] | multiple-choice scoring, answer parsing, paired comparison |
//! | [`train`] | trainer, optimizer, schedule, checkpoint, metrics log |
//! | [`plan`] | memory and time plan |
//! | [`model`] | Qwen3 graph forward and backward, LoRA, weights, model sources and sinks |
//! | [`data`] | questions, prompts, splits, records, chat template, tokenizer, packing |
//! | [`backend`] | the operations, and the devices that run them |
//! | [`quant`] | NF4: codebook, quantise, dequantise, bitsandbytes format |
//! | [`mod@settings`] | how a setting is defined: once |
//! | [`files`] | every file that irori writes: whole or not there |
//! | [`tensor`] | element types, and tensors in host memory |
//! | [`stats`] | intervals and tests, each of them once |
//! | [`rng`] | Philox: every random number in irori |
//! | [`simd`] | hot loops compiled for AVX2 besides the baseline, the exponential |
//! | [`digest`] | SHA-256 as text |
//! | [`error`] | the error type |
//!
//! # Examples
//!
//! What training Qwen3-8B takes on a 20 GB slice of an A100. Neither need be here:
//!
//! ```
//! use irori::{
//!     backend::cuda::CudaProperties,
//!     model::{LoraConfig, ModelConfig, Module, engine::EngineSpec},
//!     plan::{self, Unpack},
//! };
//!
//! let model = ModelConfig::preset("qwen3-8b").expect("a published size");
//! let lora = LoraConfig { r: 16, alpha: 32.0, dropout: 0.05, rslora: false, targets: Module::ALL.into() };
//! let asked = EngineSpec { lora: Some(lora), training: true, ..EngineSpec::new(model, 2048, 1024) };
//! let slice = plan::device::profile("a100-2g.20gb").expect("a known device");
//!
//! let plan = plan::plan(&asked, Unpack::WhereItFits, &CudaProperties::FUSED, &slice.speed, Some(19 << 30))?;
//! assert!(plan.bytes <= 19 << 30);
//! assert_eq!(plan.saved_counts(), [36, 0, 0], "nothing is recomputed in any of the 36 layers");
//! # Ok::<(), irori::Error>(())
//! ```
//!
//! Weights in NF4, and back:
//!
//! ```
//! use irori::{quant::nf4::Nf4, tensor::Tensor};
//!
//! let weights: Vec<f32> = (0..128).map(|i| (0.37 * i as f32).sin()).collect();
//! let nf4 = Nf4::of(Tensor::vector(&weights).floats()?);
//! assert_eq!((nf4.packed.len(), nf4.absmax.len()), (64, 2), "half a byte each, and a scale for 64 of them");
//!
//! // The widest gap between two of the sixteen values is 0.304 of the largest weight of a block.
//! for (weight, back) in weights.iter().zip(nf4.to_bf16_values()) {
//!     assert!((weight - back).abs() < 0.16);
//! }
//! # Ok::<(), irori::Error>(())
//! ```
//!
//! A forward pass of a small random model on the CPU:
//!
//! ```
//! use irori::{
//!     backend::cpu::CpuBackend,
//!     data::{MicroBatch, Sample},
//!     model::{Engine, ModelConfig, engine::EngineSpec, source::Synthetic},
//! };
//!
//! let model = ModelConfig::preset("tiny").expect("a known size");
//! let source = Synthetic::new("tiny", model.clone(), 1);
//! let spec = EngineSpec::new(model, 16, 16);
//! let mut engine = Engine::new(Box::new(CpuBackend::new(None)?), spec, &source, &mut |_, _| {})?;
//!
//! // Labels are not shifted; −100 carries no loss.
//! let mut batch = MicroBatch::new();
//! batch.push(0, &Sample { tokens: vec![3, 1, 4, 1, 5], labels: vec![-100, -100, 4, 1, 5] });
//! let logprobs = engine.target_logprobs(&batch)?;
//! assert_eq!(logprobs.len(), 3);
//! assert!(logprobs.iter().all(|&p| p < 0.0));
//! # Ok::<(), irori::Error>(())
//! ```

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
