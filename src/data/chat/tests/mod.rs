//! Which template is taken, and what it is given.

mod against_jinja2;

use super::*;
use crate::data::shared::shared;

fn turns(list: &[(&str, &str)]) -> Vec<Message> {
    list.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

#[test]
fn the_real_template() {
    let Some(dir) = shared("qwen3_tokenizer") else { return };
    let template = ChatTemplate::load(&dir).unwrap();
    let user = turns(&[("user", "問い <b>&'\"")]);
    let off = "<|im_start|>user\n問い <b>&'\"<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
    assert_eq!(template.render(&user, true, false).unwrap(), off);
    assert_eq!(template.render(&user, true, true).unwrap(), off.strip_suffix("<think>\n\n</think>\n\n").unwrap());
    let talk = turns(&[
        ("system", "S"),
        ("user", "一"),
        ("assistant", "<think>\nt\n</think>\n\nA1"),
        ("user", "二"),
        ("assistant", "<think>\nu\n</think>\n\nA2"),
    ]);
    assert_eq!(
        template.render(&talk, false, false).unwrap(),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n一<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n\
         <|im_start|>user\n二<|im_end|>\n<|im_start|>assistant\n<think>\nu\n</think>\n\nA2<|im_end|>\n"
    );
    assert_eq!(template.end_of_turn().unwrap().as_deref(), Some("<|im_end|>"));
}

/// Byte for byte as Python's jinja2 with transformers' settings, over conversations of every form.
#[test]
fn as_jinja2_renders_it() {
    let Some(dir) = shared("qwen3_tokenizer") else { return };
    let template = ChatTemplate::load(&dir).unwrap();
    let contents =
        ["", "あ\n", "\n<think>\nx\n\n</think>\n\n\ny", "<tool_response>r</tool_response>", "{{ a }} </think>", " é\t"];
    let mut talks = Vec::new();
    for (i, first) in contents.iter().enumerate() {
        for second in contents {
            let third = contents[(i + 1) % contents.len()];
            talks.push(turns(&[("user", first), ("assistant", second)]));
            talks.push(turns(&[("system", second), ("user", first), ("assistant", third), ("user", second)]));
            talks.push(turns(&[("user", third), ("assistant", first), ("assistant", second), ("system", "s")]));
        }
    }
    let script = "import json,sys\nfrom jinja2.sandbox import ImmutableSandboxedEnvironment as E\n\
        e=E(trim_blocks=True,lstrip_blocks=True,extensions=['jinja2.ext.loopcontrols'])\n\
        t=e.from_string(open(sys.argv[1]).read())\n\
        print(json.dumps([t.render(messages=m,add_generation_prompt=g,enable_thinking=k) for m in json.load(open(sys.argv[2])) for g in (0,1) for k in (False,True)]))";
    let input = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&input, &talks).unwrap();
    let python = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(dir.join("chat_template.jinja"))
        .arg(input.path())
        .output();
    let output = match python {
        Ok(output) if output.status.success() => output.stdout,
        _ => return eprintln!("SKIP: python3 with jinja2 is not there"),
    };
    let expected: Vec<String> = serde_json::from_slice(&output).unwrap();
    let mut expected = expected.iter();
    for talk in &talks {
        for (generation, thinking) in [(false, false), (false, true), (true, false), (true, true)] {
            let ours = template.render(talk, generation, thinking).unwrap();
            assert_eq!(&ours, expected.next().unwrap(), "{talk:?}");
        }
    }
    assert!(expected.next().is_none());
}

#[test]
fn where_the_template_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let render = || ChatTemplate::load(dir.path()).and_then(|t| t.render(&turns(&[("user", "x")]), true, false));
    assert_eq!(render().unwrap(), "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>",
        "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "{{ bos_token }}D{{ eos_token }}"}]}"#,
    );
    assert_eq!(render().unwrap(), "<s>D</s>");
    write("tokenizer_config.json", r#"{"chat_template": "{{ {'a': [1, 'あ<']} | tojson }}"}"#);
    assert_eq!(render().unwrap(), r#"{"a": [1, "あ<"]}"#);
    write("chat_template.jinja", "{{ raise_exception('no system\\nplease') }}");
    assert!(render().unwrap_err().to_string().ends_with("chat template, line 1: no system\nplease"));
    write("chat_template.jinja", "{{ strftime_now('%d %b %Y') }}");
    assert_eq!(render().unwrap().len(), 11);
    write("chat_template.jinja", "\n{% for %}");
    assert!(
        render().unwrap_err().to_string().contains("chat_template.jinja: chat template, line 2: expected token 'name'")
    );
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    write("tokenizer_config.json", "{");
    assert!(render().unwrap_err().to_string().contains("tokenizer_config.json: not valid JSON"));
    write("tokenizer_config.json", r#"{"chat_template": 3}"#);
    assert!(render().unwrap_err().to_string().contains("field `chat_template`: expected a text"));
}

#[test]
fn named_templates() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let tools = [serde_json::json!({"type": "function"})];
    let render = |tools: &[serde_json::Value]| {
        ChatTemplate::load(dir.path()).and_then(|t| t.render_with(&turns(&[("user", "x")]), tools, true, false))
    };
    write("chat_template.json", r#"{"chat_template": "from a processor"}"#);
    assert_eq!(render(&[]).unwrap(), "from a processor");
    let named = |name: &str| format!(r#"{{"name": "{name}", "template": "{name} {{{{ tools is none }}}}"}}"#);
    write("tokenizer_config.json", &format!(r#"{{"chat_template": [{}, {}]}}"#, named("default"), named("tool_use")));
    assert_eq!((render(&[]).unwrap(), render(&tools).unwrap()), ("default True".into(), "tool_use False".into()));
    write("tokenizer_config.json", &format!(r#"{{"chat_template": [{}, {}]}}"#, named("default"), named("rag")));
    assert_eq!(render(&tools).unwrap(), "default False");
    write("tokenizer_config.json", &format!(r#"{{"chat_template": [{}, {}]}}"#, named("rag"), named("tool_use")));
    assert!(
        render(&[])
            .unwrap_err()
            .to_string()
            .contains("no template named `default`, and irori takes no other; it has `rag`, `tool_use`")
    );
    write("tokenizer_config.json", &format!(r#"{{"chat_template": [{}, {}]}}"#, named("default"), named("default")));
    assert!(render(&[]).unwrap_err().to_string().contains("field `chat_template[1]`: a second template of the name"));
    write("tokenizer_config.json", r#"{"chat_template": [{"name": "default"}]}"#);
    assert!(
        render(&[]).unwrap_err().to_string().contains("field `chat_template[0]`: expected an object with the texts")
    );

    // Files go before the configuration, which is then not asked at all.
    write("additional_chat_templates/tool_use.jinja", "a file for tools");
    assert!(render(&[]).unwrap_err().to_string().contains("it has `tool_use`"));
    write("chat_template.jinja", "a file");
    assert_eq!((render(&[]).unwrap(), render(&tools).unwrap()), ("a file".into(), "a file for tools".into()));
    write("additional_chat_templates/tool_use.jinja", "\n{% if %}");
    let message = render(&[]).unwrap_err().to_string();
    assert!(message.contains("tool_use.jinja: chat template, line 2: "), "{message}");
}

#[test]
fn special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "chat_template.jinja",
        "{{ bos_token }}|{{ eos_token }}|{{ unk_token is defined }}|{{ pad_token }}|{{ image_token }}|{{ x_token }}",
    );
    let config = r#""bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": null, "image_token": "<i>",
        "extra_special_tokens": {"x_token": "<x>"}"#;
    let render = || ChatTemplate::load(dir.path()).and_then(|t| t.render(&turns(&[("user", "x")]), true, false));
    write("tokenizer_config.json", &format!("{{{config}}}"));
    assert_eq!(render().unwrap(), "<s>|</s>|False||<i>|<x>");
    write("special_tokens_map.json", r#"{"pad_token": {"content": "<p>"}, "eos_token": "<e>"}"#);
    assert_eq!(render().unwrap(), "<s>|<e>|False|<p>|<i>|<x>");
    write("tokenizer_config.json", &format!("{{{config}, \"added_tokens_decoder\": {{}}}}"));
    assert_eq!(render().unwrap(), "<s>|</s>|False||<i>|<x>", "a configuration with its added tokens stands alone");
    write("tokenizer_config.json", r#"{"bos_token": 3}"#);
    assert!(render().unwrap_err().to_string().contains("field `bos_token`: expected a token"));
}

#[test]
fn turns_as_templates_see_them() {
    let template = |source: &str| ChatTemplate::parse(Path::new("t"), source.into()).unwrap();
    let mut turn = Message::new("assistant", "A");
    turn.fields.insert("thinking".into(), "T".into());
    turn.fields.insert("name".into(), serde_json::Value::Null);
    turn.fields
        .insert("tool_calls".into(), serde_json::json!([{"arguments": "{\"x\": 1.0}"}, {"arguments": {"x": 1.0}}]));
    let shown = template("{{ messages[0]|tojson }}").render(&[turn], false, false).unwrap();
    assert_eq!(
        shown,
        r#"{"thinking": "T", "role": "assistant", "content": "A", "tool_calls": [{"arguments": "{\"x\": 1.0}"}, {"arguments": {"x": 1.0}}], "reasoning_content": "T"}"#
    );
    let nothing = template("{{ tools is none }}{{ documents is none }}{{ enable_thinking }}{{ x is defined }}");
    assert_eq!(nothing.render(&turns(&[("user", "x")]), false, true).unwrap(), "TrueTrueTrueFalse");
}
