"""The options of `evaluate` for a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistune.cli.commands import refuse_given
from vistune.errors import RecipeError

if TYPE_CHECKING:
    from vistune.llm_client import Endpoint

ENDPOINT_OPTIONS = (  # parameters of `evaluate` that only an endpoint uses
    "endpoint_model", "api_key_file", "concurrency", "requests_per_minute", "tokens_per_minute", "max_tokens",
    "extra_body", "budget", "prices",
)  # fmt: skip

Url = Annotated[
    str | None, typer.Option(help="URL of an OpenAI-compatible server, such as http://localhost:8000/v1, to evaluate.")
]
EndpointModel = Annotated[str | None, typer.Option("--model", help="endpoint: name of the model at the endpoint.")]
ApiKeyFile = Annotated[
    Path | None, typer.Option(help="endpoint: file with the API key. Default: the variable OPENAI_API_KEY.")
]
Concurrency = Annotated[int, typer.Option(help="endpoint: maximum number of concurrent requests.", min=1)]
RequestsPerMinute = Annotated[float | None, typer.Option(help="endpoint: maximum requests per minute.", min=0.1)]
TokensPerMinute = Annotated[float | None, typer.Option(help="endpoint: maximum tokens per minute.", min=1)]
MaxTokens = Annotated[
    int | None,
    typer.Option(help="endpoint: maximum tokens per reply, including reasoning. Default: that of the task.", min=1),
]
ExtraBody = Annotated[
    str | None,
    typer.Option(
        help="endpoint: JSON object with extra fields for every request, for example '{\"enable_thinking\": false}'."
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(help="endpoint: maximum cost in dollars. No request is sent that could exceed it.", min=0),
]
Prices = Annotated[Path | None, typer.Option(help="endpoint: price table to use instead of the built-in one.")]


def read_endpoint(url: str | None, options: Mapping[str, Any]) -> Endpoint | None:
    """Return the endpoint that the options describe; None without --endpoint.

    Raises RecipeError if an option is missing, or given without --endpoint.
    """
    if url is None:
        refuse_given(ENDPOINT_OPTIONS, "only used with --endpoint", "add --endpoint URL, or remove the option")
        return None
    from vistune.llm_client import Endpoint, read_extra_body

    settings = dict(options)
    model, extra_body = settings.pop("endpoint_model"), settings.pop("extra_body")
    if not model:
        raise RecipeError("--endpoint: which model there is not given", "add --model NAME, as the server calls it")
    settings["key_file"] = settings.pop("api_key_file")
    return Endpoint(model, base_url=url, extra_body=read_extra_body(extra_body), **settings)
