"""Pictures are upright RGB in every mode, and as pixels what transformers' own processors make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from vistune.processor import load_tiles, open_image
from vistune.types import ImageRef, Spec

SPEC = Spec(
    vision_width=1,
    language_width=1,
    vocabulary=1,
    slots_per_image=1,
    image_side=336,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
    projector="linear",
    template="v1",
)


@pytest.fixture(scope="module")
def photographs(coco_mini: Path) -> list[Path]:
    """A few JPEG files, tall and wide: drawn, and photographs."""
    mini = sorted((coco_mini / "val2017").glob("*.jpg"))[:4]
    return [*sorted((coco_mini.parents[1] / "golden" / "images").glob("*.jpg")), *mini]


def stock(side: int, fit: str, resample: int, *, pad: bool = False) -> Any:
    """transformers' own processor, stopped before it rescales and normalises."""
    plain = {"resample": resample, "do_normalize": False, "do_rescale": False}
    if fit == "stretch":
        return SiglipImageProcessorPil(size={"height": side, "width": side}, **plain)
    square = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return LlavaImageProcessorPil(**square, do_pad=True, **plain) if pad else CLIPImageProcessorPil(**square, **plain)


def ours_and_theirs(image: ImageRef, side: int, fit: str, resample: int, *, pad: bool) -> tuple[Tensor, Tensor]:
    mode = "pad" if pad else "square"
    spec = replace(SPEC, image_side=side, image_fit=fit, image_resample=resample, image_mode=mode)
    tiles = load_tiles(image, spec)
    assert tiles.shape == (1, 3, side, side)
    assert tiles.dtype == torch.uint8
    theirs = stock(side, fit, resample, pad=pad)(open_image(image), return_tensors="pt")["pixel_values"]
    return tiles, theirs.to(torch.uint8)


WAYS = [("crop", False), ("stretch", False), ("crop", True)]


@pytest.mark.parametrize("side", [336, 224, 56, 700])
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
@pytest.mark.parametrize(("fit", "pad"), WAYS)
def test_pixels_equal_transformers_processors_on_photographs(
    fit: str, pad: bool, resample: int, side: int, photographs: list[Path]
) -> None:
    for path in photographs:
        assert torch.equal(*ours_and_theirs(ImageRef(path), side, fit, int(resample), pad=pad))


def test_pad_equals_the_original_llavas_canvas(photographs: list[Path]) -> None:
    for path in photographs:
        image = Image.open(path).convert("RGB")
        side = max(image.size)
        canvas = Image.new("RGB", (side, side), (122, 116, 104))
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        wanted = torch.from_numpy(np.array(canvas.resize((336, 336), Image.Resampling.BICUBIC))).permute(2, 0, 1)
        ours = load_tiles(ImageRef(path), replace(SPEC, image_mode="pad"))[0]
        assert torch.equal(ours, wanted)


def noise(*size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def saved(folder: Path, name: str, image: Image.Image, form: str, **options: object) -> ImageRef:
    image.save(folder / name, form, **options)
    return ImageRef(folder / name)


@pytest.mark.parametrize(
    "size", [(2, 150), (150, 2), (336, 336), (335, 337), (501, 333), (20, 31), (333, 1000), (1001, 77)]
)
@pytest.mark.parametrize("side", [336, 57])
@pytest.mark.parametrize(("fit", "pad"), WAYS)
def test_pixels_equal_transformers_at_odd_sizes(fit: str, pad: bool, side: int, size: tuple[int, int]) -> None:
    for resample in (2, 3):
        assert torch.equal(*ours_and_theirs(ImageRef(noise(*size)), side, fit, resample, pad=pad))


def test_the_processor_is_the_towers_own_after_normalising(tiny_backbones: Path) -> None:
    """What the tower is shown is what AutoImageProcessor of its folder makes, to 1/255."""
    from transformers import AutoImageProcessor

    from vistune.model.image_rules import image_rules

    source = str(tiny_backbones / "vision")
    rules = AutoImageProcessor.from_pretrained(source, backend="pil")
    spec = replace(SPEC, **image_rules(source))
    mean, std = (torch.tensor(getattr(spec, name)).view(3, 1, 1) for name in ("image_mean", "image_std"))
    normal = (load_tiles(ImageRef(noise(50, 70)), spec)[0] / 255 - mean) / std
    torch.testing.assert_close(normal, rules(noise(50, 70), return_tensors="pt")["pixel_values"][0])


def shown(folder: Path, image: Image.Image, form: str = "PNG", **options: object) -> list[list[tuple[int, ...]]]:
    """Rows of pixels as the model is shown them."""
    return np.asarray(open_image(saved(folder, "a", image, form, **options))).tolist()


def grey(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


def test_each_mode_has_a_defined_result(tmp_path: Path) -> None:
    ramp = np.array([[0, 257, 128 * 257, 65535]] * 2, dtype=np.uint16)
    assert shown(tmp_path, Image.fromarray(ramp))[0] == grey(0, 1, 128, 255)
    bits = Image.fromarray(np.array([[0, 255, 0, 255]] * 2, dtype=np.uint8)).convert("1")
    assert shown(tmp_path, bits)[0] == grey(0, 255, 0, 255)
    light = Image.fromarray(np.array([[0, 7, 130, 255]] * 2, dtype=np.uint8))
    assert shown(tmp_path, light)[0] == grey(0, 7, 130, 255)
    float_image = ImageRef(Image.fromarray(np.array([[-5.0, 0.4, 127.6, 900.0]] * 2, dtype=np.float32)))
    assert np.asarray(open_image(float_image)).tolist()[0] == grey(0, 0, 128, 255)
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(np.array(shown(tmp_path, ink, "JPEG", quality=100)) - (255, 0, 0)).max() <= 2


def test_what_is_transparent_is_white_in_every_mode(tmp_path: Path) -> None:
    pixels = np.array([[[200, 40, 90, 0], [200, 40, 90, 51], [200, 40, 90, 255]]] * 2, dtype=np.uint8)
    once = [[255, 255, 255], [244, 212, 222], [200, 40, 90]]  # 0.2 of the colour over 0.8 of white
    assert np.abs(np.array(shown(tmp_path, Image.fromarray(pixels))[0]) - once).max() <= 1
    assert np.abs(np.array(shown(tmp_path, Image.fromarray(pixels), "WEBP", lossless=True)[0]) - once).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]] * 2, dtype=np.uint8), mode="L").convert("P")
    palette.putpalette([10, 20, 30, 200, 40, 90])
    for image, key in (
        (palette, 0),
        (Image.fromarray(np.array([[[10, 20, 30], [200, 40, 90]]] * 2, dtype=np.uint8)), (10, 20, 30)),
    ):
        assert shown(tmp_path, image, transparency=key)[0] == [[255, 255, 255], [200, 40, 90]]
    veiled = Image.fromarray(np.array([[[100, 0], [100, 51], [100, 255]]] * 2, dtype=np.uint8), mode="LA")
    assert shown(tmp_path, veiled)[0] == grey(255, 224, 100)
    light = Image.fromarray(np.array([[7, 130]] * 2, dtype=np.uint8))
    assert shown(tmp_path, light, transparency=7)[0] == grey(255, 130)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_shows_the_same_picture(tmp_path: Path, form: str, turn: int) -> None:
    """Four quarters of four colours: the transforms are written out here by the EXIF table, row 0 and column 0."""
    quarters = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 250]]], dtype=np.uint8)
    upright = quarters.repeat(16, axis=0).repeat(24, axis=1)
    swap = upright.transpose(1, 0, 2)
    # From the EXIF table: where the stored rows begin and run, told from the upright picture.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: swap, 6: swap[::-1], 7: swap[::-1, ::-1], 8: swap[:, ::-1],
    }[turn]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    image = saved(tmp_path, "a", Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif, quality=95)
    seen = np.asarray(open_image(image)).astype(int)
    assert seen.shape == upright.shape
    assert np.abs(seen[4:12, 4:20] - quarters[0, 0]).max() < 30
    assert np.abs(seen[20:28, 28:44] - quarters[1, 1]).max() < 30
    assert np.abs(seen[4:12, 28:44] - quarters[0, 1]).max() < 30


@pytest.mark.parametrize(
    "broken", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff rubbish", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_is_ignored(tmp_path: Path, broken: bytes) -> None:
    assert open_image(saved(tmp_path, "a.jpg", noise(20, 30), "JPEG", exif=broken)).size == (30, 20)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_only_frame_0_of_any_animation_is_read(tmp_path: Path, form: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    image = saved(tmp_path, "a", frames[0], form, save_all=True, append_images=frames[1:], duration=40)
    assert np.abs(np.asarray(open_image(image)).astype(int) - (250, 0, 0)).max() < 8


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (20, 20), (31, 20)])
def test_pad_stands_in_the_middle_of_the_mean_colour(size: tuple[int, int]) -> None:
    """Before it is resized: the picture is untouched, all around it is int(255 * mean)."""
    image, side = noise(size[1], size[0]), max(size)
    tile = load_tiles(ImageRef(image), replace(SPEC, image_mode="pad", image_side=side))[0].permute(1, 2, 0).numpy()
    wanted = np.empty((side, side, 3), dtype=np.uint8)
    wanted[:] = (122, 116, 104)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    wanted[top : top + size[1], left : left + size[0]] = np.asarray(image)
    assert np.array_equal(tile, wanted)
