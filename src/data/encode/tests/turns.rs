//! Samples beside what templates of all kinds show: turns with and without thoughts, ends and role marks.

use super::*;
use serde_json::json;

const USER: &str = "<|im_start|>user\nq<|im_end|>\n";

/// ChatML whose model turns are written by `turn`, and whose prompts end in `opening` (an expression).
fn chatml(turn: &str, opening: &str) -> String {
    format!(
        "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{% if m.role == 'assistant' %}}{turn}{{% else %}}\
         {{{{ m.content }}}}{{% endif %}}<|im_end|>\n{{% endfor %}}{{% if add_generation_prompt %}}\
         {{{{ '<|im_start|>assistant\\n' }}}}{{{{ {opening} }}}}{{% endif %}}"
    )
}

/// Templates by what they do with thoughts.
fn template(kind: &str) -> String {
    let all = "{{ m.content }}";
    let stripped = "{{ m.content.split('</think>')[-1].lstrip('\n') }}";
    let closed = "'' if enable_thinking else '<think>\\n\\n</think>\\n\\n'";
    match kind {
        "plain" => chatml(all, "''"),
        "opens a thought" => chatml(all, "'<think>\\n'"),
        "opens a thought, strips them" => chatml(stripped, "'<think>\\n'"),
        "opens a thought without a line, strips them" => chatml(stripped, "'<think>'"),
        "strips thoughts" => chatml(stripped, "''"),
        "opens a thought everywhere" => chatml("{{ '<think>\n' + m.content }}", "'<think>\\n'"),
        "closes the thought in the prompt" => chatml(all, closed),
        "writes an empty thought" => chatml("{{ '<think></think>' + m.content }}", "''"),
        "closes every thought, strips them" => chatml(stripped, "'</think>'"),
        "ends twice" => template("plain").replace("<|im_end|>\n", "<|im_end|>\n\n<|im_end|>"),
        "puts a space before the end" => template("plain").replace("<|im_end|>\n", " <|im_end|>\n"),
        "shouts" => chatml("{{ m.content | upper }}", "''"),
        "trims" => chatml("{{ m.content | trim }}", "''"),
        "knows no prompt" => template("plain").split("{% if add_gen").next().unwrap().to_owned(),
        "has marks of text" => "{% for m in messages %}### {{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}".into(),
        "puts a space" => "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} \
                           {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
            .into(),
        other => panic!("{other}"),
    }
}

/// What the only sample of a question and `answer` is, or why there is none.
fn sample(kind: &str, answer: &str) -> std::result::Result<String, String> {
    let e = encoder_of(Some(&template(kind)), TextStyle::Chat).map_err(|e| reason(&e))?;
    let line = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]});
    let texts = texts(&e, &line, LossOn::Answer).map_err(|e| reason(&e))?;
    let [text] = &texts[..] else { panic!("{texts:?}") };
    // Evaluation asks where training begins to learn, and for what it learns.
    let question = e.question(&[Message::new("user", "q")], &[], answer).unwrap();
    let asked = format!("{}⟦", e.tokenizer.decode(&question, false).unwrap());
    assert!(text.starts_with(&asked), "{kind}: asked at {asked:?}, learned {text:?}");
    let said = e.tokenizer.decode(&e.answer(answer).unwrap(), false).unwrap();
    assert_eq!(*text, format!("{asked}{said}<|im_end|>⟧"), "{kind}");
    Ok(text.clone())
}

#[test]
fn a_thought_stands_once_and_an_answer_outside_of_it() {
    let written = "<think>\nx\n</think>\n\nb";
    let head = format!("{USER}<|im_start|>assistant\n");
    let plain = format!("{head}⟦b<|im_end|>⟧");
    let whole = format!("{head}⟦{written}<|im_end|>⟧");
    let opened = format!("{head}<think>\n⟦x\n</think>\n\nb<|im_end|>⟧");
    for (kind, answer, wanted) in [
        ("plain", "b", plain.clone()),
        ("plain", written, whole.clone()),
        ("opens a thought", "b", plain.clone()),
        ("opens a thought", written, opened.clone()),
        ("opens a thought, strips them", "b", plain.clone()),
        ("opens a thought, strips them", written, opened.clone()),
        ("opens a thought, strips them", "x\n</think>\n\nb", opened.clone()),
        ("opens a thought, strips them", "<think>x</think>b", format!("{head}<think>\n⟦x</think>b<|im_end|>⟧")),
        ("opens a thought without a line, strips them", written, opened.replace("<think>\n⟦", "<think>⟦\n")),
        ("strips thoughts", "b", plain.clone()),
        ("strips thoughts", written, whole.clone()),
        ("opens a thought everywhere", written, opened.clone()),
        ("closes the thought in the prompt", "b", plain.clone()),
        ("closes the thought in the prompt", written, whole),
        ("writes an empty thought", "b", plain.replace('⟦', "⟦<think></think>")),
    ] {
        assert_eq!(sample(kind, answer).as_ref(), Ok(&wanted), "{kind}: {answer:?}");
    }
    for (kind, answer, why) in [
        ("opens a thought everywhere", "b", "nothing closes it"),
        ("strips thoughts", "x\n</think>\n\nb", "whose beginning is not marked"),
        ("closes every thought, strips them", written, "closes the thought in front of the last turn"),
        ("shouts", "b", "does not show the last turn's text as it is"),
    ] {
        let error = sample(kind, answer).expect_err(kind);
        assert!(
            error.starts_with("f.jsonl: line 1: t.jinja: chat template: ") && error.contains(why),
            "{kind}: {error}"
        );
    }
}

#[test]
fn where_the_models_turn_begins() {
    let knows_none = sample("knows no prompt", "b").unwrap();
    assert_eq!(knows_none, format!("{USER}<|im_start|>assistant\n⟦b<|im_end|>⟧"), "the role mark is not learned");
    assert_eq!(sample("has marks of text", "b").unwrap(), "### user: q<|im_end|>### assistant:⟦ b<|im_end|>⟧");
    assert_eq!(sample("puts a space", "b").unwrap(), "[INST] q [/INST]⟦ b<|im_end|>⟧", "the space is the answer's");
    assert_eq!(sample("trims", " b\n").unwrap(), format!("{USER}<|im_start|>assistant\n⟦b<|im_end|>⟧"));
    let e = encoder_of(Some(&template("knows no prompt")), TextStyle::Chat).unwrap();
    let prompt = e.prompt(&[Message::new("user", "q")]).unwrap();
    assert_eq!(
        e.tokenizer.decode(&prompt, false).unwrap(),
        format!("{USER}<|im_start|>assistant\n"),
        "as generated from"
    );
}

#[test]
fn ends_of_turns_are_not_doubled() {
    let plain = format!("{USER}<|im_start|>assistant\n⟦b<|im_end|>⟧");
    assert!(sample("ends twice", "b").unwrap().ends_with("<|im_start|>assistant\n⟦b<|im_end|>⟧"));
    assert!(sample("puts a space before the end", "b").unwrap().ends_with("<|im_start|>assistant\n⟦b <|im_end|>⟧"));
    for answer in ["b<|im_end|>", "b<|im_end|>\n"] {
        for kind in ["plain", "knows no prompt"] {
            assert_eq!(sample(kind, answer).as_ref(), Ok(&plain), "{kind}: {answer:?}");
        }
    }
    let raw = encoder(TextStyle::Raw);
    let line = json!({"input": "q", "output": "b<|im_end|>"});
    assert_eq!(texts(&raw, &line, LossOn::Answer).unwrap(), ["<USER>q<ASSISTANT>⟦b<|im_end|>⟧"]);
    let e = encoder(TextStyle::Chat);
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let talk = |first: &str| json!({"messages": [turn("user", "1"), turn("assistant", first), turn("user", "2"), turn("assistant", "b")]});
    let both = texts(&e, &talk("a<|im_end|>"), LossOn::AllTurns).unwrap();
    assert_eq!(both, texts(&e, &talk("a"), LossOn::AllTurns).unwrap());
    for (line, mark) in [
        (json!({"input": "q", "output": "b<|im_end|>c"}), "<|im_end|>"),
        (json!({"input": "q", "output": "b<|im_end|><|im_end|>"}), "<|im_end|>"),
        (json!({"input": "<|im_start|>user\nq", "output": "b"}), "<|im_start|>"),
        (json!({"messages": [turn("system", "s<|im_end|>"), turn("user", "q"), turn("assistant", "b")]}), "<|im_end|>"),
        (talk("a<|im_end|>\n<|im_start|>user\n"), "turn 2 (assistant"),
    ] {
        let error = reason(&texts(&e, &line, LossOn::Answer).expect_err(mark));
        assert!(error.starts_with("f.jsonl: line 1: the text of turn ") && error.contains(mark), "{error}");
    }
}

#[test]
fn a_text_that_the_template_does_not_show_is_refused() {
    let deaf = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}";
    let first_only = "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}\
        {% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}";
    let merged = "{% set ns = messages[0].role == 'system' %}{% for m in messages %}{% if m.role == 'system' %}{% elif loop.index0 == 1 and ns %}\
        {{ messages[0].content | trim }}\n{{ m.content }}<|im_end|>{% else %}{{ m.role }}: {{ m.content }}<|im_end|>\
        {% endif %}{% endfor %}";
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let (system, user, answer) = (turn("system", " s\n"), turn("user", "q"), turn("assistant", "b"));
    let first = json!({"messages": [system, user, answer]});
    let later = json!({"messages": [user, system, user, answer]});
    for (template, line, place) in [(deaf, &first, "turn 1"), (deaf, &later, "turn 2"), (first_only, &later, "turn 2")]
    {
        let e = encoder_of(Some(template), TextStyle::Chat).unwrap();
        let error = reason(&texts(&e, line, LossOn::Answer).expect_err(template));
        assert!(error.contains(&format!("the text of {place}, of the role system")), "{error}");
    }
    let e = encoder_of(Some(first_only), TextStyle::Chat).unwrap();
    assert_eq!(texts(&e, &first, LossOn::Answer).unwrap(), [" s\nuser: q<|im_end|>assistant:⟦ b<|im_end|>⟧"]);
    let e = encoder_of(Some(merged), TextStyle::Chat).unwrap();
    assert_eq!(texts(&e, &first, LossOn::Answer).unwrap(), ["s\nq<|im_end|>assistant:⟦ b<|im_end|>⟧"]);
}
