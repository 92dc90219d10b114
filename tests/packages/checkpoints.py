"""Model directories as transformers and bitsandbytes write them."""

import os

import torch

from common import SHAPE, edit_json, qwen3, read_back, version

EXACT = ["--no-4bit"]
# bitsandbytes' numbers, not rounded to another type before they are used.
PACKED = ["--bnb-4bit-compute-dtype", "float32"]


def make(cases):
    by = version("transformers")
    plain(cases, by)
    configured(cases, by)
    rope(cases, by)
    files(cases, by)
    bitsandbytes(cases, version("transformers", "bitsandbytes"))
    other_storage(cases, by)


def save(cases, name, what, by, build, flags=EXACT, after=None, readable=True, **options):
    """`build()` makes a model, which is saved with `options`; `after(folder)` changes what was saved."""

    def run(folder):
        build().save_pretrained(folder, **options)
        if after:
            after(folder)
        if readable:
            read_back(folder)
        return dict(flags=flags)

    cases.add("checkpoints", name, what, by, run)


def plain(cases, by):
    for dtype in ["float32", "bfloat16", "float16"]:
        for tied in [False, True]:
            what = f"`save_pretrained`, {dtype}, {'tied' if tied else 'untied'} head"
            save(cases, f"{dtype}-{'tied' if tied else 'untied'}", what, by,
                 lambda dtype=dtype, tied=tied: qwen3(dtype=dtype, tie_word_embeddings=tied))
    save(cases, "sharded", "shards with their index (`max_shard_size=\"100KB\"`)", by, qwen3, max_shard_size="100KB")
    save(cases, "sharded-tied", "shards, tied head, bfloat16", by, lambda: qwen3(dtype="bfloat16", tie_word_embeddings=True), max_shard_size="60KB")

    def mixed():
        model = qwen3(dtype="bfloat16")
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.data = p.data.float() + 0.001
        model.lm_head.weight.data = model.lm_head.weight.data.float() + 0.0003
        return model

    save(cases, "mixed-types", "norms and head in float32, the rest in bfloat16", by, mixed)

    def merged():
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(qwen3(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
        return model.merge_and_unload()

    save(cases, "merged", "`PeftModel.merge_and_unload()`, saved", version("transformers", "peft"), merged)

    def resized(tied=False, **options):
        model = qwen3(tie_word_embeddings=tied)
        model.resize_token_embeddings(**options)
        return model

    save(cases, "resized", "`resize_token_embeddings(520, pad_to_multiple_of=64)`", by, lambda: resized(new_num_tokens=520, pad_to_multiple_of=64))
    save(cases, "resized-tied", "the same with a tied head", by, lambda: resized(True, new_num_tokens=520, pad_to_multiple_of=64))
    save(cases, "resized-down", "`resize_token_embeddings(500)`, fewer than before", by, lambda: resized(new_num_tokens=500))


def configured(cases, by):
    def config(change):
        return lambda folder: edit_json(folder / "config.json", change)

    def old(fields):
        theta = (fields.pop("rope_parameters", None) or {}).get("rope_theta", 1e6)
        fields |= dict(rope_theta=theta, rope_scaling=None, torch_dtype=fields.pop("dtype", "float32"))

    save(cases, "config-4", "`config.json` with the keys of transformers 4 (`rope_theta`, `torch_dtype`)", by, qwen3, after=config(old))
    save(cases, "generation-config", "with a `generation_config.json` that samples", by, with_generation_config)
    save(cases, "no-architectures", "`architectures` taken out of `config.json`", by, qwen3, after=config(lambda f: f.pop("architectures")))
    save(cases, "no-head-dim", "`head_dim` taken out, so that it is the default 128", by, lambda: qwen3(head_dim=128),
         after=config(lambda f: f.pop("head_dim")))
    save(cases, "head-dim-null", "`head_dim` null", by, lambda: qwen3(head_dim=128), readable=False,
         after=config(lambda f: f.update(head_dim=None)))
    save(cases, "sliding-window", "`use_sliding_window`, shorter than the texts", by,
         lambda: qwen3(use_sliding_window=True, sliding_window=4, max_window_layers=1))
    save(cases, "layer-types", "`layer_types` with sliding attention, `use_sliding_window` false (transformers refuses it)", by, qwen3, readable=False,
         after=config(lambda f: f.update(layer_types=["full_attention", "sliding_attention", "sliding_attention"], sliding_window=4)))
    save(cases, "attention-bias", "`attention_bias` true", by, lambda: qwen3(attention_bias=True))
    save(cases, "gelu", "`hidden_act` gelu", by, lambda: qwen3(hidden_act="gelu"))
    save(cases, "epsilon", "`rms_norm_eps` 1e-5", by, lambda: qwen3(rms_norm_eps=1e-5))
    save(cases, "no-tie-key", "tied, `tie_word_embeddings` taken out of `config.json`: transformers reads it as untied", by, lambda: qwen3(tie_word_embeddings=True), readable=False,
         after=config(lambda f: f.pop("tie_word_embeddings")))
    save(cases, "partial-rotary", "`partial_rotary_factor` 0.5", by, qwen3, readable=False,
         after=config(lambda f: f["rope_parameters"].update(partial_rotary_factor=0.5)))
    save(cases, "multi-head", "as many key and value heads as query heads", by, lambda: qwen3(num_key_value_heads=4))


def with_generation_config():
    model = qwen3()
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.95, top_k=20, eos_token_id=[445, 443])
    return model


def rope(cases, by):
    base = dict(rope_theta=10000.0)
    for name, what, parameters in [
        ("theta", "`rope_theta` 5,000", dict(rope_type="default", rope_theta=5000.0)),
        ("linear", "`linear` scaling by 4", base | dict(rope_type="linear", factor=4.0)),
        ("dynamic", "`dynamic` scaling by 2, texts within the first length", base | dict(rope_type="dynamic", factor=2.0)),
        ("yarn", "`yarn` scaling by 4", base | dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
        ("llama3", "`llama3` scaling", base | dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)),
    ]:
        save(cases, f"rope-{name}", f"RoPE: {what}", by, lambda parameters=parameters: roped(parameters))
    save(cases, "rope-4-yarn", "RoPE: `rope_scaling` of transformers 4 with `type` yarn", by, lambda: roped(dict(rope_type="default", rope_theta=10000.0)),
         after=lambda folder: edit_json(folder / "config.json", old_yarn))


def roped(parameters):
    import transformers
    if int(transformers.__version__.split(".")[0]) >= 5:
        return qwen3(rope_parameters=parameters)
    scaling = {k: v for k, v in parameters.items() if k != "rope_theta"}
    return qwen3(rope_theta=parameters["rope_theta"], rope_scaling=None if scaling == {"rope_type": "default"} else scaling)


def old_yarn(fields):
    fields.pop("rope_parameters", None)
    fields |= dict(rope_theta=10000.0, rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=64))


def files(cases, by):
    def run_base(folder):
        model = qwen3()
        model.model.save_pretrained(folder)

    def with_name(architecture):
        def run(folder):
            run_base(folder)
            edit_json(folder / "config.json", lambda f: f.update(architectures=[architecture]))
        return run

    def tied_base(folder):
        model = qwen3(tie_word_embeddings=True)
        model.model.save_pretrained(folder)
        edit_json(folder / "config.json", lambda f: f.update(architectures=["Qwen3ForCausalLM"]))
        read_back(folder)

    cases.add("checkpoints", "base-model", "`Qwen3Model` saved alone: no `model.` before the names, no head", by, run_base, flags=EXACT)
    cases.add("checkpoints", "base-model-untied", "the same with `architectures` Qwen3ForCausalLM", by, with_name("Qwen3ForCausalLM"), flags=EXACT)
    cases.add("checkpoints", "base-model-tied", "the same with a tied head", by, tied_base, flags=EXACT)

    def pickled(folder):
        model = qwen3()
        model.save_pretrained(folder)
        os.remove(folder / "model.safetensors")
        torch.save(model.state_dict(), folder / "pytorch_model.bin")

    def extra(name):
        def run(folder):
            from safetensors.torch import load_file, save_file
            qwen3().save_pretrained(folder)
            weights = load_file(folder / "model.safetensors")
            weights[name] = torch.ones(64)
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            if "bias" not in name:  # which transformers passes over with a warning
                read_back(folder)
        return run

    cases.add("checkpoints", "value-head", "a tensor more, `v_head.summary.weight`, as TRL's value heads have", f"{by}, safetensors", extra("v_head.summary.weight"), flags=EXACT)
    cases.add("checkpoints", "query-bias", "a tensor more, `q_proj.bias` of a layer", f"{by}, safetensors", extra("model.layers.0.self_attn.q_proj.bias"), flags=EXACT)
    cases.add("checkpoints", "inv-freq", "a tensor more, `rotary_emb.inv_freq`", f"{by}, safetensors", extra("model.rotary_emb.inv_freq"), flags=EXACT)

    def other(cls, **options):
        def run(folder):
            import transformers
            config = getattr(transformers, cls.replace("ForCausalLM", "Config").replace("ForSequenceClassification", "Config"))(**(SHAPE | options))
            getattr(transformers, cls)(config).save_pretrained(folder)
        return run

    for cls, options in [("Qwen2ForCausalLM", {}), ("Qwen3MoeForCausalLM", dict(num_experts=4, moe_intermediate_size=32)), ("LlamaForCausalLM", {}),
                         ("Qwen3ForSequenceClassification", {})]:
        cases.add("checkpoints", cls.lower(), f"`{cls}`", by, other(cls, **options), flags=EXACT)

    cases.add("checkpoints", "pickled", "`pytorch_model.bin` alone", by, pickled, flags=EXACT)

    def both(folder):
        model = qwen3()
        model.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        read_back(folder)

    cases.add("checkpoints", "pickled-too", "`pytorch_model.bin` beside `model.safetensors`", by, both, flags=EXACT)

    def stale(folder):
        qwen3(seed=1).save_pretrained(folder, max_shard_size="100KB")
        index = (folder / "model.safetensors.index.json").read_text()
        shards = {name.name: name.read_bytes() for name in folder.glob("model-*.safetensors")}
        qwen3().save_pretrained(folder)
        (folder / "model.safetensors.index.json").write_text(index)
        for name, content in shards.items():
            (folder / name).write_bytes(content)
        read_back(folder)

    cases.add("checkpoints", "two-models", "`model.safetensors` beside the shards and the index of another model", by, stale, flags=EXACT)

    def variant(folder):
        qwen3().save_pretrained(folder, variant="fp16")

    cases.add("checkpoints", "variant", "`save_pretrained(variant=\"fp16\")`: `model.fp16.safetensors`", by, variant, flags=EXACT)

    def extra_head(same):
        def run(folder):
            from safetensors.torch import load_file, save_file
            qwen3(tie_word_embeddings=True).save_pretrained(folder)
            weights = load_file(folder / "model.safetensors")
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone() * (1 if same else 2)
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            read_back(folder)
        return run

    cases.add("checkpoints", "tied-with-head", "tied, and the same head in the file", f"{by}, safetensors", extra_head(True), flags=EXACT)
    cases.add("checkpoints", "tied-other-head", "tied, and another head in the file", f"{by}, safetensors", extra_head(False), flags=EXACT)


def bitsandbytes(cases, by):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    def quantised(name, what, dtype="bfloat16", flags=PACKED, after=None, tied=False, readable=True, max_shard_size="50GB", **options):
        def run(folder):
            first = folder / "dense"
            qwen3(dtype=dtype, tie_word_embeddings=tied).save_pretrained(first)
            config = BitsAndBytesConfig(**options)
            model = AutoModelForCausalLM.from_pretrained(first, quantization_config=config, dtype=getattr(torch, dtype), device_map="cpu")
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            for file in first.iterdir():
                file.unlink()
            first.rmdir()
            if after:
                after(folder)
            if readable:
                read_back(folder)
            return dict(flags=flags)

        cases.add("checkpoints", name, what, by, run)

    nf4 = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    for compute in ["bfloat16", "float16", "float32"]:
        quantised(f"nf4-{compute}", f"NF4, compute type {compute}", bnb_4bit_compute_dtype=compute, **nf4)
    quantised("nf4-double", "NF4 with double quantisation", bnb_4bit_use_double_quant=True, **nf4)
    quantised("nf4-double-tied", "the same, tied head", bnb_4bit_use_double_quant=True, tied=True, **nf4)
    quantised("nf4-of-float32", "NF4 of a float32 model", dtype="float32", **nf4)
    quantised("nf4-of-float16", "NF4 of a float16 model", dtype="float16", **nf4)
    quantised("nf4-skip", "NF4, `llm_int8_skip_modules` with a linear of one layer", llm_int8_skip_modules=["lm_head", "model.layers.1.mlp.up_proj"], **nf4)
    quantised("nf4-skip-everywhere", "NF4, `llm_int8_skip_modules` with `down_proj`", llm_int8_skip_modules=["lm_head", "down_proj"], **nf4)
    quantised("nf4-skip-layer", "NF4, `llm_int8_skip_modules` with a whole layer", llm_int8_skip_modules=["lm_head", "model.layers.2"], **nf4)
    quantised("nf4-head", "NF4 with the head quantised too (`llm_int8_skip_modules=[\"none\"]`)", llm_int8_skip_modules=["none"], **nf4)
    for storage in ["bfloat16", "float16", "float32"]:
        quantised(f"nf4-storage-{storage}", f"NF4, `bnb_4bit_quant_storage` {storage}", bnb_4bit_quant_storage=storage, **nf4)
    quantised("nf4-sharded", "NF4 in shards", max_shard_size="60KB", **nf4)
    quantised("fp4", "FP4", load_in_4bit=True, bnb_4bit_quant_type="fp4", readable=False)
    quantised("int8", "8 bits", load_in_8bit=True, readable=False)

    def dequantised(folder):
        first = folder / "packed"
        qwen3(dtype="bfloat16").save_pretrained(folder / "dense")
        model = AutoModelForCausalLM.from_pretrained(folder / "dense", quantization_config=BitsAndBytesConfig(**nf4), dtype=torch.bfloat16, device_map="cpu")
        model = model.dequantize()
        model.save_pretrained(folder)
        for file in (folder / "dense").iterdir():
            file.unlink()
        (folder / "dense").rmdir()
        assert not first.exists()
        read_back(folder)

    cases.add("checkpoints", "dequantised", "NF4, then `dequantize()`, saved", by, dequantised, flags=EXACT)


def other_storage(cases, by):
    """Weights of other kinds, in the shape that their packages write: the names of their tensors and their configuration."""
    from safetensors.torch import load_file, save_file

    def shaped(config, names, dtype):
        def run(folder):
            qwen3(dtype="bfloat16").save_pretrained(folder)
            weights = load_file(folder / "model.safetensors")
            for name in [n for n in weights if "_proj.weight" in n]:
                w = weights.pop(name)
                for new, value in names(name.removesuffix("weight"), w, dtype).items():
                    weights[new] = value
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            edit_json(folder / "config.json", lambda f: f.update(quantization_config=config))
        return run

    def packed32(stem, w, _):
        n, k = w.shape
        groups = -(-k // 32)
        return {
            f"{stem}qweight": torch.zeros(k // 8, n, dtype=torch.int32), f"{stem}qzeros": torch.zeros(groups, n // 8, dtype=torch.int32),
            f"{stem}scales": torch.ones(groups, n, dtype=torch.float16), f"{stem}g_idx": torch.zeros(k, dtype=torch.int32),
        }

    def fp8(stem, w, _):
        return {f"{stem}weight": w.to(torch.float8_e4m3fn), f"{stem}weight_scale_inv": torch.ones(1, 1)}

    def compressed(stem, w, _):
        return {f"{stem}weight_packed": torch.zeros(w.shape[0], w.shape[1] // 8, dtype=torch.int32), f"{stem}weight_scale": torch.ones(w.shape[0], 1),
                f"{stem}weight_shape": torch.tensor(w.shape)}

    for name, what, config, names in [
        ("gptq", "GPTQ", dict(quant_method="gptq", bits=4, group_size=32, desc_act=False, sym=True), packed32),
        ("awq", "AWQ", dict(quant_method="awq", bits=4, group_size=32, zero_point=True, version="gemm"), packed32),
        ("fp8", "fine-grained fp8, as Qwen's own", dict(quant_method="fp8", fmt="e4m3", weight_block_size=[128, 128], activation_scheme="dynamic"), fp8),
        ("compressed-tensors", "compressed-tensors, 4 bits", dict(quant_method="compressed-tensors", format="pack-quantized", config_groups={}), compressed),
        ("gptq-silent", "GPTQ's tensors without a `quantization_config`", None, packed32),
        ("fp8-silent", "fp8 without a `quantization_config`", None, fp8),
    ]:
        cases.add("checkpoints", name, what, f"in the shape of {what.split(',')[0]} ({by} for the rest)", shaped(config, names, None), flags=EXACT)

    def torchao(folder):
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import AutoModelForCausalLM, TorchAoConfig
        qwen3(dtype="bfloat16").save_pretrained(folder / "dense")
        model = AutoModelForCausalLM.from_pretrained(folder / "dense", quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), dtype=torch.bfloat16)
        model.save_pretrained(folder)
        for file in (folder / "dense").iterdir():
            file.unlink()
        (folder / "dense").rmdir()

    def torchao_shaped(folder):
        qwen3(dtype="bfloat16").save_pretrained(folder)
        config = dict(quant_method="torchao", quant_type={"default": {"_type": "Int8WeightOnlyConfig", "_data": {}, "_version": 1}}, modules_to_not_convert=None)
        edit_json(folder / "config.json", lambda f: f.update(quantization_config=config))

    try:
        cases.add("checkpoints", "torchao", "torchao, 8 bits", version("transformers", "torchao"), torchao, flags=EXACT)
    except Exception:  # torchao is not there
        cases.add("checkpoints", "torchao", "torchao, 8 bits: its configuration", f"in the shape of torchao ({by} for the rest)", torchao_shaped, flags=EXACT)
