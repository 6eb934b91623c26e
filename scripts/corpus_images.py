"""The pictures of scripts/make_corpus.py: bytes that are one, that are none, or that are a trap; and what is right."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

RED, GREEN = (250, 0, 0), (0, 250, 0)
MEGABYTE = 2**20


@dataclass(frozen=True)
class ImageCase:
    """`pixel`: what the model is shown at the top left, within `off` · `size`: (width, height) it is shown in.

    `megabytes`: by how much a process may grow that is shown it.
    """

    file: str
    outcome: Literal["ok", "warn", "reject"]
    words: str
    content: Callable[[], bytes]
    pixel: tuple[int, int, int] | None = None
    off: int = 2
    size: tuple[int, int] | None = None
    megabytes: int = 200


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def plain(width: int = 40, height: int = 30, color: Any = RED, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height), color)


def noise(width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(folder: Path, name: str) -> None:
    """A good picture."""
    (folder / name).write_bytes(encoded(noise()))


def chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    check = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)


def png(width: int, height: int, *extra: bytes, crc: int | None = None) -> bytes:
    """A whole PNG of one bit a pixel, black; `extra` chunks stand before its pixels, `crc` in place of theirs."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", rows, crc) + chunk(b"IEND", b"")


def cut(form: str) -> Callable[[], bytes]:
    return lambda: (whole := encoded(noise(), form))[: len(whole) * 7 // 10]


def turned(turn: int) -> Callable[[], bytes]:
    """Stored such that EXIF's orientation makes it upright: 40 x 30, red above, green below."""
    upright = np.zeros((30, 40, 3), dtype=np.uint8)
    upright[:15], upright[15:] = RED, GREEN
    swap = upright.transpose(1, 0, 2)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: swap, 6: swap[::-1], 7: swap[::-1, ::-1], 8: swap[:, ::-1]}[turn]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    return lambda: encoded(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", exif=exif, quality=95)


def animated(form: str) -> Callable[[], bytes]:
    frames = [plain(color=color) for color in (RED, GREEN, (0, 0, 250))]
    return lambda: encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=40)


def deep() -> bytes:
    """16 bits a pixel: 128 * 257 is half of the range, which clipping would make white."""
    return encoded(Image.fromarray(np.full((30, 40), 128 * 257, dtype=np.uint16)))


def ink() -> bytes:
    """Red as printers have it: no cyan, all magenta and yellow; Pillow writes it as Adobe does, inverted."""
    return encoded(plain(mode="CMYK", color=(0, 255, 255, 0)), "JPEG", quality=100)


def see_through(mode: str) -> Callable[[], bytes]:
    """Half of red, or of light grey, over white."""
    color = (*RED, 0) if mode == "RGBA" else (100, 0)
    return lambda: encoded(plain(color=color, mode=mode))


def palette() -> bytes:
    image = plain(mode="P", color=0)
    image.putpalette([10, 20, 30, 200, 40, 90])
    return encoded(image, transparency=0)


def bomb(name: bytes, head: bytes) -> Callable[[], bytes]:
    return lambda: png(8, 8, chunk(name, head + zlib.compress(bytes(70 * MEGABYTE), 9)))


def wrapped(more: bytes) -> Callable[[], bytes]:
    return lambda: encoded(plain(), "JPEG", quality=95) + more


def commented() -> bytes:
    """A JPEG with 20 MB of comments before its pixels."""
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    whole = encoded(plain(), "JPEG")
    return whole[:2] + comment * 320 + whole[2:]


def psd() -> bytes:
    """A Photoshop file of 2 x 2 pixels."""
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 2, 2, 8, 3)
    return head + struct.pack(">III", 0, 0, 0) + struct.pack(">H", 0) + bytes(12)


NO_FORMAT = "not a JPEG, PNG, WEBP or GIF image"
BROKEN_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff rubbish"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><rect width="40" height="30"/></svg>'
FITS = b"SIMPLE  =                    T" + b" " * 50 + b"END".ljust(2800)
HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200)

IMAGES: Mapping[str, ImageCase] = {
    "I02-text": ImageCase("a.jpg", "reject", NO_FORMAT, lambda: b"not a picture at all\n" * 20),
    "I02-empty": ImageCase("a.jpg", "reject", NO_FORMAT, lambda: b""),
    "I03-html": ImageCase("a.jpg", "reject", NO_FORMAT, lambda: b"<!DOCTYPE html><html>404 Not Found</html>"),
    **{f"I04-{form}": ImageCase(f"a.{form.lower()}", "reject", "damaged|cut-off", cut(form))
       for form in ("JPEG", "PNG", "WEBP")},
    "I04-no-pixels": ImageCase("a.png", "reject", "damaged", lambda: png(64, 64)[:33] + chunk(b"IEND", b"")),
    "I05-crc": ImageCase("a.png", "reject", "damaged", lambda: png(64, 64, crc=1)),
    "I06-gif-named-jpg": ImageCase("a.jpg", "warn", "'a.jpg' is a GIF", lambda: encoded(plain(), "GIF"), RED, 8),
    "I06-png-named-jpg": ImageCase("a.jpg", "warn", "'a.jpg' is a PNG", lambda: encoded(plain()), RED),
    "I07-cmyk": ImageCase("a.jpg", "ok", "", ink, (255, 0, 0)),
    "I08-one-bit": ImageCase("a.png", "ok", "", lambda: encoded(plain(mode="1", color=1)), (255, 255, 255), 0),
    "I08-grey": ImageCase("a.png", "ok", "", lambda: encoded(plain(mode="L", color=7)), (7, 7, 7), 0),
    "I08-grey-see-through": ImageCase("a.png", "ok", "", see_through("LA"), (255, 255, 255), 0),
    "I08-palette": ImageCase("a.png", "ok", "", palette, (255, 255, 255), 0),
    "I08-sixteen-bits": ImageCase("a.png", "ok", "", deep, (128, 128, 128), 0),
    "I08-float": ImageCase("a.tif", "reject", NO_FORMAT, lambda: encoded(plain(mode="F", color=0.5), "TIFF")),
    "I09-over-white": ImageCase("a.png", "ok", "", see_through("RGBA"), (255, 255, 255), 0),
    **{f"I10-turn-{turn}": ImageCase("a.jpg", "ok", "", turned(turn), RED, 12, (40, 30)) for turn in range(1, 9)},
    "I10-broken": ImageCase("a.jpg", "ok", "", lambda: encoded(plain(), "JPEG", exif=BROKEN_EXIF), RED, 8, (40, 30)),
    **{f"I11-{form}": ImageCase(f"a.{form.lower()}", "ok", "", animated(form), RED, 8)
       for form in ("GIF", "WEBP", "PNG")},
    "I12-dot": ImageCase("a.png", "reject", "1x1 pixels", lambda: encoded(plain(1, 1))),
    "I12-line": ImageCase("a.png", "reject", "1x5000 pixels", lambda: encoded(plain(1, 5000))),
    "I12-smallest": ImageCase("a.png", "ok", "", lambda: encoded(plain(2, 2)), RED, 0, (2, 2)),
    "I13-narrow": ImageCase("a.png", "reject", "12000x1 pixels", lambda: png(12000, 1), megabytes=10),
    "I14-bomb": ImageCase("a.png", "reject", "more than 4", lambda: png(13400, 13400), megabytes=10),
    "I15-over-the-cap": ImageCase("a.png", "reject", "9500x9500 pixels", lambda: png(9500, 9500), megabytes=10),
    "I16-zTXt": ImageCase("a.png", "reject", "damaged", bomb(b"zTXt", b"a\0\0"), megabytes=20),
    "I16-iCCP": ImageCase("a.png", "reject", "damaged", bomb(b"iCCP", b"a\0\0"), megabytes=20),
    **{f"I18-{form}": ImageCase("a.jpg", "reject", NO_FORMAT, lambda form=form: encoded(plain(32, 32), form))
       for form in ("TIFF", "ICO", "EPS", "AVIF")},
    "I18-PSD": ImageCase("a.jpg", "reject", NO_FORMAT, psd),
    "I18-SVG": ImageCase("a.jpg", "reject", NO_FORMAT, lambda: SVG),
    "I18-FITS": ImageCase("a.jpg", "reject", NO_FORMAT, lambda: FITS),
    "I18-HEIC": ImageCase("a.jpg", "reject", NO_FORMAT, lambda: HEIC),
    "I19-zip-behind": ImageCase("a.jpg", "ok", "", wrapped(b"PK\x05\x06" + bytes(18)), RED, 8, (40, 30)),
    "I19-html-behind": ImageCase("a.jpg", "ok", "", wrapped(b"<script>alert(1)</script>"), RED, 8, (40, 30)),
    "I21-metadata": ImageCase("a.jpg", "reject", "larger than 10 MB", commented, megabytes=10),
}  # fmt: skip
