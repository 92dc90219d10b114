#!/usr/bin/env python3
"""Makes checkpoints, adapters and records with the packages that people make theirs with. README.md beside it says how.

    make.py newest|older OUT [--only NAME]

Each environment writes OUT/{checkpoints,adapters,records,…}/NAME and the list of them, OUT/ENVIRONMENT.json.
"""

import argparse
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="", WANDB_DISABLED="true", UNSLOTH_DISABLE_STATISTICS="1")
if os.environ.get("PYTHONHASHSEED") != "0":  # sets are written in the same order every time
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})
MAKERS = {"newest": ["checkpoints", "adapters", "trained", "records", "hub"], "older": ["llamafactories", "older", "unsloths"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=MAKERS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", help="cases whose KIND/NAME has this in it")
    parser.add_argument("--makers", default="", help="these modules only, by commas")
    options = parser.parse_args()
    from common import Cases

    options.out.mkdir(parents=True, exist_ok=True)
    cases = Cases(options.out.resolve(), options.only)
    for name in options.makers.split(",") if options.makers else MAKERS[options.environment]:
        try:
            importlib.import_module(name).make(cases)
        except Exception:
            traceback.print_exc()
            cases.failed.append(f"{name}: the maker ended")
    list_file = options.out / f"{options.environment}.json"
    before = json.loads(list_file.read_text()) if list_file.exists() and (options.only or options.makers) else []
    made = {(e["kind"], e["name"]) for e in cases.entries}
    entries = [e for e in before if (e["kind"], e["name"]) not in made] + cases.entries
    list_file.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for line in cases.failed:
        print("NOT MADE", line, file=sys.stderr)
    print(f"{len(cases.entries)} cases made, {len(cases.failed)} not")
    return 1 if cases.failed else 0


if __name__ == "__main__":
    sys.exit(main())
