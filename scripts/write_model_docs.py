"""Write the tables of docs/reference/models.md from the models that the tests run, and from what vistune finds in them.

The models are in tests/support: language_table.py, tower_kinds.py and joint_folders.py.

python scripts/write_model_docs.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from marked_block import replace_block

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "models.md"
sys.path.insert(0, str(ROOT / "tests" / "support"))


def language_block() -> str:
    """The tables of packed, unpacked and refused language models."""
    from language_table import ACCEPTED, REFUSED
    from tiny_models import small_config

    from vistune.model.trial import language_traits

    packed = ["| models | transformers' type | logits |", "| --- | --- | --- |"]
    unpacked = ["| models | transformers' type | reason |", "| --- | --- | --- |"]
    for kind in sorted(ACCEPTED.values(), key=lambda kind: kind.names.lower()):
        traits = language_traits(small_config(kind.architecture, kind.changes))
        cells = f"| {kind.names} | `{kind.architecture}` |"
        if traits.unpacked:
            unpacked.append(f"{cells} {traits.unpacked} |")
            continue
        rule = [] if traits.rule.scale == 1 else ["scaled"]
        rule += [] if traits.rule.cap is None else ["soft-capped"]
        packed.append(f"{cells} {', '.join(rule) or 'plain, or with a bias'} |")
    refused = ["| models | transformers' type | reason |", "| --- | --- | --- |"]
    for kind, _ in sorted(REFUSED.values(), key=lambda case: case[0].names.lower()):
        reason = language_traits(small_config(kind.architecture, kind.changes)).refused
        refused.append(f"| {kind.names} | `{kind.architecture}` | {reason} |")
    return joined(["### Packed", *packed, "### Unpacked", *unpacked, "### Language models that are refused", *refused])


def tower_block() -> str:
    """The tables of accepted and refused vision towers."""
    import joint_folders
    from tower_kinds import KINDS, NAMES, REFUSED, side_of
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from vistune.interop.layout_limits import tower_misfit
    from vistune.model.tower_shape import describe_tower
    from vistune.model.vision import resolve_norm

    works = ["| towers | transformers' type | tokens before the patches | norm with `auto` | export to llava-hf |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for kind in sorted(KINDS, key=lambda kind: NAMES[kind].lower()):
        config = CONFIG_MAPPING[kind](**KINDS[kind][0])
        shape = describe_tower(config, -1, side_of(kind))
        export = tower_misfit(config, shape)
        works.append(
            f"| {NAMES[kind]} | `{kind}` | {shape.prefix} | `{resolve_norm('auto', shape, 'hidden')}` "
            f"| {f'no: {export}' if export else 'yes'} |"
        )
    refused = ["| towers | transformers' type | reason |", "| --- | --- | --- |"]
    for kind, (names, _) in sorted(REFUSED.items(), key=lambda case: case[1][0].lower()):
        refused.append(f"| {names} | `{kind}` | {reason_of_tower(CONFIG_MAPPING[kind]())} |")
    inside = ["| whole models | outcome |", "| --- | --- |"]
    inside += [f"| `{kind}` | its tower is used |" for kind in sorted(joint_folders.KINDS)]
    for kind in sorted(joint_folders.REFUSED):
        vision = getattr(CONFIG_MAPPING[kind](), "vision_config", None)
        inside.append(f"| `{kind}` | {reason_of_tower(vision) if vision else 'its config has no vision_config'} |")
    return joined(["### Towers that work", *works, "### Towers that are refused", *refused,
                   "### Towers inside whole models", *inside])  # fmt: skip


def reason_of_tower(config: object) -> str:
    """The reason why a tower is refused, as the error gives it."""
    from vistune.errors import RecipeError
    from vistune.model.tower_shape import describe_tower

    try:
        describe_tower(config, -1, 224)  # type: ignore[arg-type]
    except RecipeError as error:
        return error.message.split("is not supported: ")[-1].rstrip(".")
    raise ValueError(f"{config}: is accepted")


def joined(parts: list[str]) -> str:
    text = "\n".join(f"\n{part}\n" if part.startswith("###") else part for part in parts)
    return f"\n{text}\n\n"


def page() -> str:
    """The page with its tables up to date."""
    text = PAGE.read_text(encoding="utf-8")
    for name, block in (("language models", language_block), ("vision towers", tower_block)):
        begin = f"<!-- {name}: begin, written by scripts/write_model_docs.py -->"
        text = replace_block(text, begin, f"<!-- {name}: end -->", block())
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
