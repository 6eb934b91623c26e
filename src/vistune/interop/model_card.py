"""Write a model card from the records of a run: base models, recipe, data, scores, limits, licence and citation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vistune.files import read_json_if_there, read_text
from vistune.interop.folders import is_hub_name
from vistune.runs import checkpoint

TABLE = (
    "| evaluation | scores | accuracy (95 % interval) | without image | wrong image | most frequent answer | count |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
LIMITS = """## Limits

- The model describes images by language statistics too: compare its accuracy with the columns without an image and with
  the wrong image. Its statements about an image can be wrong.
- It was only evaluated on the tasks in the table, if there are any. It was not tested for bias, safety or abuse.
- It knows the languages of its data and of its language model; other languages were not tested.
"""
CITATION = """## Citation

```bibtex
@software{vistune,
  title = {vistune: a Python toolkit for visual instruction tuning},
  author = {{The vistune authors}},
  license = {Apache-2.0},
}
@inproceedings{liu2023visual,
  title = {Visual Instruction Tuning},
  author = {Liu, Haotian and Li, Chunyuan and Wu, Qingyang and Lee, Yong Jae},
  year = {2023},
  eprint = {2304.08485},
}
```
"""
UNLICENSED = "The licences of the base models and of the data bind this model too: set `license` before sharing."


def write_card(folder: Path, license_name: str | None = None) -> str:
    """Return a model card, as far as the folder and its run record what it says.

    Args:
        folder: The model folder.
        license_name: The licence's name on the hub, such as `apache-2.0`. Default: none, and the card says so.
    """
    path = folder / "recipe.yaml"
    recipe = _mapping(yaml.safe_load(read_text(path)) if path.is_file() else None)
    parts = _mapping(read_json_if_there(folder / "parts.json"))
    extra = _mapping(parts.get("extra"))
    origin = _mapping(extra.get("origin"))
    bases = _bases(recipe, parts, origin)
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    lines = [*_head(bases, license_name), "", f"# {recipe.get('name', folder.name)}", ""]
    lines += ["A LLaVA-style model made with vistune.", ""]
    if origin:
        lines += [f"Imported from a folder of the layout {origin.get('layout')}: {origin.get('folder')}.", ""]
    if bases:
        lines += [f"Base models: {', '.join(map(_shown, bases))}.", ""]
    lines += _data(recipe, _mapping(extra.get("history")))
    lines += _recipe(recipe)
    lines += scores(run)
    lines += [LIMITS, "## Licence", ""]
    lines += [UNLICENSED if license_name is None else f"{license_name}.", "", CITATION]
    return "\n".join(lines).strip() + "\n"


def _head(bases: list[str], license_name: str | None) -> list[str]:
    """Return the card's metadata, which the hub reads."""
    on_the_hub = [name for name in bases if is_hub_name(name)]
    licence = {"license": "other", "license_name": "that-of-the-base-models-and-data"}
    tree: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": on_the_hub} if on_the_hub else {}),
        "tags": ["llava", "vistune"],
        **(licence if license_name is None else {"license": license_name}),
    }
    return ["---", yaml.safe_dump(tree, sort_keys=False).strip(), "---"]


def _bases(recipe: Mapping[str, Any], parts: Mapping[str, Any], origin: Mapping[str, Any]) -> list[str]:
    """Return folders or hub names of the base models: a run's `from`, an import's base and tower, or the backbones."""
    parent = recipe.get("from")
    if isinstance(parent, dict):
        names = [parent.get(key) for key in ("model", "base", "vision")]
    elif origin:
        names = [origin.get(key) for key in ("base", "tower")]
    else:
        names = [parts[part]["source"] for part in checkpoint.BACKBONES if part in parts]
    return [str(name) for name in names if name]


def _shown(name: str) -> str:
    """Return a hub name, or the last part of a path: a card does not say where files are on a machine."""
    return name if is_hub_name(name) else Path(name).name


def _data(recipe: Mapping[str, Any], history: Mapping[str, Any]) -> list[str]:
    """Return the data files with their checksums, and the teacher that wrote them."""
    recorded = [_mapping(each) for each in history.get("data", [])]
    if not recorded:
        files = sorted({Path(str(each["file"])).name for each in recipe.get("data", []) if "file" in each})
        return [f"Data: {', '.join(files)}.", ""] if files else []
    lines = ["## Data", "", "| file | SHA-256 | written by |", "| --- | --- | --- |"]
    for each in recorded:
        written = _mapping(each.get("written"))
        teacher = ", ".join(f"{key} {written[key]}" for key in ("teacher", "model", "language") if written.get(key))
        lines.append(f"| {Path(str(each['file'])).name} | `{str(each['sha256'])[:16]}` | {teacher or 'not recorded'} |")
    return [*lines, ""]


def _recipe(recipe: Mapping[str, Any]) -> list[str]:
    """Return the stages and the settings of the model."""
    stages = [_mapping(stage) for stage in recipe.get("stages", [])]
    if not stages:
        return []
    lines = ["## Recipe", ""]
    for stage in stages:
        trained = ", ".join(f"{part} at {rate:g}" for part, rate in stage.get("learn", {}).items())
        lines.append(f"- stage {stage.get('name')}: {trained}")
        lora = _mapping(stage.get("lora"))
        details = {
            "steps": stage.get("steps"),
            "epochs": stage.get("epochs"),
            "samples per step": stage.get("samples_per_step"),
            "LoRA rank": lora.get("rank"),
            "LoRA alpha": lora.get("alpha"),
        }
        if named := [f"{name} {value}" for name, value in details.items() if value is not None]:
            lines.append(f"  - {', '.join(named)}")
    model = _mapping(recipe.get("model"))
    keys = ("projector", "feature_layer", "image_mode", "template")
    lines += [f"- {key}: {model[key]}" for key in keys if model.get(key) is not None]
    return [*lines, ""]


def scores(run: Path) -> list[str]:
    """Return the table of a run's evaluations, with intervals and the blind conditions."""
    rows = []
    for path in sorted((run / "evals").glob("*.json")):
        result = _mapping(read_json_if_there(path))
        metrics = result.get("metrics")
        if isinstance(metrics, dict):
            named = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            intervals = _mapping(result.get("intervals"))
            by_condition = [_accuracy(intervals.get(name)) for name in ("with_image", "without_image", "wrong_image")]
            majority = result.get("majority")
            most = f"{100 * majority:.1f} %" if isinstance(majority, float | int) else ""
            rows.append(f"| {path.stem} | {named} | {' | '.join(by_condition)} | {most} | {result.get('count', '')} |")
    if not rows:
        return []
    return ["## Scores", "", *TABLE, *rows, "", "Intervals are bootstrapped over images (95 %).", ""]


def _accuracy(estimate: object) -> str:
    """Format an estimate with its interval, in per cent."""
    if not isinstance(estimate, dict):
        return "not asked"
    value = f"{100 * estimate['value']:.1f} %"
    if estimate.get("has_interval", True):
        return f"{value} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"
    return f"{value} (too few images for an interval)"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
