#!/usr/bin/env bash
# Writes toolchain/wheels.txt anew: its names, versions and comments stay, the digests become those of the wheels that pip
# downloads for each platform (250 MB, thrown away again). `make toolchain-hashes` calls it. PYTHON names the Python.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
list=wheels.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mapfile -t wheels < <(grep -oE '^[a-z0-9-]+==[0-9.]+' "$list")
for machine in x86_64 aarch64; do
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --no-cache-dir \
        --platform "manylinux_2_28_$machine" --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" \
        --dest "$work/$machine" "${wheels[@]}"
done

while IFS= read -r line; do
    case $line in
    *==*) ;;
    *--hash=*) continue ;;
    *) printf '%s\n' "$line" && continue ;;
    esac
    wheel=${line%% *}
    name=${wheel%%==*}
    printf '%s' "$wheel"
    for machine in x86_64 aarch64; do
        file=("$work/$machine/${name//-/_}-${wheel##*==}"-*.whl)
        printf ' \\\n    %s' "$("$python" -m pip hash --algorithm sha256 "${file[@]}" | tail -n 1)"
    done
    printf '\n'
done <"$list" >"$work/$list"
cp "$work/$list" "$list"
