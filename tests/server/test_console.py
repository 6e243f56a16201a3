"""The console by its routes: what each scope opens, text stays text, other sites can do nothing, no name leaves the runs."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from exchange.guard import REASONS as REFUSALS
from server.app import create_app
from server.console.address import COOKIE, CSP, PAGES, policy_of
from server.console.playground import REASONS
from server.experiments import Experiments
from server.keys import main
from server.settings import ServerSettings
from server.students import ServedStudent
from tests.server.fakes import FakePolicy, FakeTeacher
from tests.server.online import asked, created, online, told
from tests.server.test_access import new_key
from tests.server.test_instruct import assert_error
from tests.student_clients.conftest import chat
from tests.student_clients.faulty_server import faulty_server, reply

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 77*1371 }}"
HTML = {"accept": "text/html"}
HTMX = {"hx-request": "true"}
FORM = {
    "name-1": "raw",
    "weight-1": "0.5",
    "kind-1": "raw",
    "name-2": "teacher",
    "weight-2": "0.5",
    "kind-2": "fake-teacher",
    "metric": "resolved",
}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def make(keys: Path) -> Callable[..., str]:
    return lambda *scopes, **fields: new_key(keys, scopes, **fields)


@contextmanager
def served(keys: Path, key: str | None = None, **settings: Any) -> Iterator[TestClient]:
    """A browser in front of a server with keys; logged in with `key`."""
    made = ServerSettings(keys=str(keys), host="0.0.0.0", event_log=str(keys.with_name("events.db")), **settings)
    with TestClient(create_app(made, FakeTeacher(FakePolicy())), follow_redirects=False, headers=HTML) as client:
        if key is not None:
            assert client.post("/ui/login", data={"key": key}).headers["location"] == "/"
        yield client


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory with hostile text in it."""
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    path = tmp_path / "runs" / "20260101-000000-own-grpo-s0"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"task: {{name: own}}\nalgorithm: grpo\nseed: 0\nnote: {json.dumps(HOSTILE)}\n")
    (path / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "right_rate": i / 9}) + "\n" for i in range(9)))
    episode = {"example_id": "q", "error": None, "step": 3,
               "instruction": {"text": HOSTILE}, "messages": [{"role": "user", "content": HOSTILE}],
               "completions": [{"text": HOSTILE}], "scores": [{"value": 1.0}]}  # fmt: skip
    (path / "episodes.jsonl").write_text(2 * (json.dumps(episode) + "\n") + '{"torn')
    (path / "report.html").write_text("<html><head><style>p { color: red }</style></head><body><p>The report</p></body></html>")
    (path / "report.json").write_text(json.dumps({"headline": f"It helps {HOSTILE}"}))
    return path


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts.append(dict(attrs).get("src"))
        self.wrong += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.wrong += [tag] if tag in ("img", "iframe", "style") else []


def clean(text: str) -> None:
    """No script but ours, no handler, no inline style, nothing of the hostile text but as text."""
    tags = Tags()
    tags.feed(text)
    assert tags.wrong == [] and set(tags.scripts) <= {"/ui/static/htmx.min.js", "/ui/static/console.js"}, (tags.scripts, tags.wrong)
    assert "105567" not in text  # 77*1371


@pytest.mark.parametrize("scope", ["instruct", "proxy", "outcomes", "metrics", "experiments", "admin"])
def test_a_key_opens_the_pages_of_its_scope_and_sees_no_others(keys: Path, make: Callable[..., str], scope: str, run: Path) -> None:
    with served(keys, make(scope)) as client:
        mine = [page for page in PAGES if scope in (page.scope, "admin")]
        home = client.get("/")
        for page in PAGES:
            got = client.get(page.path)
            assert got.status_code == (200 if page in mine else 403), page
            assert got.headers["content-security-policy"] == CSP
            assert re.findall(r'href="(/ui/[a-z]+)"', got.text.partition("</nav>")[0]) == [one.path for one in mine]
        if not mine:
            assert home.status_code == 403 and "This key opens no page" in home.text
        elif mine[0].name == "Playground":
            assert home.status_code == 200 and "<h1>Playground" in home.text
        else:
            assert (home.status_code, home.headers["location"]) == (303, mine[0].path)


def test_without_a_key_a_reader_is_shown_the_log_in_and_a_program_401(keys: Path, make: Callable[..., str]) -> None:
    make("admin")
    with served(keys) as client:
        for path in ("/", *(page.path for page in PAGES), "/ui/no/such", "/ui/runs/x/report.html"):
            got = client.get(path)
            assert (got.status_code, got.headers["location"]) == (303, "/ui/login")
            assert client.get(path, headers={"accept": "*/*"}).json()["error"]["type"] == "no_key"
        assert client.get("/ui/traffic/now", headers=HTMX).headers["hx-redirect"] == "/ui/login"
        assert client.get("/ui/login").status_code == 200 and client.get("/ui/static/console.css").status_code == 200
        wrong = client.post("/ui/login", data={"key": HOSTILE})
        assert wrong.status_code == 401 and "No key of this server" in wrong.text and COOKIE not in client.cookies
        clean(wrong.text)


def test_the_cookie_is_closed_to_scripts_and_other_sites_and_opens_the_console_alone(keys: Path, make: Callable[..., str]) -> None:
    key = make("admin")
    with served(keys) as client:
        cookie = client.post("/ui/login", data={"key": key}).headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
        session = client.cookies[COOKIE]
        assert key[17:] not in session and client.get("/ui/runs").status_code == 200
        client.cookies.clear()
        for wrong in (key, session[:-1] + ("0" if session[-1] != "0" else "1"), session.replace(".1", ".2", 1), session[:-65], "x"):
            assert client.get("/ui/runs", headers={"cookie": f"{COOKIE}={wrong}"}).status_code == 303, wrong
        # An odd cookie of another app on this host name takes nobody's session.
        client.headers["cookie"] = f'a[]={{"b": "c"}}; @=; {COOKIE}={session}; d'
        assert client.get("/ui/runs").status_code == 200
        for path in ("/experiments", "/teachers", "/modes", "/metrics", "/docs"):
            assert client.get(path).status_code == 401, path
        assert client.post("/instruct", json={"query": "q"}).status_code == 401
        out = client.post("/ui/logout")
        assert out.headers["location"] == "/ui/login" and 'wst-console=""' in out.headers["set-cookie"]


@pytest.mark.parametrize("told", ["https", "https,http", " HTTPS , http"])
def test_behind_tls_the_cookie_belongs_to_this_host_and_to_tls(keys: Path, make: Callable[..., str], told: str) -> None:
    key, proxied = make("admin"), {"x-forwarded-proto": told}
    with served(keys) as client:
        cookie = client.post("/ui/login", data={"key": key}, headers=proxied).headers["set-cookie"]
        name, _, session = cookie.partition(";")[0].partition("=")
        assert name == "__Host-wst-console" and "; Secure" in cookie and "; Path=/;" in cookie and "domain" not in cookie.lower()
        client.cookies.clear()
        assert client.get("/ui/runs", headers={"cookie": f"{name}={session}", **proxied}).status_code == 200
        # One without the prefix may be a neighbour's.
        assert client.get("/ui/runs", headers={"cookie": f"{COOKIE}={session}", **proxied}).status_code == 303
        out = client.post("/ui/logout", headers=proxied).headers["set-cookie"]
        assert out.startswith(f'{name}=""') and "; Secure" in out  # without it a browser keeps the cookie


@pytest.mark.parametrize("end", ["revoke", "rotate"])
def test_a_key_that_is_revoked_or_rotated_ends_its_sessions_on_every_worker(
    keys: Path, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr("server.keys.LOOK_S", 0.0)
    key, other = make("admin"), make("admin")
    with served(keys, key) as client, served(keys) as worker:
        mine, others = client.cookies[COOKIE], worker.post("/ui/login", data={"key": other}).cookies[COOKIE]
        worker.cookies.clear()

        def opens(session: str) -> list[int]:
            return [one.get("/ui/runs", headers={"cookie": f"{COOKIE}={session}"}).status_code for one in (client, worker)]

        client.cookies.clear()
        assert opens(mine) == opens(others) == [200, 200]
        assert main(["--keys", str(keys), end, key[4:16]]) == 0
        assert opens(mine) == [303, 303] and opens(others) == [200, 200]


ACTIONS = (
    "/ui/playground",
    "/ui/playground/answer",
    "/ui/traffic/modes/default",
    "/ui/teachers/default/load",
    "/ui/teachers/default/rollback",
    "/ui/experiments",
    "/ui/experiments/e1/ramp",
    "/ui/experiments/e1/stop",
    "/ui/login",
    "/ui/logout",
)
FOREIGN: tuple[dict[str, str], ...] = (
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://testserver.evil.example"},
)


def test_no_page_of_another_site_acts(tmp_path: Path) -> None:
    policy = FakePolicy()
    with online(tmp_path, policy=policy) as client:
        created(client)
        for path in ACTIONS:
            for headers in FOREIGN:
                got = client.post(path, data={"query": "q", "mode": "off", **FORM, "id": "e2"}, headers=headers)
                assert got.status_code == 403 and "another site" in got.text, (path, headers)
        for path in ("/experiments/e1/stop", "/teachers/default/reload", "/teachers/default/rollback"):
            for headers in FOREIGN:
                assert client.post(path, headers=headers).status_code == 403, (path, headers)
        assert client.get("/experiments/e1").json()["status"] == "running"
        assert [one["id"] for one in client.get("/experiments").json()["experiments"]] == ["e1"]
        assert client.get("/modes").json()["modes"] == [] and not policy.batches


def test_a_scope_shows_a_page_and_lends_no_other(keys: Path, make: Callable[..., str]) -> None:
    """`metrics` shows traffic and switches no mode; `instruct` tries a query and asks no student."""
    with served(keys, make("metrics")) as client:
        assert "How each key is served" not in client.get("/ui/traffic").text
        assert client.post("/ui/traffic/modes/default", data={"mode": "off"}, headers=HTMX).status_code == 403
    with faulty_server() as upstream, served(keys, make("instruct"), students={"m": ServedStudent(base_url=upstream.url)}) as client:
        assert 'id="student"' not in client.get("/ui/playground").text
        refused = client.post("/ui/playground/answer", data={"student": "m", "messages": "[]"}, headers=HTMX)
        assert refused.status_code == 403 and "no scope" in refused.text and upstream.bodies == []


def test_the_playground_shows_the_line_and_asks_the_student_with_and_without(tmp_path: Path) -> None:
    with faulty_server() as upstream:
        upstream.script = [reply(200, chat(f"{HOSTILE} 4"))]
        with online(tmp_path, students={"m": ServedStudent(base_url=upstream.url)}) as client:
            got = client.post("/ui/playground", data={"query": "2 + 2?", "student": "m", "teacher": "default", "system": "Be kind."})
            clean(got.text)
            assert "Think about 2 + 2?" in got.text and "fake-teacher" in got.text
            sent = [json.loads(html.unescape(one)) for one in re.findall(r'hx-vals="([^"]*)"', got.text)]
            instructed, raw = ([m["content"] for m in json.loads(one["messages"])] for one in sent)
            assert raw == ["Be kind.", "2 + 2?"] and "Think about 2 + 2?" in instructed[1]
            answer = client.post("/ui/playground/answer", data=sent[0])
            clean(answer.text)
            assert "4</p>" in answer.text
            assert [m["content"] for m in upstream.bodies[0]["messages"]] == instructed  # as shown: not instructed a second time
            upstream.script = [reply(401, {"error": {"message": "bad key"}})]
            failed = client.post("/ui/playground/answer", data=sent[0])
            assert failed.status_code == 502 and "refuses the key of this server" in failed.text


def test_why_a_passthrough_is_said_for_every_reason(tmp_path: Path) -> None:
    assert {f"refused_{reason}" for reason in REFUSALS} <= set(REASONS)
    with online(tmp_path) as client:
        assert client.post("/ui/traffic/modes/default", data={"mode": "off"}).status_code == 200
        got = client.post("/ui/playground", data={"query": HOSTILE}).text
        clean(got)
        assert "The mode of this key is off" in got and "mode_off" in got
        blank = client.post("/ui/playground", data={"query": " "}, headers=HTMX)
        assert blank.status_code == 422 and blank.text.startswith("<p class") and "Query: must not be blank." in blank.text


def test_an_experiment_from_the_form_to_the_end(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        wrong = client.post("/ui/experiments", data={**FORM, "id": HOSTILE}, headers=HTMX)
        clean(wrong.text)
        assert wrong.status_code == 422 and wrong.text.startswith("<p class")
        about = {"id": "e1", "hypothesis": HOSTILE, "enrolled": "0.5", "planned_n": "400", "guard-fallback": "0.05",
                 "name-3": HOSTILE, "weight-3": "0.0", "kind-3": "text", "text-3": "x"}  # fmt: skip
        refused = client.post("/ui/experiments", data={**FORM, **about}, headers=HTMX)
        assert refused.status_code == 422 and "greater than 0" in refused.text
        about |= {"weight-2": "0.3", "weight-3": "0.2"}
        assert client.post("/ui/experiments", data={**FORM, **about}).headers["hx-redirect"] == "/ui/experiments/e1"
        assert client.get("/experiments/e1").json()["definition"]["control"] == "raw"
        early = client.get("/ui/experiments/e1")
        clean(early.text)
        assert "No verdict yet" in early.text and HOSTILE not in early.text
        assert "100 % of the units" in client.post("/ui/experiments/e1/ramp", data={"enrolled": "1"}).text
        assert client.post("/ui/experiments/e1/ramp", data={"enrolled": "0.1"}, headers=HTMX).status_code in (409, 422)
        for unit in map(str, range(40)):
            told(client, unit=unit, experiment="e1", value=int(asked(client, unit)["experiment"]["arm"] == "teacher"))
        page = client.get("/ui/experiments/e1")
        clean(page.text)
        report = client.get("/experiments/e1/report").json()
        assert report["verdict"] in page.text and 'class="band"' in page.text and re.search(r'hx-trigger="every \d+s"', page.text)
        own = client.get("/ui/experiments/e1/report")
        assert "unsafe-inline" not in own.headers["content-security-policy"] and "'sha256-" in own.headers["content-security-policy"]
        assert client.post("/ui/experiments/e1/stop", data={"reason": HOSTILE}).headers["hx-redirect"] == "/ui/experiments/e1"
        ended = client.get("/ui/experiments/e1").text
        clean(ended)
        assert "hx-trigger" not in ended and client.get("/experiments/e1").json()["stop_reason"] == HOSTILE
        clean(client.get("/ui/experiments").text)
        missing = client.get("/ui/experiments/none", headers=HTML)
        assert missing.status_code == 404 and "known: e1" in missing.text


def test_a_wrong_form_is_told_in_its_own_words(tmp_path: Path) -> None:
    wrong = {
        "Name: takes letters, digits, dots, hyphens and underscores": {"id": "a b"},
        "The arms&#39; shares sum to 1.2; they must sum to 1.": {"weight-2": "0.7"},
        "Arm 2, share: must be a number.": {"weight-2": "x"},
        "Arms: at least 2 are needed.": {"name-2": ""},
        "Arm 2: the text is empty; choose the raw messages": {"kind-2": "text"},
        "Metric: must not be empty.": {"metric": ""},
        "Planned units: must be a whole number.": {"planned_n": "many"},
        "Share taking part: must be less than or equal to 1.": {"enrolled": "50"},
    }
    with online(tmp_path) as client:
        for said, change in wrong.items():
            got = client.post("/ui/experiments", data={**FORM, "id": "e1", **change}, headers=HTMX)
            assert got.status_code == 422 and said in got.text


def test_modes_are_switched_by_the_route_and_keep_what_the_form_does_not_show(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        assert client.put("/modes/default", json={"mode": "shadow", "step_units": 7}).status_code == 200
        got = client.post("/ui/traffic/modes/default", data={"mode": "canary", "holdback": "0.1", "metric": "solved", "planned_n": "99"})
        assert "default is canary now." in got.text
        setting = client.get("/modes/default").json()["setting"]
        assert (setting["mode"], setting["step_units"], setting["holdback"], setting["metric"]["name"]) == ("canary", 7, 0.1, "solved")
        wrong = client.post("/ui/traffic/modes/default", data={"mode": "on", "holdback": "2"}, headers=HTMX)
        assert wrong.status_code == 422 and "Holdback" in wrong.text and 'id="modes"' in wrong.text
        assert client.post("/ui/traffic/modes/nobody", data={"mode": "on"}, headers=HTMX).status_code == 404


def test_a_teacher_that_cannot_be_loaded_is_a_sentence_and_the_old_one_serves_on(tmp_path: Path, run: Path) -> None:
    with online(tmp_path) as client:
        for path, form in (("load", {"run": run.name}), ("load", {"run": "../../etc"}), ("rollback", {})):
            got = client.post(f"/ui/teachers/default/{path}", data=form, headers=HTMX)
            assert got.status_code in (409, 422) and 'class="message error"' in got.text and "fake-teacher" in got.text
        assert client.post("/ui/teachers/nobody/load", data={}, headers=HTMX).status_code == 404


def test_a_run_is_shown_and_its_text_stays_text(tmp_path: Path, run: Path) -> None:
    with online(tmp_path) as client:
        listed, page = client.get("/ui/runs"), client.get(f"/ui/runs/{run.name}")
        for one in (listed, page):
            assert one.status_code == 200
            clean(one.text)
        assert (
            run.name in listed.text
            and "It helps &lt;script" in page.text
            and 'class="curve"' in page.text
            and page.text.count('class="role">answer') == 1
        )
        report = client.get(f"/ui/runs/{run.name}/report.html")
        assert report.text == (run / "report.html").read_text()
        assert report.headers["content-security-policy"] == policy_of(report.text) and "sandbox" in policy_of(report.text)
        (run / "metrics.jsonl").write_text("damaged\n")
        assert client.get(f"/ui/runs/{run.name}").status_code == 200


def test_no_name_leaves_the_runs(tmp_path: Path, run: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for file in ("config.yaml", "report.html"):
        (outside / file).write_text("secret")
    (run.parent / "out").symlink_to(outside)
    with online(tmp_path) as client:
        for name in ("..", "%2e%2e", "..%2f..%2fetc", "%2fetc", "a%00b", ".hidden", "out", "none", "x" * 300):
            for path in (f"/ui/runs/{name}", f"/ui/runs/{name}/report.html"):
                got = client.get(path, headers=HTML)
                assert "secret" not in got.text and got.status_code == 404, path


def test_a_link_in_a_run_is_no_report(tmp_path: Path, run: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(tmp_path / "secret")
    with online(tmp_path) as client:
        assert client.get(f"/ui/runs/{run.name}/report.html").status_code == 404


def test_a_piece_that_fails_stays_and_asks_again(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        got = client.get("/ui/experiments/none/live", headers=HTMX)
        assert (got.status_code, got.headers["hx-reswap"]) == (404, "none")


def test_a_piece_stays_where_its_key_asks_too_often(keys: Path, make: Callable[..., str]) -> None:
    with served(keys, make("metrics", requests_per_minute=2)) as client:
        got = [client.get("/ui/traffic/now", headers=HTMX) for _ in range(3)][-1]
        assert (got.status_code, got.headers["hx-reswap"]) == (429, "none") and got.headers["retry-after"]
        assert "hx-reswap" not in client.post("/ui/playground", headers=HTMX).headers  # the form's reader is told in its place


def test_no_caller_makes_the_playground_fail(tmp_path: Path) -> None:
    with faulty_server() as upstream, online(tmp_path, students={"m": ServedStudent(base_url=upstream.url)}) as client:
        unknown = client.post("/ui/playground", data={"query": "q", "teacher": "日本"}, headers=HTMX)
        assert unknown.status_code == 422 and "no header can carry" in unknown.text
        for depth in (2_000, 20_000):
            deep = client.post("/ui/playground/answer", data={"student": "m", "messages": "[" * depth + "]" * depth}, headers=HTMX)
            assert deep.status_code in (400, 422), depth
        sent = {"student": "m", "messages": '[{"role": "user", "content": "q"}]'}
        for body in ({}, {"choices": []}, {"choices": [{"message": None}]}, {"choices": 5}):
            upstream.script = [reply(200, body)]
            got = client.post("/ui/playground/answer", data=sent, headers=HTMX)
            assert got.status_code == 502 and "cannot be read" in got.text, body
        for usage in ({}, None, 5, {"prompt_tokens": None, "completion_tokens": "x"}):
            upstream.script = [reply(200, {**chat("4"), "usage": usage})]
            got = client.post("/ui/playground/answer", data=sent, headers=HTMX)
            assert got.status_code == 200 and "4</p>" in got.text and "tokens" not in got.text, usage


def test_a_page_needs_no_host(tmp_path: Path) -> None:
    """HTTP/1.0 has none."""
    with online(tmp_path, hosts=None) as client:
        app: Any = client.app
        scope = {"type": "http", "method": "GET", "path": "/ui/experiments", "raw_path": b"/ui/experiments", "query_string": b"",
                 "headers": [], "scheme": "http", "http_version": "1.0", "root_path": "", "app": app}  # fmt: skip
        said: list[Any] = []
        requests = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            for message in requests:
                return message
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            said.append(message)

        assert client.portal is not None
        client.portal.call(app, scope, receive, send)
        assert said[0]["status"] == 200


DAMAGED = (
    {"eval": {"arms": {"raw": {"mean": None}, "trained": {"mean": "high", "low": [], "high": 10**400}, "blind": 5}}},
    {"eval": {"arms": []}, "student": {"calls": "many"}, "wall_s": "long", "alarms": 3},
    {"eval": None, "student": 3, "alarms": [1, None]},
    {"eval": {"arms": 5}},
)


@pytest.mark.parametrize("summary", DAMAGED)
def test_a_damaged_run_takes_no_page_down(tmp_path: Path, run: Path, summary: dict[str, Any]) -> None:
    whole = json.loads((run / "episodes.jsonl").read_text().splitlines()[0])
    odd = [{"scores": [{"value": "x"}]}, {"scores": 3}, {"completions": [None]}, {"messages": [{}]}, {"scores": [{"parts": []}]}]
    rows = [{**whole, "example_id": str(i), "instruction": {"text": f"t{i}"}, **one} for i, one in enumerate(odd)]
    (run / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "metrics.jsonl").write_text('{"step": "x", "right_rate": null}\n' * 3)
    (run / "config.yaml").write_text("task: [own]\nseed: null\n")
    (run / "summary.json").write_text(json.dumps(summary))
    (run.parent / "20260102-000000-other").mkdir()
    (run.parent / "20260102-000000-other" / "config.yaml").write_text("task: {name: own}\n")
    with online(tmp_path) as client:
        listed = client.get("/ui/runs")
        assert listed.status_code == 200 and run.name in listed.text and "20260102-000000-other" in listed.text
        assert client.get("/ui/teachers").status_code == 200
        page = client.get(f"/ui/runs/{run.name}")
        assert page.status_code == 200 and page.text.count('class="role">answer') == 3


def test_behind_a_proxy_that_changes_the_host_and_asks_for_a_password(keys: Path, make: Callable[..., str]) -> None:
    own = {"sec-fetch-site": "same-origin", "origin": "https://wst.example", "host": "10.0.0.7:8000", "authorization": "Basic eDp5"}
    key = make("admin")
    with served(keys) as client:
        assert client.post("/ui/login", data={"key": key}, headers=own).status_code == 303
        assert client.get("/ui/runs", headers={"authorization": "Basic eDp5"}).status_code == 200
        assert client.post("/ui/traffic/modes/nobody", data={"mode": "off"}, headers=own).status_code == 404
        wrong = {**own, "authorization": f"Bearer wst_{'0' * 12}_{'x' * 43}"}
        assert client.get("/ui/runs", headers=wrong).status_code == 303


def test_many_open_pages_cost_one_report_until_the_log_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    report = Experiments.report

    async def counted(self: Experiments, running: Any) -> Any:
        made.append(running.definition.id)
        return await report(self, running)

    monkeypatch.setattr(Experiments, "report", counted)
    with online(tmp_path) as client:
        created(client)

        def looks() -> int:
            made.clear()
            assert all(client.get(f"/ui/experiments/e1{path}").status_code == 200 for path in ("", "/live", "/live"))
            return len(made)

        assert [looks(), looks()] == [1, 0]
        told(client, unit="u", experiment="e1", value=int(asked(client, "u")["experiment"] is not None))
        assert [looks(), looks()] == [1, 0]
        assert client.post("/experiments/e1/stop").status_code == 200
        assert looks() == 1 and "stopped" in client.get("/ui/experiments/e1/live").text


def test_a_program_on_a_page_of_ours_gets_the_errors_of_the_api(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        assert_error(client.post("/"), 405, "method_not_allowed")
        assert_error(client.get("/ui/none"), 404, "not_found")
        assert "<!doctype html>" in client.get("/ui/none", headers={"Accept": "text/html"}).text
