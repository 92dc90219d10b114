#!/usr/bin/env python3
"""Pre-tokenised samples for the peers and for irori, so that both train on the same tokens.

    make_samples.py --records train.jsonl --tokenizer DIR --output samples.jsonl [--count 8]
    make_samples.py --random --vocab 151936 --output samples.jsonl [--count 8]
    make_samples.py --job --vocab 151936 --output job.jsonl

Records are {"input", "output"} as `irori dataset` writes them. The text is the model's chat template with thinking off, and loss
falls on the answer and its end-of-turn token. `--random` makes tokens of the lengths that the law questions have, without a tokenizer.

`--job` makes the job that GPUs are measured on, in steps of `--per-step` samples: `--full-steps` (the first of them warms up) of
samples of `--full-length` tokens, loss on every token, as published tables have it; a step of law samples that warms up; then the
140 law questions, loss on their answers, an epoch. The law samples are those of --records where these are given, else random
tokens of the lengths in law_lengths.json. The phases are printed as train_peer_gpu.py takes them.
"""

import argparse
import json
import pathlib
import random


def from_records(options):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with open(options.records, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    for row in rows[: options.count]:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["input"]}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        prompt = tokenizer.encode(text, add_special_tokens=False)
        answer = [*tokenizer.encode(row["output"], add_special_tokens=False), end]
        yield prompt, answer


def at_random(options):
    numbers = random.Random(options.seed)
    for _ in range(options.count):
        length = numbers.randint(180, 420)
        yield [numbers.randrange(options.vocab) for _ in range(length)], [numbers.randrange(options.vocab) for _ in range(8)]


def job(options):
    """The samples of the job, and its phases as text."""
    numbers = random.Random(options.seed)
    draw = lambda count: [numbers.randrange(options.vocab) for _ in range(count)]
    full = [([], draw(options.full_length)) for _ in range(options.full_steps * options.per_step)]
    if options.records:
        options.count = None
        law = list(from_records(options))
    else:
        known = json.loads((pathlib.Path(__file__).parent / "law_lengths.json").read_text(encoding="utf-8"))
        law = [(draw(tokens - known["targets"]), draw(known["targets"])) for tokens in known["tokens"]]
    law = law[: options.law_samples]
    steps = -(-len(law) // options.per_step)
    warm = [law[i % len(law)] for i in range(options.per_step)]
    return full + warm + law, f"warm:1,full:{options.full_steps - 1},warm:1,law:{steps}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records")
    parser.add_argument("--tokenizer")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", action="store_true")
    parser.add_argument("--per-step", type=int, default=8)
    parser.add_argument("--full-steps", type=int, default=4)
    parser.add_argument("--full-length", type=int, default=1024)
    parser.add_argument("--law-samples", type=int)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    if not (options.random or options.job or (options.records and options.tokenizer)) or (options.records and not options.tokenizer):
        parser.error("give --records and --tokenizer, or --random, or --job")
    if options.job:
        rows, phases = job(options)
    else:
        rows, phases = at_random(options) if options.random else from_records(options), None
    total = 0
    with open(options.output, "w", encoding="utf-8") as out:
        for prompt, answer in rows:
            out.write(json.dumps({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}) + "\n")
            total += len(prompt) + len(answer)
    print(phases or f"{options.output}: {total} tokens")


if __name__ == "__main__":
    main()
