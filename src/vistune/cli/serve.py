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
    model: Annotated[
        Path, typer.Argument(help="Run folder, model folder, or a folder in any layout that import reads.")
    ],
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
        stderr.print(f"{settings.name}: {address}/v1, the page at {address}/ (stop with Ctrl-C)", soft_wrap=True)

    api.serve(model, settings, device=device, dtype=dtype, quantize=quantize, announce=announce)
