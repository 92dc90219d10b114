//! Samples under a limit that they would exceed.

use super::*;
use serde_json::json;

fn talk(turns: &[(&str, &str)]) -> Value {
    let turns: Vec<Value> = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({"messages": turns})
}

/// The only sample of `line` with at most `max_len` tokens.
fn shortened(e: &Encoder, line: &Value, max_len: usize) -> String {
    let texts = texts_within(e, line, LossOn::Answer, max_len).unwrap();
    assert_eq!(texts.len(), 1);
    texts[0].clone()
}

#[test]
fn texts_give_way_and_marks_stay() {
    let e = encoder(TextStyle::Chat);
    let line = talk(&[
        ("system", "SYSTEM"),
        ("user", "0123456789"),
        ("assistant", "abcdefghij"),
        ("user", "last?"),
        ("assistant", "b"),
    ]);
    let text = |first: &str, second: &str, third: &str| {
        format!(
            "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\n{first}<|im_end|>\n<|im_start|>assistant\n{second}\
             <|im_end|>\n<|im_start|>user\n{third}<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧"
        )
    };
    let whole = text("0123456789", "abcdefghij", "last?");
    let tokens = e.tokenizer.encode(&whole).unwrap().len() - "⟦⟧".len();
    for (less, wanted) in [
        (0, whole),
        (1, text("123456789", "abcdefghij", "last?")),
        (9, text("9", "abcdefghij", "last?")),
        (10, text("9", "bcdefghij", "last?")),
        (18, text("9", "j", "last?")),
        (20, text("9", "j", "st?")),
        (22, text("9", "j", "?")),
    ] {
        assert_eq!(shortened(&e, &line, tokens - less), wanted, "{less} fewer");
    }
    let error = texts_within(&e, &line, LossOn::Answer, tokens - 23).unwrap_err().to_string();
    assert!(error.contains("none of its 1 records has a target left"), "{error}");
}

#[test]
fn the_template_shows_what_is_left() {
    // A system message within the first turn, an order of its own, a count that depends on the text.
    let template = "{% for m in messages if m.role == 'user' %}[{{ m.content | length }}]{% if loop.first %}\
        {{ messages[0].content }}/{% endif %}{{ m.content | trim }}{% endfor %}<|im_end|>{% for m in messages \
        if m.role == 'assistant' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>{% endif %}";
    let e = encoder_of(Some(template), TextStyle::Chat).unwrap();
    let line = talk(&[("system", "S"), ("user", &format!("{}   end", "あ".repeat(200))), ("assistant", "b")]);
    let short = shortened(&e, &line, 60);
    assert_eq!(short, format!("[20]S/{}   end<|im_end|><|im_start|>⟦b<|im_end|>⟧", "あ".repeat(14)));
    // Of several bytes of a character none stays alone, and spaces that the template trims do not count.
    assert_eq!(shortened(&e, &line, 13), "[6]S/end<|im_end|><|im_start|>⟦b<|im_end|>⟧");
}

#[test]
fn as_little_as_is_enough() {
    let e = encoder(TextStyle::Chat);
    let text: String = (0..400).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let line = talk(&[("user", &text), ("assistant", "b")]);
    let whole = e.tokenizer.encode(&shortened(&e, &line, 4000)).unwrap().len() - "⟦⟧".len();
    for less in (1..400).step_by(7).chain([398, 399]) {
        let short = shortened(&e, &line, whole - less);
        assert!(short.starts_with(&format!("<|im_start|>user\n{}<|im_end|>", &text[less..])), "{less} fewer: {short}");
    }
    let raw = encoder(TextStyle::Raw);
    assert_eq!(
        shortened(&raw, &talk(&[("user", "abcdef"), ("assistant", "x")]), 20),
        "<USER>f<ASSISTANT>⟦x<|im_end|>⟧"
    );
}

#[test]
fn token_ids_lose_nothing_that_carries_loss() {
    let e = encoder(TextStyle::Chat);
    let encode = |labels: Value| {
        let line = json!({"input_ids": [1, 2, 3, 4], "labels": labels});
        let other = json!({"input_ids": [1, 2], "labels": [-100, 2]});
        encode(&e, &format!("{line}\n{other}"), 2, LossOn::Answer).unwrap()
    };
    let kept = encode(json!([1, -100, -100, 4]));
    assert_eq!((kept.report.truncated, kept.report.dropped.len()), (1, 0), "the first label predicts nothing");
    assert_eq!(kept.samples[0], Sample { tokens: vec![3, 4], labels: vec![NO_LOSS, 4] });
    for lost in [json!([-100, 2, -100, 4]), json!([-100, -100, 3, 4]), json!([1, 2, 3, 4])] {
        let dropped = encode(lost.clone());
        assert_eq!((dropped.report.dropped, dropped.report.truncated), (vec![1], 0), "{lost}");
    }
}
