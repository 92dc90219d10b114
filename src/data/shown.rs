//! What a conversation has beside its texts (thoughts, calls of tools, names) as the chat template shows it. A field that
//! the template does not show is refused, because the model would never see it.

use super::{
    chat::{Message, THOUGHTS},
    encode::{Encoder, TextStyle},
};
use crate::{Error, Result, error::Setting};
use serde_json::{Value, json};

/// A text that no template has.
const MARK: &str = "irorimark";

impl Encoder {
    /// Refuses a conversation of `history` and `turn` of whose earlier texts the template shows not every one, tried with
    /// other texts in their places.
    pub(super) fn check_texts(&self, history: &[Message], turn: &Message, tools: &[Value]) -> Result<()> {
        let mark = |i: usize| format!("{MARK}{i}.");
        let mut marked = history.to_vec();
        marked.iter_mut().enumerate().for_each(|(i, m)| m.content = mark(i));
        marked.push(turn.clone());
        let text = self.chat.render_with(&marked, tools, false, true)?;
        match history.iter().enumerate().find(|(i, m)| !m.content.is_empty() && !text.contains(&mark(*i))) {
            None => Ok(()),
            Some((i, message)) => {
                let message = format!(
                    "it does not show the text of turn {}, of the role {}, so the model would never see it",
                    i + 1,
                    message.role
                );
                Err(Error::content(self.chat.path(), "chat template", message))
            }
        }
    }

    /// Refuses a field that the template shows nowhere.
    pub(super) fn check_fields(&self, messages: &[Message], tools: &[Value]) -> Result<()> {
        let beside = |m: &Message| m.role == "tool" || !m.fields.is_empty();
        if tools.is_empty() && !messages.iter().any(beside) {
            return Ok(());
        }
        let of_turn = |m: &Message| -> Vec<(&'static str, &'static str)> {
            let role = ["system", "user", "assistant", "tool"].into_iter().find(|r| *r == m.role).unwrap_or("user");
            let calls = m.fields.contains_key("tool_calls").then_some("tool_calls");
            // The name and the id of a tool's result only say which call it belongs to.
            let name = (m.fields.contains_key("name") && role != "tool").then_some("name");
            let result = (role == "tool").then_some("content");
            let thoughts = THOUGHTS.into_iter().filter(|field| m.fields.contains_key(*field));
            thoughts.chain(calls).chain(name).chain(result).map(|field| (role, field)).collect()
        };
        let mut asked: Vec<(&str, &str)> = messages.iter().flat_map(of_turn).collect();
        if !tools.is_empty() {
            asked.push(("", "tools"));
        }
        asked.sort_unstable();
        asked.dedup();
        for (role, field) in asked {
            let whose = if role.is_empty() { String::new() } else { format!(" of a turn of the role {role}") };
            if self.style == TextStyle::Raw {
                let message = format!("it does not show the field `{field}`{whose}, so the model would never see it");
                return Err(Error::setting(Setting::new("text-style", "raw"), message)
                    .advise([Setting::new("text-style", "chat")]));
            }
            if !self.shows(role, field) {
                let message = format!("it does not show the field `{field}`{whose}, so the model would never see it");
                return Err(Error::content(self.chat.path(), "chat template", message));
            }
        }
        Ok(())
    }

    /// Whether the template shows a field, tried on a small conversation of which nothing else is asked.
    fn shows(&self, role: &str, field: &str) -> bool {
        let function = |name: &str| json!({"name": name, "arguments": {"x": 1}});
        let call = |name: &str| json!([{"type": "function", "id": "abcdefghi", "function": function(name)}]);
        let mut turn = Message::new(if role.is_empty() { "user" } else { role }, "text");
        let mut tools = Vec::new();
        match field {
            "tools" => {
                let parameters =
                    json!({"type": "object", "properties": {"x": {"type": "integer", "description": "d"}}});
                let function = json!({"name": MARK, "description": "d", "parameters": parameters});
                tools.push(json!({"type": "function", "function": function}));
            }
            "content" => turn.content = MARK.into(),
            "tool_calls" => {
                turn.content.clear();
                turn.fields.insert(field.into(), call(MARK));
            }
            _ => {
                turn.fields.insert(field.into(), MARK.into());
            }
        }
        let mut messages = Vec::new();
        if role != "system" && role != "user" && !role.is_empty() {
            messages.push(Message::new("user", "text"));
        }
        if role == "tool" {
            let mut caller = Message::new("assistant", "");
            caller.fields.insert("tool_calls".into(), call("f"));
            messages.push(caller);
            turn.fields.insert("name".into(), "f".into());
            turn.fields.insert("tool_call_id".into(), "abcdefghi".into());
        }
        messages.push(turn);
        if role == "system" {
            messages.push(Message::new("user", "text"));
        }
        self.chat.render_with(&messages, &tools, false, true).is_ok_and(|text| text.contains(MARK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        encode::{
            LossOn,
            tests::{encoder_of, texts},
        },
        shared::shared,
    };

    /// A template that shows everything, as Qwen's does, with a thought in every turn that has one.
    const TEMPLATE: &str = "{% for t in tools or [] %}[{{ t | tojson }}]{% endfor %}\
        {% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}{{ '\n' }}\
        {% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}\
        {% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}\
        <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\
        {% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}";

    fn encoder(template: Option<&str>, style: TextStyle) -> Encoder {
        encoder_of(template, style).unwrap()
    }

    fn talk(turns: Value) -> Value {
        json!({"messages": turns})
    }

    #[test]
    fn a_thought_stands_where_the_template_puts_it() {
        let e = encoder(Some(TEMPLATE), TextStyle::Chat);
        let user = json!({"role": "user", "content": "q"});
        let line = talk(json!([user, {"role": "assistant", "content": "b", "reasoning_content": "x"}]));
        let prompt = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n";
        let wanted = format!("{prompt}⟦<think>\nx\n</think>\n\nb<|im_end|>⟧");
        assert_eq!(texts(&e, &line, LossOn::Answer).unwrap(), [wanted]);
        let none = talk(json!([user, {"role": "assistant", "content": "b", "reasoning_content": ""}]));
        let wanted = format!("{prompt}⟦b<|im_end|>⟧");
        assert_eq!(texts(&e, &none, LossOn::Answer).unwrap(), [wanted], "the template shows no empty thought there");
    }

    #[test]
    fn tools_their_calls_and_their_results() {
        let e = encoder(Some(TEMPLATE), TextStyle::Chat);
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {}}});
        let call = json!([{"type": "function", "id": "1", "function": {"name": "f", "arguments": {"x": 1}}}]);
        let mut line = talk(json!([
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": call, "reasoning_content": "y"},
            {"role": "tool", "content": "7", "name": "f", "tool_call_id": "1"},
            {"role": "assistant", "content": "seven"}
        ]));
        line["tools"] = json!([tool]);
        let both = texts(&e, &line, LossOn::AllTurns).unwrap();
        let opening = "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {}}}]<|im_start|>user\nq<|im_end|>\n";
        let answer = "<think>\ny\n</think>\n\n<call>f {\"x\": 1}</call><|im_end|>";
        assert_eq!(both[0], format!("{opening}<|im_start|>assistant\n⟦{answer}⟧"));
        let tail = "<|im_start|>tool f\n7<|im_end|>\n<|im_start|>assistant\n⟦seven<|im_end|>⟧";
        assert_eq!(both[1], format!("{opening}<|im_start|>assistant\n{answer}\n{tail}"));
        line["tools"] = json!(json!([tool]).to_string());
        assert_eq!(texts(&e, &line, LossOn::AllTurns).unwrap(), both, "as a text of JSON");
    }

    #[test]
    fn what_the_template_does_not_show_is_refused() {
        let answer = json!({"role": "assistant", "content": "b"});
        let call = json!([{"function": {"name": "f", "arguments": "{}"}}]);
        for (first, more, field) in [
            (json!({"role": "user", "content": "q"}), json!({"reasoning_content": "x"}), "`reasoning_content`"),
            (json!({"role": "user", "content": "q"}), json!({"thinking": "x"}), "`thinking`"),
            (json!({"role": "user", "content": "q"}), json!({"tool_calls": call}), "`tool_calls`"),
            (json!({"role": "user", "content": "q", "name": "n"}), json!({}), "`name` of a turn of the role user"),
        ] {
            let mut last = answer.clone();
            for (key, value) in more.as_object().unwrap() {
                last[key] = value.clone();
            }
            let line = talk(json!([first, last]));
            for (e, whose) in [
                (encoder(None, TextStyle::Chat), "chat template"),
                (encoder(None, TextStyle::Raw), "`text-style = raw`"),
            ] {
                let error = texts(&e, &line, LossOn::Answer).unwrap_err();
                let message = format!("{error}: {}", std::error::Error::source(&error).unwrap());
                assert!(
                    message.starts_with("f.jsonl: line 1: ") && message.contains(field) && message.contains(whose),
                    "{message}"
                );
            }
        }
        let mut line = talk(json!([{"role": "user", "content": "q"}, answer]));
        line["tools"] = json!([{"name": "f"}]);
        assert!(texts(&encoder(None, TextStyle::Chat), &line, LossOn::Answer).is_err());
        let deaf = "{% for m in messages if m.role != 'tool' %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
        let line = talk(json!([{"role": "user", "content": "q"}, {"role": "tool", "content": "7"}, answer]));
        assert!(texts(&encoder(Some(deaf), TextStyle::Chat), &line, LossOn::Answer).is_err());
    }

    #[test]
    fn turns_of_weight_0_are_read_and_not_learned() {
        let e = encoder(None, TextStyle::Chat);
        let line = |first: Value, last: Value| {
            talk(json!([
                {"role": "user", "content": "1"}, {"role": "assistant", "content": "A", "weight": first},
                {"role": "user", "content": "2"}, {"role": "assistant", "content": "B", "weight": last}
            ]))
        };
        let all = texts(&e, &line(json!(1), Value::Null), LossOn::AllTurns).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(texts(&e, &line(json!(0), json!(1)), LossOn::AllTurns).unwrap(), all[1..]);
        assert_eq!(texts(&e, &line(json!(1.0), json!(0.0)), LossOn::AllTurns).unwrap(), all[..1]);
        assert_eq!(texts(&e, &line(json!(0), json!(1)), LossOn::Answer).unwrap(), all[1..]);
        for (first, last, loss) in [(1, 0, LossOn::Answer), (0, 1, LossOn::Everything), (1, 0, LossOn::Everything)] {
            let error = texts(&e, &line(json!(first), json!(last)), loss).unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("`loss-on = ") && cause.contains("`weight` 0"), "{cause}");
        }
    }

    #[test]
    fn the_template_of_qwen3() {
        let Some(dir) = shared("qwen3_tokenizer") else { return };
        let e = Encoder::load(&dir, TextStyle::Chat).unwrap();
        let user = json!({"role": "user", "content": "q"});
        let head = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n";
        let field = talk(json!([user, {"role": "assistant", "content": "b", "reasoning_content": "x"}]));
        let written = talk(json!([user, {"role": "assistant", "content": "<think>\nx\n</think>\n\nb"}]));
        let wanted = [format!("{head}⟦<think>\nx\n</think>\n\nb<|im_end|>⟧")];
        assert_eq!(texts(&e, &field, LossOn::Answer).unwrap(), wanted);
        assert_eq!(texts(&e, &written, LossOn::Answer).unwrap(), wanted, "one conversation in two spellings");
        let call = json!([{"function": {"name": "f", "arguments": {"x": "あ"}}}]);
        let line = talk(json!([user, {"role": "assistant", "content": null, "tool_calls": call}]));
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"あ\"}}\n</tool_call><|im_end|>";
        let wanted = format!("{head}<think>\n\n</think>\n\n⟦{call}⟧");
        assert_eq!(texts(&e, &line, LossOn::Answer).unwrap(), [wanted]);
    }
}
