//! NF4, the 4-bit format of QLoRA (Dettmers et al. 2023), bit for bit as bitsandbytes writes it.
//!
//! | file | what is in it |
//! |---|---|
//! | [`nf4`] | codebook, quantise, dequantise |
//! | [`nested`] | the absmax values themselves in 8 bits: "double quantisation" |
//! | [`state`] | the records that bitsandbytes stores beside each tensor |
//!
//! Everything here is a pure function over slices. What takes time is split over rayon's threads by blocks; no result
//! depends on how many there are.

pub mod nested;
pub mod nf4;
pub mod state;
