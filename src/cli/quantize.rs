//! `irori quantize`: a model as a bitsandbytes-format NF4 checkpoint, which transformers and irori load.
//!
//! One tensor is in memory at a time. Embedding, norms and head stay as they are.

use super::common::{ensure_new_dir, note};
use crate::{
    Error, Result,
    model::{
        export::{Element, ModelTensor, ModelWriter, tensors},
        source::{LinearData, Opened, TensorData, WeightSource, open},
    },
    quant::{nested, nf4, state::QuantState},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `irori quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model to read: a directory, a Hugging Face id in the local cache, or synthetic:SIZE
    #[arg(long, alias = "model-name", value_name = "MODEL")]
    model: String,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Quantise the scales too, to 8 bits (the default)
    #[arg(long, overrides_with = "no_double_quant")]
    double_quant: bool,
    /// Keep the scales as f32
    #[arg(long)]
    no_double_quant: bool,
    /// Type that transformers shall compute in
    #[arg(long, default_value = "bfloat16", value_parser = ["bfloat16", "float16", "float32"])]
    compute_dtype: String,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let opened = open(&args.model)?;
    let source = opened.source.as_ref();
    if source.is_quantized() {
        return Err(Error::usage(format!("{} is quantised already", source.describe())));
    }
    let all = tensors(source.config());
    for t in &all {
        if t.linear.is_some() && t.shape[1] % nf4::BLOCK != 0 {
            let message = format!("{} has {} inputs, not a multiple of {}", t.name, t.shape[1], nf4::BLOCK);
            return Err(Error::usage(format!("{} cannot be quantised: {message}", source.describe())));
        }
    }
    let double = !args.no_double_quant;
    let mut config = config_json(&opened)?;
    config["quantization_config"] = json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": args.compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": ["lm_head"],
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    });
    ensure_new_dir(&args.output)?;
    let mut writer = ModelWriter::create(&args.output, 6 * all.len(), 5_000_000_000)?;
    if let Some(dir) = &opened.dir {
        writer.copy_text_files(dir)?;
    }
    writer.json("config.json", &config)?;
    for t in &all {
        let weight = source.tensor(&t.name, &t.shape)?;
        if t.linear.is_some() {
            quantized(&mut writer, t, &weight, double)?;
        } else {
            writer.tensor(&t.name, Element::of(weight.dtype), &t.shape, &weight.bytes)?;
        }
        drop(weight);
        source.release(&t.name);
    }
    writer.commit()?;
    note(&format!("{}: {} in NF4", args.output.display(), source.describe()));
    Ok(())
}

/// config.json of an opened model; a synthetic one has none and gets one.
pub(super) fn config_json(opened: &Opened) -> Result<Value> {
    let Some(dir) = &opened.dir else {
        return Ok(opened.source.config().to_json(Element::of(opened.source.dense_dtype()).torch()));
    };
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    serde_json::from_str(&text).map_err(|e| Error::content(&path, "", format!("is not JSON: {e}")))
}

/// Writes one linear and the records beside it, named and shaped as bitsandbytes does.
fn quantized(writer: &mut ModelWriter, t: &ModelTensor, weight: &TensorData, double: bool) -> Result<()> {
    let floats = weight.floats();
    let (mut packed, mut absmax) = (vec![0; floats.len() / 2], vec![0.0; floats.len() / nf4::BLOCK]);
    nf4::quantize(floats, &mut packed, &mut absmax);
    if let Some(i) = absmax.iter().position(|a| !a.is_finite()) {
        let (row, block) = (i * nf4::BLOCK / t.shape[1], i * nf4::BLOCK % t.shape[1]);
        let message = format!("row {row}, columns from {block}: not finite");
        return Err(Error::failed(format!("tensor `{}`: {message}", t.name)));
    }
    let name = |suffix: &str| format!("{}.{suffix}", t.name);
    let f32s = |writer: &mut ModelWriter, suffix: &str, values: &[f32]| {
        writer.tensor(&name(suffix), Element::F32, &[values.len()], &Element::F32.encode(values))
    };
    writer.tensor(&t.name, Element::U8, &[packed.len(), 1], &packed)?;
    let mut offset = None;
    if double {
        let coded = nested::encode(&absmax, nested::Search::Nearest);
        writer.tensor(&name("absmax"), Element::U8, &[coded.codes.len()], &coded.codes)?;
        f32s(writer, "nested_absmax", &coded.absmax)?;
        f32s(writer, "nested_quant_map", &nested::dynamic_map())?;
        offset = Some(coded.offset);
    } else {
        f32s(writer, "absmax", &absmax)?;
    }
    f32s(writer, "quant_map", &nf4::CODE)?;
    let record = QuantState::nf4(Element::of(weight.dtype).torch(), &t.shape, offset).to_json();
    writer.tensor(&name("quant_state.bitsandbytes__nf4"), Element::U8, &[record.len()], record.as_bytes())
}

/// A linear as f32: dense as stored, or dequantised and rounded to bf16 as training sees it.
pub(super) fn linear_f32(source: &dyn WeightSource, t: &ModelTensor, through_nf4: bool) -> Result<(Element, Vec<f32>)> {
    let (n, k) = (t.shape[0], t.shape[1]);
    let path = t.name.strip_suffix(".weight").unwrap_or(&t.name);
    match source.linear(path, n, k)? {
        LinearData::Dense(w) if !through_nf4 => Ok((Element::of(w.dtype), w.to_f32())),
        LinearData::Dense(w) => {
            let (mut packed, mut absmax) = (vec![0; n * k / 2], vec![0.0; n * k / nf4::BLOCK]);
            nf4::quantize(w.floats(), &mut packed, &mut absmax);
            let mut out = vec![0.0; n * k];
            nf4::dequantize(&packed, &absmax, true, &mut out);
            Ok((Element::of(w.dtype), out))
        }
        LinearData::Nf4 { packed, absmax } => {
            let mut out = vec![0.0; n * k];
            nf4::dequantize(&packed, &absmax, true, &mut out);
            Ok((Element::Bf16, out))
        }
    }
}

/// True if `path` is a directory and the same as `other`: a command never writes where it reads.
pub(super) fn same_dir(path: &Path, other: &Path) -> bool {
    matches!((path.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(output: &Path, no_double_quant: bool) -> Args {
        let model = "synthetic:tiny@3".into();
        let compute_dtype = "bfloat16".into();
        Args { model, output: output.into(), double_quant: false, no_double_quant, compute_dtype }
    }

    #[test]
    fn a_checkpoint_reopens_with_the_same_values() {
        let root = tempfile::tempdir().expect("a directory");
        let dense = open("synthetic:tiny@3").expect("opens").source;
        for plain in [true, false] {
            let dir = root.path().join(if plain { "plain" } else { "double" });
            run(args(&dir, plain)).expect("quantised");
            let read = open(dir.to_str().expect("a path")).expect("opens").source;
            assert!(read.is_quantized() && read.config() == dense.config());
            for t in tensors(dense.config()) {
                let w = dense.tensor(&t.name, &t.shape).expect("made");
                if t.linear.is_none() {
                    assert_eq!(read.tensor(&t.name, &t.shape).expect("read").bytes, w.bytes);
                    continue;
                }
                let len = t.shape[0] * t.shape[1];
                let (mut packed, mut absmax) = (vec![0; len / 2], vec![0.0; len / nf4::BLOCK]);
                nf4::quantize(w.floats(), &mut packed, &mut absmax);
                if !plain {
                    absmax = nested::decode(&nested::encode(&absmax, nested::Search::Nearest), &nested::dynamic_map());
                }
                let path = t.name.strip_suffix(".weight").expect("a weight");
                let LinearData::Nf4 { packed: p, absmax: a } = read.linear(path, t.shape[0], t.shape[1]).expect("read")
                else {
                    panic!("{path} is dense");
                };
                assert_eq!((p.as_ref(), &a), (packed.as_slice(), &absmax), "{path}");
            }
        }
        let twice =
            Args { model: root.path().join("plain").display().to_string(), ..args(&root.path().join("x"), true) };
        assert!(run(twice).expect_err("refused").to_string().contains("quantised already"));
    }
}
