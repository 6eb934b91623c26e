"""Where a model came from: recipe, data and who wrote it, package versions, and the models before it.

`provenance_record` is stored in every checkpoint; `why` reads the chain back from the folders, without loading weights.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vistune.errors import CheckpointError
from vistune.files import read_json_if_there, sha256_of
from vistune.recipe import Recipe, load_recipe
from vistune.runs.folder import find_model, fingerprint, is_vistune_folder


def provenance_record(hashes: Mapping[str, str], parent: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the provenance of a run's model, as every checkpoint stores it.

    Args:
        hashes: SHA-256 of each data file.
        parent: `fingerprint` of the model that the run continues from.
    """
    data = []
    for name, digest in hashes.items():
        generated = read_json_if_there(Path(name).parent / "generate.json")
        written = generated.get("origin") if isinstance(generated, dict) else None
        data.append({"file": name, "sha256": digest, "written": written})
    return {"data": data, "versions": versions(), "from": None if parent is None else dict(parent)}


def shards_of(stage: str) -> str:
    """Return the name that a history gives a stage's shards; only their names are hashed."""
    return f"shards of {stage}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a run's results."""
    names = ("vistune", "torch", "transformers", "peft", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def why(model: Path) -> list[dict[str, Any]]:
    """One entry a model, the newest first; it ends at backbones, or where a folder is no longer there.

    `unchanged` says of a parent or a data file whether it is still what was used; None where it is gone.
    """
    if not is_vistune_folder(model) and not any((model / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise CheckpointError(f"{model}: neither a model folder nor a run with checkpoints", "check the path")
    entries: list[dict[str, Any]] = []
    while True:
        entry, before = _entry(model)
        entries.append(entry)
        if before is None:
            return entries
        model = before


def _entry(model: Path) -> tuple[dict[str, Any], Path | None]:
    if not is_vistune_folder(model):
        return {"model": str(model), "made": "elsewhere"}, None
    from vistune.runs.checkpoint import BACKBONES, read_parts

    folder = find_model(model)
    parts = read_parts(folder)
    extra = parts["extra"]
    if "origin" in extra:
        return {"model": str(folder), "made": "imported", "origin": extra["origin"]}, None
    recipe = load_recipe(str(folder / "recipe.yaml"))
    provenance_record = extra.get("history", {})
    before = provenance_record.get("from")
    entry: dict[str, Any] = {
        "model": str(folder),
        "made": "trained",
        "recipe": recipe.name,
        "seed": recipe.seed,
        "stages": [
            {"name": stage.name, "learn": dict(stage.learn), "finished": number < extra["stage"] or extra["finished"]}
            for number, stage in enumerate(recipe.stages[: extra["stage"] + 1])
        ],
        "steps_of_last_stage": extra["step"],
        "backbones": {part: parts[part]["source"] for part in BACKBONES},
        "data": [{**row, **_now(row, recipe)} for row in provenance_record.get("data", [])],
        "versions": provenance_record.get("versions", {}),
    }
    if before is None:
        return entry, None
    parent = Path(before["model"])
    if not parent.is_dir():
        entry["from"] = {**before, "unchanged": None}
        return entry, None
    entry["from"] = {**before, "unchanged": fingerprint(parent)["sha256"] == before["sha256"]}
    return entry, parent


def _now(row: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Whether a data file is as it was; of shards, whose names alone are kept, where they are."""
    for stage in recipe.stages:
        if stage.shards is not None and row["file"] == shards_of(stage.name):
            return {"shards": list(stage.shards.files)}
    path = Path(row["file"])
    return {"unchanged": sha256_of(path) == row["sha256"] if path.is_file() else None}


def describe_provenance(entries: list[dict[str, Any]]) -> list[str]:
    """The history as lines to read."""
    lines = []
    for entry in entries:
        lines.append(f"{entry['model']}: {entry['made']}")
        if "origin" in entry:
            lines += [f"  {key}: {value}" for key, value in entry["origin"].items()]
        if "recipe" not in entry:
            continue
        lines.append(f"  recipe {entry['recipe']}, seed {entry['seed']}")
        for stage in entry["stages"]:
            learn = ", ".join(f"{part} {rate:g}" for part, rate in stage["learn"].items())
            lines.append(f"  stage {stage['name']}: {learn}{'' if stage['finished'] else ' (not finished)'}")
        lines += [f"  {part}: {source}" for part, source in entry["backbones"].items()]
        for row in entry["data"]:
            state = "(of their names)" if "shards" in row else STATE[row["unchanged"]]
            place = ": ".join([row["file"], *([", ".join(row["shards"])] if "shards" in row else [])])
            lines.append(f"  data {place} {row['sha256'][:12]} {state}")
            if written := row["written"]:
                lines.append(f"    written by {_teacher(written['teacher'])} from {written['source']}")
        lines.append("  " + ", ".join(f"{name} {number}" for name, number in entry["versions"].items()))
        if "from" in entry:
            lines.append(f"  went on from {entry['from']['model']} {STATE[entry['from']['unchanged']]}")
    return lines


STATE = {True: "(as it was)", False: "(CHANGED SINCE)", None: "(no longer there)"}


def _teacher(teacher: dict[str, Any]) -> str:
    if teacher["name"] == "rule":
        return "the rule teacher"
    return f"{teacher['model']} at {teacher['base_url']}, prompts {teacher['prompts_sha256'][:12]}"
