"""The processes of one run under `torchrun`. The first one, the main process, does everything but what all do together: the learning.

It alone asks students and judges, books, caches, writes and validates, so that budgets, limits and logs are those of one process; the
others generate, learn, and hand it their instructions. What goes from one to the others travels over a gloo group of its own, on whichever
device the learning runs, and waits as long as the main process needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
LAUNCHED_BY = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""What torchrun tells a process of its place, and the learning stack reads."""
PATIENCE = timedelta(days=7)
"""A warm start or a validation that waits for a rate limit can take days."""


class Processes:
    """Under torchrun all of them, from each one's view; otherwise this one alone, and nothing is sent anywhere."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self._group: Any = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def _connected(self) -> Any:
        import torch.distributed as dist

        if self._group is None:
            if not dist.is_initialized():
                dist.init_process_group(timeout=PATIENCE)
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self._group

    def share(self, value: T) -> T:
        """The main process's value, in every process."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._connected())
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value in the main process, in order of rank; elsewhere an empty list."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        group = self._connected()
        values: list[Any] | None = [None] * self.count if self.main else None
        dist.gather_object(value, values, dst=0, group=group)
        return values or []

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier(self._connected())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it the learning stack of this process knows of no others: what the main process trains here it trains by itself."""
        if self.count == 1:
            yield
            return
        from accelerate.state import AcceleratorState

        place = {name: os.environ.pop(name) for name in LAUNCHED_BY if name in os.environ}
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            yield
        finally:
            os.environ.update(place)
            AcceleratorState._reset_state(reset_partial_state=True)
