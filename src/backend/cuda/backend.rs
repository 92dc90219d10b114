//! [`Backend`] over a [`Driver`]: every operation is one launch or a few, queued in one stream.
//!
//! # Design
//! - One arena is taken at the plan's size; operations compute addresses in it and queue launches. Nothing is allocated
//!   and nothing waits but [`Backend::read`] (and taking times): the host runs ahead of the device for a whole step.
//! - No CUDA graphs: a micro-batch is some 2,400 launches, which take the host a small part of the time that the device takes
//!   for them.
//! - Uploads go through the driver's pinned staging memory, in the stream's order.
//! - Types, lengths and the arena's bounds are checked at each operation, as on the CPU. That outputs overlap no input is
//!   not checked here: it is the graph's business, and the CPU backend checks it for the same calls.

use super::{
    access::{Access, Arena, Region},
    attention::{self, BackwardBuffers},
    driver::{Attributes, Driver, Event, Stream},
    launch::{Address, Args, Launch},
    linear::{self, Chip, Direction, DropoutArgs, Linear, PARTS, Part, Stored},
    measure::{self, Peaks},
    modules::MODULES,
    rows::{self, Elements, OptimizerBuffers},
    sizes::{CudaSizes, LOAD_CHUNK, Nf4Path},
    skinny::{self, Skinny, SkinnyPart},
};
use crate::{
    Error, Result,
    backend::{
        AdamW, Backend, Buffer, DType, Heads, HostTensor, KvCache, LoraPart, Op, OperationTime, Rows, Sizes, Space,
        Weight, WeightStore,
        check::{self, Extent},
        ops::{Mask, Rotary},
    },
    quant::nf4,
    rng::Bell,
    tensor::Floats,
};
use bytemuck::Zeroable;

/// The CUDA backend.
pub struct CudaBackend {
    driver: Box<dyn Driver>,
    chip: Chip,
    sizes: CudaSizes,
    arena: Arena,
    profile: Option<Profile>,
}

/// Events around the operations since times were last taken.
#[derive(Debug, Default)]
struct Profile {
    spans: Vec<(&'static str, Event, Event)>,
    free: Vec<Event>,
}

impl CudaBackend {
    /// A backend over a device; loads the kernels.
    ///
    /// # Errors
    /// If the program was built without kernels, or the device does not take them.
    pub fn new(mut driver: Box<dyn Driver>, sizes: CudaSizes) -> Result<Self> {
        if MODULES.is_empty() {
            return Err(Error::failed(
                "this irori was built without CUDA kernels (no nvcc was found); build it with nvcc, or use --device cpu",
            ));
        }
        for module in MODULES {
            driver.load(module)?;
        }
        let a = driver.attributes();
        let chip = Chip { sms: a.sms, shared_per_block: a.shared_per_block, shared_per_sm: a.shared_per_sm };
        let arena = Arena { device: Region::default(), host: Region::default(), scratch: Buffer::empty(DType::U8) };
        Ok(Self { driver, chip, sizes, arena, profile: None })
    }

    /// What is fixed about the device.
    pub fn attributes(&self) -> &Attributes {
        self.driver.attributes()
    }

    /// Bytes of device memory that are free now.
    ///
    /// # Errors
    /// If the device does not say.
    pub fn free_memory(&self) -> Result<u64> {
        self.driver.free_memory()
    }

    /// What the device can do at most, measured; before the arena is taken.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(&mut self) -> Result<Peaks> {
        measure::peaks(self.driver.as_mut(), measure::ROUNDS)
    }

    /// Queues what `f` makes of the arena, as one operation.
    fn queue<L: IntoIterator<Item = Launch>>(
        &mut self,
        operation: &'static str,
        f: impl FnOnce(&Access) -> Result<L>,
    ) -> Result<()> {
        let launches = f(&Access { operation, arena: self.arena })?;
        let from = self.mark()?;
        for launch in launches {
            self.driver.launch(&launch, Stream::MAIN).map_err(|e| e.context(operation))?;
        }
        self.span(operation, from)
    }

    /// An event here, if times are taken.
    fn mark(&mut self) -> Result<Option<Event>> {
        let Some(profile) = &mut self.profile else { return Ok(None) };
        let event = match profile.free.pop() {
            Some(event) => event,
            None => self.driver.event()?,
        };
        self.driver.record(event, Stream::MAIN)?;
        Ok(Some(event))
    }

    /// The operation that began at `from` ends here.
    fn span(&mut self, operation: &'static str, from: Option<Event>) -> Result<()> {
        let to = self.mark()?;
        if let (Some(profile), Some(from), Some(to)) = (&mut self.profile, from, to) {
            profile.spans.push((operation, from, to));
        }
        Ok(())
    }

    fn access(&self, operation: &'static str) -> Access {
        Access { operation, arena: self.arena }
    }

    /// The launches of a linear product over `p`.
    fn product(&self, m: &Access, direction: Direction, stored: Stored, p: &Linear) -> Result<Vec<Launch>> {
        let (rows, columns, depth) = (p.rows as usize, p.columns as usize, p.depth as usize);
        let spans = linear::choose(&self.chip, stored, direction, rows, columns, depth)
            .ok_or_else(|| m.error(format!("no tile fits {} bytes of shared memory", self.chip.shared_per_block)))?;
        Ok(spans.launches.iter().map(|span| span.launch(p)).collect())
    }

    /// Dequantises `w` to scratch where the path says so: what is then multiplied, and the launch that comes first.
    fn unpacked(
        &self,
        m: &Access,
        w: &Weight,
        (packed, absmax, stored): (Address, Address, Stored),
    ) -> Result<(Address, Address, Stored, Option<Launch>)> {
        if stored == Stored::Dense || self.sizes.nf4 == Nf4Path::Fused {
            return Ok((packed, absmax, stored, None));
        }
        let len = w.n * w.k;
        let dense = m.scratch(len * DType::Bf16.size())?;
        Ok((dense, 0, Stored::Dense, Some(rows::nf4_dequantize(len, packed, absmax, dense))))
    }

    /// Bytes to the device, in the stream's order.
    fn upload(&mut self, dst: Address, data: &[u8]) -> Result<()> {
        self.driver.write(dst, data, Stream::MAIN)
    }

    /// Sends a tensor in chunks through scratch: `each` makes the launch for elements `start..start + len`, of the type it
    /// is given, at the address it is given. Chunks are whole blocks of NF4. f16 becomes f32 on the way.
    fn through_scratch(
        &mut self,
        operation: &'static str,
        src: HostTensor,
        each: impl Fn(usize, usize, Elements, Address) -> Launch,
    ) -> Result<()> {
        let from = src.floats()?;
        let scratch = self.access(operation).scratch(LOAD_CHUNK)?;
        let (elements, size) = match from {
            Floats::Bf16(_) => (Elements::Bf16, 2),
            Floats::F32(_) | Floats::F16(_) => (Elements::F32, 4),
        };
        let step = LOAD_CHUNK / size;
        let mut widened = Vec::new();
        for start in (0..from.len()).step_by(step) {
            let len = step.min(from.len() - start);
            match from {
                Floats::Bf16(bytes) | Floats::F32(bytes) => {
                    self.upload(scratch, &bytes[start * size..(start + len) * size])?;
                }
                Floats::F16(_) => {
                    widened.resize(len, 0.0f32);
                    from.read(start, &mut widened);
                    self.upload(scratch, bytemuck::cast_slice(&widened))?;
                }
            }
            self.queue(operation, |_| Ok([each(start, len, elements, scratch)]))?;
        }
        Ok(())
    }
}

impl Backend for CudaBackend {
    fn sizes(&self) -> &dyn Sizes {
        &self.sizes
    }

    fn describe(&self) -> String {
        let a = self.driver.attributes();
        format!("{}, sm_{}, {} SMs, {:.1} GiB", a.name, a.capability, a.sms, a.memory as f64 / (1u64 << 30) as f64)
    }

    fn measure_times(&mut self, on: bool) {
        self.profile = on.then(Profile::default);
    }

    fn take_times(&mut self) -> Result<Vec<OperationTime>> {
        let Some(profile) = &mut self.profile else { return Ok(Vec::new()) };
        let mut times: Vec<OperationTime> = Vec::new();
        for (operation, from, to) in std::mem::take(&mut profile.spans) {
            let seconds = f64::from(self.driver.elapsed_ms(from, to)?) * 1e-3;
            profile.free.extend([from, to]);
            match times.iter_mut().find(|t| t.operation == operation) {
                Some(t) => (t.calls, t.seconds) = (t.calls + 1, t.seconds + seconds),
                None => times.push(OperationTime { operation, calls: 1, seconds }),
            }
        }
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }

    fn allocate(&mut self, bytes: usize, host_bytes: usize, scratch: Buffer) -> Result<()> {
        if self.arena.device.bytes > 0 {
            return Err(Error::failed("the arena has been taken already"));
        }
        if scratch.range().end > bytes {
            return Err(Error::failed(format!("scratch ends at byte {} of an arena of {bytes}", scratch.range().end)));
        }
        let device = Region { base: self.driver.alloc(bytes)?, bytes };
        let base = if host_bytes > 0 { self.driver.alloc_pinned(host_bytes)? } else { 0 };
        self.arena = Arena { device, host: Region { base, bytes: host_bytes }, scratch };
        Ok(())
    }

    fn write(&mut self, dst: Buffer, data: &[u8]) -> Result<()> {
        let m = self.access("write");
        if data.len() > dst.bytes() {
            return Err(m.error(format!("{} bytes into a buffer of {}", data.len(), dst.bytes())));
        }
        self.upload(m.raw("dst", dst)?, data)
    }

    fn read(&mut self, src: Buffer) -> Result<Vec<u8>> {
        let at = self.access("read").raw("src", src)?;
        let mut out = vec![0; src.bytes()];
        self.driver.read(at, &mut out, Stream::MAIN)?;
        Ok(out)
    }

    fn run(&mut self, op: &Op) -> Result<()> {
        check::check(op, DType::Bf16, &self.extent())?;
        match op {
            Op::Zero(o) => self.zero(o.dst),
            Op::Copy(o) => self.copy(o.src, o.dst),
            Op::Convert(o) => self.convert(o.src, o.dst),
            Op::LoadDense(o) => self.load_dense(o.src, o.dst),
            Op::MakeDense(o) => self.make_dense(&o.bell, o.dst),
            Op::LoadNf4(o) => self.load_nf4(o.src, o.packed, o.absmax),
            Op::MakeNf4(o) => self.make_nf4(&o.bell, o.packed, o.absmax),
            Op::Dequantize(o) => self.dequantize(&o.w, o.dst),
            Op::Embed(o) => self.embed(o.table, &o.rows, o.out),
            Op::GatherRows(o) => self.gather_rows(o.x, o.index, o.width, o.out),
            Op::ScatterRows(o) => self.scatter_rows(o.src, o.index, o.width, o.x),
            Op::RmsNorm(o) => self.rmsnorm(o.x, o.w, o.eps, o.y),
            Op::RmsNormBackward(o) => self.rmsnorm_backward(o.x, o.w, o.eps, o.dy, o.add, o.dx),
            Op::HeadNormRope(o) => self.headnorm_rope(o.qkv, &o.rows, &o.rotary, o.qk),
            Op::HeadNormRopeBackward(o) => self.headnorm_rope_backward(o.qkv, o.dqk, &o.rows, &o.rotary, o.dqkv),
            Op::SwiGlu(o) => self.swiglu(o.gu, o.width, o.s),
            Op::SwiGluBackward(o) => self.swiglu_backward(o.gu, o.width, o.ds),
            Op::Linear(o) => self.linear(o.z, &o.w, &o.parts, o.add, o.y),
            Op::LinearBackward(o) => self.linear_backward(o.dy, &o.w, o.rows(), &o.parts, o.mask, o.dz),
            Op::LoraDown(o) => self.lora_down(o.z, o.k, o.rows(), &o.parts, o.mask),
            Op::LoraBackward(o) => self.lora_backward(o.z, o.k, o.dy, o.n, o.rows(), &o.parts, o.mask),
            Op::Attention(o) => self.attention(o.qk, o.qkv, &o.rows, o.heads, o.o, o.lse),
            Op::AttentionBackward(o) => {
                self.attention_backward(o.qk, o.qkv, o.o, o.lse, o.do_, &o.rows, o.heads, o.dqk, o.dqkv)
            }
            Op::KvStore(o) => self.kv_store(o.qk, o.qkv, &o.rows, o.slots, o.heads, &o.cache),
            Op::AttentionCached(o) => self.attention_cached(o.qk, &o.rows, o.slots, o.heads, &o.cache, o.o),
            Op::LogSoftmaxAt(o) => self.log_softmax_at(o.logits, o.vocab, o.ids, o.c, o.out),
            Op::Argmax(o) => self.argmax(o.logits, o.vocab, o.out),
            Op::CrossEntropy(o) => self.cross_entropy(o.logits, o.vocab, o.targets, o.grad_scale, o.loss),
            Op::GlobalNorm(o) => self.global_norm(o.grad, o.norm),
            Op::AdamWUpdate(o) => self.adamw(&o.adamw, o.norm, o.grad, o.m, o.v, o.master, o.working),
        }
    }
}

#[allow(clippy::too_many_arguments)]
impl CudaBackend {
    fn extent(&self) -> Extent {
        let Arena { device, host, scratch } = &self.arena;
        Extent { device: device.bytes, host: host.bytes, scratch: scratch.range() }
    }

    fn zero(&mut self, dst: Buffer) -> Result<()> {
        let at = self.access("zero").raw("dst", dst)?;
        self.driver.zero(at, dst.bytes(), Stream::MAIN)
    }

    fn copy(&mut self, src: Buffer, dst: Buffer) -> Result<()> {
        let m = self.access("copy");
        if (src.dtype(), src.len()) != (dst.dtype(), dst.len()) {
            return Err(m.error(format!("{} {:?} to {} {:?}", src.len(), src.dtype(), dst.len(), dst.dtype())));
        }
        self.driver.copy(m.raw("src", src)?, m.raw("dst", dst)?, src.bytes(), Stream::MAIN)
    }

    fn convert(&mut self, src: Buffer, dst: Buffer) -> Result<()> {
        if dst.dtype() == DType::F32 {
            return if src == dst { Ok(()) } else { self.copy(src, dst) };
        }
        self.queue("convert", |m| {
            let len = src.len();
            Ok([rows::convert(len, m.f32("src", src, len)?, m.act("dst", dst, len)?)])
        })
    }

    fn load_dense(&mut self, src: HostTensor, dst: Buffer) -> Result<()> {
        let m = self.access("load_dense");
        let from = src.floats()?;
        let at = m.exact("dst", dst, dst.dtype(), from.len())?;
        match (from, dst.dtype()) {
            (Floats::Bf16(bytes), DType::Bf16) | (Floats::F32(bytes), DType::F32) => self.upload(at, bytes),
            // Norm weights: a few thousand elements.
            (_, DType::F32) => {
                let mut widened = vec![0.0f32; from.len()];
                from.read(0, &mut widened);
                self.upload(at, bytemuck::cast_slice(&widened))
            }
            (_, DType::Bf16) => self.through_scratch("load_dense", src, |start, len, _, scratch| {
                rows::convert(len, scratch, at + 2 * start as u64)
            }),
            (_, other) => Err(m.error(format!("dst is {other:?}, expected F32 or Bf16"))),
        }
    }

    fn load_nf4(&mut self, src: HostTensor, packed: Buffer, absmax: Buffer) -> Result<()> {
        let m = self.access("load_nf4");
        let len = src.floats()?.len();
        if !len.is_multiple_of(nf4::BLOCK) {
            return Err(m.error(format!("{len} elements are not whole blocks of {}", nf4::BLOCK)));
        }
        let packed = m.exact("packed", packed, DType::U8, len / 2)?;
        let absmax = m.f32("absmax", absmax, len / nf4::BLOCK)?;
        self.through_scratch("load_nf4", src, |start, len, elements, scratch| {
            let (packed, absmax) = (packed + start as u64 / 2, absmax + start as u64 / 16);
            rows::nf4_quantize(len, elements, scratch, packed, absmax)
        })
    }

    fn make_dense(&mut self, bell: &Bell, dst: Buffer) -> Result<()> {
        let len = dst.len();
        if dst.space() == Space::Host || !len.is_multiple_of(8) || dst.dtype() != DType::Bf16 {
            // The embedding in host memory: made by the host, which is where it goes.
            let elements = bell.elements(len);
            return self.load_dense(HostTensor { dtype: DType::Bf16, bytes: bytemuck::cast_slice(&elements) }, dst);
        }
        self.queue("make_dense", |m| Ok([rows::bell(bell, 0, len, m.act("dst", dst, len)?)]))
    }

    fn make_nf4(&mut self, bell: &Bell, packed: Buffer, absmax: Buffer) -> Result<()> {
        let len = 2 * packed.len();
        let step = LOAD_CHUNK / DType::Bf16.size();
        self.queue("make_nf4", |m| {
            if !len.is_multiple_of(nf4::BLOCK) {
                return Err(m.error(format!("{len} elements are not whole blocks of {}", nf4::BLOCK)));
            }
            let (packed, absmax) =
                (m.exact("packed", packed, DType::U8, len / 2)?, m.f32("absmax", absmax, len / nf4::BLOCK)?);
            let scratch = m.scratch(LOAD_CHUNK)?;
            let chunks = (0..len).step_by(step).flat_map(move |start| {
                let count = step.min(len - start);
                let (packed, absmax) = (packed + start as u64 / 2, absmax + start as u64 / 16);
                [
                    rows::bell(bell, start, count, scratch),
                    rows::nf4_quantize(count, Elements::Bf16, scratch, packed, absmax),
                ]
            });
            Ok(chunks.collect::<Vec<_>>())
        })
    }

    fn dequantize(&mut self, w: &Weight, dst: Buffer) -> Result<()> {
        if let WeightStore::Dense(b) = w.store {
            return self.copy(b, dst);
        }
        self.queue("dequantize", |m| {
            let (packed, absmax, _) = m.weight(w)?;
            Ok([rows::nf4_dequantize(w.n * w.k, packed, absmax, m.act("dst", dst, w.n * w.k)?)])
        })
    }

    fn embed(&mut self, table: Buffer, rows: &Rows, out: Buffer) -> Result<()> {
        self.queue("embed", |m| {
            if rows.count == 0 {
                return Err(m.error("no rows"));
            }
            let width = out.len() / rows.count;
            let table = m.at_least("table", table, DType::Bf16, width)?;
            let tokens = m.u32("tokens", rows.tokens, rows.count)?;
            Ok([rows::gather_rows(rows.count, width, table, tokens, m.act("out", out, rows.count * width)?)])
        })
    }

    fn rmsnorm(&mut self, x: Buffer, w: Buffer, eps: f32, y: Buffer) -> Result<()> {
        self.queue("rmsnorm", |m| {
            let hidden = w.len();
            let rows = m.rows_of("x", x, hidden)?;
            let len = rows * hidden;
            Ok([rows::rmsnorm(rows, hidden, m.act("x", x, len)?, m.f32("w", w, hidden)?, eps, m.act("y", y, len)?)])
        })
    }

    fn lora_down(&mut self, z: Buffer, k: usize, rows: usize, parts: &[LoraPart], mask: Option<Mask>) -> Result<()> {
        self.queue("lora_down", |m| {
            let Some(first) = checked_parts(m, parts)? else { return Ok(None) };
            let mut p = skinny_of(m, z, k, rows, parts.len(), mask)?;
            for (to, part) in p.part.iter_mut().zip(parts) {
                *to = down_part(m, part, k, rows, p.drop.scale)?;
            }
            let launch = skinny::project(true, parts.len(), first.r, rows);
            Ok(Some(launch.with(Args::new().with(p))))
        })
    }

    fn linear(&mut self, z: Buffer, w: &Weight, parts: &[LoraPart], add: Option<Buffer>, y: Buffer) -> Result<()> {
        let m = self.access("linear");
        checked_parts(&m, parts)?;
        let rows = m.rows_of("z", z, w.k)?;
        let thin = rows <= skinny::THIN_ROWS;
        let weight = m.weight(w)?;
        let (at, absmax, stored, before) =
            if thin { (weight.0, weight.1, weight.2, None) } else { self.unpacked(&m, w, weight)? };
        let mut part = [Part::zeroed(); PARTS];
        for (to, p) in part.iter_mut().zip(parts) {
            *to = Part {
                left: m.act("u", p.u, rows * p.r)?,
                right: m.act("B", p.b, p.out.len() * p.r)?,
                start: p.out.start as i32,
                end: p.out.end as i32,
                rank: p.r as i32,
                module: p.module,
                scale: p.scale,
                ..Part::zeroed()
            };
        }
        let p = Linear {
            x: m.act("z", z, rows * w.k)?,
            w: at,
            absmax,
            add: m.act_or_none("add", add, rows * w.n)?,
            out: m.act("y", y, rows * w.n)?,
            rows: rows as i32,
            columns: w.n as i32,
            depth: w.k as i32,
            drop: DropoutArgs::new(None),
            parts: parts.len() as i32,
            part,
            ..Linear::zeroed()
        };
        let launches = if thin {
            vec![skinny::thin(stored == Stored::Packed, w.n).with(Args::new().with(p))]
        } else {
            self.product(&m, Direction::Forward, stored, &p)?
        };
        self.queue("linear", |_| Ok(before.into_iter().chain(launches)))
    }

    fn headnorm_rope(&mut self, qkv: Buffer, rows: &Rows, p: &Rotary, qk: Buffer) -> Result<()> {
        self.queue("headnorm_rope", |m| {
            let qkv = m.act("qkv", qkv, rows.count * p.heads.qkv_width())?;
            Ok([rows::headnorm_rope(&m.rope(rows, p)?, qkv, m.act("qk", qk, rows.count * p.heads.qk_width())?)])
        })
    }

    fn attention(&mut self, qk: Buffer, qkv: Buffer, rows: &Rows, heads: Heads, o: Buffer, lse: Buffer) -> Result<()> {
        self.queue("attention", |m| {
            let t = rows.count;
            Ok([attention::forward(
                &m.documents(rows)?,
                heads,
                m.act("qk", qk, t * heads.qk_width())?,
                m.act("qkv", qkv, t * heads.qkv_width())?,
                m.act("o", o, t * heads.q_width())?,
                m.f32("lse", lse, t * heads.q)?,
            )])
        })
    }

    fn swiglu(&mut self, gu: Buffer, f: usize, s: Buffer) -> Result<()> {
        self.queue("swiglu", |m| {
            let rows = m.rows_of("s", s, f)?;
            Ok([rows::swiglu(rows, f, m.act("gu", gu, 2 * rows * f)?, m.act("s", s, rows * f)?)])
        })
    }

    fn gather_rows(&mut self, x: Buffer, index: Buffer, width: usize, out: Buffer) -> Result<()> {
        self.queue("gather_rows", |m| {
            let count = index.len();
            let x = m.at_least("x", x, DType::Bf16, width)?;
            let index = m.u32("index", index, count)?;
            Ok([rows::gather_rows(count, width, x, index, m.act("out", out, count * width)?)])
        })
    }

    fn log_softmax_at(&mut self, logits: Buffer, vocab: usize, ids: Buffer, c: usize, out: Buffer) -> Result<()> {
        self.queue("log_softmax_at", |m| {
            let rows = m.rows_of("logits", logits, vocab)?;
            let (logits, ids) = (m.act("logits", logits, rows * vocab)?, m.u32("ids", ids, rows * c)?);
            Ok([rows::log_softmax_at(rows, vocab, logits, ids, c, m.f32("out", out, rows * c)?)])
        })
    }

    fn argmax(&mut self, logits: Buffer, vocab: usize, out: Buffer) -> Result<()> {
        self.queue("argmax", |m| {
            let rows = m.rows_of("logits", logits, vocab)?;
            Ok([rows::argmax(rows, vocab, m.act("logits", logits, rows * vocab)?, m.u32("out", out, rows)?)])
        })
    }

    fn cross_entropy(
        &mut self,
        logits: Buffer,
        vocab: usize,
        targets: Buffer,
        grad_scale: f32,
        loss: Buffer,
    ) -> Result<()> {
        self.queue("cross_entropy", |m| {
            let rows = m.rows_of("logits", logits, vocab)?;
            let (logits, targets) = (m.act("logits", logits, rows * vocab)?, m.u32("targets", targets, rows)?);
            let nll = m.scratch(rows * DType::F32.size())?;
            Ok(rows::cross_entropy(rows, vocab, logits, targets, grad_scale, nll, m.f32("loss", loss, 1)?))
        })
    }

    fn scatter_rows(&mut self, src: Buffer, index: Buffer, width: usize, x: Buffer) -> Result<()> {
        self.queue("scatter_rows", |m| {
            let count = index.len();
            let src = m.act("src", src, count * width)?;
            let index = m.u32("index", index, count)?;
            Ok([rows::scatter_rows(count, width, src, index, m.at_least("x", x, DType::Bf16, width)?)])
        })
    }

    fn rmsnorm_backward(
        &mut self,
        x: Buffer,
        w: Buffer,
        eps: f32,
        dy: Buffer,
        add: Option<Buffer>,
        dx: Buffer,
    ) -> Result<()> {
        self.queue("rmsnorm_backward", |m| {
            let hidden = w.len();
            let rows = m.rows_of("x", x, hidden)?;
            let len = rows * hidden;
            let (x, w, dy) = (m.act("x", x, len)?, m.f32("w", w, hidden)?, m.act("dy", dy, len)?);
            let (add, dx) = (m.act_or_none("add", add, len)?, m.act("dx", dx, len)?);
            Ok([rows::rmsnorm_backward(rows, hidden, x, w, eps, dy, add, dx)])
        })
    }

    fn lora_backward(
        &mut self,
        z: Buffer,
        k: usize,
        dy: Buffer,
        n: usize,
        rows: usize,
        parts: &[LoraPart],
        mask: Option<Mask>,
    ) -> Result<()> {
        self.queue("lora_backward", |m| {
            let Some(first) = checked_parts(m, parts)? else { return Ok(Vec::new()) };
            let (t, r, count) = (rows, first.r, parts.len());
            let mut launches = Vec::with_capacity(3 + 3 * count);

            // v = scale·dy·B needs Bᵀ, in scratch.
            let widths: usize = parts.iter().map(|p| p.out.len()).sum();
            let mut transposed = m.scratch(widths * r * DType::Bf16.size())?;
            let mut up = Skinny { pitch: n as i32, ..skinny_of(m, dy, n, rows, count, None)? };
            for (to, p) in up.part.iter_mut().zip(parts) {
                let width = p.out.len();
                let b = m.act("B", p.b, width * r)?;
                let args = Args::new().with(b).with(width as i32).with(r as i32).with(transposed);
                launches.push(skinny::transpose(r, width).with(args));
                *to = SkinnyPart {
                    narrow: m.act("v", p.v, t * r)?,
                    wide: transposed,
                    column: p.out.start as i32,
                    depth: width as i32,
                    rank: r as i32,
                    module: p.module,
                    scale: p.scale,
                    ..SkinnyPart::zeroed()
                };
                transposed += (width * r * DType::Bf16.size()) as u64;
            }
            launches.push(skinny::project(false, count, r, t).with(Args::new().with(up)));

            // Partial sums take the place of Bᵀ: first those of dA from v and z, then those of dB from u and dy.
            let mut da = skinny_of(m, z, k, rows, count, mask)?;
            let floats = |depth: usize| skinny::partial_len(t, r, depth);
            let mut partial = m.scratch(count * floats(k) * DType::F32.size())?;
            for ((to, p), v) in da.part.iter_mut().zip(parts).zip(&up.part) {
                *to = SkinnyPart { narrow: v.narrow, partial, ..down_part(m, p, k, t, da.drop.scale)? };
                partial += (floats(k) * DType::F32.size()) as u64;
            }
            launches.push(skinny::gradient(true, count, r, t, k).with(Args::new().with(da)));
            let splits = t.div_ceil(skinny::SPLIT_ROWS) as i32;
            let reduce = |transposed: bool, p: &SkinnyPart, to: Address| {
                let args = Args::new().with(p.partial).with(to).with(splits).with(p.rank).with(p.depth).with(p.scale);
                skinny::reduce(transposed, p.rank as usize, p.depth as usize).with(args)
            };
            for (p, from) in parts.iter().zip(&da.part) {
                launches.push(reduce(false, from, m.f32("dA", p.da, r * k)?));
            }
            let mut db = up;
            let mut partial = m.scratch(floats(widths) * DType::F32.size())?;
            for (to, p) in db.part.iter_mut().zip(parts) {
                (to.narrow, to.partial) = (m.act("u", p.u, t * r)?, partial);
                partial += (floats(p.out.len()) * DType::F32.size()) as u64;
            }
            let widest = parts.iter().map(|p| p.out.len()).max().unwrap_or(0);
            launches.push(skinny::gradient(false, count, r, t, widest).with(Args::new().with(db)));
            for (p, from) in parts.iter().zip(&db.part) {
                launches.push(reduce(true, from, m.f32("dB", p.db, p.out.len() * r)?));
            }
            Ok(launches)
        })
    }

    fn linear_backward(
        &mut self,
        dy: Buffer,
        w: &Weight,
        rows: usize,
        parts: &[LoraPart],
        mask: Option<Mask>,
        dz: Buffer,
    ) -> Result<()> {
        let m = self.access("linear_backward");
        checked_parts(&m, parts)?;
        let t = rows;
        let (at, absmax, stored, before) = self.unpacked(&m, w, m.weight(w)?)?;
        let mut part = [Part::zeroed(); PARTS];
        for (to, p) in part.iter_mut().zip(parts) {
            *to = Part {
                left: m.act("v", p.v, t * p.r)?,
                right: m.act("A", p.a, p.r * w.k)?,
                rank: p.r as i32,
                module: p.module,
                ..Part::zeroed()
            };
        }
        let mask = mask.filter(|_| !parts.is_empty());
        let (samples, positions) = m.places(rows, mask)?;
        let p = Linear {
            x: m.act("dy", dy, t * w.n)?,
            w: at,
            absmax,
            out: m.act("dz", dz, t * w.k)?,
            samples,
            positions,
            rows: t as i32,
            columns: w.k as i32,
            depth: w.n as i32,
            drop: DropoutArgs::new(mask.map(|m| m.dropout)),
            parts: parts.len() as i32,
            part,
            ..Linear::zeroed()
        };
        let launches = self.product(&m, Direction::Backward, stored, &p)?;
        self.queue("linear_backward", |_| Ok(before.into_iter().chain(launches)))
    }

    fn swiglu_backward(&mut self, gu: Buffer, f: usize, ds: Buffer) -> Result<()> {
        self.queue("swiglu_backward", |m| {
            let rows = m.rows_of("ds", ds, f)?;
            Ok([rows::swiglu_backward(rows, f, m.act("gu", gu, 2 * rows * f)?, m.act("ds", ds, rows * f)?)])
        })
    }

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
    ) -> Result<()> {
        self.queue("attention_backward", |m| {
            let t = rows.count;
            let b = BackwardBuffers {
                qk: m.act("qk", qk, t * heads.qk_width())?,
                qkv: m.act("qkv", qkv, t * heads.qkv_width())?,
                o: m.act("o", o, t * heads.q_width())?,
                lse: m.f32("lse", lse, t * heads.q)?,
                d_o: m.act("do", do_, t * heads.q_width())?,
                dqk: m.act("dqk", dqk, t * heads.qk_width())?,
                dqkv: m.act("dqkv", dqkv, t * heads.qkv_width())?,
                stats: m.scratch(attention::backward_scratch(t, heads))?,
            };
            Ok(attention::backward(&m.documents(rows)?, heads, &b))
        })
    }

    fn headnorm_rope_backward(
        &mut self,
        qkv: Buffer,
        dqk: Buffer,
        rows: &Rows,
        p: &Rotary,
        dqkv: Buffer,
    ) -> Result<()> {
        self.queue("headnorm_rope_backward", |m| {
            let (wide, narrow) = (rows.count * p.heads.qkv_width(), rows.count * p.heads.qk_width());
            let (qkv, dqk) = (m.act("qkv", qkv, wide)?, m.act("dqk", dqk, narrow)?);
            Ok([rows::headnorm_rope_backward(&m.rope(rows, p)?, qkv, dqk, m.act("dqkv", dqkv, wide)?)])
        })
    }

    fn global_norm(&mut self, grad: Buffer, norm: Buffer) -> Result<()> {
        self.queue("global_norm", |m| {
            let len = grad.len();
            let partial = m.scratch(rows::global_norm_scratch(len))?;
            Ok(rows::global_norm(len, m.f32("grad", grad, len)?, partial, m.f32("norm", norm, 1)?))
        })
    }

    fn adamw(
        &mut self,
        p: &AdamW,
        norm: Buffer,
        grad: Buffer,
        m: Buffer,
        v: Buffer,
        master: Buffer,
        working: Buffer,
    ) -> Result<()> {
        self.queue("adamw", |access| {
            let len = grad.len();
            let b = OptimizerBuffers {
                norm: access.f32("norm", norm, 1)?,
                grad: access.f32("grad", grad, len)?,
                m: access.f32("m", m, len)?,
                v: access.f32("v", v, len)?,
                master: access.f32("master", master, len)?,
                working: access.act("working", working, len)?,
            };
            Ok([rows::adamw(p, len, &b)])
        })
    }

    fn kv_store(
        &mut self,
        qk: Buffer,
        qkv: Buffer,
        rows: &Rows,
        slots: Buffer,
        heads: Heads,
        cache: &KvCache,
    ) -> Result<()> {
        self.queue("kv_store", |m| {
            let qk = m.act("qk", qk, rows.count * heads.qk_width())?;
            let qkv = m.act("qkv", qkv, rows.count * heads.qkv_width())?;
            Ok([attention::kv_store(&m.step(rows, slots)?, heads, qk, qkv, m.cache(cache)?)])
        })
    }

    fn attention_cached(
        &mut self,
        qk: Buffer,
        rows: &Rows,
        slots: Buffer,
        heads: Heads,
        cache: &KvCache,
        o: Buffer,
    ) -> Result<()> {
        self.queue("attention_cached", |m| {
            let qk = m.act("qk", qk, rows.count * heads.qk_width())?;
            let o = m.act("o", o, rows.count * heads.q_width())?;
            let scratch = m.scratch(attention::cached_scratch(rows.count, heads, cache.capacity))?;
            Ok(attention::cached(&m.step(rows, slots)?, heads, qk, m.cache(cache)?, scratch, o))
        })
    }
}

/// The first of the parts of a fused linear, if there is one: at most [`PARTS`], all of one rank.
fn checked_parts<'a>(m: &Access, parts: &'a [LoraPart]) -> Result<Option<&'a LoraPart>> {
    if parts.len() > PARTS {
        return Err(m.error(format!("{} adapters in one linear, at most {PARTS}", parts.len())));
    }
    if parts.iter().any(|p| p.r != parts[0].r) {
        return Err(m.error("adapters of different ranks in one linear"));
    }
    Ok(parts.first())
}

/// Parameters of a skinny product over `x` act [T, width], its modules still missing.
fn skinny_of(m: &Access, x: Buffer, width: usize, rows: usize, parts: usize, mask: Option<Mask>) -> Result<Skinny> {
    let (samples, positions) = m.places(rows, mask)?;
    Ok(Skinny {
        x: m.act("x", x, rows * width)?,
        samples,
        positions,
        rows: rows as i32,
        pitch: width as i32,
        split: skinny::SPLIT_ROWS as i32,
        drop: DropoutArgs::new(mask.map(|m| m.dropout)),
        parts: parts as i32,
        ..Skinny::zeroed()
    })
}

/// A module that sees all columns of z: u = drop(z)·Aᵀ, and dA.
fn down_part(m: &Access, p: &LoraPart, k: usize, rows: usize, scale: f32) -> Result<SkinnyPart> {
    Ok(SkinnyPart {
        narrow: m.act("u", p.u, rows * p.r)?,
        wide: m.act("A", p.a, p.r * k)?,
        depth: k as i32,
        rank: p.r as i32,
        module: p.module,
        scale,
        ..SkinnyPart::zeroed()
    })
}
