"""The model and its stages at a glance: what a recipe builds, what it freezes, what learns.

ModelFacts + StageFacts (plain values) -> Pen -> model.svg/.png · stages.svg/.png, in English or Korean
Left to right as LLaVA is read: picture -> vision encoder -> projector -> language model -> answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.files import read_json
from vistune.registry import lookup
from vistune.report.pen import INK, MUTED, RULE, Pen, style, wrap

WIDTH = 1100  # points, as all lengths here
COLORS = {  # part: edge, face
    "vision": ("#0b65ad", "#e9f2fa"),
    "projector": ("#d9730d", "#fdf1e3"),
    "language": ("#1b7f5c", "#e7f5ee"),
    "frozen": ("#86b9de", "#eef6fc"),
    "learns": ("#e8590c", "#fff1e4"),
}
KINDS_OF_TOWER = {"clip_vision_model": "CLIP", "siglip_vision_model": "SigLIP"}
PARTS = ("vision", "projector", "language", "adapters")
CARD, GAP = 172, 16
UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "K"))
Labels = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a recipe's model is made of; sizes in pixels, tokens and parameters, pairs as (least, most).

    `tower_tokens` and `slots_per_tile`: before and behind the projector · `projector_steps`: its layers in order, as
    (into, out) of a linear one or another's name · `tiles` of the canvas: None where a picture is one tile ·
    `slots`: of a picture, row ends included.
    """

    vision: str
    vision_type: str
    vision_layers: tuple[int, int]  # kept, all
    vision_width: int
    patch: int
    side: int
    class_token: bool
    joint: bool
    tower_tokens: int
    projector: str
    projector_steps: tuple[tuple[int, int] | str, ...]
    slots_per_tile: int
    tiles: tuple[int, int] | None
    slots: tuple[int, int]
    language: str
    language_type: str
    language_layers: int
    language_width: int
    vocabulary: int
    template: str
    parameters: Mapping[str, int]  # by part


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """A stage: its peak rates by part that learns, and the parameters of every part it has."""

    name: str
    learn: Mapping[str, float]
    parameters: Mapping[str, int]
    lora_rank: int | None
    steps: int | None
    epochs: float | None
    samples_per_step: int
    optimizer: str
    schedule: str
    template: str
    kinds: tuple[str, ...] | None


def draw_diagrams(
    name: str, model: ModelFacts, stages: Sequence[StageFacts], folder: Path, *, language: str = "en"
) -> list[Path]:
    """Write model.svg, model.png, stages.svg and stages.png; `name` is the recipe's.

    Raises RecipeError for an unknown language, and for letters that no font of this machine has.
    """
    labels: Labels = lookup(language, read_json(Path(__file__).with_name("diagrams.json")), "language")
    with style():
        sheets = (
            ("model", labels["model_title"].format(name=name), _model(name, model, labels)),
            ("stages", labels["stages_title"].format(name=name), _stages(name, stages, labels)),
        )
        return [path for file, title, pen in sheets for path in pen.save(folder, file, title)]


def short(count: int) -> str:
    """Four digits and a unit: 20,979,712 is 20.98 M; numbers below a thousand stand as they are."""
    for unit, letter in UNITS:
        if count >= unit * 0.99995:
            value = count / unit
            return f"{value:.{max(0, 3 - len(str(int(value + 0.0005))))}f}".removesuffix(".") + f" {letter}"
    return str(count)


def rate_text(rate: float) -> str:
    """As a recipe would write it: 3e-3, 2.5e-5."""
    mantissa, _, exponent = f"{rate:.12e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _head(pen: Pen, title: str, aim: str, top: float) -> None:
    pen.words((28, top - 38), title, 18, bold=True, room=WIDTH - 56)
    pen.words((28, top - 60), aim, 11, color=MUTED, room=WIDTH - 260)


def _model(name: str, facts: ModelFacts, labels: Labels) -> Pen:
    top = 436.0
    pen = Pen(WIDTH, top)
    count = f"{sum(facts.parameters.values()):,}"
    _head(pen, labels["model_title"].format(name=name), labels["model_aim"].format(count=count), top)
    upper, lower = 256.0, 78.0  # the middle of the picture's lane, and of the text's
    _picture(pen, facts, labels, upper)
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


def _picture(pen: Pen, facts: ModelFacts, labels: Labels, middle: float) -> None:
    """A landscape under the grid of its patches, or as an overview and tiles."""
    pen.words((86, middle + 72), labels["picture"], 11, bold=True, align="center", room=130)
    if facts.tiles is None:
        _landscape(pen, (30, middle - 48), 112, lines=facts.side // facts.patch)
        texts = [labels["pixels"].format(side=facts.side)]
    else:
        _landscape(pen, (30, middle - 18), 34, lines=0)
        pen.words((72, middle - 6), "+", 13, color=MUTED, align="center")
        _landscape(pen, (82, middle - 33), 64, lines=2)
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


def _vision_lines(facts: ModelFacts, labels: Labels) -> list[str]:
    kept, whole = facts.vision_layers
    tower = KINDS_OF_TOWER.get(facts.vision_type, facts.vision_type)
    lines = [f"{tower} · {labels['used_layers'].format(kept=kept, all=whole)}"]
    grid = facts.side // facts.patch
    lines.append(f"{labels['patches'].format(patch=facts.patch)} · {grid} × {grid}")
    lines += [labels["class_token"]] if facts.class_token else []
    lines += [labels["joint"]] if facts.joint else []
    return lines


def _projector_lines(facts: ModelFacts, labels: Labels) -> list[str]:
    steps = [
        step if isinstance(step, str) else labels["linear"].format(into=f"{step[0]:,}", out=f"{step[1]:,}")
        for step in facts.projector_steps
    ]
    if len(steps) > 4:
        steps = [*steps[:2], labels["more"].format(count=len(steps) - 3), steps[-1]]
    return steps or [labels["nothing"]]


def _part(
    pen: Pen, part: str, at: tuple[float, float], size: tuple[float, float], name: str, lines: Sequence[str],
    facts: ModelFacts, labels: Labels,
) -> None:  # fmt: skip
    """A box of the model, `at` the middle of its left edge: what it is, its name, what it does, how large it is."""
    (edge, face), (x, middle), (width, height) = COLORS[part], at, size
    pen.box((x, middle - height / 2), size, face=face, edge=edge)
    above, room = middle + height / 2, width - 24
    pen.words((x + 12, above - 22), labels[part], 12, bold=True, color=edge, room=room)
    pen.words((x + 12, above - 37), name, 9, color=MUTED, room=room)
    for row, line in enumerate(lines):
        pen.words((x + 12, above - 59 - 14 * row), line, 9.5, room=room)
    _size(pen, (x + 12, middle - height / 2), facts.parameters[part], room, labels)


def _size(pen: Pen, at: tuple[float, float], count: int, room: float, labels: Labels) -> None:
    """A count of parameters at the foot of a box: short and large, exact and small."""
    x, foot = at
    pen.words((x, foot + 25), short(count), 14, bold=True, room=room)
    pen.words((x, foot + 11), labels["parameters"].format(count=f"{count:,}"), 8.5, color=MUTED, room=room)


def _flow(
    pen: Pen, middle: float, ends: tuple[float, float], shape: str, facts: ModelFacts, labels: Labels
) -> None:
    """An arrow with the shape of what flows through it."""
    center, room = (ends[0] + ends[1]) / 2, ends[1] - ends[0] - 2
    pen.arrow((ends[0], middle), (ends[1], middle))
    pen.words((center, middle + 9), shape, 10, bold=True, align="center", room=room)
    pen.words((center, middle - 16), labels["shape"], 8, color=MUTED, align="center", room=room)
    if facts.tiles is not None:
        pen.words((center, middle - 27), labels["each_tile"], 8, color=MUTED, align="center", room=room)


def _question(pen: Pen, facts: ModelFacts, labels: Labels, middle: float) -> None:
    """The text's lane: a question, and the embeddings that make tokens of its words."""
    pen.box((30, middle - 34), (320, 68), face="#f6f7f8", edge=RULE)
    pen.words((44, middle + 14), labels["question"], 11, bold=True, room=150)
    pen.words((336, middle + 14), labels["template"].format(name=facts.template), 9, color=MUTED, align="right")
    pen.words((44, middle - 12), labels["question_text"], 12, room=292)
    pen.arrow((354, middle), (424, middle))
    edge, _ = COLORS["language"]
    pen.box((428, middle - 34), (158, 68), face="white", edge=edge, dashed=True)
    pen.words((440, middle + 14), labels["embedding"], 11, bold=True, color=edge, room=134)
    pen.words((440, middle - 3), f"{facts.vocabulary:,} × {facts.language_width:,}", 9.5, room=134)
    pen.words((440, middle - 20), labels["embedding_part"], 8.5, color=MUTED, room=134)
    pen.arrow((590, middle), (660, middle))


def _tokens(pen: Pen, facts: ModelFacts, labels: Labels, upper: float, lower: float) -> None:
    """Picture tokens above text tokens, as the language model reads them in one row."""
    x, cell, step = 672.0, 12.0, 16.0
    low, high = facts.slots
    count = f"{low:,}" if low == high else f"{low:,}…{high:,}"
    for part, middle, rows in (("projector", upper, 5), ("language", lower, 3)):
        for place in range(5 * rows if part == "language" else min(high, 5 * rows)):
            corner = (x + step * (place % 5), middle + step * (rows / 2 - 1 - place // 5) + (step - cell) / 2)
            pen.box(corner, (cell, cell), face=COLORS[part][0], edge="none", round_=3)
    center = x + 2.5 * step - (step - cell) / 2
    pen.words((center, upper + 68), count, 12, bold=True, color=COLORS["projector"][0], align="center", room=112)
    pen.words((center, upper + 54), labels["picture_tokens"], 9, align="center", room=112)
    notes = [labels["where"], *([labels["newline"]] if facts.tiles else [])]
    for row, note in enumerate(notes):
        pen.words((center, upper - 58 - 12 * row), note, 8, color=MUTED, align="center", room=122)
    pen.words((center, lower + 32), labels["text_tokens"], 9, align="center", room=112)


def _language(pen: Pen, facts: ModelFacts, labels: Labels, upper: float, lower: float) -> None:
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


def _answer(pen: Pen, labels: Labels, middle: float) -> None:
    pen.arrow((974, middle), (990, middle))
    pen.box((994, middle - 62), (90, 124), face="#f6f7f8", edge=RULE)
    pen.words((1006, middle + 40), labels["answer"], 11, bold=True, room=68)
    for row, line in enumerate(wrap(labels["answer_text"], 68, 10.5)):
        pen.words((1006, middle + 20 - 14 * row), line, 10.5, room=68)
    for row, line in enumerate(wrap(labels["learnt"], 68, 8)):
        pen.words((1006, middle - 41 - 10 * row), line, 8, color=MUTED, room=68)


def _stages(name: str, stages: Sequence[StageFacts], labels: Labels) -> Pen:
    top = 78.0 + len(stages) * (CARD + GAP) + 8
    pen = Pen(WIDTH, top)
    _head(pen, labels["stages_title"].format(name=name), labels["stages_aim"], top)
    pen.snowflake((WIDTH - 196, top - 34), 17)
    pen.words((WIDTH - 182, top - 38), labels["frozen"], 11, room=60)
    pen.flame((WIDTH - 96, top - 33), 19)
    pen.words((WIDTH - 82, top - 38), labels["learns"], 11, room=60)
    for number, stage in enumerate(stages):
        _card(pen, number + 1, stage, top - 78 - number * (CARD + GAP), labels)
    return pen


def _card(pen: Pen, number: int, stage: StageFacts, top: float, labels: Labels) -> None:
    pen.box((24, top - CARD), (WIDTH - 48, CARD), face="white", edge=RULE)
    pen.disc((54, top - 30), 14, INK)
    pen.words((54, top - 34.5), str(number), 13, color="white", bold=True, align="center", room=24)
    pen.words((78, top - 35.5), stage.name, 15, bold=True, room=160)
    for row, line in enumerate(_stage_lines(stage, labels)):
        pen.words((40, top - 66 - 15.5 * row), line, 9.5, color=INK if row == 0 else MUTED, room=200)
    learning = set(stage.learn)
    aim = "align" if learning == {"projector"} else "instruct" if learning & {"language", "adapters"} else "other"
    pen.words((258, top - 34), labels[aim], 11, color=MUTED, room=790)
    places = {"vision": (258, 158), "projector": (446, 158), "language": (634, 210)}
    if "adapters" in stage.parameters:
        places |= {"language": (634, 122), "adapters": (762, 122)}
    for part, (x, width) in places.items():
        _block(pen, part, (x, top - CARD + 18), width, stage, labels)
    for x in (420, 608):
        pen.arrow((x, top - 101), (x + 22, top - 101))
    _share(pen, stage, top, labels)


def _stage_lines(stage: StageFacts, labels: Labels) -> list[str]:
    if stage.steps is not None:
        length = labels["steps"].format(count=f"{stage.steps:,}")
    else:
        length = labels["epoch" if stage.epochs == 1 else "epochs"].format(count=f"{stage.epochs:g}")
    kinds = labels["all_kinds"]
    if stage.kinds is not None:
        kinds = ", ".join(labels["kinds"].get(kind, kind) for kind in stage.kinds)
    return [
        f"{length} · {labels['samples'].format(count=f'{stage.samples_per_step:,}')}",
        f"{stage.optimizer} · {stage.schedule}",
        labels["template"].format(name=stage.template),
        *wrap(kinds, 200, 9.5)[:3],
    ]


def _block(pen: Pen, part: str, at: tuple[float, float], width: float, stage: StageFacts, labels: Labels) -> None:
    """A part in a stage: frozen in ice blue, or learning in fire with its rate."""
    (x, foot), height, learns = at, 106, part in stage.learn
    edge, face = COLORS["learns" if learns else "frozen"]
    pen.box(at, (width, height), face=face, edge=edge, thick=1.8 if learns else 1.2)
    mark = (x + width - 18, foot + height - 19)
    pen.flame(mark, 22) if learns else pen.snowflake(mark, 19)
    pen.words((x + 12, foot + height - 23), labels[part], 11.5, bold=True, room=width - 48)
    state = labels["frozen"]
    if learns:
        state = f"{labels['learns']} · {labels['rate'].format(rate=rate_text(stage.learn[part]))}"
    if part == "adapters":
        pen.words((x + 12, foot + height - 38), labels["rank"].format(rank=stage.lora_rank), 9, color=MUTED)
    pen.words((x + 12, foot + 50), state, 10, bold=learns, color=edge if learns else MUTED, room=width - 24)
    _size(pen, (x + 12, foot - 1), stage.parameters[part], width - 24, labels)


def _share(pen: Pen, stage: StageFacts, top: float, labels: Labels) -> None:
    """How much of the model learns: a number, and a bar true to scale."""
    x, width = 884, 172
    learnt = sum(count for part, count in stage.parameters.items() if part in stage.learn)
    total = sum(stage.parameters.values())
    share = learnt / total
    shown = f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
    pen.words((x, top - 82), shown, 20, bold=True, color=COLORS["learns"][0])
    pen.words((x, top - 98), labels["share"], 9.5, room=width)
    pen.box((x, top - 120), (width, 9), face=COLORS["frozen"][0], edge="none", round_=0.01)
    pen.box((x, top - 120), (width * share, 9), face=COLORS["learns"][0], edge="none", round_=0.01)
    of = labels["of"].format(some=short(learnt), all=short(total))
    pen.words((x, top - 139), of, 9.5, color=MUTED, room=width)
