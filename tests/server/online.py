"""An app in front of the service for tests of experiments: fake teachers, an event log of its own, shorthands for requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from server.app import create_app
from server.settings import ServerSettings
from tests.server.fakes import FakePolicy, FakeTeacher

ARMS = [{"name": "raw", "raw": True, "weight": 0.5}, {"name": "teacher", "teacher": "fake-teacher", "weight": 0.5}]


def definition(**changes: Any) -> dict[str, Any]:
    """A raw-against-teacher experiment."""
    return {"id": "e1", "arms": ARMS, "control": "raw", "metric": {"name": "resolved", "kind": "binary"}, **changes}


@contextmanager
def online(folder: Path, *, others: Sequence[FakeTeacher] = (), policy: Any = None, **settings: Any) -> Iterator[TestClient]:
    """A client of an app whose event log lies in `folder`: entered again, the same log."""
    made = ServerSettings(**{"event_log": str(folder / "events.db"), "guardrail_period_s": 3600, "cache_entries": 0, **settings})
    with TestClient(create_app(made, FakeTeacher(policy or FakePolicy()), {one.id: one for one in others})) as client:
        yield client


def created(client: TestClient, **changes: Any) -> dict[str, Any]:
    response = client.post("/experiments", json=definition(**changes))
    assert response.status_code == 201, response.text
    reply: dict[str, Any] = response.json()
    return reply


def asked(client: TestClient, unit: str, experiment: str = "e1", **fields: Any) -> dict[str, Any]:
    """The reply to one `/instruct` of a unit."""
    headers = {"x-request-id": fields.pop("request_id")} if "request_id" in fields else {}
    response = client.post("/instruct", json={"query": "2+2?", "unit": unit, "experiment": experiment, **fields}, headers=headers)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def told(client: TestClient, **fields: Any) -> Any:
    """The response to one `/outcomes`."""
    return client.post("/outcomes", json={"metric": "resolved", **fields})
