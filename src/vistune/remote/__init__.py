"""Remote models behind an OpenAI-compatible endpoint: client, journal, budget, pace; for teachers and judges alike."""

from vistune.remote.asker import Answer, Asker, stopped
from vistune.remote.batch import Question, ask_batch
from vistune.remote.budget import Budget, Price, how_to_price, read_prices, unpriced
from vistune.remote.client import Client, Completion, read_completion, read_key
from vistune.remote.endpoint import Endpoint
from vistune.remote.journal import Journal
from vistune.remote.ledger import Ledger, drift, read_ledger
from vistune.remote.pace import Pace
from vistune.remote.workers import run_workers, stopping_by_signal

__all__ = [
    "Answer",
    "Asker",
    "Budget",
    "Client",
    "Completion",
    "Endpoint",
    "Journal",
    "Ledger",
    "Pace",
    "Price",
    "Question",
    "ask_batch",
    "drift",
    "how_to_price",
    "read_completion",
    "read_key",
    "read_ledger",
    "read_prices",
    "run_workers",
    "stopped",
    "stopping_by_signal",
    "unpriced",
]
