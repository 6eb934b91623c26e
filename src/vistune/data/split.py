"""A share of the rows set aside to be measured: by picture, so that none is both learnt from and measured.

all stages' Choices + share + seed -> which of each choice's rows are set aside
Rows that show the same picture, directly or over others, go together; the seed and the pictures' names decide, not
the rows' order, so that rows added later move no other row to the other side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from vistune.data.selection import Choice


def held_out(choices: Sequence[Choice], share: float, seed: int) -> list[np.ndarray]:
    """For each choice, a bool for each of its rows: whether it is set aside; about `share` of the groups are."""
    groups = _Groups()
    found = [list(_nodes_of(choice, groups)) for choice in choices]
    aside: dict[int, bool] = {}
    sides = []
    for nodes in found:
        roots = [groups.root(node) for node in nodes]
        for root in roots:
            if root not in aside:
                aside[root] = _chance(seed, groups.names[root]) < share
        sides.append(np.array([aside[root] for root in roots], bool))
    return sides


def without(choice: Choice, aside: np.ndarray) -> Choice:
    """The choice without the rows that are set aside."""
    return replace(choice, rows=choice.rows[~aside], lengths=choice.lengths[~aside])


def only(choice: Choice, aside: np.ndarray) -> Choice:
    """The rows that are set aside alone, without the faults, which belong to the others."""
    return replace(choice, rows=choice.rows[aside], lengths=choice.lengths[aside], faults=())


def images_in(choices: Sequence[Choice]) -> set[str]:
    """Where the pictures lie that the choices' rows show."""
    return {
        str(choice.index.folders.find(name, choice.index.data.name, "image").source)
        for choice in choices
        for names in _shown(choice)
        for name in names
    }


class _Groups:
    """Pictures that rows show together, as a forest; a group is called by the first of its names."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.parents: list[int] = []
        self.names: list[str] = []

    def node(self, identity: str, name: str) -> int:
        place = self.places.get(identity)
        if place is None:
            place = self.places[identity] = len(self.parents)
            self.parents.append(place)
            self.names.append(name)
        root = self.root(place)  # two files may write one picture's name differently
        self.names[root] = min(self.names[root], name)
        return place

    def root(self, node: int) -> int:
        while self.parents[node] != node:
            self.parents[node] = self.parents[self.parents[node]]
            node = self.parents[node]
        return node

    def join(self, one: int, other: int) -> None:
        one, other = self.root(one), self.root(other)
        self.parents[other] = one
        self.names[one] = min(self.names[one], self.names[other])


def _nodes_of(choice: Choice, groups: _Groups) -> Iterator[int]:
    """Each row's group by one of its pictures; a row without any is its own text."""
    made = choice.index
    for row, names in zip(choice.rows.tolist(), _shown(choice), strict=True):
        if not names:
            text = f"text {made.columns['crc'][row]} {made.columns['size'][row]}"
            yield groups.node(text, text)
            continue
        first, *others = [
            groups.node(f"picture {made.folders.find(n, made.data.name, 'image').source}", f"picture {n}")
            for n in names
        ]
        for other in others:
            groups.join(first, other)
        yield first


def _shown(choice: Choice) -> Iterator[list[str]]:
    """The pictures of each chosen row, as the file writes them."""
    made = choice.index
    ends = np.cumsum(made.columns["pictures"])
    for row in choice.rows.tolist():
        yield [made.names[place] for place in made.shown[ends[row] - made.columns["pictures"][row] : ends[row]]]


def _chance(seed: int, name: str) -> float:
    """0 to 1, the same for a name and a seed on every machine."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
