"""Adapters as peft and TRL write them, on a dense base in float32."""

import json
import os
import shutil

import torch

from common import MODULES, edit_json, qwen3, reference, version, write_lines

BASE = "base"


def base_model(root, name=BASE, **more):
    """The base of the adapters, saved once."""
    folder = root / name
    if not (folder / "config.json").exists():
        qwen3(seed=3, **more).save_pretrained(folder)
    return folder


def load(folder):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def stir(model, scale=0.05):
    """Gives every trainable parameter a value as after training: B of a new adapter is zero, which would prove nothing."""
    torch.manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(scale * torch.randn_like(p))


def make(cases):
    by = version("peft")
    base = base_model(cases.root)
    base_model(cases.root, "base-tied", tie_word_embeddings=True)
    accepted(cases, by)
    selections(cases, by)
    starts(cases, by)
    more_than_lora(cases, by)
    other_kinds(cases, by)
    files(cases, by, base)
    trl(cases)


def lora(cases, name, what, by, within="", after=None, base=BASE, readable=True, cast=None, seed=0, **options):
    """An adapter of `LoraConfig(**options)`, stirred and saved; the reference is what peft computes with what was saved."""
    from peft import LoraConfig, PeftModel, get_peft_model

    def run(folder):
        torch.manual_seed(seed)
        config = LoraConfig(**(dict(r=8, lora_alpha=16, target_modules=MODULES, task_type="CAUSAL_LM") | options))
        model = get_peft_model(load(cases.root / base), config)
        stir(model)
        if cast:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(cast)
        model.save_pretrained(folder)
        edit_json(folder / "adapter_config.json", lambda f: f.update(base_model_name_or_path=base))
        if after:
            after(folder)
        if readable:
            saved = PeftModel.from_pretrained(load(cases.root / base), folder, autocast_adapter_dtype=True)
            reference(saved, folder / "reference.jsonl")
        return dict(base=base, within=within, flags=["--no-4bit"])

    cases.add("adapters", name, what, by, run)


def accepted(cases, by):
    lora(cases, "lora", "LoRA on all seven linears", by)
    lora(cases, "lora-tied", "the same on a base with a tied head", by, base="base-tied")
    lora(cases, "alpha", "r 4, alpha 32, dropout 0.1", by, r=4, lora_alpha=32, lora_dropout=0.1)
    lora(cases, "alpha-fraction", "alpha 12.5", by, lora_alpha=12.5)
    lora(cases, "rank-1", "r 1", by, r=1)
    lora(cases, "rank-wide", "r 96, more than the width", by, r=96)
    lora(cases, "rslora", "`use_rslora`", by, use_rslora=True)
    for dtype in ["bfloat16", "float16"]:
        lora(cases, f"saved-{dtype}", f"weights saved in {dtype}", by, cast=getattr(torch, dtype))

    def changed(change):
        return lambda folder: edit_json(folder / "adapter_config.json", change)

    lora(cases, "local-base", "`base_model_name_or_path` a path of another machine", by, after=changed(lambda f: f.update(base_model_name_or_path="/home/a/models/qwen3")))
    lora(cases, "no-base", "`base_model_name_or_path` null", by, after=changed(lambda f: f.update(base_model_name_or_path=None)))
    lora(cases, "no-task", "`task_type` unset", by, task_type=None)
    lora(cases, "dora", "DoRA", by, use_dora=True)

    def plus(folder):
        """LoRA+ is a matter of the optimizer: what is saved is LoRA's."""
        from peft import LoraConfig, PeftModel, get_peft_model
        from peft.optimizers import create_loraplus_optimizer
        model = get_peft_model(load(cases.root / BASE), LoraConfig(r=8, target_modules=MODULES, task_type="CAUSAL_LM"))
        optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
        for _ in range(3):
            ids = torch.tensor([[5, 9, 11, 40, 2]])
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
        reference(PeftModel.from_pretrained(load(cases.root / BASE), folder), folder / "reference.jsonl")
        return dict(base=BASE, flags=["--no-4bit"])

    cases.add("adapters", "lora-plus", "LoRA+ (`create_loraplus_optimizer`), three steps", by, plus)


def selections(cases, by):
    for name, what, options in [
        ("two-modules", "`target_modules` q_proj, v_proj", dict(target_modules=["q_proj", "v_proj"])),
        ("all-linear", "`target_modules=\"all-linear\"`", dict(target_modules="all-linear")),
        ("regex", "`target_modules` a pattern", dict(target_modules=r".*\.self_attn\.(q_proj|o_proj)")),
        ("regex-layers", "a pattern for some layers", dict(target_modules=r".*\.layers\.[12]\.mlp\.(up|down)_proj")),
        ("full-names", "full names of modules", dict(target_modules=["model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj"])),
        ("full-names-every", "full names of modules, of every layer", dict(target_modules=[f"model.layers.{i}.self_attn.q_proj" for i in range(3)])),
        ("dotted", "`self_attn.q_proj`, `mlp.down_proj`", dict(target_modules=["self_attn.q_proj", "mlp.down_proj"])),
        ("exclude", "`exclude_modules` by name", dict(target_modules=MODULES, exclude_modules=["k_proj", "gate_proj"])),
        ("exclude-regex", "`exclude_modules` a pattern of one layer", dict(exclude_modules=r".*\.layers\.0\..*")),
        ("layers", "`layers_to_transform` 0 and 2", dict(layers_to_transform=[0, 2])),
        ("layers-one", "`layers_to_transform` 1, a number", dict(layers_to_transform=1)),
        ("layers-pattern", "`layers_to_transform` with `layers_pattern`", dict(layers_to_transform=[1, 2], layers_pattern="layers")),
        ("layers-all", "`layers_to_transform` of every layer", dict(layers_to_transform=[0, 1, 2])),
        ("rank-pattern", "`rank_pattern`", dict(rank_pattern={"q_proj": 4, "down_proj": 16})),
        ("alpha-pattern", "`alpha_pattern`", dict(alpha_pattern={"v_proj": 64})),
        ("rank-pattern-same", "`rank_pattern` that says what `r` says", dict(rank_pattern={"q_proj": 8})),
        ("head", "with `lm_head`", dict(target_modules=[*MODULES, "lm_head"])),
        ("embedding", "with `embed_tokens`", dict(target_modules=[*MODULES, "embed_tokens"])),
    ]:
        lora(cases, name, what, by, **options)


def starts(cases, by):
    """`init_lora_weights`: some of them change the base too, which peft keeps in memory only."""
    for name in ["gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora"]:
        lora(cases, f"init-{name}", f"`init_lora_weights=\"{name}\"`", by, init_lora_weights=name, readable=name in ("gaussian", "orthogonal"))
    lora(cases, "init-false", "`init_lora_weights=False`", by, init_lora_weights=False)

    def converted(name, init):
        def run(folder):
            from peft import LoraConfig, PeftModel, get_peft_model
            model = get_peft_model(load(cases.root / BASE), LoraConfig(r=4, lora_alpha=4, target_modules=MODULES, task_type="CAUSAL_LM", init_lora_weights=init))
            first = folder / "first"
            model.peft_config["default"].init_lora_weights = True
            model.save_pretrained(first)
            model.peft_config["default"].init_lora_weights = init
            stir(model)
            model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(first))
            shutil.rmtree(first)
            reference(PeftModel.from_pretrained(load(cases.root / BASE), folder), folder / "reference.jsonl")
            return dict(base=BASE, flags=["--no-4bit"])
        cases.add("adapters", name, f"`{init}`, made into plain LoRA by `path_initial_model_for_weight_conversion`", by, run)

    converted("pissa-converted", "pissa")
    converted("olora-converted", "olora")

    def eva(folder):
        from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights="eva", eva_config=EvaConfig(rho=1.0))
        model = get_peft_model(load(cases.root / BASE), config, low_cpu_mem_usage=True)
        data = [dict(input_ids=torch.randint(0, 512, (4, 16)), attention_mask=torch.ones(4, 16, dtype=torch.long)) for _ in range(4)]
        initialize_lora_eva_weights(model, data)
        stir(model)
        model.save_pretrained(folder)
        reference(PeftModel.from_pretrained(load(cases.root / BASE), folder), folder / "reference.jsonl")
        return dict(base=BASE, flags=["--no-4bit"])

    cases.add("adapters", "init-eva", "`init_lora_weights=\"eva\"`, started from data", by, eva)

    lora(cases, "init-loftq", "`init_lora_weights=\"loftq\"` in the configuration (peft starts it on a GPU only)", f"in the shape of {by}", readable=False,
         after=lambda folder: edit_json(folder / "adapter_config.json", lambda f: f.update(init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1})))
    lora(cases, "init-corda", "`init_lora_weights=\"corda\"` in the configuration", f"in the shape of {by}", readable=False,
         after=lambda folder: edit_json(folder / "adapter_config.json", lambda f: f.update(init_lora_weights="corda", corda_config={"corda_method": "ipm"})))


def more_than_lora(cases, by):
    lora(cases, "bias-all", "`bias=\"all\"`", by, bias="all")
    lora(cases, "bias-lora-only", "`bias=\"lora_only\"`", by, bias="lora_only")
    lora(cases, "lora-bias", "`lora_bias`", by, lora_bias=True)
    lora(cases, "modules-to-save", "`modules_to_save` lm_head, embed_tokens", by, modules_to_save=["lm_head", "embed_tokens"])
    lora(cases, "modules-to-save-norm", "`modules_to_save` norm", by, modules_to_save=["norm"])
    lora(cases, "trainable-tokens", "`trainable_token_indices`", by, trainable_token_indices=[5, 7])
    lora(cases, "target-parameters", "`target_parameters`", by, target_modules=["q_proj"], target_parameters=["mlp.down_proj.weight"])
    lora(cases, "replication", "`layer_replication` in the configuration", f"in the shape of {by}", readable=False,
         after=lambda folder: edit_json(folder / "adapter_config.json", lambda f: f.update(layer_replication=[[0, 3], [1, 3]])))
    lora(cases, "fan-in", "`fan_in_fan_out` (peft itself puts it back to false)", by, fan_in_fan_out=True)
    lora(cases, "qalora", "`use_qalora` in the configuration", f"in the shape of {by}", readable=False,
         after=lambda folder: edit_json(folder / "adapter_config.json", lambda f: f.update(use_qalora=True, qalora_group_size=16)))
    for field, value in [("alora_invocation_tokens", [5, 7]), ("arrow_config", {"top_k": 2}), ("kasa_config", {"beta": 0.1}), ("use_bdlora", {"target_modules_bd_a": ["q_proj"]}),
                         ("velora_config", {"rank": 1}), ("monteclora_config", {"num_samples": 2}), ("megatron_config", {"tensor_model_parallel_size": 1})]:
        lora(cases, field.split("_")[0], f"`{field}` in the configuration", f"in the shape of {by}", readable=False,
             after=lambda folder, field=field, value=value: edit_json(folder / "adapter_config.json", lambda f: f.update({field: value})))
    lora(cases, "future", "a field that no version has, set", f"in the shape of {by}", readable=False,
         after=lambda folder: edit_json(folder / "adapter_config.json", lambda f: f.update(use_brand_new=True)))

    def embeddings(folder):
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(load(cases.root / BASE), LoraConfig(r=4, target_modules=MODULES, task_type="CAUSAL_LM"))
        stir(model)
        model.save_pretrained(folder, save_embedding_layers=True)
        return dict(base=BASE, flags=["--no-4bit"])

    cases.add("adapters", "embeddings-saved", "`save_pretrained(save_embedding_layers=True)`", by, embeddings)


def other_kinds(cases, by):
    import peft

    common = dict(task_type="CAUSAL_LM")
    for name, what, config in [
        ("adalora", "AdaLoRA", lambda: peft.AdaLoraConfig(target_modules=MODULES, total_step=10, **common)),
        ("ia3", "(IA)³", lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **common)),
        ("loha", "LoHa", lambda: peft.LoHaConfig(target_modules=MODULES, **common)),
        ("lokr", "LoKr", lambda: peft.LoKrConfig(target_modules=MODULES, **common)),
        ("vera", "VeRA", lambda: peft.VeraConfig(r=4, target_modules=["q_proj"], **common)),
        ("oft", "OFT", lambda: peft.OFTConfig(oft_block_size=8, target_modules=["q_proj"], **common)),
        ("prefix", "prefix tuning", lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, **common)),
        ("prompt", "prompt tuning", lambda: peft.PromptTuningConfig(num_virtual_tokens=4, **common)),
        ("trainable-tokens-alone", "TrainableTokens", lambda: peft.TrainableTokensConfig(token_indices=[1, 2], **common)),
    ]:
        def run(folder, config=config):
            peft.get_peft_model(load(cases.root / BASE), config()).save_pretrained(folder)
            return dict(base=BASE, flags=["--no-4bit"])
        cases.add("adapters", name, what, by, run)


def files(cases, by, base):
    from peft import LoraConfig, PeftModel, get_peft_model

    def one(**more):
        model = get_peft_model(load(base), LoraConfig(**(dict(r=8, target_modules=MODULES, task_type="CAUSAL_LM") | more)))
        stir(model)
        return model

    def pickled(folder):
        one().save_pretrained(folder, safe_serialization=False)
        return dict(base=BASE, flags=["--no-4bit"])

    if "safe_serialization" in PeftModel.save_pretrained.__code__.co_varnames:
        cases.add("adapters", "pickled", "`safe_serialization=False`: adapter_model.bin", by, pickled)

    def named(within):
        def run(folder):
            model = one()
            model.add_adapter("second", LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
            model.set_adapter("second")
            stir(model)
            model.set_adapter("default")
            model.save_pretrained(folder)
            if within == "/second":
                reference(PeftModel.from_pretrained(load(base), folder / "second"), folder / "reference.jsonl")
            elif not within:
                reference(PeftModel.from_pretrained(load(base), folder), folder / "reference.jsonl")
            return dict(base=BASE, within=within, flags=["--no-4bit"])
        return run

    cases.add("adapters", "two-named", "two adapters, the first in the folder", by, named(""))
    cases.add("adapters", "two-named-second", "two adapters, the second in its own folder", by, named("/second"))

    def only_named(folder):
        model = get_peft_model(load(base), LoraConfig(r=8, target_modules=MODULES, task_type="CAUSAL_LM"), adapter_name="style")
        stir(model)
        model.save_pretrained(folder)
        return dict(base=BASE, flags=["--no-4bit"])

    cases.add("adapters", "named-alone", "an adapter with a name of its own, asked for in the folder above it", by, only_named)

    def on_nf4(folder):
        """QLoRA as peft and bitsandbytes have it."""
        from transformers import AutoModelForCausalLM
        from common import dense
        packed = cases.root / "base-nf4"
        if not packed.exists():
            from transformers import BitsAndBytesConfig
            config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
            AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.bfloat16, device_map="cpu").save_pretrained(packed)
        quantised = AutoModelForCausalLM.from_pretrained(packed, dtype=torch.float32, device_map="cpu")
        model = get_peft_model(quantised, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        stir(model)
        model.save_pretrained(folder)
        reference(dense(model), folder / "reference.jsonl")
        return dict(base="base-nf4", flags=["--bnb-4bit-compute-dtype", "float32"])

    cases.add("adapters", "qlora", "an adapter of an NF4 model, on that model", version("peft", "bitsandbytes"), on_nf4)

    def state_dict(folder):
        from safetensors.torch import save_file
        model = one()
        model.save_pretrained(folder)
        weights = {k: v.contiguous() for k, v in model.state_dict().items() if "lora_" in k}
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        reference(model, folder / "reference.jsonl")
        return dict(base=BASE, flags=["--no-4bit"])

    cases.add("adapters", "state-dict", "`model.state_dict()` saved as it is (`lora_A.default.weight`)", f"{by}, safetensors", state_dict)

    def prefix(old, new):
        def run(folder):
            from safetensors.torch import load_file, save_file
            model = one()
            model.save_pretrained(folder)
            weights = {k.replace(old, new, 1): v for k, v in load_file(folder / "adapter_model.safetensors").items()}
            save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            reference(model, folder / "reference.jsonl")
            return dict(base=BASE, flags=["--no-4bit"])
        return run

    cases.add("adapters", "transformers-own", "names without `base_model.model.`, as transformers' `add_adapter` has them in its model",
              f"{by}, safetensors", prefix("base_model.model.", ""))
    cases.add("adapters", "compiled", "names with `_orig_mod` (`torch.compile`)", f"{by}, safetensors", prefix("base_model.model.", "base_model.model._orig_mod."))

    def inner(folder):
        """An adapter of `Qwen3Model`: its names have no second `model`."""
        from transformers import AutoModel
        model = get_peft_model(AutoModel.from_pretrained(base, dtype=torch.float32), LoraConfig(r=8, target_modules=MODULES))
        stir(model)
        model.save_pretrained(folder)
        whole = load(base)
        whole.model = model.merge_and_unload()
        reference(whole, folder / "reference.jsonl")
        return dict(base=BASE, flags=["--no-4bit"])

    cases.add("adapters", "feature-extraction", "an adapter of `Qwen3Model`, without the head", by, inner)

    def hotswapped(folder):
        """Two rounds of training: what was saved is loaded as trainable, stirred and saved again."""
        one().save_pretrained(folder / "first")
        model = PeftModel.from_pretrained(load(base), folder / "first", is_trainable=True)
        stir(model)
        model.save_pretrained(folder)
        shutil.rmtree(folder / "first")
        reference(PeftModel.from_pretrained(load(base), folder), folder / "reference.jsonl")
        return dict(base=BASE, flags=["--no-4bit"])

    cases.add("adapters", "trained-on", "loaded as trainable, trained on, saved again", by, hotswapped)

    def weighted(folder):
        model = one()
        model.add_adapter("second", LoraConfig(r=8, target_modules=MODULES, task_type="CAUSAL_LM", init_lora_weights=False))
        model.add_weighted_adapter(["default", "second"], [0.7, 0.3], "mix", combination_type="cat")
        model.set_adapter("mix")
        model.save_pretrained(folder, selected_adapters=["mix"])
        reference(PeftModel.from_pretrained(load(base), folder / "mix"), folder / "reference.jsonl")
        return dict(base=BASE, within="/mix", flags=["--no-4bit"])

    cases.add("adapters", "weighted", "`add_weighted_adapter` of two (`cat`)", by, weighted)


def trl(cases):
    def trained(within, quantised=False):
        def run(folder):
            from datasets import Dataset
            from peft import LoraConfig, PeftModel
            from transformers import AutoTokenizer
            from trl import SFTConfig, SFTTrainer
            from common import tokenizer_dir
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir(cases.root))
            data = Dataset.from_list([{"prompt": [{"role": "user", "content": f"q{i}"}], "completion": [{"role": "assistant", "content": "b"}]} for i in range(8)])
            trainer = SFTTrainer(
                model=str(cases.root / BASE), args=SFTConfig(output_dir=str(folder), max_steps=2, per_device_train_batch_size=2, save_steps=1, report_to=[], use_cpu=True, bf16=False,
                                               learning_rate=1e-2, gradient_checkpointing=False, model_init_kwargs=dict(dtype="float32"), disable_tqdm=True),
                train_dataset=data, processing_class=tokenizer, peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
            trainer.train()
            trainer.save_model()
            reference(PeftModel.from_pretrained(load(cases.root / BASE), str(folder) + within), folder / "reference.jsonl")
            return dict(base=BASE, within=within, flags=["--no-4bit"])
        return run

    by = version("trl", "peft")
    cases.add("adapters", "trl", "`SFTTrainer`, `save_model`", by, trained(""))
    cases.add("adapters", "trl-checkpoint", "`SFTTrainer`, `checkpoint-1`", by, trained("/checkpoint-1"))
