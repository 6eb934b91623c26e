"""Decode the values of a JSON text piece by piece, with their positions in the file."""

from __future__ import annotations

import codecs
import json
import math
import re
import zlib
from typing import IO

from vistune.errors import DataError
from vistune.records.errors import RecordError

LARGEST_RECORD_BYTES = 16 * 2**20  # of JSON; images are in files of their own
LARGEST_WINDOW_BYTES = 4 * LARGEST_RECORD_BYTES  # a longer value is taken for a broken list
CHUNK_BYTES = 1 << 20  # read at once of a list
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r]*(,?)[ \t\n\r]*")


class JsonValues:
    """Decode JSON values inside a longer text; refuse NaN, Infinity and numbers such as 1e999."""

    def __init__(self) -> None:
        self.constants: list[str] = []
        self.decoder = json.JSONDecoder(parse_constant=self.constants.append, parse_float=self._number)
        self.end = 0

    def _number(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self.constants.append(digits)
        return number

    def at(self, text: str, start: int, location: str) -> tuple[object, int]:
        """Return the value that begins at `start`, and its end (also in `self.end`).

        Raises RecordError or JSONDecodeError.
        """
        self.constants.clear()
        try:
            value, self.end = self.decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError) as error:  # endless nesting, or a number with thousands of digits
            raise json.JSONDecodeError(str(error), text, start) from None
        if self.constants:
            raise RecordError(location, "", f"{self.constants[0][:20]} is not JSON", "write a number or null")
        return value, self.end


class JsonWindow:
    """The part of a JSON text that is in memory; `byte` and `line` give the position of `at` in the file."""

    def __init__(self, file: IO[bytes] | None, name: str, byte: int, text: str = "", line: int = 1) -> None:
        self.file, self.name = file, name
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.at = text, 0
        self.byte, self.line = byte, line
        self.chunk_bytes = CHUNK_BYTES

    def next_character(self) -> str:
        """Skip white space. Return the next character without consuming it, or "" at the end."""
        while True:
            if (end := after_space(self.text, self.at)) > self.at:
                self.skip(end - self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.read_on():
                return ""

    def next_separator(self) -> bool:
        """Skip white space and at most one comma. Return whether there was a comma."""
        seen = False
        while True:
            separator = _BETWEEN.match(self.text, self.at)
            assert separator is not None  # the pattern also matches the empty string
            end = separator.start(1) if seen else separator.end()  # a second comma is not consumed
            seen = seen or bool(separator[1])
            self.skip(end - self.at)
            if self.at < len(self.text) or not self.read_on():
                return seen

    def skip(self, length: int) -> None:
        """Consume white space or punctuation, one byte per character."""
        self.line += self.text.count("\n", self.at, self.at + length)
        self.byte += length
        self.at += length

    def take(self, length: int) -> tuple[int, int, int | None]:
        """Consume a value of `length` characters.

        Returns: Its size in bytes, its CRC-32, and the index of its first byte that is not UTF-8 (None: all are).
        """
        taken = self.text[self.at : self.at + length]
        bad_byte = None
        try:
            content = taken.encode()
        except UnicodeEncodeError as error:  # `surrogateescape` stands for bytes that are not UTF-8
            content = taken.encode(errors="surrogateescape")
            bad_byte = len(taken[: error.start].encode())
        self.line += content.count(b"\n")
        self.byte += len(content)
        self.at += length
        return len(content), zlib.crc32(content), bad_byte

    def read_on(self) -> bool:
        """Append the next piece of the file to `text`. Return False at the end of the file."""
        if self.file is None:
            return False
        block = self.file.read(self.chunk_bytes)
        piece = self.decoder.decode(block, final=not block)
        self.text, self.at = self.text[self.at :] + piece, 0
        return bool(block)

    def value(self, values: JsonValues, location: str) -> tuple[object, int]:
        """Return the value at `at`, or a RecordError if it is invalid, and its length. Raises DataError."""
        self.chunk_bytes = CHUNK_BYTES
        while True:
            fault: json.JSONDecodeError
            try:
                value, end = values.at(self.text, self.at, location)
            except RecordError as error:
                value, end = error, values.end
            except json.JSONDecodeError as error:
                value, end, fault = None, -1, error
            if 0 <= end < len(self.text):  # otherwise a number may continue in the next piece
                return value, end - self.at
            line = self.line if end >= 0 else self.line + self.text.count("\n", self.at, max(fault.pos, self.at))
            # An incomplete value looks like a broken one; only more text can distinguish them.
            if len(self.text) - self.at < LARGEST_WINDOW_BYTES and self.read_on():
                self.chunk_bytes *= 2
                continue
            if end >= 0:
                return value, end - self.at
            raise DataError(f"{self.name}:{line}: not JSON: {fault.msg}", "correct or remove the record")


def after_space(text: str, at: int) -> int:
    """Return the index of the first character from `at` on that is not white space."""
    space = _SPACE.match(text, at)
    assert space is not None  # the pattern also matches the empty string
    return space.end()
