//! `irori merge`: an adapter added into its base model, W + s·B·A in f32, rounded once to the base's type.
//!
//! An adapter trained with 4-bit weights learned beside the *dequantised* weights. `--base dequantized` merges into those:
//! the result computes what training saw, up to one rounding. `--base original` merges into the weights as they were before
//! quantising, usually the better model, but not the one that was trained. The two differ by the quantisation error.

use super::{
    common::{ensure_new_dir, note},
    quantize::{config_json, linear_f32, same_dir},
};
use crate::{
    Error, Result,
    model::{
        export::{Element, ModelWriter, tensors},
        lora::LoraSlot,
        peft,
        source::open,
    },
    quant::nf4,
    run::inference::trained_with_head_4bit,
};
use rayon::prelude::*;
use std::{collections::HashMap, path::PathBuf};

/// The head of a model that does not share it with the embedding.
const HEAD: &str = "lm_head.weight";

/// Which weights the adapter is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Base {
    /// As the model holds them
    Original,
    /// As 4-bit training saw them: quantised to NF4 and back; the head too if it was trained with --head-4bit
    Dequantized,
}

/// Arguments of `irori merge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Base model: a directory, a Hugging Face id in the local cache, or synthetic:SIZE
    #[arg(long, alias = "model-name", value_name = "MODEL")]
    model: String,
    /// Adapter directory
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Weights to add the adapter to; a model that is quantised already has only its dequantised ones
    #[arg(long, value_enum, default_value = "original")]
    base: Base,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let opened = open(&args.model)?;
    let source = opened.source.as_ref();
    let model = source.config().clone();
    let adapter = peft::load(&args.adapter, &model)?;
    let through_nf4 = args.base == Base::Dequantized;
    let all = tensors(&model);
    if through_nf4
        && !source.is_quantized()
        && let Some(t) = all.iter().find(|t| t.linear.is_some() && t.shape[1] % nf4::BLOCK != 0)
    {
        return Err(Error::usage(format!("--base dequantized: {} cannot be quantised to NF4", t.name)));
    }
    if opened.dir.as_deref().is_some_and(|d| same_dir(&args.output, d)) || same_dir(&args.output, &args.adapter) {
        return Err(Error::usage(format!("--output {} is what is read from", args.output.display())));
    }
    if source.is_quantized() && args.base == Base::Original {
        note("the model is quantised: the adapter is merged into its dequantised weights");
    }
    // A head of its own that training held in NF4 is dequantised like the linears.
    let head_4bit = through_nf4 && trained_with_head_4bit(&args.adapter);
    if head_4bit && model.tied {
        note(
            "warning: training held the head in NF4, beside an embedding that was not quantised. The merged model has one \
             matrix for both and keeps it as it is",
        );
    }
    let mut config = config_json(&opened)?;
    if let Some(object) = config.as_object_mut() {
        object.remove("quantization_config");
    }
    ensure_new_dir(&args.output)?;
    let mut writer = ModelWriter::create(&args.output, all.len(), 5_000_000_000)?;
    if let Some(dir) = &opened.dir {
        writer.copy_text_files(dir)?;
    }
    writer.json("config.json", &config)?;
    let slots: HashMap<_, LoraSlot> =
        adapter.lora.slots(&model).into_iter().map(|s| ((s.layer, s.module), s)).collect();
    let scale = adapter.lora.scale();
    for t in &all {
        if let Some(place) = t.linear {
            let (element, mut w) = linear_f32(source, t, through_nf4)?;
            if let Some(slot) = slots.get(&place) {
                add(&mut w, slot, &adapter.flat, scale);
            }
            if let Some(i) = w.iter().position(|x| !x.is_finite()) {
                return Err(Error::failed(format!("tensor `{}`: element {i} is not finite after merging", t.name)));
            }
            writer.tensor(&t.name, element, &t.shape, &element.encode(&w))?;
        } else if head_4bit && t.name == HEAD {
            let (element, w) = linear_f32(source, t, true)?;
            writer.tensor(&t.name, element, &t.shape, &element.encode(&w))?;
        } else {
            let weight = source.tensor(&t.name, &t.shape)?;
            writer.tensor(&t.name, Element::of(weight.dtype), &t.shape, &weight.bytes)?;
        }
        source.release(&t.name);
    }
    writer.commit()?;
    note(&format!("{}: {} with {} merged", args.output.display(), source.describe(), args.adapter.display()));
    Ok(())
}

/// w [n, k] += scale · B·A. Each row sums over the rank in ascending order, so the result depends on nothing else.
fn add(w: &mut [f32], slot: &LoraSlot, flat: &[f32], scale: f32) {
    let (a, b) = (&flat[slot.a_range()], &flat[slot.b_range()]);
    w.par_chunks_mut(slot.k).zip(b.par_chunks(slot.r)).for_each(|(w, b)| {
        let mut delta = vec![0.0f32; slot.k];
        for (&b, a) in b.iter().zip(a.chunks_exact(slot.k)) {
            for (d, a) in delta.iter_mut().zip(a) {
                *d += b * a;
            }
        }
        for (w, d) in w.iter_mut().zip(delta) {
            *w += scale * d;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LoraConfig, Module};
    use half::bf16;

    #[test]
    fn merged_weights_are_the_sum() {
        let root = tempfile::tempdir().expect("a directory");
        let base = open("synthetic:tiny@5").expect("opens").source;
        let model = base.config().clone();
        let targets = vec![Module::KProj, Module::GateProj];
        let lora = LoraConfig { r: 2, alpha: 4.0, dropout: 0.0, rslora: false, targets };
        let flat: Vec<f32> = (0..lora.parameters(&model)).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-3).collect();
        let adapter = root.path().join("adapter");
        std::fs::create_dir(&adapter).expect("made");
        std::fs::write(adapter.join(peft::CONFIG), peft::config_file(&lora, "x")).expect("written");
        let weights = peft::weights_file(&lora, &model, &flat).expect("bytes");
        std::fs::write(adapter.join(peft::WEIGHTS), weights).expect("written");
        let slots: HashMap<_, _> = lora.slots(&model).into_iter().map(|s| ((s.layer, s.module), s)).collect();
        for kind in [Base::Original, Base::Dequantized] {
            let output = root.path().join(format!("{kind:?}"));
            let args =
                Args { model: "synthetic:tiny@5".into(), adapter: adapter.clone(), output: output.clone(), base: kind };
            run(args).expect("merged");
            let merged = open(output.to_str().expect("a path")).expect("opens").source;
            assert_eq!(merged.config(), &model);
            for t in tensors(&model) {
                let got = merged.tensor(&t.name, &t.shape).expect("read").to_f32();
                let Some(place) = t.linear else {
                    assert_eq!(got, base.tensor(&t.name, &t.shape).expect("made").to_f32());
                    continue;
                };
                let (_, w) = linear_f32(base.as_ref(), &t, kind == Base::Dequantized).expect("made");
                let Some(slot) = slots.get(&place) else {
                    assert_eq!(got, w, "{} has no adapter", t.name);
                    continue;
                };
                let (a, b) = (&flat[slot.a_range()], &flat[slot.b_range()]);
                for (i, (&got, &w)) in got.iter().zip(&w).enumerate() {
                    let (row, column) = (i / slot.k, i % slot.k);
                    let want = w + 2.0 * (b[2 * row] * a[column] + b[2 * row + 1] * a[slot.k + column]);
                    assert_eq!(got, bf16::from_f32(want).to_f32(), "{} element {i}", t.name);
                }
            }
        }
    }

    /// The head changes where training held it in NF4 and the dequantised weights are asked for, and nowhere else.
    #[test]
    fn a_head_trained_in_nf4_is_dequantised_too() {
        let root = tempfile::tempdir().expect("a directory");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/models/untied");
        let base = open(path).expect("opens").source;
        let model = base.config().clone();
        let lora = LoraConfig { r: 2, alpha: 4.0, dropout: 0.0, rslora: false, targets: vec![Module::QProj] };
        let adapter = root.path().join("adapter");
        std::fs::create_dir(&adapter).expect("made");
        std::fs::write(adapter.join(peft::CONFIG), peft::config_file(&lora, "x")).expect("written");
        let flat = vec![0.01; lora.parameters(&model)];
        let weights = peft::weights_file(&lora, &model, &flat).expect("bytes");
        std::fs::write(adapter.join(peft::WEIGHTS), weights).expect("written");
        let all = tensors(&model);
        let head = all.iter().find(|t| t.name == HEAD).expect("a head of its own");
        for (kind, head_4bit) in [(Base::Original, true), (Base::Dequantized, false), (Base::Dequantized, true)] {
            std::fs::write(adapter.join("run.toml"), format!("head-4bit = {head_4bit}\n")).expect("written");
            let output = root.path().join(format!("{kind:?} {head_4bit}"));
            run(Args { model: path.into(), adapter: adapter.clone(), output: output.clone(), base: kind })
                .expect("merged");
            let merged = open(output.to_str().expect("a path")).expect("opens").source;
            let got = merged.tensor(HEAD, &head.shape).expect("read").to_f32();
            let through_nf4 = kind == Base::Dequantized && head_4bit;
            let (element, want) = linear_f32(base.as_ref(), head, through_nf4).expect("made");
            assert_eq!(got, want, "{kind:?} {head_4bit} {element:?}");
        }
    }
}
