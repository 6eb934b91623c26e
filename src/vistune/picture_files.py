"""Which picture files are read, everywhere alike: no other decoder of Pillow's meets a stranger's file."""

from __future__ import annotations

import struct

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # Pillow's names
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
LARGEST_PIXELS = 40_000_000
# What Pillow raises on damaged files; LookupError and struct.error are its own slips on what should be there.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, LookupError, struct.error, Image.DecompressionBombError)
