//! Settings as flags of the command line, made from their definitions; and the flags that choose a model that answers.

use super::common::Terminal;
use crate::{
    Result,
    data::encode::TextStyle,
    plan::settings::{BaseSettings, MachineSettings},
    run::inference::{Asked, Generation, Inference, Session},
    settings::{Definition, Given, Group, Words},
    train::Settings,
};
use clap::{
    Arg, ArgAction, ArgMatches, Command, FromArgMatches,
    builder::{PossibleValue, PossibleValuesParser, ValueParser},
};
use std::path::PathBuf;

/// A group of settings, given as flags.
#[derive(Debug, Clone, Default)]
pub struct Flags<G>(pub G);

impl<G: Group> clap::Args for Flags<G> {
    fn augment_args(command: Command) -> Command {
        G::definitions().into_iter().fold(command, |command, d| command.args(arguments(d)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<G: Group> FromArgMatches for Flags<G> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self(G::default());
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for d in G::definitions() {
            let off = d.off.is_some_and(|name| matches.get_flag(name));
            let words: Vec<&str> = if off {
                vec!["false"]
            } else {
                matches.get_many::<String>(d.name).into_iter().flatten().map(String::as_str).collect()
            };
            if words.is_empty() {
                continue;
            }
            self.0.put(d.name, Given::Words(&words)).map_err(|e| {
                clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("--{}: {e}\n", d.name))
            })?;
        }
        Ok(())
    }
}

/// The flag of a setting, and the one that says no.
fn arguments(d: &'static Definition) -> Vec<Arg> {
    let default = d.default_words().map_or(String::new(), |words| format!(" [default: {words}]"));
    let arg = Arg::new(d.name)
        .long(d.name)
        .aliases(d.aliases)
        .help(flags_in(d.help, &|name, _| is_setting(name)) + &default)
        .help_heading(d.heading)
        .value_name(d.value)
        .allow_negative_numbers(true)
        .value_parser(parser(d));
    let arg = match d.words {
        Words::One => arg.allow_hyphen_values(d.value == "SIZE"),
        Words::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Words::Many => arg.action(ArgAction::Append).num_args(1..).value_delimiter(','),
    };
    let Some(off) = d.off else { return vec![arg] };
    let no = Arg::new(off)
        .long(off)
        .action(ArgAction::SetTrue)
        .conflicts_with(d.name)
        .help(format!("The same as --{}=false", d.name))
        .help_heading(d.heading);
    vec![arg, no]
}

/// Accepts the words that can be the setting's value, and keeps them as they are.
fn parser(d: &'static Definition) -> ValueParser {
    let choices = (d.choices)();
    if choices.is_empty() {
        return ValueParser::new(move |word: &str| (d.check)(word).map(|()| word.to_owned()));
    }
    let values = choices.into_iter().map(|c| {
        let value = PossibleValue::new(c.name).aliases(c.aliases);
        if c.help.is_empty() { value } else { value.help(c.help.trim_end_matches('.').to_owned()) }
    });
    PossibleValuesParser::new(values).into()
}

/// Whether some command has a setting of this name.
fn is_setting(name: &str) -> bool {
    Settings::definitions().iter().any(|d| d.is(name))
}

/// `text` with every `` `setting` `` and `` `setting = value` `` as one would type it: `--setting value`. `known` says what
/// is a setting; what else stands in backticks stays.
pub fn flags_in(text: &str, known: &dyn Fn(&str, Option<&str>) -> bool) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    let mut out = String::with_capacity(text.len());
    for (i, part) in parts.iter().enumerate() {
        let (name, value) = part.split_once(" = ").map_or((*part, None), |(name, value)| (name, Some(value)));
        match i % 2 == 1 {
            false => out.push_str(part),
            true if i + 1 == parts.len() => out.extend(["`", part]),
            true if known(name, value) => out.push_str(&flag(name, value)),
            true => out.extend(["`", part, "`"]),
        }
    }
    out
}

/// A setting as a flag: `--lora-r 8`; for one that is on or off, the flag that says so.
pub fn flag(name: &str, value: Option<&str>) -> String {
    match value {
        None => format!("--{name}"),
        Some(value @ ("true" | "false")) => {
            let off = Settings::definitions().iter().find(|d| d.is(name)).and_then(|d| d.off);
            match (value, off) {
                ("false", Some(off)) => format!("--{off}"),
                ("true", _) => format!("--{name}"),
                _ => format!("--{name}={value}"),
            }
        }
        Some(value) => format!("--{name} {value}"),
    }
}

/// Which model answers, and on what.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ModelArgs {
    #[command(flatten)]
    base: Flags<BaseSettings>,
    /// PEFT adapter directory
    #[arg(long, alias = "hf-lora-path", value_name = "DIR", help_heading = "Base model")]
    pub adapter: Option<PathBuf>,
    /// Use the adapter although it was trained beside other weights than the model's
    #[arg(long, help_heading = "Base model")]
    other_base: bool,
    /// Longest prompt (with its answer) in tokens [default: 4096, or fewer if the model knows fewer positions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576), help_heading = "Base model")]
    max_seq_length: Option<u32>,
    #[command(flatten)]
    machine: Flags<MachineSettings>,
}

impl ModelArgs {
    /// What model, adapter and text are, as given or as the adapter was trained.
    ///
    /// # Errors
    /// If no model is named, flags contradict each other, or the adapter is not there.
    pub fn decide(&self, style: Option<TextStyle>) -> Result<Asked> {
        let (given, adapter) = (self.base.0.clone(), self.adapter.as_deref());
        Asked::decide(given, style, adapter, self.other_base, &mut Terminal::default())
    }

    /// Opens the model with its adapter and its tokenizer.
    ///
    /// # Errors
    /// What is missing or malformed, or does not fit.
    pub fn open(&self, asked: &Asked, generation: Option<Generation>) -> Result<Session> {
        let inference = Inference {
            asked,
            machine: self.machine.0.clone().resolve()?,
            max_len: self.max_seq_length.map(|n| n as usize),
            generation,
        };
        Session::open(&inference, &mut Terminal::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::TrainConfig;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        settings: Flags<Settings>,
    }

    fn line(args: &str) -> Result<Settings, clap::Error> {
        Line::try_parse_from(std::iter::once("irori").chain(args.split_whitespace())).map(|l| l.settings.0)
    }

    fn config(args: &str) -> TrainConfig {
        line(&format!("--model m --train-file t --output-dir o {args}")).unwrap().decide().unwrap()
    }

    #[test]
    fn a_script_for_transformers_works_with_its_own_names() {
        let c = line(
            "--model-name m --train-file t --output-dir o --num-epochs 3 --batch-size 2 --max-seq-length 1024 \
             --gradient-accumulation-steps 4 --learning-rate 2e-4 --warmup-ratio 0.03 --weight-decay 0.0 --lora-r 16 \
             --lora-alpha 32 --lora-dropout 0.05 --target-modules q_proj k_proj,v_proj --use-4bit \
             --bnb-4bit-quant-type nf4 --bnb-4bit-compute-dtype bf16 --train-mode cot --loss-on-output-only \
             --logging-steps 50 --save-steps 500 --max-steps-override 50",
        )
        .unwrap()
        .decide()
        .unwrap();
        assert_eq!(c.target_modules, ["q_proj", "k_proj", "v_proj"]);
        assert_eq!((c.max_steps, c.logging_steps), (Some(50), 50));
        assert_eq!(config("--target-modules q_proj --target-modules o_proj").target_modules, ["q_proj", "o_proj"]);
        assert_eq!(config("--style raw").text_style, TextStyle::Raw);
    }

    #[test]
    fn what_is_on_or_off_has_a_flag_for_both() {
        assert!(config("").base.use_4bit && config("--use-4bit").base.use_4bit);
        assert!(!config("--no-4bit").base.use_4bit && !config("--use-4bit=false").base.use_4bit);
        assert!(config("--rslora").rslora && !config("--rslora=false").rslora);
        let e = line("--use-4bit --no-4bit").unwrap_err().to_string();
        assert!(e.contains("--use-4bit") && e.contains("--no-4bit"), "{e}");
    }

    #[test]
    fn what_is_no_value_is_refused_by_the_name_of_the_flag() {
        for args in [
            "--batch-size -1",
            "--lora-r x",
            "--bnb-4bit-quant-type fp4",
            "--save-steps 1.5",
            "--seed -4",
            "--device gpu",
            "--memory-limit -5GiB",
            "--nf4-path fast",
            "--loss-on prompt",
        ] {
            let text = line(args).unwrap_err().to_string();
            assert!(text.contains(args.split(' ').next().unwrap()), "{text}");
        }
    }

    #[test]
    fn texts_name_flags_where_they_name_settings() {
        let known = |name: &str, _: Option<&str>| matches!(name, "lora-r" | "use-4bit" | "head-4bit");
        for (text, expected) in [
            ("raise `lora-r`", "raise --lora-r"),
            ("`lora-r = 8`: too few", "--lora-r 8: too few"),
            ("`use-4bit = false` or `use-4bit = true`", "--no-4bit or --use-4bit"),
            ("`head-4bit = false`", "--head-4bit=false"),
            ("field `output`: a `lora-r", "field `output`: a `lora-r"),
            ("none", "none"),
        ] {
            assert_eq!(flags_in(text, &known), expected);
        }
    }
}
