"""The verbs on models: the whole loop, train, chat, import, export, draw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vistune import api
from vistune.cli.console import print_message, progress_bar
from vistune.cli.help import spoken
from vistune.cli.options import refuse_given
from vistune.cli.output import Json, print_json, stdout
from vistune.errors import RecipeError, VistuneError
from vistune.recipe import load_recipe

Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value on top of the recipe, such as data=FILE.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; auto = a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16; auto = bf16 on a GPU, fp32 on a CPU.")]
Quantize = Annotated[int | None, typer.Option(help="Bits of the language model's weights: 4 or 8.")]


def quickstart(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Decides everything.")] = 0,
) -> None:
    """The whole loop on the built-in world, offline: draw, generate, check, align, tune, evaluate, report."""
    from vistune._quickstart import quickstart

    summary = quickstart(out, overrides=[f"seed={seed}"], language=spoken(), progress=progress_bar)
    stdout.print(summary_table(summary))
    stdout.print(type_table(summary))
    stdout.print(
        f"The gap to the better blind condition: {100 * summary['gap']['value']:.1f} points "
        f"({summary['gap']['words']})."
    )
    took = " · ".join(f"{step} {seconds:.0f} s" for step, seconds in summary["seconds"].items())
    stdout.print(f"{took} · peak memory {summary['peak_memory_mb']} MB")
    image = next(iter(sorted((out / "world" / "heldout").glob("*.jpg"))))
    stdout.print(f"Report: {out / 'report.html'}", soft_wrap=True)
    stdout.print(f"Talk to it:  vistune chat {out} --image {image}", soft_wrap=True)


def summary_table(summary: dict[str, Any]) -> Table:
    rows = {
        "majority": "always the most frequent answer",
        "align": "after stage 1 (projector aligned)",
        "tune": "after stage 2 (tuned on instructions)",
        "without_image": "stage 2, without its picture",
        "wrong_image": "stage 2, with a wrong picture",
        "heldout_combinations": "stage 2, held-out colour-shape pairs",
    }
    table = Table("held-out scenes, exact match", "accuracy", "95 % interval", title="What the model sees")
    for key, label in rows.items():
        interval = summary["intervals"].get(key)
        shown = f"{100 * interval['low']:.1f} – {100 * interval['high']:.1f}" if interval else ""
        table.add_row(label, f"{100 * summary['accuracy'][key]:.1f} %", shown)
    described = summary["descriptions"]
    right = f"{described['recall']:.2f} / {described['precision']:.2f}"
    table.add_row("things right in descriptions (recall / precision)", right, "")
    return table


def type_table(summary: dict[str, Any]) -> Table:
    table = Table("question", "with picture", "without", "wrong", "majority")
    for group, entry in {**summary["by_type"], **summary["by_language"]}.items():
        cells = [f"{100 * entry[key]:.1f}" for key in ("tune", "without_image", "wrong_image", "majority")]
        table.add_row(group, *cells)
    return table


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (needed).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and plan everything, learn nothing.")] = False,
) -> None:
    """Run a recipe's stages, checkpointed and resumable; over GPUs: torchrun --nproc-per-node 8 -m vistune train …"""
    loaded = load_recipe(recipe, overrides or [])
    if dry_run:
        refuse_given(("resume",), "not used by --dry-run, which plans a new run", "leave it out")
        print_json([stage.to_dict() for stage in api.dry_run(loaded, progress=progress_bar)])
        return
    if out is None:
        raise RecipeError("train needs a run folder", "add --out RUN")
    if resume and not (out / "run.json").is_file():
        raise RecipeError(f"{out}: no run to resume", "check the path, or leave --resume out")
    api.train(loaded, out, resume=resume, progress=progress_bar, on_message=print_message)
    if os.environ.get("RANK", "0") == "0":
        stdout.print(f"{out}: finished; talk to it with  vistune chat {out} --image FILE", soft_wrap=True)


def selftest(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Packed = one by one = accumulated (under torchrun: = over all processes), on your own model and rows."""
    comparisons = api.selftest(load_recipe(recipe, overrides or []), progress=progress_bar)
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print_json([comparison.to_dict() for comparison in comparisons])
    else:
        table = Table("stage", "arranged", "rows", "loss", "packed", "gradients differ by", "equal")
        for comparison in comparisons:
            table.add_row(
                comparison.stage,
                comparison.arrangement,
                str(comparison.rows),
                f"{comparison.loss:.6f}",
                f"{comparison.loss_packed:.6f}",
                f"{comparison.difference:.1e} ({comparison.parameter})",
                "yes" if comparison.equal else "NO",
            )
        stdout.print(table)
    if not all(comparison.equal for comparison in comparisons):
        error = VistuneError(
            "the same samples give another gradient when they are packed otherwise", "report this model"
        )
        error.exit_code = 1  # whatever the user wrote, it is our bug
        raise error


def why(
    model: Annotated[Path, typer.Argument(help="Run folder, model folder, or another layout's.")],
    as_json: Json = False,
) -> None:
    """Where a checkpoint came from: data, teacher, prompts, recipe, code, parents."""
    entries = api.why(model)
    if as_json:
        print_json(entries)
    else:
        from vistune.runs.provenance import in_words

        stdout.print("\n".join(in_words(entries)), soft_wrap=True)


def chat(
    model: Annotated[Path, typer.Argument(help="A run or model folder.")],
    image: Annotated[list[Path] | None, typer.Option(help="A picture to talk about; may be repeated.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
) -> None:
    """Talk to a model in the terminal, English or Korean; answers alone are on stdout."""
    api.chat(model, images=image or (), language=spoken(), device=device, dtype=dtype, quantize=quantize)


def import_(
    source: Annotated[Path, typer.Argument(help="A llava-hf, original LLaVA, LoRA, stage-1 or PEFT folder.")],
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
    base: Annotated[str | None, typer.Option(help="The language model under a LoRA or stage-1 folder.")] = None,
    vision: Annotated[
        str | None, typer.Option(help="The vision tower, where the folder's own name of it fails.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="The chat template it was trained with.")] = None,
    as_json: Json = False,
) -> None:
    """Bring a model of another layout into a folder of ours; which layout, its content tells."""
    found = api.import_model(source, out, base=base, vision=vision, template=template)
    if as_json:
        print_json(found)
        return
    spec = found["spec"]
    settings = f"projector {spec['projector']}, pictures {spec['image_mode']}, template {spec['template']}"
    kept = ", adapters kept" if found["adapter"] else ""
    stdout.print(f"{out}: from the layout {found['layout']}; {settings}{kept}", soft_wrap=True)
    if found["projector"]:
        stdout.print(f"The trained projector: {found['projector']}", soft_wrap=True)


def export(
    model: Annotated[Path, typer.Argument(help="A run, a model folder, or any layout that import reads.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    layout: Annotated[str, typer.Option(help="llava-hf, llava-original or peft.")],
    merge: Annotated[bool, typer.Option(help="Add the adapters into the weights.")] = False,
    base: Annotated[str | None, typer.Option(help="peft: the llava-hf model that lies under the adapters.")] = None,
    device: Annotated[str, typer.Option(help="Where the answers are compared: auto, cpu or cuda.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16; auto = as the language model is stored.")
    ] = "auto",
    quantize: Annotated[
        int | None, typer.Option(help="Refused, with who quantises the layout while loading it: exports are exact.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model as transformers, vLLM, PEFT or the original LLaVA load it; ends by loading and comparing it."""
    if layout != "peft":
        refuse_given(("base",), f"for --layout peft, not for {layout}", "leave it out")
    rows = api.export(model, out, layout=layout, merge=merge, base=base, device=device, dtype=dtype, quantize=quantize)
    if as_json:
        print_json(rows)
        return
    table = Table(title=f"{out}: what was written beside the model")
    for name in ("probe", "tokens", "same ids", "largest logit difference", "same greedy tokens"):
        table.add_column(name)
    for row in rows:
        same = ["yes" if row[key] else "no" for key in ("same_ids", "same_tokens")]
        table.add_row(row["probe"], str(row["tokens"]), same[0], f"{row['largest_difference']:.2g}", same[1])
    stdout.print(table)


def draw(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    out: Annotated[Path, typer.Argument(help="The folder for model.svg, stages.svg and the same as .png.")],
    overrides: Overrides = None,
    language: Annotated[str, typer.Option("--lang", help="en or ko.")] = "en",
) -> None:
    """Picture a recipe's model and stages, what is frozen and what learns; no weights are loaded."""
    for path in api.draw(load_recipe(recipe, overrides or []), out, language=language):
        stdout.print(str(path), soft_wrap=True)
