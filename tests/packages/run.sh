#!/usr/bin/env bash
# Checkpoints, adapters and records as other packages write them, tried with irori.
#
#   tests/packages/run.sh [WORK] [--write]
#
# WORK (target/packages) takes two virtual environments, 11 GB, and what is made. IRORI is the program (target/release/irori).
# With --write the results become the expected ones and the table of docs/compatibility.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
write=()
work=$root/target/packages
for argument in "$@"; do
    if [ "$argument" = --write ]; then write=(--write); else work=$argument; fi
done
mkdir -p "$work" && work=$(cd "$work" && pwd)
IRORI=$(realpath "${IRORI:-$root/target/release/irori}")
export IRORI
python=${PYTHON:-python3}

# environment NAME REQUIREMENTS [MORE]: a virtual environment with them; MORE is installed without its own requirements.
environment() {
    local venv=$work/$1
    [ -e "$venv/whole" ] && return
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install -q -r "$here/$2"
    if [ $# -ge 3 ]; then "$venv/bin/pip" install -q --no-deps -r "$here/$3"; fi
    touch "$venv/whole"
}

environment newest requirements.txt
environment older requirements-older.txt requirements-unsloth.txt
cd "$here"
failed=0
for name in newest older; do
    "$work/$name/bin/python" make.py "$name" "$work/out" >"$work/$name.log" 2>&1 || failed=1
    grep -E '^NOT MADE|cases made' "$work/$name.log" || { tail -5 "$work/$name.log"; exit 1; }
done
"$python" check.py "$work/out" --irori "$IRORI" "${write[@]}" || failed=1
exit "$failed"
