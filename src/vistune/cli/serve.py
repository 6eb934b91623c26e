"""The verb that answers requests over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistune import api
from vistune.cli.console import stderr
from vistune.cli.model import Device, Dtype, Quantize
from vistune.serving.api.limits import Limits, Settings

DEFAULTS = Limits()


def serve(
    model: Annotated[Path, typer.Argument(help="A run, a model folder, or any layout that import reads.")],
    host: Annotated[str, typer.Option(help="Where to listen; beyond this machine keys are needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 = one that is free.", min=0, max=65535)] = 8000,
    api_key_file: Annotated[Path | None, typer.Option(help="The keys that clients may use, one a line.")] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model; else the folder's name.")] = None,
    allow_fetch_from: Annotated[
        list[str] | None, typer.Option(help="A host that pictures may be fetched from over https; else none are.")
    ] = None,
    slots: Annotated[int, typer.Option(help="Answers written at once.", min=1, max=1024)] = DEFAULTS.slots,
    queue: Annotated[int, typer.Option(help="Requests that may wait for a slot.", min=0)] = DEFAULTS.queue,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of an answer at most, and where a request names no number.", min=1)
    ] = DEFAULTS.max_tokens,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
) -> None:
    """Serve a model as OpenAI's API does, until Ctrl-C or SIGTERM; answers under way are finished first."""
    settings = Settings(
        name=name or model.resolve().name,
        host=host,
        port=port,
        key_file=api_key_file,
        fetch_from=allow_fetch_from or (),
        limits=Limits(slots=slots, queue=queue, max_tokens=max_tokens),
    )

    def announce(address: str) -> None:
        stderr.print(f"{settings.name}: {address}/v1, the page at {address}/ (stop with Ctrl-C)", soft_wrap=True)

    api.serve(model, settings, device=device, dtype=dtype, quantize=quantize, announce=announce)
