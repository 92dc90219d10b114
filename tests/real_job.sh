#!/usr/bin/env bash
# The real job, small: the 140 questions of lawqa_jp and Qwen3's own tokenizer, with a model of random weights.
# Split, train a few steps, evaluate without and with the adapter, compare. Every number that must hold is checked.
#
#   tests/real_job.sh [IRORI [DIR]]
#
# IRORI is the program (target/release/irori), DIR where the files go (a temporary directory, removed afterwards).
# IRORI_SHARED_DATA names the directory with lawqa_jp/ and qwen3_tokenizer/ (../shared/data beside the repository).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
irori=${1:-$root/target/release/irori}
data=${IRORI_SHARED_DATA:-$root/../shared/data}
questions=$data/lawqa_jp/selection.json
tokenizer=$data/qwen3_tokenizer/tokenizer.json

for file in "$questions" "$tokenizer"; do
    if [ ! -e "$file" ]; then
        echo "SKIP: $file is not there (set IRORI_SHARED_DATA)" >&2
        exit 0
    fi
done
if [ $# -ge 2 ]; then
    mkdir -p "$2" && cd "$2"
else
    work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT && cd "$work"
fi

step() {
    printf '\n$ irori %s\n' "$*"
    "$irori" "$@"
}
# count FILE PATTERN WANTED: as many lines of FILE have PATTERN.
count() {
    local found
    found=$(grep -c -- "$2" "$1" || true)
    if [ "$found" != "$3" ]; then
        echo "FAILED: $1 has $found lines with $2, not $3" >&2
        exit 1
    fi
}

# Two narrow layers under the real vocabulary.
cat >shape.json <<'JSON'
{
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "attention_bias": false,
  "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
  "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 151936, "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16"
}
JSON

step synth --arch shape.json --tokenizer "$tokenizer" --output model --seed 1
step dataset --input "$questions" --output-dir data --split train=100,test=40 --stratify law,answer --seed 1
count data/train.jsonl '"output"' 100
count data/test.jsonl '"output"' 40
step dataset inspect data/train.jsonl --model model --samples 1
step plan --model model --train-file data/train.jsonl
step train --model model --train-file data/train.jsonl --output-dir run --max-steps 3 --save-steps 2 --seed 1
count run/metrics.jsonl '"type":"step"' 3
step eval --model model --data data/test.jsonl --output base.json
step eval --model model --adapter run --data data/test.jsonl --output tuned.json
for result in base.json tuned.json; do
    count $result '"is_correct"' 40
done
step compare base.json tuned.json --output report.html
count report.html '</html>' 1
printf '\nthe real job is done in %d s\n' "$SECONDS"
