"""Records as LLaMA-Factory reads them: its own converters say which turns it makes of each, and transformers renders those."""

import json

from common import records, version

ROLES = {"user": "user", "assistant": "assistant", "observation": "tool", "function": "assistant", "system": "system"}
EQUAL = "the turns that its converter makes, as `apply_chat_template` renders them"


def make(cases):
    by = f"read by {version('llamafactory')}'s converter"
    alpaca = dict(formatting="alpaca")
    sharegpt = dict(formatting="sharegpt")
    openai = dict(formatting="sharegpt", messages="messages", role_tag="role", content_tag="content", user_tag="user", assistant_tag="assistant",
                  observation_tag="tool", function_tag="function", system_tag="system")
    call = json.dumps({"name": "add", "arguments": {"x": 3}})
    tools = json.dumps([{"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}])
    human, gpt = {"from": "human", "value": "What is 3 + 4?"}, {"from": "gpt", "value": "It is 7."}
    called = [human, {"from": "function_call", "value": call}, {"from": "observation", "value": "7"}, gpt]
    for name, what, attributes, row, expect in [
        ("alpaca", "alpaca: instruction, input, output", alpaca, {"instruction": "Add.", "input": "3 and 4", "output": "7"}, True),
        ("alpaca-no-input", "alpaca: input empty", alpaca, {"instruction": "Add 3 and 4.", "input": "", "output": "7"}, True),
        ("alpaca-system-history", "alpaca: system and history", alpaca | dict(system="system", history="history"),
         {"instruction": "Add.", "input": "5 and 6", "output": "11", "system": "Be brief.", "history": [["Add 3 and 4.", "7"], ["Sure?", "Yes."]]}, True),
        ("alpaca-empty-history", "alpaca: history empty", alpaca | dict(history="history"), {"instruction": "Add.", "input": "", "output": "11", "history": []}, True),
        ("alpaca-preference", "alpaca: chosen, rejected", alpaca | dict(ranking=True, chosen="chosen", rejected="rejected"),
         {"instruction": "Add.", "input": "", "chosen": "7", "rejected": "8"}, False),
        ("alpaca-kto", "alpaca: kto_tag", alpaca | dict(kto_tag="kto_tag"), {"instruction": "Add.", "input": "", "output": "7", "kto_tag": True}, False),
        ("alpaca-images", "alpaca: images", alpaca | dict(images="images"), {"instruction": "Add.", "input": "", "output": "7", "images": ["a.png"]}, False),
        ("pretrain", "pre-training: text", alpaca | dict(prompt="text", query=None, response=None), {"text": "The sky is blue."}, False),
        ("sharegpt", "sharegpt", sharegpt, {"conversations": [human, gpt]}, True),
        ("sharegpt-system", "sharegpt: the column system", sharegpt | dict(system="system"), {"conversations": [human, gpt], "system": "Be brief."}, True),
        ("sharegpt-system-turn", "sharegpt: a system turn", sharegpt, {"conversations": [{"from": "system", "value": "Be brief."}, human, gpt]}, True),
        ("sharegpt-calls", "sharegpt: function_call, observation, tools", sharegpt | dict(tools="tools"), {"conversations": called, "tools": tools}, True),
        ("sharegpt-call-last", "sharegpt: a call is the last turn", sharegpt | dict(tools="tools"), {"conversations": called[:2], "tools": tools}, True),
        ("sharegpt-calls-no-tools", "sharegpt: calls, tools empty", sharegpt | dict(tools="tools"), {"conversations": called, "tools": ""}, True),
        ("sharegpt-preference", "sharegpt: chosen, rejected", sharegpt | dict(ranking=True, chosen="chosen", rejected="rejected"),
         {"conversations": [human], "chosen": gpt, "rejected": {"from": "gpt", "value": "8"}}, False),
        ("sharegpt-kto", "sharegpt: label", sharegpt | dict(kto_tag="label"), {"conversations": [human, gpt], "label": False}, False),
        ("openai", "openai: messages with role and content", openai,
         {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "7"}]}, True),
    ]:
        records(cases, f"llamafactory-{name}", what, by, [row], wanted(attributes, row) if expect else None, equal=EQUAL)


def wanted(attributes, row):
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.hparams import DataArguments

    attribute = DatasetAttr("file", "x", **attributes)
    out = get_dataset_converter(attribute.formatting, attribute, DataArguments())(row)
    turns = [{"role": "system", "content": out["_system"]}] if out["_system"] else []
    for turn in [*out["_prompt"], *out["_response"]]:
        made = {"role": ROLES[str(turn["role"])], "content": turn["content"]}
        if turn["role"] == "function":
            calls = json.loads(turn["content"])
            calls = calls if isinstance(calls, list) else [calls]
            made |= {"content": "", "tool_calls": [{"type": "function", "function": call} for call in calls]}
        turns.append(made)
    return [(turns, json.loads(out["_tools"]) if out["_tools"] else None)]
