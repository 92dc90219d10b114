//! The launches of whole passes, recorded without a device: how much scratch they take, and which memory they name.

use crate::{harness::SLICE, step};
use irori::{
    backend::{
        AdamW, Buffer, DType, HostTensor, Layout, Op, Properties, Space, WeightStore,
        check::{Extent, check},
        cuda::{
            CudaProperties, Nf4Path,
            command::Command,
            context::{Arena, Context},
            launch::Address,
            launches,
        },
        ops::{AttentionCached, Convert, Dequantize, KvStore, LoadDense, LoadNf4, MakeNf4, Operands},
    },
    model::{
        Module,
        engine::{Arrangement, BatchShape, EngineSpec, HeadStore, Residency, Saved, arrange, operations},
    },
    rng::NearNormal,
};

/// Everything at once: dropout, adapters on all linears, a head in NF4, generation, every kind of layer.
fn spec() -> EngineSpec {
    let base = step::spec(Some(step::lora(0.1, &Module::ALL)), true);
    let mut spec = EngineSpec { max_rows: 1600, max_len: 700, logit_rows: 300, kv_slots: 5, kv_capacity: 700, ..base };
    spec.model.vocab = 576;
    spec.model.layers = 3;
    spec.saved = vec![Saved::All, Saved::NoGateUp, Saved::InputOnly];
    spec.residency = vec![Residency::Nf4, Residency::Unpacked, Residency::Nf4];
    spec.dense_modules = vec![Vec::new(), Vec::new(), vec![Module::UpProj]];
    EngineSpec { head: HeadStore::Nf4, embedding: Space::Host, ..spec }
}

/// An engine that is laid out and never runs; its arena begins at addresses that are made up.
struct Paper {
    properties: CudaProperties,
    spec: EngineSpec,
    a: Arrangement,
    arena: Arena,
}

impl Paper {
    fn new(nf4: Nf4Path) -> Self {
        let (properties, spec) = (CudaProperties { nf4 }, spec());
        let a = arrange(&spec, &properties).unwrap();
        Self { properties, spec, a, arena: Arena { device: 0x7f00_0000_0000, host: 0x6f00_0000_0000 } }
    }

    /// The commands of an operation with this much scratch.
    fn commands<'a>(&self, op: &'a Op<'a>, scratch: Buffer) -> irori::Result<Vec<Command<'a>>> {
        let (device, host) = (self.a.layout.bytes(), self.a.layout.host_bytes());
        let checked = check(op, DType::Bf16, &Extent { device, host, scratch: scratch.range() })?;
        launches::of(
            &checked,
            &Context { chip: SLICE, address: &|b| self.arena.address(b), scratch, nf4: self.properties.nf4 },
        )
    }

    /// Every operation of a micro-batch of so many rows, of an update, of generation and of loading.
    fn each(&self, rows: usize, f: &mut dyn FnMut(&Op) -> irori::Result<()>) {
        let (a, max_len) = (&self.a, rows.min(self.spec.max_len));
        let shape = BatchShape { rows, docs: rows.div_ceil(max_len), max_len, targets: rows.div_ceil(2) };
        operations::micro_batch(&self.spec, a, shape, f).unwrap();
        let adapter = a.adapter.unwrap();
        operations::update(a, &adapter, AdamW::default(), f).unwrap();
        self.generation(rows.min(self.spec.kv_slots), f).unwrap();
        f(&Convert { src: adapter.master, dst: adapter.working }.into()).unwrap();
        self.loading(f).unwrap();
    }

    fn generation(&self, count: usize, f: &mut dyn FnMut(&Op) -> irori::Result<()>) -> irori::Result<()> {
        let (heads, work) = (self.spec.model.heads, &self.a.work);
        let rows = self.a.batch.rows(count, count, 1);
        let (slots, cache) = (self.a.batch.slots.prefix(count), self.a.cache[0]);
        let (qk, qkv) = (work.qk.prefix(count * heads.qk_width()), work.grad.dqkv.prefix(count * heads.qkv_width()));
        let o = work.grad.do_.prefix(count * heads.q_width());
        f(&KvStore { qk, qkv, rows, slots, heads, cache }.into())?;
        f(&AttentionCached { qk, rows, slots, heads, cache, o }.into())
    }

    /// A linear's weight, read and made, packed and unpacked.
    fn loading(&self, f: &mut dyn FnMut(&Op) -> irori::Result<()>) -> irori::Result<()> {
        let w = self.a.weights.layers[0].linears[0];
        let WeightStore::Nf4 { packed, absmax, .. } = w.store else { panic!("layer 0 is packed") };
        let dense = self.a.weights.layers[1].linears[0];
        let WeightStore::Dense(dst) = dense.store else { panic!("layer 1 is not") };
        let bytes = vec![0; 4 * w.n * w.k];
        let src = HostTensor { dtype: DType::F32, bytes: &bytes };
        f(&LoadNf4 { src, packed, absmax }.into())?;
        f(&MakeNf4 { recipe: NearNormal::new(1, 1.0), packed, absmax }.into())?;
        f(&LoadDense { src, dst }.into())?;
        f(&Dequantize { w, dst }.into())
    }
}

/// The properties are exact: a byte less is refused, and what was laid out for the most rows is enough for fewer.
#[test]
fn scratch_is_what_the_sizes_say() {
    let all = ["attention_backward", "attention_cached", "cross_entropy", "global_norm"];
    let fused = [&all[..], &["load_dense", "load_nf4", "lora_backward", "make_nf4"]].concat();
    assert_eq!(asking_for_scratch(Nf4Path::Fused), fused);
    let products = ["linear", "linear_backward", "load_dense", "load_nf4", "lora_backward", "make_nf4"];
    assert_eq!(asking_for_scratch(Nf4Path::Scratch), [&all[..], &products].concat());
}

/// The operations that need scratch, each held to what the properties say.
fn asking_for_scratch(nf4: Nf4Path) -> Vec<&'static str> {
    let paper = Paper::new(nf4);
    let mut asking = std::collections::BTreeSet::new();
    for rows in [1, 2, 8, 9, 17, 511, 512, 513, 1024, 1500, 1600] {
        paper.each(rows, &mut |op| {
            let need = paper.properties.scratch(op);
            let have = paper.a.scratch.bytes();
            assert!(need <= have, "{} of {rows} rows needs {need} bytes of scratch, {have} were laid out", op.name());
            paper.commands(op, paper.a.scratch.prefix(need))?;
            if need > 0 {
                let e =
                    paper.commands(op, paper.a.scratch.prefix(need - 1)).expect_err("a byte is missing").to_string();
                assert!(e.starts_with(op.name()) && e.contains("of scratch"), "{e}");
                asking.insert(op.name());
            }
            Ok(())
        });
    }
    asking.into_iter().collect()
}

/// Every address in a launch's arguments lies in an operand that the operation has declared, or in scratch.
#[test]
fn launches_name_no_memory_but_what_is_declared() {
    for nf4 in [Nf4Path::Fused, Nf4Path::Scratch] {
        let named = addresses_named(&Paper::new(nf4));
        assert!(named > 1000, "{named} addresses were found");
    }
}

fn addresses_named(paper: &Paper) -> usize {
    let mut named = 0;
    for rows in [5, 1600] {
        paper.each(rows, &mut |op| {
            let mut operands = Operands::new(DType::Bf16);
            op.as_operation().operands(&mut operands).unwrap();
            let scratch = paper.a.scratch.prefix(paper.properties.scratch(op));
            let places: Vec<(Address, usize)> = operands
                .list()
                .iter()
                .map(|o| o.buffer)
                .chain([scratch])
                .map(|b| (paper.arena.address(b), b.bytes()))
                .collect();
            for command in paper.commands(op, scratch)? {
                let Command::Launch(l) = command else { continue };
                let words = l.args.bytes().chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap()));
                for address in words.filter(|&w| paper.is_address(w)) {
                    let inside = places.iter().any(|&(at, bytes)| (at..at + bytes as u64).contains(&address));
                    assert!(inside, "{} of {}: {address:#x} is not an operand", l.kernel, op.name());
                    named += 1;
                }
            }
            Ok(())
        });
    }
    named
}

impl Paper {
    fn is_address(&self, word: u64) -> bool {
        let of = |l: &Layout| [(self.arena.device, l.bytes()), (self.arena.host, l.host_bytes())];
        of(&self.a.layout).iter().any(|&(base, bytes)| (base..base + bytes as u64).contains(&word))
    }
}
