//! Where activations lie: those that each layer keeps for its backward pass, and those that all layers share.

use crate::{
    backend::{Buffer, DType, Kind, Layout},
    model::engine::{EngineSpec, Saved},
};

/// Activations of one layer, full size. In inference every layer has the same ones.
#[derive(Debug, Clone, Copy)]
pub struct LayerActivations {
    /// Input of the layer, act [T, H].
    pub x: Buffer,
    /// q, k, v before the head norms, act [T, (Hq+2Hk)·D].
    pub qkv: Buffer,
    /// Attention output, act [T, Hq·D].
    pub o: Buffer,
    /// Log-sum-exp of attention, F32 [T, Hq].
    pub lse: Buffer,
    /// Residual stream after attention, act [T, H].
    pub x2: Buffer,
    /// gate, up, act [T, 2F].
    pub gu: Buffer,
}

/// Activations that all layers share.
#[derive(Debug, Clone, Copy)]
pub struct Workspace {
    /// Output of a norm, act [T, H].
    pub h: Buffer,
    /// q, k after head norm and RoPE, act [T, (Hq+Hk)·D].
    pub qk: Buffer,
    /// SwiGLU output, act [T, F].
    pub s: Buffer,
    /// Output of the last layer, act [T, H].
    pub x_last: Buffer,
    /// Target rows of `x_last`, then their norm's gradient, act [C, H].
    pub head_x: Buffer,
    /// Target rows after the last norm, act [C, H].
    pub head_h: Buffer,
    /// Logits of a chunk, act [C, V].
    pub logits: Buffer,
    /// Gradients; empty outside training.
    pub grad: Gradients,
}

/// Gradients of activations, shared by all layers.
#[derive(Debug, Clone, Copy)]
pub struct Gradients {
    /// Of the residual stream, act [T, H].
    pub dx: Buffer,
    /// Of a norm's output, act [T, H].
    pub dh: Buffer,
    /// Of the SwiGLU output, act [T, F].
    pub ds: Buffer,
    /// Of the attention output, act [T, Hq·D].
    pub do_: Buffer,
    /// Of q, k after RoPE, act [T, (Hq+Hk)·D].
    pub dqk: Buffer,
    /// Of q, k, v, act [T, (Hq+2Hk)·D].
    pub dqkv: Buffer,
    /// Of the head's input, act [C, H].
    pub head_dh: Buffer,
}

impl Workspace {
    /// `first` is the input of the first layer.
    pub(super) fn place(spec: &EngineSpec, act: DType, first: Buffer, l: &mut Layout) -> Self {
        let (c, rows, logit_rows) = (&spec.model, spec.max_rows, spec.chunk_rows());
        let (hidden, inter, heads) = (c.hidden, c.intermediate, c.heads);
        let mut take = |len| l.take(Kind::Workspace, act, len);
        let in_training = |n: usize| if spec.training { n } else { 0 };
        let x_last = if spec.training { take(rows * hidden) } else { first };
        let (h, qk, s) = (take(rows * hidden), take(rows * heads.qk_width()), take(rows * inter));
        let (head_x, head_h) = (take(logit_rows * hidden), take(logit_rows * hidden));
        let grad = Gradients {
            dx: take(in_training(rows * hidden)),
            dh: take(in_training(rows * hidden)),
            ds: take(in_training(rows * inter)),
            do_: take(in_training(rows * heads.q_width())),
            dqk: take(in_training(rows * heads.qk_width())),
            dqkv: take(in_training(rows * heads.qkv_width())),
            head_dh: take(in_training(logit_rows * hidden)),
        };
        let logits = l.take(Kind::Logits, act, logit_rows * c.vocab);
        Self { h, qk, s, x_last, head_x, head_h, logits, grad }
    }
}

/// Activations of every layer under its [`Saved`] choice.
pub(super) fn by_layer(spec: &EngineSpec, act: DType, l: &mut Layout) -> Vec<LayerActivations> {
    let c = &spec.model;
    let rows = spec.max_rows;
    if !spec.training {
        let kind = Kind::Workspace;
        let x = l.take(kind, act, rows * c.hidden);
        let one = LayerActivations {
            x,
            qkv: l.take(kind, act, rows * c.heads.qkv_width()),
            o: l.take(kind, act, rows * c.heads.q_width()),
            lse: l.take(kind, DType::F32, rows * c.heads.q),
            x2: x,
            gu: l.take(kind, act, rows * 2 * c.intermediate),
        };
        return vec![one; c.layers];
    }
    // What some layer recomputes lies in buffers that all such layers share.
    let any = |wanted: &[Saved]| spec.saved.iter().any(|s| wanted.contains(s));
    let mut shared = |want: bool, dtype, len| l.take(Kind::Workspace, dtype, if want { len } else { 0 });
    let input_only = any(&[Saved::InputOnly]);
    let shared_qkv = shared(input_only, act, rows * c.heads.qkv_width());
    let shared_o = shared(input_only, act, rows * c.heads.q_width());
    let shared_lse = shared(input_only, DType::F32, rows * c.heads.q);
    let shared_x2 = shared(input_only, act, rows * c.hidden);
    let shared_gu = shared(any(&[Saved::InputOnly, Saved::NoGateUp]), act, rows * 2 * c.intermediate);
    spec.saved
        .iter()
        .map(|saved| {
            let mut own = |shared: Buffer, keep: bool, dtype, len| {
                if keep { l.take(Kind::SavedActivations, dtype, len) } else { shared }
            };
            let keep = *saved != Saved::InputOnly;
            LayerActivations {
                x: own(shared_x2, true, act, rows * c.hidden),
                qkv: own(shared_qkv, keep, act, rows * c.heads.qkv_width()),
                o: own(shared_o, keep, act, rows * c.heads.q_width()),
                lse: own(shared_lse, keep, DType::F32, rows * c.heads.q),
                x2: own(shared_x2, keep, act, rows * c.hidden),
                gu: own(shared_gu, *saved == Saved::All, act, rows * 2 * c.intermediate),
            }
        })
        .collect()
}
