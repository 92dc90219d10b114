#!/bin/sh
# irori and PyTorch (transformers + peft) on the same model and samples on the CPU, one after the other; see README.md
# beside this file.
#
#   PYTHON=venv/bin/python LAWQA=selection.json TOKENIZER=dir benches/peers/run_cpu.sh
#
# THREADS=2, STEPS=6 (timed, of irori and of the unpadded peer), PADDED_STEPS=2, WORK=/tmp/irori-peers, IRORI=program (built
# if not given). Without LAWQA and TOKENIZER the samples are random tokens of the law questions' lengths.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
PYTHON=${PYTHON:-python3}
THREADS=${THREADS:-2}
STEPS=${STEPS:-6}
PADDED_STEPS=${PADDED_STEPS:-2}
WORK=${WORK:-${TMPDIR:-/tmp}/irori-peers}
mkdir -p "$WORK"

if [ -z "${IRORI:-}" ]; then
    cargo build --release --locked --quiet --bin irori --manifest-path "$root/Cargo.toml"
    IRORI=${CARGO_TARGET_DIR:-$root/target}/release/irori
fi

# The same weights for all.
[ -f "$WORK/model/config.json" ] || "$IRORI" synth --arch "$here/model.json" --output "$WORK/model" --seed 1

# One step's samples: batch 2, accumulation 4.
if [ -n "${LAWQA:-}" ] && [ -n "${TOKENIZER:-}" ]; then
    "$IRORI" dataset --input "$LAWQA" --output-dir "$WORK/data" --mode direct --force >/dev/null
    "$PYTHON" "$here/make_samples.py" --records "$WORK/data/train.jsonl" --tokenizer "$TOKENIZER" --count 8 --output "$WORK/samples.jsonl"
else
    "$PYTHON" "$here/make_samples.py" --random --count 8 --output "$WORK/samples.jsonl"
fi

# irori: each step is the whole file (eight samples), as the peer's. $1 names the run, $2 is the number of steps.
irori() {
    run=$1 steps=$2
    shift 2
    rm -rf "$WORK/$run"
    "$IRORI" train --model "$WORK/model" --train-file "$WORK/samples.jsonl" --output-dir "$WORK/$run" \
        --device cpu --threads "$THREADS" --max-steps "$steps" --num-epochs "$steps" --batch-size 2 --gradient-accumulation-steps 4 \
        --max-seq-length 1024 --lora-r 16 --lora-alpha 32 --lora-dropout 0 --learning-rate 2e-4 --logging-steps 1 \
        --save-steps 1000 --data-order sequential "$@" >"$WORK/$run.log" 2>&1 || { cat "$WORK/$run.log" >&2; exit 1; }
}

# The processor time of STEPS steps is the difference between a long run and one of a single step (`times`: the second
# line is that of finished children; in a pipe it would be another shell's).
both() {
    name=$1
    shift
    echo "irori, $name …" >&2
    times >"$WORK/$name.t0"
    irori "$name-one" 1 "$@"
    times >"$WORK/$name.t1"
    irori "$name" $((STEPS + 1)) "$@"
    times >"$WORK/$name.t2"
}

peer() {
    echo "transformers + peft, $1 …" >&2
    "$PYTHON" "$here/train_peer.py" --model "$WORK/model" --samples "$WORK/samples.jsonl" --mode "$1" --warmup "$3" \
        --steps "$2" --threads "$THREADS" >"$WORK/$1.json" 2>"$WORK/$1.log" || { cat "$WORK/$1.log" >&2; exit 1; }
}

uptime | sed 's/.*load/before: load/'
both unquantised --no-4bit
both nf4 --use-4bit
peer unpadded "$STEPS" 1
peer padded "$PADDED_STEPS" 0
uptime | sed 's/.*load/after: load/'

"$PYTHON" - "$WORK" "$STEPS" <<'PYTHON'
import json, pathlib, statistics, sys

work, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
peers = {mode: json.loads((work / f"{mode}.json").read_text()) for mode in ("unpadded", "padded")}
columns = ["tokens/s", "tokens/CPU-s", "peak memory"] + [f"× {mode}" for mode in peers] + [f"× {mode}, CPU" for mode in peers]
print(f"{'':28}" + "".join(f"{c:>16}" for c in columns))


def children(path):
    """Seconds of processor time of the shell's children: the second line of `times`."""
    parts = path.read_text().splitlines()[1].split()
    return sum(60 * float(m) + float(s.rstrip("s")) for m, s in (part.split("m") for part in parts))


def row(name, wall, cpu, memory):
    cells = [f"{wall:.0f}", f"{cpu:.0f}", f"{memory / 2**20:.0f} MiB"]
    cells += [f"{wall / p['tokens_per_second']:.2f}" for p in peers.values()]
    cells += [f"{cpu / p['tokens_per_cpu_second']:.2f}" for p in peers.values()]
    print(f"{name:28}" + "".join(f"{c:>16}" for c in cells))


for name in ("unquantised", "nf4"):
    log = [r for r in map(json.loads, (work / name / "metrics.jsonl").read_text().splitlines()) if r.get("type") == "step"][1:]
    t0, t1, t2 = (children(work / f"{name}.t{i}") for i in range(3))
    busy = max((t2 - t1) - (t1 - t0), 1e-9)
    wall = statistics.median(r["tokens_per_second"] for r in log)
    row(f"irori, {name}", wall, sum(r["tokens"] for r in log) / busy, max(r["peak_memory_bytes"] for r in log))
for mode, p in peers.items():
    row(f"transformers+peft, {mode}", p["tokens_per_second"], p["tokens_per_cpu_second"], p["peak_rss_bytes"])
print("torch {torch}, transformers {transformers}, peft {peft}".format(**next(iter(peers.values()))["versions"]))
PYTHON
