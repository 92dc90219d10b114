//! One decoder layer as the graph sees it: every buffer by its name in the mathematics, cut to the rows of the micro-batch.

use super::{
    EngineSpec,
    arrange::{Arrangement, Group},
    graph::Pass,
};
use crate::{
    backend::{
        Buffer, KvCache, LoraPart, Rows, Weight,
        ops::{Mask, Rotary},
    },
    rng::Dropout,
};

/// A fused linear with its adapters.
#[derive(Debug, Clone)]
pub(super) struct LinearView {
    pub w: Weight,
    pub parts: Vec<LoraPart>,
    /// Whether something below it needs its input's gradient.
    pub below: bool,
}

/// A layer. Shapes are those of [`super::arrange::LayerActivations`], [`super::arrange::Workspace`] and
/// its `Gradients`, of T rows.
#[derive(Debug, Clone)]
pub(super) struct LayerView {
    pub index: usize,
    pub rows: Rows,
    /// Norm weights.
    pub input_norm: Buffer,
    pub post_norm: Buffer,
    pub rotary: Rotary,
    /// The linears.
    pub qkv_proj: LinearView,
    pub o_proj: LinearView,
    pub gate_up_proj: LinearView,
    pub down_proj: LinearView,
    /// Dropout of the adapters' input.
    pub mask: Option<Mask>,
    /// Input, kept activations, output.
    pub x: Buffer,
    pub qkv: Buffer,
    pub o: Buffer,
    pub lse: Buffer,
    pub x2: Buffer,
    pub gu: Buffer,
    pub out: Buffer,
    /// Activations that all layers share.
    pub h: Buffer,
    pub qk: Buffer,
    pub s: Buffer,
    /// Gradients; empty outside training.
    pub dx: Buffer,
    pub dh: Buffer,
    pub ds: Buffer,
    pub do_: Buffer,
    pub dqk: Buffer,
    pub dqkv: Buffer,
    /// Generation.
    pub cache: Option<KvCache>,
    pub slots: Buffer,
}

/// The first T of `most` rows of a buffer.
pub(super) fn cut(b: Buffer, rows: usize, most: usize) -> Buffer {
    b.prefix(b.len() / most * rows)
}

impl LayerView {
    /// Layer `index` in a pass over `rows`.
    pub fn new(spec: &EngineSpec, a: &Arrangement, index: usize, rows: &Rows, pass: Pass) -> Self {
        let cut = |b: Buffer| cut(b, rows.count, spec.max_rows);
        let (weights, kept, work) = (&a.weights.layers[index], &a.activations[index], &a.work);
        let lowest = a.lowest_adapter();
        let linear = |group: Group| LinearView {
            w: weights.linears[group as usize],
            parts: a.parts(index, group, rows.count),
            below: lowest.is_none_or(|(layer, first)| (layer, first as usize) < (index, group as usize)),
        };
        Self {
            index,
            rows: *rows,
            input_norm: weights.input_norm,
            post_norm: weights.post_norm,
            rotary: Rotary {
                heads: spec.model.heads,
                q_norm: weights.q_norm,
                k_norm: weights.k_norm,
                eps: spec.model.rms_eps,
                table: a.weights.rope,
            },
            qkv_proj: linear(Group::Qkv),
            o_proj: linear(Group::O),
            gate_up_proj: linear(Group::GateUp),
            down_proj: linear(Group::Down),
            mask: mask(spec, index, rows, pass),
            x: cut(kept.x),
            qkv: cut(kept.qkv),
            o: cut(kept.o),
            lse: cut(kept.lse),
            x2: cut(kept.x2),
            gu: cut(kept.gu),
            out: cut(a.activations.get(index + 1).map_or(work.x_last, |next| next.x)),
            h: cut(work.h),
            qk: cut(work.qk),
            s: cut(work.s),
            dx: cut(work.grad.dx),
            dh: cut(work.grad.dh),
            ds: cut(work.grad.ds),
            do_: cut(work.grad.do_),
            dqk: cut(work.grad.dqk),
            dqkv: cut(work.grad.dqkv),
            cache: a.cache.get(index).copied(),
            slots: if a.cache.is_empty() { a.batch.slots } else { a.batch.slots.prefix(rows.count) },
        }
    }
}

fn mask(spec: &EngineSpec, layer: usize, rows: &Rows, pass: Pass) -> Option<Mask> {
    let p = spec.lora.as_ref().map_or(0.0, |l| l.dropout);
    match pass {
        Pass::Train(key) if p > 0.0 => {
            let dropout = Dropout { p, key, layer: layer as u32 };
            Some(Mask { dropout, samples: rows.samples, positions: rows.positions })
        }
        _ => None,
    }
}
