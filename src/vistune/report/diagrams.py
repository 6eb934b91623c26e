"""Diagrams of a recipe: its model (model.svg.j2) and its stages (stages.svg.j2), in English or Korean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vistune.planner.structure import ModelFacts, StageFacts
from vistune.report import plots
from vistune.report.drawing import Drawing, short_count, wrap
from vistune.report.rendering import Labels, Values
from vistune.translations import catalogue

TOWERS = {"clip_vision_model": "CLIP", "siglip_vision_model": "SigLIP"}  # type in a config -> name
MAX_PATCHES = 12  # lines of the grid; more would hide the image
PROJECTOR_LINES = 4


def draw_diagrams(
    name: str, model: ModelFacts, stages: Sequence[StageFacts], folder: Path, *, language: str = "en"
) -> list[Path]:
    """Write model.svg, model.png, stages.svg and stages.png; `name` is the recipe's.

    Raises RecipeError for an unknown language, and for letters that no font of this machine has.
    """
    labels = catalogue("report/diagrams", language)
    with plots.svg_style():
        drawings = (
            ("model", labels["model_title"].format(name=name), model_drawing(name, model, labels)),
            ("stages", labels["stages_title"].format(name=name), stages_drawing(name, stages, labels)),
        )
        return [path for file, title, drawing in drawings for path in drawing.save(folder, file, title)]


def model_drawing(name: str, facts: ModelFacts, labels: Labels) -> Drawing:
    """Draw the model from left to right: image and question become tokens, the language model answers."""
    tiles = [] if facts.tiles is None else [_range_label(facts.tiles, labels)]
    low, high = facts.slots
    sources = {"vision": facts.vision, "projector": facts.projector, "language": facts.language}
    lines = {
        "vision": _vision_lines(facts, labels),
        "projector": _projector_lines(facts, labels),
        "language": [
            f"{facts.language_type} · {labels['layers'].format(all=facts.language_layers)}",
            labels["width"].format(width=f"{facts.language_width:,}"),
            labels["vocabulary"].format(size=f"{facts.vocabulary:,}"),
        ],
    }
    return Drawing(
        "model.svg.j2",
        labels,
        title=labels["model_title"].format(name=name),
        aim=labels["model_aim"].format(count=f"{sum(facts.parameters.values()):,}"),
        has_tiles=facts.tiles is not None,
        patches=min(facts.side // facts.patch, MAX_PATCHES),
        image_lines=[*tiles, labels[_image_label(facts)].format(side=facts.side)],
        parts={
            part: {"source": source, "lines": lines[part], **_count(facts.parameters[part], labels)}
            for part, source in sources.items()
        },
        tower_shape=f"{facts.tower_tokens:,} × {facts.vision_width:,}",
        slots_shape=f"{facts.slots_per_tile:,} × {facts.language_width:,}",
        chat_template=labels["template"].format(name=facts.template),
        embedding_shape=f"{facts.vocabulary:,} × {facts.language_width:,}",
        slots=high,
        slots_range=f"{low:,}" if low == high else f"{low:,}…{high:,}",
        token_notes=[labels["where"], *([labels["newline"]] if tiles else [])],
        layers=facts.language_layers,
        answer_lines=wrap(labels["answer_text"], 68, 10.5),
        supervised_lines=wrap(labels["supervised"], 68, 8),
    )


def stages_drawing(name: str, stages: Sequence[StageFacts], labels: Labels) -> Drawing:
    """Draw a card for each stage: its steps and data, which parts are frozen or trained, and the trained share."""
    return Drawing(
        "stages.svg.j2",
        labels,
        title=labels["stages_title"].format(name=name),
        stages=[_stage(stage, labels) for stage in stages],
        snowflake_angles=[_snowflake_arm(math.pi * (1 / 6 + turn / 3)) for turn in range(6)],
    )


def rate_text(rate: float) -> str:
    """Format a learning rate as a recipe would write it: 3e-3, 2.5e-5."""
    mantissa, _, exponent = f"{rate:.12e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _range_label(tiles: tuple[int, int], labels: Labels) -> str:
    low, high = tiles
    return str(labels["tiles" if low < high else "tiles_same"].format(low=low, high=high))


def _image_label(model: ModelFacts) -> str:
    if model.most_patches is not None:
        return "own_grid"
    return "pixels" if model.tiles is None else "tile_pixels"


def _vision_lines(model: ModelFacts, labels: Labels) -> list[str]:
    used, all_layers = model.vision_layers
    tower = TOWERS.get(model.vision_type, model.vision_type)
    patches = labels["patches" if model.most_patches is None else "most_patches"]
    return [
        f"{tower} · {labels['used_layers'].format(kept=used, all=all_layers)}",
        patches.format(grid=model.side // model.patch, patch=model.patch, most=model.most_patches),
        *([labels["class_token"]] if model.class_token else []),
        *([labels["joint"]] if model.joint else []),
    ]


def _projector_lines(facts: ModelFacts, labels: Labels) -> list[str]:
    layers = [
        step if isinstance(step, str) else labels["linear"].format(into=f"{step[0]:,}", out=f"{step[1]:,}")
        for step in facts.projector_steps
    ]
    if len(layers) > PROJECTOR_LINES:
        layers = [*layers[:2], labels["more"].format(count=len(layers) - 3), layers[-1]]
    return layers or [labels["nothing"]]


def _count(parameters: int, labels: Labels) -> dict[str, str]:
    """Format a number of parameters in short and exactly."""
    return {"short": short_count(parameters), "exact": labels["parameters"].format(count=f"{parameters:,}")}


def _stage(stage: StageFacts, labels: Labels) -> Values:
    """Return the values of a stage's card."""
    if stage.steps is not None:
        length = labels["steps"].format(count=f"{stage.steps:,}")
    else:
        length = labels["epoch" if stage.epochs == 1 else "epochs"].format(count=f"{stage.epochs:g}")
    kinds = labels["all_kinds"]
    if stage.kinds is not None:
        kinds = ", ".join(labels["kinds"].get(kind, kind) for kind in stage.kinds)
    trained = set(stage.learn)
    aim = "align" if trained == {"projector"} else "instruct" if trained & {"language", "adapters"} else "other"
    columns = {"vision": (258, 148), "projector": (432, 148), "language": (606, 272)}
    if "adapters" in stage.parameters:
        columns |= {"language": (606, 142), "adapters": (754, 124)}
    trained_count = sum(count for part, count in stage.parameters.items() if part in trained)
    total = sum(stage.parameters.values())
    share = trained_count / total
    return {
        "name": stage.name,
        "lines": [
            f"{length} · {labels['samples'].format(count=f'{stage.samples_per_step:,}')}",
            f"{stage.optimizer} · {stage.schedule}",
            labels["template"].format(name=stage.template),
            *wrap(kinds, 200, 9.5)[:3],
        ],
        "aim": labels[aim],
        "parts": [
            {"name": part, "x": x, "width": width, **_part(stage, part, labels)} for part, (x, width) in columns.items()
        ],
        "share": share,
        "share_text": f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %",
        "trained_of": labels["of"].format(some=short_count(trained_count), all=short_count(total)),
    }


def _part(stage: StageFacts, part: str, labels: Labels) -> Values:
    """Return the state of a part in a stage: frozen, or trained with its learning rate."""
    is_trained = part in stage.learn
    state = labels["frozen"]
    if is_trained:
        state = f"{labels['trained']} · {labels['rate'].format(rate=rate_text(stage.learn[part]))}"
    elif part == "language" and stage.quantize is not None:
        state += f" · {labels['bits'].format(count=stage.quantize)}"
    rank = labels["rank"].format(rank=stage.lora_rank) if part == "adapters" else ""
    return {"is_trained": is_trained, "state": state, "rank": rank, **_count(stage.parameters[part], labels)}


def _snowflake_arm(angle: float) -> dict[str, str]:
    """Return the points of an arm of a snowflake of size 1: its tip, its fork and the fork's two ends."""

    def point(x: float, y: float, angle: float, length: float) -> tuple[float, float]:
        return x + length * math.cos(angle), y - length * math.sin(angle)

    fork = point(0, 0, angle, 0.29)
    ends = {
        "tip": point(0, 0, angle, 0.5),
        "fork": fork,
        "left": point(*fork, angle - 0.9, 0.17),
        "right": point(*fork, angle + 0.9, 0.17),
    }
    return {name: f"{x:.4f} {y:.4f}" for name, (x, y) in ends.items()}
