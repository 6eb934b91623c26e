"""The commands on models and runs: train, selftest, why, chat, serve, import, export, draw and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Unpack

import typer
from rich.table import Table

from vistune import api
from vistune.cli.commands import current_language, refuse_given
from vistune.cli.console import (
    Changes,
    Device,
    Dtype,
    Json,
    Overrides,
    Quantize,
    RecipeName,
    is_first_process,
    print_json,
    print_lines,
    print_message,
    progress_bar,
    say,
    stdout,
)
from vistune.errors import RecipeError, VistuneError
from vistune.recipe import known_recipes, load_recipe
from vistune.serving.api import Limits, Settings

AnyModel = Annotated[
    Path, typer.Argument(help="Run folder, model folder, or a folder in any layout that import reads.")
]
DEFAULTS = Limits()


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Name of a built-in recipe, or a YAML file. With only --resume: a run folder."),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Required for a new run.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume from the newest checkpoint. `train --resume RUN` needs nothing else."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read, encode and plan the data, but do not train.")
    ] = False,
) -> None:
    """Train the stages of a recipe. On several GPUs: torchrun --nproc-per-node 8 -m vistune train …"""
    if recipe is None:
        raise RecipeError("train needs a recipe", "name a recipe, or resume a run with --resume RUN")
    if resume and out is None and not dry_run:
        recipe, out = _recipe_of_run(Path(recipe))
    loaded = load_recipe(recipe, overrides or [])
    if dry_run:
        refuse_given(("resume",), "not used by --dry-run, which plans a new run", "remove it")
        print_json([stage.to_dict() for stage in api.dry_run(loaded, progress=progress_bar)])
        return
    if out is None:
        raise RecipeError("train needs a run folder", "add --out RUN")
    if resume and not (out / "run.json").is_file():
        raise RecipeError(f"{out}: no run to resume", "check the path, or remove --resume")
    api.train(loaded, out, resume=resume, progress=progress_bar, on_message=print_message)
    if is_first_process():
        print_lines(f"{say('{out}: finished. Chat with it:', out=out)} vistune chat {out} --image FILE")


def _recipe_of_run(run: Path) -> tuple[str, Path]:
    """Return the recipe that a run was started with, and the run. Raises RecipeError if there is none."""
    recipe = run / "recipe.yaml"
    if not run.is_dir() and (run.suffix in (".yaml", ".yml") or str(run) in known_recipes()):
        raise RecipeError(f"--resume {run}: a recipe, not a run folder", "name the run folder, or add --out RUN")
    if not (run / "run.json").is_file() or not recipe.is_file():
        raise RecipeError(f"{run}: no run to resume", "name the folder that --out named")
    return str(recipe), run


def selftest(
    recipe: RecipeName,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Check packing and parallelism on your model and data.

    Computes the first step of each stage packed, with one sample per row, in two accumulated halves and, under
    torchrun, over all processes. The losses and gradients must agree.
    """
    loaded = load_recipe(recipe, overrides or [])
    comparisons = api.selftest(loaded, progress=progress_bar)
    if not is_first_process():
        return
    if as_json:
        print_json([comparison.to_dict() for comparison in comparisons])
    else:
        table = Table("stage", "arrangement", "samples", "loss", "loss packed", "gradient difference", "equal")
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
            "the same samples give different gradients when they are arranged differently",
            f"correct {projector}, which must treat each tile independently (docs/how-to/add-a-projector.md)"
            if ":" in (projector := loaded.model.projector)
            else "report this model as a bug of vistune",
        )
        error.exit_code = 1
        raise error


def why(
    model: Annotated[Path, typer.Argument(help="Run folder, model folder, or a folder in another layout.")],
    as_json: Json = False,
) -> None:
    """Show where a checkpoint came from. Lists data, teacher, prompts, recipe, versions and parent models."""
    entries = api.why(model)
    if as_json:
        print_json([entry.to_dict() for entry in entries])
    else:
        from vistune.runs.provenance import describe_provenance

        print_lines("\n".join(describe_provenance(entries)))


def chat(
    model: Annotated[Path, typer.Argument(help="Run or model folder.")],
    image: Annotated[list[Path] | None, typer.Option(help="Image to ask about. Can be repeated.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
) -> None:
    """Chat with a model in the terminal. Only answers are printed on stdout."""
    loading = api.LoadOptions(device=device, dtype=dtype, quantize=quantize)
    print_message(f"loading {model} …")
    api.chat(model, images=image or (), language=current_language(), **loading)


def serve(
    model: AnyModel,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other addresses than loopback need API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on. 0 = any free port.", min=0, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the API keys that clients may use, one per line.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Model name for clients. Default: the name of the folder.")] = None,
    allow_fetch_from: Annotated[
        list[str] | None,
        typer.Option(help="Host from which images may be fetched over https. Can be repeated. Default: none."),
    ] = None,
    slots: Annotated[
        int, typer.Option(help="Maximum number of answers generated at the same time.", min=1, max=1024)
    ] = DEFAULTS.slots,
    queue: Annotated[int, typer.Option(help="Maximum number of waiting requests.", min=0)] = DEFAULTS.queue,
    max_tokens: Annotated[
        int, typer.Option(help="Maximum tokens per answer. Also the default for requests without a limit.", min=1)
    ] = DEFAULTS.max_tokens,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API. After Ctrl-C or SIGTERM, running answers are finished first."""
    settings = Settings(
        name=name or model.resolve().name,
        host=host,
        port=port,
        key_file=api_key_file,
        fetch_from=allow_fetch_from or (),
        limits=Limits(slots=slots, queue=queue, max_tokens=max_tokens),
    )

    def announce(address: str) -> None:
        print_message(f"{settings.name}: {address}/v1, web page at {address}/ (stop with Ctrl-C)")

    api.serve(model, settings, device=device, dtype=dtype, quantize=quantize, announce=announce)


def import_(
    source: Annotated[
        Path, typer.Argument(help="Folder in the llava-hf, original LLaVA, LoRA, stage-1 or PEFT layout.")
    ],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    base: Annotated[str | None, typer.Option(help="Base language model of a LoRA or stage-1 folder.")] = None,
    vision: Annotated[
        str | None, typer.Option(help="Vision tower to use instead of the one that the folder names.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Chat template that the model was trained with.")] = None,
    as_json: Json = False,
) -> None:
    """Convert a model to a vistune model folder. The layout of the source is detected."""
    imported = api.import_model(source, out, base=base, vision=vision, template=template)
    if as_json:
        print_json(imported.to_dict())
        return
    spec = imported.spec
    settings = f"projector {spec.projector}, image mode {spec.image_mode}, template {spec.template}"
    adapters = ", with adapters" if imported.adapter else ""
    print_lines(f"{out}: converted from the layout {imported.layout}; {settings}{adapters}")
    if imported.projector:
        print_lines(f"Trained projector: {imported.projector}")


def export(
    model: AnyModel,
    out: Annotated[Path, typer.Argument(help="Output folder.")],
    layout: Annotated[str, typer.Option(help="Layout to write: llava-hf, llava-original, peft or gguf.")],
    merge: Annotated[bool, typer.Option(help="Merge LoRA adapters into the weights.")] = False,
    base: Annotated[str | None, typer.Option(help="peft: llava-hf model that the adapters belong to.")] = None,
    device: Annotated[str, typer.Option(help="Device for the comparison: auto, cpu or cuda.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16. auto = the precision of the stored language model.")
    ] = "auto",
    quantize: Annotated[
        int | None,
        typer.Option(
            help="Exports keep full precision. With this option, nothing is written, and an error names the tool "
            "that quantizes the layout while loading."
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option("--type", help="gguf: type of the weights: f32, f16, bf16, q8_0, or q4_k_m by llama-quantize."),
    ] = "f16",
    class_position: Annotated[
        str,
        typer.Option(
            help="gguf: where your build of llama.cpp puts a tower's class token: last (issue 25814) or first."
        ),
    ] = "last",
    as_json: Json = False,
) -> None:
    """Export a model for other tools.

    Writes the layout of transformers (also for vLLM), of PEFT, or of the original LLaVA, and compares the written model
    with the source. gguf writes two files for llama.cpp and Ollama, and lists what they compute differently.
    """
    if layout != "peft":
        refuse_given(("base",), f"for --layout peft, not for {layout}", "remove it")
    if layout == "gguf":
        refuse_given(("dtype", "quantize"), "not for --layout gguf", "choose the weights' type with --type")
        _export_gguf(model, out, kind=kind, merge=merge, class_position=class_position, device=device, as_json=as_json)
        return
    refuse_given(("kind", "class_position"), f"for --layout gguf, not for {layout}", "remove it")
    loading = api.LoadOptions(device=device, dtype=dtype, quantize=quantize)
    with progress_bar(f"export {layout}", 0):
        rows = api.export(model, out, layout=layout, merge=merge, base=base, **loading)
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    table = Table(title=f"{out}: exported model compared with the original")
    for name in ("probe", "tokens", "same ids", "largest logit difference", "same greedy tokens"):
        table.add_column(name)
    for row in rows:
        same_ids, same_tokens = ("yes" if same else "no" for same in (row.same_ids, row.same_tokens))
        table.add_row(row.probe, str(row.tokens), same_ids, f"{row.largest_difference:.2g}", same_tokens)
    stdout.print(table)


def _export_gguf(model: Path, out: Path, *, as_json: bool, **options: Unpack[api.GgufOptions]) -> None:
    """Export a model for llama.cpp, and print the files and the differences."""
    with progress_bar("export gguf", 0):
        exported = api.export_gguf(model, out, **options)
    if as_json:
        print_json(exported.to_dict())
        return
    print_lines(f"Language model: {exported.language}", f"Tower and projector: {exported.projector}")
    print_lines(f"Commands for llama.cpp and Ollama: {out / 'README.md'}")
    table = Table("stage", "what llama.cpp computes differently", "what to do", title=str(out))
    for difference in exported.differences:
        table.add_row(difference.stage, difference.what, difference.remedy)
    stdout.print(table)


def draw(
    recipe: RecipeName,
    out: Annotated[Path, typer.Argument(help="Output folder for model.svg, stages.svg and the same as .png.")],
    overrides: Changes = None,
) -> None:
    """Draw a recipe's model and stages as diagrams, labelled in the language of --lang. No weights are loaded."""
    for path in api.draw(load_recipe(recipe, overrides or []), out, language=current_language()):
        print_lines(str(path))


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="One or more run folders, the --out folder of a comparison, a folder written by generate, or a "
            "data file."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Data or several runs: file to write. Default: next to the data, or in the first run."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Data: image folder.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Data: evaluation set (image folder or files) to search for the same images. Can be repeated."
        ),
    ] = None,
) -> None:
    """Write an offline page in the language of --lang. It reports a run or a data set, or compares runs or models."""
    language = current_language()
    page = api.write_report(
        *paths, out=out, images=images, against=against or (), language=language, progress=progress_bar
    )
    print_lines(str(page))
    from vistune.report.plots import missing_font

    if "<svg" in page.read_text(encoding="utf-8") and (missing := missing_font(language)) is not None:
        print_message(missing)
