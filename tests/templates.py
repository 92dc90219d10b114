#!/usr/bin/env python3
"""Renders chat templates through transformers and through irori over many conversations, and counts where they agree.

    python3 -m venv venv && venv/bin/pip install transformers==5.24.0 jinja2==3.1.6
    venv/bin/python tests/templates.py FOLDER … [--show N]

A FOLDER holds files *.jinja, fetched by you: Qwen's, Llama's, those of TRL (`trl/chat_templates`), of llama.cpp
(`models/templates`), of vLLM (`examples`). Nothing of them is kept. Needs cargo, because irori's side is one of its tests.
"""

import argparse
import collections
import copy
import itertools
import json
import os
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path

from transformers.tokenization_utils_base import _normalize_chat_messages
from transformers.utils import chat_template_utils

ROOT = Path(__file__).resolve().parents[1]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class Clock(datetime):
    """The time that irori's test has, too."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 5, 14, 3, 9, 42000)


chat_template_utils.datetime = Clock

TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "今日の天気 & \"more\" <b>'s</b>",
        "parameters": {"type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "場所", "enum": ["東京", "Osaka"]},
            "days": {"type": "integer", "default": 3, "minimum": 1},
            "unit": {"type": ["string", "null"], "nullable": True},
            "detail": {"type": "object", "properties": {"wind": {"type": "boolean"}, "scale": {"type": "number", "default": 1.5}}},
            "list": {"type": "array", "items": {"type": "string"}},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        }},
        "return": {"type": "string", "description": "text"},
    }},
    {"type": "function", "function": {"name": "now", "description": "The time.\nIn two lines.", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, number):
    return {"type": "function", "id": f"call{number:05}", "function": {"name": name, "arguments": arguments}}


def user(text="質問です。 <b>&'\"</b>"):
    return {"role": "user", "content": text}


def answer(text="答え", **more):
    return {"role": "assistant", "content": text, **more}


def result(text, number, name="weather"):
    return {"role": "tool", "name": name, "tool_call_id": f"call{number:05}", "content": text}


ARGUMENTS = {"place": "東京", "days": 2, "unit": None, "list": ["a", "b's"], "detail": {"wind": True, "scale": 0.1, "x": 1e20}}
CONVERSATIONS = [
    [user()],
    [user(""), answer("")],
    [user(" \n前後に空白 \t\n"), answer("\n\n答え \n"), user("次\r\n行"), answer("b")],
    [user("一"), answer("A1"), user("二"), answer("A2"), user("三")],
    [user("think"), answer("<think>\nそう思う。\n</think>\n\n答え"), user("more"), answer("<think>\n\n</think>\n\nB"), user("end?")],
    [user("think"), answer("答え", reasoning_content="考え\nる"), user("more"), answer("C", thinking="t2"), user("x"), answer("D", reasoning="r3")],
    [user("think"), answer("答え", reasoning_content="")],
    [user("call"), answer("", tool_calls=[call("weather", ARGUMENTS, 1)]), result("晴れ", 1), answer("晴れです。")],
    [user("call"), answer("見ます", tool_calls=[call("weather", json.dumps(ARGUMENTS, ensure_ascii=False), 1)]), result("{\"a\": [1, 2.0]}", 1)],
    [user("two"), answer(None, tool_calls=[call("weather", {"place": "Osaka"}, 1), call("now", {}, 2)]), result("雨", 1), result("12:00", 2, "now"), answer("ok"), user("thanks")],
    [user("one"), answer("", reasoning_content="which?", tool_calls=[call("now", {}, 1)]), result("12:00", 1, "now"), answer("noon", reasoning_content="so")],
    [user("a"), user("b"), answer("c"), answer("d")],
    [answer("first"), user("then")],
    [{"role": "user", "content": [{"type": "text", "text": "part <1>"}, {"type": "text", "text": "二"}]}, answer("x")],
    [user("named") | {"name": "Ann"}, answer("x", name="Bo")],
    [{"role": "ipython", "content": "3"}, {"role": "function", "name": "f", "content": "4"}, {"role": "developer", "content": "d"}, user("u")],
    [user("<|im_start|>{{ x }} {% raw %} <tool_response>r</tool_response>"), answer("</think> x <think>"), user("<tool_response>\nq</tool_response>")],
    [user("混ぜ書き mixed ÀÉ ß 😀"), answer("  x"), {"role": "system", "content": "in the middle"}, user("y")],
]
SYSTEMS = [None, {"role": "system", "content": " あなたは法律家です。/no_think \n"}]


def cases():
    """Conversations with and without system message, tools, generation prompt and thinking."""
    out = []
    options = itertools.product(CONVERSATIONS, SYSTEMS, [None, TOOLS], [False, True], [None, False, True])
    for turns, system, tools, generation, thinking in options:
        messages = ([system] if system else []) + turns
        variables = dict(TOKENS) if thinking is None else dict(TOKENS, enable_thinking=thinking, thinking=thinking)
        out.append({"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": generation, "variables": variables})
    return out


def render(template, case):
    """What transformers makes of a case."""
    case = copy.deepcopy(case)
    try:
        messages = _normalize_chat_messages(case["messages"])
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[messages], tools=case["tools"], documents=case["documents"], chat_template=template,
            add_generation_prompt=case["add_generation_prompt"], **case["variables"])
        return {"text": texts[0]}
    except Exception as e:  # whatever a template raises is a refusal
        return {"error": f"{type(e).__name__}: {e}"}


def irori(templates, some_cases):
    """The same by irori."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases.json"
        path.write_text(json.dumps({"templates": templates, "cases": some_cases}), encoding="utf-8")
        test = "data::chat::tests::against_jinja2::render_the_cases_of_a_file"
        command = ["cargo", "test", "--quiet", "--lib", "--", "--ignored", "--exact", test]
        subprocess.run(command, cwd=ROOT, env=dict(os.environ, IRORI_TEMPLATES=str(path)), check=True, stdout=subprocess.DEVNULL)
        return json.loads((Path(folder) / "cases.rendered.json").read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--show", type=int, default=1, help="differences to show for each template")
    options = parser.parse_args()
    some_cases = cases()
    different = 0
    for folder in options.folders:
        files = sorted(folder.rglob("*.jinja"))
        sources = [path.read_text(encoding="utf-8") for path in files]
        ours = irori(sources, some_cases)
        counts, whole, reasons = collections.Counter(), collections.Counter(), collections.Counter()
        for path, source, results in zip(files, sources, ours):
            of_file, shown = collections.Counter(), 0
            for case, mine in zip(some_cases, results):
                theirs = render(source, case)
                if "text" in theirs and mine == theirs:
                    kind = "equal"
                elif "error" in theirs and "error" in mine:
                    kind = "refused by both"
                elif "error" in mine:
                    kind = "refused by irori only"
                    reasons[f"{path.name}: {mine['error']}"] += 1
                else:
                    kind = "different"
                    if shown < options.show:
                        shown += 1
                        print(f"  {path.name}: {json.dumps(case, ensure_ascii=False)}\n    transformers {theirs}\n    irori        {mine}")
                of_file[kind] += 1
            counts += of_file
            whole["different" if of_file["different"] else "refused in part" if of_file["refused by irori only"] else "equal throughout"] += 1
        for reason, n in reasons.most_common():
            print(f"  {n:5} × {reason}")
        print(f"{folder.name}: {len(files)} templates {dict(whole)}, {len(some_cases)} conversations each: {dict(counts)}")
        different += counts["different"]
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
