"""Pictures that come inside a message obey the limits of picture files before any pixel is decoded."""

from __future__ import annotations

import base64
import io
import struct
import textwrap
import tracemalloc
import zlib
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vistune.errors import DataError
from vistune.generation import fields, read_messages
from vistune.processor import LARGEST_FILE_BYTES, open_image


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def read(link: str) -> Image.Image:
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": link}}]}
    return open_image(read_messages([message])[0].images[0])


def png(width: int, height: int) -> bytes:
    """A header that promises a size, and next to nothing behind it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height", "said"), [
    (13400, 13400, "more than 40000000 pixels"), (8000, 8000, "at most 40000000 are allowed"),
    (5000, 2, "at most 100 times the other"), (1, 1, "each side must have"),
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


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("data:image/png;base64,@@@", "base64"),
        ("data:image/png;base64,QQ==QQ==", "base64"),
        ("data:image/png;base64,AAAAA", "base64"),
        ("data:image/png;base64,한글", "base64"),
        ("data:image/png;base64,b'iVBORw0KGgo='", "begins with b'"),
        ("data:image/png", "without a comma"),
        ("data:image/svg+xml,<svg/>", "not base64"),
        (url(b""), "it is empty"),
        (url(b"no picture"), "not a JPEG, PNG, WEBP or GIF image: it is text"),
        (url(b"<html>404</html>"), "it is a web page"),
        (url(png(20, 20)), "damaged or cut-off PNG image"),
    ],
)
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


def encoded() -> tuple[str, bytes]:
    """Base64 with every character that tools write differently, and the pixels in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 25, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    more = 1 + -len(buffer.getvalue()) % 3  # what follows an image is not read; one byte over a multiple of three
    text = base64.b64encode(buffer.getvalue() + bytes(more)).decode()
    assert {"+", "/"} <= set(text)
    assert text.endswith("==")
    return text, pixels.tobytes()


TEXT, PIXELS = encoded()


@pytest.mark.parametrize(
    "link",
    [
        "data:image/png;base64," + "\n".join(textwrap.wrap(TEXT, 76)) + "\n",
        "data:image/png;base64," + "\r\n".join(textwrap.wrap(TEXT, 64)),
        "data:image/png;base64, " + " ".join(textwrap.wrap(TEXT, 60)),
        "data:image/png;base64," + base64.urlsafe_b64encode(base64.b64decode(TEXT)).decode(),
        "data:image/png;base64," + TEXT.rstrip("="),
        "data:image/png;base64," + quote(TEXT, safe=""),
        "data:image/png;base64," + "%0A".join(textwrap.wrap(TEXT, 76)),
        quote("data:image/png;base64," + TEXT, safe=":"),
        "DATA:IMAGE/PNG;BASE64," + TEXT,
        "\n data:image/png;base64," + TEXT,
        "data:image/jpeg;base64," + TEXT,
        "data:image/jpg;name=a.jpg;base64," + TEXT,
        "data:text/plain;charset=utf-8;base64," + TEXT,
        "data:application/octet-stream; base64," + TEXT,
        "data:;base64," + TEXT,
        "data:base64," + TEXT,
    ],
    ids=[
        "lines of 76", "CRLF", "spaces", "URL-safe", "no padding", "per cent", "per cent line breaks", "all per cent",
        "upper case", "space before it", "wrong media type", "name", "text", "octets", "no media type", "no semicolon",
    ],
)  # fmt: skip
def test_base64_is_read_as_tools_write_it(link: str) -> None:
    assert read(link).tobytes() == PIXELS
    parts = [{"type": "image_url", "image_url": link}]
    assert open_image(read_messages([{"role": "user", "content": parts}])[0].images[0]).tobytes() == PIXELS
    parts = [{"type": "image", "image": link}]
    assert open_image(read_messages([{"role": "user", "content": parts}])[0].images[0]).tobytes() == PIXELS


@given(st.binary(max_size=60), st.integers(1, 20), st.booleans(), st.booleans())
def test_any_bytes_come_back_however_their_base64_is_written(
    data: bytes, width: int, is_url_safe: bool, is_quoted: bool
) -> None:
    text = (base64.urlsafe_b64encode if is_url_safe else base64.b64encode)(data).decode().rstrip("=" * is_url_safe)
    lines = "\n".join(textwrap.wrap(text, width))
    assert fields.bytes_of(f"data:;base64,{quote(lines) if is_quoted else lines}", "x") == data


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("https://example.org/x.png", "a link, and links are not fetched here"),
        ("HTTP://example.org", "a link, and links"),
        ("file:///x.jpg", "a path"),
        ("/data/x.jpg", "a path"),
        ("C:\\photos\\x.jpg", "a path"),
        ("photos/x.JPG", "a path"),
        ("~/x", "a path"),
        (TEXT, 'put "data:image/png;base64," before it'),
        ("/9j/4AAQSkZJRgABAQ", 'put "data:image/jpeg;base64," before it'),
        ("UklGRiQAAABXRUJQ", 'put "data:image/webp;base64," before it'),
        ("image/png;base64," + TEXT, "begin it with"),
        ("s3://bucket/key", "a link of a kind that is not read"),
        ("", "empty"),
        ("a red square", "not a data: URL"),
    ],
)
def test_a_text_that_is_no_data_url_is_told_what_to_send(link: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(link)
    assert said in str(caught.value)
    assert caught.value.hint
    assert len(str(caught.value)) < 300


def test_line_breaks_do_not_count_towards_the_limit_of_bytes() -> None:
    wrapped = "data:image/png;base64," + "\n".join(["A" * 76] * (LARGEST_FILE_BYTES * 4 // 3 // 76))
    with pytest.raises(DataError, match="not a JPEG"):
        read(wrapped)
