"""Options of commands that send requests to an OpenAI-compatible service, and the endpoint of `evaluate`."""

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

# Settings of a service: the help without the role, and the smallest value.
SERVICE_SETTINGS: Mapping[str, tuple[str, float | None]] = {
    "api_key_file": ("file with the API key. Default: the variable OPENAI_API_KEY.", None),
    "concurrency": ("maximum number of concurrent requests.", 1),
    "requests_per_minute": ("maximum requests per minute.", 0.1),
    "tokens_per_minute": ("maximum tokens per minute.", 1),
    "extra_body": (
        "JSON object with extra fields for every request, for example '{\"enable_thinking\": false}'.",
        None,
    ),
    "budget": ("maximum cost in dollars. No request is sent that could exceed it.", 0),
    "prices": ("price table to use instead of the built-in one.", None),
}


def service_option(role: str, setting: str) -> Any:
    """Return the option of a service's setting, whose help begins with the role of the service: openai, judge …"""
    text, least = SERVICE_SETTINGS[setting]
    return typer.Option(help=f"{role}: {text}", min=least)


Url = Annotated[
    str | None, typer.Option(help="URL of an OpenAI-compatible server, such as http://localhost:8000/v1, to evaluate.")
]
EndpointModel = Annotated[str | None, typer.Option("--model", help="endpoint: name of the model at the endpoint.")]
ApiKeyFile = Annotated[Path | None, service_option("endpoint", "api_key_file")]
Concurrency = Annotated[int, service_option("endpoint", "concurrency")]
RequestsPerMinute = Annotated[float | None, service_option("endpoint", "requests_per_minute")]
TokensPerMinute = Annotated[float | None, service_option("endpoint", "tokens_per_minute")]
MaxTokens = Annotated[
    int | None,
    typer.Option(help="endpoint: maximum tokens per reply, including reasoning. Default: that of the task.", min=1),
]
ExtraBody = Annotated[str | None, service_option("endpoint", "extra_body")]
Budget = Annotated[float | None, service_option("endpoint", "budget")]
Prices = Annotated[Path | None, service_option("endpoint", "prices")]


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
        raise RecipeError("--endpoint: the name of the model is missing", "add --model NAME, as the server calls it")
    settings["key_file"] = settings.pop("api_key_file")
    return Endpoint(model, base_url=url, extra_body=read_extra_body(extra_body), **settings)
