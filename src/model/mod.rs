//! Qwen3 dense: configuration, weights and where they come from, LoRA, and the graph forward and backward over a
//! [`crate::backend::Backend`].

pub mod catalogue;
pub mod config;
pub mod convert;
pub mod engine;
pub mod lora;
pub mod peft;
pub mod rope;
pub mod safetensors;
pub mod selftest;
pub mod sink;
pub mod source;
pub mod targets;

pub use catalogue::Module;
pub use config::ModelConfig;
pub use engine::Engine;
pub use lora::LoraConfig;
pub use targets::Targets;
