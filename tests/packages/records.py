"""Records as TRL, transformers and datasets write them, and in the shapes that OpenAI, axolotl and collections have."""

import gzip
import json

from common import records, tokenised, tokenizer, tokenizer_dir, version, write_lines

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is 3 + 4?"}
ANSWER = {"role": "assistant", "content": "It is 7."}
AGAIN = {"role": "user", "content": "And 5 + 6?"}
LAST = {"role": "assistant", "content": "It is 11."}
TALK = [USER, ANSWER]
FUNCTION = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"x": 3}}}]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "7"}
EQUAL = "the same text as transformers' `apply_chat_template`, loss on the last turn"


def make(cases):
    by_trl = f"{version('trl')}'s documentation"
    trl_forms(cases, by_trl)
    trl_written(cases)
    datasets_written(cases)
    tokenized(cases)
    openai(cases)
    axolotl(cases)
    collections(cases)
    files(cases)


def add(cases, name, what, by, rows, wanted=None, **more):
    records(cases, name, what, by, rows, wanted, **({"equal": EQUAL} | more))


def trl_forms(cases, by):
    """docs/source/dataset_formats.md of TRL: every type, standard and conversational."""
    shape = f"in the shape of {by}"
    for name, what, row, wanted in [
        ("trl-text", "language modelling, `text`", {"text": "The sky is blue."}, None),
        ("trl-messages", "language modelling, `messages`", {"messages": [SYSTEM, *TALK]}, [([SYSTEM, *TALK], None)]),
        ("trl-prompt", "prompt only", {"prompt": "The sky is"}, None),
        ("trl-prompt-talk", "prompt only, conversational", {"prompt": [USER]}, None),
        ("trl-completion", "prompt and completion: read as a user's and an assistant's turn", {"prompt": "The sky is", "completion": " blue."},
         [([{"role": "user", "content": "The sky is"}, {"role": "assistant", "content": " blue."}], None)]),
        ("trl-completion-talk", "prompt and completion, conversational", {"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [([SYSTEM, *TALK], None)]),
        ("trl-completion-turns", "completion of several turns", {"prompt": [USER], "completion": [CALL, RESULT, LAST]}, None),
        ("trl-preference", "preference", {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}, None),
        ("trl-preference-implicit", "preference without a prompt", {"chosen": TALK, "rejected": [USER, LAST]}, None),
        ("trl-unpaired", "unpaired preference", {"prompt": "The sky is", "completion": " blue.", "label": True}, None),
        ("trl-stepwise", "stepwise supervision", {"prompt": "9.11 or 9.9?", "completions": ["9.9 is.", "9.11."], "labels": [True, False]}, None),
        ("trl-template-arguments", "`chat_template_kwargs`", {"prompt": [USER], "completion": [ANSWER], "chat_template_kwargs": {"enable_thinking": False}}, None),
        ("trl-tools", "`tools`, calls and a result", {"messages": [USER, CALL, RESULT, ANSWER], "tools": [TOOL]}, [([USER, CALL, RESULT, ANSWER], [TOOL])]),
        ("trl-tools-text", "`tools` as JSON in a text", {"messages": [USER, CALL, RESULT, ANSWER], "tools": json.dumps([TOOL])}, [([USER, CALL, RESULT, ANSWER], [TOOL])]),
        ("trl-tools-last", "the last turn calls a tool", {"prompt": [USER], "completion": [CALL], "tools": [TOOL]}, [([USER, CALL], [TOOL])]),
        ("trl-images", "with `images`", {"messages": [USER, ANSWER], "images": ["a.png"]}, None),
        ("trl-parts", "content as a list of one text", {"messages": [{"role": "user", "content": [{"type": "text", "text": USER["content"]}]}, ANSWER]}, [(TALK, None)]),
        ("trl-thought", "`reasoning_content`", {"messages": [USER, ANSWER | {"reasoning_content": "3 and 4."}]}, [([USER, ANSWER | {"reasoning_content": "3 and 4."}], None)]),
        ("trl-thinking", "`thinking`, of which the template shows `reasoning_content`", {"messages": [USER, ANSWER | {"thinking": "3 and 4."}]}, [([USER, ANSWER | {"reasoning_content": "3 and 4."}], None)]),
    ]:
        add(cases, name, what, shape, [row], wanted)


def trl_written(cases):
    """What SFTTrainer makes of a dataset, written with `to_json`, and what its collators make of that."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from adapters import base_model

    talks = [{"prompt": [{"role": "user", "content": f"What is {i} + 4?"}], "completion": [{"role": "assistant", "content": f"It is {i + 4}."}]} for i in range(4)]
    tok = tokenizer(cases.root)
    base = base_model(cases.root)

    def trainer(rows, **options):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        arguments = SFTConfig(output_dir=str(cases.root / "trl"), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, **options)
        return SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tok)

    def pairs(data, field):
        return [tokenised(cases.root, row["input_ids"], [bool(x) if field != "labels" else x != -100 for x in row[field]]) for row in data]

    def masked(file):
        data = trainer(talks).train_dataset
        data.to_json(file)
        return pairs(data, "completion_mask") if "completion_mask" in data.column_names else pairs(data, "labels")

    by = version("trl", "datasets")
    add(cases, "trl-prepared", "`SFTTrainer`'s prepared prompt and completion, `to_json`", by, masked, equal="the same tokens and the same loss")

    def packed(file):
        data = trainer(talks, packing=True, max_length=128).train_dataset
        data.to_json(file)
        out = []
        for row in data:
            at = 0
            field = "completion_mask" if "completion_mask" in row else "labels"
            for length in row["seq_lengths"]:
                mask = [bool(x) if field != "labels" else x != -100 for x in row[field][at:at + length]]
                out.append(tokenised(cases.root, row["input_ids"][at:at + length], mask))
                at += length
        return out

    add(cases, "trl-packed", "`SFTTrainer(packing=True)`, prepared: `seq_lengths`", by, packed, equal="each sample apart, the same tokens and the same loss")

    def batch(free):
        def write(file):
            made = trainer(talks, padding_free=free) if not free else trainer(talks)
            from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
            collator = DataCollatorForLanguageModeling(pad_token_id=tok.pad_token_id, padding_free=free)
            rows = [made.train_dataset[i] for i in range(3)]
            out = collator(rows)
            lists = {k: v.tolist() for k, v in out.items() if hasattr(v, "tolist")}
            count = len(lists["input_ids"])
            write_lines(file, [{k: v[i] for k, v in lists.items()} for i in range(count)])
            return pairs(rows, "completion_mask" if "completion_mask" in rows[0] else "labels")
        return write

    add(cases, "trl-batch", "TRL's collator, padded", by, batch(False), equal="padding left out, the same tokens and the same loss")
    add(cases, "trl-padding-free", "TRL's collator, `padding_free`: `position_ids`", by, batch(True), equal="each sample apart, the same tokens and the same loss")


def datasets_written(cases):
    from datasets import Dataset

    by = version("datasets")
    rows = [{"messages": [USER, CALL, RESULT, ANSWER], "id": 1}, {"messages": TALK, "id": 2}]
    wanted = [([USER, CALL, RESULT, ANSWER], None), (TALK, None)]

    def lines(file):
        Dataset.from_list(rows).to_json(file)

    add(cases, "datasets-lines", "`Dataset.to_json`: every field of every turn in every row, null where it was not", by, lines, wanted)
    add(cases, "datasets-columns", "`to_json` of a table of texts with an index of pandas", by,
        lambda file: Dataset.from_dict({"input": ["q"], "output": ["b"], "__index_level_0__": [3]}).to_json(file),
        [([{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], None)])
    add(cases, "datasets-escaped", "`to_json(force_ascii=True)` of Japanese text", by,
        lambda file: Dataset.from_list([{"input": "質問", "output": "答え"}]).to_json(file, force_ascii=True),
        [([{"role": "user", "content": "質問"}, {"role": "assistant", "content": "答え"}], None)])
    add(cases, "datasets-list", "`to_json(lines=False, orient=\"records\")`: one list", by, lambda file: Dataset.from_list(rows).to_json(file, lines=False, orient="records") and None)
    add(cases, "datasets-parquet", "`to_parquet`", by, lambda file: Dataset.from_list(rows).to_parquet(file) and None, file="records.parquet")
    add(cases, "datasets-csv", "`to_csv`", by, lambda file: Dataset.from_list([{"input": "q", "output": "b"}]).to_csv(file, index=False) and None, file="records.csv")


def tokenized(cases):
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

    tok = tokenizer(cases.root)
    by = version("transformers", "datasets")
    two = [tok(text).input_ids for text in ["It is 7.", "No, 11."]]

    def features():
        return [dict(input_ids=ids, labels=[-100, -100, *ids[2:]]) for ids in two]

    def wanted():
        return [tokenised(cases.root, ids, [False, False] + [True] * (len(ids) - 2)) for ids in two]

    add(cases, "tokenizer", "a tokenizer's own output: `input_ids` and `attention_mask`, no labels", by,
        lambda file: Dataset.from_dict(dict(tok(["It is 7."]))).to_json(file) and None)

    def labelled(file):
        Dataset.from_list([f | dict(attention_mask=[1] * len(f["input_ids"])) for f in features()]).to_json(file)
        return wanted()

    add(cases, "tokenizer-labels", "`input_ids`, `attention_mask`, `labels`", by, labelled, equal="the same tokens and the same loss")

    def padded(side):
        def write(file):
            tok.padding_side = side
            rows = [f | dict(attention_mask=[1] * len(f["input_ids"])) for f in features()]
            rows[0]["input_ids"], rows[0]["labels"], rows[0]["attention_mask"] = (rows[0][k] * 2 for k in ["input_ids", "labels", "attention_mask"])
            expected = [tokenised(cases.root, r["input_ids"], [x != -100 for x in r["labels"]]) for r in rows]
            batch = DataCollatorForSeq2Seq(tok)(rows)
            lists = {k: v.tolist() for k, v in batch.items()}
            write_lines(file, [{k: v[i] for k, v in lists.items()} for i in range(2)])
            return expected
        return write

    add(cases, "padded-right", "`DataCollatorForSeq2Seq`, padded on the right", by, padded("right"), equal="padding left out, the same tokens and the same loss")
    add(cases, "padded-left", "`DataCollatorForSeq2Seq`, padded on the left", by, padded("left"), equal="padding left out, the same tokens and the same loss")

    def flattened(**options):
        def write(file):
            batch = DataCollatorWithFlattening(return_tensors="np", **options)(features())
            row = {k: (v[0].tolist() if getattr(v, "ndim", 0) == 2 else v.tolist() if hasattr(v, "tolist") else v) for k, v in batch.items()}
            write_lines(file, [row])
            return wanted()
        return write

    add(cases, "flattened", "`DataCollatorWithFlattening`: `position_ids`", by, flattened(), equal="each sample apart, the same tokens and the same loss")

    def flash(file):
        return flattened(return_flash_attn_kwargs=True)(file)

    add(cases, "flattened-flash", "the same with `cu_seq_lens_q`", by, flash, equal="each sample apart, the same tokens and the same loss")

    def masked(file):
        template = (tokenizer_dir(cases.root) / "chat_template.jinja").read_text()
        template = template.replace("{{- message.content or '' }}", "{% generation %}{{- message.content or '' }}{% endgeneration %}")
        out = tok.apply_chat_template(TALK, chat_template=template, return_dict=True, return_assistant_tokens_mask=True, tokenize=True)
        write_lines(file, [dict(out)])
        return [tokenised(cases.root, out["input_ids"], [bool(x) for x in out["assistant_masks"]])]

    add(cases, "assistant-masks", "`apply_chat_template(return_assistant_tokens_mask=True)`", by, masked, equal="the same tokens and the same loss")


def openai(cases):
    by = "in the shape of OpenAI's fine-tuning files"
    old_call = {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": "{\"x\": 3}"}}
    called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": old_call["function_call"]}]}
    text_call = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{\"x\": 3}"}}]}
    for name, what, row, wanted in [
        ("openai", "`messages`", {"messages": [SYSTEM, *TALK]}, [([SYSTEM, *TALK], None)]),
        ("openai-weight", "`weight` 0 in an earlier turn", {"messages": [USER, ANSWER | {"weight": 0}, AGAIN, LAST | {"weight": 1}]}, [([USER, ANSWER, AGAIN, LAST], None)]),
        ("openai-weight-last", "`weight` 0 in the last turn", {"messages": [USER, ANSWER, AGAIN, LAST | {"weight": 0}]}, None),
        ("openai-tools", "`tools` and `tool_calls` with arguments in a text", {"messages": [USER, text_call, RESULT, ANSWER], "tools": [TOOL]}, [([USER, text_call, RESULT, ANSWER], [TOOL])]),
        ("openai-parallel", "`parallel_tool_calls`", {"messages": [USER, text_call], "tools": [TOOL], "parallel_tool_calls": False}, None),
        ("openai-functions", "`functions`, `function_call`, the role `function`",
         {"messages": [USER, old_call, {"role": "function", "name": "add", "content": "7"}, ANSWER], "functions": [FUNCTION]},
         [([USER, called, {"role": "tool", "name": "add", "content": "7"}, ANSWER], [TOOL])]),
        ("openai-developer", "the role `developer`", {"messages": [{"role": "developer", "content": "Be brief."}, *TALK]}, None),
        ("openai-name", "`name` of a user", {"messages": [USER | {"name": "ann"}, ANSWER]}, [([USER | {"name": "ann"}, ANSWER], None)]),
        ("openai-refusal", "`refusal` null", {"messages": [USER, ANSWER | {"refusal": None, "annotations": []}]}, [(TALK, None)]),
        ("openai-refusal-set", "`refusal` set", {"messages": [USER, {"role": "assistant", "content": None, "refusal": "No."}]}, None),
        ("openai-image", "a part that is an image", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, ANSWER]}, None),
        ("openai-preference", "preference: `input`, `preferred_output`", {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [LAST]}, None),
        ("openai-batch", "a batch's request", {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [USER]}}, None),
        ("openai-old", "`prompt` and `completion`", {"prompt": "What is 3 + 4?", "completion": "It is 7."}, [(TALK, None)]),
    ]:
        add(cases, name, what, by, [row], wanted)


def axolotl(cases):
    by = "in the shape of axolotl 0.19.0's `prompt_strategies`"
    for name, what, row, wanted in [
        ("axolotl-segments", "`input_output`: `segments`", {"segments": [{"label": False, "text": "q"}, {"label": True, "text": "b"}]}, None),
        ("axolotl-train", "`chat_template`: `train` false in an earlier turn", {"messages": [USER, ANSWER | {"train": False}, AGAIN, LAST]}, [([USER, ANSWER, AGAIN, LAST], None)]),
        ("axolotl-training", "`training` true", {"messages": [USER, ANSWER | {"training": True}]}, [(TALK, None)]),
        ("axolotl-train-user", "`training` true in a user's turn", {"messages": [USER | {"training": True}, ANSWER]}, None),
        ("axolotl-detail", "`training_detail`", {"messages": [USER, ANSWER | {"training_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}]}, None),
        ("axolotl-sharegpt", "`conversations`", {"conversations": [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": ANSWER["content"]}]}, [(TALK, None)]),
        ("axolotl-alpaca", "`alpaca`: instruction alone", {"instruction": USER["content"], "input": "", "output": ANSWER["content"]}, [(TALK, None)]),
        ("axolotl-alpaca-system", "`alpaca_w_system`", {"instruction": USER["content"], "input": "", "output": ANSWER["content"], "system": "Be brief."}, [([SYSTEM, *TALK], None)]),
        ("axolotl-context-qa", "`context_qa`", {"context": "c", "question": "q", "answer": "b"}, None),
        ("axolotl-completion", "`completion`: `text`", {"text": "The sky is blue."}, None),
    ]:
        add(cases, name, what, by, [row], wanted)


def collections(cases):
    """Columns of well-known public collections, with rows of our own."""
    talk = [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": ANSWER["content"]}]
    for name, what, row, wanted in [
        ("alpaca-text", "Alpaca: with the column `text`", {"instruction": "q", "input": "", "output": "b", "text": "Below is an instruction …"}, None),
        ("dolly", "Dolly: `instruction`, `context`, `response`", {"instruction": "q", "context": "", "response": "b", "category": "open_qa"}, None),
        ("orca", "OpenOrca: `system_prompt`, `question`, `response`", {"id": "1", "system_prompt": "s", "question": "q", "response": "b"}, None),
        ("slim-orca", "SlimOrca: `weight` in turns", {"conversations": [talk[0] | {"weight": None}, talk[1] | {"weight": 1.0}]}, [(TALK, None)]),
        ("ultrachat", "UltraChat: `prompt` beside `messages`, the same text", {"prompt": USER["content"], "prompt_id": "x", "messages": TALK}, [(TALK, None)]),
        ("ultrachat-other", "the same, another text", {"prompt": "Another.", "prompt_id": "x", "messages": TALK}, None),
        ("hermes", "OpenHermes: columns that are null", {"conversations": talk, "source": "x", "title": None, "system_prompt": None, "views": None, "idx": None}, [(TALK, None)]),
        ("sharegpt-bot", "ShareGPT: the role `bot`", {"conversations": [talk[0], {"from": "bot", "value": "b"}]}, None),
        ("sharegpt-items", "ShareGPT: `items`", {"items": talk}, None),
        ("firefly", "Firefly: `kind`, `input`, `target`", {"kind": "NLI", "input": "q", "target": "b"}, None),
        ("belle-history", "`history` in Firefly's and LLaMA-Factory's pairs", {"instruction": AGAIN["content"], "output": LAST["content"], "history": [[USER["content"], ANSWER["content"]]]}, [([USER, ANSWER, AGAIN, LAST], None)]),
    ]:
        add(cases, name, what, "in the shape of a public collection", [row], wanted)


def files(cases):
    by = "written by Python"
    line = json.dumps({"messages": TALK}, ensure_ascii=False)

    def bytes_of(content):
        def write(file):
            file.write_bytes(content)
        return write

    add(cases, "file-bom", "a byte-order mark and CRLF", by, bytes_of(b"\xef\xbb\xbf" + (line + "\r\n").encode() * 2), [(TALK, None), (TALK, None)])
    add(cases, "file-no-end", "no line end behind the last line, blank lines between", by, bytes_of(f"{line}\n\n  \n{line}".encode()), [(TALK, None), (TALK, None)])
    add(cases, "file-utf16", "UTF-16", by, bytes_of(line.encode("utf-16")))
    add(cases, "file-gzip", "gzip", by, bytes_of(gzip.compress(line.encode(), mtime=0)))
    add(cases, "file-pretty", "one object over several lines", by, bytes_of(json.dumps({"messages": TALK}, indent=2).encode()))
    add(cases, "file-twice", "a key twice in one object", by, bytes_of(b'{"input": "q", "output": "b", "output": "c"}'))
    add(cases, "file-nan", "NaN, as Python's json writes it", by, bytes_of(b'{"input": "q", "output": "b", "meta": {"x": NaN}}'))
    add(cases, "file-separator", "U+2028 within a text", by, bytes_of('{"input": "q\u2028r", "output": "b"}\n'.encode()),
        [([{"role": "user", "content": "q\u2028r"}, {"role": "assistant", "content": "b"}], None)])
