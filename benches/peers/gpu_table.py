#!/usr/bin/env python3
"""The table of run_gpu.sh: irori's metrics.jsonl beside the peers' JSON, phase by phase.

    gpu_table.py --work DIR --job job.jsonl --phases warm:1,full:3,warm:1,law:18 [--peers padded,flattened,…]

A phase called `warm` is left out. tokens/s is the median over the steps of a phase, real tokens only. An epoch is the sum of the
steps of the last phase; `~` says that a peer ran out of its time and the rest is scaled up by samples.
"""

import argparse
import json
import pathlib
import statistics


def parts(lines, phases, per_step):
    """Samples and tokens of each phase, from the job itself."""
    lengths = [len(json.loads(line)["input_ids"]) for line in lines if line.strip()]
    found, at = [], 0
    for name, steps in phases:
        here = lengths[at : at + steps * per_step]
        found.append((name, len(here), sum(here)))
        at += steps * per_step
    return found


def irori(path, phases, expected):
    """Steps of each phase from a metrics.jsonl; None if the run did not get through."""
    if not path.exists():
        return None
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [r for r in records if r["type"] == "step"]
    if len(steps) != sum(n for _, n in phases):
        return None
    found = []
    for (name, n), (_, _, tokens) in zip(phases, expected):
        part, steps = steps[:n], steps[n:]
        assert sum(s["tokens"] for s in part) == tokens, f"{path}: {name} has other tokens than the job"
        log = [{"tokens": s["tokens"], "seconds": s["tokens"] / s["tokens_per_second"], "loss": s["loss"]} for s in part]
        found.append({"name": name, "steps": log, "peak_bytes": max(s["peak_memory_bytes"] for s in part)})
    device = next((r["device"] for r in records if r["type"] == "start"), "")
    return {"phases": found, "device": device}


def figures(run, expected):
    """For each phase that counts: name, tokens/s, seconds, whether they are scaled, peak bytes, first loss."""
    found = []
    for phase, (name, samples, _) in zip(run["phases"], expected):
        log = phase["steps"]
        if name == "warm" or not log:
            continue
        done = sum(s.get("samples", 0) for s in log) or samples
        seconds = sum(s["seconds"] for s in log) * samples / done
        speed = statistics.median(s["tokens"] / s["seconds"] for s in log)
        found.append((name, speed, seconds, done < samples, phase["peak_bytes"], log[0]["loss"]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--job", type=pathlib.Path, required=True)
    parser.add_argument("--phases", required=True)
    parser.add_argument("--peers", default="padded,longest,unpadded,flattened,liger,unsloth")
    parser.add_argument("--per-step", type=int, default=8)
    options = parser.parse_args()
    phases = [(name, int(steps)) for name, steps in (p.split(":") for p in options.phases.split(","))]
    expected = parts(options.job.read_text(encoding="utf-8").splitlines(), phases, options.per_step)

    runs = {}
    ours = irori(options.work / "irori" / "metrics.jsonl", phases, expected)
    if ours:
        runs["irori"] = ours
    for name in options.peers.split(","):
        path = options.work / f"{name}.json"
        if path.exists():
            runs[name] = json.loads(path.read_text(encoding="utf-8"))
    if not runs:
        raise SystemExit("nothing ran")

    for device in sorted({f"{'irori' if name == 'irori' else 'peers'}: {run['device']}" for name, run in runs.items()}):
        print(device)
    last = [name for name, _ in phases][-1]
    names = [name for name, _ in phases if name != "warm"]
    epoch = next((samples, tokens) for name, samples, tokens in reversed(expected) if name == last)
    print(f"an epoch of {last}: {epoch[0]} samples, {epoch[1]} tokens\n")
    columns = ["", *(f"{n}, tokens/s" for n in names), f"epoch of {last}, s", "peak, GiB", "recomputes", *(f"irori × ({n})" for n in names), "first loss"]
    print("| " + " | ".join(columns) + " |")
    print("|---" + "|---:" * (len(columns) - 1) + "|")
    base = {f[0]: f[1] for f in figures(ours, expected)} if ours else {}
    for name, run in runs.items():
        found = {f[0]: f for f in figures(run, expected)}
        label = name if name == "irori" else f"{run['peer']}, {run['batching']}, {run['base']}, {run['attention']}"
        cells = [f"{found[n][1]:.0f}" if n in found else "" for n in names]
        cells.append(f"{'~' if found[last][3] else ''}{found[last][2]:.1f}" if last in found else "")
        cells.append(f"{max(p['peak_bytes'] for p in run['phases']) / 2**30:.2f}")
        cells.append("by its plan" if name == "irori" else "every layer" if run["gradient_checkpointing"] else "nothing")
        cells += [f"{base[n] / found[n][1]:.2f}" if n in base and n in found and name != "irori" else "" for n in names]
        cells.append(f"{run['phases'][0]['steps'][0]['loss']:.4f}")
        print("| " + " | ".join([label, *cells]) + " |")
    skipped = options.work / "skipped"
    if skipped.exists():
        print("\nskipped:")
        print("\n".join(f"- {line}" for line in skipped.read_text(encoding="utf-8").splitlines()))
    versions = next((run["versions"] for name, run in runs.items() if name != "irori"), {})
    if versions:
        print("\n" + ", ".join(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    main()
