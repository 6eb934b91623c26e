"""Hostile replies: fragments of the rules' own words, and any text at all."""

from __future__ import annotations

from hypothesis import strategies as st

SCRAPS = (
    "A B. (C) ② 정답은 답: 예 아니오 yes No, not . , ' The answer is D. answer is **A** 1,000 -_- __import__('os')\n"
    "{0} %s None NaN ' \\ 1. ﷺ 😀 don't an a the two 10점 ² 0.5 8 9 correct wrong inf nan 1e999\n"
)
PIECES = st.sampled_from([*SCRAPS.split(), "\n", "\t", "", "\ud800"])
REPLIES = st.lists(
    st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map(" ".join)), min_size=100, max_size=100
)
ENDLESS = ["The answer is A", ".", "1,", " -", "don't ", "정답은 ", "(", "\n", "A ", "no "]
