"""Send requests to OpenAI-compatible services, for teachers and judges: client, journal, budget and rate limits."""

from vistune.llm_client.batch import BatchRequest, ask_batch
from vistune.llm_client.client import Client, read_key
from vistune.llm_client.endpoint import Endpoint, read_extra_body
from vistune.llm_client.journal import Journal, Ledger, header_changes, read_ledger
from vistune.llm_client.limits import Budget, Price, RateLimiter, how_to_price, read_prices, unpriced_model
from vistune.llm_client.refusals import Dialect, ServiceError, read_error
from vistune.llm_client.replies import ServiceCompletion, content_of, read_completion
from vistune.llm_client.reply_text import leftover_tag, remove_thoughts, unwrap_reply
from vistune.llm_client.runner import (
    RequestResult,
    RequestRunner,
    RunOptions,
    run_workers,
    stop_requested,
    stopping_by_signal,
)

__all__ = [
    "BatchRequest",
    "Budget",
    "Client",
    "Dialect",
    "Endpoint",
    "Journal",
    "Ledger",
    "Price",
    "RateLimiter",
    "RequestResult",
    "RequestRunner",
    "RunOptions",
    "ServiceCompletion",
    "ServiceError",
    "ask_batch",
    "content_of",
    "header_changes",
    "how_to_price",
    "leftover_tag",
    "read_completion",
    "read_error",
    "read_extra_body",
    "read_key",
    "read_ledger",
    "read_prices",
    "remove_thoughts",
    "run_workers",
    "stop_requested",
    "stopping_by_signal",
    "unpriced_model",
    "unwrap_reply",
]
