#!/usr/bin/env python3
"""irori and peft read each other's adapters, and agree on every log-probability.

    peft_roundtrip.py create  --model DIR --output ADAPTER [--rslora]        a PEFT adapter with random A and B, for irori to read
    peft_roundtrip.py score   --model DIR [--adapter A] --input F --output O [--weights dense|nf4] [--compute f32|bf16] [--double-quant]
    peft_roundtrip.py compare ONE.jsonl OTHER.jsonl [--tolerance 1e-4]       largest difference; exit code 1 beyond the tolerance

`score` reads lines {"tokens": […]} (or {"input_ids": […]}) and writes lines {"tokens": […], "logprobs": [null, …]}, natural logarithm, like `irori score`;
each line is one unpadded sequence. Its NF4 is transformers' own 4-bit loading by bitsandbytes. With `--compute bf16` bitsandbytes
rounds activations to bf16 too, which irori on the CPU does not; `--round-weights-only` quantises by bitsandbytes, rounds the weights to
bf16 and computes in f32, as irori does.
"""

import argparse
import json
import sys

import torch

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def load(options):
    """The base model as the options say, with the adapter if there is one."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    more = dict(dtype=torch.float32)
    if options.weights == "nf4" and not options.round_weights_only:
        compute = DTYPES[options.compute]
        more = dict(
            dtype=compute,
            device_map="cpu",
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=options.double_quant, bnb_4bit_compute_dtype=compute
            ),
        )
    model = AutoModelForCausalLM.from_pretrained(options.model, **more)
    if options.weights == "nf4" and options.round_weights_only:
        round_weights(model, DTYPES[options.compute], options.double_quant)
    if options.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, options.adapter)
    return model.eval()


def round_weights(model, compute, double):
    """Replaces every linear but the head by its NF4 values."""
    import bitsandbytes.functional as bnb

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            packed, state = bnb.quantize_4bit(module.weight.data, blocksize=64, compress_statistics=double, quant_type="nf4")
            module.weight.data = bnb.dequantize_4bit(packed, state).to(compute).float()


def score(options):
    torch.set_num_threads(options.threads)
    model = load(options)
    with open(options.output, "w", encoding="utf-8") as out, torch.no_grad():
        for row in lines(options.input):
            tokens = row.get("tokens", row.get("input_ids"))
            logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1].float()
            picked = logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
            out.write(json.dumps({"tokens": tokens, "logprobs": [None, *picked.tolist()]}) + "\n")


def create(options):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(options.seed)
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    config = LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, use_rslora=options.rslora, target_modules=options.target_modules.split(","), task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.02 * torch.randn_like(p))
    model.save_pretrained(options.output)


def compare(options):
    one, other = lines(options.one), lines(options.other)
    assert len(one) == len(other), f"{len(one)} lines and {len(other)}"
    worst, sum_, count = 0.0, 0.0, 0
    for i, (a, b) in enumerate(zip(one, other)):
        assert a["tokens"] == b["tokens"], f"line {i + 1}: other tokens"
        assert len(a["logprobs"]) == len(b["logprobs"]) == len(a["tokens"]), f"line {i + 1}: other lengths"
        for x, y in zip(a["logprobs"][1:], b["logprobs"][1:]):
            difference = abs(x - y)
            worst = max(worst, difference if difference == difference else float("inf"))
            sum_, count = sum_ + difference, count + 1
    print(json.dumps({"tokens": count, "max_difference": worst, "mean_difference": sum_ / max(count, 1), "tolerance": options.tolerance}))
    return 0 if worst <= options.tolerance and count else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("create", help="write a PEFT adapter")
    command.set_defaults(run=create)
    command.add_argument("--model", required=True)
    command.add_argument("--output", required=True)
    command.add_argument("--lora-r", type=int, default=16)
    command.add_argument("--lora-alpha", type=int, default=32)
    command.add_argument("--rslora", action="store_true")
    command.add_argument("--target-modules", default=",".join(MODULES))
    command.add_argument("--seed", type=int, default=0)

    command = commands.add_parser("score", help="log-probabilities of token lists")
    command.set_defaults(run=score)
    command.add_argument("--model", required=True)
    command.add_argument("--adapter")
    command.add_argument("--input", required=True)
    command.add_argument("--output", required=True)
    command.add_argument("--weights", choices=["dense", "nf4"], default="dense")
    command.add_argument("--compute", choices=DTYPES, default="f32")
    command.add_argument("--double-quant", action="store_true")
    command.add_argument("--round-weights-only", action="store_true")
    command.add_argument("--threads", type=int, default=2)

    command = commands.add_parser("compare", help="compare two outputs of score")
    command.set_defaults(run=compare)
    command.add_argument("one")
    command.add_argument("other")
    command.add_argument("--tolerance", type=float, default=1e-4)

    options = parser.parse_args()
    return options.run(options) or 0


if __name__ == "__main__":
    sys.exit(main())
