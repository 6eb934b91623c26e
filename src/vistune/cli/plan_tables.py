"""Print a plan: whether each device fits and how long it takes; with `--details` where the memory goes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from vistune.cli.console import in_users_language, print_lines, say, stdout
from vistune.cli.progress import duration
from vistune.cli.settings import current_language
from vistune.planner.plan import DeviceForecast, Plan, StageForecast

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "base", "sum")  # of the memory


def print_plan(plan: Plan) -> None:
    """Print for each device whether the whole recipe fits and how long it takes."""
    counts = ", ".join(f"{stage.stage} {_steps(stage)}" for stage in plan.stages)
    print_lines(Text.assemble((plan.recipe, "bold"), f": {counts}"))
    for assumed in dict.fromkeys(stage.assumed for stage in plan.stages if stage.assumed):
        what = in_users_language(assumed)
        stdout.print(say("Your data is not here, so this is assumed: {what}", what=what))
    stdout.print(_summary_table(plan))
    size = bytes_text(sum(stage.disk.kept for stage in plan.stages))
    print_lines(say("Disk: {size} for checkpoints.", size=size))
    if any(stage.steps is None for stage in plan.stages):
        print_lines(say("The time depends on the data: name it, or give --samples N."))
    if not all(device.fits for stage in plan.stages for device in stage.devices[1:2]):
        stdout.print(say("Less memory on one GPU: {ways}", ways=_smaller_ways(plan.stages)))
    _print_teacher(plan)
    print_lines(say("--details shows where the memory goes."))


def _summary_table(plan: Plan) -> Table:
    by_device = list(zip(*(stage.devices for stage in plan.stages), strict=True))
    priced = any(device.dollars is not None for stages in by_device for device in stages)
    many = say("{count} GPUs", count=plan.processes)
    headers = ("", say("memory"), say("one device"), many, say("time"), *([say("cost")] if priced else []))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="none")
    for number, header in enumerate(headers):
        table.add_column(header, no_wrap=True, justify="right" if number in (1, 4, 5) else "left")
    for stages in by_device:
        fits = all(device.fits for device in stages)
        sharded = all(
            device.longest_row_fsdp >= stage.row.tokens for device, stage in zip(stages, plan.stages, strict=True)
        )
        is_cpu = stages is by_device[0]
        row = [
            say("this CPU") if is_cpu else stages[0].device,
            bytes_text(max(device.memory.total for device in stages)),
            _fit(fits),
            "" if is_cpu else _fit(sharded),
            _total_time(stages) if fits else "",
        ]
        table.add_row(*row, *([_dollars(stages) if fits else ""] if priced else []))
    return table


def _fit(fits: bool) -> str:
    return say("fits") if fits else say("does not fit")


def _total_time(stages: Sequence[DeviceForecast]) -> str:
    seconds = [device.seconds for device in stages]
    known = [each for each in seconds if each is not None]
    return duration(sum(known), current_language()) if len(known) == len(seconds) else "?"


def _dollars(stages: Sequence[DeviceForecast]) -> str:
    known = [device.dollars for device in stages if device.dollars is not None]
    return f"${sum(known):,.2f}" if len(known) == len(stages) else ""


def _smaller_ways(stages: Sequence[StageForecast]) -> str:
    """List the ways that need less memory than the recipe, with the memory of the largest stage."""
    needed = max(device.memory.total for stage in stages for device in stage.devices[-1:])
    ways: dict[str, float] = {}
    for stage in stages:
        for other in stage.devices[-1].alternatives:
            ways[other.name] = max(ways.get(other.name, 0.0), other.ddp)
    return ", ".join(f"{name} {bytes_text(size)}" for name, size in ways.items() if size < needed)


def _steps(stage: StageForecast) -> str:
    if stage.steps is None:
        return say("steps unknown (give --samples)")
    return say("{count} steps", count=f"{stage.steps:,}")


def print_details(plan: Plan) -> None:
    """Print each stage: its parameters, its largest row, the memory by use, and other ways to train it."""
    for stage in plan.stages:
        _print_stage(stage, plan.processes)
    _print_teacher(plan)


def _print_teacher(plan: Plan) -> None:
    if plan.teacher is not None:
        print_lines(
            say(
                "Generating as many samples with {model}: {dollars}",
                model=plan.teacher.model,
                dollars=f"${plan.teacher.dollars:,.2f}",
            )
        )


def _print_stage(stage: StageForecast, processes: int) -> None:
    counts = ", ".join(f"{part} {_count(number)}" for part, number in stage.parameters.items())
    trains = say("trains {parts}; parameters: {counts}", parts=", ".join(stage.learn), counts=counts)
    print_lines(Text.assemble((stage.stage, "bold"), f": {trains}"))
    row = stage.row
    source = (
        say("assumed: {what}", what=in_users_language(stage.assumed)) if stage.assumed else say("counted from the data")
    )
    largest = say(
        "{tokens} tokens, {tiles} tiles, {supervised} supervised",
        tokens=f"{row.tokens:,}",
        tiles=row.tiles,
        supervised=f"{row.supervised:,}",
    )
    print_lines(f"{_steps(stage)}; {say('largest packed row: {row}', row=largest)} ({source})")
    stdout.print(_memory_table(stage), _reach_table(stage, processes))
    for remark in stage.remarks:
        print_lines(f"stage {stage.stage}: {remark}")
    others = (
        f"{other.name} {bytes_text(other.ddp)}" + ("" if other.fsdp is None else f" ({bytes_text(other.fsdp)})")
        for other in stage.devices[-1].alternatives
    )
    ways = ", ".join(others)
    print_lines(say("memory of a GPU by DDP (by FSDP2 over {count}): {ways}", count=processes, ways=ways))
    disk = stage.disk
    print_lines(
        say(
            "disk: a checkpoint {size}, midway {midway}, kept {kept}; cache {cache}",
            size=bytes_text(disk.checkpoint),
            midway=bytes_text(disk.midway),
            kept=bytes_text(disk.kept),
            cache=bytes_text(disk.cache),
        ),
        "",
    )


def _table(headers: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="none")
    for number, header in enumerate(headers):
        table.add_column(header, no_wrap=True, justify="right" if number else "left")
    return table


def _short(device: DeviceForecast) -> str:
    return say("this CPU") if device.device.startswith("this ") else device.device.partition(" (")[0]


def _memory_table(stage: StageForecast) -> Table:
    is_large = max(device.memory.total for device in stage.devices) >= 1e9
    scale, unit, digits = (1e9, "GB", 2) if is_large else (1e6, "MB", 1)
    table = _table((unit, *map(say, PARTS)))
    for device in stage.devices:
        memory = device.memory
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations + memory.copies, memory.logits,
                 memory.process, memory.total)  # fmt: skip
        table.add_row(_short(device), *(f"{part / scale:.{digits}f}" for part in parts))
    return table


def _reach_table(stage: StageForecast, processes: int) -> Table:
    priced = any(device.dollars is not None for device in stage.devices)
    names = ("", say("memory by FSDP2 over {count}", count=processes), say("longest row, tokens"), say("time"))
    table = _table((*names, *([say("cost")] if priced else [])))
    for device in stage.devices:
        longest = f"{device.longest_row:,}" if device.longest_row else say("none")
        time = "" if device.seconds is None else duration(device.seconds, current_language())
        dollars = [f"${device.dollars:,.2f}" if device.dollars is not None else ""] if priced else []
        table.add_row(_short(device), bytes_text(device.total_fsdp), longest, time, *dollars)
    return table


def bytes_text(number: float) -> str:
    """Format a number of bytes: "83.9 MB", "1,200 TB"."""
    scale, unit = next((entry for entry in UNITS if number >= entry[0]), (1.0, "B"))
    return f"{number / scale:.3g} {unit}" if number < 1000 * scale else f"{number / scale:,.0f} {unit}"


def _count(number: float) -> str:
    scales = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
    scale, unit = next((entry for entry in scales if number >= entry[0]), (1.0, ""))
    return f"{number / scale:.3g}{unit}"
