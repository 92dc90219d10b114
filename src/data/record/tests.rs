//! Records of every shape, and what is refused.

use super::*;
use crate::data::NO_LOSS;

fn one(line: &str) -> Result<Record, String> {
    parse(Path::new("f.jsonl"), line.as_bytes()).map(|mut r| r.remove(0)).map_err(|e| e.to_string())
}

#[test]
fn the_shapes() {
    let talk = |list: &[(&str, &str)]| {
        Content::Messages(list.iter().map(|(role, content)| Message::new(*role, *content)).collect())
    };
    let r = one(r#"{"input":"q","output":"b","meta":{"answer":"c"},"id":7}"#).unwrap();
    assert_eq!((&r.content, r.answer()), (&talk(&[("user", "q"), ("assistant", "b")]), Choice::parse("c")));
    let r = one(r#"{"prompt":"q","completion":"1. x\n\nAnswer: ｄ","system":"s"}"#).unwrap();
    assert_eq!(r.answer(), Choice::parse("d"));
    assert!(matches!(&r.content, Content::Messages(m) if m[0].role == "system"));
    let r = one(r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"hello"}]}"#).unwrap();
    assert_eq!((&r.content, r.answer()), (&talk(&[("user", "q"), ("assistant", "hello")]), None));
    let r = one(r#"{"input_ids":[1,2],"labels":[-100,2]}"#).unwrap();
    assert_eq!(r.content, Content::Tokens { input_ids: vec![1, 2], labels: vec![-100, 2] });
}

#[test]
fn marks_blank_lines_and_line_ends() {
    let good = r#"{"input":"q","output":"b"}"#;
    let text = format!("\u{feff}\r\n{good}\r\n\n  \n{good}");
    let lines: Vec<usize> = parse(Path::new("f"), text.as_bytes()).unwrap().iter().map(|r| r.line).collect();
    assert_eq!(lines, [2, 5]);
    let huge = format!("{{\"input\":\"{}\",\"output\":\"b\"}}", "あ".repeat(3_500_000));
    assert!(one(&huge).is_ok());
}

#[test]
fn errors_name_line_and_field() {
    for (line, wanted) in [
        ("\n{", "f.jsonl: line 2: not valid JSON: EOF while parsing an object at column 1"),
        ("3", "f.jsonl: line 1: expected an object, found a number"),
        ("{}", "f.jsonl: line 1: expected `input`"),
        (r#"{"input":"q"}"#, "f.jsonl: line 1, field `output`: it is missing"),
        (r#"{"input":3,"output":"b"}"#, "f.jsonl: line 1, field `input`: expected text, found a number"),
        (r#"{"input":"q","output":" "}"#, "f.jsonl: line 1, field `output`: it is empty"),
        (r#"{"instruction":3,"input":"q","output":"b"}"#, "f.jsonl: line 1, field `instruction`: expected text"),
        (r#"{"instruction":"i","input":3,"output":"b"}"#, "f.jsonl: line 1, field `input`: expected text"),
        (
            r#"{"instruction":"i","prompt":"q","completion":"b"}"#,
            "f.jsonl: line 1, field `instruction`: it would be lost",
        ),
        (r#"{"input":"q","output":"b","messages":[]}"#, "f.jsonl: line 1, field `messages`: a record is of one"),
        (r#"{"messages":{}}"#, "f.jsonl: line 1, field `messages`: expected a list"),
        (r#"{"messages":[1]}"#, "f.jsonl: line 1, field `messages[0].role`: it is missing"),
        (r#"{"messages":[{"role":"user","content":"q"}]}"#, "f.jsonl: line 1, field `messages`: the last turn"),
        (r#"{"messages":[{"role":"bot","content":"q"}]}"#, "f.jsonl: line 1, field `messages[0].role`: unknown role"),
        (r#"{"messages":[]}"#, "f.jsonl: line 1, field `messages`: expected at least"),
        (r#"{"input_ids":[1],"labels":[]}"#, "f.jsonl: line 1, field `labels`: 0 labels for 1 input_ids"),
        (r#"{"input_ids":[-1],"labels":[1]}"#, "f.jsonl: line 1, field `input_ids[0]`: expected a token id, found -1"),
        (r#"{"input_ids":[1],"labels":[-1]}"#, "f.jsonl: line 1, field `labels[0]`: expected a token id or -100"),
        (r#"{"input_ids":[1],"labels":[1e99]}"#, "f.jsonl: line 1, field `labels[0]`: expected a token id or -100"),
        ("\n \n", "f.jsonl: there is no record in it"),
    ] {
        let message = one(line).unwrap_err();
        assert!(message.starts_with(wanted), "{message}");
    }
    assert!(one(&"[".repeat(1 << 20)).unwrap_err().contains("line 1: not valid JSON: recursion limit exceeded"));
    let bad = parse(Path::new("f"), b"\n\n\"\xff\"").unwrap_err().to_string();
    assert_eq!(bad, "f: line 3: not UTF-8 from byte 2 on");
}

fn talk(list: &[(&str, &str)]) -> Content {
    Content::Messages(list.iter().map(|(role, content)| Message::new(*role, *content)).collect())
}

#[test]
fn shapes_of_other_programs_that_say_the_same() {
    for (line, wanted) in [
        (r#"{"instruction":"i","output":"b"}"#, talk(&[("user", "i"), ("assistant", "b")])),
        (r#"{"instruction":"i","input":"","output":"b","system":null}"#, talk(&[("user", "i"), ("assistant", "b")])),
        (r#"{"instruction":"i","input":"q","output":"b"}"#, talk(&[("user", "i\nq"), ("assistant", "b")])),
        (
            r#"{"instruction":"i","input":"q","output":"b","system":"s","history":[["p","a"]]}"#,
            talk(&[("system", "s"), ("user", "p"), ("assistant", "a"), ("user", "i\nq"), ("assistant", "b")]),
        ),
        (
            r#"{"prompt":"q","prompt_id":"x","messages":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]}"#,
            talk(&[("user", "q"), ("assistant", "b")]),
        ),
        (r#"{"instruction":"","input":"q","output":"b"}"#, talk(&[("user", "q"), ("assistant", "b")])),
        (
            r#"{"conversations":[{"from":"system","value":"s"},{"from":"human","value":"q"},{"from":"gpt","value":"b"}]}"#,
            talk(&[("system", "s"), ("user", "q"), ("assistant", "b")]),
        ),
        (
            r#"{"conversations":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}],"system":"s"}"#,
            talk(&[("system", "s"), ("user", "q"), ("assistant", "b")]),
        ),
        (
            r#"{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"b"}]}"#,
            talk(&[("user", "q"), ("assistant", "b")]),
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"q"}]},{"role":"assistant","content":"b"}]}"#,
            talk(&[("user", "q"), ("assistant", "b")]),
        ),
        (
            r#"{"input":"r","output":"b","history":[["q","a"]],"system":"s"}"#,
            talk(&[("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]),
        ),
    ] {
        assert_eq!(one(line).unwrap().content, wanted, "{line}");
    }
}

#[test]
fn harmless_and_unset_fields_are_passed_over() {
    let plain = one(r#"{"input":"q","output":"b"}"#).unwrap();
    for more in [
        r#""id":1,"source":"x","tags":["t"],"metadata":{"a":1},"topic":"t","license":"MIT""#,
        r#""tools":null,"history":[],"messages":null,"labels":null,"images":[],"weight":null,"reward":null"#,
    ] {
        assert_eq!(one(&format!(r#"{{"input":"q","output":"b",{more}}}"#)).unwrap(), plain, "{more}");
    }
    let turns = r#"{"messages":[{"role":"user","content":"q","id":3,"timestamp":"t","tool_calls":null,"name":null},
        {"role":"assistant","content":"b","model":"m","function_call":null,"reasoning_content":"","weight":1}]}"#;
    assert_eq!(one(&turns.replace('\n', "")).unwrap().content, plain.content);
    let tokens = r#"{"input_ids":[1,2],"labels":[-100,2],"length":2,"special_tokens_mask":[1,0],"text":"ab","id":0}"#;
    assert_eq!(one(tokens).unwrap().content, Content::Tokens { input_ids: vec![1, 2], labels: vec![NO_LOSS, 2] });
}

#[test]
fn a_field_with_a_meaning_is_refused_by_its_name() {
    for (more, field, says) in [
        (r#""sytem":"s""#, "sytem", "is `system` meant?"),
        (r#""System":"s""#, "System", "is `system` meant?"),
        (r#""tool":[1]"#, "tool", "is `tools` meant?"),
        (r#""histroy":[["a","b"]]"#, "histroy", "is `history` meant?"),
        (r#""completion":"c""#, "completion", "a record is of one shape, and this has `input` too"),
        (r#""labels":[1]"#, "labels", "a record is of one shape, and this has `input` too"),
        (r#""conversations":[]"#, "conversations", "a record is of one shape, and this has `input` too"),
        (r#""context":"law""#, "context", "put it into `input`"),
        (r#""answer":"c""#, "answer", "put it into `output`"),
        (r#""weight":0.5"#, "weight", "records have no weights"),
        (r#""images":["a.png"]"#, "images", "text only"),
        (r#""rejected":"x""#, "rejected", "preferences"),
        (r#""chat_template_kwargs":{"enable_thinking":false}"#, "chat_template_kwargs", "is the model's"),
        (r#""documents":[{"text":"d"}]"#, "documents", "no documents"),
        (r#""brand_new":false"#, "brand_new", "put it into `meta` if it is only to be kept"),
        (r#""history":[["a"]]"#, "history[0]", "expected a pair of texts"),
        (r#""history":{"a":"b"}"#, "history", "expected a list of pairs"),
        (r#""tools":[3]"#, "tools[0]", "expected an object"),
        (r#""tools":"[""#, "tools", "not JSON"),
    ] {
        let message = one(&format!(r#"{{"input":"q","output":"b",{more}}}"#)).unwrap_err();
        let start = format!("f.jsonl: line 1, field `{field}`: ");
        assert!(message.starts_with(&start) && message.contains(says), "{message}");
    }
    for (line, field) in [
        (r#"{"question":"q","response":"b"}"#, "question"),
        (r#"{"chosen":"q","rejected":"b"}"#, "chosen"),
        (r#"{"prompt":"q","completion":"b","output":"c"}"#, "output"),
        (r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}],"prompt":"p"}"#, "messages"),
        (r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}],"prompt":"b"}"#, "messages"),
        (r#"{"input":"q","output":"b","parallel_tool_calls":false}"#, "parallel_tool_calls"),
        (r#"{"input":"q","output":"b","tools":[{"name":"f"}],"functions":[{"name":"f"}]}"#, "functions"),
        (r#"{"input":"q","output":"b","functions":[3]}"#, "functions[0]"),
        (r#"{"segments":[{"label":true,"text":"b"}]}"#, "segments"),
        (r#"{"system_prompt":"s","question":"q","response":"b"}"#, "system_prompt"),
        (r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}],"output":"p"}"#, "output"),
    ] {
        let message = one(line).unwrap_err();
        assert!(message.starts_with(&format!("f.jsonl: line 1, field `{field}`: ")), "{message}");
    }
}

#[test]
fn a_turn_s_fields_are_used_or_refused() {
    let turn = |more: &str| {
        one(&format!(r#"{{"messages":[{{"role":"user","content":"q"}},{{"role":"assistant","content":"b",{more}}}]}}"#))
    };
    for (more, field, says) in [
        (r#""function_call":{"name":"f"}"#, "function_call.arguments", "expected an object"),
        (r#""function_call":"f""#, "function_call", "expected an object"),
        (
            r#""function_call":{"name":"f","arguments":"{}"},"tool_calls":[{"name":"f","arguments":{}}]"#,
            "function_call",
            "`tool_calls` too",
        ),
        (r#""reasoning_contents":"x""#, "reasoning_contents", "is `reasoning_content` meant?"),
        (r#""train":"no""#, "train", "expected 0 or 1"),
        (r#""weight":0.5"#, "weight", "expected 0 or 1"),
        (r#""weight":"0""#, "weight", "expected 0 or 1"),
        (r#""refusal":"no""#, "refusal", "lost"),
        (r#""loud":true"#, "loud", "no such field"),
        (r#""tool_call_id":"a""#, "tool_call_id", "no such field"),
        (r#""reasoning_content":["x"]"#, "reasoning_content", "expected text"),
        (r#""tool_calls":"f""#, "tool_calls", "expected a list"),
        (r#""tool_calls":[{"function":{"arguments":{}}}]"#, "tool_calls[0].function.name", "the name of a function"),
        (r#""tool_calls":[{"name":"f"}]"#, "tool_calls[0].arguments", "expected an object"),
        (
            r#""tool_calls":[{"type":"custom","function":{"name":"f","arguments":{}}}]"#,
            "tool_calls[0].type",
            "\"function\"",
        ),
        (
            r#""tool_calls":[{"function":{"name":"f","arguments":{},"strict":1}}]"#,
            "tool_calls[0].function.strict",
            "no such",
        ),
        (r#""weight":0"#, "", "every turn of the assistant has the weight 0"),
    ] {
        let message = turn(more).unwrap_err();
        let start = format!("f.jsonl: line 1, field `messages[1].{field}`: ");
        assert!((field.is_empty() || message.starts_with(&start)) && message.contains(says), "{message}");
    }
    let Content::Messages(read) = turn(r#""reasoning_content":"x","name":"n","thinking":"y""#).unwrap().content else {
        panic!("messages")
    };
    assert_eq!(read[1].fields.keys().collect::<Vec<_>>(), ["reasoning_content", "thinking", "name"]);
    for (line, says) in [
        (
            r#"{"messages":[{"role":"user","content":"q","weight":1},{"role":"assistant","content":"b"}]}"#,
            "messages[0].weight",
        ),
        (
            r#"{"messages":[{"role":"user","content":"q","tool_calls":[1]},{"role":"assistant","content":"b"}]}"#,
            "messages[0].tool_calls",
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"u"}]},{"role":"assistant","content":"b"}]}"#,
            "messages[0].content[0].image_url",
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":"b"}]}"#,
            "found a list of 2",
        ),
        (r#"{"messages":[{"from":"human","value":"q"},{"from":"gpt","value":"b"}]}"#, "messages[0].role"),
        (r#"{"messages":[{"role":"human","content":"q"},{"role":"assistant","content":"b"}]}"#, "unknown role"),
        (
            r#"{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"b"}]}"#,
            "expected a call in JSON",
        ),
        (
            r#"{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"[]"}]}"#,
            "expected a call, found none",
        ),
        (
            r#"{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"{\"name\":\"f\"}"}]}"#,
            "conversations[1].value[0].arguments",
        ),
        (
            r#"{"messages":[{"role":"user","content":"q"},{"role":"function_call","content":"{\"name\":\"f\",\"arguments\":{}}"}]}"#,
            "unknown role",
        ),
        (
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","function_call":{"name":"f"}}]}"#,
            "messages[1].function_call.arguments",
        ),
        (
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"b","train":true,"weight":0}]}"#,
            "field `messages[1].train`: `weight` says otherwise",
        ),
        (
            r#"{"messages":[{"role":"user","content":"q","train":true},{"role":"assistant","content":"b"}]}"#,
            "messages[0].train",
        ),
        (
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"b","train_detail":[{"begin_offset":0}]}]}"#,
            "messages[1].train_detail",
        ),
        (
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":"b"}],"system":"t"}"#,
            "field `system`",
        ),
        (
            r#"{"prompt":"q","completion":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
            "field `completion`",
        ),
    ] {
        let message = one(line).unwrap_err();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn masks_beside_token_ids() {
    let labels = |more: &str| match one(&format!(r#"{{"input_ids":[5,6,7],{more}}}"#)).map(|r| r.content) {
        Ok(Content::Tokens { labels, .. }) => Ok(labels),
        Ok(Content::Messages(_)) => panic!("tokens"),
        Err(message) => Err(message),
    };
    assert_eq!(labels(r#""completion_mask":[0,1,1]"#), Ok(vec![NO_LOSS, 6, 7]));
    assert_eq!(labels(r#""assistant_masks":[0,0,1],"attention_mask":[1,1,1]"#), Ok(vec![NO_LOSS, NO_LOSS, 7]));
    assert_eq!(labels(r#""labels":[5,6,-100],"loss_mask":[false,true,true]"#), Ok(vec![NO_LOSS, 6, NO_LOSS]));
    assert_eq!(
        labels(
            r#""completion_mask":[0,1,1],"assistant_masks":[1,1,0],"position_ids":[0,1,2],"token_type_ids":[0,0,0]"#
        ),
        Ok(vec![NO_LOSS, 6, NO_LOSS])
    );
    for (more, field) in [
        (r#""attention_mask":[1,1,1]"#, "labels"),
        (r#""labels":[5,6,7],"attention_mask":[0,1,1]"#, "labels[0]"),
        (r#""labels":[5,6,7],"attention_mask":[1,0,1]"#, "attention_mask[1]"),
        (r#""labels":[5,6,7],"attention_mask":[2,1,1]"#, "attention_mask[0]"),
        (r#""labels":[-100,-100,-100],"attention_mask":[0,0,0]"#, "attention_mask"),
        (r#""labels":[5,6,7],"attention_mask":[1,1]"#, "attention_mask"),
        (r#""labels":[5,6,7],"position_ids":[0,1,3]"#, "position_ids[2]"),
        (r#""labels":[5,6,7],"position_ids":[0,1,0],"seq_lengths":[1,2]"#, "seq_lengths"),
        (r#""labels":[5,6,7],"seq_lengths":[1,1]"#, "seq_lengths"),
        (r#""labels":[5,6,7],"seq_lengths":[2,2]"#, "seq_lengths[1]"),
        (r#""labels":[5,6,7],"seq_lengths":[0,3]"#, "seq_lengths[0]"),
        (r#""labels":[5,6,7],"seq_lengths":[]"#, "seq_lengths"),
        (r#""labels":[5,6,7],"cu_seq_lens_q":[0,2]"#, "cu_seq_lens_q"),
        (r#""labels":[5,6,7],"cu_seq_lens_q":[0]"#, "cu_seq_lens_q"),
        (r#""labels":[5,6,7],"cu_seq_lens_q":[1,3]"#, "cu_seq_lens_q[0]"),
        (r#""labels":[5,6,7],"cu_seq_lens_q":[0,2,2,3]"#, "cu_seq_lens_q[2]"),
        (r#""labels":[5,6,7],"cu_seq_lens_q":[0,18446744073709551615]"#, "cu_seq_lens_q[1]"),
        (r#""labels":[5,6,7],"cu_seq_lens_q":[0,1,3],"cu_seq_lens_k":[0,2,3]"#, "cu_seq_lens_k"),
        (r#""labels":[5,6,7],"seq_idx":[0,1,1]"#, "seq_idx"),
        (r#""labels":[5,6,7],"position_ids":[1,2,3]"#, "position_ids[0]"),
        (r#""labels":[5,6,7],"token_type_ids":[0,0,1]"#, "token_type_ids[2]"),
        (r#""completion_mask":[0,1]"#, "completion_mask"),
        (r#""completion_mask":[0,1,2]"#, "completion_mask[2]"),
        (r#""completion_mask":[0,1,0.5]"#, "completion_mask[2]"),
        (r#""completion_mask":3"#, "completion_mask"),
        (r#""labels":[5,6,7],"system":"s""#, "system"),
        (r#""labels":[5,6,7],"atention_mask":[1,1,1]"#, "atention_mask"),
        (r#""label":[5,6,7]"#, "label"),
    ] {
        let message = labels(more).unwrap_err();
        assert!(message.starts_with(&format!("f.jsonl: line 1, field `{field}`: ")), "{message}");
    }
}

#[test]
fn padding_is_left_out_and_packed_samples_are_apart() {
    let samples = |line: &str| -> Vec<(Vec<u32>, Vec<i32>)> {
        let tokens = |record: Record| match record.content {
            Content::Tokens { input_ids, labels } => (input_ids, labels),
            Content::Messages(_) => panic!("tokens"),
        };
        parse(Path::new("f"), line.as_bytes()).unwrap().into_iter().map(tokens).collect()
    };
    let one = vec![(vec![6, 7], vec![NO_LOSS, 7])];
    for line in [
        r#"{"input_ids":[0,6,7],"labels":[-100,-100,7],"attention_mask":[0,1,1]}"#,
        r#"{"input_ids":[6,7,0,0],"labels":[-100,7,-100,-100],"attention_mask":[1,1,0,0]}"#,
        r#"{"input_ids":[0,6,7,0],"labels":[-100,-100,7,-100],"attention_mask":[false,true,true,false]}"#,
        r#"{"input_ids":[0,6,7],"completion_mask":[0,0,1],"attention_mask":[0,1,1],"position_ids":[1,0,1]}"#,
        r#"{"input_ids":[6,7,0],"completion_mask":[0,1,1],"attention_mask":[1,1,0]}"#,
    ] {
        assert_eq!(samples(line), one, "{line}");
    }
    let two = vec![(vec![5], vec![5]), (vec![6, 7], vec![6, 7])];
    for more in [
        r#""position_ids":[0,0,1]"#,
        r#""seq_lengths":[1,2]"#,
        r#""position_ids":[0,0,1],"cu_seq_lens_q":[0,1,3],"cu_seq_lens_k":[0,1,3],"max_length_q":2"#,
        r#""position_ids":[0,0,1],"seq_lengths":[1,2]"#,
    ] {
        assert_eq!(samples(&format!(r#"{{"input_ids":[5,6,7],"labels":[5,6,7],{more}}}"#)), two, "{more}");
    }
    let padded = r#"{"input_ids":[5,6,7,0],"labels":[5,6,7,-100],"attention_mask":[1,1,1,0],"position_ids":[0,0,1,0]}"#;
    assert_eq!(samples(padded), two);
}

#[test]
fn calls_in_the_forms_of_other_programs() {
    let calls = |line: &str| {
        let record = one(line).unwrap();
        let Content::Messages(turns) = record.content else { panic!("messages") };
        let turn = turns.iter().find(|t| t.fields.contains_key("tool_calls")).expect("calls").clone();
        (turn.fields["tool_calls"].to_string(), turns.into_iter().map(|t| t.role).collect::<Vec<_>>(), record.tools)
    };
    let wanted = r#"[{"type":"function","function":{"name":"f","arguments":{"x":1}}}]"#;
    for line in [
        r#"{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},
            {"from":"observation","value":"r"},{"from":"gpt","value":"b"}]}"#,
        r#"{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"[{\"name\":\"f\",\"arguments\":{\"x\":1}}]"},
            {"from":"observation","value":"r"},{"from":"gpt","value":"b"}]}"#,
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"function_call":{"name":"f","arguments":{"x":1}}},
            {"role":"function","name":"f","content":"r"},{"role":"assistant","content":"b"}]}"#,
    ] {
        let (calls, roles, tools) = calls(&line.replace('\n', ""));
        assert_eq!((calls.as_str(), tools.len()), (wanted, 0), "{line}");
        assert_eq!(roles, ["user", "assistant", "tool", "assistant"], "{line}");
    }
    let (_, _, tools) = calls(
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","function_call":{"name":"f","arguments":"{}"}}],"functions":[{"name":"f"}]}"#,
    );
    assert_eq!(tools[0].to_string(), r#"{"type":"function","function":{"name":"f"}}"#);
}

#[test]
fn what_is_not_to_be_learned_is_said_in_several_ways() {
    for (field, learned) in [
        (r#""weight":0"#, false),
        (r#""train":false"#, false),
        (r#""training":0"#, false),
        (r#""train":true,"weight":1"#, true),
        (r#""train":null,"training":true"#, true),
    ] {
        let line = format!(
            r#"{{"messages":[{{"role":"user","content":"q"}},{{"role":"assistant","content":"a",{field}}},
                {{"role":"user","content":"q"}},{{"role":"assistant","content":"b"}}]}}"#
        );
        let Content::Messages(turns) = one(&line.replace('\n', "")).unwrap().content else { panic!("messages") };
        assert_eq!(turns[1].learned, learned, "{field}");
    }
}
