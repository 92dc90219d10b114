#!/bin/sh
# Everything that only a GPU can tell, in one run of a few minutes: doctor, the kernel tests on the device, kernels, whole
# steps and evaluation measured, Qwen3-8B within 20 GiB and within 9.5 GiB on random weights, two runs and a killed one
# compared bit for bit, compute-sanitizer if it is there. A stage that fails is said at the end; the others still run.
#
#   OUT=results benches/gpu.sh
#
# IRORI     program [target/release/irori, built where there is cargo]
# TESTS     the test binary target/debug/deps/kernels-… [cargo test builds it; without cargo the stage is skipped]
# DEVICE    cuda:0; or cpu with MODEL=synthetic:tiny, to check this script
# MODEL     synthetic:qwen3-8b      STEPS  20      ROWS 2048     LENGTH 1024     SMS 28     LIMIT 600 (seconds a training run)
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/.." && pwd)
OUT=${OUT:-$root/gpu-results}
if [ -z "${IRORI:-}" ]; then
    IRORI=$root/target/release/irori
    ! command -v cargo >/dev/null || cargo build --release --locked --bin irori --manifest-path "$root/Cargo.toml" || exit 1
fi
DEVICE=${DEVICE:-cuda:0}
MODEL=${MODEL:-synthetic:qwen3-8b}
STEPS=${STEPS:-20}
ROWS=${ROWS:-2048}
LENGTH=${LENGTH:-1024}
SMS=${SMS:-28}
LIMIT=${LIMIT:-600}
[ "$DEVICE" != cuda ] || DEVICE=cuda:0
work=${TMPDIR:-/tmp}/irori-gpu
rm -rf "$work"
mkdir -p "$OUT" "$work"
failed=

# stage NAME SECONDS COMMAND…: its output goes to OUT/NAME.txt.
stage() {
    name=$1 limit=$2
    shift 2
    start=$(date +%s)
    echo "\$ $*" >"$OUT/$name.txt"
    if timeout "$limit" "$@" >>"$OUT/$name.txt" 2>&1; then end=done; else
        end="FAILED ($?)"
        failed="$failed $name"
    fi
    echo "[$(($(date +%s) - start)) s] $name: $end"
}

# Samples of LENGTH tokens with loss on the last eight, the same for every run; tokens exist in the smallest vocabulary.
awk -v length_="$LENGTH" 'BEGIN {
    srand(1)
    for (i = 0; i < 8; i++) {
        ids = labels = ""
        for (t = 0; t < length_; t++) {
            id = int(rand() * 256)
            ids = ids (t ? "," : "") id
            labels = labels (t ? "," : "") (t < length_ - 8 ? -100 : id)
        }
        printf "{\"input_ids\":[%s],\"labels\":[%s]}\n", ids, labels
    }
}' >"$work/samples.jsonl"

# train RUN SECONDS FLAGS…
set -- --model "$MODEL" --train-file "$work/samples.jsonl" --device "$DEVICE" --num-epochs 1000 --batch-size $((ROWS / LENGTH)) \
    --gradient-accumulation-steps 4 --max-seq-length "$LENGTH" --lora-r 16 --lora-dropout 0.05 --logging-steps 1 --save-steps 5 \
    --seed 7 --max-steps "$STEPS"
settings=$*
train() {
    run=$1 limit=$2
    shift 2
    # shellcheck disable=SC2086 # settings are words without spaces
    stage "$run" "$limit" "$IRORI" train $settings --output-dir "$work/${run%-resumed}" "$@"
}

# The metrics of a run and the digest of its adapter, kept with the results.
keep() {
    cp "$work/$1/metrics.jsonl" "$OUT/$1-metrics.jsonl" 2>/dev/null
    sha256sum "$work/$1/adapter_model.safetensors" >>"$OUT/digests.txt" 2>/dev/null
}

: >"$OUT/digests.txt"
{
    date -u
    nvidia-smi -L
    nvidia-smi --query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv
} >"$OUT/machine.txt" 2>&1
# Without the clocks no figure can be understood.
clocks=
if [ "$DEVICE" != cpu ] && command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,clocks_throttle_reasons.active --format=csv -l 1 \
        >"$OUT/clocks.csv" 2>&1 &
    clocks=$!
fi
# Nothing is counted on a GPU, and one test at a time leaves it to itself.
only="--test-threads 1 --skip traffic --skip cost --skip counts --skip peaks"
stage doctor 120 "$IRORI" doctor
if [ -n "${TESTS:-}" ]; then
    # shellcheck disable=SC2086
    stage tests 300 env IRORI_TEST_DEVICE="${DEVICE#cuda:}" "$TESTS" $only
elif [ "$DEVICE" != cpu ] && command -v cargo >/dev/null; then
    cargo test --manifest-path "$root/Cargo.toml" --locked --test kernels --no-run || failed="$failed tests"
    # shellcheck disable=SC2086
    stage tests 600 env IRORI_TEST_DEVICE="${DEVICE#cuda:}" cargo test --manifest-path "$root/Cargo.toml" --locked --test kernels -- $only
fi
if [ "$DEVICE" != cpu ] && command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck initcheck; do
        stage "sanitizer-$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 "$IRORI" doctor
    done
fi
bench() { stage "bench-$1" 200 "$IRORI" bench "$2" --device "$DEVICE" --model "$MODEL" --rows "$ROWS" --length "$LENGTH" $3; }
bench kernels kernels ""
bench step step "--repeats 8 --memory-limit 20GiB"
bench step-10gb step "--repeats 4 --memory-limit 9.5GiB"
bench eval eval "--repeats 3"
bench load load "--repeats 2"
if [ "$DEVICE" != cpu ]; then
    # Not every device and driver can be parted.
    before=$failed
    bench step-slice step "--repeats 4 --memory-limit 20GiB --sm-limit $SMS"
    failed=$before
fi
train run-20gb "$LIMIT" --memory-limit 20GiB
train run-10gb "$LIMIT" --memory-limit 9.5GiB
# Killed after a few steps, then taken up again.
"$IRORI" train $settings --output-dir "$work/killed" --memory-limit 20GiB >"$OUT/killed.txt" 2>&1 &
pid=$!
tries=0
until [ "$(grep -c tokens_per_second "$work/killed/metrics.jsonl" 2>/dev/null)" -ge 7 ] 2>/dev/null; do
    kill -0 $pid 2>/dev/null || break
    tries=$((tries + 1))
    [ "$tries" -lt $((LIMIT * 20)) ] || break
    sleep 0.05
done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
train killed-resumed "$LIMIT" --memory-limit 20GiB --resume
for run in run-20gb run-10gb killed; do keep "$run"; done

[ -z "$clocks" ] || kill "$clocks"

# A different plan and a killed run end in the same adapter, bit for bit.
cut -d' ' -f1 "$OUT/digests.txt" | sort -u >"$work/unique"
[ "$(wc -l <"$OUT/digests.txt")" -eq 3 ] && [ "$(wc -l <"$work/unique")" -eq 1 ] || failed="$failed bits"
cat "$OUT/digests.txt"
if [ -n "$failed" ]; then
    echo "failed:$failed"
    exit 1
fi
echo "all done; results in $OUT"
