"""The cache of huggingface_hub: where the package looks in an environment, asked of the package itself."""

import json
import os
import shutil
import subprocess
import sys

from common import version

VARIABLES = ["HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_ENDPOINT", "A", "B", "E"]
ASK = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE, end='')"


def make(cases):
    cases.add("hub", "places", "where an id is looked for, by `HF_HUB_CACHE`, `HF_HOME` and the others", version("huggingface_hub"), lambda folder: places(cases, folder))


def places(cases, folder):
    """A model is put where the package looks in each environment, and nowhere else; irori must find it there. Then it is
    taken away, and irori must not find it."""
    from adapters import base_model

    base = base_model(cases.root)
    home = {"HOME": str(folder / "home")}
    out = []
    for i, more in enumerate([
        {}, {"XDG_CACHE_HOME": "{}/xdg"}, {"HF_HOME": "{}/hf", "XDG_CACHE_HOME": "{}/xdg"}, {"HF_HOME": "{}/hf", "HUGGINGFACE_HUB_CACHE": "{}/old"},
        {"HUGGINGFACE_HUB_CACHE": "{}/old", "HF_HUB_CACHE": "{}/new"}, {"HF_HOME": "~/x"}, {"HF_HUB_CACHE": "~/x"}, {"XDG_CACHE_HOME": "~/x"}, {"HF_HOME": "~"},
        {"A": "{}/a", "HF_HOME": "$A/x"}, {"A": "{}/a", "HF_HUB_CACHE": "${{A}}x/$E"}, {"E": "", "HF_HUB_CACHE": "{}/a${{E}}b"},
        {"A": "$B", "B": "{}/b", "HF_HOME": "$A"}, {"A": "$B", "B": "{}/b", "HF_HUB_CACHE": "$A"}, {"HF_HOME": ""}, {"HF_HUB_CACHE": ""}, {"XDG_CACHE_HOME": ""},
        {"HF_HOME": "relative"}, {"HF_HUB_CACHE": "relative/hub"}, {"HF_HOME": "~root/none"}, {"HUGGINGFACE_HUB_CACHE": "~/a/$HOME"}, {"HOME": ""},
        {"HF_HOME": "{}/with space/あ"}, {"HF_HUB_CACHE": "{}/a/../b"},
    ]):
        environment = home | {k: v.format(folder / f"case{i}") for k, v in more.items()}
        clean = {k: v for k, v in os.environ.items() if k not in VARIABLES} | environment
        place = subprocess.run([sys.executable, "-c", ASK], env=clean, cwd=folder, capture_output=True, text=True, check=True).stdout
        name = f"models--org{i}--model"
        repository = os.path.join(folder, place, name)
        if not os.path.realpath(repository).startswith(str(cases.root)):
            continue  # nothing is written outside
        commit = f"{i:040x}"
        os.makedirs(os.path.join(repository, "refs"), exist_ok=True)
        with open(os.path.join(repository, "refs", "main"), "w") as file:
            file.write(commit)
        os.makedirs(os.path.join(repository, "snapshots", commit), exist_ok=True)
        for file in base.iterdir():
            if file.is_file():
                shutil.copy(file, os.path.join(repository, "snapshots", commit, file.name))
        out.append(dict(id=f"org{i}/model", environment=environment, found=True))
        out.append(dict(id=f"org{i}/model", environment=environment | {"HF_HUB_CACHE": str(folder / "nowhere")}, found=False))
    return dict(cases=out, clear=VARIABLES, id="ORG/MODEL")
