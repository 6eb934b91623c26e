"""Send requests to OpenAI-compatible services, for teachers and judges: client, journal, budget and rate limits."""

from vistune.llm_client.batch import BatchRequest, ask_batch
from vistune.llm_client.client import Client, read_key
from vistune.llm_client.dialect import Dialect
from vistune.llm_client.endpoint import Endpoint, read_extra_body
from vistune.llm_client.journal import Journal
from vistune.llm_client.limits import Budget, Price, RateLimiter, how_to_price, read_prices
from vistune.llm_client.refusals import ServiceError, read_error
from vistune.llm_client.replies import content_of, read_completion
from vistune.llm_client.reply_text import leftover_tag, remove_thoughts, unwrap_reply
from vistune.llm_client.runner import RequestResult, RequestRunner, RunOptions
from vistune.llm_client.workers import run_workers, stopping_by_signal

__all__ = [
    "BatchRequest",
    "Budget",
    "Client",
    "Dialect",
    "Endpoint",
    "Journal",
    "Price",
    "RateLimiter",
    "RequestResult",
    "RequestRunner",
    "RunOptions",
    "ServiceError",
    "ask_batch",
    "content_of",
    "how_to_price",
    "leftover_tag",
    "read_completion",
    "read_error",
    "read_extra_body",
    "read_key",
    "read_prices",
    "remove_thoughts",
    "run_workers",
    "stopping_by_signal",
    "unwrap_reply",
]
