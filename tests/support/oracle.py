"""An independent oracle: every question that boxes decide, word for word, with its type and answer.

It shares no code and no words with `vistune.grounding`; its words are in `oracle_words`. A question that is not in its
table is one that the boxes leave open, or one in bad grammar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from oracle_words import EN_PLACES, KO_COLORS, KO_PLACES, SHAPES, WORDS, article, eun, i, with_particle

from vistune.types import Box


@dataclass(frozen=True)
class Oracle:
    boxes: tuple[Box, ...]
    korean: bool

    @property
    def drawn(self) -> bool:
        return all(box.label in SHAPES for box in self.boxes)

    def is_open(self, place: str, box: Box) -> bool:
        """Whether no other box covers the middle of the place."""
        index = (KO_PLACES if self.korean else EN_PLACES).index(place)
        x, y = (index % 3 + 0.5) / 3, (index // 3 + 0.5) / 3
        return not any(b is not box and b.x0 <= x <= b.x1 and b.y0 <= y <= b.y1 for b in self.boxes)

    def noun(self, label: str) -> str:
        return WORDS[label][1] if self.korean else label

    def color(self, color: str) -> str:
        return KO_COLORS[color] if self.korean else color

    def name(self, box: Box) -> str:
        color = box.attributes.get("color")
        return f"{self.color(color)} {self.noun(box.label)}" if color else self.noun(box.label)

    def place(self, box: Box) -> str:
        column, row = (min(int(3 * (low + high) / 2), 2) for low, high in ((box.x0, box.x1), (box.y0, box.y1)))
        return (KO_PLACES if self.korean else EN_PLACES)[3 * row + column]

    def truth(self, value: bool) -> str:
        return ("네" if value else "아니요") if self.korean else ("yes" if value else "no")

    def known_by_name(self) -> list[Box]:
        """Return boxes whose name fits no other box; a box of unknown colour may have any colour."""
        return [
            a
            for a in self.boxes
            if not any(
                a is not b and a.label == b.label and colors_may_agree(a.attributes, b.attributes) for b in self.boxes
            )
        ]

    def settled(self) -> dict[str, tuple[str, str]]:
        """Return each question with its (type, answer)."""
        table: dict[str, tuple[str, str]] = {}
        for kind, answer, questions in self._all():
            for question in questions:
                assert table.setdefault(question, (kind, answer)) == (kind, answer), "the oracle contradicts itself"
        return table

    def _all(self) -> Iterator[tuple[str, str, Iterable[str]]]:
        yield from self._single()
        yield from self._counted()
        for box in self.known_by_name():
            yield from self._named(box)
            for other in self.known_by_name():
                if other is not box:
                    yield from self._compared(box, other)

    def _single(self) -> Iterator[tuple[str, str, Iterable[str]]]:
        """Yield the questions about the object at a place, with a label, or with a colour."""
        for box in self.boxes:
            label, place, color = self.noun(box.label), self.place(box), box.attributes.get("color")
            shape = box.label in SHAPES
            if color and sum(b.label == box.label for b in self.boxes) == 1:
                yield (
                    "colour",
                    self.color(color),
                    (
                        (f"{eun(label)} 무슨 색인가요?", f"{label}의 색은 무엇인가요?")
                        if self.korean
                        else (f"What colour is the {label}?", f"Which colour does the {label} have?")
                    ),
                )
            if color and box.label != "person" and all("color" in b.attributes for b in self.boxes):
                word = self.color(color)
                if sum(b.attributes["color"] == color for b in self.boxes) == 1:
                    yield (
                        "shape",
                        label,
                        (
                            (f"{word} 물체는 무슨 모양인가요?", f"{word} 물체의 모양은 무엇인가요?")
                            if self.korean and shape
                            else (f"{word} 물체는 무엇인가요?",)
                            if self.korean
                            else (f"What shape is the {word} object?", f"Which shape is {word}?")
                            if shape
                            else (f"What is the {word} object?",)
                        ),
                    )
            alone = sum(self.place(b) == place for b in self.boxes) == 1 and self.is_open(place, box)
            if box.area <= 0.25 and alone:
                if color and box.label != "person":
                    yield (
                        "colour",
                        self.color(color),
                        (
                            (f"{place}에 있는 물체는 무슨 색인가요?",)
                            if self.korean
                            else (f"What colour is the object at the {place}?",)
                        ),
                    )
                yield (
                    "shape",
                    label,
                    (
                        (f"{place}에 있는 물체는 무슨 모양인가요?", f"{place}에는 무슨 모양이 있나요?")
                        if self.korean and shape
                        else (f"사진의 {place}에는 무엇이 있나요?", f"{place}에 무엇이 보이나요?")
                        if self.korean
                        else (f"What shape is at the {place}?", f"What shape is the object at the {place}?")
                        if shape
                        else (f"What is at the {place} of the picture?", f"What can be seen at the {place}?")
                    ),
                )

    def _counted(self) -> Iterator[tuple[str, str, Iterable[str]]]:
        total = len(self.boxes)
        people = any(box.label == "person" for box in self.boxes)
        if total and not people and all("color" in box.attributes for box in self.boxes):
            yield "count", str(total), ("물체는 모두 몇 개인가요?" if self.korean else "How many objects are there?",)
            for color in KO_COLORS:
                word, number = self.color(color), sum(box.attributes["color"] == color for box in self.boxes)
                yield (
                    "count",
                    str(number),
                    (f"{word} 물체는 몇 개인가요?" if self.korean else f"How many {word} objects are there?",),
                )
        for label, (plural, noun, counter) in WORDS.items():
            number = sum(box.label == label for box in self.boxes)
            yield (
                "count",
                str(number),
                (
                    (
                        f"{eun(noun)} 몇 {counter}인가요?",
                        f"{i(noun)} 몇 {counter} 있나요?",
                        f"사진에 {i(noun)} 몇 {counter} 보이나요?",
                    )
                    if self.korean
                    else (
                        f"How many {plural} are there?",
                        f"How many {plural} can you see?",
                        f"How many {plural} are there in the picture?",
                    )
                ),
            )
            if number > 1 and not self.drawn:
                yield "removal", str(number - 1), self._one_less(noun, counter, plural)
            if number and self.drawn:
                yield (
                    "removal",
                    str(total - number),
                    (
                        (
                            f"{with_particle(noun, '을', '를')} 모두 없애면 물체는 몇 개 남나요?",
                            f"{i(noun)} 없으면 물체는 몇 개인가요?",
                        )
                        if self.korean
                        else (
                            f"If all {plural} are removed, how many objects are left?",
                            f"How many objects are left without the {plural}?",
                        )
                    ),
                )
            yield from self._there(label)
            for other, (others, other_noun, _) in WORDS.items():
                rest = sum(box.label == other for box in self.boxes)
                if number and rest and number != rest:
                    yield (
                        "comparison",
                        self.truth(number > rest),
                        (f"{i(noun)} {other_noun}보다 더 많은가요?", f"{other_noun}보다 {i(noun)} 더 많이 보이나요?")
                        if self.korean
                        else (f"Are there more {plural} than {others}?", f"Do you see more {plural} than {others}?"),
                    )

    def _one_less(self, noun: str, counter: str, plural: str) -> tuple[str, ...]:
        """Yield two wordings for objects that can leave, and two for objects that are taken away."""
        if self.korean:
            one = f"한 {counter}"
            return (
                f"{noun} {i(one)} 떠나면 {eun(noun)} 몇 {counter} 남나요?",
                f"{noun} 가운데 {i(one)} 자리를 뜨면 몇 {i(counter)} 남나요?",
                f"{noun} {with_particle(one, '을', '를')} 치우면 {eun(noun)} 몇 {counter} 남나요?",
                f"{noun} 가운데 {with_particle(one, '을', '를')} 빼면 몇 {i(counter)} 남나요?",
            )
        return (
            f"If one of the {plural} left, how many {plural} would remain?",
            f"How many {plural} would be left if one of them went away?",
            f"If one of the {plural} were taken away, how many {plural} would be left?",
            f"How many {plural} would be left if one of them were taken away?",
        )

    def _there(self, label: str) -> Iterator[tuple[str, str, Iterable[str]]]:
        kinds = [box.attributes.get("color", "") for box in self.boxes if box.label == label]
        for color in ("", *KO_COLORS):
            if color and "" in kinds and color not in kinds:
                continue  # one of unknown colour may have this one
            name = f"{self.color(color)} {self.noun(label)}" if color else self.noun(label)
            yield (
                "existence",
                self.truth(color in kinds if color else bool(kinds)),
                (
                    (f"{i(name)} 있나요?", f"{i(name)} 보이나요?", f"사진에 {i(name)} 있나요?")
                    if self.korean
                    else (
                        f"Is there {article(name)}?",
                        f"Can you see {article(name)}?",
                        f"Is there {article(name)} in the picture?",
                        f"Does the picture show {article(name)}?",
                    )
                ),
            )

    def _named(self, box: Box) -> Iterator[tuple[str, str, Iterable[str]]]:
        name, size = self.name(box), box.attributes.get("size")
        if box.area <= 0.25:
            yield (
                "position",
                self.place(box),
                (
                    (
                        f"{eun(name)} 어디에 있나요?",
                        f"{name}의 위치는 어디인가요?",
                        f"{eun(name)} 사진의 어느 쪽에 있나요?",
                    )
                    if self.korean
                    else (
                        f"Where is the {name}?",
                        f"At which place is the {name}?",
                        f"Where in the picture is the {name}?",
                        f"In which part of the picture is the {name}?",
                    )
                ),
            )
        if size:
            yield (
                "size",
                ("큽니다" if size == "large" else "작습니다") if self.korean else size,
                (
                    (f"{eun(name)} 큰가요, 작은가요?", f"{name}의 크기는 어떤가요?")
                    if self.korean
                    else (f"Is the {name} large or small?", f"What size is the {name}?")
                ),
            )

    def _compared(self, a: Box, b: Box) -> Iterator[tuple[str, str, Iterable[str]]]:
        one, other = self.name(a), self.name(b)
        areas = ((box.x1 - box.x0) * (box.y1 - box.y0) for box in (a, b))
        large, small = sorted(zip(areas, (one, other), strict=True), reverse=True)
        if large[0] >= 1.8 * small[0]:
            yield (
                "comparison",
                large[1],
                (
                    (f"{with_particle(one, '과', '와')} {other} 가운데 더 큰 것은 무엇인가요?",)
                    if self.korean and self.drawn
                    else (
                        f"{with_particle(one, '과', '와')} {other} 가운데 사진에서 어느 쪽이 더 크게 보이나요?",
                        f"사진에서 더 크게 보이는 쪽은 {one}인가요, {other}인가요?",
                    )
                    if self.korean
                    else (f"Which is larger, the {one} or the {other}?",)
                    if self.drawn
                    else (
                        f"Which looks larger in the picture, the {one} or the {other}?",
                        f"Does the {one} or the {other} take up more of the picture?",
                    )
                ),
            )
        right, below = ((high + low) / 2 for high, low in ((b.x0, b.x1), (b.y0, b.y1)))
        across, down = right - (a.x0 + a.x1) / 2, below - (a.y0 + a.y1) / 2
        if abs(across) >= 0.2 - 1e-9:
            yield (
                "comparison",
                self.truth(across > 0),
                (
                    (f"{eun(one)} {other}의 왼쪽에 있나요?", f"{eun(one)} {other}보다 왼쪽에 있나요?")
                    if self.korean
                    else (f"Is the {one} to the left of the {other}?", f"Is the {one} further left than the {other}?")
                ),
            )
        if abs(down) >= 0.2 - 1e-9:
            yield (
                "comparison",
                self.truth(down > 0),
                (
                    (f"{eun(one)} {other}의 위쪽에 있나요?", f"{eun(one)} {other}보다 위쪽에 있나요?")
                    if self.korean and self.drawn
                    else (f"사진에서 {eun(one)} {other}보다 위쪽에 있나요?", f"{i(one)} {other}보다 위쪽에 보이나요?")
                    if self.korean
                    else (f"Is the {one} above the {other}?", f"Is the {one} higher than the {other}?")
                    if self.drawn
                    else (
                        f"Is the {one} higher in the picture than the {other}?",
                        f"Is the {one} further up in the picture than the {other}?",
                    )
                ),
            )


def colors_may_agree(a: object, b: object) -> bool:
    assert isinstance(a, dict)
    assert isinstance(b, dict)
    return a.get("color") is None or b.get("color") is None or a["color"] == b["color"]


def settled(boxes: Sequence[Box], language: str) -> dict[str, tuple[str, str]]:
    return Oracle(tuple(boxes), language == "ko").settled()
