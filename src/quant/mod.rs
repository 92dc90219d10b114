//! (being built)

/// Weights that share one absmax.
pub const BLOCK: usize = 64;
