"""`POST /outcomes`: what is taken, what is refused, and that nothing counts twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.keys import Key, change, new_secret
from tests.server.online import asked, created, definition, online, told
from tests.server.test_experiments import log_of
from tests.server.test_instruct import JSON, assert_error

METRICS = [{"name": "stars", "kind": "bounded", "low": 1, "high": 5}, {"name": "euros", "kind": "real"}]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with online(tmp_path) as client:
        created(client, metrics=METRICS, guardrails=[{"metric": "errors", "margin": 0.1}, {"metric": "fallback", "margin": 0.1}])
        asked(client, "u", request_id="r")
        yield client


def outcomes(client: TestClient) -> list[tuple[Any, ...]]:
    return [(row["unit"], row["metric"], row["value"]) for row in log_of(client) if row["value"] is not None]


@pytest.mark.parametrize(
    ("metric", "value", "taken"),
    [
        ("resolved", True, 1.0),
        ("resolved", 0, 0.0),
        ("resolved", 1.0, 1.0),
        ("stars", 5, 5.0),
        ("stars", 2.5, 2.5),
        ("euros", -12.25, -12.25),
        ("euros", 1e15, 1e15),
    ],
)
def test_an_outcome_is_taken(client: TestClient, metric: str, value: Any, taken: float) -> None:
    response = told(client, request_id="r", metric=metric, value=value)
    assert response.status_code == 200, response.text
    reply = response.json()
    assert reply.pop("experiment")["id"] == "e1"
    assert reply == {"request_id": "r", "metric": metric, "value": taken, "duplicate": False}
    assert outcomes(client) == [("u", metric, taken)]


def test_a_guardrails_outcome_stays_out_of_the_verdicts_log(client: TestClient) -> None:
    assert told(client, request_id="r", metric="errors", value=1).status_code == 200
    assert outcomes(client) == []
    report = client.get("/experiments/e1/report").json()
    assert [guardrail["mean"] for guardrail in report["guardrails"] if guardrail["metric"] == "errors"].count(None) <= 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"request_id": "r", "metric": "resolved", "value": 0.5}', "value: resolved is a binary metric"),
        ('{"request_id": "r", "metric": "resolved", "value": 2}', "value: resolved is a binary metric"),
        ('{"request_id": "r", "metric": "stars", "value": 0.99}', "value: stars is taken from 1 to 5"),
        ('{"request_id": "r", "metric": "stars", "value": 5.01}', "value: stars is taken from 1 to 5"),
        ('{"request_id": "r", "metric": "euros", "value": NaN}', "value: must be a finite number"),
        ('{"request_id": "r", "metric": "euros", "value": Infinity}', "value: must be a finite number"),
        ('{"request_id": "r", "metric": "euros", "value": -1e999}', "value: must be a finite number"),
        ('{"request_id": "r", "metric": "euros", "value": 1e308}', "value: must be a finite number of at most 1e+15"),
        (f'{{"request_id": "r", "metric": "euros", "value": 1{"0" * 400}}}', "value: must be a finite number"),
        ('{"request_id": "r", "metric": "euros", "value": "1"}', "value"),
        ('{"request_id": "r", "metric": "euros", "value": null}', "value"),
        ('{"request_id": "r", "metric": "euros"}', "value: field required"),
        ('{"request_id": "r", "value": 1}', "metric: field required"),
        ('{"request_id": "r", "metric": "resovled", "value": 1}', "metric: experiment e1 takes outcomes of resolved, stars, euros, errors"),
        ('{"request_id": "r", "metric": "fallback", "value": 1}', "metric: experiment e1 takes outcomes of"),
        ('{"request_id": "r", "metric": "\\u0007", "value": 1}', "metric: holds characters that cannot be printed"),
        ('{"metric": "resolved", "value": 1}', "request_id: name a request, or a unit and its experiment"),
        ('{"metric": "resolved", "value": 1, "unit": "u"}', "request_id: name a request, or a unit and its experiment"),
        ('{"request_id": "r", "unit": "v", "metric": "resolved", "value": 1}', "unit: the request belongs to another unit"),
        ('{"request_id": "r", "experiment": "e2", "metric": "resolved", "value": 1}', "experiment: the request belongs to another"),
        ('{"request_id": "r", "metric": "resolved", "value": 1, "weight": 9}', "weight: no such field"),
        ('{"request_id": "\\ud800", "metric": "resolved", "value": 1}', "request_id"),
    ],
)
def test_a_bad_outcome_is_refused_and_nothing_is_kept(client: TestClient, body: str, message: str) -> None:
    assert_error(client.post("/outcomes", content=body, headers=JSON), 422, "invalid_field", message)
    assert outcomes(client) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": "nope"},
        {"request_id": "r/../r"},
        {"request_id": '",""],["request","","r"'},
        {"unit": "nobody", "experiment": "e1"},
        {"unit": "u", "experiment": "nope"},
    ],
)
def test_an_outcome_of_what_was_not_served_is_refused(client: TestClient, fields: dict[str, str]) -> None:
    assert_error(told(client, value=1, **fields), 404, "not_found")
    assert outcomes(client) == []


def test_a_repeated_outcome_counts_once_and_another_value_is_a_conflict(client: TestClient) -> None:
    assert told(client, request_id="r", value=1).json()["duplicate"] is False
    assert told(client, request_id="r", value=True).json()["duplicate"] is True
    assert_error(told(client, request_id="r", value=0), 409, "conflict", "need an idempotency_key each")
    assert told(client, unit="u", experiment="e1", metric="stars", value=3).json()["duplicate"] is False
    assert told(client, unit="u", experiment="e1", metric="stars", value=3).json()["duplicate"] is True
    assert_error(told(client, unit="u", experiment="e1", metric="stars", value=4), 409, "conflict", "for this unit")
    assert outcomes(client) == [("u", "resolved", 1.0), ("u", "stars", 3.0)]


def test_idempotency_keys(client: TestClient) -> None:
    for key, value in (("k1", 1), ("k2", 1), ("k3", 0), ("k1", 1)):
        assert told(client, unit="u", experiment="e1", value=value, idempotency_key=key).status_code == 200
    assert_error(
        told(client, unit="u", experiment="e1", value=0, idempotency_key="k1"), 409, "conflict", "idempotency_key: another outcome"
    )
    assert_error(told(client, request_id="r", value=1, idempotency_key="k1"), 409, "conflict", "idempotency_key: another outcome")
    body = {"unit": "u", "experiment": "e1", "metric": "resolved", "value": 1}
    assert client.post("/outcomes", json=body, headers={"idempotency-key": "k1"}).json()["duplicate"] is True
    both = client.post("/outcomes", json={**body, "idempotency_key": "k1"}, headers={"idempotency-key": "k9"})
    assert_error(both, 422, "invalid_field", "idempotency_key: differs from the header")
    assert [value for _, _, value in outcomes(client)] == [1.0, 1.0, 0.0]


def test_outcomes_may_come_late(client: TestClient) -> None:
    client.post("/experiments/e1/stop")
    assert told(client, request_id="r", value=1).status_code == 200
    assert asked(client, "late")["experiment"] is None
    assert_error(told(client, unit="late", experiment="e1", value=1), 404, "not_found", "has not entered the experiment")


def test_one_unit_cannot_decide_a_test(client: TestClient) -> None:
    for i in range(6):
        told(client, request_id=asked(client, f"u{i}")["request_id"], value=0)
    for i in range(100):
        assert told(client, unit="u", experiment="e1", value=1, idempotency_key=str(i)).status_code == 200
    arms = client.get("/experiments/e1/report").json()["metrics"]["resolved"]["arms"]
    assert sum(arm["capped_units"] for arm in arms.values()) == 1
    assert sum(arm["n"] for arm in arms.values()) == 106


def test_while_redis_is_down_an_unknown_request_is_not_called_unknown(tmp_path: Path) -> None:
    with online(tmp_path, store="redis://127.0.0.1:1/0") as client:  # nobody listens there
        created(client)
        asked(client, "u", request_id="r")
        assert told(client, request_id="r", value=1).status_code == 200
        assert_error(told(client, request_id="other", value=1), 503, "capacity", "cannot ask the others now")
        assert outcomes(client) == [("u", "resolved", 1.0)]


def test_other_tenants_see_and_reach_nothing(tmp_path: Path) -> None:
    keys, headers = tmp_path / "keys.json", {}
    for number, tenant in enumerate(("one", "other")):
        text, secret = new_secret(f"{number:012x}")
        facts = {"tenant": tenant, "secrets": (secret,), "scopes": ("instruct", "outcomes", "experiments"), "created": datetime.now(UTC)}
        change(keys, lambda held, number=number, facts=facts: held.update({f"{number:012x}": Key.model_validate(facts)}))
        headers[tenant] = {"authorization": f"Bearer {text}"}
    one, other = headers["one"], headers["other"]
    with online(tmp_path, keys=str(keys), host="0.0.0.0") as client:
        assert client.post("/experiments", json=definition(), headers=one).status_code == 201
        body = {"query": "q", "unit": "u", "experiment": "e1"}
        request_id = client.post("/instruct", json=body, headers=one).json()["request_id"]
        assert client.post("/instruct", json=body, headers=other).json()["experiment"] is None
        outcome = {"request_id": request_id, "metric": "resolved", "value": 1}
        assert_error(client.post("/outcomes", json=outcome, headers=other), 404, "not_found")
        by_unit = {"unit": "u", "experiment": "e1", "metric": "resolved", "value": 1}
        assert_error(client.post("/outcomes", json=by_unit, headers=other), 404, "not_found")
        for path in ("", "/report", "/log"):
            assert_error(client.get(f"/experiments/e1{path}", headers=other), 404, "not_found", "known: none")
        assert_error(client.post("/experiments/e1/stop", headers=other), 404, "not_found")
        assert client.get("/experiments", headers=other).json() == {"experiments": []}
        assert client.post("/experiments", json=definition(), headers=other).status_code == 201
        assert client.post("/outcomes", json=outcome, headers=one).status_code == 200


def test_an_outcome_past_its_attribution_window_does_not_count(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        created(client, id="short", attribution_window_s=0.001)
        created(client, id="long", attribution_window_s=3600)
        asked(client, "u", "short", request_id="r1")
        asked(client, "u", "long", request_id="r2")
        now = time.time()
        assert_error(told(client, request_id="r1", value=1), 422, "invalid_field", "past the attribution window of 0.001 s")
        assert_error(told(client, unit="u", experiment="short", value=1), 422, "invalid_field", "attribution window")
        # What happened in time may be told late; the time says so.
        kept = {"request_id": "r1", "value": 1}
        assert told(client, **kept, time=now - 30).json()["duplicate"] is False
        # The same again without a time is a retry of what was taken, whatever the clock says now.
        assert told(client, **kept).json()["duplicate"] is True
        assert told(client, request_id="r2", value=1).status_code == 200
        assert_error(told(client, request_id="r2", metric="resolved", value=1, time=now + 3600), 422, "invalid_field", "lies in the future")
        assert_error(told(client, request_id="r2", value=1, time=now - 3600), 422, "invalid_field", "time: lies before")
        assert client.get("/experiments/short").json()["definition"]["attribution_window_s"] == 0.001


def test_a_key_in_the_header_is_no_key_of_several_outcomes(client: TestClient) -> None:
    found = client.post(
        "/outcomes/batch", json={"items": [{"request_id": "r", "metric": "ok", "value": 1}]}, headers={"Idempotency-Key": "k"}
    )
    assert_error(found, 422, "invalid_field", "Idempotency-Key: of several outcomes each has its own idempotency_key")


def test_a_batch_takes_what_can_be_taken_and_says_what_not(client: TestClient) -> None:
    asked(client, "v", request_id="r2")
    told(client, request_id="r", value=1)
    items = [
        {"request_id": "r", "metric": "resolved", "value": 1},
        {"request_id": "r", "metric": "resolved", "value": 0},
        {"request_id": "r2", "metric": "resolved", "value": 0},
        {"request_id": "r2", "metric": "resolved", "value": 0},
        {"request_id": "nope", "metric": "resolved", "value": 1},
        {"unit": "v", "experiment": "e1", "metric": "stars", "value": 6},
        {"unit": "v", "experiment": "e1", "metric": "stars", "value": 4},
    ]
    response = client.post("/outcomes/batch", json={"items": items})
    assert response.status_code == 200, response.text
    found = response.json()["items"]
    assert [item["status"] for item in found] == [200, 409, 200, 200, 404, 422, 200]
    assert [item["outcome"]["duplicate"] for item in found if item["outcome"]] == [True, False, True, False]
    assert [item["error"]["type"] for item in found if item["error"]] == ["conflict", "not_found", "invalid_field"]
    assert sorted(outcomes(client)) == [("u", "resolved", 1.0), ("v", "resolved", 0.0), ("v", "stars", 4.0)]
    again = client.post("/outcomes/batch", json={"items": items}).json()["items"]
    assert [item["status"] for item in again] == [200, 409, 200, 200, 404, 422, 200] and len(outcomes(client)) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"items": []}, "items"),
        ({"items": [{"metric": "m", "value": 1}] * 1001}, "items"),
        ({"items": [{"request_id": "r", "metric": "resolved", "value": 1}, {"metric": "resolved", "value": "1"}]}, "items.1.value"),
        ({"item": []}, "did you mean items?"),
    ],
)
def test_a_batch_that_is_none_is_refused_whole(client: TestClient, body: Any, message: str) -> None:
    assert_error(client.post("/outcomes/batch", json=body), 422, "invalid_field", message)
    assert outcomes(client) == []
