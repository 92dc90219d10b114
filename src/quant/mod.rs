//! NF4, the 4-bit format of QLoRA (Dettmers et al. 2023), bit for bit as bitsandbytes writes it.
//!
//! | file | what is in it |
//! |---|---|
//! | [`host`] | floats of a file (f32, bf16, f16; unaligned) read as f32 |
//! | [`nf4`] | codebook, quantise, dequantise |
//! | [`nested`] | the absmax values themselves in 8 bits: "double quantisation" |
//! | [`state`] | the JSON record that bitsandbytes stores beside each tensor |
//!
//! Everything here is a pure function over slices. What takes time is split over rayon's threads by blocks; no result
//! depends on how many there are.

pub mod host;
pub mod nested;
pub mod nf4;
pub mod state;
