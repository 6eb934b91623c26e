"""The run folder: its checkpoints, which of them to load or to resume from, its run.json and its metrics.jsonl.

OUT/{recipe.yaml, run.json, metrics.jsonl, rejects.jsonl, checkpoints/STAGE-NUMBER-NAME-STEP/}
A checkpoint folder whose name begins with a dot is a draft or a discarded one. A kill may leave it; the next start
removes it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vistune.errors import CheckpointError, DiskError
from vistune.files import read_json, sha256_of, write_atomic, write_json
from vistune.recipe import Recipe, load_recipe
from vistune.runs import checkpoint

log = logging.getLogger("vistune.training")

_NAME = re.compile(r"(\d+)-(.+)-(\d+)")
# Keys that may change when a run is resumed, because they do not change the result. Data and kinds are compared by
# their contents, in the stage's plan.
_FREE = ("save_every", "data", "kinds", "compile", "cache_features")


def is_vistune_folder(path: Path) -> bool:
    """Return whether a folder is a run or model folder of vistune; other layouts are recognised by their files."""
    return any((path / name).exists() for name in ("parts.json", "run.json", "checkpoints")) or not path.is_dir()


def find_model(path: Path) -> Path:
    """Return a model folder itself, or the checkpoint that commands use if a run folder is named.

    This is the checkpoint of the last finished stage with the best validation loss, or that stage's last checkpoint if
    no loss was measured. If no stage is finished, it is the newest checkpoint.
    """
    if (path / "parts.json").is_file():
        return path
    saved = checkpoints_of(path)
    if not saved:
        raise CheckpointError(f"{path}: neither a model folder nor a run with checkpoints", "check the path")
    extras = {folder: checkpoint.read_parts(folder)["extra"] for folder in saved}
    finished = [folder for folder, extra in extras.items() if extra.get("finished")]
    if not finished:
        return saved[-1]
    return best_of(extras, extras[finished[-1]]["stage"]) or finished[-1]


def fingerprint(folder: Path) -> dict[str, Any]:
    """Return a model folder's path and the checksum of its manifest or config, which changes with the model."""
    known = next((folder / name for name in ("manifest.json", "config.json") if (folder / name).is_file()), None)
    return {"model": str(folder.absolute()), "sha256": None if known is None else sha256_of(known)}


def checkpoint_name(number: int, stage: str, step: int) -> str:
    """Return the name of a checkpoint folder."""
    return f"{number + 1}-{stage}-{step:06d}"


def checkpoints_of(out: Path) -> list[Path]:
    """Return the complete checkpoints in the order of the run, the newest last."""
    folder = out / "checkpoints"
    numbered = []
    for path in folder.iterdir() if folder.is_dir() else ():
        name = _NAME.fullmatch(path.name)
        if name and not path.is_symlink() and (path / "manifest.json").is_file():  # a link may point outside the run
            numbered.append((int(name[1]), int(name[3]), path))
    return [path for _, _, path in sorted(numbered)]


def mark_finished(out: Path, stage: str, step: int) -> None:
    """Set the status in run.json to finished, after a kill between the last checkpoint and this entry."""
    path = out / "run.json"
    write_json(path, read_json(path) | {"status": "finished", "stage": stage, "step": step})


def newest_whole(out: Path, *, warn: bool = True) -> Path | None:
    """Return the newest undamaged checkpoint, or None if there is no checkpoint.

    `warn`: log the skipped checkpoints with the reasons, also in skipped_checkpoint.json. Raises CheckpointError if all
    checkpoints are damaged.
    """
    saved = checkpoints_of(out)
    for path in reversed(saved):
        try:
            checkpoint.verify(path)
            checkpoint.read_parts(path)
            return path
        except CheckpointError as error:
            if warn:
                log.warning("%s is skipped: %s", path.name, error.message)
                write_json(out / "skipped_checkpoint.json", {"path": path.name, "reason": str(error)})
    if saved:
        raise CheckpointError(
            f"{out}: all checkpoints are damaged; skipped_checkpoint.json says what is wrong with the oldest",
            "start a new run",
        )
    return None


def prune(out: Path, keep: int) -> None:
    """Remove checkpoints except each stage's last one, each stage's best one, and the newest `keep` of the others."""
    extras = {path: _extra(path) for path in checkpoints_of(out)}
    best = {best_of(extras, stage) for stage in {extra.get("stage") for extra in extras.values()}}
    between = [path for path, extra in extras.items() if not extra.get("finished")]
    for path in between[:-keep]:
        if path in best:
            continue
        discarded = path.with_name(f".{path.name}.discarded")  # renamed first, so that none is seen half removed
        path.rename(discarded)
        shutil.rmtree(discarded)


def sweep(out: Path, latest: Path | None) -> None:
    """Remove what a killed run left incomplete.

    Checkpoints newer than `latest`, from which the run resumes, are damaged. They are renamed to NAME.damaged, because
    `prune` would otherwise keep them instead of complete ones.
    """
    for path in (out / "checkpoints").glob(".*"):
        shutil.rmtree(path)
    saved = checkpoints_of(out)
    for path in saved[saved.index(latest) + 1 :] if latest is not None else ():
        damaged = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        path.rename(damaged)


def _extra(path: Path) -> Mapping[str, Any]:
    try:
        extra: Mapping[str, Any] = checkpoint.read_parts(path)["extra"]
        return extra
    except CheckpointError:
        return {}


def best_of(extras: Mapping[Path, Mapping[str, Any]], stage: object) -> Path | None:
    """Return a stage's checkpoint with the lowest validation loss, the later of equals; None if none was measured."""
    losses = [
        (extra["measured"]["validation_loss"], -extra["step"], path)
        for path, extra in extras.items()
        if extra.get("stage") == stage and "validation_loss" in extra.get("measured", {})
    ]
    return min(losses)[2] if losses else None


def refuse_another_recipe(saved: Path, recipe: Recipe, stages: int) -> None:
    """Raise CheckpointError naming each key of the first `stages` stages that changed since the checkpoint."""
    before = dict(_flat(load_recipe(str(saved / "recipe.yaml")), stages))
    now = dict(_flat(recipe, stages))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if keys:
        listed = "; ".join(f"{key} was {before.get(key)}, is now {now.get(key)}" for key in keys)
        raise CheckpointError(
            f"{saved}: the recipe has changed since: {listed}", "resume with the run's own recipe, or start a new run"
        )


def _flat(recipe: Recipe, stages: int) -> Iterator[tuple[str, Any]]:
    yield "seed", recipe.seed
    if recipe.origin is not None:
        yield from ((f"from.{key}", value) for key, value in recipe.origin.model_dump().items())
    else:
        yield from ((f"model.{key}", value) for key, value in recipe.model.model_dump().items())
    yield "stages", ", ".join(stage.name for stage in recipe.stages[:stages])
    for stage in recipe.stages[:stages]:
        yield from ((f"stages.{stage.name}.{key}", v) for key, v in stage.model_dump().items() if key not in _FREE)


class MetricsLog:
    """Append lines to metrics.jsonl; `cut` removes lines that a resumed run will write again.

    If the disk is full, lines wait in memory: the run continues, and they are written when there is room.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""

    def cut(self, keep: int) -> None:
        """Keep the first `keep` complete lines, and drop an incomplete last line of a killed run."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_atomic(self.path, "".join(line for line in lines[:keep] if line.endswith("\n")))

    def log(self, **values: object) -> None:
        """Append a line; if it cannot be written, keep it in memory and warn once."""
        first = not self.waiting
        self.waiting += (json.dumps(values) + "\n").encode()
        try:
            self.settle()
        except DiskError as error:
            if first:
                log.warning("%s; its lines wait in memory", error.message)

    def settle(self) -> None:
        """Write the waiting lines. Raises DiskError; no part of a line is then left in the file."""
        if not self.waiting:
            return
        try:
            with open(self.path, "ab", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    if file.write(self.waiting) != len(self.waiting):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    if os.fstat(file.fileno()).st_size > size:
                        file.truncate(size)
                    raise
        except OSError as error:
            raise DiskError(
                f"{self.path}: cannot be written: {error.strerror}", "make room, then resume with --resume"
            ) from error
        self.waiting = b""

    def skipped_steps(self, stage: str) -> int:
        """Count the steps of a stage that were skipped so far."""
        return sum(line["stage"] == stage and bool(line.get("left_out")) for line in self.read())

    def read(self) -> list[dict[str, Any]]:
        """Return all lines in the file."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()]
