//! Dropout as kernels take it: `kernels/philox.cuh`.

use super::Context;
use crate::{
    backend::{cuda::launch::Address, ops::Mask},
    rng::Dropout,
};
use bytemuck::{Pod, Zeroable};

/// `Dropout` of philox.cuh, from [`Dropout`].
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct DropoutArgs {
    /// Low half of the key.
    pub key0: u32,
    /// High half of the key.
    pub key1: u32,
    /// Decoder layer.
    pub layer: u32,
    /// Survivors have at least these bits; 0 without dropout.
    pub threshold: u32,
    /// Survivors are multiplied by this; 1 without dropout.
    pub scale: f32,
}

impl DropoutArgs {
    /// Drops nothing.
    pub const NONE: Self = Self { key0: 0, key1: 0, layer: 0, threshold: 0, scale: 1.0 };
}

impl From<Dropout> for DropoutArgs {
    fn from(d: Dropout) -> Self {
        let (key0, key1) = (d.key as u32, (d.key >> 32) as u32);
        Self { key0, key1, layer: d.layer, threshold: d.threshold(), scale: d.scale() }
    }
}

/// A mask as kernels take it: sample and position of each row, and what drops; zeros without.
pub(super) fn masked(mask: Option<Mask>, at: &Context) -> (Address, Address, DropoutArgs) {
    mask.map_or((0, 0, DropoutArgs::NONE), |m| (at.of(m.samples), at.of(m.positions), m.dropout.into()))
}
