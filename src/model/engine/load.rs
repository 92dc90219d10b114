//! Base weights from their source into the arena, one tensor at a time.

use super::{
    Engine, Residency,
    arrange::{Arrangement, Group},
};
use crate::{
    Error, Result,
    backend::{
        Backend, Buffer, DType, Weight, WeightStore,
        ops::{Dequantize, LoadDense, LoadNf4, MakeDense, MakeNf4},
    },
    error::{ResultExt, Setting},
    model::{
        Module,
        catalogue::{ModelTensor, Role, tensors},
        rope,
        sink::PackedSink,
        source::{LinearData, WeightSource},
    },
    quant::nf4,
    rng::NearNormal,
};

/// Called after each tensor with the parameters loaded so far and the parameters in all.
pub type LoadProgress<'a> = &'a mut dyn FnMut(usize, usize);

impl Engine {
    /// Loads every weight of `source`, in the order of the catalogue. Norms, embedding and head are converted (the head
    /// quantised where it is to be); linears go where their layer's [`Residency`] says, and to `sink` as they were quantised.
    pub(super) fn load(
        &mut self,
        source: &dyn WeightSource,
        mut sink: Option<&mut dyn PackedSink>,
        progress: LoadProgress,
    ) -> Result<()> {
        let c = self.spec.model.clone();
        let (total, mut done) = (c.parameters(), 0);
        for t in tensors(&c) {
            self.load_tensor(source, &t, &mut sink)?;
            source.release(&t.name);
            done += t.elements();
            progress(done, total);
        }
        let rope = rope::table(&c, self.arrangement.weights.rope.len() / c.heads.dim);
        self.backend.write(self.arrangement.weights.rope, bytemuck::cast_slice(&rope))
    }

    fn load_tensor(
        &mut self,
        source: &dyn WeightSource,
        t: &ModelTensor,
        sink: &mut Option<&mut dyn PackedSink>,
    ) -> Result<()> {
        let w = &self.arrangement.weights;
        let dst = match t.role {
            Role::Embedding => w.embed,
            Role::InputNorm(layer) => w.layers[layer].input_norm,
            Role::QNorm(layer) => w.layers[layer].q_norm,
            Role::KNorm(layer) => w.layers[layer].k_norm,
            Role::PostAttentionNorm(layer) => w.layers[layer].post_norm,
            Role::FinalNorm => w.final_norm,
            Role::Linear(layer, module) => return self.load_linear(source, t, (layer, module), sink),
            Role::Head => return self.load_head(source, t),
        };
        load_dense(self.backend.as_mut(), source, t, dst)?;
        // A tied head that is quantised is a copy; else it is the embedding itself.
        match self.arrangement.weights.head.store {
            WeightStore::Nf4 { .. } if t.role == Role::Embedding && self.spec.model.tied => self.load_head(source, t),
            _ => Ok(()),
        }
    }

    /// The head, out of its own tensor or the embedding's.
    fn load_head(&mut self, source: &dyn WeightSource, t: &ModelTensor) -> Result<()> {
        let head = self.arrangement.weights.head;
        match head.store {
            WeightStore::Dense(dst) => load_dense(self.backend.as_mut(), source, t, dst),
            WeightStore::Nf4 { .. } => self.load_weight(source, t, Residency::Nf4, &head).map(drop),
        }
    }

    /// One module's rows of a fused linear.
    fn load_linear(
        &mut self,
        source: &dyn WeightSource,
        t: &ModelTensor,
        (layer, module): (usize, Module),
        sink: &mut Option<&mut dyn PackedSink>,
    ) -> Result<()> {
        let (group, first) = place(module, |m| m.shape(&self.spec.model).0);
        let dst = self.arrangement.weights.layers[layer].linears[group as usize].rows(first, t.shape[0]);
        let quantized = self.load_weight(source, t, self.spec.residency_of(layer, module), &dst)?;
        if let (Some(sink), Some((packed, absmax))) = (sink, quantized) {
            sink.keep(t.path(), &self.backend.read(packed)?, &self.backend.read(absmax)?);
        }
        Ok(())
    }

    /// Puts one linear's weight into its place; says where its packed bytes and absmax lie now, if it is quantised.
    fn load_weight(
        &mut self,
        source: &dyn WeightSource,
        t: &ModelTensor,
        residency: Residency,
        dst: &Weight,
    ) -> Result<Option<(Buffer, Buffer)>> {
        let data = match source.recipe(&t.name) {
            Some(recipe) => Fetched::Made(recipe),
            None => Fetched::Read(source.linear(t.path(), dst.n, dst.k)?),
        };
        let (b, compute) = (self.backend.as_mut(), self.spec.compute);
        store(b, &self.arrangement, compute, residency, &data, dst).with_context(|| format!("loading {}", t.path()))
    }
}

/// A tensor that is converted, not quantised.
fn load_dense(b: &mut dyn Backend, source: &dyn WeightSource, t: &ModelTensor, dst: Buffer) -> Result<()> {
    match source.recipe(&t.name) {
        Some(recipe) => b.run(&MakeDense { recipe, dst }.into()),
        None => b.run(&LoadDense { src: source.tensor(&t.name, &t.shape)?.host(), dst }.into()),
    }
}

/// The fused linear that a module is part of, and its first row there. `rows` says how many a module has.
fn place(module: Module, rows: impl Fn(&Module) -> usize) -> (Group, usize) {
    let group = match module {
        Module::QProj | Module::KProj | Module::VProj => Group::Qkv,
        Module::OProj => Group::O,
        Module::GateProj | Module::UpProj => Group::GateUp,
        Module::DownProj => Group::Down,
    };
    (group, group.modules().iter().take_while(|&&m| m != module).map(rows).sum())
}

/// One linear's weight on its way to its place.
enum Fetched<'a> {
    /// From a file.
    Read(LinearData<'a>),
    /// To be made where it goes.
    Made(NearNormal),
}

/// See [`Engine::load_weight`].
fn store(
    b: &mut dyn Backend,
    a: &Arrangement,
    compute: DType,
    residency: Residency,
    data: &Fetched,
    dst: &Weight,
) -> Result<Option<(Buffer, Buffer)>> {
    let to_nf4 = |b: &mut dyn Backend, packed: Buffer, absmax: Buffer| match data {
        Fetched::Made(recipe) => b.run(&MakeNf4 { recipe: *recipe, packed, absmax }.into()),
        Fetched::Read(LinearData::Dense(t)) => b.run(&LoadNf4 { src: t.host(), packed, absmax }.into()),
        Fetched::Read(LinearData::Nf4(nf4)) => {
            b.write(packed, &nf4.packed)?;
            b.write(absmax, bytemuck::cast_slice(&nf4.absmax))
        }
    };
    match (dst.store, residency) {
        (WeightStore::Nf4 { packed, absmax, .. }, _) => {
            to_nf4(b, packed, absmax)?;
            Ok(Some((packed, absmax)))
        }
        // Unpacked by the plan, or because a module fused with it is dense.
        (WeightStore::Dense(dense), Residency::Unpacked | Residency::Nf4) => {
            let (packed, absmax) =
                a.weights.staging.ok_or_else(|| Error::internal("no room was planned to unpack weights"))?;
            let len = dst.n * dst.k;
            let (packed, absmax) = (packed.prefix(len / 2), absmax.prefix(len / nf4::BLOCK));
            to_nf4(b, packed, absmax)?;
            let w = Weight { store: WeightStore::Nf4 { packed, absmax, compute }, ..*dst };
            b.run(&Dequantize { w, dst: dense }.into())?;
            Ok(Some((packed, absmax)))
        }
        (WeightStore::Dense(dense), Residency::Dense) => {
            match data {
                Fetched::Made(recipe) => b.run(&MakeDense { recipe: *recipe, dst: dense }.into())?,
                Fetched::Read(LinearData::Dense(t)) => b.run(&LoadDense { src: t.host(), dst: dense }.into())?,
                Fetched::Read(LinearData::Nf4(_)) => {
                    let four_bit = Setting::new("use-4bit", false);
                    return Err(Error::setting(four_bit, "the checkpoint is quantised to 4 bits already"));
                }
            }
            Ok(None)
        }
    }
}
