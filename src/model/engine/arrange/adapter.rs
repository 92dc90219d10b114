//! Where the adapter lies, and which part of which fused linear carries it.

use super::Group;
use crate::{
    backend::{Buffer, DType, Kind, Layout, LoraPart},
    model::{LoraConfig, Module, engine::EngineSpec, lora::AdapterSlot},
};

/// Flat vectors of the adapter, each [`LoraConfig::parameters`] long (empty where a run has no use for one).
#[derive(Debug, Clone, Copy)]
pub struct AdapterBuffers {
    /// Master weights, F32.
    pub master: Buffer,
    /// Working copy, act; the master itself where act is F32.
    pub working: Buffer,
    /// Gradient, F32.
    pub grad: Buffer,
    /// First moment, F32.
    pub m: Buffer,
    /// Second moment, F32.
    pub v: Buffer,
}

/// A module in a fused linear, with its adapter if it carries one.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Columns of the fused output that the module makes.
    n: usize,
    /// Where its A and B lie, and its u, act [T, r]: of this layer in training, shared by layers otherwise.
    adapter: Option<(AdapterSlot, Buffer)>,
}

impl AdapterBuffers {
    pub(super) fn place(spec: &EngineSpec, act: DType, l: &mut Layout) -> Option<Self> {
        let parameters = spec.lora.as_ref()?.parameters(&spec.model);
        let master = l.take(Kind::Adapter, DType::F32, parameters);
        let working = if act == DType::F32 { master } else { l.take(Kind::Adapter, act, parameters) };
        let mut trained = || l.take(Kind::Optimizer, DType::F32, if spec.training { parameters } else { 0 });
        Some(Self { master, working, grad: trained(), m: trained(), v: trained() })
    }
}

/// Which modules of which layer carry an adapter, and where the products with it go.
#[derive(Debug, Clone)]
pub(super) struct Places {
    layers: Vec<[Vec<Place>; 4]>,
    /// v of each place in a group, act [T, r], shared by all layers.
    v: Vec<Buffer>,
    scale: f32,
}

impl Places {
    pub(super) fn place(spec: &EngineSpec, act: DType, l: &mut Layout) -> Self {
        let c = &spec.model;
        let slots = spec.lora.as_ref().map_or(Vec::new(), |lora| lora.slots(c));
        let len = spec.lora.as_ref().map_or(0, |lora| spec.max_rows * lora.r);
        let mut shared = std::collections::HashMap::new();
        let mut place = |layer, module: Module| {
            let slot = slots.iter().find(|s| s.layer == layer && s.module == module);
            let adapter = slot.map(|&slot| {
                let u = if spec.training {
                    l.take(Kind::SavedActivations, act, len)
                } else {
                    *shared.entry(module).or_insert_with(|| l.take(Kind::Workspace, act, len))
                };
                (slot, u)
            });
            Place { n: module.shape(c).0, adapter }
        };
        let of_group = |layer, g: Group, place: &mut dyn FnMut(usize, Module) -> Place| {
            g.modules().iter().map(|&m| place(layer, m)).collect()
        };
        let layers = (0..c.layers).map(|layer| Group::ALL.map(|g| of_group(layer, g, &mut place))).collect();
        let v = if spec.training { (0..3).map(|_| l.take(Kind::Workspace, act, len)).collect() } else { Vec::new() };
        Self { layers, v, scale: spec.lora.as_ref().map_or(0.0, LoraConfig::scale) }
    }

    /// The adapters of one fused linear, for `rows` rows.
    pub(super) fn parts(&self, flat: &AdapterBuffers, layer: usize, group: Group, rows: usize) -> Vec<LoraPart> {
        let mut parts = Vec::new();
        let mut column = 0;
        for (place, &Place { n, adapter }) in self.layers[layer][group as usize].iter().enumerate() {
            if let Some((slot, u)) = adapter {
                parts.push(LoraPart {
                    module: slot.module as u32,
                    out: column..column + n,
                    r: slot.r,
                    scale: self.scale,
                    a: slot.a_of(flat.working),
                    b: slot.b_of(flat.working),
                    da: slot.a_of(flat.grad),
                    db: slot.b_of(flat.grad),
                    u: u.prefix(rows * slot.r),
                    v: self.v.get(place).map_or(Buffer::empty(u.dtype()), |v| v.prefix(rows * slot.r)),
                });
            }
            column += n;
        }
        parts
    }

    /// The first fused linear of the forward pass that carries an adapter; there the backward pass ends.
    pub(super) fn lowest(&self) -> Option<(usize, Group)> {
        let adapted =
            |layer: usize, group: Group| self.layers[layer][group as usize].iter().any(|p| p.adapter.is_some());
        (0..self.layers.len()).find_map(|layer| Some((layer, Group::ALL.into_iter().find(|&g| adapted(layer, g))?)))
    }
}
