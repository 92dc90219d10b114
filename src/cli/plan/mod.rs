//! `irori plan`: what a training run will take, said before it starts: memory by item, steps, tokens, time; what each part
//! of the plan would change, and the largest jobs that fit.

mod show;

use super::{common::Terminal, flags::Flags};
use crate::{
    Result,
    plan::device::{self, GPUS, GpuProfile},
    run::forecast::Forecast,
    settings::Group,
    train::Settings,
};
use std::path::PathBuf;

/// Arguments of `irori plan`: those of `irori train`, and the device to plan for.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: Flags<Settings>,
    /// Read settings from this TOML file; flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Plan for a GPU that need not be here: a100-2g.20gb, a100-3g.20gb, a100-80gb, h100, h200, rtx3080-10gb
    #[arg(long, value_name = "NAME", value_parser = parse_gpu)]
    gpu: Option<&'static GpuProfile>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_gpu(name: &str) -> Result<&'static GpuProfile, String> {
    device::profile(name).ok_or_else(|| {
        let known: Vec<&str> = GPUS.iter().map(|p| p.name).collect();
        format!("`{name}` is not a GPU that irori knows; known are {}", known.join(", "))
    })
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let json = args.json;
    let forecast = make(args)?;
    let text = if json { format!("{:#}\n", show::json(&forecast)?) } else { show::table(&forecast)? };
    super::print(&text)
}

fn make(args: Args) -> Result<Forecast> {
    let file = args.config.as_deref().map(Settings::from_file).transpose()?.unwrap_or_default();
    Forecast::make(args.settings.0.over(file), args.gpu, &mut Terminal::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn made(flags: &str) -> Result<Forecast> {
        make(Line::try_parse_from(std::iter::once("irori").chain(flags.split_whitespace())).unwrap().args)
    }

    /// The second way to multiply by NF4 weights needs room for one of them, and the plan counts it.
    #[test]
    fn the_scratch_of_a_path_is_planned() {
        let scratch = |path: &str| {
            let forecast = made(&format!("--model synthetic:qwen3-8b --gpu rtx3080-10gb --nf4-path {path}")).unwrap();
            let items = forecast.plan.items;
            items.iter().find(|(kind, _)| *kind == crate::backend::Kind::Scratch).map_or(0, |(_, bytes)| *bytes)
        };
        assert_eq!(scratch("auto"), scratch("fused"));
        // gate and up are one matrix.
        let largest = 2 * 12_288 * 4096 * 2;
        assert!(scratch("scratch") >= largest && scratch("fused") < largest, "{}", scratch("scratch"));
    }

    #[test]
    fn json_and_table_say_the_same() {
        let made = made("--model synthetic:qwen3-8b --gpu a100-2g.20gb").unwrap();
        let (json, table) = (show::json(&made).unwrap(), show::table(&made).unwrap());
        for key in ["bytes", "limit_bytes", "host_bytes", "reserved_outside_bytes"] {
            let bytes = json[key].as_u64().unwrap();
            assert!(table.contains(&format!(" {bytes} B ")), "{key}: {bytes} in\n{table}");
        }
        let alternatives = json["alternatives"].as_array().unwrap();
        assert_eq!(alternatives.len(), 10);
        for a in alternatives {
            let shown = format!("{:>12.3}{:>+9.3}", show::gib(a["bytes"].as_f64().unwrap()), {
                show::gib(a["bytes"].as_f64().unwrap() - json["bytes"].as_f64().unwrap())
            });
            assert!(table.contains(&shown) && table.contains(&format!("{:.4}", a["step_seconds"].as_f64().unwrap())));
        }
        let largest = &json["largest_that_fits"];
        assert!(table.contains(&format!("a batch of {} × 1024 tokens", largest["batch_size"])), "{table}");
        assert!(table.contains(largest["model"].as_str().unwrap()), "{table}");
    }
}
