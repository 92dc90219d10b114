"""What the makers of cases share: the manifest, a tiny model, and log-probabilities as transformers computes them."""

import importlib.metadata
import json
import math
import os
import shutil
import subprocess
from pathlib import Path

# Token ids below the tiny tokenizer's number of bytes, so that every model here has them.
DOCUMENTS = [[7, 41, 3, 260, 18, 99, 5, 5, 200, 31, 64, 12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [150, 20, 149, 30]]
SHAPE = dict(
    vocab_size=512, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
    max_position_embeddings=256, attention_bias=False, tie_word_embeddings=False, eos_token_id=445, pad_token_id=443, bos_token_id=None,
)
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Cases:
    """The list of cases that one environment makes, and where they lie."""

    def __init__(self, root, only):
        self.root, self.only, self.entries, self.failed = root, only, [], []

    def add(self, kind, name, what, by, make, **more):
        """Makes one case in its own folder. `make(folder)` may return more of its entry."""
        if self.only and self.only not in f"{kind}/{name}":
            return
        folder = self.root / kind / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            more |= make(folder) or {}
        except Exception as error:  # a package that cannot make its own case is no fault of irori's
            self.failed.append(f"{kind}/{name}: {type(error).__name__}: {error}")
            shutil.rmtree(folder, ignore_errors=True)
            return
        self.entries.append(dict(kind=kind, name=name, what=what, by=by, path=f"{kind}/{name}", **more))


def version(*packages):
    """`transformers 5.24.0, peft 0.21.2`."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def edit_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def qwen3(seed=0, dtype="float32", **more):
    """A Qwen3 whose random weights say something: norms are not 1, and distributions are not flat."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(Qwen3Config(**(SHAPE | more)))
    fill(model)
    return model.to(getattr(torch, dtype)).eval()


def fill(model):
    import torch

    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.25 * torch.randn_like(p))
            elif "embed_tokens" in name:
                p.copy_(0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (1.2 / math.sqrt(p.shape[-1])))


def dense(model):
    """Puts a dense linear in f32 in place of every one that bitsandbytes quantised: its own numbers, without its kernels'
    rounding of activations."""
    import bitsandbytes as bnb
    import torch

    for name, module in list(model.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight.quant_state.dtype = torch.float32
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            linear = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            linear.weight.data = weight.float().reshape(linear.weight.shape)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, linear)
    return model


def reference(model, path, documents=DOCUMENTS):
    """Writes the log-probability of every token but the first, in f32, in the form of `irori score`."""
    import torch

    torch.nn.Module.float(model).eval()  # transformers' own refuses what was quantised once
    rows = []
    with torch.no_grad():
        for tokens in documents:
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, :-1].float()
            picked = logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
            rows.append({"tokens": tokens, "logprobs": [None, *picked.tolist()]})
    write_lines(path, rows)


def read_back(folder, path=None, cls=None):
    """The reference of a checkpoint is what transformers computes with what it reads from the directory."""
    import torch
    from transformers import AutoModelForCausalLM

    model = (cls or AutoModelForCausalLM).from_pretrained(path or folder, dtype=torch.float32)
    reference(dense(model), folder / "reference.jsonl")


def tokenizer_dir(root):
    """irori's tiny tokenizer with a chat template that shows everything that a turn may have."""
    folder = root / "tokenizer"
    if not folder.exists():
        irori = os.environ.get("IRORI", str(Path(__file__).resolve().parents[2] / "target/release/irori"))
        subprocess.run([irori, "synth", "--arch", "tiny", "--output", str(folder)], check=True, capture_output=True)
        edit_json(folder / "tokenizer_config.json", lambda f: f.pop("chat_template"))
        shutil.copy(Path(__file__).resolve().parent / "chat_template.jinja", folder / "chat_template.jinja")
    return folder


def tokenizer(root):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(tokenizer_dir(root))


def rendered(root, messages, tools=None):
    """[text, text that carries loss] of a conversation whose last turn is learned, as transformers renders it."""
    from check import plain

    tok = tokenizer(root)
    whole = tok.apply_chat_template(messages, tools=tools or None, tokenize=False)
    prompt = tok.apply_chat_template(messages[:-1], tools=tools or None, tokenize=False, add_generation_prompt=True)
    assert whole.startswith(prompt)
    return [plain(whole), plain(whole[len(prompt):])]


def tokenised(root, ids, learned):
    """The same of token ids and a list that says which of them carry loss."""
    from check import plain

    tok = tokenizer(root)
    return [plain(tok.decode(ids)), plain(tok.decode([i for i, yes in zip(ids, learned) if yes]))]


def records(cases, name, what, by, rows, wanted=None, **more):
    """Records in `name.jsonl`: `rows` is a list of objects or a function that writes the file; `wanted`, what transformers
    makes of them: a list of (messages, tools), or of finished pairs."""

    def run(folder):
        file = folder / more.get("file", "records.jsonl")
        pairs = rows(file) if callable(rows) else write_lines(file, rows)
        pairs = pairs if isinstance(pairs, list) else wanted
        if pairs:
            made = [rendered(cases.root, *pair) if isinstance(pair, tuple) else pair for pair in pairs]
            (folder / "reference.json").write_text(json.dumps(made, ensure_ascii=False))
        return dict(file=file.name, tokenizer="tokenizer")

    tokenizer_dir(cases.root)
    cases.add("records", name, what, by, run, **{k: v for k, v in more.items() if k != "file"})
