"""What `make fuzz` runs for minutes, here on a hundred inputs: nothing but the project's own errors is raised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_modules import load_script

FUZZ = load_script("fuzz")
MARKS = st.sampled_from([b"<image>", b"</s>", b"[INST]", b"<|im_end|>", b"USER:", b"\xed\xa0\x80", b"\0", b"{", b'"'])


@pytest.mark.parametrize("name", FUZZ.TARGETS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(pieces=st.lists(st.binary(max_size=12) | MARKS, max_size=6), place=st.integers(0, 400), cut=st.integers(0, 20))
def test_any_bytes_are_read_or_refused(name: str, pieces: list[bytes], place: int, cut: int) -> None:
    """Bytes of their own, and the same within what the target is meant to read."""
    data = b"".join(pieces)
    FUZZ.tried(name, data)
    for seed in FUZZ.SEEDS[name]:
        FUZZ.tried(name, seed[:place] + data + seed[place + cut :])


@pytest.mark.parametrize("name", FUZZ.TARGETS)
def test_a_seed_is_of_its_kind(name: str) -> None:
    """Read without a fault, so that what is made of it reaches behind the first check."""
    for seed in FUZZ.SEEDS[name]:
        FUZZ.TARGETS[name](seed)
