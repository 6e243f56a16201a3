"""One pool of grading workers for all grader tests: loading sympy takes a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rewards.worker_pool import WorkerPool


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    workers = WorkerPool(1)
    yield workers
    workers.close()
