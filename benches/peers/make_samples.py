#!/usr/bin/env python3
"""Pre-tokenised samples for the peers and for irori, so that both train on the same tokens.

    make_samples.py --records train.jsonl --tokenizer DIR --output samples.jsonl [--count 8]
    make_samples.py --random --vocab 151936 --output samples.jsonl [--count 8]

Records are {"input", "output"} as `irori dataset` writes them. The text is the model's chat template with thinking off, and loss
falls on the answer and its end-of-turn token. `--random` makes tokens of the lengths that the law questions have, without a tokenizer.
"""

import argparse
import json
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records")
    parser.add_argument("--tokenizer")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    if not options.random and not (options.records and options.tokenizer):
        parser.error("give --records and --tokenizer, or --random")
    total = 0
    with open(options.output, "w", encoding="utf-8") as out:
        for prompt, answer in at_random(options) if options.random else from_records(options):
            out.write(json.dumps({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}) + "\n")
            total += len(prompt) + len(answer)
    print(f"{options.output}: {total} tokens")


if __name__ == "__main__":
    main()
