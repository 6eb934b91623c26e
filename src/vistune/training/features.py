"""Cache the features of a frozen vision tower, so that the tower runs once per image over epochs, stages and runs.

planned stage + tower -> Features: the features of an image's tiles, mapped from disk; None if the loader reads pixels

The cache folder is named by everything that decides the features: the tower's weights and config, the image rules, the
precision, the libraries and our own code. An image is found by the hash of its bytes. An image file is not read again
if its size and time are still those at which it was hashed. The features are stored in several files (shards), in the
order in which the plan first reads the images.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vistune.data import ShouldStop
from vistune.data.stages import PlannedStage
from vistune.errors import DataError, RecipeError
from vistune.files import own_code, replacing, user_cache, write_atomic, write_json
from vistune.model import VisionLanguageModel
from vistune.model.precision import uses_bf16
from vistune.planner.sizes import samples_in_order
from vistune.processor import blank_batch, load_tiles
from vistune.processor.images import image_size, read_image
from vistune.processor.tiles import grids_of_sizes
from vistune.progress import OnMessage, Progress, no_progress
from vistune.recipe import Stage
from vistune.training.distributed.world import World
from vistune.types import ImageRef, Spec

SHARD_BYTES = 256 * 2**20
TILES_AT_ONCE = {"cpu": 4, "cuda": 64}  # in the tower; always as many, so that a tile's features never depend on others
READS_PER_IMAGE = 2  # on average, from which on `auto` caches features
MOST_OF_THE_DISK = 0.5  # of its free space, that `auto` takes
UNUSED = 30 * 86400  # seconds after which features that no run has opened are removed
CODE = (
    "processor/images.py",
    "processor/patch_grids.py",
    "processor/tiles.py",
    "model/tower_inputs.py",
    "model/tower_shape.py",
    "model/vision.py",
)  # our code that computes features
DIGESTS = "digests"  # file of {path: [bytes, time of change in ns, SHA-256]}, next to the shards


class Features:
    """Cached features of images: a loader calls it for an image's tiles, (tiles, tokens, width).

    Raises DataError for an image that was not there when the stage began.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.folder = folder
        self.shape = shape  # tokens, width of a tile
        self.dtype = dtype
        self.shards: dict[str, Tensor] = {}
        self.slots: dict[str, tuple[str, int, int]] = {}  # an image's hash: its shard, its first tile, its tiles
        self.digests: dict[Path, str] = {}
        self.known_files: dict[str, list[int | str]] = {}
        with suppress(OSError, ValueError):
            self.known_files = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))

    def refresh(self) -> None:
        """Map every shard that is complete on disk."""
        for index in sorted(self.folder.glob("*.json")):
            if index.stem not in self.shards and (data := index.with_suffix(".bin")).is_file():
                slots = json.loads(index.read_text(encoding="utf-8"))
                tiles = sum(count for _, count in slots.values())
                if data.stat().st_size != tiles * self.tile_bytes:
                    continue
                size = tiles * self.shape[0] * self.shape[1]
                mapped = torch.from_file(str(data), shared=False, size=size, dtype=self.dtype)
                self.shards[index.stem] = mapped.view(tiles, *self.shape)
                self.slots |= {digest: (index.stem, first, count) for digest, (first, count) in slots.items()}

    @property
    def tile_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def is_unchanged(self, path: Path) -> bool:
        """Return whether the file has the size and time of its last hash, so that `digest` need not read it."""
        known = self.known_files.get(str(path.absolute()))
        if known is None or known[:2] != self._size_and_time(path):
            return False
        self.digests[path] = str(known[2])
        return True

    def digest(self, path: Path) -> str:
        """Return the hash of an image file's bytes."""
        if path not in self.digests and not self.is_unchanged(path):
            digest = hashlib.sha256(read_image(path)).hexdigest()
            self.known_files[str(path.absolute())] = [*self._size_and_time(path), digest]
            self.digests[path] = digest
        return self.digests[path]

    @staticmethod
    def _size_and_time(path: Path) -> list[int]:
        try:
            stat = path.stat()
        except OSError:  # reading the file raises an error that says why
            return [-1, -1]
        return [stat.st_size, stat.st_mtime_ns]

    def save_digests(self) -> None:
        """Save the hashes of files if the disk lets us: they can be computed again."""
        with suppress(OSError):
            write_atomic(self.folder / DIGESTS, json.dumps(self.known_files))

    def __call__(self, image: ImageRef, spec: Spec) -> Tensor:
        digest = self.digests.get(Path(str(image.source)))
        if digest is None or digest not in self.slots:
            raise DataError(
                f"{image.source}: its features are not in the cache", "start again: the data changed after the start"
            )
        shard, first, count = self.slots[digest]
        return self.shards[shard][first : first + count]

    def add(self, digests: Sequence[str], tiles: Sequence[Tensor]) -> None:
        """Write a shard with the features of several images, complete or not at all."""
        name = hashlib.sha256(" ".join(digests).encode()).hexdigest()[:24]
        slots, first = {}, 0
        with replacing(self.folder / f"{name}.bin") as file:
            for digest, features in zip(digests, tiles, strict=True):
                file.write(features.contiguous().view(torch.uint8).numpy().tobytes())
                slots[digest] = (first, len(features))
                first += len(features)
        write_json(self.folder / f"{name}.json", slots)


def refuse_features(stage: Stage) -> None:
    """Raise RecipeError if a stage caches features but trains the tower that computes them."""
    if stage.cache_features == "on" and stage.reaches("vision"):
        raise RecipeError(
            f"stage {stage.name}: cache_features is on, but the stage trains the vision tower",
            "set cache_features: off, or remove vision from learn and from lora.parts",
        )


def features_of(
    planned: PlannedStage,
    model: VisionLanguageModel,
    world: World,
    *,
    on_message: OnMessage,
    progress: Progress,
    stopping: ShouldStop,
) -> Features | None:
    """Return a stage's images as features, computed if they are not cached; None if the stage reads pixels.

    Each process computes a part of the missing features. All processes make the same decision, although their disks may
    differ.

    Raises:
        RecipeError: The recipe asks for cached features, but the disk has no room.
        Stopped: The run is asked to stop meanwhile; features that are cached stay in the cache.
    """
    stage, setting = planned.stage, planned.stage.cache_features
    if setting == "off" or stage.reaches("vision") or planned.stream is not None:
        refuse_features(stage)
        return None
    reads, images = planned.samples.images_of(samples_in_order(planned))
    if not images or (setting == "auto" and reads < READS_PER_IMAGE * len(images)):
        return None
    held_out = planned.held_out.samples
    images += held_out.images_of(np.arange(len(held_out)))[1]
    paths = list(dict.fromkeys(Path(str(folders.find(name, "", "").source)) for folders, name in images))
    tower = _FrozenTower(model, planned.processor.spec, uses_bf16(stage.precision, world.device))
    cache = tower.open_cache()
    nearest = next(path for path in (cache.folder, *cache.folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(nearest).free
    least = (len(paths) - len(cache.slots)) * tower.most_tiles * cache.tile_bytes  # before all files are hashed
    if setting == "auto" and world.any(least > free * MOST_OF_THE_DISK):
        if world.is_first:
            on_message(
                f"stage {stage.name}: features of {len(paths):,} images are not cached, because they would take more "
                f"than half of the free disk space ({free / 1e9:.2f} GB)"
            )
        return None
    missing = _missing(cache, paths, progress, stopping)
    # No process adds features before all know what is missing: each takes its part of the same list.
    world.meet_before_first_step(stage.name, stopping)
    size = len(missing) * tower.most_tiles * cache.tile_bytes
    shown = f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
    cost = f"{len(paths):,} images read {reads:,} times: {shown}"
    if world.any(size > free * (MOST_OF_THE_DISK if setting == "auto" else 1)):
        message = f"stage {stage.name}: features are not cached: {cost}, {free / 1e9:.2f} GB are free in {cache.folder}"
        if setting == "on":
            raise RecipeError(message, "set VISTUNE_CACHE to a folder with more room, or cache_features: off")
        if world.is_first:
            on_message(message)
        return None
    if world.is_first:
        _remove_unused(cache.folder, on_message)
        cache.save_digests()
    if missing and world.is_first:
        on_message(f"stage {stage.name} caches the tower's features: {cost} in {cache.folder}")
    for share in (missing[world.rank :: world.size], missing):  # again: another machine's disk may lack what it added
        uncached = [path for path in share if cache.digest(path) not in cache.slots]
        tower.fill(cache, uncached, progress, stopping)
        world.meet_before_first_step(stage.name, stopping)
        cache.refresh()
    return cache


def _missing(cache: Features, paths: Sequence[Path], progress: Progress, stopping: ShouldStop) -> list[Path]:
    """Return a file for each image whose features are not cached. If a stop is requested, some may be missing."""
    unread = [path for path in paths if not cache.is_unchanged(path)]
    with progress("read images", len(unread)) if unread else no_progress("", 0) as advance:
        for path in unread:
            if stopping():
                return []
            cache.digest(path)
            advance(1)
    by_digest = {cache.digest(path): path for path in paths}
    return [path for digest, path in by_digest.items() if digest not in cache.slots]


def _remove_unused(folder: Path, on_message: OnMessage) -> None:
    """Mark the cache as used now, and remove caches of other towers that no run has opened for long."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in folder.parent.iterdir():
        with suppress(OSError):  # another run may be removing it too
            if other.is_dir() and time.time() - other.stat().st_mtime > UNUSED:
                shutil.rmtree(other)
                on_message(f"removed features that no run has used for {UNUSED // 86400} days: {other}")


class _FrozenTower:
    """Computes the features of images, in bf16 if the stage multiplies in it."""

    def __init__(self, model: VisionLanguageModel, spec: Spec, bf16: bool) -> None:
        self.model = model
        self.spec = spec
        self.bf16 = bf16
        self.device = next(model.vision.parameters()).device
        # Of one image: with anyres an overview and the largest canvas.
        self.most_tiles = 1 + max((width * height // spec.image_side**2 for width, height in spec.canvases), default=0)

    def open_cache(self) -> Features:
        """Open the features cached for this tower, these image rules and this precision."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.vision.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        spec = self.spec
        rules = {key: value for key, value in asdict(spec).items() if key.startswith(("image_", "feature_"))}
        versions = [version(name) for name in ("torch", "transformers", "pillow")]
        inputs = (spec.towers, spec.canvases, spec.patch_budget)
        decides = (rules, inputs, spec.space, self._config(), self.bf16, versions, own_code(*CODE))
        digest.update(repr(decides).encode())
        blank = blank_batch(spec)
        sample = self._run(blank.images, blank.grids)
        folder = user_cache() / "features" / digest.hexdigest()[:32]
        cache = Features(folder, (sample.shape[1], sample.shape[2]), sample.dtype)
        cache.refresh()
        return cache

    def _config(self) -> list[tuple[str, object]]:
        """Return the tower's settings that its weights do not show: activation, heads, the norms' epsilon."""
        about_the_file = ("architectures", "dtype", "transformers_version")
        return [
            (key, value)
            for tower in self.model.vision.towers
            for key, value in sorted(tower.tower.config.to_dict().items())
            if not key.startswith("_") and key not in about_the_file
        ]

    def fill(self, cache: Features, paths: Sequence[Path], progress: Progress, stopping: ShouldStop) -> None:
        """Compute and cache the features of these images, a shard at a time, until a stop is asked for."""
        digests: list[str] = []
        tiles: list[Tensor] = []
        size = 0
        with progress("cache features", len(paths)) if paths else no_progress("", 0) as advance:
            for path, features in self._compute(paths):
                digests.append(cache.digest(path))
                tiles.append(features)
                size += features.nbytes
                if size >= SHARD_BYTES:
                    cache.add(digests, tiles)
                    digests, tiles, size = [], [], 0
                advance(1)
                if stopping():
                    break
        if digests:
            cache.add(digests, tiles)

    def _compute(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Tensor]]:
        """Yield each image with its features on the CPU."""
        count = TILES_AT_ONCE[self.device.type]
        waiting: list[tuple[Path, Tensor]] = []
        for number, path in enumerate(paths, start=1):
            waiting.append((path, load_tiles(ImageRef(path), self.spec)))
            if sum(len(tiles) for _, tiles in waiting) < count and number < len(paths):
                continue
            of_images = [path for path, _ in waiting]
            tiles = torch.cat([tiles for _, tiles in waiting])
            grids = grids_of_sizes([image_size(ImageRef(path)) for path in of_images], self.spec)
            features = torch.cat(list(self._in_parts(tiles, grids, count)))
            yield from zip(of_images, features.split([len(tiles) for _, tiles in waiting]), strict=True)
            waiting.clear()

    def _in_parts(self, tiles: Tensor, grids: Tensor | None, count: int) -> Iterator[Tensor]:
        """Yield the features of `count` tiles at a time; the last ones are filled up with blank tiles."""
        for begin in range(0, len(tiles), count):
            part = tiles[begin : begin + count]
            full = torch.cat([part, part.new_zeros((count - len(part), *part.shape[1:]))])
            of_part = None if grids is None else grids[begin : begin + count]
            if of_part is not None:
                of_part = torch.cat([of_part, of_part.new_ones((count - len(part), 2))])
            yield self._run(full, of_part)[: len(part)]

    def _run(self, tiles: Tensor, grids: Tensor | None) -> Tensor:
        """Run the tower; features (tiles, tokens, width) on the CPU."""
        device = self.device
        grids = None if grids is None else grids.to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            features: Tensor = self.model.vision(tiles.to(device), grids)
        return features.to("cpu", torch.bfloat16 if self.bf16 else features.dtype).contiguous()
