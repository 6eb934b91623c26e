"""The verb `plan`: print the estimated memory, time, disk space and cost of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vistune import api
from vistune.cli.console import Json, print_json, progress_bar, stdout
from vistune.planner.plan import PROCESSES, StageForecast
from vistune.progress import no_progress
from vistune.recipe import load_recipe

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def plan(
    recipe: Annotated[str, typer.Argument(help="Name of a built-in recipe, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe: key.path=value, for example data=FILE.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Number of samples, for stages whose data are not on this machine.", min=1)
    ] = None,
    processes: Annotated[int, typer.Option(help="Number of GPUs that FSDP2 shards the model over.", min=2)] = PROCESSES,
    flops: Annotated[
        float | None,
        typer.Option(help="FLOP/s that the device reaches. Default: measured, or assumed from the device type."),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(help="YAML file with dollars per GPU hour, for example gpus: {H100: 2.5}, and model prices."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Also estimate the cost of generating the data with this teacher model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate memory, time, disk space and cost of training. No weights are read."""
    planned = api.plan(
        load_recipe(recipe, overrides or []),
        samples=samples,
        processes=processes,
        flops=flops,
        prices=prices,
        teacher=teacher,
        progress=no_progress if as_json else progress_bar,
    )
    if as_json:
        print_json(planned.to_dict())
        return
    for stage in planned.stages:
        print_stage(stage, planned.processes)
    if planned.teacher is not None:
        stdout.print(f"generating as many samples with {planned.teacher.model}: ${planned.teacher.dollars:,.2f}")


def print_stage(stage: StageForecast, processes: int) -> None:
    """Print one stage: what it trains, its largest row, then a line per device."""
    counts = ", ".join(f"{part} {_count(number)}" for part, number in stage.parameters.items())
    stdout.print(
        Text.assemble((stage.stage, "bold"), f": trains {', '.join(stage.learn)}; parameters: {counts}"),
        soft_wrap=True,
    )
    row = stage.row
    steps = "steps unknown (give --samples)" if stage.steps is None else f"{stage.steps:,} steps"
    source = f"assumed: {stage.assumed}" if stage.assumed else "counted from the data"
    largest = f"{row.tokens:,} tokens, {row.tiles} tiles, {row.supervised:,} supervised"
    stdout.print(f"{steps}; largest packed row: {largest} ({source})", soft_wrap=True)
    stdout.print(_device_table(stage, processes))
    others = (
        f"{other.name} {_bytes(other.ddp)}" + ("" if other.fsdp is None else f" ({_bytes(other.fsdp)})")
        for other in stage.devices[-1].alternatives
    )
    stdout.print(f"a GPU's memory by DDP (by FSDP2 over {processes}): {', '.join(others)}", soft_wrap=True)
    disk = stage.disk
    stdout.print(
        f"disk: a checkpoint {_bytes(disk.checkpoint)}, midway {_bytes(disk.midway)}, kept {_bytes(disk.kept)}; "
        f"cache {_bytes(disk.cache)}",
        soft_wrap=True,
    )


def _device_table(stage: StageForecast, processes: int) -> Table:
    priced = any(device.dollars is not None for device in stage.devices)
    is_large = max(device.memory.total for device in stage.devices) >= 1e9
    scale, unit, places = (1e9, "GB", 2) if is_large else (1e6, "MB", 1)
    headers = (unit, "weights", "grad.", "optim", "activ.", "logits", "sum", f"fsdp/{processes}", "row ≤", "time")
    table = Table(box=None, padding=(0, 1), header_style="none")
    for header in (*headers, *(["dollars"] if priced else [])):
        table.add_column(header, no_wrap=True, justify="left" if header == unit else "right")
    for device in stage.devices:
        memory = device.memory
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations + memory.copies, memory.logits,
                 memory.total, device.total_fsdp)  # fmt: skip
        longest = f"{device.longest_row:,}" if device.longest_row else "none"
        time = "" if device.seconds is None else _time(device.seconds)
        dollars = [f"${device.dollars:,.0f}" if device.dollars is not None else ""] if priced else []
        name = device.device.partition(" (")[0].removeprefix("this ")
        table.add_row(name, *(f"{part / scale:.{places}f}" for part in parts), longest, time, *dollars)
    return table


def _bytes(number: float) -> str:
    scale, unit = next(((scale, unit) for scale, unit in UNITS if number >= scale), (1.0, "B"))
    return f"{number / scale:.3g} {unit}" if number < 1000 * scale else f"{number / scale:,.0f} {unit}"


def _count(number: float) -> str:
    scale, unit = next(
        ((scale, unit) for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if number >= scale), (1.0, "")
    )
    return f"{number / scale:.3g}{unit}"


def _time(seconds: float) -> str:
    units = ((2 * 365 * 86400, 365 * 86400, "y"), (4 * 86400, 86400, "d"), (7200, 3600, "h"), (120, 60, "min"))
    scale, unit = next(((scale, unit) for least, scale, unit in units if seconds >= least), (1, "s"))
    return f"{seconds / scale:,.0f} {unit}" if seconds / scale >= 10 else f"{seconds / scale:.1f} {unit}"
