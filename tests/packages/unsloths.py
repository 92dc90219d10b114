"""What unsloth writes, on the CPU: adapters, and its forms of merged models."""

import shutil

import torch

from adapters import base_model, load, stir
from common import MODULES, read_back, reference, tokenizer_dir, version

FLAGS = ["--no-4bit"]


def make(cases):
    from unsloth import FastLanguageModel  # first, since it changes transformers

    from peft import PeftModel

    by = version("unsloth", "peft")
    base = base_model(cases.root, "unsloth-base", head_dim=64)
    with_tokenizer = cases.root / "unsloth-model"
    shutil.copytree(base, with_tokenizer, dirs_exist_ok=True)
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
        shutil.copy(tokenizer_dir(cases.root) / file, with_tokenizer / file)

    def adapted(**options):
        model, tokenizer = FastLanguageModel.from_pretrained(str(with_tokenizer), max_seq_length=64, dtype=torch.float32, load_in_4bit=False)
        model = FastLanguageModel.get_peft_model(model, **(dict(r=8, lora_alpha=16, use_gradient_checkpointing=False) | options))
        stir(model)
        return model, tokenizer

    def saved(**options):
        def run(folder):
            model, tokenizer = adapted(**options)
            model.save_pretrained(str(folder))
            tokenizer.save_pretrained(str(folder))
            reference(PeftModel.from_pretrained(load(with_tokenizer), folder), folder / "reference.jsonl")
            return dict(base="unsloth-model", flags=FLAGS)
        return run

    cases.add("adapters", "unsloth", "`FastLanguageModel.get_peft_model`, `save_pretrained`", by, saved())
    cases.add("adapters", "unsloth-rslora", "the same with `use_rslora`", by, saved(use_rslora=True))
    cases.add("adapters", "unsloth-some", "the same with two target modules", by, saved(target_modules=["q_proj", "v_proj"]))
    cases.add("adapters", "unsloth-head", "the same with `lm_head` and `embed_tokens`", by,
              saved(target_modules=["q_proj", "v_proj", "lm_head", "embed_tokens"]))

    def merged(folder):
        model, tokenizer = adapted()
        model.save_pretrained_merged(str(folder), tokenizer, save_method="merged_16bit")
        read_back(folder)
        return dict(flags=FLAGS)

    cases.add("checkpoints", "unsloth-merged_16bit", "`save_pretrained_merged(save_method=\"merged_16bit\")`", by, merged)

    def merged_4bit(folder):
        """unsloth refuses this on a CPU. On a GPU `unsloth_save_model` (unsloth/save.py) does what follows."""
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16")
        model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.bfloat16, device_map="cpu")
        model = get_peft_model(model, LoraConfig(r=8, target_modules=MODULES, task_type="CAUSAL_LM"))
        stir(model)
        model = model.merge_and_unload()
        model.config.update({"unsloth_version": "2026.10.9"})
        model.save_pretrained(folder)
        read_back(folder)
        return dict(flags=["--bnb-4bit-compute-dtype", "float32"])

    cases.add("checkpoints", "unsloth-merged_4bit", "an adapter merged into NF4 (`merged_4bit_forced`)",
              f"in the shape of {version('unsloth')}: {version('transformers', 'peft', 'bitsandbytes')}", merged_4bit)

    def lora_only(folder):
        model, tokenizer = adapted()
        model.save_pretrained_merged(str(folder), tokenizer, save_method="lora")
        reference(PeftModel.from_pretrained(load(with_tokenizer), folder), folder / "reference.jsonl")
        return dict(base="unsloth-model", flags=FLAGS)

    cases.add("adapters", "unsloth-lora", "`save_pretrained_merged(save_method=\"lora\")`", by, lora_only)

    def whole(folder):
        model, tokenizer = FastLanguageModel.from_pretrained(str(with_tokenizer), max_seq_length=64, dtype=torch.float32, load_in_4bit=False)
        model.save_pretrained(str(folder))
        read_back(folder)
        return dict(flags=FLAGS)

    cases.add("checkpoints", "unsloth", "`FastLanguageModel.from_pretrained`, `save_pretrained` (`unsloth_version` in config.json)", by, whole)

    def trained(folder):
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer
        model, tokenizer = adapted()
        data = Dataset.from_list([{"text": f"<|im_start|>user\nq{i}<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"} for i in range(4)])
        arguments = SFTConfig(output_dir=str(folder), max_steps=1, save_steps=1, per_device_train_batch_size=2, report_to=[], dataset_text_field="text", use_cpu=True, bf16=False, fp16=False)
        SFTTrainer(model=model, processing_class=tokenizer, train_dataset=data, args=arguments).train()
        reference(PeftModel.from_pretrained(load(with_tokenizer), folder / "checkpoint-1"), folder / "reference.jsonl")
        return dict(base="unsloth-model", within="/checkpoint-1", flags=FLAGS)

    cases.add("adapters", "unsloth-trl", "unsloth's model in TRL's `SFTTrainer`, `checkpoint-1`", version("unsloth", "trl", "peft"), trained)
