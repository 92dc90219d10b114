//! Settings that say which model, how its weights are held, and where it computes: the same for every command that runs a
//! model.

use crate::{
    Error, Result,
    backend::{DType, cuda::Nf4Path},
    choices_are_values,
    error::Setting,
    model::engine::HeadStore,
    settings::{Bytes, Value, needed},
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// A GPU if there is one that irori can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// GPU number N.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{text}` is not a device; use auto, cpu, cuda or cuda:N")),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl Value for Device {
    fn parse(words: &[&str]) -> Result<Self, String> {
        words.last().copied().unwrap_or_default().parse()
    }
}

/// Whether the quantised linears are kept in a file beside the model, for the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CachePolicy {
    /// For models large enough that it saves time
    #[default]
    Auto,
    /// Neither read nor written
    Never,
    /// For every model
    Always,
}

/// How a GPU multiplies by NF4 weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Nf4Choice {
    /// What is expected to be the fastest: fused
    #[default]
    Auto,
    /// The product's kernel decodes the weights itself
    Fused,
    /// The weights are decoded to memory first, and multiplied densely
    Scratch,
}

impl Nf4Choice {
    /// Its name as a setting.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fused => "fused",
            Self::Scratch => "scratch",
        }
    }

    /// The path to take on a GPU.
    pub fn path(self) -> Nf4Path {
        match self {
            Self::Auto | Self::Fused => Nf4Path::Fused,
            Self::Scratch => Nf4Path::Scratch,
        }
    }
}

/// Type that a quantised weight is rounded to when it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// bf16.
    #[default]
    #[value(name = "bfloat16", alias = "bf16")]
    #[serde(alias = "bf16")]
    Bfloat16,
    /// f32: not rounded.
    #[value(name = "float32", alias = "fp32", alias = "f32")]
    #[serde(alias = "fp32", alias = "f32")]
    Float32,
}

impl ComputeDtype {
    /// The type itself.
    pub fn dtype(self) -> DType {
        match self {
            Self::Bfloat16 => DType::Bf16,
            Self::Float32 => DType::F32,
        }
    }
}

/// The 4-bit type. There is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum QuantType {
    /// bitsandbytes' NormalFloat 4.
    Nf4,
}

choices_are_values!(CachePolicy, Nf4Choice, ComputeDtype, QuantType);

crate::settings! {
    /// Where a model computes, as given.
    pub struct MachineSettings;
    /// Where a model computes. None of it changes what is learned, but for rounding that differs between devices.
    #[derive(Debug, Clone, Default, PartialEq)]
    pub struct Machine;

    "Machine" {
        /// Where to compute: auto (a GPU that irori can use, else the CPU), cpu, cuda or cuda:N
        device: Device = Device::Auto => { value: "DEVICE", decides: false },
        /// Memory the run may take, such as 20GiB; on a GPU with what the driver takes of it
        memory_limit: Option<Bytes> = None => { value: "SIZE", otherwise: Some("what is free"), decides: false },
        /// CPU threads; they change no result
        threads: Option<usize> = None => { value: "N", otherwise: Some("all"), decides: false },
        /// Run on N multiprocessors of a GPU at most, to study a slice on a larger card
        sm_limit: Option<u32> = None => { value: "N", otherwise: Some("all"), decides: false },
        /// Keep the quantised weights of a dense model beside it, for the next start: where that saves time, never, or always
        packed_cache: CachePolicy = CachePolicy::Auto => { value: "WHEN", decides: false },
        /// How a GPU multiplies by NF4 weights; the results are the same bits
        nf4_path: Nf4Choice = Nf4Choice::Auto => { value: "PATH", decides: false },
    }
}

crate::settings! {
    /// Which model, and how its weights are held, as given.
    pub struct BaseSettings;
    /// Which model, and how its weights are held.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Base;

    "Base model" {
        /// Base model: a directory, a Hugging Face id in the local cache, or synthetic:qwen3-8b
        model: String = needed("model")? => {
            value: "MODEL", aliases: &["model-name", "model-name-or-path", "hf-model-name"], decides: false,
        },
        /// Tokenizer and chat template, where the model has none of its own: a directory or tokenizer.json
        tokenizer: Option<PathBuf> = None => { value: "PATH", decides: false },
        /// Hold the base weights in NF4, or as they are
        use_4bit: bool = true => {
            value: "BOOL", otherwise: Some("as the adapter was trained, else true"), off: Some("no-4bit"), aliases: &["load-in-4bit", "hf-load-in-4bit"],
        },
        /// Hold the head in NF4 too: saves memory and changes results
        head_4bit: bool = false => { value: "BOOL", otherwise: Some("as the adapter was trained, else false") },
        /// The 4-bit type
        bnb_4bit_quant_type: QuantType = QuantType::Nf4 => {
            value: "TYPE", otherwise: Some("as the adapter was trained, else nf4"),
        },
        /// Type that a 4-bit weight is rounded to in use
        bnb_4bit_compute_dtype: ComputeDtype = ComputeDtype::Bfloat16 => {
            value: "DTYPE", otherwise: Some("as the adapter was trained, else bfloat16"),
        },
    }
}

impl From<Base> for BaseSettings {
    fn from(base: Base) -> Self {
        let Base { model, tokenizer, use_4bit, head_4bit, bnb_4bit_quant_type, bnb_4bit_compute_dtype } = base;
        Self {
            model: Some(model),
            tokenizer,
            use_4bit: Some(use_4bit),
            head_4bit: Some(head_4bit),
            bnb_4bit_quant_type: Some(bnb_4bit_quant_type),
            bnb_4bit_compute_dtype: Some(bnb_4bit_compute_dtype),
        }
    }
}

/// The largest number of threads that is taken for meant.
const MOST_THREADS: usize = 1024;

impl Machine {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<()> {
        if let Some(n) = self.threads.filter(|n| !(1..=MOST_THREADS).contains(n)) {
            return Err(Error::setting(Setting::new("threads", n), format!("must be from 1 to {MOST_THREADS}")));
        }
        match self.sm_limit {
            Some(0) => Err(Error::setting(Setting::new("sm-limit", 0), "must be at least 1")),
            _ => Ok(()),
        }
    }
}

impl Base {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<()> {
        if self.head_4bit && !self.use_4bit {
            return Err(Error::setting(Setting::new("head-4bit", true), "is for a base in 4 bits")
                .advise([Setting::new("use-4bit", true)]));
        }
        Ok(())
    }

    /// How the head is held.
    pub fn head(&self) -> HeadStore {
        if self.head_4bit { HeadStore::Nf4 } else { HeadStore::Dense }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Group;

    #[test]
    fn a_device_reads_back_as_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7"] {
            let read = MachineSettings::from_toml(&format!("device = \"{text}\"")).unwrap().device.unwrap();
            assert_eq!(read.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for text in ["gpu", "cuda:", "cuda:-1", "cuda:99999999999", ""] {
            let e = MachineSettings::from_toml(&format!("device = \"{text}\"")).unwrap_err();
            assert!(e.message.contains("is not a device") && e.line == Some(1), "{e}");
        }
    }

    #[test]
    fn a_head_in_four_bits_needs_a_base_in_four_bits() {
        let base = |text: &str| BaseSettings::from_toml(&format!("model = \"m\"\n{text}")).unwrap().resolve().unwrap();
        let e = base("use-4bit = false\nhead-4bit = true").validate().unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().starts_with("`head-4bit = true`"), "{e}");
        assert_eq!(base("head-4bit = true").head(), HeadStore::Nf4);
        base("use-4bit = false").validate().unwrap();
        let machine = |threads| Machine { threads: Some(threads), ..Machine::default() };
        assert!(machine(0).validate().is_err() && machine(1025).validate().is_err() && machine(2).validate().is_ok());
    }
}
