"""What is no picture, a damaged one or a trap is refused with a reason before harm is done."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistune.errors import DataError
from vistune.processor import open_image
from vistune.processor.images import decode, image_size
from vistune.types import ImageRef


def noise(*size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def saved(folder: Path, name: str, image: Image.Image, form: str, **options: object) -> ImageRef:
    image.save(folder / name, form, **options)
    return ImageRef(folder / name)


@pytest.mark.parametrize(("form", "name"), [("PNG", "a.jpg"), ("WEBP", "b.png"), ("GIF", "c.gif"), ("JPEG", "d.webp")])
def test_the_magic_decides_not_the_name(tmp_path: Path, form: str, name: str) -> None:
    assert open_image(saved(tmp_path, name, noise(20, 30), form)).size == (30, 20)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_off_picture_is_refused(tmp_path: Path, form: str, share: float) -> None:
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, form)
    (tmp_path / "cut").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(DataError, match=r"cut: .*(damaged|cut-off|not a)"):
        open_image(ImageRef(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"  <html>404</html>", "it is a web page"),
        (b'{"error": "not found"}', "it is JSON"),
        (b"<?xml version='1.0'?><Error/>", "it is XML"),
        (b"not a picture at all", "it is text"),
        ("그림이 아닙니다 ".encode() * 500, "it is text"),
        (b"\x00" * 100, "its format is not known"),
        (b"\xff\xd8\xff", "a damaged or cut-off JPEG image"),
        (b"GIF89a", "a damaged or cut-off GIF image"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "a damaged or cut-off WEBP image"),
        (b"\x89PNG\r\n\x1a\n", "a damaged or cut-off PNG image"),
        (b"<?xml version='1.0'?><!-- a --><svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG drawing"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "it is a HEIC image"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), "it is a HEIC image"),
        (b"\0\0\0\x20ftypavif" + bytes(40), "it is an AVIF image"),
        (b"\0\0\0\x20ftypisom" + bytes(40), "it is a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "it is a JPEG XL image"),
        (b"%PDF-1.7", "it is a PDF"),
        (b"PK\x03\x04", "it is an archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (open_image, image_size):
        with pytest.raises(DataError) as caught:
            read(ImageRef(tmp_path / "a.jpg"))
        assert str(caught.value).startswith(f"{tmp_path / 'a.jpg'}: ")
        assert said in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"tEXt", b"gAMA"])
@pytest.mark.parametrize("is_behind", [False, True])
def test_a_wrong_checksum_is_a_damaged_png_and_names_the_chunk(name: bytes, is_behind: bool, tmp_path: Path) -> None:
    whole = png(64, 64)
    if name in whole:
        end = whole.index(name) + 4 + struct.unpack(">I", whole[whole.index(name) - 4 : whole.index(name)])[0]
        damaged = whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :]
    else:
        more = chunk(name, b"a\0\xb1\x8f", crc=1)
        damaged = whole[:-12] + more + whole[-12:] if is_behind else png(64, 64, more)
    (tmp_path / "a.png").write_bytes(damaged)
    with pytest.raises(DataError, match=f"damaged or cut-off PNG image: the checksum of its {name.decode()} chunk"):
        open_image(ImageRef(tmp_path / "a.png"))


@pytest.mark.parametrize("form", ["BMP", "TIFF", "ICO", "PNM"])
def test_other_formats_are_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match=f"not a JPEG, PNG, WEBP or GIF image: it is an? {form}"):
        open_image(saved(tmp_path, "a", noise(32, 32), "PPM" if form == "PNM" else form))


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(11 * 2**20)
    with pytest.raises(DataError, match="larger than 10 MB"):
        open_image(ImageRef(tmp_path / "a.png"))


def test_a_folder_or_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe", "gone.jpg"):
        with pytest.raises(DataError, match="no such image"):
            open_image(ImageRef(tmp_path / name))


def chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) if crc is None else crc)
    )


def png(width: int, height: int, *extra: bytes, crc: int | None = None) -> bytes:
    """A whole one-bit PNG, black; `extra` chunks stand before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height), 1)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", rows, crc) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((13400, 13400), "more than 40000000 pixels"),  # beyond Pillow's own limit
        ((9500, 9500), "9500x9500 pixels; each side must have 2 to 8192"),
        ((8000, 8000), "8000x8000 pixels; at most 40000000 are allowed"),
        ((12000, 1), "12000x1 pixels; each side"),
        ((12000, 3000), "12000x3000 pixels; each side"),
        ((9000, 100), "9000x100 pixels; each side"),
        ((1, 1), "1x1 pixels; each side"),
        ((1, 5000), "1x5000 pixels; each side"),
        ((5000, 10), "5000x10 pixels; one side may be at most 100 times"),
    ],
)
def test_a_whole_picture_over_the_limits_is_refused_from_its_header(
    tmp_path: Path, size: tuple[int, int], words: str
) -> None:
    """A child's peak memory says that nothing was decoded: 13400 x 13400 takes 180 MB when it is."""
    (tmp_path / "a.png").write_bytes(png(*size))
    for read in (open_image, image_size):
        assert refused_within(10, read, ImageRef(tmp_path / "a.png"), words)


def refused_within(megabytes: int, read: Callable[[ImageRef], object], image: ImageRef, words: str) -> bool:
    """Whether a child is refused the picture with these words, and grows by less than that."""
    child = os.fork()
    if child == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = ""
        try:
            read(image)
        except DataError as error:
            said = str(error)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(0 if words in said and grown < megabytes * 1024 else 1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    "bomb", [(b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")], ids=["zTXt", "iCCP", "iTXt"]
)
@pytest.mark.parametrize("behind", [False, True])
def test_a_bomb_in_a_pngs_metadata_is_not_inflated(bomb: tuple[bytes, bytes], behind: bool, tmp_path: Path) -> None:
    packed = chunk(bomb[0], bomb[1] + zlib.compress(bytes(70 * 2**20), 1))
    whole = png(8, 8)
    (tmp_path / "a.png").write_bytes(whole[:-12] + packed + whole[-12:] if behind else png(8, 8, packed))
    assert refused_within(20, open_image, ImageRef(tmp_path / "a.png"), "damaged")
    if not behind:
        assert refused_within(20, image_size, ImageRef(tmp_path / "a.png"), "damaged")


@pytest.mark.parametrize("read", [open_image, image_size])
def test_a_picture_with_20_megabytes_of_metadata_is_refused_unread(
    read: Callable[[ImageRef], object], tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    noise(20, 30).save(buffer, "JPEG")
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + comment * 320 + buffer.getvalue()[2:])
    assert refused_within(5, read, ImageRef(tmp_path / "a.jpg"), "larger than 10 MB")


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 10), (9000, 9000)])
def test_a_picture_in_memory_has_the_same_limits(size: tuple[int, int]) -> None:
    """A strip of 1 x 5000 would be resized to 336 x 1680000."""
    for read in (open_image, image_size):
        with pytest.raises(DataError, match=f"an image in memory: {size[0]}x{size[1]} pixels"):
            read(ImageRef(Image.new("1", size)))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_size_is_read_without_the_pixels(form: str, tmp_path: Path) -> None:
    """Of a picture cut off behind its header."""
    buffer = io.BytesIO()
    noise(300, 200).save(buffer, form)
    keep = 0.97 if form == "WEBP" else 0.1  # WebP's own reader wants the file whole, or nearly
    (tmp_path / "a").write_bytes(buffer.getvalue()[: int(keep * len(buffer.getvalue()))])
    if form != "WEBP":
        assert image_size(ImageRef(tmp_path / "a")) == (200, 300)
    with pytest.raises(DataError):
        open_image(ImageRef(tmp_path / "a"))


@pytest.mark.parametrize(("key", "value"), [("xmp", "no bytes"), ("exif", "rubbish"), ("Raw profile type exif", "zz")])
def test_text_that_only_claims_to_be_exif_is_ignored(key: str, value: str, tmp_path: Path) -> None:
    told = chunk(b"tEXt", key.encode() + b"\0" + value.encode())
    whole = png(8, 16)
    for data in (png(8, 16, told), whole[:-12] + told + whole[-12:]):
        (tmp_path / "a.png").write_bytes(data)
        assert open_image(ImageRef(tmp_path / "a.png")).size == image_size(ImageRef(tmp_path / "a.png")) == (8, 16)


def test_what_is_within_the_limits_is_read() -> None:
    for size in ((2, 2), (200, 2), (2, 200), (8192, 82)):
        assert decode(png(*size), "a").size == size


@pytest.mark.parametrize(
    "content",
    [
        png(8, 8, crc=1),
        png(8, 8)[:40],
        png(8, 8).replace(b"IDAT", b"IDAX"),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(300),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x20ftypavif" + bytes(40),
        b"BM" + bytes(60),
        b"SIMPLE  =                    T".ljust(2880),
        b"\0\0\0\x18ftypheic" + bytes(40),
        b"II*\0\x08\0\0\0" + bytes(60),
        b"\0\0\1\0\1\0\x10\x10" + bytes(60),
    ],
)
def test_bad_or_foreign_bytes_named_jpg_are_a_data_error_with_a_hint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg: ") as caught:
        open_image(ImageRef(tmp_path / "a.jpg"))
    assert caught.value.hint
    assert "0x" not in caught.value.message  # an object's address, from an error of the library


def test_what_follows_a_picture_is_not_read(tmp_path: Path) -> None:
    """A file that is a JPEG and a ZIP or a page at once is a JPEG here."""
    saved(tmp_path, "a.jpg", noise(20, 30), "JPEG")
    plain = np.asarray(open_image(ImageRef(tmp_path / "a.jpg")))
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(b"PK\x03\x04<script>alert(1)</script>")
    assert np.array_equal(np.asarray(open_image(ImageRef(tmp_path / "a.jpg"))), plain)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_flipped_bytes_give_a_picture_of_its_headers_size_or_a_data_error(form: str, tmp_path: Path) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    noise(24, 32).save(buffer, form, exif=exif)
    chance = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(buffer.getvalue())
        for place in chance.integers(0, len(content) // int(chance.integers(1, 12)), size=int(chance.integers(1, 5))):
            content[place] = int(chance.integers(256))
        (tmp_path / "a").write_bytes(content)
        with contextlib.suppress(DataError):
            size = image_size(ImageRef(tmp_path / "a"))
            image = open_image(ImageRef(tmp_path / "a"))
            assert (image.mode, image.size) == ("RGB", size)
