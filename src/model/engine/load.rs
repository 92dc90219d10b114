//! Base weights from their source into the arena, one tensor at a time.

use super::{
    Engine, Residency,
    arrange::{Arrangement, Group},
};
use crate::{
    Error, Result,
    backend::{
        Backend, Buffer, DType, HostTensor, Weight, WeightStore,
        ops::{Dequantize, LoadDense, LoadNf4, MakeDense, MakeNf4},
    },
    model::source::{LinearData, TensorData, WeightSource},
    quant::nf4,
    rng::Bell,
};

/// Called after each tensor with the parameters loaded so far and the parameters in all.
pub type LoadProgress<'a> = &'a mut dyn FnMut(usize, usize);

fn host<'a>(t: &'a TensorData<'_>) -> HostTensor<'a> {
    HostTensor { dtype: t.dtype, bytes: &t.bytes }
}

impl Engine {
    /// Loads every weight of `source`. Norms, embedding and head are converted (the head quantised where it is to be);
    /// linears go where their layer's [`Residency`] says.
    pub(super) fn load(&mut self, source: &dyn WeightSource, progress: LoadProgress) -> Result<()> {
        let c = self.spec.model.clone();
        let total = c.parameters();
        let mut done = 0;
        let (a, w) = (&self.arrangement, &self.arrangement.weights);
        let b = self.backend.as_mut();
        let mut dense = |b: &mut dyn Backend, name: String, shape: &[usize], dst: Buffer| -> Result<()> {
            if let Some(bell) = source.recipe(&name) {
                b.run(&MakeDense { bell, dst }.into())?;
            } else {
                b.run(&LoadDense { src: host(&source.tensor(&name, shape)?), dst }.into())?;
                source.release(&name);
            }
            done += dst.len();
            progress(done, total);
            Ok(())
        };
        dense(b, "model.embed_tokens.weight".into(), &[c.vocab, c.hidden], w.embed)?;
        dense(b, "model.norm.weight".into(), &[c.hidden], w.final_norm)?;
        if let (false, WeightStore::Dense(head)) = (c.tied, w.head.store) {
            dense(b, "lm_head.weight".into(), &[c.vocab, c.hidden], head)?;
        }
        for (i, layer) in w.layers.iter().enumerate() {
            let path = format!("model.layers.{i}");
            dense(b, format!("{path}.input_layernorm.weight"), &[c.hidden], layer.input_norm)?;
            dense(b, format!("{path}.post_attention_layernorm.weight"), &[c.hidden], layer.post_norm)?;
            dense(b, format!("{path}.self_attn.q_norm.weight"), &[c.heads.dim], layer.q_norm)?;
            dense(b, format!("{path}.self_attn.k_norm.weight"), &[c.heads.dim], layer.k_norm)?;
        }
        if let WeightStore::Nf4 { .. } = w.head.store {
            let path = if c.tied { "model.embed_tokens" } else { "lm_head" };
            let data = fetch(source, path, c.vocab, c.hidden)?;
            store(b, a, self.spec.compute, Residency::Nf4, &data, &w.head)
                .map_err(|e| e.context(format!("loading {path}")))?;
            drop(data);
            source.release(&format!("{path}.weight"));
            done += if c.tied { 0 } else { c.vocab * c.hidden };
            progress(done, total);
        }
        for i in 0..c.layers {
            for group in Group::ALL {
                let fused = self.arrangement.weights.layers[i].linears[group as usize];
                let mut row = 0;
                for module in group.modules() {
                    let (n, k) = module.shape(&c);
                    let name = format!("model.layers.{i}.{}", module.path());
                    let data = fetch(source, &name, n, k)?;
                    let part = fused.rows(row, n);
                    let residency = self.spec.residency[i];
                    let b = self.backend.as_mut();
                    let nf4 = store(b, &self.arrangement, self.spec.compute, residency, &data, &part)
                        .map_err(|e| e.context(format!("loading {name}")))?;
                    if let (true, Some((packed, absmax))) = (source.keeps_packed(), nf4) {
                        source.keep_packed(&name, &b.read(packed)?, &b.read(absmax)?);
                    }
                    drop(data);
                    source.release(&format!("{name}.weight"));
                    row += n;
                    done += n * k;
                    progress(done, total);
                }
            }
        }
        let rope = rope_table(self.arrangement.weights.rope.len() / c.heads.dim, c.heads.dim, c.rope_theta);
        self.backend.write(self.arrangement.weights.rope, bytemuck::cast_slice(&rope))
    }
}

/// One linear's weight on its way to its place.
enum Fetched<'a> {
    /// From a file.
    Read(LinearData<'a>),
    /// To be made where it goes.
    Made(Bell),
}

fn fetch<'a>(source: &'a dyn WeightSource, path: &str, n: usize, k: usize) -> Result<Fetched<'a>> {
    match source.recipe(&format!("{path}.weight")) {
        Some(bell) => Ok(Fetched::Made(bell)),
        None => source.linear(path, n, k).map(Fetched::Read),
    }
}

/// Puts one linear's weight into its place; says where its packed bytes and absmax lie now, if it is quantised.
fn store(
    b: &mut dyn Backend,
    a: &Arrangement,
    compute: DType,
    residency: Residency,
    data: &Fetched,
    dst: &Weight,
) -> Result<Option<(Buffer, Buffer)>> {
    let to_nf4 = |b: &mut dyn Backend, packed: Buffer, absmax: Buffer| match data {
        Fetched::Made(bell) => b.run(&MakeNf4 { bell: *bell, packed, absmax }.into()),
        Fetched::Read(LinearData::Dense(t)) => b.run(&LoadNf4 { src: host(t), packed, absmax }.into()),
        Fetched::Read(LinearData::Nf4 { packed: bytes, absmax: scales }) => {
            b.write(packed, bytes)?;
            b.write(absmax, bytemuck::cast_slice(scales))
        }
    };
    match (dst.store, residency) {
        (WeightStore::Nf4 { packed, absmax, .. }, _) => {
            to_nf4(b, packed, absmax)?;
            Ok(Some((packed, absmax)))
        }
        (WeightStore::Dense(dense), Residency::Unpacked) => {
            let (packed, absmax) =
                a.weights.staging.ok_or_else(|| Error::failed("no room was planned to unpack weights"))?;
            let len = dst.n * dst.k;
            let (packed, absmax) = (packed.prefix(len / 2), absmax.prefix(len / nf4::BLOCK));
            to_nf4(b, packed, absmax)?;
            let w = Weight { store: WeightStore::Nf4 { packed, absmax, compute }, ..*dst };
            b.run(&Dequantize { w, dst: dense }.into())?;
            Ok(Some((packed, absmax)))
        }
        (WeightStore::Dense(dense), _) => {
            match data {
                Fetched::Made(bell) => b.run(&MakeDense { bell: *bell, dst: dense }.into())?,
                Fetched::Read(LinearData::Dense(t)) => b.run(&LoadDense { src: host(t), dst: dense }.into())?,
                Fetched::Read(LinearData::Nf4 { .. }) => {
                    let message = "the checkpoint is quantised to 4 bits already: leave out --no-4bit";
                    return Err(Error::usage(message));
                }
            }
            Ok(None)
        }
    }
}

/// cos and sin of `position · theta^(−2i/D)`, [positions, D]: D/2 cosines, then D/2 sines. The frequencies and angles are
/// f32, as transformers computes them.
fn rope_table(positions: usize, dim: usize, theta: f64) -> Vec<f32> {
    let half = dim / 2;
    let inverse: Vec<f32> =
        (0..half).map(|i| 1.0 / theta.powf(f64::from(2.0 * i as f32 / dim as f32)) as f32).collect();
    let mut table = vec![0.0; positions * dim];
    for (p, row) in table.chunks_exact_mut(dim).enumerate() {
        for (i, &f) in inverse.iter().enumerate() {
            let angle = f64::from(p as f32 * f);
            row[i] = angle.cos() as f32;
            row[half + i] = angle.sin() as f32;
        }
    }
    table
}
