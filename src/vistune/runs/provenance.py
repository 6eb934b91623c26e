"""Provenance of a model: its recipe, data and their teacher, package versions, and the models before it.

`provenance_record` creates the record that is stored in every checkpoint. `why` reads the chain back from the folders,
without weights.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from vistune.errors import CheckpointError
from vistune.files import read_json_if_there, sha256_of
from vistune.recipe import Recipe, load_recipe
from vistune.recipe.schema import Part
from vistune.runs.checkpoint import BACKBONES, read_parts
from vistune.runs.folder import find_model, fingerprint, is_vistune_folder

STATE = {True: "(as it was)", False: "(CHANGED SINCE)", None: "(no longer there)"}


@dataclass(frozen=True, slots=True)
class StageProvenance:
    """A stage of the model's recipe: trained parts with their learning rates, and whether it is finished."""

    name: str
    learn: Mapping[Part, float]
    finished: bool


@dataclass(frozen=True, slots=True)
class DataProvenance:
    """A data file of the run.

    Attributes:
        file: Its path, or `shards of STAGE`.
        sha256: Its checksum when the run started; of shards, the checksum of their names.
        written: The record that `vistune generate` wrote about it, or None.
        unchanged: Whether it is still the same; None if it is gone.
        shards: The shards of a stage, whose contents are not compared; None for a file.
    """

    file: str
    sha256: str
    written: Mapping[str, Any] | None
    unchanged: bool | None = None
    shards: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        state = {"unchanged": self.unchanged} if self.shards is None else {"shards": list(self.shards)}
        return {"file": self.file, "sha256": self.sha256, "written": self.written, **state}


@dataclass(frozen=True, slots=True)
class ParentProvenance:
    """The model that a run continued from, its checksum then, and whether it is still the same (None: gone)."""

    model: str
    sha256: str | None
    unchanged: bool | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """The provenance of one model. Fields after `origin` are only set for a model that vistune trained.

    Attributes:
        made: `trained`, `imported` or `elsewhere` (not by vistune).
        origin: The layout and folder that an imported model came from.
        recipe: Name of the recipe.
        seed: Random seed of the recipe.
        stages: Stages of the recipe up to the checkpoint's.
        backbones: Sources of vision tower and language model.
        versions: Versions of Python and packages.
        parent: The model that the run continued from.
    """

    model: str
    made: Literal["trained", "imported", "elsewhere"]
    origin: Mapping[str, Any] | None = None
    recipe: str | None = None
    seed: int | None = None
    stages: tuple[StageProvenance, ...] = ()
    steps_of_last_stage: int | None = None
    backbones: Mapping[str, str] = field(default_factory=dict)
    data: tuple[DataProvenance, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    parent: ParentProvenance | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as `vistune why --json` prints it."""
        entry: dict[str, Any] = {"model": self.model, "made": self.made}
        if self.origin is not None:
            entry["origin"] = dict(self.origin)
        if self.made == "trained":
            entry |= {
                "recipe": self.recipe,
                "seed": self.seed,
                "stages": [asdict(stage) for stage in self.stages],
                "steps_of_last_stage": self.steps_of_last_stage,
                "backbones": dict(self.backbones),
                "data": [source.to_dict() for source in self.data],
                "versions": dict(self.versions),
            }
        if self.parent is not None:
            entry["from"] = asdict(self.parent)
        return entry


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
    """Return the name that a provenance record gives a stage's shards; only their names are hashed."""
    return f"shards of {stage}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a run's results."""
    names = ("vistune", "torch", "transformers", "peft", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def why(model: Path) -> list[Provenance]:
    """Return the provenance of a model and of its parents, the newest first, as far as their folders exist.

    Raises CheckpointError if the folder is not a model.
    """
    other_layout = ("config.json", "adapter_config.json")
    if not is_vistune_folder(model) and not any((model / name).is_file() for name in other_layout):
        raise CheckpointError(f"{model}: neither a model folder nor a run with checkpoints", "check the path")
    entries = [_provenance_of(model)]
    while (parent := entries[-1].parent) is not None and parent.unchanged is not None:
        entries.append(_provenance_of(Path(parent.model)))
    return entries


def _provenance_of(model: Path) -> Provenance:
    if not is_vistune_folder(model):
        return Provenance(str(model), "elsewhere")
    folder = find_model(model)
    parts = read_parts(folder)
    extra = parts["extra"]
    if "origin" in extra:
        return Provenance(str(folder), "imported", origin=extra["origin"])
    recipe = load_recipe(str(folder / "recipe.yaml"))
    record = extra.get("history", {})
    return Provenance(
        model=str(folder),
        made="trained",
        recipe=recipe.name,
        seed=recipe.seed,
        stages=tuple(
            StageProvenance(stage.name, dict(stage.learn), number < extra["stage"] or extra["finished"])
            for number, stage in enumerate(recipe.stages[: extra["stage"] + 1])
        ),
        steps_of_last_stage=extra["step"],
        backbones={part: parts[part]["source"] for part in BACKBONES if part in parts},
        data=tuple(_data_provenance(source, recipe) for source in record.get("data", [])),
        versions=record.get("versions", {}),
        parent=_parent_provenance(record.get("from")),
    )


def _parent_provenance(recorded: Mapping[str, Any] | None) -> ParentProvenance | None:
    if recorded is None:
        return None
    folder = Path(recorded["model"])
    unchanged = fingerprint(folder)["sha256"] == recorded["sha256"] if folder.is_dir() else None
    return ParentProvenance(recorded["model"], recorded["sha256"], unchanged)


def _data_provenance(source: Mapping[str, Any], recipe: Recipe) -> DataProvenance:
    file, sha256, written = source["file"], source["sha256"], source["written"]
    for stage in recipe.stages:
        if stage.shards is not None and file == shards_of(stage.name):
            return DataProvenance(file, sha256, written, shards=tuple(stage.shards.files))
    path = Path(file)
    return DataProvenance(file, sha256, written, sha256_of(path) == sha256 if path.is_file() else None)


def describe_provenance(entries: Sequence[Provenance]) -> list[str]:
    """Format provenance as lines of text."""
    lines = []
    for entry in entries:
        lines.append(f"{entry.model}: {entry.made}")
        lines += [f"  {key}: {value}" for key, value in (entry.origin or {}).items()]
        if entry.made != "trained":
            continue
        lines.append(f"  recipe {entry.recipe}, seed {entry.seed}")
        for stage in entry.stages:
            learn = ", ".join(f"{part} {rate:g}" for part, rate in stage.learn.items())
            lines.append(f"  stage {stage.name}: {learn}{'' if stage.finished else ' (not finished)'}")
        lines += [f"  {part}: {source}" for part, source in entry.backbones.items()]
        for data in entry.data:
            state = STATE[data.unchanged] if data.shards is None else "(checksum of their names)"
            location = data.file if data.shards is None else f"{data.file}: {', '.join(data.shards)}"
            lines.append(f"  data {location} {data.sha256[:12]} {state}")
            if written := data.written:
                lines.append(f"    written by {_teacher(written['teacher'])} from {written['source']}")
        lines.append("  " + ", ".join(f"{name} {number}" for name, number in entry.versions.items()))
        if entry.parent is not None:
            lines.append(f"  continued from {entry.parent.model} {STATE[entry.parent.unchanged]}")
    return lines


def _teacher(teacher: Mapping[str, Any]) -> str:
    if teacher["name"] == "rule":
        return "the rule teacher"
    return f"{teacher['model']} at {teacher['base_url']}, prompts {teacher['prompts_sha256'][:12]}"
