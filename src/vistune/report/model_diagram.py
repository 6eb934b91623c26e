"""The model at a glance, read from left to right as LLaVA is.

picture -> vision encoder -> projector -> picture tokens ─┐
question -> embeddings -> text tokens ────────────────────┴-> language model -> answer
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vistune.planner.structure import ModelFacts
from vistune.report.pen import MUTED, TINTS, Pen, wrap

WIDTH, HEIGHT = 1100.0, 424.0  # points, as all lengths here
KINDS_OF_TOWER = {"clip_vision_model": "CLIP", "siglip_vision_model": "SigLIP"}


def model_sheet(name: str, facts: ModelFacts, labels: Mapping[str, Any]) -> Pen:
    """The model from left to right, the picture's lane above the text's; `name` is the recipe's."""
    pen = Pen(WIDTH, HEIGHT)
    count = f"{sum(facts.parameters.values()):,}"
    pen.head(labels["model_title"].format(name=name), labels["model_aim"].format(count=count))
    upper, lower = 246.0, 66.0  # the middle of the picture's lane, and of the text's
    _image(pen, facts, labels, upper)
    pen.arrow((146, upper), (178, upper))
    _part(pen, "vision", (182, upper), (168, 168), facts.vision, _vision_lines(facts, labels), facts, labels)
    _flow(pen, upper, (354, 424), f"{facts.tower_tokens:,} × {facts.vision_width:,}", facts, labels)
    _part(pen, "projector", (428, upper), (158, 168), facts.projector, _projector_lines(facts, labels), facts, labels)
    _flow(pen, upper, (590, 660), f"{facts.slots_per_tile:,} × {facts.language_width:,}", facts, labels)
    _question(pen, facts, labels, lower)
    _tokens(pen, facts, labels, upper, lower)
    _language(pen, facts, labels, upper, lower)
    _answer(pen, labels, (upper + lower) / 2)
    return pen


def _image(pen: Pen, facts: ModelFacts, labels: Mapping[str, Any], middle: float) -> None:
    """A landscape under the grid of its patches, or as an overview and tiles."""
    pen.words((86, middle + 72), labels["picture"], 11, bold=True, align="center", room=130)
    if facts.tiles is None:
        _landscape(pen, (30, middle - 48), 112, lines=facts.side // facts.patch)
        texts = [labels["pixels"].format(side=facts.side)]
    else:
        _landscape(pen, (30, middle - 18), 34, lines=0)
        pen.words((72, middle - 6), "+", 13, color=MUTED, align="center")
        _landscape(pen, (81, middle - 30), 58, lines=2)
        low, high = facts.tiles
        tiles = labels["tiles" if low < high else "tiles_same"].format(low=low, high=high)
        texts = [tiles, labels["tile_pixels"].format(side=facts.side)]
    for row, text in enumerate(texts):
        pen.words((86, middle - 64 - 13 * row), text, 9, color=MUTED, align="center", room=116)


def _landscape(pen: Pen, at: tuple[float, float], side: float, *, lines: int) -> None:
    x, y = at
    pen.box(at, (side, side), face="#d8ecf8", edge="none", round_=0.01)
    pen.disc((x + 0.68 * side, y + 0.72 * side), 0.13 * side, "#e0453a")
    for color, points in (
        ("#7d9cc4", ((0, 0.2), (0.3, 0.66), (0.62, 0.2))),
        ("#4f74a8", ((0.34, 0.2), (0.66, 0.54), (1, 0.2))),
        ("#8cbf6c", ((0, 0), (1, 0), (1, 0.24), (0, 0.24))),
    ):
        pen.polygon([(x + across * side, y + up * side) for across, up in points], color)
    for number in range(1, min(lines, 12)):  # more lines than that would hide the picture
        place = side * number / min(lines, 12)
        pen.line([(x + place, y), (x + place, y + side)], color="white", thick=0.7 if lines > 2 else 1.6)
        pen.line([(x, y + place), (x + side, y + place)], color="white", thick=0.7 if lines > 2 else 1.6)


def _vision_lines(facts: ModelFacts, labels: Mapping[str, Any]) -> list[str]:
    kept, whole = facts.vision_layers
    tower = KINDS_OF_TOWER.get(facts.vision_type, facts.vision_type)
    lines = [f"{tower} · {labels['used_layers'].format(kept=kept, all=whole)}"]
    lines.append(labels["patches"].format(grid=facts.side // facts.patch, patch=facts.patch))
    lines += [labels["class_token"]] if facts.class_token else []
    lines += [labels["joint"]] if facts.joint else []
    return lines


def _projector_lines(facts: ModelFacts, labels: Mapping[str, Any]) -> list[str]:
    steps = [
        step if isinstance(step, str) else labels["linear"].format(into=f"{step[0]:,}", out=f"{step[1]:,}")
        for step in facts.projector_steps
    ]
    if len(steps) > 4:
        steps = [*steps[:2], labels["more"].format(count=len(steps) - 3), steps[-1]]
    return steps or [labels["nothing"]]


def _part(
    pen: Pen, part: str, at: tuple[float, float], size: tuple[float, float], name: str, lines: Sequence[str],
    facts: ModelFacts, labels: Mapping[str, Any],
) -> None:  # fmt: skip
    """A box of the model, `at` the middle of its left edge: what it is, its name, what it does, how large it is."""
    (edge, face), (x, middle), (width, height) = TINTS[part], at, size
    pen.box((x, middle - height / 2), size, face=face, edge=edge)
    above, room = middle + height / 2, width - 24
    pen.words((x + 12, above - 22), labels[part], 12, bold=True, color=edge, room=room)
    pen.words((x + 12, above - 37), name, 9, color=MUTED, room=room)
    for row, line in enumerate(lines):
        pen.words((x + 12, above - 59 - 14 * row), line, 9.5, room=room)
    exact = labels["parameters"].format(count=f"{facts.parameters[part]:,}")
    pen.count((x + 12, middle - height / 2), facts.parameters[part], exact, room)


def _flow(
    pen: Pen, middle: float, ends: tuple[float, float], shape: str, facts: ModelFacts, labels: Mapping[str, Any]
) -> None:
    """An arrow with the shape of what flows through it."""
    center, room = (ends[0] + ends[1]) / 2, ends[1] - ends[0] - 2
    pen.arrow((ends[0], middle), (ends[1], middle))
    pen.words((center, middle + 9), shape, 10, bold=True, align="center", room=room)
    pen.words((center, middle - 16), labels["shape"], 8, color=MUTED, align="center", room=room)
    if facts.tiles is not None:
        pen.words((center, middle - 27), labels["each_tile"], 8, color=MUTED, align="center", room=room)


def _question(pen: Pen, facts: ModelFacts, labels: Mapping[str, Any], middle: float) -> None:
    """The text's lane: a question, and the embeddings that make tokens of its words."""
    pen.box((30, middle - 34), (320, 68), face=TINTS["said"][1], edge=TINTS["said"][0])
    pen.words((44, middle + 14), labels["question"], 11, bold=True, room=150)
    pen.words((336, middle + 14), labels["template"].format(name=facts.template), 9, color=MUTED, align="right")
    pen.words((44, middle - 12), labels["question_text"], 12, room=292)
    pen.arrow((354, middle), (424, middle))
    edge, _ = TINTS["language"]
    pen.box((428, middle - 34), (158, 68), face="white", edge=edge, dashed=True)
    pen.words((440, middle + 14), labels["embedding"], 11, bold=True, color=edge, room=134)
    pen.words((440, middle - 3), f"{facts.vocabulary:,} × {facts.language_width:,}", 9.5, room=134)
    pen.words((440, middle - 20), labels["embedding_part"], 8.5, color=MUTED, room=134)
    pen.arrow((590, middle), (660, middle))


def _tokens(pen: Pen, facts: ModelFacts, labels: Mapping[str, Any], upper: float, lower: float) -> None:
    """Picture tokens above text tokens, as the language model reads them in one row."""
    x, columns, cell, step = 673.0, 6, 10.0, 13.6
    low, high = facts.slots
    count = f"{low:,}" if low == high else f"{low:,}…{high:,}"
    # As many squares as tokens where they have room, else dots below; how long a text is, nobody knows beforehand.
    for part, middle, squares, more in (
        ("projector", upper, min(high, 36), high > 36),
        ("language", lower, 2 * columns, True),
    ):
        head = middle + step * math.ceil(squares / columns) / 2
        for place in range(squares):
            corner = (x + step * (place % columns), head - step * (place // columns) - cell - (step - cell) / 2)
            pen.box(corner, (cell, cell), face=TINTS[part][0], edge="none", round_=2.5)
        for dot in range(3 if more else 0):
            pen.disc((x + step * (dot + 2) - 2, 2 * middle - head - 6), 1.8, TINTS[part][0])
    center = x + (columns * step - (step - cell)) / 2
    pen.words((center, upper + 68), count, 12, bold=True, color=TINTS["projector"][0], align="center", room=112)
    pen.words((center, upper + 54), labels["picture_tokens"], 9, align="center", room=112)
    notes = [labels["where"], *([labels["newline"]] if facts.tiles else [])]
    for row, note in enumerate(notes):
        pen.words((center, upper - 66 - 12 * row), note, 8, color=MUTED, align="center", room=122)
    pen.words((center, lower + 24), labels["text_tokens"], 9, align="center", room=112)


def _language(pen: Pen, facts: ModelFacts, labels: Mapping[str, Any], upper: float, lower: float) -> None:
    """The language model beside both lanes, a bar for each of its layers as far as they have room."""
    x, foot, head = 806.0, lower - 34, upper + 84
    for middle in (upper, lower):
        pen.arrow((764, middle), (802, middle))
    lines = [
        f"{facts.language_type} · {labels['layers'].format(all=facts.language_layers)}",
        labels["width"].format(width=f"{facts.language_width:,}"),
        labels["vocabulary"].format(size=f"{facts.vocabulary:,}"),
    ]
    size, middle = (164, head - foot), (head + foot) / 2
    _part(pen, "language", (x, middle), size, facts.language, lines, facts, labels)
    shown = min(facts.language_layers, 8)
    for row in range(shown):
        pen.box((x + 14, foot + 56 + 13 * row), (136, 8), face="#bfe3d2", edge="none", round_=3)


def _answer(pen: Pen, labels: Mapping[str, Any], middle: float) -> None:
    pen.arrow((974, middle), (990, middle))
    pen.box((994, middle - 62), (90, 124), face=TINTS["said"][1], edge=TINTS["said"][0])
    pen.words((1006, middle + 40), labels["answer"], 11, bold=True, room=68)
    for row, line in enumerate(wrap(labels["answer_text"], 68, 10.5)):
        pen.words((1006, middle + 20 - 14 * row), line, 10.5, room=68)
    for row, line in enumerate(wrap(labels["learnt"], 68, 8)):
        pen.words((1006, middle - 30 - 10.5 * row), line, 8, color=MUTED, room=68)
