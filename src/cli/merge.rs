//! `irori merge`: an adapter added into its base model, W + s·B·A in f32, rounded once to the base's type.
//!
//! An adapter trained with 4-bit weights learned beside the *dequantised* weights. `--base dequantized` merges into those:
//! the result computes what training saw, up to one rounding. `--base original` merges into the weights as they were before
//! quantising, usually the better model, but not the one that was trained. The two differ by the quantisation error.

use super::common::{Terminal, note};
use crate::{
    Error, Result,
    files::RealDisk,
    model::{
        catalogue::tensors,
        convert::{self, Beside},
        peft,
        sink::{HfOptions, HfSink, WeightSink, copy_text_files, json_file},
        source::open,
    },
    run::adapter::FoundAdapter,
    train::provenance::{PROVENANCE, Provenance},
};
use std::path::{Path, PathBuf};

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
    /// Merge the adapter although it was trained beside other weights than the model's
    #[arg(long)]
    other_base: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let found = FoundAdapter::find("adapter", &args.adapter)?;
    let opened = open(&args.model)?;
    let source = opened.source.as_ref();
    let model = source.config().clone();
    let adapter = peft::load(&found.dir, &model)?;
    let through_nf4 = args.base == Base::Dequantized;
    if through_nf4
        && !source.is_quantized()
        && let Some(t) = convert::not_for_nf4(source)
    {
        return Err(Error::usage(format!("--base dequantized: {} cannot be quantised to NF4", t.name)));
    }
    if opened.dir.as_deref().is_some_and(|d| same_dir(&args.output, d)) || same_dir(&args.output, &found.dir) {
        return Err(Error::usage(format!("--output {} is what is read from", args.output.display())));
    }
    found.check_base(&args.model, &opened, args.other_base, &mut Terminal::default())?;
    say_beside(args.base, source.is_quantized(), found.provenance.as_ref());
    source.remarks()?.iter().for_each(|remark| note(remark));
    if source.is_quantized() && args.base == Base::Original {
        note("the model is quantised: the adapter is merged into its dequantised weights");
    }
    // A head of its own that training held in NF4 is dequantised like the linears.
    let head_4bit = through_nf4 && found.provenance.as_ref().is_some_and(Provenance::head_4bit);
    if head_4bit && model.tied {
        note(
            "warning: training held the head in NF4, beside an embedding that was not quantised. The merged model has one \
             matrix for both and keeps it as it is",
        );
    }
    let mut config = opened.config_json()?;
    if let Some(object) = config.as_object_mut() {
        object.remove("quantization_config");
    }
    let options = HfOptions::new(tensors(&model).len());
    let mut sink: Box<dyn WeightSink> = Box::new(HfSink::create(&RealDisk, &args.output, options)?);
    if let Some(dir) = &opened.dir {
        copy_text_files(sink.as_mut(), dir)?;
    }
    json_file(sink.as_mut(), "config.json", &config)?;
    convert::merge(source, &adapter, Beside { nf4: through_nf4, nf4_head: head_4bit }, sink.as_mut())?;
    sink.commit()?;
    note(&format!("{}: {} with {} merged", args.output.display(), source.describe(), args.adapter.display()));
    Ok(())
}

/// Says where the weights that the adapter is merged into are not those that it was trained beside, or that this is not known.
fn say_beside(base: Base, quantized: bool, provenance: Option<&Provenance>) {
    let Some(known) = provenance else {
        let base = if base == Base::Original { "original" } else { "dequantized" };
        let which = "whether it was trained beside weights in 4 bits is not known";
        return note(&format!("the adapter has no {PROVENANCE} and no run.toml, so {which}: --base {base} is taken"));
    };
    let from = known.from.display();
    match (base, known.use_4bit()) {
        (Base::Original, true) if !quantized => note(&format!(
            "the adapter was trained beside weights in NF4 ({from}) and is merged into the original ones: --base dequantized \
             merges it into those that training saw"
        )),
        (Base::Dequantized, false) if !quantized => note(&format!(
            "warning: the adapter was trained beside the original weights ({from}), and --base dequantized merges it into \
             others: --base original is what training saw"
        )),
        _ => {}
    }
}

/// True if `path` is a directory and the same as `other`: a command never writes where it reads.
fn same_dir(path: &Path, other: &Path) -> bool {
    matches!((path.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        LoraConfig, Module,
        catalogue::{ModelTensor, Role},
        convert::linear_f32,
    };
    use half::bf16;
    use std::collections::HashMap;

    #[test]
    fn merged_weights_are_the_sum() {
        let root = tempfile::tempdir().expect("a directory");
        let base = open("synthetic:tiny@5").expect("opens").source;
        let model = base.config().clone();
        let targets = vec![Module::KProj, Module::GateProj];
        let lora = LoraConfig { r: 2, alpha: 4.0, dropout: 0.0, rslora: false, targets: targets.into() };
        let flat: Vec<f32> = (0..lora.parameters(&model)).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-3).collect();
        let adapter = root.path().join("adapter");
        std::fs::create_dir(&adapter).expect("made");
        std::fs::write(adapter.join(peft::CONFIG), peft::config_file(&lora, "x")).expect("written");
        let weights = peft::weights_file(&lora, &model, &flat).expect("bytes");
        std::fs::write(adapter.join(peft::WEIGHTS), weights).expect("written");
        let slots: HashMap<_, _> = lora.slots(&model).into_iter().map(|s| ((s.layer, s.module), s)).collect();
        for kind in [Base::Original, Base::Dequantized] {
            let output = root.path().join(format!("{kind:?}"));
            let args = Args {
                model: "synthetic:tiny@5".into(),
                adapter: adapter.clone(),
                output: output.clone(),
                base: kind,
                other_base: false,
            };
            run(args).expect("merged");
            let merged = open(output.to_str().expect("a path")).expect("opens").source;
            assert_eq!(merged.config(), &model);
            for t in tensors(&model) {
                let read = merged.tensor(&t.name, &t.shape).expect("read");
                let Role::Linear(layer, module) = t.role else {
                    assert_eq!(read, base.tensor(&t.name, &t.shape).expect("made"));
                    continue;
                };
                let got = read.to_f32().expect("floats");
                let (_, w) = linear_f32(base.as_ref(), &t, kind == Base::Dequantized).expect("made");
                let Some(slot) = slots.get(&(layer, module)) else {
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
        let lora = LoraConfig { r: 2, alpha: 4.0, dropout: 0.0, rslora: false, targets: [Module::QProj].into() };
        let adapter = root.path().join("adapter");
        std::fs::create_dir(&adapter).expect("made");
        std::fs::write(adapter.join(peft::CONFIG), peft::config_file(&lora, "x")).expect("written");
        let flat = vec![0.01; lora.parameters(&model)];
        let weights = peft::weights_file(&lora, &model, &flat).expect("bytes");
        std::fs::write(adapter.join(peft::WEIGHTS), weights).expect("written");
        let is_head = |t: &ModelTensor| t.role == Role::Head;
        let head = &tensors(&model).into_iter().find(is_head).expect("a head of its own");
        for (kind, head_4bit) in [(Base::Original, true), (Base::Dequantized, false), (Base::Dequantized, true)] {
            std::fs::write(adapter.join("run.toml"), format!("head-4bit = {head_4bit}\n")).expect("written");
            let output = root.path().join(format!("{kind:?} {head_4bit}"));
            run(Args {
                model: path.into(),
                adapter: adapter.clone(),
                output: output.clone(),
                base: kind,
                other_base: false,
            })
            .expect("merged");
            let merged = open(output.to_str().expect("a path")).expect("opens").source;
            let got = merged.tensor(&head.name, &head.shape).expect("read").to_f32().expect("floats");
            let through_nf4 = kind == Base::Dequantized && head_4bit;
            let (element, want) = linear_f32(base.as_ref(), head, through_nf4).expect("made");
            assert_eq!(got, want, "{kind:?} {head_4bit} {element:?}");
        }
    }
}
