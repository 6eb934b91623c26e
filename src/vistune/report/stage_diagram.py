"""The stages at a glance: what is frozen and what learns, at which rate, from how many parameters.

StageFacts -> a card each: steps and data · vision encoder -> projector -> language model (+ LoRA) · what share learns
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vistune.planner.structure import StageFacts
from vistune.report.pen import INK, MUTED, RULE, TINTS, Pen, short, wrap

WIDTH, CARD, GAP = 1100.0, 172.0, 16.0  # points, as all lengths here


def rate_text(rate: float) -> str:
    """As a recipe would write it: 3e-3, 2.5e-5."""
    mantissa, _, exponent = f"{rate:.12e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def stages_sheet(name: str, stages: Sequence[StageFacts], labels: Mapping[str, Any]) -> Pen:
    """A card for each stage, one below the other; `name` is the recipe's."""
    top = 78.0 + len(stages) * (CARD + GAP) + 8
    pen = Pen(WIDTH, top)
    pen.head(labels["stages_title"].format(name=name), labels["stages_aim"])
    pen.snowflake((WIDTH - 196, top - 34), 17)
    pen.words((WIDTH - 182, top - 38), labels["frozen"], 11, room=60)
    pen.flame((WIDTH - 96, top - 33), 19)
    pen.words((WIDTH - 82, top - 38), labels["learns"], 11, room=60)
    for number, stage in enumerate(stages):
        _card(pen, number + 1, stage, top - 78 - number * (CARD + GAP), labels)
    return pen


def _card(pen: Pen, number: int, stage: StageFacts, top: float, labels: Mapping[str, Any]) -> None:
    pen.box((24, top - CARD), (WIDTH - 48, CARD), face="white", edge=RULE)
    pen.disc((54, top - 30), 14, INK)
    pen.words((54, top - 34.5), str(number), 13, color="white", bold=True, align="center", room=24)
    pen.words((78, top - 35.5), stage.name, 15, bold=True, room=160)
    for row, line in enumerate(_stage_lines(stage, labels)):
        pen.words((40, top - 66 - 15.5 * row), line, 9.5, color=INK if row == 0 else MUTED, room=200)
    learning = set(stage.learn)
    aim = "align" if learning == {"projector"} else "instruct" if learning & {"language", "adapters"} else "other"
    pen.words((258, top - 34), labels[aim], 11, color=MUTED, room=800)
    places = {"vision": (258, 148), "projector": (432, 148), "language": (606, 272)}
    if "adapters" in stage.parameters:
        places |= {"language": (606, 142), "adapters": (754, 124)}
    for part, (x, width) in places.items():
        _block(pen, part, (x, top - CARD + 18), width, stage, labels)
    for x in (408, 582):
        pen.arrow((x, top - 101), (x + 20, top - 101))
    _share(pen, stage, top, labels)


def _stage_lines(stage: StageFacts, labels: Mapping[str, Any]) -> list[str]:
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


def _block(
    pen: Pen, part: str, at: tuple[float, float], width: float, stage: StageFacts, labels: Mapping[str, Any]
) -> None:
    """A part in a stage: frozen in ice blue, or learning in fire with its rate."""
    (x, foot), height, learns = at, 106, part in stage.learn
    edge, face = TINTS["learns" if learns else "frozen"]
    pen.box(at, (width, height), face=face, edge=edge, thick=1.8 if learns else 1.2)
    mark = (x + width - 18, foot + height - 19)
    pen.flame(mark, 22) if learns else pen.snowflake(mark, 19)
    pen.words((x + 12, foot + height - 23), labels[part], 11.5, bold=True, room=width - 48)
    state = labels["frozen"]
    if part == "language" and stage.quantize is not None:
        state += f" · {labels['bits'].format(count=stage.quantize)}"
    if learns:
        state = f"{labels['learns']} · {labels['rate'].format(rate=rate_text(stage.learn[part]))}"
    if part == "adapters":
        pen.words((x + 12, foot + height - 38), labels["rank"].format(rank=stage.lora_rank), 9, color=MUTED)
    pen.words((x + 12, foot + 50), state, 10, bold=learns, color=edge if learns else MUTED, room=width - 24)
    exact = labels["parameters"].format(count=f"{stage.parameters[part]:,}")
    pen.count((x + 12, foot - 1), stage.parameters[part], exact, width - 24)


def _share(pen: Pen, stage: StageFacts, top: float, labels: Mapping[str, Any]) -> None:
    """How much of the model learns: a number, and a bar true to scale."""
    x, width = 898, 160
    learnt = sum(count for part, count in stage.parameters.items() if part in stage.learn)
    total = sum(stage.parameters.values())
    share = learnt / total
    shown = f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
    pen.words((x, top - 82), shown, 20, bold=True, color=TINTS["learns"][0])
    pen.words((x, top - 98), labels["share"], 9.5, room=width)
    pen.box((x, top - 120), (width, 9), face=TINTS["frozen"][0], edge="none", round_=0.01)
    pen.box((x, top - 120), (width * share, 9), face=TINTS["learns"][0], edge="none", round_=0.01)
    of = labels["of"].format(some=short(learnt), all=short(total))
    pen.words((x, top - 139), of, 9.5, color=MUTED, room=width)
