//! `irori quantize`: a model as a bitsandbytes-format NF4 checkpoint, which transformers and irori load.
//!
//! One tensor is in memory at a time. Embedding, norms and head stay as they are.

use super::common::note;
use crate::{
    Error, Result,
    files::RealDisk,
    model::{
        catalogue::{HEAD, tensors},
        convert,
        sink::{HfOptions, HfSink, WeightSink, copy_text_files, json_file},
        source::open,
    },
    quant::nf4,
};
use serde_json::json;
use std::path::PathBuf;

/// Tensors that a quantised one becomes, at most.
const RECORDS: usize = 6;

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
    if let Some(t) = convert::not_for_nf4(source) {
        return Err(Error::usage(format!(
            "{} cannot be quantised: {} has {} inputs, not a multiple of {}",
            source.describe(),
            t.name,
            t.shape[1],
            nf4::BLOCK
        )));
    }
    source.remarks()?.iter().for_each(|remark| note(remark));
    let skipped: Vec<String> =
        convert::kept_dense(source).map(|t| t.path().to_owned()).chain([HEAD.to_owned()]).collect();
    let double_quant = !args.no_double_quant;
    let mut config = opened.config_json()?;
    config["quantization_config"] = json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": args.compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double_quant,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    });
    let options = HfOptions { double_quant, ..HfOptions::new(RECORDS * tensors(source.config()).len()) };
    let mut sink: Box<dyn WeightSink> = Box::new(HfSink::create(&RealDisk, &args.output, options)?);
    if let Some(dir) = &opened.dir {
        copy_text_files(sink.as_mut(), dir)?;
    }
    json_file(sink.as_mut(), "config.json", &config)?;
    convert::quantize(source, sink.as_mut())?;
    sink.commit()?;
    note(&format!("{}: {} in NF4", args.output.display(), source.describe()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::source::LinearData,
        quant::{nested, nf4::Nf4},
    };
    use std::path::Path;

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
                let Some((n, k)) = t.linear() else {
                    assert_eq!(read.tensor(&t.name, &t.shape).expect("read"), w);
                    continue;
                };
                let mut want = Nf4::of(w.floats().expect("floats"));
                if !plain {
                    let coded = nested::encode(&want.absmax, nested::Search::Nearest);
                    want.absmax = nested::decode(&coded, &nested::dynamic_map());
                }
                let LinearData::Nf4(found) = read.linear(t.path(), n, k).expect("read") else {
                    panic!("{} is dense", t.name);
                };
                assert_eq!(found, want, "{}", t.name);
            }
        }
        let twice =
            Args { model: root.path().join("plain").display().to_string(), ..args(&root.path().join("x"), true) };
        assert!(run(twice).expect_err("refused").to_string().contains("quantised already"));
    }
}
