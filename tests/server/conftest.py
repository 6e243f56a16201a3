"""A Redis server for the tests that ask for one; patience with the disk for all."""

import pytest

from tests.redis_server import redis_server

__all__ = ["redis_server"]


@pytest.fixture(autouse=True)
def patient_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that two test workers share may take a second for what production waits half of one for."""
    monkeypatch.setattr("server.treatment.LOG_S", 10)
