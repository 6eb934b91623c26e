"""A frozen tower's features, kept between epochs, stages and runs: the tower runs once for each picture.

planned stage + tower -> Features (a picture's tiles in place of its pixels, mapped from disk) · None: pixels as ever
Kept under what decides them: the tower's weights and settings, the picture rules, the precision, the libraries and our
own code make the folder, a picture's bytes its place in a shard; shards are filled in the order in which the plan first
reads the pictures. A picture file that is as old and as large as when it was hashed is not read again for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistune.data import ShouldStop, never_stop
from vistune.data.stages import PlannedStage
from vistune.errors import DataError, RecipeError, Stopped
from vistune.files import own_code, replacing, user_cache, write_atomic, write_json
from vistune.model import VisionLanguageModel
from vistune.planner.precision import uses_bf16
from vistune.processor import load_tiles
from vistune.processor.images import read_image
from vistune.progress import OnMessage, Progress, no_progress
from vistune.recipe import Stage
from vistune.training.distributed.parallel import World
from vistune.types import ImageRef, Spec

SHARD_BYTES = 256 * 2**20
AT_ONCE = {"cpu": 4, "cuda": 64}  # tiles in the tower; always as many, so that a tile's features never depend on others
READINGS = 2  # of each picture, on average, from which on `auto` keeps features
MOST_OF_THE_DISK = 0.5  # of what is free, that `auto` takes
UNUSED = 30 * 86400  # seconds after which features that no run has opened go, when others are to be kept
CODE = ("processor/images.py", "processor/tiles.py", "model/vision.py")  # of ours, that makes features of a picture
SEEN = "digests"  # {path: [bytes, time of change in ns, SHA-256]}, beside the shards


@dataclass(frozen=True, slots=True)
class Price:
    """What keeping a stage's features takes."""

    images: int
    readings: int  # of pictures, in the whole stage
    size: int  # bytes, of what is not there yet

    def __str__(self) -> str:
        size = f"{self.size / 1e9:.2f} GB" if self.size >= 1e9 else f"{self.size / 1e6:.2f} MB"
        return f"{self.images:,} pictures read {self.readings:,} times: {size}"


class Features:
    """Reads a picture's features where a loader wants its tiles: (tiles, tokens, width), in the precision kept.

    Raises DataError for a picture that was not there when the stage began, or is another one now.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.folder = folder
        self.shape = shape  # tokens, width of a tile
        self.dtype = dtype
        self.shards: dict[str, Tensor] = {}
        self.places: dict[str, tuple[str, int, int]] = {}  # picture's hash: shard, first tile, tiles
        self.digests: dict[Path, str] = {}
        self.seen: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError):
            self.seen = json.loads((folder / SEEN).read_text(encoding="utf-8"))

    def look(self) -> None:
        """Learn of every shard that is whole on disk."""
        for listed in sorted(self.folder.glob("*.json")):
            if listed.stem not in self.shards and (data := listed.with_suffix(".bin")).is_file():
                places = json.loads(listed.read_text(encoding="utf-8"))
                tiles = sum(count for _, count in places.values())
                if data.stat().st_size != tiles * self.tile_bytes:
                    continue
                size = tiles * self.shape[0] * self.shape[1]
                mapped = torch.from_file(str(data), shared=False, size=size, dtype=self.dtype)
                self.shards[listed.stem] = mapped.view(tiles, *self.shape)
                self.places |= {digest: (listed.stem, first, count) for digest, (first, count) in places.items()}

    @property
    def tile_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def has_seen(self, path: Path) -> bool:
        """Whether the file is as it was when it was hashed, so that `digest` need not read it."""
        known = self.seen.get(str(path.absolute()))
        if known is None or known[:2] != self._state(path):
            return False
        self.digests[path] = known[2]
        return True

    def digest(self, path: Path) -> str:
        """A hash of the picture's bytes, found once."""
        if path not in self.digests and not self.has_seen(path):
            found = hashlib.sha256(read_image(path)).hexdigest()
            self.seen[str(path.absolute())] = [*self._state(path), found]
            self.digests[path] = found
        return self.digests[path]

    @staticmethod
    def _state(path: Path) -> list[int]:
        try:
            found = path.stat()
        except OSError:  # reading it says why
            return [-1, -1]
        return [found.st_size, found.st_mtime_ns]

    def note_seen(self) -> None:
        """Keep the hashes that were found: best effort, they can be found again."""
        with suppress(OSError):
            write_atomic(self.folder / SEEN, json.dumps(self.seen))

    def __call__(self, image: ImageRef, spec: Spec) -> Tensor:
        digest = self.digests.get(Path(str(image.source)))
        if digest is None or digest not in self.places:
            raise DataError(f"{image.source}: its features are not kept", "start anew: the data changed meanwhile")
        shard, first, count = self.places[digest]
        return self.shards[shard][first : first + count]

    def keep(self, digests: Sequence[str], tiles: Sequence[Tensor]) -> None:
        """A shard of several pictures' features, whole on disk or not there."""
        name = hashlib.sha256(" ".join(digests).encode()).hexdigest()[:24]
        places, first = {}, 0
        with replacing(self.folder / f"{name}.bin") as file:
            for digest, features in zip(digests, tiles, strict=True):
                file.write(features.contiguous().view(torch.uint8).numpy().tobytes())
                places[digest] = (first, len(features))
                first += len(features)
        write_json(self.folder / f"{name}.json", places)


def refuse_features(stage: Stage) -> None:
    """Raise RecipeError if a stage caches features but trains the tower that computes them."""
    if stage.cache_features == "on" and "vision" in stage.learn:
        raise RecipeError(f"stage {stage.name}: cache_features: on, but its tower learns", "leave one of them out")


def features_of(
    planned: PlannedStage,
    model: VisionLanguageModel,
    world: World,
    *,
    on_message: OnMessage,
    progress: Progress,
    stopping: ShouldStop = never_stop,
) -> Features | None:
    """The stage's pictures as features, computed where they are not kept yet; None where pixels are read as ever.

    Each process of `world` computes its part; all decide together, though their disks may differ. Raises RecipeError
    where they are asked for and cannot be, Stopped where the run is asked to stop meanwhile: what is kept stays.
    """
    wanted, stage = planned.stage.cache_features, planned.stage
    if wanted == "off" or "vision" in stage.learn or planned.stream is not None:
        refuse_features(stage)
        return None
    places = np.fromiter(chain.from_iterable(chain.from_iterable(planned.plan.steps)), np.int64)
    readings, images = planned.samples.images_of(places)
    if not images or (wanted == "auto" and readings < READINGS * len(images)):
        return None
    paths = list(dict.fromkeys(Path(str(folders.find(name, "", "").source)) for folders, name in images))
    spec, bf16 = planned.processor.spec, uses_bf16(stage.precision, world.device)
    made = _opened(model, spec, bf16)
    room = shutil.disk_usage(_there(made.folder)).free
    fewest = len(paths) - len(made.places)  # that are missing, before all their bytes are hashed
    if wanted == "auto" and world.any(fewest * _most_tiles(spec) * made.tile_bytes > room * MOST_OF_THE_DISK):
        if world.is_first:
            on_message(
                f"stage {stage.name}: features of {len(paths):,} pictures are not kept, {room / 1e9:.2f} GB are free"
            )
        return None
    missing = _missing(made, paths, progress, stopping)
    # Nobody keeps anything before all have seen what is missing: each takes its part of the same list.
    _refuse_to_go_on(stage, world, stopping)
    price = Price(len(paths), readings, len(missing) * _most_tiles(spec) * made.tile_bytes)
    if world.any(price.size > room * (MOST_OF_THE_DISK if wanted == "auto" else 1)):
        words = f"stage {stage.name}: features are not kept: {price}, {room / 1e9:.2f} GB are free in {made.folder}"
        if wanted == "on":
            raise RecipeError(words, "set VISTUNE_CACHE to a folder with more room, or cache_features: off")
        if world.is_first:
            on_message(words)
        return None
    if world.is_first:
        _sweep(made.folder, on_message)
        made.note_seen()
    if missing and world.is_first:
        on_message(f"stage {stage.name} keeps the tower's features: {price} in {made.folder}")
    _fill(made, missing[world.rank :: world.size], model, spec, bf16, progress, stopping)
    _refuse_to_go_on(stage, world, stopping)  # and until all have kept theirs
    made.look()
    # What another machine has kept is not on this one's disk.
    _fill(
        made, [path for path in missing if made.digest(path) not in made.places], model, spec, bf16, progress, stopping
    )
    _refuse_to_go_on(stage, world, stopping)
    made.look()
    return made


def _missing(made: Features, paths: Sequence[Path], progress: Progress, stopping: ShouldStop) -> list[Path]:
    """A file of each picture whose features are not kept, by its bytes; not all of them where a stop is asked for."""
    unread = [path for path in paths if not made.has_seen(path)]
    with progress("read pictures", len(unread)) if unread else no_progress("", 0) as advance:
        for path in unread:
            if stopping():
                return []
            made.digest(path)
            advance(1)
    found = {made.digest(path): path for path in paths}
    return [path for digest, path in found.items() if digest not in made.places]


def _refuse_to_go_on(stage: Stage, world: World, stopping: ShouldStop) -> None:
    """Raise Stopped in all processes where one is asked to stop; they meet here."""
    if world.any(stopping()):
        raise Stopped(f"stage {stage.name}: stopped before its first step", "go on with --resume")


def _sweep(folder: Path, on_message: OnMessage) -> None:
    """Mark the features as used now, and remove those of other towers that no run has opened for long."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in folder.parent.iterdir():
        with suppress(OSError):  # another run may be as far
            if other.is_dir() and time.time() - other.stat().st_mtime > UNUSED:
                shutil.rmtree(other)
                on_message(f"features that no run has used for {UNUSED // 86400} days are removed: {other}")


def _most_tiles(spec: Spec) -> int:
    """Of one picture: with anyres an overview and the largest canvas."""
    return 1 + max((width * height // spec.image_side**2 for width, height in spec.canvases), default=0)


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def _opened(model: VisionLanguageModel, spec: Spec, bf16: bool) -> Features:
    """What is kept for this tower, these picture rules and this precision."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.vision.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    rules = {key: value for key, value in asdict(spec).items() if key.startswith(("image_", "feature_"))}
    versions = [version(name) for name in ("torch", "transformers", "pillow")]
    decides = (rules, spec.canvases, spec.space, _settings(model), bf16, versions, own_code(*CODE))
    found.update(repr(decides).encode())
    side = spec.image_side
    probe = _run(model, torch.zeros((1, 3, side, side), dtype=torch.uint8), bf16)
    made = Features(user_cache() / "features" / found.hexdigest()[:32], (probe.shape[1], probe.shape[2]), probe.dtype)
    made.look()
    return made


def _settings(model: VisionLanguageModel) -> list[tuple[str, Any]]:
    """Of the tower's config, what its weights do not show: the activation, heads, the norms' epsilon."""
    told = model.vision.tower.config.to_dict().items()
    about = ("architectures", "dtype", "transformers_version")  # the file, not the tower
    return sorted((key, value) for key, value in told if not key.startswith("_") and key not in about)


def _fill(
    made: Features,
    paths: Sequence[Path],
    model: VisionLanguageModel,
    spec: Spec,
    bf16: bool,
    progress: Progress,
    stopping: ShouldStop,
) -> None:
    """Compute and keep the features of these pictures, a shard at a time, as far as no stop is asked for."""
    held: list[tuple[str, Tensor]] = []
    size = 0
    with progress("keep features", len(paths)) if paths else no_progress("", 0) as advance:
        for path, features in _computed(made, paths, model, spec, bf16):
            held.append((made.digest(path), features))
            size += features.nbytes
            if size >= SHARD_BYTES:
                made.keep(*zip(*held, strict=True))
                held, size = [], 0
            advance(1)
            if stopping():
                break
    if held:
        made.keep(*zip(*held, strict=True))


def _computed(
    made: Features, paths: Sequence[Path], model: VisionLanguageModel, spec: Spec, bf16: bool
) -> Iterator[tuple[Path, Tensor]]:
    """Each picture with its features on the CPU."""
    count = AT_ONCE[model.vision.mean.device.type]
    waiting: list[tuple[Path, Tensor]] = []
    for number, path in enumerate(paths, start=1):
        waiting.append((path, load_tiles(ImageRef(path), spec)))
        if sum(len(tiles) for _, tiles in waiting) < count and number < len(paths):
            continue
        parts = []
        for part in torch.cat([tiles for _, tiles in waiting]).split(count):
            full = torch.cat([part, part.new_zeros((count - len(part), *part.shape[1:]))])
            parts.append(_run(model, full, bf16)[: len(part)])
        found = torch.cat(parts).split([len(tiles) for _, tiles in waiting])
        yield from ((known, features) for (known, _), features in zip(waiting, found, strict=True))
        waiting.clear()


def _run(model: VisionLanguageModel, tiles: Tensor, bf16: bool) -> Tensor:
    """The tower's features (tiles, tokens, width), in bf16 where the stage multiplies in it."""
    device = model.vision.mean.device
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        found: Tensor = model.vision(tiles.to(device))
    return found.to("cpu", torch.bfloat16 if bf16 else found.dtype).contiguous()
