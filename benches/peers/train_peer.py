#!/usr/bin/env python3
"""LoRA training with transformers and peft, for comparison with irori on the same model and the same samples.

    python3 train_peer.py --model DIR --samples FILE.jsonl --mode unpadded|padded [--steps 6] [--threads 2]

Samples are {"input_ids": […], "labels": […]}, −100 where no loss falls, labels not shifted. A step takes `--batch-size` ×
`--accumulation` of them.

unpadded  one sequence a forward pass, no padding, one denominator a step: what a careful PyTorch user would write.
padded    `--batch-size` sequences a forward pass, each padded to `--max-seq-length`, logits on all rows, the loss averaged per
          micro-batch and then over the accumulation: what the script that irori replaces did.

One JSON object is printed. tokens_per_second counts real tokens only (no padding), the median over the timed steps.
"""

import argparse
import json
import platform
import resource
import statistics
import time

import torch

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORE = -100


def read_samples(path, limit):
    """Samples cut to `limit` tokens."""
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    samples = [(row["input_ids"][:limit], row["labels"][:limit]) for row in rows]
    assert samples and all(len(ids) == len(labels) for ids, labels in samples), f"{path}: no samples, or labels of another length"
    return samples


def load(options):
    """The model in f32 with a fresh adapter on every linear."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation=options.attention)
    base.config.use_cache = False
    if options.gradient_checkpointing:
        base.gradient_checkpointing_enable()
        base.enable_input_require_grads()
    config = LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, lora_dropout=options.lora_dropout, target_modules=MODULES, task_type="CAUSAL_LM"
    )
    return get_peft_model(base, config).to(options.device).train()


def unpadded_step(model, batch, options):
    """Loss of the step: Σ over its targets / their number."""
    count = sum(label != IGNORE for _, labels in batch for label in labels[1:])
    total = 0.0
    for ids, labels in batch:
        ids, labels = (torch.tensor([row], device=options.device) for row in (ids, labels))
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    return total


def padded_step(model, batch, options):
    """Mean over micro-batches of their mean loss."""
    length, total = options.max_seq_length, 0.0
    parts = [batch[i : i + options.batch_size] for i in range(0, len(batch), options.batch_size)]
    for part in parts:
        pad = lambda rows, value: torch.tensor([row + [value] * (length - len(row)) for row in rows], device=options.device)
        ids = pad([ids for ids, _ in part], 0)
        mask = pad([[1] * len(ids) for ids, _ in part], 0)
        labels = pad([labels for _, labels in part], IGNORE)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss / len(parts)
        loss.backward()
        total += loss.item()
    return total


def run(options):
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    samples = read_samples(options.samples, options.max_seq_length)
    model = load(options)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    step_of = {"unpadded": unpadded_step, "padded": padded_step}[options.mode]
    per_step = options.batch_size * options.accumulation
    log = []
    for step in range(options.warmup + options.steps):
        batch = [samples[(step * per_step + i) % len(samples)] for i in range(per_step)]
        start, busy = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        loss = step_of(model, batch, options)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        norm = float(norm)
        log.append({
            "loss": loss,
            "grad_norm": norm,
            "tokens": sum(len(ids) for ids, _ in batch),
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - busy,
        })
    return log, sum(p.numel() for p in parameters)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hugging Face directory, as `irori synth` writes it")
    parser.add_argument("--samples", required=True, help="pre-tokenised JSONL")
    parser.add_argument("--mode", choices=["unpadded", "padded"], default="unpadded")
    parser.add_argument("--steps", type=int, default=6, help="timed steps")
    parser.add_argument("--warmup", type=int, default=1, help="steps before the timed ones")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--max-seq-length", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--lora-alpha", type=int, default=32)
    parser.add_argument("--lora-dropout", type=float, default=0.0)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu"], default="cpu", help="others are not written yet")
    options = parser.parse_args()
    log, parameters = run(options)

    import peft
    import transformers

    timed = log[options.warmup :]
    print(json.dumps({
        "peer": "transformers+peft",
        "mode": options.mode,
        "device": options.device,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "adapter_parameters": parameters,
        "tokens_per_second": statistics.median(s["tokens"] / s["seconds"] for s in timed),
        "seconds_per_step": statistics.median(s["seconds"] for s in timed),
        "tokens_per_cpu_second": statistics.median(s["tokens"] / s["cpu_seconds"] for s in timed),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "steps": log,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }, indent=1))


if __name__ == "__main__":
    main()
