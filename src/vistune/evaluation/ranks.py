"""The processes that measure together: one, or those that torchrun has started.

RANK, WORLD_SIZE (set by torchrun) -> joined() -> Ranks: who this one is, and what all of them found
They meet by gloo at the beginning and the end alone; in between each asks its own questions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from vistune.errors import VistuneError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gathered(self, value: T) -> list[T]:
        """Everybody's value, by rank; all must call it. Values are pickled between processes of one run."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that each may fail: where one has failed, all raise its error when the block ends."""
        error: VistuneError | None = None
        try:
            yield
        except VistuneError as caught:
            error = caught
        for found in self.gathered(error):
            if found is not None:
                raise found


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun's environment tells of; within another such block, the same ones."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    ranks = Ranks(int(os.environ["RANK"]), count)
    if dist.is_initialized():
        yield ranks
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))  # the slowest share may take long
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def own_device(device: str, ranks: Ranks) -> str:
    """Of several processes each takes the GPU of its place on its machine; a named one or `cpu` stays."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if ranks.count > 1 and device == "cuda" and local is not None else device
