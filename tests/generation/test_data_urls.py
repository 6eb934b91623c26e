"""Pictures that come inside a message obey the limits of picture files before any pixel is decoded."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image

from vistune.errors import DataError
from vistune.generation import read_messages
from vistune.processor import LARGEST_FILE_BYTES, open_picture


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def read(link: str) -> Image.Image:
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": link}}]}
    return open_picture(read_messages([message])[0].pictures[0])


def png(width: int, height: int) -> bytes:
    """A header that promises a size, and next to nothing behind it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height", "said"), [
    (13400, 13400, "decompression bomb"), (8000, 8000, "too many"), (5000, 2, "narrow"), (1, 1, "sides of"),
])  # fmt: skip
def test_a_bomb_is_refused_by_its_header(width: int, height: int, said: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"messages\[0\]\.content\[0\]\.image_url\.url: .*{said}"):
        read(url(png(width, height)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_url_that_is_too_long_is_refused_before_it_is_decoded() -> None:
    link = "data:image/png;base64," + "A" * (LARGEST_FILE_BYTES * 4 // 3 + 8)
    tracemalloc.start()
    with pytest.raises(DataError, match="larger than 10 MB"):
        read(link)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(link)  # a copy without its header, no bytes decoded


@pytest.mark.parametrize(("link", "said"), [
    ("https://example.org/x.png", "only data:"), ("data:image/png;base64,@@@", "base64"), ("data:image/png", "only"),
    ("data:image/png;base64,한글", "base64"), (url(b"no picture"), "not a JPEG"), (url(png(20, 20)), "damaged or cut"),
])  # fmt: skip
def test_what_is_no_picture_is_named_by_its_place(link: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"messages\[0\]\.content\[0\]\.image_url\.url: .*{said}"):
        read(link)


def test_a_turned_picture_is_turned_once() -> None:
    """EXIF orientation 6, as a telephone writes it: shown 10 wide and 30 high."""
    image = Image.new("RGB", (30, 10), "red")
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert read(url(buffer.getvalue(), "jpeg")).size == (10, 30)
