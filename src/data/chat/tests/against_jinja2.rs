//! Templates against Jinja2 itself: the recorded outputs of `tests/goldens/templates.json`, and (for
//! `tests/templates.py`, which renders templates from elsewhere) cases of a file.

use super::super::for_template;
use crate::data::jinja::{Template, Value, Variables};
use jiff::civil::DateTime;
use serde_json::{Value as Json, json};
use std::path::Path;

/// The time that `make_templates.py` has `strftime_now` tell.
const NOW: DateTime = DateTime::constant(2026, 11, 5, 14, 3, 9, 42_000_000);

fn list<'j>(value: &'j Json, name: &str) -> &'j [Json] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// What transformers' `render_jinja_template` is given for a case.
fn variables(case: &Json) -> Variables {
    let turn = |message: &Json| for_template(message.as_object().expect("a turn").clone());
    let mut variables: Variables = [
        ("messages", Value::list(list(case, "messages").iter().map(turn).collect())),
        ("tools", Value::from_json(&case["tools"])),
        ("documents", Value::from_json(&case["documents"])),
        ("add_generation_prompt", Value::Bool(case["add_generation_prompt"] == true)),
    ]
    .map(|(name, value)| (name.into(), value))
    .into();
    for (name, value) in case["variables"].as_object().into_iter().flatten() {
        variables.insert(name.as_str().into(), Value::from_json(value));
    }
    variables
}

fn rendered(template: &str, case: &Json) -> Result<String, String> {
    let described = |fault: crate::data::jinja::Fault| format!("line {}: {}", fault.line, fault.message);
    let template = Template::parse(template).map_err(described)?;
    template.render_at(&variables(case), NOW).map_err(described)
}

#[test]
fn templates_render_as_jinja2_renders_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/templates.json");
    let goldens: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for case in list(&goldens, "cases") {
        let name = case["name"].as_str().unwrap();
        let mut case = case.clone();
        for shared in ["messages", "variables"] {
            if case[shared].is_null() {
                case[shared] = goldens[shared].clone();
            }
        }
        let ours = rendered(case["template"].as_str().unwrap(), &case);
        match (case["text"].as_str(), ours) {
            (Some(theirs), Ok(ours)) if theirs == ours => {}
            (None, Err(_)) => {}
            // What irori does not render it must say.
            (Some(_), Err(e)) if case["refused"] == true && e.contains("irori does not render") => {}
            (theirs, ours) => wrong.push(format!("{name}: jinja2 {theirs:?} ({}), irori {ours:?}", case["error"])),
        }
    }
    assert!(list(&goldens, "cases").len() > 300, "the corpus is whole");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Run by `tests/templates.py`: renders every template of the file `IRORI_TEMPLATES` for every case in it, and writes the
/// results beside it.
#[test]
#[ignore = "a part of tests/templates.py"]
fn render_the_cases_of_a_file() {
    let path = std::path::PathBuf::from(std::env::var("IRORI_TEMPLATES").expect("IRORI_TEMPLATES"));
    let input: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let all = |template: &Json| -> Vec<Json> {
        let template = template.as_str().unwrap();
        let one = |case: &Json| match rendered(template, case) {
            Ok(text) => json!({"text": text}),
            Err(error) => json!({"error": error}),
        };
        list(&input, "cases").iter().map(one).collect()
    };
    let results: Vec<Vec<Json>> = list(&input, "templates").iter().map(all).collect();
    std::fs::write(path.with_extension("rendered.json"), serde_json::to_vec(&results).unwrap()).unwrap();
}
