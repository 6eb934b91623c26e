"""Remote models behind an OpenAI-compatible endpoint: client, journal, budget, pace; for teachers and judges alike."""

from vistune.llm_client.asker import Answer, Asker, stopped
from vistune.llm_client.batch import Question, ask_batch
from vistune.llm_client.budget import Budget, Price, how_to_price, read_prices, unpriced
from vistune.llm_client.client import Client, Completion, content_of, read_completion, read_key
from vistune.llm_client.dialect import Dialect
from vistune.llm_client.endpoint import Endpoint, read_extra_body
from vistune.llm_client.journal import Journal
from vistune.llm_client.ledger import Ledger, drift, read_ledger
from vistune.llm_client.pace import Pace
from vistune.llm_client.refusals import ServiceError, read_error
from vistune.llm_client.thoughts import without_thoughts
from vistune.llm_client.workers import run_workers, stopping_by_signal
from vistune.llm_client.wrappers import left_tag, unwrapped

__all__ = [
    "Answer",
    "Asker",
    "Budget",
    "Client",
    "Completion",
    "Dialect",
    "Endpoint",
    "Journal",
    "Ledger",
    "Pace",
    "Price",
    "Question",
    "ServiceError",
    "ask_batch",
    "content_of",
    "drift",
    "how_to_price",
    "left_tag",
    "read_completion",
    "read_error",
    "read_extra_body",
    "read_key",
    "read_ledger",
    "read_prices",
    "run_workers",
    "stopped",
    "stopping_by_signal",
    "unpriced",
    "unwrapped",
    "without_thoughts",
]
