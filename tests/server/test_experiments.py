"""Experiments over HTTP: definitions, assignment in `/instruct`, exposures, ramps, stops, reports, guardrails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from exchange.records import PublicExample
from server.experiments import Experiments
from store import Event
from tests.requirements import ROOT
from tests.server.fakes import FakePolicy, FakeTeacher, HangingPolicy, fail
from tests.server.online import ARMS, asked, created, definition, online, told
from tests.server.test_instruct import assert_error

OTHER = FakeTeacher(FakePolicy(lambda _: "Other advice"), id="other-teacher", sha256="cd" * 32)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with online(tmp_path, others=[OTHER]) as client:
        yield client


def log_of(client: TestClient, name: str = "e1") -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.get(f"/experiments/{name}/log").text.splitlines()]


def check_guardrails(client: TestClient) -> None:
    experiments: Experiments = client.app.state.experiments  # type: ignore[attr-defined]
    assert client.portal is not None
    client.portal.call(experiments.check_guardrails)


def test_an_experiment_is_made_listed_and_shown(client: TestClient) -> None:
    assert client.get("/experiments").json() == {"experiments": []}
    made = created(client, hypothesis="The teacher helps.")
    assert made["status"] == "running"
    assert [arm["teacher"] for arm in made["definition"]["arms"]] == [None, "ab" * 32]
    assert client.get("/experiments/e1").json() == made
    second = created(client, id="e2", metric="resolved")
    assert second["definition"]["metric"]["kind"] == "real"
    assert client.get("/experiments").json() == {"experiments": [made, second]}


def test_the_same_definition_again_changes_nothing_and_another_is_a_conflict(client: TestClient) -> None:
    made = created(client)
    again = client.post("/experiments", json=definition())
    assert (again.status_code, again.json()) == (200, made)
    assert_error(client.post("/experiments", json=definition(alpha=0.1)), 409, "conflict", "take a new id")


def arms(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**arm, **change} for arm, change in zip(ARMS, changes)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": arms({"weight": 0.5}, {"weight": 0.4})}, "weights sum to 0.9; they must sum to 1"),
        ({"arms": arms({"weight": 1.0}, {"weight": 0.0})}, "arms.1.weight: input should be greater than 0"),
        (
            {"arms": arms({}, {"teacher": "nobody"})},
            "arms.1.teacher: teacher 'nobody' is not loaded; loaded: other-teacher (cdcdcdcdcdcd), fake",
        ),
        ({"arms": arms({}, {"teacher": "ababab"})}, "is not loaded"),
        ({"arms": arms({}, {"name": "raw"})}, "arms name 'raw' twice"),
        ({"arms": arms({}, {"text": "Add."})}, 'exactly one of "teacher", "text" and "raw"'),
        ({"arms": arms({"raw": False}, {})}, 'exactly one of "teacher", "text" and "raw"'),
        ({"arms": arms({}, {"teacher": None, "text": "<|im_end|>"})}, "the guard refuses this text (chat_marker)"),
        ({"arms": arms({}, {"teacher": None, "text": " "})}, "the text is empty"),
        ({"arms": ARMS[:1]}, "arms: tuple should have at least 2 items"),
        ({"control": "nobody"}, "control 'nobody': no such arm; known: raw, teacher"),
        ({"id": "a/b"}, "id: string should match"),
        ({"id": ""}, "id: string should match"),
        ({"alpha": 0}, "alpha: input should be greater than"),
        ({"planned_n": 1}, "planned_n: input should be greater than"),
        ({"metric": {"name": "m", "kind": "bounded"}}, "a bounded metric needs low and high"),
        ({"metric": {"name": "m", "kind": "bounded", "low": 1, "high": 1}}, "low 1 must be below high 1"),
        ({"metric": {"name": "m", "kind": "binary", "low": 0}}, "takes no low and high"),
        ({"metric": "latency_ms"}, "'latency_ms' is measured by the service"),
        ({"metrics": ["resolved"]}, "metrics name 'resolved' twice"),
        ({"guardrails": [{"metric": "errors", "margin": -1}]}, "guardrails.0.margin: input should be greater than"),
        ({"guardrails": [{"metric": "errors"}]}, "guardrails.0.margin: field required"),
        ({"layer": "l", "layer_slice": [0.5, 0.5]}, "need 0 <= from < to <= 1"),
        ({"wieghts": 1}, "wieghts: no such field; did you mean weight?"),
    ],
)
def test_a_bad_definition_is_refused_in_one_line(client: TestClient, changes: dict[str, Any], message: str) -> None:
    assert_error(client.post("/experiments", json=definition(**changes)), 422, "invalid_field", message)
    assert client.get("/experiments").json() == {"experiments": []}


def test_units_get_their_arms_treatment_and_stay_there(tmp_path: Path) -> None:
    three = [{**ARMS[0], "weight": 0.25}, {**ARMS[1], "weight": 0.25}, {"name": "text", "text": "Think.", "weight": 0.25}]
    three.append({"name": "other", "teacher": "cdcdcdcd", "weight": 0.25})
    with online(tmp_path, others=[OTHER]) as client:
        created(client, arms=three)
        first = {f"u{i}": asked(client, f"u{i}") for i in range(40)}
        assert {reply["experiment"]["arm"] for reply in first.values()} == {"raw", "teacher", "text", "other"}
        for reply in first.values():
            arm = reply["experiment"]["arm"]
            expected = {"raw": ("", "silence"), "text": ("Think.", "static"), "teacher": ("Think about 2+2?", "teacher")}
            assert (reply["instruction"], reply["source"]) == expected.get(arm, ("Other advice", "teacher"))
            sums = {"teacher": "ab" * 32, "other": "cd" * 32}
            assert (reply["teacher"] or {}).get("sha256") == sums.get(arm)
            assert (reply["messages"] == [{"role": "user", "content": "2+2?"}]) == (arm == "raw")
            assert reply["degraded"] is None
    with online(tmp_path) as client:  # the other teacher is not loaded any more
        for unit, reply in first.items():
            now = asked(client, unit)
            assert now["experiment"] == reply["experiment"]
            assert now["degraded"] == ("teacher_not_loaded" if now["experiment"]["arm"] == "other" else None)


def test_requests_outside_of_a_running_experiment_get_the_teacher(client: TestClient) -> None:
    assert asked(client, "u", "nope")["experiment"] is None
    created(client, enrolled=0)
    assert asked(client, "u")["experiment"] is None
    created(client, id="e2")
    assert client.post("/experiments/e2/stop").json()["stop_reason"] == "by hand"
    reply = asked(client, "u", "e2")
    assert (reply["experiment"], reply["source"]) == (None, "teacher")
    assert client.post("/experiments/e2/stop", json={"reason": "later"}).json()["stop_reason"] == "by hand"


def test_an_exposure_is_logged_once(client: TestClient) -> None:
    created(client)
    for _ in range(2):
        assert asked(client, "u", request_id="r1")["request_id"] == "r1"
    # The id is taken: another unit's request is known under one of its own.
    other = asked(client, "v", request_id="r1")
    assert other["request_id"].startswith("r1-")
    batch = client.post("/instruct/batch", json={"items": [{"query": "q", "experiment": "e1", "unit": "w"}] * 2}).json()
    assert all(item["experiment"]["id"] == "e1" for item in batch["items"])
    without_unit = client.post("/instruct", json={"query": "q", "experiment": "e1"}).json()
    rows = log_of(client)
    assert [(row["unit"], row["value"]) for row in rows] == [(u, None) for u in ("u", "v", "w", "w", without_unit["request_id"])]
    assert len({row["request_id"] for row in rows}) == 5


def test_a_ramp_adds_units_and_moves_none(client: TestClient) -> None:
    created(client, enrolled=0.2)
    before = {f"u{i}": asked(client, f"u{i}")["experiment"] for i in range(60)}
    assert client.post("/experiments/e1/ramp", json={"enrolled": 0.7}).json()["enrolled"] == 0.7
    after = {f"u{i}": asked(client, f"u{i}")["experiment"] for i in range(60)}
    kept = {unit: arm for unit, arm in before.items() if arm is not None}
    assert 0 < len(kept) < sum(arm is not None for arm in after.values()) < 60
    assert kept.items() <= after.items()
    assert_error(client.post("/experiments/e1/ramp", json={"enrolled": 0.5}), 409, "conflict", "can only grow")
    assert_error(client.post("/experiments/e1/ramp", json={"enrolled": 1.5}), 422, "invalid_field", "enrolled")
    client.post("/experiments/e1/stop")
    assert_error(client.post("/experiments/e1/ramp", json={"enrolled": 1}), 409, "conflict", "is stopped")


def test_a_page_of_another_site_stops_nothing(client: TestClient) -> None:
    created(client)
    form = {"content-type": "application/x-www-form-urlencoded"}
    for site in ("cross-site", "same-site"):
        response = client.post("/experiments/e1/stop", headers={**form, "sec-fetch-site": site})
        assert_error(response, 403, "not_allowed", "another site")
    assert client.post("/experiments/e1/ramp", content="enrolled=1", headers=form).status_code == 400
    assert client.get("/experiments/e1").json()["status"] == "running"
    assert client.post("/experiments/e1/stop", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_experiments_of_one_layer_share_no_unit(client: TestClient) -> None:
    created(client, layer="l", layer_slice=[0, 0.5])
    refused = client.post("/experiments", json=definition(id="e2", layer="l", layer_slice=[0.4, 1]))
    assert_error(refused, 409, "conflict", "experiment e1 runs in 0 to 0.5 of layer 'l'")
    created(client, id="e2", layer="l", layer_slice=[0.5, 1])
    for i in range(40):
        in_first, in_second = (asked(client, f"u{i}", name)["experiment"] for name in ("e1", "e2"))
        assert (in_first is None) != (in_second is None)


def test_a_forced_arm_is_served_and_left_out(client: TestClient) -> None:
    created(client)
    for arm in ("raw", "teacher"):
        reply = asked(client, "qa", force_arm=arm)
        assert reply["experiment"] == {"id": "e1", "arm": arm}
        assert told(client, request_id=reply["request_id"], value=1).status_code == 200
    unknown = client.post("/instruct", json={"query": "q", "unit": "u", "experiment": "e1", "force_arm": "nope"})
    assert_error(unknown, 422, "invalid_field", "force_arm: 'nope': no such arm; known: raw, teacher")
    assert all(row["forced"] for row in log_of(client))
    assert_error(client.get("/experiments/e1/report"), 404, "not_found", "but 4 of units that were put into their arm by hand")
    for i in range(20):
        asked(client, f"u{i}")
    report = client.get("/experiments/e1/report").json()
    assert report["forced_lines"] == 4
    assert sum(report["srm"]["units"].values()) == 20


@pytest.mark.parametrize("policy", [FakePolicy(fail(RuntimeError("broken"))), HangingPolicy(), FakePolicy(lambda _: "user: hi")])
def test_a_request_that_fell_back_stays_in_its_arm(tmp_path: Path, policy: Any) -> None:
    with online(tmp_path, policy=policy, deadline_ms=20) as client:
        created(client)
        replies = [asked(client, f"u{i}") for i in range(12)]
        fell = [reply for reply in replies if reply["experiment"]["arm"] == "teacher"]
        assert fell
        assert all(reply["source"] == "passthrough" and reply["degraded"] for reply in fell)
        report = client.get("/experiments/e1/report").json()
    assert report["traffic"]["teacher"] == {"requests": len(fell), "fallback_share": 1.0, "stopped": None}
    assert report["traffic"]["raw"]["fallback_share"] == 0.0
    assert report["srm"]["units"] == {"raw": 12 - len(fell), "teacher": len(fell)}


def test_an_empty_experiment_has_no_report(client: TestClient) -> None:
    created(client)
    for form in ("json", "html"):
        message = "experiment e1 has no report yet: the log holds no exposures"
        assert_error(client.get(f"/experiments/e1/report?format={form}"), 404, "not_found", message)
    assert client.get("/experiments/e1/log").text == ""
    for path in ("/experiments/nope", "/experiments/nope/report", "/experiments/nope/log"):
        assert_error(client.get(path), 404, "not_found", "known: e1")
    assert_error(client.post("/experiments/nope/stop"), 404, "not_found")
    assert_error(client.get("/experiments/e1/report?format=pdf"), 422, "invalid_field", "format")


def fill(client: TestClient, units: int, rates: dict[str, float], metric: str = "resolved") -> None:
    """Units whose outcomes hold a rate exactly, arm by arm."""
    count = dict.fromkeys(rates, 0)
    for i in range(units):
        reply = asked(client, f"u{i}", covariate=i % 7)
        arm = reply["experiment"]["arm"]
        before, count[arm] = count[arm], count[arm] + 1
        value = int(rates[arm] * count[arm]) - int(rates[arm] * before)
        assert told(client, request_id=reply["request_id"], metric=metric, value=value).status_code == 200


def test_the_report_is_the_same_again_after_a_restart_and_from_the_exported_log(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        created(client, planned_n=400, guardrails=[{"metric": "latency_ms", "margin": 5000}])
        fill(client, 320, {"raw": 0.4, "teacher": 0.7})
        report, html = client.get("/experiments/e1/report"), client.get("/experiments/e1/report", headers={"accept": "text/html"})
        (tmp_path / "log.jsonl").write_bytes(client.get("/experiments/e1/log").content)
    with online(tmp_path) as client:
        assert client.get("/experiments/e1/report").content == report.content
        assert client.get("/experiments/e1/report?format=html").content == html.content
    found = report.json()
    assert found["metrics"]["resolved"]["vs_control"]["teacher"]["verdict"] == "better"
    assert found["verdict"].startswith("On resolved, teacher is better than raw: 69.4% against 40.0%")
    assert html.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in html.headers["content-security-policy"]
    assert found["verdict"] in html.text
    assert found["lines_sha256"] in html.text
    command = [sys.executable, "-m", "evaluation.analyze", str(tmp_path / "log.jsonl"), "--json", "--planned-n", "400"]
    analysed = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert {name: found[name] for name in analysed} == analysed


def test_a_harmful_arm_is_stopped_by_its_guardrail(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        created(client, guardrails=[{"metric": "errors", "margin": 0.05}], planned_n=400)
        fill(client, 60, {"raw": 0.0, "teacher": 0.0}, "errors")
        check_guardrails(client)
        assert client.get("/experiments/e1").json()["status"] == "running"
        fill(client, 200, {"raw": 0.05, "teacher": 0.6}, "errors")
        check_guardrails(client)
        experiment = client.get("/experiments/e1").json()
        report = client.get("/experiments/e1/report").json()
    assert (experiment["status"], experiment["stop_reason"]) == ("stopped", "guardrail")
    stop = experiment["stopped_arms"]["teacher"]
    assert (stop["metric"], stop["margin"], stop["binary"]) == ("errors", 0.05, True)
    assert stop["low"] > 0.05
    assert report["verdict"].startswith("teacher was stopped by its guardrail: on errors it was worse than raw by more than ")
    assert report["traffic"]["teacher"]["stopped"] == stop
    with online(tmp_path) as client:
        assert client.get("/experiments/e1").json() == experiment
        assert client.get("/experiments/e1/report").json() == report
        assert asked(client, "u1")["experiment"] is None


def test_a_stopped_arm_of_three_gets_the_controls_treatment(tmp_path: Path) -> None:
    three = [{**ARMS[0], "weight": 0.4}, {**ARMS[1], "weight": 0.3}, {"name": "text", "text": "Think.", "weight": 0.3}]

    def broken(example: PublicExample) -> str:
        raise RuntimeError

    with online(tmp_path, policy=FakePolicy(broken)) as client:
        created(client, arms=three, guardrails=[{"metric": "fallback", "margin": 0.1}])
        fill(client, 150, {"raw": 0.5, "teacher": 0.5, "text": 0.5})
        check_guardrails(client)
        experiment = client.get("/experiments/e1").json()
        assert (experiment["status"], list(experiment["stopped_arms"])) == ("running", ["teacher"])
        replies = [asked(client, f"u{i}") for i in range(30)]
        report = client.get("/experiments/e1/report").json()
    in_arm = [reply for reply in replies if reply["experiment"]["arm"] == "teacher"]
    assert in_arm
    assert all((reply["source"], reply["degraded"]) == ("silence", None) for reply in in_arm)
    assert report["verdict"].startswith("teacher was stopped by its guardrail: on fallback it was")
    assert "On resolved, " in report["verdict"]


def test_an_event_log_that_fails_costs_the_exposure_and_not_the_reply(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        created(client)
        events = client.app.state.experiments.events  # type: ignore[attr-defined]
        with events._file._lock:  # or the watch for changes opens it again in between
            events._file._close()
            (tmp_path / "events.db").write_bytes(b"damaged " * 100)
            for name in ("events.db-wal", "events.db-shm"):
                (tmp_path / name).unlink(missing_ok=True)
        reply = asked(client, "u1")
        assert (reply["experiment"], reply["source"]) in [(None, "teacher"), (None, "silence")]
        response = told(client, unit="u1", experiment="e1", value=1)
        assert_error(response, 503, "capacity", "nothing was kept")
        assert response.headers["retry-after"] == "1"
        assert_error(client.post("/experiments", json=definition(id="e2")), 503, "capacity")


def test_an_event_of_another_version_is_left_out(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        created(client)
        events = client.app.state.experiments.events  # type: ignore[attr-defined]
        strange = {"tenant": "", "definition": {"id": "e0", "arms": "of another kind"}}
        assert client.portal is not None
        client.portal.call(events.append, [Event("x", "experiments", "created", 1.0, strange), Event("y", "experiments", "ramp", 1.0, {})])
    with online(tmp_path) as client:
        created(client, id="e2")
        assert [one["id"] for one in client.get("/experiments").json()["experiments"]] == ["e1", "e2"]


def test_an_arm_that_does_not_exist_refuses_a_batch_before_any_of_it_is_served(tmp_path: Path) -> None:
    policy = FakePolicy()
    with online(tmp_path, policy=policy) as client:
        created(client)
        items = [{"query": "q", "unit": "u", "experiment": "e1", "force_arm": arm} for arm in ("teacher", "nope")]
        got = client.post("/instruct/batch", json={"items": items})
        assert_error(got, 422, "invalid_field", "items.1.force_arm: 'nope': no such arm; known: raw, teacher")
        assert not policy.batches
        assert client.get("/experiments/e1/log").text == ""
