#!/usr/bin/env bash
# docs/runbook.md, run: its ```sh blocks in their order, line by line, as they are printed; and its table of plans, made again.
#
#   tests/runbook.sh [IRORI [DIR]]      run the page
#   tests/runbook.sh --table [IRORI]    print the rows of the table, to be put into both pages
#
# What differs from the page: MODEL is a random Qwen3 of two narrow layers under the real vocabulary, and `--device cuda` becomes
# `--device cpu`. The full run is killed after its first checkpoint, so that the page's --resume has something to do; in the end
# the adapter is compared with that of a run that nobody disturbed. Blocks marked ```sh host (network, GPU) are not run.
# IRORI_SHARED_DATA names the directory with lawqa_jp/ and qwen3_tokenizer/ (../shared/data beside the repository).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
pages=("$root/docs/runbook.md" "$root/docs/runbook.ja.md")

# rows IRORI: the table, one row a plan. Card, its flags, and what is asked of it.
rows() {
    local card flags model more
    while IFS='|' read -r card flags model more; do
        # The flags are several words.
        # shellcheck disable=SC2086
        { "$1" plan --model "synthetic:$model" --gpu $flags $more --json 2>&1 || true; } | python3 -c '
import json, re, sys
card, flags, model, more = sys.argv[1:]
text = sys.stdin.read()
if text.startswith("error:"):
    kept = unpacked = "—"
    needed = re.search("at least ([0-9.]+ GiB)", text)
    arena = "> " + needed[1] if needed else "—"
else:
    plan = json.loads(text)
    gib = lambda n: f"{n / 2**30:.2f}"
    arena = gib(plan["bytes"]) + " / " + gib(plan["limit_bytes"])
    saved = plan["layers_saved"]
    kept = " + ".join(str(saved[k]) for k in ("all", "without_gate_up", "input_only"))
    unpacked = str(plan["layers_unpacked"])
print(f"| {card} | `--gpu {flags}` | {model} | " + (f"`{more}`" if more else "") + f" | {arena} | {kept} | {unpacked} |")
' "$card" "$flags" "$model" "$more"
    done <<'TABLE'
10 GB (9.5)|rtx3080-10gb|qwen3-8b|
10 GB (9.5)|rtx3080-10gb|qwen3-8b|--batch-size 1 --gradient-accumulation-steps 8
10 GB (9.5)|rtx3080-10gb|qwen3-14b|
20 GB, MIG 2g (19.5)|a100-2g.20gb|qwen3-8b|
20 GB, MIG 2g (19.5)|a100-2g.20gb|qwen3-8b|--batch-size 1 --max-seq-length 4096
20 GB, MIG 2g (19.5)|a100-2g.20gb|qwen3-8b|--batch-size 1 --max-seq-length 8192
20 GB, MIG 2g (19.5)|a100-2g.20gb|qwen3-14b|
20 GB, MIG 2g (19.5)|a100-2g.20gb|qwen3-32b|--lora-r 8 --head-4bit --micro-batch-rows 896 --max-seq-length 896
24 GB (23)|rtx3080-10gb --memory-limit 23GiB|qwen3-8b|
24 GB (23)|rtx3080-10gb --memory-limit 23GiB|qwen3-14b|
24 GB (23)|rtx3080-10gb --memory-limit 23GiB|qwen3-32b|
80 GB (79)|a100-80gb|qwen3-8b|
80 GB (79)|a100-80gb|qwen3-32b|
TABLE
}

if [ "${1:-}" = --table ]; then
    rows "${2:-$root/target/release/irori}"
    exit
fi
irori=$(realpath "${1:-$root/target/release/irori}")

failed=
rows "$irori" >"${TMPDIR:-/tmp}/runbook-rows.$$"
for page in "${pages[@]}"; do
    if ! diff <(sed -n '/<!-- plans -->/,/<!-- \/plans -->/p' "$page" | grep '^|.*`--gpu') "${TMPDIR:-/tmp}/runbook-rows.$$"; then
        echo "FAILED: the plans of $page are not those of $irori (> is the program): tests/runbook.sh --table" >&2
        failed=1
    fi
done
rm -f "${TMPDIR:-/tmp}/runbook-rows.$$"
[ -z "$failed" ] || exit 1

data=$(realpath -m "${IRORI_SHARED_DATA:-$root/../shared/data}")
for file in "$data/lawqa_jp/selection.json" "$data/qwen3_tokenizer/tokenizer.json"; do
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

cat >shape.json <<'JSON'
{
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "attention_bias": false,
  "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
  "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 151936, "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16"
}
JSON
"$irori" synth --arch shape.json --tokenizer "$data/qwen3_tokenizer" --output model --seed 1
cp "$data/lawqa_jp/selection.json" .
export MODEL=$PWD/model

# In the page's lines `irori` is this function.
irori() {
    local words=("${@/#cuda/cpu}")
    if [[ "$*" == train*"--output-dir run "* && "$*" != *--resume* ]]; then
        killed "${words[@]}"
    else
        "$irori" "${words[@]}"
    fi
}

# killed FLAG…: starts a run and kills it once it has a checkpoint.
killed() {
    "$irori" "$@" &
    local run=$! tries=0
    until compgen -G 'run/checkpoint-*/MANIFEST.json' >/dev/null; do
        sleep 0.05
        tries=$((tries + 1))
        if [ $tries -gt 6000 ] || ! kill -0 $run 2>/dev/null; then
            echo "FAILED: the run ended before it could be killed" >&2
            return 1
        fi
    done
    kill -9 $run
    wait $run 2>/dev/null || true
    ! compgen -G 'run/adapter_model.safetensors' >/dev/null || { echo "FAILED: killed too late" >&2; return 1; }
    echo "(killed)"
}

while IFS= read -r line; do
    printf '\n$ %s\n' "$line"
    case $line in
    *"--memory-limit 7GiB"*)
        if eval "$line"; then
            echo "FAILED: this was to be refused" >&2
            exit 1
        fi
        ;;
    *) eval "$line" ;;
    esac
done < <(awk '/^```/ { inside = ($0 == "```sh"); next } inside && NF' "${pages[0]}")

# What the page claims of the resumed run.
"$irori" train --config run/run.toml --output-dir again >/dev/null 2>&1
cmp run/adapter_model.safetensors again/adapter_model.safetensors
for result in base.json tuned.json; do
    [ "$(grep -c '"is_correct"' $result)" = 40 ] || { echo "FAILED: $result has not 40 answers" >&2; exit 1; }
done
[ "$(grep -c '"type":"step"' run/metrics.jsonl)" = 120 ] || { echo "FAILED: run/metrics.jsonl has not 120 steps" >&2; exit 1; }
printf '\nthe runbook holds; %d s\n' "$SECONDS"
