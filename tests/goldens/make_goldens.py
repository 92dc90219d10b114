#!/usr/bin/env python3
"""Makes the golden files beside this script with transformers, peft and bitsandbytes, on the CPU, in f32.

    python3 tests/goldens/make_goldens.py [--tokenizer DIR] [--only models,nf4,text]

Everything follows from the seeds below, so a second run with the same package versions writes the same files.
README.md says what each file holds and how the Rust tests use it. The models are tiny Qwen3 models with random weights that are
exact in bf16, so the reference (f32 arithmetic) and irori start from the same numbers.
"""

import argparse
import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
IGNORE = -100
VOCAB = 300
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# "untied": q is wider than the residual stream; sharded; config.json as transformers 5 writes it.
# "tied": q as wide as the residual stream, another rope base and epsilon; one file; config.json as transformers 4 wrote it.
SHAPES = {
    "untied": dict(seed=11, hidden_size=128, intermediate_size=192, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                   tie_word_embeddings=False, rope_theta=1_000_000.0, rms_norm_eps=1e-6),
    "tied": dict(seed=12, hidden_size=64, intermediate_size=192, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
                 tie_word_embeddings=True, rope_theta=10_000.0, rms_norm_eps=1e-5),
}


def versions():
    """Versions of what made the files."""
    import bitsandbytes
    import peft
    import tokenizers
    import transformers

    modules = dict(torch=torch, transformers=transformers, peft=peft, bitsandbytes=bitsandbytes, tokenizers=tokenizers, numpy=np)
    return {name: module.__version__ for name, module in modules.items()}


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def samples(seed, lengths, prompt):
    """Random documents of the given lengths; the first `prompt(length)` labels carry no loss."""
    rng = np.random.default_rng(seed)
    out = []
    for length in lengths:
        ids = rng.integers(0, VOCAB, length).tolist()
        masked = prompt(length)
        out.append({"input_ids": ids, "labels": [IGNORE] * masked + ids[masked:]})
    return out


def targets(sample):
    """Positions whose next token carries loss: the first label of a document is never predicted."""
    return sum(label != IGNORE for label in sample["labels"][1:])


# --- models ---------------------------------------------------------------------------------------------------------------


def make_model(name, folder):
    """A random Qwen3 in bf16 as a Hugging Face directory."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = dict(SHAPES[name])
    torch.manual_seed(shape.pop("seed"))
    theta = shape.pop("rope_theta")
    config = Qwen3Config(
        vocab_size=VOCAB, num_hidden_layers=2, max_position_embeddings=512, initializer_range=0.02, attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": theta}, bos_token_id=None, eos_token_id=1, pad_token_id=0, **shape,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("norm.weight"):
                p.copy_(1 + 0.25 * torch.randn_like(p))
            elif "embed_tokens" in key:
                p.copy_(0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (1.2 / math.sqrt(p.shape[1])))
    model.to(torch.bfloat16)
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="500KB" if name == "untied" else "50GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "tied":
        path = folder / "config.json"
        fields = json.loads(path.read_text())
        fields.pop("rope_parameters", None)
        fields["rope_theta"] = theta
        fields["rope_scaling"] = None
        fields["torch_dtype"] = fields.pop("dtype", "bfloat16")
        write_json(path, fields)


def load_model(folder, **more):
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **more)
    model.config.use_cache = False
    return model.eval()


def logits_of(model, sample):
    """Logits of one document alone, unpadded: [tokens, vocabulary], f32."""
    return model(input_ids=torch.tensor([sample["input_ids"]])).logits[0].float()


def loss_sum(logits, sample):
    """Σ −log p over the document's targets."""
    labels = torch.tensor(sample["labels"])[1:]
    return torch.nn.functional.cross_entropy(logits[:-1], labels, ignore_index=IGNORE, reduction="sum")


def forward(model, docs):
    """(logits of all rows, mean loss over all targets, log-probability of each next token of each document)."""
    with torch.no_grad():
        each = [logits_of(model, d) for d in docs]
        loss = sum(loss_sum(x, d) for x, d in zip(each, docs)) / sum(map(targets, docs))
        logprobs = [
            x[:-1].log_softmax(-1).gather(1, torch.tensor(d["input_ids"][1:])[:, None])[:, 0].tolist() for x, d in zip(each, docs)
        ]
    return torch.cat(each), float(loss), logprobs


def greedy(model, docs, new=12):
    """The most likely continuation of each document, and by how much the nearest other token was less likely (nats)."""
    out = []
    for d in docs:
        ids, margin = list(d["input_ids"]), math.inf
        for _ in range(new):
            with torch.no_grad():
                top = logits_of(model, {"input_ids": ids})[-1].topk(2)
            margin = min(margin, float(top.values[0] - top.values[1]))
            ids.append(int(top.indices[0]))
        out.append({"tokens": ids[len(d["input_ids"]) :], "margin": margin})
    return out


def lora_config(**more):
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=MODULES, bias="none", task_type="CAUSAL_LM", **more)


def make_adapter(folder, base, seed):
    """A PEFT adapter of all seven linears: A as PEFT starts it, B random instead of zero."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(base, lora_config())
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_B" in key:
                p.copy_(0.05 * torch.randn_like(p))
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    fields = json.loads(path.read_text())
    fields["base_model_name_or_path"] = f"models/{folder.name}"
    fields["target_modules"] = sorted(fields["target_modules"])  # a set: its order is random
    write_json(path, fields)
    return model


def lora_parameters(model):
    """Adapter tensors under the names of PEFT's file."""
    return {k.replace(".default", ""): p for k, p in model.named_parameters() if "lora_" in k}


def schedule(optimizer, plan):
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[plan["lr_scheduler"]]
    return make(optimizer, num_warmup_steps=plan["warmup_steps"], num_training_steps=plan["steps"])


def train(model, plan, data):
    """Adam steps as transformers' Trainer takes them, each over plan["batch"] samples with one denominator. The k-th step
    takes the next samples of the file, again from its start when it ends."""
    parameters = lora_parameters(model)
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=plan["learning_rate"], betas=(0.9, 0.999), eps=1e-8, weight_decay=plan["weight_decay"]
    )
    scheduler = schedule(optimizer, plan)
    log = []
    at = 0
    for step in range(plan["steps"]):
        batch = [data[(at + i) % len(data)] for i in range(plan["batch"])]
        at += plan["batch"]
        count = sum(map(targets, batch))
        total = 0.0
        optimizer.zero_grad()
        for sample in batch:
            loss = loss_sum(logits_of(model, sample), sample)
            (loss / count).backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), plan["max_grad_norm"])
        log.append({"step": step + 1, "loss": total / count, "grad_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"], "targets": count})
        optimizer.step()
        scheduler.step()
    return log, {k: p.detach().clone() for k, p in parameters.items()}


def dequantised_model(folder, compute, double):
    """The f32 model whose linears hold the values of NF4: quantised from bf16 by bitsandbytes, dequantised in f32, and rounded
    to bf16 if `compute` is. What irori computes; bitsandbytes with compute dtype bf16 also rounds activations."""
    import bitsandbytes.functional as bnb

    model = load_model(folder)
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and key != "lm_head":
            source = module.weight.data.to(torch.bfloat16)
            packed, state = bnb.quantize_4bit(source, blocksize=64, compress_statistics=double, quant_type="nf4")
            state.dtype = torch.float32
            value = bnb.dequantize_4bit(packed, state)
            module.weight.data = value.to(compute).float()
    return model


def load_4bit(folder, compute, double):
    """transformers' own 4-bit loading."""
    from transformers import BitsAndBytesConfig, Qwen3ForCausalLM

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=compute
    )
    model = Qwen3ForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=compute, device_map="cpu", attn_implementation="eager"
    )
    model.config.use_cache = False
    return model.eval()


def evaluate(entry, prefix, model, adapter, docs):
    """Adds the model's loss and log-probabilities without and with the adapter to `entry`. PEFT changes `model` itself."""
    from peft import PeftModel

    _, loss, logprobs = forward(model, docs)
    entry[f"{prefix}base"] = {"loss": loss, "logprobs": logprobs}
    _, loss, logprobs = forward(PeftModel.from_pretrained(model, adapter), docs)
    entry[f"{prefix}adapter"] = {"loss": loss, "logprobs": logprobs}


def save_checkpoint(model, folder):
    """A quantised model as transformers saves it."""
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def make_models(out):
    from peft import PeftModel

    docs = samples(21, [5, 17, 2, 29], lambda n: n // 3)
    training = samples(22, [9, 23, 4, 14, 31, 6, 12], lambda n: n // 2)
    write_json(out / "samples.json", {"documents": docs, "training": training})
    plans = {
        "untied": dict(steps=10, batch=3, learning_rate=2e-3, lr_scheduler="linear", warmup_steps=2, weight_decay=0.0, max_grad_norm=1.0, b_starts_at_zero=False),
        "tied": dict(steps=10, batch=2, learning_rate=2e-3, lr_scheduler="cosine", warmup_steps=3, weight_decay=0.1, max_grad_norm=6.0, b_starts_at_zero=True),
    }
    for name in SHAPES:
        folder, adapter = out / "models" / name, out / "adapters" / name
        make_model(name, folder)
        tensors, values = {}, {}
        logits, loss, logprobs = forward(load_model(folder), docs)
        tensors["base.logits"] = logits
        values["base"] = {"loss": loss, "logprobs": logprobs, "greedy": greedy(load_model(folder), docs)}

        model = make_adapter(adapter, load_model(folder), 31)
        logits, loss, logprobs = forward(model, docs)
        if name == "untied":
            tensors["adapter.logits"] = logits
        values["adapter"] = {"loss": loss, "logprobs": logprobs, "greedy": greedy(model, docs)}
        count = sum(map(targets, docs))
        for d in docs:
            (loss_sum(logits_of(model, d), d) / count).backward()
        for key, p in lora_parameters(model).items():
            assert bool((p.grad != 0).any()), key
            tensors[f"grad.{key}"] = p.grad

        rslora = PeftModel.from_pretrained(load_model(folder), adapter, config=lora_config(use_rslora=True))
        _, loss, logprobs = forward(rslora, docs)
        values["rslora"] = {"loss": loss, "logprobs": logprobs}

        plan = plans[name]
        model = PeftModel.from_pretrained(load_model(folder), adapter, is_trainable=True)
        if plan["b_starts_at_zero"]:
            with torch.no_grad():
                for key, p in lora_parameters(model).items():
                    if "lora_B" in key:
                        p.zero_()
        log, final = train(model, plan, training)
        values["train"] = {"plan": plan, "log": log}
        tensors.update({f"trained.{k}": v for k, v in final.items()})

        values["nf4"] = {}
        for compute, label in [(torch.float32, "f32"), (torch.bfloat16, "bf16")]:
            for double in [False, True]:
                entry = {}
                by_hand = dequantised_model(folder, compute, double)
                evaluate(entry, "", by_hand, adapter, docs)
                loaded = load_4bit(folder, compute, double)
                if compute == torch.bfloat16 and double == (name == "untied"):
                    save_checkpoint(loaded, out / "models" / f"{name}-nf4")
                evaluate(entry, "bitsandbytes_", loaded, adapter, docs)
                values["nf4"][label + ("-double" if double else "")] = entry
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, out / f"{name}.safetensors")
        write_json(out / f"{name}.json", values)
        for key, entry in values["nf4"].items():
            for part in ["base", "adapter"]:
                a, b = (np.concatenate(entry[p]["logprobs"]) for p in (part, f"bitsandbytes_{part}"))
                print(name, key, part, "by hand and by Linear4bit differ by at most", np.abs(a - b).max())


# --- NF4 of single tensors ------------------------------------------------------------------------------------------------


def generated(seed, shape):
    """Values that the Rust test makes again: a 64-bit linear congruential generator (Knuth's MMIX constants), its top 24 bits
    as a number in [-1, 1), cubed in f32; block b of 64 is multiplied by (37·b mod 101 + 1)/101."""
    count = int(np.prod(shape))
    state = seed
    raw = np.empty(count, dtype=np.int64)
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        raw[i] = state >> 40
    x = ((raw - (1 << 23)).astype(np.float32) / np.float32(1 << 23)).astype(np.float32)
    x = x * x * x
    scale = (37 * (np.arange(count) // 64) % 101 + 1).astype(np.float32) / np.float32(101)
    return torch.from_numpy((x * scale).reshape(shape))


def awkward(nf4):
    """Rows of 64 or 128 elements that quantisers get wrong: ties, zeros, signs, outliers, denormals."""
    mid = (nf4[:-1] + nf4[1:]) / 2
    rows = []
    for power in [1.0, 0.25, 1024.0]:  # 1/absmax is exact, so that the ties are
        row = torch.zeros(64)
        row[:15] = mid
        row[15:30] = torch.nextafter(mid, torch.full_like(mid, 2.0))
        row[30:45] = torch.nextafter(mid, torch.full_like(mid, -2.0))
        row[45:61] = nf4
        rows.append(row * power)
    rows.append(torch.zeros(64))
    rows.append(-torch.zeros(64))
    outlier = torch.linspace(-1e-3, 1e-3, 64)
    outlier[37] = -3.0e4
    rows.append(outlier)
    rows.append(torch.linspace(-1, 1, 64) * 3e-39)  # denormal absmax
    rows.append(torch.linspace(-1, 1, 64) * 1e-41)
    rows.append(torch.linspace(-1, 1, 64) * 5e-38)  # absmax normal, some elements denormal
    third = torch.linspace(-1, 1, 64) / 3  # 1/absmax is not exact
    rows.append(third)
    alone = torch.zeros(64)
    alone[63] = 1e-30
    rows.append(alone)
    rows.append(torch.full((64,), -0.7))
    rows.append(torch.linspace(-1, 1, 64) * 300)
    rows.append(torch.linspace(0, 1, 64).pow(3) * 0.02)
    return torch.stack(rows)


def nearest(x, code):
    """8-bit quantisation by the nearest code, blocks of 256: bitsandbytes' plain implementation in torch. Its CPU kernel, which is
    what `quantize_blockwise` runs here, rounds to one of 65536 values first and so misses the nearest code now and then."""
    operation = torch.ops.bitsandbytes.quantize_blockwise.default._op_dk
    return operation(torch._C.DispatchKey.CompositeExplicitAutograd, x, code, 256)


def quantised(record, name, x):
    """Everything bitsandbytes makes of `x`, with and without double quantisation."""
    import bitsandbytes.functional as bnb

    packed, state = bnb.quantize_4bit(x, blocksize=64, compress_statistics=False, quant_type="nf4")
    record[f"{name}.packed"] = packed.flatten()
    record[f"{name}.absmax"] = state.absmax
    digests = {}

    def dequantised(label, state):
        for dtype, kind in [(torch.float32, "f32"), (torch.bfloat16, "bf16")]:
            state.dtype = dtype
            value = bnb.dequantize_4bit(packed, state).contiguous()
            digests[f"{label}.{kind}"] = hashlib.sha256(value.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
            if value.numel() <= 2048:
                record[f"{name}.{label}.{kind}"] = value

    dequantised("dequantised", state)
    again, state = bnb.quantize_4bit(x, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(again, packed)
    record[f"{name}.double.absmax"], nested = nearest(record[f"{name}.absmax"] - state.offset, state.state2.code)
    assert torch.equal(nested, state.state2.absmax)
    record[f"{name}.double.cpu_kernel_absmax"] = state.absmax
    state.absmax = record[f"{name}.double.absmax"]
    record[f"{name}.double.nested_absmax"] = state.state2.absmax
    record[f"{name}.double.offset"] = state.offset.reshape(1)
    record[f"{name}.double.decoded"] = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    dequantised("double.dequantised", state)
    return digests


def make_nf4(out):
    import bitsandbytes.functional as bnb

    nf4 = bnb.get_4bit_type("nf4", device="cpu")
    record, values = {"nf4_map": nf4.clone()}, {}
    _, state = bnb.quantize_4bit(torch.randn(64, 64), compress_statistics=True, quant_type="nf4")
    record["dynamic_map"] = state.state2.code.clone()
    values["dynamic_map_sha256"] = hashlib.sha256(state.state2.code.numpy().tobytes()).hexdigest()

    sources = {
        "awkward_f32": awkward(nf4),
        "awkward_bf16": awkward(nf4).to(torch.bfloat16),
        "generated_f32": generated(1, (301, 192)),
        "generated_bf16": generated(2, (300, 128)).to(torch.bfloat16),
    }
    values["tensors"] = {}
    for name, x in sources.items():
        entry = {"shape": list(x.shape), "dtype": str(x.dtype).removeprefix("torch.")}
        if name.startswith("awkward"):
            record[f"{name}.source"] = x
        entry["sha256_source"] = hashlib.sha256(x.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        entry["sha256"] = quantised(record, name, x)
        values["tensors"][name] = entry
    # Only the second quantisation, of many values and of equal ones.
    for name, x in [("scales", generated(3, (16500,)).abs() + 0.05), ("equal_scales", torch.full((300,), 0.5))]:
        offset = x.mean()
        codes, state = bnb.quantize_blockwise(x - offset, blocksize=256)
        record[f"{name}.offset"] = offset.reshape(1)
        record[f"{name}.nested_absmax"] = state.absmax
        record[f"{name}.cpu_kernel_absmax"] = codes
        record[f"{name}.absmax"] = nearest(x - offset, state.code)[0]
        print(name, "the CPU kernel misses the nearest code", int((codes != record[f"{name}.absmax"]).sum()), "times")
    zero = record["awkward_f32.packed"].view(-1, 32)[3:5]
    values["zero_block"] = {"plus_zero_byte": int(zero[0, 0]), "minus_zero_byte": int(zero[1, 0]), "absmax": record["awkward_f32.absmax"][3:5].tolist()}
    assert len(zero.unique()) <= 2
    save_file({k: v.contiguous() for k, v in record.items()}, out / "nf4.safetensors")
    write_json(out / "nf4.json", values)


# --- text -----------------------------------------------------------------------------------------------------------------

STRINGS = [
    "",
    " ",
    "正解は次のうちどれか。",
    "回答（１文字のみ）：ａ",
    "ｆｕｌｌ－ｗｉｄｔｈ　１２３４５　ＡＢＣ",
    "金融商品取引法第百九十三条の二第一項に規定する監査証明",
    "カ\u3099ラスの囲炉裏 (が is decomposed: NFC joins it)",
    "囲炉裏🔥のそばで👨‍👩‍👧‍👦が休む 🇯🇵",
    "  leading, trailing and   inner   spaces  ",
    "tabs\tand\r\nlines\n\n\nthree\n",
    "fn main() {\n    let x: Vec<u32> = (0..10).map(|i| i * i).collect();\n    println!(\"{x:?}\"); // 12345.678e-9\n}\n",
    "I'll don't WE'VE 1234567890 3.14159",
    "<|im_start|>user\nspecial tokens in text<|im_end|>\n<think>\n\n</think>",
    "<|im_start |> nearly special <|im_end| >",
    "①②③㈱㍿ﾊﾝｶｸｶﾅ",
    "é é ñ ü Straße naïve",
    "\u200bzero\u200dwidth\ufeff\u00a0nbsp",
]

CONVERSATIONS = {
    "one question": [{"role": "user", "content": "次の選択肢から正しいものを選べ。\na 甲\nb 乙"}],
    "system and question": [
        {"role": "system", "content": "あなたは法律の専門家です。"},
        {"role": "user", "content": "答えは？"},
    ],
    "answered": [
        {"role": "user", "content": "正しいものはどれか。"},
        {"role": "assistant", "content": "b"},
    ],
    "several turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "Three?"},
    ],
    "answer with thoughts": [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": "<think>\nNot a, so b.\n</think>\n\nb"},
    ],
    "earlier thoughts": [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": "<think>\nNot a, so b.\n</think>\n\nb"},
        {"role": "user", "content": "Sure?"},
    ],
    "reasoning field": [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "reasoning_content": "Neither a nor c.", "content": "b"},
    ],
    "braces and quotes": [{"role": "user", "content": "{{ not a template }} {% raw %} \"quoted\" 'single' \\n <tag> & <|im_end|>"}],
    "blank content": [{"role": "user", "content": ""}],
}


def make_text(out, folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    strings = []
    for text in STRINGS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        strings.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids), "decoded_skipping_special": tokenizer.decode(ids, skip_special_tokens=True)})
    rendered = []
    for name, messages in CONVERSATIONS.items():
        for generation in [True, False]:
            for thinking in [False, True, None]:
                more = {} if thinking is None else {"enable_thinking": thinking}
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation, **more)
                rendered.append({"name": name, "messages": messages, "add_generation_prompt": generation, "enable_thinking": thinking, "text": text,
                                 "ids": tokenizer.encode(text, add_special_tokens=False)})
    template = (Path(folder) / "chat_template.jinja").read_bytes()
    digest = hashlib.sha256((Path(folder) / "tokenizer.json").read_bytes()).hexdigest()
    write_json(out / "text.json", {"tokenizer_sha256": digest, "chat_template_sha256": hashlib.sha256(template).hexdigest(), "strings": strings, "chats": rendered})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default=str(HERE.parents[2] / "shared/data/qwen3_tokenizer"), help="directory of Qwen3's tokenizer")
    parser.add_argument("--only", default="models,nf4,text", help="parts to make")
    parser.add_argument("--output-dir", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)  # one order of summation
    torch.use_deterministic_algorithms(True)
    parts = options.only.split(",")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if "models" in parts:
        make_models(options.output_dir)
    if "nf4" in parts:
        make_nf4(options.output_dir)
    if "text" in parts:
        make_text(options.output_dir, options.tokenizer)
    write_json(options.output_dir / "versions.json", versions())
    for path in options.output_dir.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner alone


if __name__ == "__main__":
    main()
