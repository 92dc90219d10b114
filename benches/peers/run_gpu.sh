#!/bin/sh
# irori and PyTorch on the same QLoRA job on one GPU, one after the other, in one run, ending in a table; see README.md.
#
#   PYTHON=venv/bin/python benches/peers/run_gpu.sh
#
# The job: Qwen3-8B, NF4, r 16 on all linears, batch 2 × accumulation 4; first steps of full 1,024-token samples with loss on
# every token, then an epoch of the 140 law questions with loss on their answers. Weights are random.
#
# MODEL      Hugging Face directory, bf16 or bitsandbytes NF4 [random weights of CONFIG, irori's and the peers' not the same]
# CONFIG     config.json of the random model [qwen3-8b.json beside this file]
# SAMPLES, PHASES  another job: pre-tokenised JSONL, and its parts as train_peer_gpu.py --phases takes them
# LAWQA, TOKENIZER  lawqa_jp's selection.json and the directory of Qwen3's tokenizer [random tokens of the same lengths]
# PEERS      which, in this order [all]
# CHECKPOINTING auto|on|off of the peers [auto: only if memory runs out]   BASE nf4|bf16 of the peers [nf4]
# BUDGET     seconds for everything [420]   SECONDS_EACH of training per peer [40]
# IRORI      program [built]   IRORI_FLAGS more flags of irori train, such as "--memory-limit 19GiB"
# DEVICE     cuda [cuda], or cpu with CONFIG=benches/peers/tiny.json: a check of this script without a GPU
# THREADS    CPU threads [each program's own choice]
# FULL_STEPS [4], FULL_LENGTH [1024], LAW_SAMPLES [140]: size of the job   WORK [/tmp/irori-peers-gpu]
#
# What is not installed is said and skipped. Everything that was written lies in WORK; the table also as WORK/table.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
began=$(date +%s)
PYTHON=${PYTHON:-python3}
CONFIG=${CONFIG:-$here/qwen3-8b.json}
DEVICE=${DEVICE:-cuda}
PEERS=${PEERS:-padded longest unpadded flattened liger unsloth}
BASE=${BASE:-nf4}
CHECKPOINTING=${CHECKPOINTING:-auto}
BUDGET=${BUDGET:-420}
SECONDS_EACH=${SECONDS_EACH:-40}
WORK=${WORK:-${TMPDIR:-/tmp}/irori-peers-gpu}
MODEL=${MODEL:-}
mkdir -p "$WORK"
rm -f "$WORK"/*.json "$WORK"/*.log "$WORK/skipped"

left() { echo $((BUDGET - $(date +%s) + began)); }
say() { echo "[$(($(date +%s) - began)) s] $*" >&2; }
skip() {
    say "SKIP $1: $2"
    echo "$1: $2" >>"$WORK/skipped"
}
has() { "$PYTHON" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)" 2>/dev/null; }

if [ "$DEVICE" = cuda ]; then
    nvidia-smi -L >&2 2>/dev/null || say "nvidia-smi does not answer"
fi
if [ -z "${IRORI:-}" ]; then
    say "building irori (not counted)"
    cargo build --release --locked --quiet --bin irori --manifest-path "$root/Cargo.toml"
    IRORI=${CARGO_TARGET_DIR:-$root/target}/release/irori
    began=$(date +%s)
fi

# The job.
if [ -n "${SAMPLES:-}" ]; then
    job=$SAMPLES
    phases=${PHASES:?SAMPLES needs PHASES, such as warm:1,law:18}
else
    job=$WORK/job.jsonl
    shape=$CONFIG
    [ -z "$MODEL" ] || shape=$MODEL/config.json
    vocab=$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["vocab_size"])' "$shape")
    set -- --job --vocab "$vocab" --full-steps "${FULL_STEPS:-4}" --full-length "${FULL_LENGTH:-1024}" \
        --law-samples "${LAW_SAMPLES:-140}"
    if [ -n "${LAWQA:-}" ] && [ -n "${TOKENIZER:-}" ]; then
        "$IRORI" dataset --input "$LAWQA" --output-dir "$WORK/data" --split train=140 --force >/dev/null
        set -- "$@" --records "$WORK/data/train.jsonl" --tokenizer "$TOKENIZER"
    fi
    phases=$("$PYTHON" "$here/make_samples.py" "$@" --output "$job")
fi
say "the job: $job, $phases"

# irori first: one epoch over the file, in its order. Warm-up steps are those of the phases.
if [ -n "$MODEL" ]; then
    model=$MODEL
elif [ "$CONFIG" = "$here/qwen3-8b.json" ]; then
    model=synthetic:qwen3-8b
else
    model=$WORK/model
    [ -f "$model/config.json" ] || "$IRORI" synth --arch "$CONFIG" --output "$model" --seed 1
fi
say "irori, $model …"
rm -rf "$WORK/irori"
# IRORI_FLAGS is several words.
# shellcheck disable=SC2086
timeout "$(left)" "$IRORI" train --model "$model" --train-file "$job" --output-dir "$WORK/irori" --device "$DEVICE" \
    --num-epochs 1 --batch-size 2 --gradient-accumulation-steps 4 --max-seq-length 1024 --data-order sequential \
    --lora-r 16 --lora-alpha 32 --lora-dropout 0 --learning-rate 2e-4 --lr-scheduler constant --warmup-steps 0 \
    --logging-steps 1 --save-steps 100000 ${THREADS:+--threads "$THREADS"} ${IRORI_FLAGS:-} >"$WORK/irori.log" 2>&1 || {
    tail -n 5 "$WORK/irori.log" >&2
    skip irori "failed; see $WORK/irori.log"
}

# peer NAME FLAG…: one peer in a process of its own.
peer() {
    name=$1
    shift
    if [ "$(left)" -lt 30 ]; then
        skip "$name" "$(left) s of BUDGET=$BUDGET are left"
        return
    fi
    say "$name …"
    if ! timeout "$(left)" "$PYTHON" "$here/train_peer_gpu.py" --samples "$job" --phases "$phases" --device "$DEVICE" \
        --base "$BASE" --checkpointing "$CHECKPOINTING" --seconds "$SECONDS_EACH" \
        --threads "${THREADS:-0}" "$@" >"$WORK/$name.json" 2>"$WORK/$name.log"; then
        rm -f "$WORK/$name.json"
        tail -n 3 "$WORK/$name.log" >&2
        skip "$name" "failed or ran out of BUDGET; see $WORK/$name.log"
    else
        grep -E 'tokens/s|flash-attn|out of memory' "$WORK/$name.log" >&2 || true
    fi
}

if ! has torch || ! has transformers || ! has peft; then
    skip "all peers" "$PYTHON has not all of torch, transformers and peft"
    PEERS=
elif [ "$BASE" = nf4 ] && ! has bitsandbytes; then
    skip "peers in NF4" "bitsandbytes is not installed; they run with a bf16 base instead, which has nothing to dequantise"
    BASE=bf16
fi
if [ -n "$MODEL" ]; then
    source=--model value=$MODEL
else
    source=--config value=$CONFIG
fi
for name in $PEERS; do
    case $name in
    padded | longest | unpadded | flattened) peer "$name" "$source" "$value" --batching "$name" ;;
    liger)
        if ! has liger_kernel; then
            skip liger "liger_kernel is not installed"
        elif [ "$DEVICE" = cpu ]; then
            skip liger "its kernels need a GPU"
        else
            peer liger "$source" "$value" --batching flattened --kernels liger
        fi
        ;;
    unsloth)
        if ! has unsloth; then
            skip unsloth "unsloth is not installed"
        elif [ "$DEVICE" = cpu ]; then
            skip unsloth "it needs a GPU"
        else
            # It takes a directory only: random weights become an NF4 checkpoint first.
            if [ -z "$MODEL" ] && [ ! -f "$WORK/nf4/config.json" ]; then
                say "writing an NF4 checkpoint for unsloth …"
                rm -rf "$WORK/nf4"
                timeout "$(left)" "$IRORI" quantize --model "$model" --output "$WORK/nf4" >"$WORK/nf4.log" 2>&1 || {
                    skip unsloth "no checkpoint could be written; see $WORK/nf4.log"
                    continue
                }
            fi
            peer unsloth --model "${MODEL:-$WORK/nf4}" --batching flattened --kernels unsloth
        fi
        ;;
    *) skip "$name" "no such peer" ;;
    esac
done

"$PYTHON" "$here/gpu_table.py" --work "$WORK" --job "$job" --phases "$phases" | tee "$WORK/table.md"
say "done; everything is in $WORK"
