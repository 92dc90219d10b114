#!/usr/bin/env python3
"""QLoRA training of Qwen3 in PyTorch on a GPU, for comparison with irori on the same job; see README.md.

    train_peer_gpu.py --config qwen3-8b.json --samples job.jsonl --phases warm:1,full:3,warm:1,law:18 --batching flattened

The job is a file of pre-tokenised samples, taken in order, `--batch-size` × `--accumulation` a step; `--phases` names its parts
with the number of steps of each (the last step takes what remains), and every phase is timed by itself.

--batching   padded     every sequence padded to --max-seq-length, loss averaged per micro-batch: as the script that irori replaces
             longest    padded to the longest of its micro-batch, one denominator a step: the usual collator
             unpadded   one sequence a forward pass, no padding
             flattened  sequences end to end, up to batch-size × max-seq-length rows a forward pass, positions restarting
--kernels    hf (transformers' own), liger (Liger kernel), unsloth
--base       nf4 (bitsandbytes, double quantisation, bf16 compute) or bf16 (not quantised)
--model DIR loads weights; --config FILE makes random ones on the device.

Adapter parameters are f32 under bf16 autocast, as transformers' Trainer has them with bf16=True. One JSON object is printed.
"""

import argparse
import contextlib
import gc
import itertools
import json
import resource
import statistics
import sys
import time

IGNORE = -100


def say(text):
    print(text, file=sys.stderr, flush=True)


def read_phases(text):
    pairs = [part.split(":") for part in text.split(",")]
    return [(name, int(steps)) for name, steps in pairs]


def attention_of(options):
    """flash_attention_2 where it is installed and there is a GPU, else sdpa."""
    if options.attention != "auto":
        return options.attention
    import importlib.util

    found = options.device == "cuda" and importlib.util.find_spec("flash_attn") is not None
    if not found:
        say("flash-attn is not used (not installed, or no GPU): attention is sdpa")
    return "flash_attention_2" if found else "sdpa"


def quantise(model):
    """Every linear but the head becomes bitsandbytes' NF4 with double quantisation, one at a time."""
    import bitsandbytes as bnb
    import torch

    linears = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    for name, old in linears:
        with torch.device("meta"):
            new = bnb.nn.Linear4bit(
                old.in_features, old.out_features, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
            )
        weight = old.weight.data
        new.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=new).to(weight.device)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
        del old, weight
    model.is_loaded_in_4bit = True
    return model


def base_model(options, attention):
    """The frozen base: NF4 or bf16, loaded from a directory or made of random weights on the device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if options.model:
        more = {"dtype": torch.bfloat16, "attn_implementation": attention, "device_map": options.device}
        stored = AutoConfig.from_pretrained(options.model)
        if options.base == "nf4" and getattr(stored, "quantization_config", None) is None:
            from transformers import BitsAndBytesConfig

            more["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
            )
        return AutoModelForCausalLM.from_pretrained(options.model, **more)
    config = AutoConfig.for_model(**json.load(open(options.config, encoding="utf-8")))
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
    return quantise(model) if options.base == "nf4" else model


def load(options, checkpointing):
    """The model with a fresh adapter on every linear."""
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    if options.kernels == "unsloth":
        from unsloth import FastLanguageModel
        import torch

        model, _ = FastLanguageModel.from_pretrained(
            model_name=options.model, max_seq_length=options.batch_size * options.max_seq_length, dtype=torch.bfloat16, load_in_4bit=options.base == "nf4"
        )
        return FastLanguageModel.get_peft_model(
            model, r=options.lora_r, lora_alpha=options.lora_alpha, lora_dropout=options.lora_dropout, target_modules=modules,
            use_gradient_checkpointing="unsloth" if checkpointing else False, random_state=options.seed,
        ).train(), "unsloth's own"

    from peft import LoraConfig, get_peft_model

    attention = attention_of(options)
    if options.kernels == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_qwen3

        apply_liger_kernel_to_qwen3()
    model = base_model(options, attention)
    model.config.use_cache = False
    for p in model.parameters():
        p.requires_grad = False
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    config = LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, lora_dropout=options.lora_dropout, target_modules=modules, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config).train(), attention


class Batching:
    """Micro-batches of a step as keyword arguments of the model's forward pass."""

    def __init__(self, options):
        self.options = options

    def rows(self, rows):
        import torch

        return torch.tensor(rows, device=self.options.device)

    def padded_to(self, part, length):
        pad = lambda values, value: values + [value] * (length - len(values))
        return {
            "input_ids": self.rows([pad(ids, 0) for ids, _ in part]),
            "attention_mask": self.rows([pad([1] * len(ids), 0) for ids, _ in part]),
            "labels": self.rows([pad(labels, IGNORE) for _, labels in part]),
        }

    def pairs(self, batch):
        size = self.options.batch_size
        return [batch[i : i + size] for i in range(0, len(batch), size)]

    def padded(self, batch):
        return [self.padded_to(part, self.options.max_seq_length) for part in self.pairs(batch)]

    def longest(self, batch):
        return [self.padded_to(part, max(len(ids) for ids, _ in part)) for part in self.pairs(batch)]

    def unpadded(self, batch):
        return [{"input_ids": self.rows([ids]), "labels": self.rows([labels])} for ids, labels in batch]

    def flattened(self, batch):
        """Longest first into the fullest micro-batch that has room. No target is predicted from another document's last row."""
        budget, bins = self.options.batch_size * self.options.max_seq_length, []
        rows = lambda part: sum(len(ids) for ids, _ in part)
        for sample in sorted(batch, key=lambda s: -len(s[0])):
            room = [b for b in bins if rows(b) + len(sample[0]) <= budget]
            if not room:
                bins.append([])
            max(room or bins[-1:], key=rows).append(sample)
        return [
            {
                "input_ids": self.rows([[i for ids, _ in b for i in ids]]),
                "position_ids": self.rows([[p for ids, _ in b for p in range(len(ids))]]),
                "labels": self.rows([[label for _, labels in b for label in [IGNORE, *labels[1:]]]]),
            }
            for b in bins
        ]


def step_loss(model, batch, options, batching):
    """Forward and backward of a step; the loss stays on the device, so that nothing waits for it before the step ends."""
    parts = getattr(batching, options.batching)(batch)
    total = 0.0
    if options.batching == "padded":
        # Mean over micro-batches of their mean loss.
        for part in parts:
            loss = model(**part).loss / len(parts)
            loss.backward()
            total = total + loss.detach()
    else:
        targets = sum(label != IGNORE for _, labels in batch for label in labels[1:])
        for part in parts:
            loss = model(**part, num_items_in_batch=targets).loss
            loss.backward()
            total = total + loss.detach()
    return total


def memory(options, reset=False):
    """Most bytes that torch's allocator held since the last reset (on the CPU: of the process, never reset)."""
    import torch

    if options.device != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_reserved()
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return peak


def train(options, checkpointing):
    import torch

    torch.manual_seed(options.seed)
    with open(options.samples, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    samples = [(row["input_ids"][: options.max_seq_length], row["labels"][: options.max_seq_length]) for row in rows]
    clock = time.perf_counter()
    model, attention = load(options, checkpointing)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0, fused=options.device == "cuda")
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    wait()
    loaded = time.perf_counter() - clock
    held = memory(options, reset=True)
    say(f"loaded in {loaded:.1f} s, {sum(p.numel() for p in parameters)} parameters are trained")

    batching, left = Batching(options), iter(samples)
    per_step = options.batch_size * options.accumulation
    phases, begun = [], time.perf_counter()
    for name, steps in read_phases(options.phases):
        log = []
        for _ in range(steps):
            batch = list(itertools.islice(left, per_step))
            if not batch:
                break
            # A step that the limit forbids is still taken from the file, so that the phases stay where they are.
            if log and time.perf_counter() - begun > options.seconds:
                continue
            wait()
            start = time.perf_counter()
            optimizer.zero_grad()
            with torch.autocast(options.device, dtype=torch.bfloat16):
                loss = step_loss(model, batch, options, batching)
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            wait()
            seconds = time.perf_counter() - start
            tokens = sum(len(ids) for ids, _ in batch)
            log.append({"loss": float(loss), "grad_norm": float(norm), "samples": len(batch), "tokens": tokens, "seconds": seconds})
        phases.append({"name": name, "planned_steps": steps, "steps": log, "peak_bytes": memory(options, reset=True)})
        if log:
            speed = statistics.median(s["tokens"] / s["seconds"] for s in log)
            say(f"{name}: {len(log)} of {steps} steps, loss {log[0]['loss']:.4f} … {log[-1]['loss']:.4f}, {speed:.0f} tokens/s")
    trained = sum(p.numel() for p in parameters)
    return {"phases": phases, "load_seconds": loaded, "load_peak_bytes": held, "adapter_parameters": trained, "attention": attention}


def versions():
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "flash_attn", "liger_kernel", "unsloth"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="Hugging Face directory, bf16 or a bitsandbytes NF4 checkpoint")
    source.add_argument("--config", help="config.json; weights are random")
    parser.add_argument("--samples", required=True, help="pre-tokenised JSONL")
    parser.add_argument("--phases", required=True, help="NAME:STEPS,…")
    parser.add_argument("--batching", choices=["padded", "longest", "unpadded", "flattened"], default="flattened")
    parser.add_argument("--kernels", choices=["hf", "liger", "unsloth"], default="hf")
    parser.add_argument("--base", choices=["nf4", "bf16"], default="nf4")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--attention", choices=["auto", "sdpa", "flash_attention_2"], default="auto")
    parser.add_argument("--checkpointing", choices=["auto", "on", "off"], default="auto", help="auto: only if memory runs out without")
    parser.add_argument("--seconds", type=float, default=60, help="no step starts later than this after loading, but the first of a phase")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--max-seq-length", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--lora-alpha", type=int, default=32)
    parser.add_argument("--lora-dropout", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: its own choice")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.kernels == "unsloth":
        # It must be imported before transformers and peft, and it cannot make random weights.
        if not options.model:
            parser.error("unsloth needs --model")
        import unsloth  # noqa: F401
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU: use --device cpu for a check without one")
    if options.threads:
        torch.set_num_threads(options.threads)
    checkpointing = options.checkpointing == "on"
    try:
        result = train(options, checkpointing)
    except torch.cuda.OutOfMemoryError as error:
        if options.checkpointing != "auto":
            raise
        say(f"out of memory without gradient checkpointing, which is now switched on: {str(error).splitlines()[0]}")
        checkpointing, result = True, None
    if result is None:
        gc.collect()
        torch.cuda.empty_cache()
        result = train(options, checkpointing)
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(json.dumps({
        "peer": {"hf": "transformers+peft", "liger": "transformers+peft+liger", "unsloth": "unsloth"}[options.kernels],
        "batching": options.batching,
        "base": options.base,
        "device": device,
        "gradient_checkpointing": checkpointing,
        **result,
        "versions": versions(),
    }, indent=1))


if __name__ == "__main__":
    main()
