//! The set of operations that the Qwen3 graph is written over, and the devices that implement it.
//!
//! # Design
//! - **Granularity.** One method is one kernel (or a fixed handful) of the CUDA backend: fine enough that the graph decides
//!   what is saved and what is recomputed, coarse enough that a launch is worth its cost.
//! - **Memory.** Buffers are opaque typed handles ([`Buffer`]) out of one arena laid out beforehand ([`arena::Layout`]).
//!   An operation writes into buffers it is given and allocates nothing. What it needs for itself comes out of one scratch
//!   buffer, whose size [`Sizes::scratch_bytes`] says. A buffer may lie in host memory ([`arena::Space::Host`]); only
//!   [`Backend::embed`]'s table and the memory operations take such a one.
//! - **Order.** Operations are queued and run in the order of the calls. Only [`Backend::read`] waits.
//! - **Numbers.** Activations have the type [`Sizes::activation`] (f32 on the CPU, bf16 on CUDA), called *act* below;
//!   accumulation, norms, RoPE, softmax, cross-entropy, gradients of adapters and the optimizer are f32. Reductions have a
//!   fixed order: the same call on the same device gives the same bits.
//! - **Aliasing.** Outputs must not overlap inputs unless the method says so.
//!
//! Shapes are row-major. `T` rows (token positions of all documents of the micro-batch, concatenated), `H` hidden,
//! `F` intermediate, `Hq`/`Hk` query and key/value heads, `D` head dimension, `V` vocabulary, `r` adapter rank.

pub mod adamw;
pub mod arena;
pub mod cpu;
pub mod cuda;

pub use crate::tensor::{DType, HostTensor};
use crate::{
    Result,
    rng::{Bell, Dropout},
};
pub use adamw::AdamW;
pub use arena::{Buffer, Kind, Layout, Space};
use std::ops::Range;

/// A frozen weight matrix W of shape [n, k] (out, in).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weight {
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// How it is stored.
    pub store: WeightStore,
}

/// Storage of a frozen weight matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WeightStore {
    /// Elements in row-major order: Bf16 or F32 [n·k].
    Dense(Buffer),
    /// bitsandbytes NF4, block 64. `k` is a multiple of 64.
    Nf4 {
        /// U8 [n·k/2], the high nibble is the even element.
        packed: Buffer,
        /// F32 [n·k/64], decoded (no double quantisation left).
        absmax: Buffer,
        /// Bf16: code·absmax rounded once to bf16 (ties to even). F32: not rounded.
        compute: DType,
    },
}

/// One module's adapter inside a (possibly fused) linear layer: rows `out` of W belong to it.
#[derive(Debug, Clone)]
pub struct LoraPart {
    /// Number of the module in [`crate::model::Module::ALL`]; part of the dropout counter.
    pub module: u32,
    /// Columns of the layer's output that this module makes. `n = out.len()`.
    pub out: Range<usize>,
    /// Rank.
    pub r: usize,
    /// alpha/r, or alpha/√r with rsLoRA.
    pub scale: f32,
    /// A, working copy, act [r, k].
    pub a: Buffer,
    /// B, working copy, act [n, r].
    pub b: Buffer,
    /// Gradient of A, f32 [r, k]; empty outside training.
    pub da: Buffer,
    /// Gradient of B, f32 [n, r]; empty outside training.
    pub db: Buffer,
    /// u = drop(z)·Aᵀ, act [T, r].
    pub u: Buffer,
    /// v = scale·dy·B, act [T, r]; empty outside training.
    pub v: Buffer,
}

/// The rows of a micro-batch on the device.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Number of rows T.
    pub count: usize,
    /// Number of documents.
    pub docs: usize,
    /// Length of the longest document.
    pub max_len: usize,
    /// Token ids, `U32 [T]`.
    pub tokens: Buffer,
    /// Position of each row in its document, `U32 [T]`.
    pub positions: Buffer,
    /// Number of the sample that each row belongs to, `U32 [T]`; part of the dropout counter.
    pub samples: Buffer,
    /// First row of each document, then T: U32 [docs + 1].
    pub cu_seqlens: Buffer,
}

/// Shape of grouped-query attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads Hq.
    pub q: usize,
    /// Key/value heads Hk; Hq is a multiple of it.
    pub kv: usize,
    /// Head dimension D.
    pub dim: usize,
}

impl Heads {
    /// Width of q: Hq·D.
    pub fn q_width(&self) -> usize {
        self.q * self.dim
    }
    /// Width of k (and of v): Hk·D.
    pub fn kv_width(&self) -> usize {
        self.kv * self.dim
    }
    /// Width of the fused q, k, v row: (Hq + 2·Hk)·D, in this order.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
    /// Width of the fused q, k row after head norm and RoPE: (Hq + Hk)·D.
    pub fn qk_width(&self) -> usize {
        self.q_width() + self.kv_width()
    }
}

/// Per-head RMSNorm on q and k, then RoPE (rotation of split halves: element i pairs with i + D/2).
#[derive(Debug, Clone, Copy)]
pub struct HeadNormRope {
    /// Heads.
    pub heads: Heads,
    /// Norm weight of q, `F32 [D]`.
    pub q_norm: Buffer,
    /// Norm weight of k, `F32 [D]`.
    pub k_norm: Buffer,
    /// Added to the mean square.
    pub eps: f32,
    /// cos and sin of every position, F32 [positions, D]: D/2 cosines, then D/2 sines.
    pub rope: Buffer,
}

/// Keys and values of generated sequences for one layer.
#[derive(Debug, Clone, Copy)]
pub struct KvCache {
    /// Keys after head norm and RoPE, act [slots, capacity, Hk·D].
    pub k: Buffer,
    /// Values, same shape.
    pub v: Buffer,
    /// Positions per slot.
    pub capacity: usize,
}

/// Time spent in one operation.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct OperationTime {
    /// The method of [`Backend`].
    pub operation: &'static str,
    /// Calls.
    pub calls: u64,
    /// Seconds in all of them.
    pub seconds: f64,
}

/// The sizes that decide how much scratch an operation can need, and whether a backend can do it.
#[derive(Debug, Clone, Copy)]
pub struct ScratchShape {
    /// Most rows T of a micro-batch.
    pub rows: usize,
    /// Most rows of a logits chunk.
    pub logit_rows: usize,
    /// Longest document.
    pub max_len: usize,
    /// Heads.
    pub heads: Heads,
    /// (n, k) of the largest weight, by n·k, of the decoder layers and of a head in NF4.
    pub largest_weight: (usize, usize),
    /// Largest k and largest n of any decoder linear.
    pub widest: usize,
    /// Vocabulary rows of the head.
    pub vocab: usize,
    /// Hidden size.
    pub hidden: usize,
    /// Intermediate size F.
    pub intermediate: usize,
    /// Rank of the adapter; 0 without one.
    pub lora_rank: usize,
    /// Whether some linear is stored in NF4.
    pub quantized: bool,
    /// Whether the head is.
    pub quantized_head: bool,
    /// Type that quantised weights are rounded to.
    pub compute: DType,
    /// Storage of dense weights.
    pub dense: DType,
    /// Sequences generated at once; 0 without generation.
    pub kv_slots: usize,
    /// Most positions of a generated sequence.
    pub kv_capacity: usize,
    /// Largest sum of ranks of the parts of one fused linear; 0 without an adapter.
    pub rank: usize,
    /// Adapter parameters in all.
    pub adapter: usize,
    /// Whether a backward pass runs.
    pub training: bool,
}

impl Default for ScratchShape {
    /// Nothing of anything, in f32: a base for the sizes that matter.
    fn default() -> Self {
        Self {
            rows: 0,
            logit_rows: 0,
            max_len: 0,
            heads: Heads { q: 1, kv: 1, dim: 1 },
            largest_weight: (0, 0),
            widest: 0,
            vocab: 0,
            hidden: 0,
            intermediate: 0,
            lora_rank: 0,
            quantized: false,
            quantized_head: false,
            compute: DType::F32,
            dense: DType::F32,
            kv_slots: 0,
            kv_capacity: 0,
            rank: 0,
            adapter: 0,
            training: false,
        }
    }
}

/// What packed weights cost beside the product that they are used in: for the time model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unpacking {
    /// They are dequantised to elements of this type, which are written to memory and read again.
    ToScratch(DType),
    /// They are decoded inside the product, which takes longer by this part of its time.
    InProduct(f64),
}

/// What a backend needs to know before it exists: element types and scratch. The planner works from this alone.
pub trait Sizes {
    /// "cpu" or "cuda".
    fn name(&self) -> &'static str;
    /// Type of activations and of the adapter's working copy. F32: the working copy is the master copy itself.
    fn activation(&self) -> DType;
    /// Bytes of scratch that suffice for every operation at these sizes.
    fn scratch_bytes(&self, shape: &ScratchShape) -> usize;
    /// Fails where the backend's operations do not take these sizes.
    ///
    /// # Errors
    /// Names the setting and what the backend takes.
    fn check(&self, _shape: &ScratchShape) -> Result<()> {
        Ok(())
    }
    /// What packed weights cost beside their product.
    fn unpacking(&self) -> Unpacking {
        Unpacking::ToScratch(self.activation())
    }
    /// Whether the device has memory of its own, so that a buffer in host memory takes none of it.
    fn own_memory(&self) -> bool {
        false
    }
}

/// The operations. See the module's text for what holds of all of them.
pub trait Backend: Send {
    /// Element types and scratch sizes of this backend.
    fn sizes(&self) -> &dyn Sizes;

    /// A name for people: "CPU, 2 threads, AVX2".
    fn describe(&self) -> String;

    /// Whether [`Backend::take_times`] is wanted, where measuring costs something: on a GPU, two events an operation.
    fn measure_times(&mut self, _on: bool) {}

    /// Time spent in each operation since the last call, the longest first. On a GPU by its own clock, and empty unless
    /// asked for by [`Backend::measure_times`]; waits for what is queued.
    ///
    /// # Errors
    /// If the device fails.
    fn take_times(&mut self) -> Result<Vec<OperationTime>> {
        Ok(Vec::new())
    }

    /// Takes the arena: `bytes` on the device and `host_bytes` in host memory that the device can read. What it holds is
    /// arbitrary. Remembers `scratch`, which lies on the device, for the operations' own use. Called once.
    ///
    /// # Errors
    /// If the memory cannot be had.
    fn allocate(&mut self, bytes: usize, host_bytes: usize, scratch: Buffer) -> Result<()>;

    // --- memory -----------------------------------------------------------------------------------------------------

    /// Copies host bytes to the start of `dst`: `data.len()` ≤ `dst.bytes()`.
    fn write(&mut self, dst: Buffer, data: &[u8]) -> Result<()>;

    /// Waits for everything queued and copies `src` to the host.
    fn read(&mut self, src: Buffer) -> Result<Vec<u8>>;

    /// All bytes zero.
    fn zero(&mut self, dst: Buffer) -> Result<()>;

    /// Copies elements; the types and lengths are equal.
    fn copy(&mut self, src: Buffer, dst: Buffer) -> Result<()>;

    /// Copies elements from F32 to `dst`'s type, rounding to nearest even. `src` and `dst` may be the same F32 buffer.
    fn convert(&mut self, src: Buffer, dst: Buffer) -> Result<()>;

    /// Loads a dense tensor, converting from its type to `dst`'s (F32 or Bf16).
    fn load_dense(&mut self, src: HostTensor, dst: Buffer) -> Result<()>;

    /// Loads a tensor and quantises it to NF4, bit for bit as bitsandbytes: `packed` U8 [len/2], `absmax` F32 [len/64].
    fn load_nf4(&mut self, src: HostTensor, packed: Buffer, absmax: Buffer) -> Result<()>;

    /// Makes the elements of `dst` (F32 or Bf16) as [`Bell`] says: [`Backend::load_dense`] of a tensor that has no bytes.
    fn make_dense(&mut self, bell: &Bell, dst: Buffer) -> Result<()> {
        let elements = bell.elements(dst.len());
        self.load_dense(HostTensor { dtype: DType::Bf16, bytes: bytemuck::cast_slice(&elements) }, dst)
    }

    /// [`Backend::load_nf4`] of a tensor that is made as [`Bell`] says.
    fn make_nf4(&mut self, bell: &Bell, packed: Buffer, absmax: Buffer) -> Result<()> {
        let elements = bell.elements(2 * packed.len());
        self.load_nf4(HostTensor { dtype: DType::Bf16, bytes: bytemuck::cast_slice(&elements) }, packed, absmax)
    }

    /// W as dense elements: Bf16 or F32 `dst` [n·k]. For an NF4 weight, code·absmax rounded as `compute` says.
    fn dequantize(&mut self, w: &Weight, dst: Buffer) -> Result<()>;

    // --- forward ----------------------------------------------------------------------------------------------------

    /// `out[t] = table[tokens[t]]`. `table` Bf16 or F32 [V, H], on the device or in host memory, `out` act [T, H].
    /// PyTorch: `F.embedding`.
    fn embed(&mut self, table: Buffer, rows: &Rows, out: Buffer) -> Result<()>;

    /// `y = x / sqrt(mean(x²) + eps) · w` by rows. `x`, `y` act [T, H], `w` `F32 [H]`. PyTorch: `F.rms_norm`.
    fn rmsnorm(&mut self, x: Buffer, w: Buffer, eps: f32, y: Buffer) -> Result<()>;

    /// Each part's `u = drop(z)·Aᵀ`. `z` act [T, k]. Without `drop`, no dropout.
    fn lora_down(&mut self, z: Buffer, k: usize, rows: &Rows, parts: &[LoraPart], drop: Option<Dropout>) -> Result<()>;

    /// `y = z·Wᵀ + Σ scale·u·Bᵀ (+ add)`. `z` act [T, k], `y` act [T, n]; the parts' `u` are ready.
    /// `add` act [T, n] may be `y` itself. PyTorch: `F.linear`.
    fn linear(&mut self, z: Buffer, w: &Weight, parts: &[LoraPart], add: Option<Buffer>, y: Buffer) -> Result<()>;

    /// Head norm and RoPE: `qkv` act [T, (Hq+2Hk)·D] to `qk` act [T, (Hq+Hk)·D]. v is not touched and stays in `qkv`.
    fn headnorm_rope(&mut self, qkv: Buffer, rows: &Rows, p: &HeadNormRope, qk: Buffer) -> Result<()>;

    /// Causal attention within each document, scale 1/√D. q and k from `qk`, v from `qkv`.
    /// `o` act [T, Hq·D]; `lse` F32 [T, Hq], the natural logarithm of the softmax denominator of the scaled scores.
    /// PyTorch: `F.scaled_dot_product_attention(is_causal=True, enable_gqa=True)` per document.
    fn attention(&mut self, qk: Buffer, qkv: Buffer, rows: &Rows, heads: Heads, o: Buffer, lse: Buffer) -> Result<()>;

    /// `s = silu(g)∘u`, `gu` act [T, 2F] (g, then u, in each row), `s` act [T, F].
    fn swiglu(&mut self, gu: Buffer, f: usize, s: Buffer) -> Result<()>;

    /// `out[i] = x[index[i]]` for whole rows of `width` elements. `index` `U32 [R]`, `out` act [R, width].
    fn gather_rows(&mut self, x: Buffer, index: Buffer, width: usize, out: Buffer) -> Result<()>;

    /// Natural-log softmax of `logits` act [R, V] at the columns `ids` U32 [R, c]; `out` F32 [R, c].
    /// Row i reads `ids[i·c .. i·c + c]`.
    fn log_softmax_at(&mut self, logits: Buffer, vocab: usize, ids: Buffer, c: usize, out: Buffer) -> Result<()>;

    /// Column of the largest logit of each row (the lowest of equals): `out` `U32 [R]`.
    fn argmax(&mut self, logits: Buffer, vocab: usize, out: Buffer) -> Result<()>;

    /// Cross-entropy in place: adds Σ −log softmax(logits)\[target\] to `loss` `F32 [1]`, then overwrites `logits` act [R, V]
    /// with `(softmax − onehot)·grad_scale`. `targets` `U32 [R]`.
    fn cross_entropy(
        &mut self,
        logits: Buffer,
        vocab: usize,
        targets: Buffer,
        grad_scale: f32,
        loss: Buffer,
    ) -> Result<()>;

    // --- backward ---------------------------------------------------------------------------------------------------

    /// `x[index[i]] = src[i]` for whole rows; `index` has no duplicates. Rows not named stay.
    fn scatter_rows(&mut self, src: Buffer, index: Buffer, width: usize, x: Buffer) -> Result<()>;

    /// Gradient of [`Backend::rmsnorm`] with frozen `w`: with ρ = 1/√(mean(x²)+eps), x̂ = x·ρ, g = dy∘w,
    /// `dx = ρ·(g − x̂·mean(g∘x̂)) (+ add)`. `add` act [T, H] may be `dx` itself; `dx` may be `dy`.
    fn rmsnorm_backward(
        &mut self,
        x: Buffer,
        w: Buffer,
        eps: f32,
        dy: Buffer,
        add: Option<Buffer>,
        dx: Buffer,
    ) -> Result<()>;

    /// Each part's `v = scale·dy·B`, `dB += scale·dyᵀ·u`, `dA += vᵀ·drop(z)`. `z` act [T, k], `dy` act [T, n] of the
    /// whole fused layer (`n` columns); a part sees its columns.
    fn lora_backward(
        &mut self,
        z: Buffer,
        k: usize,
        dy: Buffer,
        n: usize,
        rows: &Rows,
        parts: &[LoraPart],
        drop: Option<Dropout>,
    ) -> Result<()>;

    /// `dz = dy·W + Σ drop'(v·A)`; the parts' `v` are ready. `dy` act [T, n], `dz` act [T, k].
    fn linear_backward(
        &mut self,
        dy: Buffer,
        w: &Weight,
        rows: &Rows,
        parts: &[LoraPart],
        drop: Option<Dropout>,
        dz: Buffer,
    ) -> Result<()>;

    /// Gradient of [`Backend::swiglu`]: with σ = 1/(1+e⁻ᵍ), `dg = ds∘u∘σ∘(1 + g∘(1−σ))`, `du = ds∘g∘σ`,
    /// written over `gu` act [T, 2F]. `ds` act [T, F].
    fn swiglu_backward(&mut self, gu: Buffer, f: usize, ds: Buffer) -> Result<()>;

    /// Gradient of [`Backend::attention`]: dq, dk into `dqk` act [T, (Hq+Hk)·D] and dv into its columns of `dqkv`
    /// act [T, (Hq+2Hk)·D]. `do_` act [T, Hq·D].
    fn attention_backward(
        &mut self,
        qk: Buffer,
        qkv: Buffer,
        o: Buffer,
        lse: Buffer,
        do_: Buffer,
        rows: &Rows,
        heads: Heads,
        dqk: Buffer,
        dqkv: Buffer,
    ) -> Result<()>;

    /// Gradient of [`Backend::headnorm_rope`] with frozen norm weights: `dqk` into the q and k columns of `dqkv`.
    fn headnorm_rope_backward(
        &mut self,
        qkv: Buffer,
        dqk: Buffer,
        rows: &Rows,
        p: &HeadNormRope,
        dqkv: Buffer,
    ) -> Result<()>;

    // --- optimizer --------------------------------------------------------------------------------------------------

    /// `norm[0] = √Σ g²` over all of `grad` F32, in a fixed order. PyTorch: `clip_grad_norm_`'s total norm.
    fn global_norm(&mut self, grad: Buffer, norm: Buffer) -> Result<()>;

    /// One AdamW update over flat F32 buffers of equal length, with `working` (act) set to the new weights.
    /// `working` may be `master` itself. If `norm[0]` is not finite nothing is written.
    fn adamw(
        &mut self,
        p: &AdamW,
        norm: Buffer,
        grad: Buffer,
        m: Buffer,
        v: Buffer,
        master: Buffer,
        working: Buffer,
    ) -> Result<()>;

    // --- generation -------------------------------------------------------------------------------------------------

    /// Stores the keys (from `qk`) and values (from `qkv`) of row t in slot `slots[t]` at `rows.positions[t]`.
    /// `slots` `U32 [T]`.
    fn kv_store(
        &mut self,
        qk: Buffer,
        qkv: Buffer,
        rows: &Rows,
        slots: Buffer,
        heads: Heads,
        cache: &KvCache,
    ) -> Result<()>;

    /// Attention of one new row per sequence over the cache, which holds the row's own key and value already:
    /// row t looks at positions 0..=`rows.positions[t]` of slot `slots[t]`. `o` act [T, Hq·D].
    fn attention_cached(
        &mut self,
        qk: Buffer,
        rows: &Rows,
        slots: Buffer,
        heads: Heads,
        cache: &KvCache,
        o: Buffer,
    ) -> Result<()>;
}
