"""A model card: what the model was made from, in the fields that the hub reads.

model folder (and the run around it, if any) -> README.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vistune.files import read_json, read_text
from vistune.interop.folders import is_hub_name


def write_card(folder: Path) -> str:
    """The card's text: base models, data, what learnt at which rate, scores; only what the folder knows."""
    recipe = _yaml(folder / "recipe.yaml")
    parts = _json(folder / "parts.json")
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    origin = parts.get("extra", {}).get("origin", {})
    bases = _bases(recipe, parts, origin)
    data = sorted({Path(str(source["file"])).name for source in recipe.get("data", []) if "file" in source})
    on_the_hub = [name for name in bases if is_hub_name(name)]
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": on_the_hub} if on_the_hub else {}),
        "tags": ["llava", "vistune"],
        "license": "other",
        "license_name": "that-of-the-base-models-and-data",
    }
    title = str(recipe.get("name", folder.name))
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {title}", ""]
    lines += ["A LLaVA-style model made with vistune.", ""]
    if origin:
        lines += [f"Imported from a folder of the layout {origin.get('layout')}: {origin.get('folder')}.", ""]
    if bases:
        lines += [f"Base models: {', '.join(name if is_hub_name(name) else Path(name).name for name in bases)}.", ""]
    if data:
        lines += [f"Data: {', '.join(data)}.", ""]
    for stage in recipe.get("stages", []):
        learnt = ", ".join(f"{part} at {rate:g}" for part, rate in stage.get("learn", {}).items())
        lines.append(f"- stage {stage.get('name')}: {learnt}")
    lines += ["", *_scores(run)] if recipe.get("stages") else _scores(run)
    lines.append("The licences of the base models and of the data bind this model too: set `license` before sharing.")
    return "\n".join(lines).strip() + "\n"


def _bases(recipe: dict[str, Any], parts: dict[str, Any], origin: dict[str, Any]) -> list[str]:
    """Folders or hub names: what a run goes on from, what an imported model left outside, or the two backbones."""
    before = recipe.get("from")
    if isinstance(before, dict):
        named = [before.get(key) for key in ("model", "base", "vision")]
    elif origin:
        named = [origin.get(key) for key in ("base", "tower")]
    else:
        named = [parts[part]["source"] for part in ("vision", "language") if part in parts]
    return [str(name) for name in named if name]


def _scores(run: Path) -> list[str]:
    rows = []
    for path in sorted((run / "evals").glob("*.json")):
        metrics = _json(path).get("metrics")
        if isinstance(metrics, dict):
            rows.append(f"| {path.stem} | {', '.join(f'{name} {value:.4g}' for name, value in metrics.items())} |")
    return ["| evaluation | scores |", "| --- | --- |", *rows, ""] if rows else []


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    value = yaml.safe_load(read_text(path)) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
