"""anyres: counts, canvases, pixels and the order of features are LLaVA 1.6's; a row of several pictures stays exact."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stock_tiles import noise, pairs, placed_by_transformers, slots_by_transformers
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from vistune.model.vlm import default_canvases
from vistune.processor import load_tiles, open_image
from vistune.processor.images import LARGEST_ASPECT, LARGEST_SIDE, SMALLEST_SIDE, image_size
from vistune.processor.tiles import NEWLINE, anyres_slots, choose_canvas, count_slots, slots_of
from vistune.records.image_files import LARGEST_PIXELS
from vistune.types import ImageRef, Spec

SPEC = Spec(
    vision_width=4,
    language_width=4,
    vocabulary=1,
    slots_per_image=576,
    image_side=336,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
    projector="identity",
    template="v1",
    image_mode="anyres",
    canvases=default_canvases(336),
)

# Picture, its canvas, rows and columns of patches, slots in all: run with the original's code (LLaVA 1.6).
TABLE = [
    ((336, 336), (336, 672), 24, 24, 1176),
    ((640, 480), (672, 672), 36, 48, 2340),
    ((480, 640), (672, 672), 48, 36, 2352),
    ((1344, 336), (1008, 336), 18, 72, 1890),
    ((300, 1200), (336, 1008), 72, 18, 1944),
    ((1000, 200), (1008, 336), 14, 72, 1598),
    ((899, 1024), (672, 672), 48, 42, 2640),
    ((1024, 899), (672, 672), 42, 48, 2634),
    ((200, 200), (336, 672), 24, 24, 1176),
    ((667, 500), (672, 672), 36, 48, 2340),
]


def spec_of_tiles(side: int, grid: int, canvases: tuple[tuple[int, int], ...] | None = None) -> Spec:
    return replace(SPEC, image_side=side, slots_per_image=grid**2, canvases=canvases or default_canvases(side))


@pytest.mark.parametrize(("size", "canvas", "rows", "columns", "count"), TABLE)
def test_counts_and_grids_are_the_originals(
    size: tuple[int, int], canvas: tuple[int, int], rows: int, columns: int, count: int
) -> None:
    assert choose_canvas(size, SPEC.canvases) == canvas
    slots = anyres_slots(size, SPEC)
    assert len(slots) == count == 576 + rows * (columns + 1)
    assert torch.equal(slots[:576], torch.stack([torch.zeros(576, dtype=torch.int64), torch.arange(576)], 1))
    ends = slots[576:].reshape(rows, columns + 1, 2)
    assert (ends[:, -1, 0] == NEWLINE).all()
    assert (ends[:, :-1, 0] > 0).all()
    assert slots_of(ImageRef(Image.new("RGB", size)), SPEC) == count


def sizes(count: int, largest: int = 1600) -> list[tuple[int, int]]:
    chance = np.random.default_rng(1)
    return [(int(w), int(h)) for w, h in chance.integers(20, largest, (count, 2))]


@pytest.mark.parametrize("canvases", [default_canvases(336), ((448, 224), (224, 448), (224, 224), (896, 672))])
def test_the_canvas_is_the_one_that_transformers_chooses(canvases: tuple[tuple[int, int], ...]) -> None:
    listed = [(height, width) for width, height in canvases]
    for width, height in [*sizes(2000), (336, 336), (200, 200), (672, 672), (5, 5)]:
        tall, wide = select_best_resolution((height, width), listed)
        assert choose_canvas((width, height), canvases) == (wide, tall)


def test_of_equal_canvases_the_first_is_taken() -> None:
    """The original lists (width, height), transformers (height, width): small squares lie on another canvas there."""
    assert choose_canvas((300, 300), ((336, 672), (672, 336))) == (336, 672)
    assert choose_canvas((300, 300), ((672, 336), (336, 672))) == (672, 336)


def stock_tiles(image: Image.Image, spec: Spec) -> Tensor:
    side = spec.image_side
    rules = LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=pairs(spec),
        resample=spec.image_resample,
        do_rescale=False,
        do_normalize=False,
    )
    return rules(image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
@pytest.mark.parametrize("side", [336, 32])
def test_tiles_of_photographs_equal_transformers(side: int, resample: int, coco_mini: Path) -> None:
    spec = replace(spec_of_tiles(side, 2), image_resample=int(resample))
    paths = sorted((coco_mini / "val2017").glob("*.jpg"))[:6]
    assert len(paths) == 6
    for path in paths:
        image = Image.open(path).convert("RGB")
        assert torch.equal(load_tiles(ImageRef(path), spec), stock_tiles(image, spec).to(torch.uint8))


@pytest.mark.parametrize("size", [(33, 31), (200, 2), (7, 300), (32, 32), (64, 64), (97, 65), (21, 90), (350, 90)])
@pytest.mark.parametrize("canvases", [default_canvases(32), ((96, 64), (64, 128), (32, 32))])
def test_tiles_of_odd_sizes_equal_transformers(size: tuple[int, int], canvases: tuple[tuple[int, int], ...]) -> None:
    spec = spec_of_tiles(32, 2, canvases)
    ours = load_tiles(ImageRef(noise(size)), spec)
    assert torch.equal(ours, stock_tiles(noise(size), spec).to(torch.uint8))
    width, height = choose_canvas(size, canvases)
    assert len(ours) == 1 + width * height // 32**2


def placed(features: Tensor, slots: Tensor, newline: Tensor) -> Tensor:
    return torch.stack([newline if tile == NEWLINE else features[tile, patch] for tile, patch in slots.tolist()])


@pytest.mark.parametrize("grid", [1, 4, 5, 24])
def test_features_stand_where_transformers_puts_them(grid: int) -> None:
    spec = spec_of_tiles(336, grid)
    newline = torch.randn(2)
    for size in [*(size for size, *_ in TABLE), *sizes(15)]:
        width, height = choose_canvas(size, spec.canvases)
        features = torch.randn(1 + width * height // 336**2, grid**2, 2)
        ours = placed(features, anyres_slots(size, spec), newline)
        assert torch.equal(ours, placed_by_transformers(features, size, spec, newline)), size


def whole_number_sizes(largest: int, spec: Spec) -> set[tuple[int, int]]:
    """The picture sizes, sides up to `largest`, that fill a whole number of a canvas' patches in both directions.

    Of all others this number lies at least one part in `largest` from a whole one, so that no rounding of floating
    point decides.
    """
    found: set[tuple[int, int]] = set()
    for canvas in spec.canvases:
        for turned, patches in enumerate(edge // 14 for edge in canvas):
            for edge in range(SMALLEST_SIDE, largest + 1):
                step = edge // math.gcd(edge, patches)  # the other edge * patches / edge is whole at its multiples
                most = min(largest, LARGEST_ASPECT * edge, LARGEST_PIXELS // edge)
                others = range(step, most + 1, step)
                found |= {(other, edge) if turned else (edge, other) for other in others if other * 100 >= edge}
    return {size for size in found if min(size) >= SMALLEST_SIDE}


def patches_of_the_original(size: tuple[int, int], spec: Spec) -> tuple[int, int]:
    """(rows, columns), as `unpad_image` of LLaVA 1.6 cuts them."""
    width, height = choose_canvas(size, spec.canvases)
    rows, columns = height // 14, width // 14
    if size[0] / size[1] > columns / rows:
        return rows - 2 * ((rows - int(size[1] * (columns / size[0]))) // 2), columns
    return rows, columns - 2 * ((columns - int(size[0] * (rows / size[1]))) // 2)


@pytest.mark.parametrize(
    ("largest", "differing"), [(1600, 46), pytest.param(LARGEST_SIDE, 440, marks=pytest.mark.soak)]
)
def test_every_size_takes_the_slots_that_its_layouts_own_code_gives_it(largest: int, differing: int) -> None:
    """Of a llava-hf model transformers', which rounds to 7 decimals; of an original one LLaVA's, which cuts."""
    original = replace(SPEC, tokenization="chunks")
    found = 0
    for size in whole_number_sizes(largest, SPEC):
        rows, columns = patches_of_the_original(size, SPEC)
        assert count_slots(size, SPEC) == slots_by_transformers(size, SPEC), size
        assert count_slots(size, original) == 576 + rows * (columns + 1), size
        found += count_slots(size, SPEC) != count_slots(size, original)
    assert found == differing


@pytest.mark.parametrize("size", [(88, 55), (176, 110), (352, 748), (836, 352), (536, 1407), (704, 1496)])
def test_where_the_two_round_otherwise_each_places_its_own_features(size: tuple[int, int]) -> None:
    width, height = choose_canvas(size, SPEC.canvases)
    features = torch.randn(1 + width * height // 336**2, 576, 2)
    newline = torch.randn(2)
    theirs = placed_by_transformers(features, size, SPEC, newline)
    assert torch.equal(placed(features, anyres_slots(size, SPEC), newline), theirs)
    original = anyres_slots(size, replace(SPEC, tokenization="chunks"))
    assert len(original) == count_slots(size, replace(SPEC, tokenization="chunks")) != len(theirs)


def turned(form: str, turn: int, *, behind: bool = False) -> bytes:
    """A picture of 90 x 40 as it is stored; `behind`: a PNG that tells its orientation after its pixels."""
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    noise((90, 40)).save(buffer, form, **({} if behind else {"exif": exif}))
    data = buffer.getvalue()
    if not behind:
        return data
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = data.rindex(b"IEND") - 4
    return data[:end] + chunk + data[end:]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(("form", "behind"), [("JPEG", False), ("WEBP", False), ("PNG", False), ("PNG", True)])
def test_slots_from_the_header_are_those_of_the_decoded_picture(
    form: str, behind: bool, turn: int, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(turned(form, turn, behind=behind))
    image, spec = ImageRef(tmp_path / "a"), spec_of_tiles(32, 2)
    upright = open_image(image)
    assert image_size(image) == upright.size == ((40, 90) if turn >= 5 else (90, 40))
    assert slots_of(image, spec) == len(anyres_slots(upright.size, spec))
    slots = anyres_slots(image_size(image), spec)
    assert int(slots[:, 0].max()) < len(load_tiles(image, spec))
    memory = ImageRef(Image.open(tmp_path / "a"))
    assert image_size(memory) == upright.size == open_image(memory).size
