"""Remote models behind an OpenAI-compatible endpoint: client, journal, budget, pace; for teachers and judges alike."""

from vistune.remote.asker import Answer, Asker, stopped
from vistune.remote.batch import Question, ask_batch
from vistune.remote.budget import Budget, Price, how_to_price, read_prices, unpriced
from vistune.remote.client import Client, Completion, content_of, read_completion, read_key
from vistune.remote.dialect import Dialect
from vistune.remote.endpoint import Endpoint, read_extra_body
from vistune.remote.journal import Journal
from vistune.remote.ledger import Ledger, drift, read_ledger
from vistune.remote.pace import Pace
from vistune.remote.refusals import ServiceError, read_error
from vistune.remote.thoughts import without_thoughts
from vistune.remote.workers import run_workers, stopping_by_signal
from vistune.remote.wrappers import left_tag, unwrapped

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
