"""The same by transformers 4 and an older peft: their own keys in config.json and adapter_config.json."""

import torch

from adapters import BASE, base_model, load, lora, stir
from checkpoints import EXACT, PACKED, roped, save
from common import qwen3, read_back, reference, version


def make(cases):
    by = version("transformers")
    save(cases, "older-untied", "`save_pretrained`, bfloat16", by, lambda: qwen3(dtype="bfloat16"))
    save(cases, "older-tied", "the same, tied head, shards", by, lambda: qwen3(dtype="bfloat16", tie_word_embeddings=True), max_shard_size="60KB")
    save(cases, "older-yarn", "`rope_scaling` yarn", by, lambda: roped(dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)))
    save(cases, "older-pickled", "`safe_serialization=False`", by, qwen3, safe_serialization=False, readable=False)

    def nf4(**options):
        def run(folder):
            from transformers import AutoModelForCausalLM, BitsAndBytesConfig
            first = folder / "dense"
            qwen3(dtype="bfloat16").save_pretrained(first)
            config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **options)
            AutoModelForCausalLM.from_pretrained(first, quantization_config=config, dtype=torch.bfloat16, device_map="cpu").save_pretrained(folder)
            for file in first.iterdir():
                file.unlink()
            first.rmdir()
            read_back(folder)
            return dict(flags=PACKED)
        return run

    cases.add("checkpoints", "older-nf4", "NF4", version("transformers", "bitsandbytes"), nf4())
    cases.add("checkpoints", "older-nf4-double", "NF4 with double quantisation", version("transformers", "bitsandbytes"), nf4(bnb_4bit_use_double_quant=True))

    by = version("peft")
    base_model(cases.root)
    lora(cases, "older-lora", "LoRA on all seven linears", by)
    lora(cases, "older-all-linear", "`target_modules=\"all-linear\"`", by, target_modules="all-linear")

    def add_adapter(folder):
        from peft import LoraConfig
        model = load(cases.root / BASE)
        model.add_adapter(LoraConfig(r=8, task_type="CAUSAL_LM"))
        stir(model)
        model.save_pretrained(folder)
        reference(model, folder / "reference.jsonl")
        return dict(base=BASE, flags=EXACT)

    cases.add("adapters", "add-adapter", "transformers' `model.add_adapter`, `save_pretrained`", version("transformers", "peft"), add_adapter)
