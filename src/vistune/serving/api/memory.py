"""Memory that was freed, given back to the system.

glibc keeps what is freed to use it again, in an arena for each thread. A decoded picture of 6000 x 6000 pixels is
144 MB in blocks of 16; after a few of them hundreds of megabytes lay free in the arenas and were nobody's.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

LARGE_BYTES = 4 * 2**20  # what a request must have held for giving back to be worth its milliseconds
M_ARENA_MAX = -8  # malloc.h


def use_one_arena() -> None:
    """One arena for all threads, asked for before they start: of another one, `give_back` leaves the end as it is."""
    if (mallopt := _libc("mallopt")) is not None:
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Pages that hold nothing go back to the system; from any thread."""
    if (trim := _libc("malloc_trim")) is not None:
        trim(0)


def _libc(name: str) -> Any:
    """A function of the C library; None where it has no such, as other systems' do."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
