//! Launches of the kernels that work by rows or by elements: `norm.cu`, `rope.cu`, `swiglu.cu`, `rows.cu`, `loss.cu`,
//! `optim.cu`, `nf4.cu`. Shapes and types are those of the operations in [`crate::backend::Backend`].

use super::launch::{Address, Args, Launch, blocks, int};
use crate::{
    backend::{AdamW, Heads},
    rng::Bell,
};

/// Widest row that RMSNorm keeps in registers.
pub const MAX_HIDDEN: usize = 8192;
/// Gradients whose squares one block adds up.
const NORM_SPAN: usize = 1024;

/// `y = rmsnorm(x)·w`: `x`, `y` bf16 [rows, hidden], `w` `f32 [hidden]`.
pub fn rmsnorm(rows: usize, hidden: usize, x: Address, w: Address, eps: f32, y: Address) -> Launch {
    let args = Args::new().with(x).with(w).with(eps).with(int(hidden)).with(y);
    Launch::new("norm", "rmsnorm", [int(rows), 1, 1], 256, args)
}

/// Gradient of [`rmsnorm`]; `add` is 0 for none.
#[allow(clippy::too_many_arguments)]
pub fn rmsnorm_backward(
    rows: usize,
    hidden: usize,
    x: Address,
    w: Address,
    eps: f32,
    dy: Address,
    add: Address,
    dx: Address,
) -> Launch {
    let args = Args::new().with(x).with(w).with(eps).with(int(hidden)).with(dy).with(add).with(dx);
    Launch::new("norm", "rmsnorm_backward", [int(rows), 1, 1], 256, args)
}

/// What head norm and RoPE read beside activations: `q_norm`, `k_norm` `f32 [128]`; `rope` f32 [positions, 128];
/// `positions` `u32 [rows]`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct RopeInputs {
    pub rows: usize,
    pub heads: Heads,
    pub positions: Address,
    pub q_norm: Address,
    pub k_norm: Address,
    pub eps: f32,
    pub rope: Address,
}

impl RopeInputs {
    fn args(&self, args: Args) -> Args {
        args.with(self.positions)
            .with(self.q_norm)
            .with(self.k_norm)
            .with(self.eps)
            .with(self.rope)
            .with(int(self.heads.q))
            .with(int(self.heads.kv))
    }

    fn launch(&self, kernel: &'static str, args: Args) -> Launch {
        let grid = [int(self.rows), blocks(self.heads.q + self.heads.kv, 4), 1];
        Launch::new("rope", kernel, grid, 128, args)
    }
}

/// Head norm and RoPE: `qkv` bf16 [rows, (Hq+2Hk)·128] to `qk` bf16 [rows, (Hq+Hk)·128].
pub fn headnorm_rope(p: &RopeInputs, qkv: Address, qk: Address) -> Launch {
    p.launch("headnorm_rope", p.args(Args::new().with(qkv)).with(qk))
}

/// Gradient of [`headnorm_rope`]: `dqk` into the q and k columns of `dqkv`.
pub fn headnorm_rope_backward(p: &RopeInputs, qkv: Address, dqk: Address, dqkv: Address) -> Launch {
    p.launch("headnorm_rope_backward", p.args(Args::new().with(qkv).with(dqk)).with(dqkv))
}

/// `s = silu(g)∘u`: `gu` bf16 [rows, 2·inter], `s` bf16 [rows, inter].
pub fn swiglu(rows: usize, inter: usize, gu: Address, s: Address) -> Launch {
    let args = Args::new().with(gu).with(int(inter)).with(s).with(int(rows));
    Launch::new("swiglu", "swiglu", [blocks(rows * inter / 8, 256), 1, 1], 256, args)
}

/// Gradient of [`swiglu`], over `gu`.
pub fn swiglu_backward(rows: usize, inter: usize, gu: Address, ds: Address) -> Launch {
    let args = Args::new().with(gu).with(int(inter)).with(ds).with(int(rows));
    Launch::new("swiglu", "swiglu_backward", [blocks(rows * inter / 8, 256), 1, 1], 256, args)
}

/// `out[i] = table[index[i]]` for rows of `width` bf16.
pub fn gather_rows(count: usize, width: usize, table: Address, index: Address, out: Address) -> Launch {
    let args = Args::new().with(table).with(index).with(int(width)).with(out);
    Launch::new("rows", "gather_rows", [int(count), 1, 1], 128, args)
}

/// `x[index[i]] = src[i]` for rows of `width` bf16.
pub fn scatter_rows(count: usize, width: usize, src: Address, index: Address, x: Address) -> Launch {
    let args = Args::new().with(src).with(index).with(int(width)).with(x);
    Launch::new("rows", "scatter_rows", [int(count), 1, 1], 128, args)
}

/// Cross-entropy in place and its sum: `nll` is scratch, `f32 [rows]`; `loss[0]` grows by the sum.
pub fn cross_entropy(
    rows: usize,
    vocab: usize,
    logits: Address,
    targets: Address,
    grad_scale: f32,
    nll: Address,
    loss: Address,
) -> [Launch; 2] {
    let args = Args::new().with(logits).with(int(vocab)).with(targets).with(grad_scale).with(nll);
    let sum = Args::new().with(nll).with(int(rows)).with(loss);
    [
        Launch::new("loss", "cross_entropy", [int(rows), 1, 1], 1024, args),
        Launch::new("loss", "add_loss", [1, 1, 1], 1024, sum),
    ]
}

/// Log-probabilities of `c` columns of each row: `ids` u32 and `out` f32 [rows, c].
pub fn log_softmax_at(rows: usize, vocab: usize, logits: Address, ids: Address, c: usize, out: Address) -> Launch {
    let args = Args::new().with(logits).with(int(vocab)).with(ids).with(int(c)).with(out);
    Launch::new("loss", "log_softmax_at", [int(rows), 1, 1], 1024, args)
}

/// Column of the largest logit: `out` `u32 [rows]`.
pub fn argmax(rows: usize, vocab: usize, logits: Address, out: Address) -> Launch {
    let args = Args::new().with(logits).with(int(vocab)).with(out);
    Launch::new("loss", "argmax", [int(rows), 1, 1], 1024, args)
}

/// Bytes of scratch that [`global_norm`] needs.
pub fn global_norm_scratch(count: usize) -> usize {
    count.div_ceil(NORM_SPAN) * 4
}

/// `norm[0] = √Σ grad²`, `partial` scratch of [`global_norm_scratch`] bytes.
pub fn global_norm(count: usize, grad: Address, partial: Address, norm: Address) -> [Launch; 2] {
    let n = blocks(count, NORM_SPAN);
    let args = Args::new().with(grad).with(count as u64).with(partial);
    [
        Launch::new("optim", "squared_norm", [n, 1, 1], 256, args),
        Launch::new("optim", "finish_norm", [1, 1, 1], 1024, Args::new().with(partial).with(n).with(norm)),
    ]
}

/// Buffers of the optimizer, all of one length.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct OptimizerBuffers {
    pub norm: Address,
    pub grad: Address,
    pub m: Address,
    pub v: Address,
    pub master: Address,
    /// bf16 working copy.
    pub working: Address,
}

/// One AdamW update of `count` parameters.
pub fn adamw(p: &AdamW, count: usize, b: &OptimizerBuffers) -> Launch {
    let args = Args::new()
        .with(p.factors())
        .with(b.norm)
        .with(b.grad)
        .with(count as u64)
        .with(b.m)
        .with(b.v)
        .with(b.master)
        .with(b.working);
    Launch::new("optim", "adamw", [blocks(count, 256), 1, 1], 256, args)
}

/// f32 to bf16, rounding to nearest even.
pub fn convert(count: usize, src: Address, dst: Address) -> Launch {
    let args = Args::new().with(src).with(count as u64).with(dst);
    Launch::new("optim", "convert", [blocks(count, 256), 1, 1], 256, args)
}

/// Type of the elements that [`nf4_quantize`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Elements {
    Bf16,
    F32,
}

/// Quantises `count` elements, a multiple of 64: `packed` u8 [count/2], `absmax` f32 [count/64].
pub fn nf4_quantize(count: usize, elements: Elements, src: Address, packed: Address, absmax: Address) -> Launch {
    let kernel = match elements {
        Elements::Bf16 => "nf4_quantize_bf16",
        Elements::F32 => "nf4_quantize_f32",
    };
    let args = Args::new().with(src).with(count as u64).with(packed).with(absmax);
    Launch::new("nf4", kernel, [blocks(count, 2048), 1, 1], 256, args)
}

/// Makes elements `start..start + count` of a random tensor, both multiples of 8, as bf16.
pub fn bell(bell: &Bell, start: usize, count: usize, out: Address) -> Launch {
    let [key0, key1] = bell.key;
    let args = Args::new().with(key0).with(key1).with(bell.unit).with(start as u64).with(count as u64).with(out);
    Launch::new("synthetic", "bell_bf16", [blocks(count, 2048), 1, 1], 256, args)
}

/// Unpacks `count` elements to bf16.
pub fn nf4_dequantize(count: usize, packed: Address, absmax: Address, dst: Address) -> Launch {
    let args = Args::new().with(packed).with(absmax).with(count as u64).with(dst);
    Launch::new("nf4", "nf4_dequantize", [blocks(count, 2048), 1, 1], 256, args)
}
