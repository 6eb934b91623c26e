"""Pictures: equal to transformers' CLIP processor, upright, and refused with a reason before harm is done."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistune.errors import DataError
from vistune.processor import load_pixels, open_picture
from vistune.types import Picture, Spec

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


def photographs(shared: Path) -> list[Path]:
    return sorted((shared / "golden" / "images").glob("*.jpg"))


def test_pixels_equal_transformers_clip_processor_on_photographs(shared: Path) -> None:
    from transformers import CLIPImageProcessorPil

    stock = CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_normalize=False, do_rescale=False
    )
    for path in photographs(shared):
        wanted = stock(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"][0]
        ours = load_pixels(Picture(path), SPEC)
        assert int((ours.float() - wanted.float()).abs().max()) <= 1


def test_pad_equals_the_original_llavas_canvas(shared: Path) -> None:
    for path in photographs(shared):
        image = Image.open(path).convert("RGB")
        side = max(image.size)
        canvas = Image.new("RGB", (side, side), (122, 116, 104))
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        wanted = torch.from_numpy(np.array(canvas.resize((336, 336), Image.Resampling.BICUBIC))).permute(2, 0, 1)
        ours = load_pixels(Picture(path), replace(SPEC, image_mode="pad"))
        assert torch.equal(ours, wanted)


def noise(*size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def saved(folder: Path, name: str, image: Image.Image, form: str, **options: object) -> Picture:
    image.save(folder / name, form, **options)
    return Picture(folder / name)


@pytest.mark.parametrize(("form", "name"), [("PNG", "a.jpg"), ("WEBP", "b.png"), ("GIF", "c.gif"), ("JPEG", "d.webp")])
def test_the_magic_decides_not_the_name(tmp_path: Path, form: str, name: str) -> None:
    assert open_picture(saved(tmp_path, name, noise(20, 30), form)).size == (30, 20)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_off_picture_is_refused(tmp_path: Path, form: str, share: float) -> None:
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, form)
    (tmp_path / "cut").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(DataError, match=r"cut: .*(damaged|cut-off|not a)"):
        open_picture(Picture(tmp_path / "cut"))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"not a picture at all", b"\x00" * 100])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg"):
        open_picture(Picture(tmp_path / "a.jpg"))


@pytest.mark.parametrize("form", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match="not a JPEG, PNG, WEBP, GIF picture"):
        open_picture(saved(tmp_path, "a", noise(32, 32), form))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13400, 13400), (9500, 9500), (8000, 8000), (12000, 1), (1, 1), (5000, 10)])
def test_sizes_are_judged_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(png_header(*size))
    with pytest.raises(DataError, match=rf"{size[0]}x{size[1]} pixels|damaged"):
        open_picture(Picture(tmp_path / "a.png"))


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(11 * 2**20)
    with pytest.raises(DataError, match="larger than 10 MB"):
        open_picture(Picture(tmp_path / "a.png"))


def test_modes_become_rgb_in_a_defined_way(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((4, 4), 65535 // 2, dtype=np.uint16))
    assert open_picture(saved(tmp_path, "deep.png", deep, "PNG")).getpixel((0, 0)) == (127, 127, 127)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_picture(saved(tmp_path, "clear.png", clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("LA", (4, 4), (0, 128))
    assert open_picture(saved(tmp_path, "half.png", half, "PNG")).getpixel((0, 0))[0] == pytest.approx(127, abs=1)
    black = Image.new("1", (4, 4), 1)
    assert open_picture(saved(tmp_path, "one.png", black, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P")
    pixel = open_picture(saved(tmp_path, "p.png", palette, "PNG", transparency=255)).getpixel((0, 0))
    assert max(abs(a - b) for a, b in zip(pixel, (10, 200, 30), strict=True)) < 60
    ink = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    pixel = open_picture(saved(tmp_path, "ink.jpg", ink, "JPEG", quality=100)).getpixel((8, 8))
    assert max(abs(a - b) for a, b in zip(pixel, (200, 40, 90), strict=True)) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (24, 16), (255, 255, 255))
    upright.paste((255, 0, 0), (0, 0, 8, 8))  # red at the top left
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = open_picture(saved(tmp_path, "a.png", stored, "PNG", exif=exif))
    assert shown.size == (24, 16)
    assert shown.getpixel((3, 3)) == (255, 0, 0)
    assert shown.getpixel((20, 12)) == (255, 255, 255)


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((250, 0, 0), (0, 250, 0))]
    picture = saved(tmp_path, "a.gif", frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_picture(picture).getpixel((0, 0))[0] > 200


def test_a_folder_or_a_pipe_is_no_picture(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe", "gone.jpg"):
        with pytest.raises(DataError, match="no such picture"):
            open_picture(Picture(tmp_path / name))
