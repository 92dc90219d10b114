#!/bin/sh
# irori and PyTorch (transformers + peft) on the same model and samples on the CPU; see README.md beside this file.
#
#   PYTHON=venv/bin/python THREADS=2 STEPS=6 WORK=/tmp/irori-peers RECORDS=train.jsonl TOKENIZER=dir benches/peers/run_cpu.sh
#
# Without RECORDS and TOKENIZER the samples are random tokens of the law questions' lengths.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
PYTHON=${PYTHON:-python3}
THREADS=${THREADS:-2}
STEPS=${STEPS:-6}
WORK=${WORK:-${TMPDIR:-/tmp}/irori-peers}
mkdir -p "$WORK"

cargo build --release --quiet --manifest-path "$root/Cargo.toml"
irori=${CARGO_TARGET_DIR:-$root/target}/release/irori

# The same weights for both.
[ -f "$WORK/model/model.safetensors" ] || "$irori" synth --arch "$here/model.json" --output "$WORK/model" --seed 1

# One step's samples: batch 2, accumulation 4.
if [ -n "${RECORDS:-}" ] && [ -n "${TOKENIZER:-}" ]; then
    "$PYTHON" "$here/make_samples.py" --records "$RECORDS" --tokenizer "$TOKENIZER" --count 8 --output "$WORK/samples.jsonl"
else
    "$PYTHON" "$here/make_samples.py" --random --count 8 --output "$WORK/samples.jsonl"
fi

peer() {
    echo "transformers + peft, $1 …" >&2
    "$PYTHON" "$here/train_peer.py" --model "$WORK/model" --samples "$WORK/samples.jsonl" --mode "$1" \
        --steps "$2" --threads "$THREADS" >"$WORK/$1.json" 2>"$WORK/$1.log" || { cat "$WORK/$1.log" >&2; exit 1; }
}

# irori: each step is the whole file (eight samples), as the peer's. The first step warms up.
echo "irori …" >&2
rm -rf "$WORK/run"
RAYON_NUM_THREADS=$THREADS "$irori" train --model "$WORK/model" --train-file "$WORK/samples.jsonl" --output-dir "$WORK/run" \
    --device cpu --no-4bit --max-steps $((STEPS + 1)) --num-epochs $((STEPS + 1)) --batch-size 2 --gradient-accumulation-steps 4 \
    --max-seq-length 1024 --lora-r 16 --lora-alpha 32 --lora-dropout 0 --learning-rate 2e-4 --logging-steps 1 --data-order sequential \
    >"$WORK/irori.log" 2>&1 || { cat "$WORK/irori.log" >&2; exit 1; }
peer unpadded "$STEPS"
peer padded 2

"$PYTHON" - "$WORK" <<'PYTHON'
import json, pathlib, statistics, sys

work = pathlib.Path(sys.argv[1])
steps = [r for r in map(json.loads, (work / "run/metrics.jsonl").read_text().splitlines()) if r.get("type") == "step"][1:]
ours = statistics.median(r["tokens_per_second"] for r in steps)
memory = max(r["peak_memory_bytes"] for r in steps)
print(f"{'':28} {'tokens/s':>10} {'peak memory':>13} {'irori is':>9}")
print(f"{'irori':28} {ours:10.0f} {memory / 2**20:9.0f} MiB")
for mode in ("unpadded", "padded"):
    peer = json.loads((work / f"{mode}.json").read_text())
    theirs = peer["tokens_per_second"]
    print(f"{'transformers+peft ' + mode:28} {theirs:10.0f} {peer['peak_rss_bytes'] / 2**20:9.0f} MiB {ours / theirs:8.2f}×")
print("torch {torch}, transformers {transformers}, peft {peft}".format(**peer["versions"]))
PYTHON
