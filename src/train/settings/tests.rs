use super::*;
use crate::{
    settings::{Given, to_toml},
    train::config::differences,
};

fn settings(text: &str) -> Settings {
    Settings::from_toml(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A configuration of what must be given, and `text`.
fn config(text: &str) -> Result<TrainConfig> {
    settings(&format!("model = \"m\"\ntrain-file = \"t\"\noutput-dir = \"o\"\n{text}")).decide()
}

#[test]
fn defaults_are_those_of_transformers_scripts() {
    let c = config("").unwrap();
    assert_eq!(c.lora(3).unwrap().targets, Module::ALL.into());
    assert_eq!((c.samples_per_step(), c.token_budget(), c.logging_steps), (8, 2048, 1));
    assert_eq!((c.learning_rate, c.lora_r, c.lora_alpha, c.seed), (2e-4, 16, 32.0, 42));
    assert!(c.base.use_4bit && !c.base.head_4bit && c.loss_on == LossOn::Answer);
    assert_eq!(config("micro-batch-rows = 1024").unwrap().token_budget(), 1024);
    assert_eq!(config("micro-batch-rows = 4096").unwrap().token_budget(), 2048);
}

#[test]
fn absurd_values_are_errors_that_name_the_setting() {
    for (name, values) in [
        ("num-epochs", &["0", "-1", "nan", "inf"][..]),
        ("learning-rate", &["-1", "0", "nan", "2", "-0.0001"]),
        ("lora-r", &["0", "257", "10000"]),
        ("lora-alpha", &["0", "-3", "inf"]),
        ("lora-dropout", &["1.5", "1", "-0.1", "nan"]),
        ("batch-size", &["0", "99999999"]),
        ("gradient-accumulation-steps", &["0"]),
        ("max-seq-length", &["0", "1", "99999999999"]),
        ("warmup-ratio", &["1.1", "-0.1"]),
        ("warmup-steps", &["1099511627777", "9223372036854775807"]),
        ("weight-decay", &["-1", "7"]),
        ("max-grad-norm", &["-1", "nan"]),
        ("adam-beta2", &["1"]),
        ("adam-epsilon", &["0"]),
        ("max-steps", &["0"]),
        ("logging-steps", &["0"]),
        ("save-steps", &["0"]),
        ("save-total-limit", &["0"]),
        ("target-modules", &["[\"lm_head\"]", "[\"q_proj\", \"x\"]", "[]"]),
        ("eval-steps", &["5"]),
        ("early-stopping-patience", &["3"]),
        ("head-4bit", &["true\nuse-4bit = false"]),
        ("micro-batch-rows", &["0", "1023", "999999999"]),
        ("metric-for-best-model", &["\"accuracy\""]),
        ("threads", &["0", "1025"]),
    ] {
        for value in values {
            let e = config(&format!("{name} = {value}")).expect_err(value);
            assert_eq!(e.exit_code(), 2);
            assert!(e.to_string().starts_with(&format!("`{name}")), "{name} {value}: {e}");
        }
    }
    let e = config("batch-size = 60000\nmax-seq-length = 100000").unwrap_err().to_string();
    assert!(e.contains("`batch-size = 60000`: times `max-seq-length = 100000`"), "{e}");
    let e = settings("model = \"m\"\noutput-dir = \"o\"").decide().unwrap_err().to_string();
    assert!(e.starts_with("`train-file`: is missing"), "{e}");
}

#[test]
fn adapters_on_some_modules_and_layers() {
    let on = |text: &str| config(text).and_then(|c| c.lora(3)).map(|lora| lora.targets.to_string());
    for (text, expected) in [
        ("target-modules = [\" v_proj\", \"q_proj\"]", "q_proj v_proj"),
        ("exclude-modules = [\"mlp.up_proj\", \"gate_proj\", \"down_proj\"]", "q_proj k_proj v_proj o_proj"),
        ("target-modules = [\"q_proj\"]\nlayers-to-transform = [2, 0]", "q_proj in layers 0 2"),
        ("target-modules = [\"layers.1.mlp.up_proj\"]", "up_proj in layers 1"),
        ("target-modules = [\"up_proj\"]\nexclude-modules = [\"model.layers.0.mlp.up_proj\"]", "up_proj in layers 1 2"),
    ] {
        assert_eq!(on(text).unwrap(), expected, "{text}");
    }
    for (text, named) in [
        ("layers-to-transform = [3]", "`layers-to-transform = 3`: there is no layer 3 in a model of 3, from 0 to 2"),
        ("target-modules = [\"layers.7.mlp.up_proj\"]", "`target-modules = layers.7.mlp.up_proj`: there is no layer 7"),
        ("exclude-modules = [\"up\"]", "`exclude-modules = up`: there is no such module"),
        ("exclude-modules = [\"all\"]", "`exclude-modules = all`: there is no such module"),
        ("target-modules = [\"q_proj\"]\nexclude-modules = [\"up_proj\"]", "excludes nothing of what"),
        ("target-modules = [\"q_proj\"]\nexclude-modules = [\"q_proj\"]", "nothing would be trained"),
        ("target-modules = [\"layers.1.mlp.up_proj\"]\nlayers-to-transform = [0]", "nothing would be trained"),
    ] {
        let e = on(text).unwrap_err();
        assert!(e.to_string().contains(named) && e.exit_code() == 2, "{text}: {e}");
    }
    let same = |a: &str, b: &str| config(a).unwrap().trajectory() == config(b).unwrap().trajectory();
    assert!(same("layers-to-transform = [2, 0, 2]", "layers-to-transform = [0, 2]"));
    assert!(!same("layers-to-transform = [0]", "") && same("target-modules = [\"all-linear\"]", ""));
    let mut earlier = config("").unwrap().trajectory();
    earlier.retain(|name, _| name != "exclude-modules" && name != "layers-to-transform");
    assert_eq!(differences(&earlier, &config("").unwrap().trajectory()), Vec::<String>::new());
}

#[test]
fn what_other_programs_are_told() {
    let script = "max-steps-override = -1\nbf16 = true\nfp16 = false\nlora-bias = \"none\"\noptim = \"adamw_torch\"\n\
                  gradient-checkpointing = true";
    let (moved, plain) = (config(script).unwrap(), config("").unwrap());
    assert_eq!((&moved, moved.trajectory()), (&plain, plain.trajectory()), "it says nothing new");
    for (text, named) in [
        ("max-steps = -2", "`max-steps = -2`: must be from 1 to"),
        ("bf16 = false", "`bf16 = false`"),
        ("fp16 = true", "`fp16 = true`"),
        ("bias = \"all\"", "`lora-bias = all`"),
        ("optim = \"paged_adamw_8bit\"", "`optim = paged_adamw_8bit`"),
    ] {
        let e = config(text).unwrap_err();
        assert!(e.to_string().starts_with(named) && e.exit_code() == 2, "{text}: {e}");
    }
}

#[test]
fn flags_win_over_the_file() {
    let file = settings("learning-rate = 1e-3\nlora-r = 8\nlora-alpha = 16\nuse-4bit = true\ndevice = \"cpu\"");
    let flags = "model = \"m\"\ntrain-file = \"t\"\noutput-dir = \"o\"\nlora-r = 4\nuse-4bit = false";
    let c = settings(flags).over(file).decide().unwrap();
    assert_eq!((c.lora_r, c.learning_rate, c.lora_alpha, c.base.use_4bit), (4, 1e-3, 16.0, false));
    assert_eq!(c.machine.device.to_string(), "cpu");
}

#[test]
fn where_loss_falls_has_an_older_spelling() {
    for (text, expected) in [
        ("loss-on-output-only = true", Some(LossOn::Answer)),
        ("loss-on-output-only = false", Some(LossOn::Everything)),
        ("loss-on = \"all-turns\"", Some(LossOn::AllTurns)),
        ("loss-on = \"all-turns\"\nloss-on-output-only = false", Some(LossOn::AllTurns)),
        ("loss-on = \"answer\"\nloss-on-output-only = true", Some(LossOn::Answer)),
        ("loss-on = \"answer\"\nloss-on-output-only = false", None),
        ("loss-on = \"all-turns\"\nloss-on-output-only = true", None),
    ] {
        let found = config(text);
        match expected {
            Some(on) => assert_eq!(found.unwrap().loss_on, on, "{text}"),
            None => {
                let e = found.unwrap_err();
                assert!(e.exit_code() == 2 && e.to_string().contains("contradicts `loss-on`"), "{text}: {e}");
            }
        }
    }
    // A flag in either spelling wins over a file in the other.
    let needed = "model = \"m\"\ntrain-file = \"t\"\noutput-dir = \"o\"\n";
    for (flag, file, expected) in [
        ("loss-on = \"everything\"", "loss-on-output-only = true", LossOn::Everything),
        ("loss-on-output-only = true", "loss-on = \"all-turns\"", LossOn::Answer),
    ] {
        let c = settings(&format!("{needed}{flag}")).over(settings(file)).decide().unwrap();
        assert_eq!(c.loss_on, expected, "{flag} over {file}");
    }
}

#[test]
fn the_written_configuration_reads_back_as_itself() {
    let full = "eval-file = \"e\"\ninit-adapter = \"i\"\nmax-steps = 9\nwarmup-steps = 2\nsave-total-limit = 2\n\
                eval-steps = 3\nearly-stopping-patience = 2\nmemory-limit = \"9GiB\"\nrslora = true\nnum-epochs = 0.5\n\
                use-4bit = false\nnf4-path = \"scratch\"\nsm-limit = 28\npacked-cache = \"never\"\ndevice = \"cuda:1\"\n\
                loss-on = \"all-turns\"\ntext-style = \"raw\"\ntokenizer = \"漢字 \\\"x\\\"\"";
    for text in ["", full, "head-4bit = true\nmicro-batch-rows = 1024"] {
        let c = config(text).unwrap();
        let again = settings(&c.to_toml().unwrap()).decide().unwrap();
        assert_eq!(c, again);
        assert_eq!(c.hash(), again.hash());
    }
}

/// What irori 0.1.0 wrote before `loss-on`, `sm-limit`, `nf4-path` and `packed-cache` were settings.
const OLDER: &str = include_str!("older_run.toml");

#[test]
fn an_older_configuration_is_still_read() {
    let c = settings(OLDER).decide().unwrap();
    assert_eq!((c.lora_r, c.loss_on, c.machine.threads), (4, LossOn::Everything, Some(2)));
    assert_eq!((c.base.model.as_str(), c.machine.memory_limit.unwrap().to_string().as_str()), ("work/m", "4GiB"));
}

#[test]
fn what_decides_the_course_is_compared() {
    let base = config("").unwrap().hash();
    for same in [
        "logging-steps = 5",
        "save-steps = 7",
        "device = \"cpu\"",
        "target-modules = [\"all\"]",
        "head-4bit = false",
        "nf4-path = \"scratch\"",
        "loss-on-output-only = true",
    ] {
        assert_eq!(config(same).unwrap().hash(), base, "{same}");
    }
    for other in [
        "learning-rate = 1e-4",
        "seed = 1",
        "batch-size = 1",
        "max-steps = 3",
        "use-4bit = false",
        "rslora = true",
        "head-4bit = true",
        "micro-batch-rows = 1024",
        "loss-on = \"all-turns\"",
        "text-style = \"raw\"",
    ] {
        assert_ne!(config(other).unwrap().hash(), base, "{other}");
    }
    let (a, b) = (config("").unwrap(), config("learning-rate = 0.001\nmax-steps = 3").unwrap());
    let what = differences(&a.trajectory(), &b.trajectory());
    assert_eq!(what, ["learning-rate was 0.0002, is 0.001", "max-steps was not set, is 3"]);
}

/// The trajectory in a checkpoint of irori 0.1.0 before `loss-on`: the same run has no difference to it.
#[test]
fn an_older_trajectory_is_compared_as_what_it_meant() {
    let now = |text: &str| config(&format!("num-epochs = 1\nlora-r = 4\n{text}")).unwrap().trajectory();
    let old: serde_json::Map<_, _> = serde_json::from_str(include_str!("older_trajectory.json")).unwrap();
    assert_eq!(differences(&old, &now("")), [""; 0]);
    let what = differences(&old, &now("loss-on = \"all-turns\"\nhead-4bit = true"));
    assert_eq!(what, [r#"head-4bit was false, is true"#, r#"loss-on was "answer", is "all-turns""#]);
    // Without 4 bits the types of 4 bits are no part of it.
    let mut dense = old.clone();
    dense.retain(|key, _| !key.starts_with("bnb-4bit"));
    dense.insert("use-4bit".into(), false.into());
    dense.insert("loss-on-output-only".into(), false.into());
    assert_eq!(differences(&dense, &now("use-4bit = false\nloss-on = \"everything\"")), [""; 0]);
}

#[test]
fn the_help_of_the_rank_names_the_largest() {
    let rank = Settings::definitions().into_iter().find(|d| d.is("lora-r")).unwrap();
    assert!(rank.help.contains(&format!("1 to {}", crate::model::lora::MAX_RANK)), "{}", rank.help);
}

#[test]
fn every_setting_is_said_whole() {
    let all = Settings::definitions();
    let mut names: Vec<&str> =
        all.iter().flat_map(|d| d.aliases.iter().chain([&d.name]).chain(&d.off)).copied().collect();
    names.sort_unstable();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before, "two settings of one name");
    for d in &all {
        assert!(d.help.len() > 3 && !d.help.ends_with('.') && !d.help.contains("--"), "{}: {}", d.name, d.help);
        assert!(d.value != "VALUE", "{} has no name for its value", d.name);
        for choice in (d.choices)() {
            assert_eq!((d.check)(&choice.name), Ok(()), "{}", d.name);
        }
        let Some(default) = (d.default)() else { continue };
        let written = to_toml(&[(*d, default)]);
        let mut read = Settings::default();
        let again = toml::from_str::<toml::Table>(&written).unwrap();
        let text = toml::to_string(&again).unwrap();
        read = read.or(settings(&text));
        assert!(read != Settings::default(), "{written}");
        // A word of the command line is refused by the same rule.
        if d.words == crate::settings::Words::One {
            let word = d.default_words().filter(|_| d.otherwise.is_none());
            assert!(word.is_none_or(|w| read.put(d.name, Given::Words(&[&w])) == Ok(true)), "{}", d.name);
        }
    }
}
