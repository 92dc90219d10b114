#!/usr/bin/env python3
"""Runs irori on what make.py made, and compares with transformers' results and with expected.json. README.md beside it says how.

    check.py OUT [--irori PROGRAM] [--only NAME] [--write]

Prints a table in Markdown. Exit code 1 if a result is not what expected.json says, or if irori computes something else than
transformers. `--write` takes the results as they are into expected.json and docs/compatibility.md; what differs from
transformers is never taken.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXPECTED = HERE / "expected.json"
PAGE = ROOT / "docs" / "compatibility.md"
TOLERANCE = 1e-4
OF_EVERY_ADAPTER = "the adapter does not say what it was trained beside"
TITLES = {
    "checkpoints": "Checkpoints", "adapters": "Adapters", "trained": "Adapters that irori trained", "records": "Records",
    "hub": "The Hugging Face cache",
}


class Check:
    def __init__(self, options):
        self.irori, self.out = options.irori, options.out.resolve()

    def run(self, arguments, **environment):
        """Exit code, output and messages; a hang is an exit code of its own."""
        command = [str(self.irori), *map(str, arguments)]
        try:
            done = subprocess.run(command, cwd=self.out, capture_output=True, text=True, timeout=120, env=os.environ | environment)
        except subprocess.TimeoutExpired:
            return 124, "", "no end within 120 s"
        return done.returncode, done.stdout, done.stderr

    def outcome(self, entry):
        """(outcome, what irori says or how far it is, the command)."""
        outcome, message, command = getattr(self, entry["kind"])(entry)
        # What is made lies wherever the user put it; his paths are no result.
        for said, shown in [(f"{self.out}/", ""), (f"{entry['path']}/", ""), (f"{entry['path']}:", "the directory:")]:
            message = message.replace(said, shown)
        return outcome, message, command

    def scored(self, entry, arguments):
        tokens = self.out / "tokens.jsonl"
        tokens.write_text("".join(json.dumps({"tokens": t}) + "\n" for t in documents()))
        command = ["score", *arguments, *entry.get("flags", [])]
        code, output, messages = self.run([*command, "--input", "tokens.jsonl"])
        if code:
            return refused(code, messages, command)
        warning = warnings(messages)
        path = self.out / entry["path"] / "reference.jsonl"
        if not path.exists():
            return "read", "reads it; there is nothing to compare with" + warning, command
        worst = difference(lines(output), lines(path.read_text()))
        if worst > TOLERANCE:
            return "differs", f"**differs from transformers by {worst:.2g}**{warning}", command
        return "equal", f"the same log-probabilities{warning}", command

    def checkpoints(self, entry):
        return self.scored(entry, ["--model", entry["path"]])

    def adapters(self, entry):
        return self.scored(entry, ["--model", entry["base"], "--adapter", entry["path"] + entry.get("within", "")])

    def trained(self, entry):
        """An adapter that irori trained, scored by irori and by transformers with peft."""
        adapter = ["--adapter", entry["adapter"]] if "adapter" in entry else []
        return self.scored(entry, ["--model", entry["base"], *adapter])

    def records(self, entry):
        command = ["dataset", "inspect", f"{entry['path']}/{entry['file']}", "--model", entry["tokenizer"], *entry.get("flags", [])]
        code, output, messages = self.run([*command, "--samples", "99"])
        if code:
            return refused(code, messages, command)
        warning = warnings(messages)
        path = self.out / entry["path"] / "reference.json"
        if not path.exists():
            return "read", "reads it; there is nothing to compare with" + warning, command
        wanted, found = json.loads(path.read_text()), samples(output)
        if wanted != found:
            both = [(w, f) for w, f in zip(wanted, found) if w != f] or [(wanted, found)]
            return "differs", f"**differs**: wanted {both[0][0]!r}, found {both[0][1]!r}{warning}", command
        return "equal", entry.get("equal", "the same text and the same loss") + warning, command

    def hub(self, entry):
        (self.out / "tokens.jsonl").write_text("".join(json.dumps({"tokens": t}) + "\n" for t in documents()))
        tokens = str(self.out / "tokens.jsonl")
        wrong = []
        for case in entry["cases"]:
            environment = {k: v for k, v in os.environ.items() if k not in entry["clear"]} | case["environment"]
            command = [str(self.irori), "score", "--model", case["id"], "--no-4bit", "--input", tokens]
            done = subprocess.run(command, cwd=self.out / entry["path"], capture_output=True, text=True, env=environment, timeout=120)
            if (done.returncode == 0) != case["found"]:
                wrong.append(f"{case['environment']}: {'not found' if case['found'] else 'found'}")
        command = ["score", "--model", entry["id"], "--no-4bit", "--input", "tokens.jsonl"]
        if wrong:
            return "differs", "**differs**: " + "; ".join(wrong), command
        places = sum(case["found"] for case in entry["cases"])
        return "equal", f"finds it where huggingface_hub looks, in each of {places} environments, and nowhere else", command


def documents():
    sys.path.insert(0, str(HERE))
    from common import DOCUMENTS
    return DOCUMENTS


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def difference(ours, theirs):
    assert [row["tokens"] for row in ours] == [row["tokens"] for row in theirs]
    pairs = [(a, b) for x, y in zip(ours, theirs) for a, b in zip(x["logprobs"][1:], y["logprobs"][1:])]
    return max((abs(a - b) for a, b in pairs), key=lambda d: float("inf") if d != d else d)


def samples(output):
    """What `inspect` shows, as [text, text that carries loss] of each sample; marks between tokens are taken out."""
    head = re.compile(r"^line \d+.*\(in ⟦ ⟧\)$")
    found = []
    for line in output.split("\nrecords ")[0].split("\n"):
        if head.match(line):
            found.append([])
        elif found:
            found[-1].append(line)
    texts = [plain("\n".join(one)) for one in found]
    learned = ["".join(re.findall(r"⟦(.*?)⟧", text, re.S)) for text in texts]
    return [[re.sub("[⟦⟧]", "", text).strip(), loss.strip()] for text, loss in zip(texts, learned)]


def plain(text):
    """Without the marks that `inspect` puts between tokens and at line ends."""
    return text.replace("↵\n", "\n").replace("↵", "\n").replace("|", "").strip()


def refused(code, messages, command):
    message = " ".join(line.strip() for line in messages[max(messages.find("error: "), 0) :].splitlines() if line.strip())
    if code not in (1, 2) or "panicked" in messages or "internal error" in messages:
        return "broken", f"**exit code {code}**: {message[:400]}", command
    return "refused", message, command


def warnings(messages):
    """What irori says beside its result, but for what it says of every adapter that it did not train."""
    found = [line.strip() for line in messages.splitlines() if line.strip() and not line.startswith(OF_EVERY_ADAPTER)]
    return f"; says: {' '.join(found)}" if found else ""


def cell(text):
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def table(rows):
    kinds = {}
    for entry, outcome, message, command in rows:
        kinds.setdefault(entry["kind"], []).append((entry, outcome, message, command))
    parts = []
    for kind, of_kind in kinds.items():
        counts = {}
        for _, outcome, _, _ in of_kind:
            counts[outcome] = counts.get(outcome, 0) + 1
        said = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
        parts.append(f"## {TITLES[kind]}\n\n{len(of_kind)} cases: {said}.\n\n| what | made by | `irori` | what irori does |\n|---|---|---|---|")
        for entry, outcome, message, command in of_kind:
            does = f"refuses: {message.removeprefix('error: ')}" if outcome == "refused" else message
            parts.append(f"| {cell(entry['what'])} | {cell(entry['by'])} | `{cell(shlex.join(map(str, command)))}` | {cell(does)} |")
        parts.append("")
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--irori", type=Path, default=ROOT / "target/release/irori")
    parser.add_argument("--only")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.irori = options.irori.resolve()
    entries = [e for name in ["newest", "older"] if (options.out / f"{name}.json").exists() for e in json.loads((options.out / f"{name}.json").read_text())]
    entries.sort(key=lambda e: list(TITLES).index(e["kind"]))
    if options.only:
        entries = [e for e in entries if options.only in f"{e['kind']}/{e['name']}"]
    check = Check(options)
    rows = [(entry, *check.outcome(entry)) for entry in entries]
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    results = {f"{e['kind']}/{e['name']}": [outcome, message] for e, outcome, message, _ in rows}
    print(table(rows))
    faults = {key: result for key, result in results.items() if result[0] in ("differs", "broken")}
    if options.write:
        kept = (expected if options.only else {}) | results
        EXPECTED.write_text(json.dumps({k: v for k, v in kept.items() if k not in faults}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if not options.only:
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(page[: page.index("## Checkpoints")] + table(rows), encoding="utf-8")
        wrong = faults
    else:
        wrong = {key: result for key, result in results.items() if result != expected.get(key)}
        if not options.only:
            wrong |= {key: ["not made", ""] for key in expected if key not in results}
    for key, (outcome, message) in wrong.items():
        print(f"WRONG {key}: {outcome} {message}; expected {' '.join(expected.get(key, ['nothing known']))}", file=sys.stderr)
    print(f"{len(results) - len(wrong)} passed, {len(wrong)} failed", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
