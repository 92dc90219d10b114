#!/usr/bin/env python3
"""Makes what `tests/it/golden/checkpoints.rs` compares: checkpoints that are quantised in part, and rotary positions.

    python3 tests/goldens/make_checkpoints.py

With the packages of make_goldens.py (README.md). Everything follows from the seeds. The models compute in f32, with the
values of quantised linears as bitsandbytes dequantises them in f32.
"""

import json
import math
import shutil
import warnings

import torch
import transformers
from make_goldens import HERE, forward, samples, write_json
from transformers import BitsAndBytesConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

# Which modules stay dense, in words that transformers takes: names, endings, whole modules, expressions.
CHECKPOINTS = {
    "part": dict(
        skip=["lm_head", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn", "layers.2.self_attn.k_proj", r"model\.layers\.2\.mlp\.(gate|down)_proj"],
        double=True, storage=torch.uint8, dtype=torch.bfloat16,
    ),
    # No lm_head among them: transformers quantises it too. Packed bytes under the name of another type; the rest in f16.
    "head": dict(skip=["q_proj", "model.layers.1.mlp"], double=False, storage=torch.bfloat16, dtype=torch.float16),
}

SKIPS = [
    "lm_head", "up_proj", "mlp", "proj", "model", "model.layers.1", "model.layers.1.", "layers.1.mlp.up_proj", "model.layers.1.mlp.up", "gate",
    "model.layers.*", "model.layers.*.mlp", r"model\.layers\.\d+\.mlp", r"model\.layers\.(1|2)\.self_attn", "model.layers.1.self_attn|model.layers.2.mlp",
    ".*q_proj", ".*self_attn", r"model\.layers\.1$", "", "model.layers.1.mlp.up_proj.weight", "Model.layers.1",
]

# Fields of config.json beside the shape.
ROPE = [
    {},
    {"rope_theta": 1e6},
    {"rope_theta": 1e6, "rope_scaling": None},
    {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    {"rope_parameters": {"rope_type": "default"}, "rope_theta": 2e5},
    {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.5}},
    {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "rope_scaling": {"rope_type": "linear", "factor": 4}},
    {"rope_parameters": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}},
    # Within the model's positions, as all of POSITIONS are.
    {"rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.5}},
    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}},
    {"rope_theta": 1e4, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 3.5}},
    {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
    {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, "original_max_position_embeddings": 1024},
    {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "beta_fast": 24, "beta_slow": 2, "truncate": False}},
    {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.5}},
    {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707, "mscale_all_dim": 0}},
    {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "attention_factor": 1.5}},
    {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": None, "original_max_position_embeddings": 8192}},
]
POSITIONS = [1, 5000, 40959]


def make_model(dtype):
    """A random Qwen3 of three small layers with a head of its own."""
    torch.manual_seed(41)
    config = Qwen3Config(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
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
    return model.to(dtype)


def dequantise(model):
    """Puts the values of each quantised linear in its place, and makes everything f32: bitsandbytes' product on a CPU may round
    more."""
    import bitsandbytes

    for key, module in list(model.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = module.weight.quant_state
            state.dtype = torch.float32
            value = bitsandbytes.functional.dequantize_4bit(module.weight.data, state)
            linear = torch.nn.Linear(value.shape[1], value.shape[0], bias=False)
            linear.weight.data = value
            model.set_submodule(key, linear)
    for p in model.parameters():
        p.data = p.data.float()


def make_checkpoints():
    docs = samples(21, [5, 17, 2, 29], lambda n: n // 3)
    values = {}
    for name, how in CHECKPOINTS.items():
        folder, dense = HERE / "models" / f"{name}-nf4", HERE / "models" / "dense.tmp"
        make_model(how["dtype"]).save_pretrained(dense)
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=how["double"], bnb_4bit_compute_dtype=torch.float32,
            bnb_4bit_quant_storage=how["storage"], llm_int8_skip_modules=how["skip"],
        )
        model = Qwen3ForCausalLM.from_pretrained(dense, quantization_config=quantization, dtype=how["dtype"], device_map="cpu")
        shutil.rmtree(dense)
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", attn_implementation="eager").eval()
        model.config.use_cache = False
        dense = sorted(key for key, module in model.named_modules() if type(module) is torch.nn.Linear)
        dequantise(model)
        _, loss, logprobs = forward(model, docs)
        values[name] = {"dense": dense, "loss": loss, "logprobs": logprobs}
        print(name, values[name]["dense"], loss)
    write_json(HERE / "checkpoints.json", {**values, "skips": skips()})


def skips():
    """Which linears of a layer entries of `llm_int8_skip_modules` leave out."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    modules = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"]
    names = [f"model.layers.{i}.{m}" for i in (1, 2, 11) for m in modules]
    return [{"entry": entry, "skipped": [n for n in names if not should_convert_module(n, [entry])]} for entry in SKIPS]


def rope(fields):
    """What transformers makes of a configuration with these fields, or fails."""
    shape = dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=2, head_dim=32, num_hidden_layers=1, vocab_size=8, intermediate_size=8)
    shape["max_position_embeddings"] = 131072
    config = Qwen3Config.from_dict({"model_type": "qwen3", **shape, **json.loads(json.dumps(fields))})
    embedding = Qwen3RotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1), torch.tensor([POSITIONS]))
    half = shape["head_dim"] // 2
    tables = [torch.cat((c[:half], s[:half])).tolist() for c, s in zip(cos[0], sin[0])]
    return {"frequencies": embedding.inv_freq.tolist(), "attention": float(embedding.attention_scaling), "tables": tables}


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    make_checkpoints()
    cases = [json.dumps({"fields": f, **rope(f)}) for f in ROPE]
    head = f'"positions": {POSITIONS}, "head_dim": 32, "max_position_embeddings": 131072, "cases"'
    (HERE / "rope.json").write_text("{" + head + ": [\n" + ",\n".join(cases) + "\n]}\n")


if __name__ == "__main__":
    main()
