//! Linears of which some stay dense: the same numbers as a model whose quantised weights were dequantised by hand.

use super::*;
use crate::{
    backend::{Kind, cpu::CpuProperties},
    model::catalogue::{ModelTensor, Role},
    quant::nf4::Nf4,
};

/// Modules of each layer that stay dense.
type Sets = [&'static [Module]; 3];

use Module::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};

/// Alone in a product, some of a fused one, all of it, in one layer and in several.
const SETS: [Sets; 7] = [
    [&[UpProj], &[], &[]],
    [&[], &[OProj], &[DownProj]],
    [&[QProj], &[KProj, VProj], &[VProj]],
    [&[QProj, KProj, VProj], &[GateProj, UpProj], &[GateProj]],
    [&[QProj, KProj, VProj, OProj], &Module::ALL, &[QProj, GateProj, DownProj]],
    [&Module::ALL, &[], &Module::ALL],
    [&Module::ALL, &Module::ALL, &Module::ALL],
];

/// [`Toy`] as a file of type `dense` holds it, with the linears that are quantised as they are in use.
struct InUse {
    toy: Toy,
    sets: Sets,
    compute: DType,
    dense: DType,
}

impl InUse {
    fn values(&self, name: &str, shape: &[usize]) -> Tensor<'static> {
        let mut values = Toy::make(name, shape).to_f32().expect("floats");
        if shape.len() > 1 && self.dense == DType::Bf16 {
            values.iter_mut().for_each(|x| *x = nf4::round_bf16(*x));
        }
        let quantized = |t: &ModelTensor| match t.role {
            Role::Linear(layer, module) => !self.sets[layer].contains(&module),
            _ => false,
        };
        let all = crate::model::catalogue::tensors(&self.toy.0);
        if all.iter().any(|t| t.name == name && quantized(t)) {
            let nf4 = Nf4::of(Tensor::vector(&values).floats().expect("floats"));
            nf4::dequantize(&nf4.packed, &nf4.absmax, self.compute == DType::Bf16, &mut values);
        }
        Tensor::new(DType::F32, shape, DType::F32.encode(&values))
    }
}

impl WeightSource for InUse {
    fn config(&self) -> &ModelConfig {
        self.toy.config()
    }
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        Ok(self.values(name, shape))
    }
    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        Ok(LinearData::Dense(self.values(&format!("{path}.weight"), &[n, k])))
    }
    fn dense_dtype(&self) -> DType {
        DType::F32
    }
    fn fingerprint(&self) -> Result<String> {
        self.toy.fingerprint()
    }
    fn describe(&self) -> String {
        self.toy.describe()
    }
}

#[test]
fn a_linear_that_stays_dense_is_that_linear_whatever_is_beside_it() {
    let batches = pack(&samples(), &[&[0, 1, 2], &[3, 4, 5]]);
    let results = |mut e: Engine| (gradients(&mut e, &batches), e.target_logprobs(&batches[0]).expect("logprobs"));
    let base = EngineSpec { saved: vec![Saved::NoGateUp; 3], ..spec(Some(lora(0.2, &Module::ALL)), true) };
    let none = results(engine(EngineSpec { residency: vec![Residency::Nf4; 3], ..base.clone() }));
    for (i, sets) in SETS.into_iter().enumerate() {
        // Every pair of types once, and each way of holding the quantised ones.
        let (compute, dense) = [
            (DType::Bf16, DType::F32),
            (DType::Bf16, DType::Bf16),
            (DType::F32, DType::Bf16),
            (DType::F32, DType::F32),
        ][i % 4];
        let by_hand = InUse { toy: Toy(model()), sets, compute, dense };
        let stored = InUse { toy: Toy(model()), sets: [&Module::ALL; 3], compute, dense };
        let expected = results(engine_of(base.clone(), &by_hand));
        assert!(expected != none);
        use Residency::{Nf4, Unpacked};
        for residency in [[Nf4; 3], [Unpacked; 3], [Unpacked, Nf4, Nf4]] {
            let spec = EngineSpec {
                residency: residency.to_vec(),
                dense_modules: sets.map(<[Module]>::to_vec).to_vec(),
                compute,
                dense,
                ..base.clone()
            };
            assert!(results(engine_of(spec, &stored)) == expected, "{sets:?} {residency:?} {compute:?} {dense:?}");
        }
    }
}

/// Packed where all of a product is quantised, dense where not, and in the type that holds both.
#[test]
fn the_arena_has_room_for_what_is_dense_and_no_more() {
    let size = |m: &[Module]| m.iter().map(|m| m.shape(&model())).map(|(n, k)| n * k).sum::<usize>();
    let aligned = |bytes: usize| bytes.next_multiple_of(256);
    for (dense, each) in [(DType::Bf16, 2), (DType::F32, 4)] {
        let of = |sets: Sets| {
            let base = EngineSpec { dense, residency: vec![Residency::Nf4; 3], ..spec(None, false) };
            let spec = EngineSpec { dense_modules: sets.map(<[Module]>::to_vec).to_vec(), ..base };
            let layout = arrange(&spec, &CpuProperties).expect("laid out").layout;
            let bytes = |kind| layout.by_kind().find(|(k, _)| *k == kind).map_or(0, |(_, bytes)| bytes);
            (bytes(Kind::QuantizedWeights), bytes(Kind::DenseWeights))
        };
        let (all, none) = of([&[]; 3]);
        assert_eq!(none, 0);
        let packed = |m: &[Module]| aligned(size(m) / 2) + aligned(size(m) / 64 * 4);
        let qkv = [QProj, KProj, VProj];
        // A fused product of which one module is dense is dense as a whole.
        for sets in [[&[KProj][..], &[], &[OProj]], [&[], &[KProj, OProj, QProj], &[]]] {
            let (quantized, held) = of(sets);
            assert_eq!(quantized, all - packed(&qkv) - packed(&[OProj]), "{sets:?}");
            assert_eq!(held, aligned(size(&qkv) * each) + aligned(size(&[OProj]) * each), "{sets:?}");
        }
    }
}

/// Texts within the model's positions are computed, longer ones are refused with the length that would do.
#[test]
fn dynamic_positions_end_where_the_model_does() {
    use crate::model::rope::RopeScaling;
    let model = ModelConfig { rope_scaling: RopeScaling::Dynamic { factor: 2.0 }, max_positions: 64, ..model() };
    let of = |max_len: usize, kv: usize| {
        let base = EngineSpec { kv_slots: kv.min(1), kv_capacity: kv, ..EngineSpec::new(model.clone(), 96, max_len) };
        arrange(&base, &CpuProperties).map(drop).map_err(|e| e.to_string())
    };
    assert!(of(64, 0).is_ok() && of(64, 64).is_ok());
    for (max_len, kv) in [(65, 0), (8, 65)] {
        let error = of(max_len, kv).expect_err("too long");
        assert!(error.contains("`max-seq-length = 65`") && error.contains("beyond 64 tokens"), "{error}");
    }
}
