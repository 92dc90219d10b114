//! An engine: planned for a device, then loaded onto it.

use super::{
    Listener,
    device::{OpenDevice, open, open_unmeasured},
};
use crate::{
    Error, Result,
    backend::{DType, Properties},
    error::Setting,
    model::{
        Engine, ModelConfig, Module,
        catalogue::HEAD,
        engine::{EngineSpec, HeadStore, Residency},
        source::{
            Opened, WeightSource,
            packed::{self, Kept},
        },
    },
    plan::{
        self, Plan, Unpack,
        settings::{Base, CachePolicy, Machine},
    },
};

/// Parameters from which on a packed cache saves time.
const CACHE_FROM: usize = 400_000_000;

/// Rows of a logits chunk on the CPU: enough to share one pass over the head, few enough to stay small.
const CPU_LOGIT_ROWS: usize = 128;
/// Rows of a logits chunk on a GPU: the head's product fills the chip.
const CUDA_LOGIT_ROWS: usize = 512;

/// What is asked for with the weights held as `base` says: inference, without an adapter, on micro-batches of `rows` rows
/// with documents of `max_len`.
pub fn asked(base: &Base, model: ModelConfig, rows: usize, max_len: usize) -> EngineSpec {
    let residency = if base.use_4bit { Residency::Nf4 } else { Residency::Dense };
    EngineSpec {
        residency: vec![residency; model.layers],
        compute: base.bnb_4bit_compute_dtype.dtype(),
        head: base.head(),
        ..EngineSpec::new(model, rows, max_len)
    }
}

/// `asked` with what the checkpoint and the kind of device decide, and whether weights may be unpacked on it.
///
/// # Errors
/// If dense weights are asked of a quantised checkpoint.
pub fn for_device(asked: EngineSpec, opened: &Opened, properties: &dyn Properties) -> Result<(EngineSpec, Unpack)> {
    let (source, layers) = (opened.source.as_ref(), asked.model.layers);
    if source.is_quantized() && !asked.four_bit() {
        let four_bit = Setting::new("use-4bit", false);
        return Err(Error::setting(four_bit, "the checkpoint is quantised to 4 bits already"));
    }
    let dense = |layer: usize| Module::ALL.into_iter().filter(move |m| source.stays_dense(&m.path_in(layer))).collect();
    let head = if source.is_packed(HEAD) { HeadStore::Nf4 } else { asked.head };
    let asked = EngineSpec { dense_modules: (0..layers).map(dense).collect(), head, ..asked };
    let gpu = properties.own_memory();
    // Generation reads every weight for a few rows: packed ones are the quicker, however much room there is.
    let unpack = if gpu && asked.kv_slots == 0 { Unpack::WhereItFits } else { Unpack::Never };
    let (logit_rows, dense) = if gpu { (CUDA_LOGIT_ROWS, DType::Bf16) } else { (CPU_LOGIT_ROWS, source.dense_dtype()) };
    Ok((EngineSpec { logit_rows, dense, ..asked }, unpack))
}

/// What is to be said of the model as `spec` holds it: what of its files is not used, and what is held otherwise than they say.
///
/// # Errors
/// As [`WeightSource::remarks`].
pub fn remarks(source: &dyn WeightSource, spec: &EngineSpec) -> Result<Vec<String>> {
    let mut remarks = source.remarks()?;
    if spec.dense == DType::Bf16 && source.dense_dtype() == DType::F32 {
        remarks.push(
            "a GPU computes in bfloat16: the weights that are stored in float32 or float16 and not quantised are rounded to \
             it; `device = cpu` takes them as they are"
                .into(),
        );
    }
    if let Some(compute) = source.compute().filter(|&compute| compute != spec.compute.torch()) {
        remarks.push(format!(
            "config.json asks for weights in 4 bits to be rounded to {compute} in use (field `bnb_4bit_compute_dtype`); here \
             `bnb-4bit-compute-dtype = {}`",
            spec.compute.torch()
        ));
    }
    Ok(remarks)
}

/// Plans what is asked for on a device.
///
/// # Errors
/// If it does not fit; the advice is the nearest settings that do.
pub fn plan(opened: &Opened, asked: EngineSpec, device: &OpenDevice) -> Result<Plan> {
    let properties = device.backend.properties();
    let (asked, unpack) = for_device(asked, opened, properties)?;
    plan::plan(&asked, unpack, properties, &device.speed, device.limit).map_err(|e| device.advise(e))
}

/// Opens the device, plans, and loads the model. Where nothing is trained, speed decides next to nothing and is not
/// measured.
///
/// # Errors
/// As [`open`], [`plan()`] and [`load`].
pub fn engine(opened: &Opened, asked: EngineSpec, machine: &Machine, listener: &mut dyn Listener) -> Result<Engine> {
    let device = if asked.training { open(machine, listener)? } else { open_unmeasured(machine, listener)? };
    let plan = plan(opened, asked, &device)?;
    load(opened, plan, device, listener)
}

/// Loads a model under a plan.
///
/// # Errors
/// If the memory cannot be had, or a weight is missing or malformed.
pub fn load(opened: &Opened, plan: Plan, device: OpenDevice, listener: &mut dyn Listener) -> Result<Engine> {
    for remark in remarks(opened.source.as_ref(), &plan.spec)? {
        listener.note(&remark);
    }
    let wanted = match device.cache {
        CachePolicy::Auto => plan.spec.model.parameters() >= CACHE_FROM,
        CachePolicy::Never => false,
        CachePolicy::Always => true,
    };
    let from_dense = !opened.source.is_quantized() && plan.spec.four_bit();
    let mut progress = |done: usize, total: usize| listener.loading(done, total);
    let Some(dir) = opened.dir.as_deref().filter(|_| wanted && from_dense) else {
        let engine = Engine::new(device.backend, plan.spec, opened.source.as_ref(), &mut progress);
        listener.loaded();
        return engine;
    };
    let mut cache = packed::Cache::open(opened.source.as_ref(), dir)?;
    let (source, sink) = cache.parts();
    let engine = Engine::keeping(device.backend, plan.spec, source, sink, &mut progress);
    listener.loaded();
    match cache.finish() {
        Kept::Read => {}
        Kept::Written(path, bytes) => listener.note(&format!(
            "the packed weights are kept in {} ({:.1} MB) for the next start; `packed-cache = never` leaves that out",
            path.display(),
            bytes as f64 / 1e6
        )),
        Kept::Not(_) if engine.is_err() => {}
        Kept::Not(e) => listener.note(&format!("the packed weights could not be kept beside the model: {e}")),
    }
    engine
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{cpu::CpuProperties, cuda::CudaProperties},
        model::{
            catalogue::{ModelTensor, Role},
            source::{
                made::{As, bitsandbytes, but, directory},
                open,
            },
        },
    };
    use serde_json::{Value, json};
    use std::path::Path;

    fn opened(path: &Path) -> Opened {
        open(path.to_str().expect("a path")).expect("opens")
    }

    /// How a run with these weights holds the model, on the CPU.
    fn held(opened: &Opened, four_bit: bool) -> Result<EngineSpec> {
        let model = opened.source.config().clone();
        let residency = if four_bit { Residency::Nf4 } else { Residency::Dense };
        let asked = EngineSpec { residency: vec![residency; model.layers], ..EngineSpec::new(model, 8, 8) };
        for_device(asked, opened, &CpuProperties).map(|(spec, _)| spec)
    }

    #[test]
    fn weights_are_held_as_the_checkpoint_has_them() {
        let patch = |skip: &[&str]| json!({"quantization_config": bitsandbytes(skip)});
        let none: [&[Module]; 3] = [&[]; 3];
        let f32 = |_: &ModelTensor| As::Dense(DType::F32);
        let (_a, dense) = directory(true, f32, &[], json!({}));
        let (_b, excepted) = directory(true, f32, &[], patch(&["model.layers.1.mlp", "v_proj"]));
        let (_c, part) = directory(true, but(&["layers.2.self_attn.q"], DType::Bf16), &[], patch(&[]));
        use Module::{DownProj, GateProj, QProj, UpProj, VProj};
        let cases: [(&Path, [&[Module]; 3], DType); 3] = [
            (&dense, none, DType::F32),
            (&excepted, [&[VProj], &[VProj, GateProj, UpProj, DownProj], &[VProj]], DType::F32),
            (&part, [&[], &[], &[QProj]], DType::Bf16),
        ];
        for (path, modules, dtype) in cases {
            let spec = held(&opened(path), true).expect("a specification");
            assert_eq!(spec.dense_modules, modules.map(<[Module]>::to_vec).to_vec(), "{path:?}");
            assert_eq!((spec.dense, spec.head), (dtype, HeadStore::Dense), "{path:?}");
        }
        let error = held(&opened(&part), false).expect_err("quantised").to_string();
        assert!(error.contains("`use-4bit = false`") && error.contains("quantised to 4 bits already"), "{error}");
        assert!(!held(&opened(&excepted), false).expect("dense").four_bit());
        let head = |t: &ModelTensor| if t.role == Role::Head { As::Nf4 } else { but(&[], DType::Bf16)(t) };
        let (_d, path) = directory(false, head, &[], patch(&[]));
        assert_eq!(held(&opened(&path), true).expect("a specification").head, HeadStore::Nf4);
    }

    /// Rounding that a GPU does to dense weights, and another type in use than the checkpoint asks for.
    #[test]
    fn what_is_held_otherwise_than_the_files_say_is_said() {
        let said = |dtype: DType, config: Value, properties: &dyn Properties| {
            let how = |t: &ModelTensor| if config.is_null() { As::Dense(dtype) } else { but(&[], dtype)(t) };
            let (_root, path) = directory(true, how, &[], json!({"quantization_config": config}));
            let opened = opened(&path);
            let asked = EngineSpec::new(opened.source.config().clone(), 8, 8);
            let (spec, _) = for_device(asked, &opened, properties).expect("a specification");
            remarks(opened.source.as_ref(), &spec).expect("read")
        };
        let gpu = &CudaProperties::default();
        for (dtype, rounds) in [(DType::F32, true), (DType::F16, true), (DType::Bf16, false)] {
            let on_gpu = said(dtype, Value::Null, gpu);
            assert_eq!(on_gpu.len(), usize::from(rounds), "{on_gpu:?}");
            assert!(!rounds || on_gpu[0].contains("rounded to it"), "{on_gpu:?}");
            assert!(said(dtype, Value::Null, &CpuProperties).is_empty());
        }
        for (asks, differs) in [("float16", true), ("float32", true), ("bfloat16", false)] {
            let mut config = bitsandbytes(&[]);
            config["bnb_4bit_compute_dtype"] = asks.into();
            let remarks = said(DType::Bf16, config, &CpuProperties);
            assert_eq!(remarks.len(), usize::from(differs), "{remarks:?}");
            assert!(!differs || remarks[0].contains(&format!("rounded to {asks}")), "{remarks:?}");
        }
    }
}
