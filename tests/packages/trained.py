"""The way back: adapters that irori trains, scored by transformers and peft."""

import os
import subprocess
from pathlib import Path

import torch

from adapters import base_model, load
from common import reference, tokenizer_dir, version, write_lines


def make(cases):
    by = f"irori; read by {version('peft', 'transformers')}"
    base_model(cases.root)
    rows = [{"input": f"What is {i} + {i}?", "output": f"It is {2 * i}."} for i in range(8)]

    def trained(*options):
        def run(folder):
            from peft import PeftModel
            write_lines(folder / "train.jsonl", rows)
            irori = Path(os.environ.get("IRORI", Path(__file__).resolve().parents[2] / "target/release/irori")).resolve()
            subprocess.run([irori, "train", "--model", cases.root / "base", "--tokenizer", tokenizer_dir(cases.root), "--train-file", folder / "train.jsonl",
                            "--output-dir", folder / "run", "--max-steps", "4", "--learning-rate", "0.01", "--warmup-ratio", "0", "--no-4bit", "--device", "cpu", *options],
                           check=True, capture_output=True)
            reference(PeftModel.from_pretrained(load(cases.root / "base"), folder / "run"), folder / "reference.jsonl")
            return dict(base="base", adapter=f"trained/{folder.name}/run", flags=["--no-4bit"])
        return run

    for name, options in [
        ("lora", []),
        ("rslora", ["--use-rslora"]),
        ("rank", ["--lora-r", "4", "--lora-alpha", "32"]),
        ("modules", ["--target-modules", "q_proj,down_proj"]),
    ]:
        cases.add("trained", name, f"`irori train {' '.join(options)}`".replace(" `", "`"), by, trained(*options))

    def merged(folder):
        """`irori merge`, read by transformers."""
        from common import read_back
        irori = Path(os.environ.get("IRORI", Path(__file__).resolve().parents[2] / "target/release/irori")).resolve()
        run = cases.root / "trained" / "lora" / "run"
        subprocess.run([irori, "merge", "--model", cases.root / "base", "--adapter", run, "--output", folder / "merged"], check=True, capture_output=True)
        read_back(folder, folder / "merged")
        return dict(base=f"trained/{folder.name}/merged", flags=["--no-4bit"])

    cases.add("trained", "merged", "`irori merge` of the first of these", f"irori; read by {version('transformers')}", merged)

    def quantised(folder):
        from common import read_back
        irori = Path(os.environ.get("IRORI", Path(__file__).resolve().parents[2] / "target/release/irori")).resolve()
        subprocess.run([irori, "quantize", "--model", cases.root / "base", "--output", folder / "nf4"], check=True, capture_output=True)
        read_back(folder, folder / "nf4")
        return dict(base=f"trained/{folder.name}/nf4", flags=["--bnb-4bit-compute-dtype", "float32"])

    cases.add("trained", "quantised", "`irori quantize`", f"irori; read by {version('transformers', 'bitsandbytes')}", quantised)
