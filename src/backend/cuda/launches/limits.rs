//! What the kernels do not take is refused by the operation's name, though the operation is right.

use super::*;
use crate::backend::{
    Heads, Kind, KvCache, Layout, LoraPart, Rows, Weight, WeightStore,
    check::Extent,
    cuda::context::{Arena, Chip},
    ops::{
        AdamW, AdamWUpdate, Attention, AttentionCached, Embed, GatherRows, GlobalNorm, HeadNormRope, Linear, RmsNorm,
        Rotary, SwiGlu,
    },
};

/// Buffers of one arena, whose first 256 bytes are scratch.
struct Place(Layout);

impl Place {
    fn new() -> Self {
        let mut layout = Layout::new();
        layout.take(Kind::Scratch, DType::U8, 256);
        Self(layout)
    }

    fn act(&mut self, len: usize) -> Buffer {
        self.0.take(Kind::Workspace, DType::Bf16, len)
    }

    fn f32(&mut self, len: usize) -> Buffer {
        self.0.take(Kind::Workspace, DType::F32, len)
    }

    fn u32(&mut self, len: usize) -> Buffer {
        self.0.take(Kind::Workspace, DType::U32, len)
    }

    fn rows(&mut self, count: usize, docs: usize) -> Rows {
        let [tokens, positions, samples] = [(); 3].map(|()| self.u32(count));
        Rows { count, docs, max_len: 1, tokens, positions, samples, cu_seqlens: self.u32(docs + 1) }
    }

    /// What is said of the operation; nothing if it is taken.
    fn said(&self, op: impl Into<Op<'static>>) -> String {
        let (op, scratch) = (op.into(), Layout::new().take(Kind::Scratch, DType::U8, 256));
        let extent = Extent { device: self.0.bytes(), host: self.0.host_bytes(), scratch: scratch.range() };
        let checked = check::check(&op, DType::Bf16, &extent).expect("the operation itself is right");
        let (chip, arena) = (Chip { sms: 28, shared_per_block: 163 << 10, shared_per_sm: 164 << 10 }, Arena::default());
        let at = Context { chip, address: &|b| arena.address(b), scratch, nf4: Nf4Path::Fused };
        of(&checked, &at).map_or_else(|e| e.to_string(), |_| String::new())
    }
}

#[track_caller]
fn assert_refused(said: &str, operation: &str, why: &str) {
    assert!(
        said.starts_with(&format!("{operation}: ")) && said.contains(why),
        "{said:?}, expected {operation}: … {why}"
    );
}

#[test]
fn widths_types_and_scratch() {
    let mut p = Place::new();
    let norm = |p: &mut Place, h| RmsNorm { x: p.act(h), w: p.f32(h), eps: 0.0, y: p.act(h) };
    let (good, odd, wide) = (norm(&mut p, 64), norm(&mut p, 12), norm(&mut p, 8200));
    assert_eq!(p.said(good), "");
    assert_refused(&p.said(odd), "rmsnorm", "H is 12, on CUDA a multiple of 8");
    assert_refused(&p.said(wide), "rmsnorm", "rows of 8200 elements, at most 8192");
    let swiglu = SwiGlu { gu: p.act(40), width: 20, s: p.act(20) };
    assert_refused(&p.said(swiglu), "swiglu", "F is 20");
    let gather = GatherRows { x: p.act(40), index: p.u32(1), width: 20, out: p.act(20) };
    assert_refused(&p.said(gather), "gather_rows", "a row is 20");
    let rows = p.rows(1, 1);
    let embed = Embed { table: p.f32(64), rows, out: p.act(64) };
    assert_refused(&p.said(embed), "embed", "table is F32, on CUDA Bf16");
    let [grad, m, v, master] = [(); 4].map(|()| p.f32(8));
    let adamw = AdamWUpdate { adamw: AdamW::default(), norm: p.f32(1), grad, m, v, master, working: master };
    assert_refused(&p.said(adamw), "adamw", "working is F32");
    let norm = GlobalNorm { grad: p.f32(65 * 1024), norm: p.f32(1) };
    assert_refused(&p.said(norm), "global_norm", "needs 260 bytes of scratch, there are 256");
}

#[test]
fn weights_and_adapters() {
    let mut p = Place::new();
    let (n, k, t) = (64, 64, 2);
    let dense = Weight { n, k, store: WeightStore::Dense(p.act(n * k)) };
    let (z, y) = (p.act(t * k), p.act(t * n));
    let part = |p: &mut Place, r: usize| {
        let [u, a, b] = [t * r, r * k, n * r].map(|len| p.act(len));
        let none = Buffer::empty(DType::F32);
        LoraPart { module: 0, out: 0..n, r, scale: 1.0, a, b, da: none, db: none, u, v: u }
    };
    let linear = |w: Weight, parts: Vec<LoraPart>| Linear { z, w, parts, add: None, y };
    let [eight, sixteen, twelve] = [8, 16, 12].map(|r| part(&mut p, r));
    let many: Vec<_> = (0..4).map(|_| part(&mut p, 8)).collect();
    assert_eq!(p.said(linear(dense, vec![eight.clone()])), "");
    assert_refused(&p.said(linear(dense, many)), "linear", "4 adapters in one linear, at most 3");
    assert_refused(&p.said(linear(dense, vec![eight, sixteen])), "linear", "adapters of different ranks");
    assert_refused(&p.said(linear(dense, vec![twelve])), "linear", "rank 12, on CUDA a multiple of 8 up to 256");
    let wide = Weight { store: WeightStore::Dense(p.f32(n * k)), ..dense };
    assert_refused(&p.said(linear(wide, vec![])), "linear", "W is F32");
    let packed = p.0.take(Kind::QuantizedWeights, DType::U8, n * k / 2);
    let store = WeightStore::Nf4 { packed, absmax: p.f32(n * k / 64), compute: DType::F32 };
    assert_refused(&p.said(linear(Weight { store, ..dense }, vec![])), "linear", "rounded to bf16 on CUDA, not to F32");
}

#[test]
fn heads_and_documents() {
    let mut p = Place::new();
    let attention = |p: &mut Place, heads: Heads, docs: usize| {
        let rows = p.rows(2, docs);
        let (qk, qkv) = (p.act(2 * heads.qk_width()), p.act(2 * heads.qkv_width()));
        let (o, lse) = (p.act(2 * heads.q_width()), p.f32(2 * heads.q));
        Attention { qk, qkv, rows, heads, o, lse }
    };
    let heads = Heads { q: 9, kv: 1, dim: 128 };
    let (good, many) = (attention(&mut p, heads, 65_535), attention(&mut p, heads, 65_536));
    let narrow = attention(&mut p, Heads { dim: 64, ..heads }, 1);
    assert_eq!(p.said(good), "");
    assert_refused(&p.said(many), "attention", "65536 documents in a micro-batch, at most 65535");
    assert_refused(&p.said(narrow), "attention", "heads of 64 elements, on CUDA of 128");
    let Attention { qk, qkv, rows, heads: h, .. } = narrow;
    let (q_norm, k_norm, table) = (p.f32(64), p.f32(64), p.f32(64));
    let rotary = Rotary { heads: h, q_norm, k_norm, eps: 0.0, table };
    let rope = HeadNormRope { qkv, rows, rotary, qk: p.act(qk.len()) };
    assert_refused(&p.said(rope), "headnorm_rope", "heads of 64");
    let (k, v) = (p.act(4 * 128), p.act(4 * 128));
    let (cache, slots, o) = (KvCache { k, v, capacity: 4 }, p.u32(2), p.act(2 * heads.q_width()));
    let Attention { qk, rows, .. } = good;
    let cached = AttentionCached { qk, rows, slots, heads, cache, o };
    assert_refused(&p.said(cached), "attention_cached", "9 query heads of a key/value head, at most 8");
}
