//! Qwen3 dense: configuration, weights and where they come from, LoRA, and the graph forward and backward over a
//! [`crate::backend::Backend`].

pub mod config;
pub mod engine;
pub mod export;
pub mod lora;
pub mod peft;
pub mod selftest;
pub mod source;

pub use config::ModelConfig;
pub use engine::Engine;
pub use lora::{LoraConfig, Module};

/// Lower-case hexadecimal digits of a digest.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
