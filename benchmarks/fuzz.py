"""`python -m benchmarks.fuzz [--cases 100000] [--resume]`: whatever is sent, no 5xx and no answer that the schema does not know.

Half of the cases come from schemathesis, which reads `/openapi.json`, makes requests that keep to it and requests that break it, and
checks each answer against it; half from hypothesis: bytes that look like a body of ours until they do not, with hostile headers, on every
route and on none. They go over real sockets to the whole service with an upstream that always answers, so every 5xx is our own. A failing
case is printed with its round, which `--first-round` repeats. Writes `benchmarks/results/fuzz.json` after every round; broken off,
`--resume` goes on with the next round, in a new process and so as a further run of the file.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as conformance

from benchmarks.results_file import load_runs, save, say_load
from exchange.records import Instruction, PublicExample
from server.settings import ServerSettings
from server.students import ServedStudent
from teacher.run_directory import git_commit

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "fuzz"
ROUND = 25
"""Cases of one operation before the next one has its turn."""
MOST_SHOWN = 20
CHECKS: list[Any] = [
    not_a_server_error,
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_headers_conformance,
    conformance.response_schema_conformance,
]
QUIETLY = settings(database=None, deadline=None, max_examples=ROUND, phases=[Phase.generate], suppress_health_check=list(HealthCheck))

BODIES: dict[str, Any] = {
    "/instruct": {"query": "2+2?", "system": "s", "history": [{"role": "user", "content": "x"}], "unit": "u", "covariate": 1.5},
    "/instruct/batch": {"items": [{"query": "2+2?"}]},
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "2+2?"}], "stream": False, "wst": {"task": "t"}},
    "/v1/responses": {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "2+2?"}]}], "instructions": "i"},
    "/experiments": {"id": "e", "arms": [{"name": "raw", "raw": True, "weight": 1}], "control": "raw", "metric": "m"},
    "/experiments/e/ramp": {"enrolled": 1.0},
    "/experiments/e/stop": {"reason": "r"},
    "/outcomes": {"request_id": "r", "metric": "m", "value": 1.0},
    "/experiments/e/report": None, "/experiments/e/log": None, "/v1/models/m": None, "/livez": None, "/readyz": None, "/": None,
    "/docs": None, "/openapi.json": None, "/%00": None, "/instruct/": {}, "//instruct": {}, "/..%2finstruct": {}, "/v1/models/a%2Fb": None,
}  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    "", " ", "\0", "\ufeff", "\ud800", "\udfff\ud800", "\u202e", "a\u0300" * 500, "👩‍👩‍👧" * 50, "<|im_start|>system", "</s>", "%n%s",
    "' OR 1=1--", "{{7*7}}", "../" * 20, "x" * 40_000, 0, -1, 2**63, 10**400, -(10**30), 1e308, -0.0, True, None, [], {}, [[]], {"": ""},
    [None] * 300,
)  # fmt: skip
RAW = (
    b"", b"{", b"null", b"[]", b'"x"', b"NaN", b'{"query": NaN}', b'{"query": Infinity}', b'{"query": "a", "query": 5}',
    b'\xef\xbb\xbf{"query":"x"}', b'{"query": "\xff"}', b'{"query": "\xed\xa0\x80"}', b"[" * 20_000, b'{"a":' * 20_000,
    b'{"query": ' + b"9" * 5_000 + b"}", b"\0" * 100, b"\x1f\x8b\x08\0\0", '{"query": "x"}'.encode("utf-16"), b'{"query": 1e999}',
    b'{"query": "\\ud800"}', b"{'query': 'x'}", b'{"query":"x"}\n{"query":"y"}', b'{"query":"x",}',
)  # fmt: skip
JSON_TYPE = "application/json"
HEADERS: dict[str, tuple[str, ...]] = {
    "content-type": (JSON_TYPE, "text/plain", f"{JSON_TYPE}; charset=latin-1", "multipart/form-data", "application/xml", "x" * 500, ""),
    "x-request-id": ("r1", "a" * 65, "x\ty", "é", "%0a", ""),
    "wst-timeout-ms": ("1", "0", "-1", "1e9", "99999999999999999999", "x", "٣"),
    "wst-teacher": ("default", "none", "é", "x" * 300, ""),
    "wst-instruct": ("off", "on", "maybe", ""),
    "wst-unit": ("u", "x" * 300, "é"),
    "wst-experiment": ("e", "nobody", ""),
    "authorization": ("Bearer x", "Bearer wst_" + "a" * 500, "Basic eDp5", "bearer", "é", "' OR 1=1--"),
    "host": ("evil.example", "127.0.0.1:99999", "a\tb", "[::1", "x" * 300, "@", ""),
    "accept": ("text/html", "*/*;q=x", ""),
    "sec-fetch-site": ("cross-site", "none"),
    "content-encoding": ("gzip", "br"),
    "idempotency-key": ("k", "x" * 300, "é"),
    "x-forwarded-host": ("evil.example",),
    "expect": ("100-continue",),
    "transfer-encoding": ("chunked", "identity", "x"),
    "cookie": ("a=b; c", "\x01"),
}


class AnyTeacher:
    """A `ServedTeacher` that says the same to everybody."""

    id, sha256, task, max_instruction_tokens = "any", "0" * 64, "any", None

    @property
    def policy(self) -> AnyTeacher:
        return self

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        return [Instruction(text="Think step by step.", source="teacher") for _ in examples]


@dataclass
class Found:
    """What came of the cases so far."""

    first_round: int = 0
    rounds: int = 0
    """Whole ones."""
    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    server_errors: int = 0
    schema_breaks: int = 0
    shown: list[str] = field(default_factory=list)

    def note(self, kind: str, what: str) -> None:
        if kind == "server_error":
            self.server_errors += 1
        else:
            self.schema_breaks += 1
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(f"{kind}: {what[:2000]}")
            print(self.shown[-1], flush=True)


def upstream() -> FastAPI:
    """A student that answers everything."""
    from fastapi import FastAPI

    app = FastAPI()
    message = {"role": "assistant", "content": "4"}
    whole = {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    app.post("/v1/{path:path}")(lambda path: whole)
    return app


@contextmanager
def service() -> Iterator[str]:
    """The whole service on a real socket."""
    from server.app import create_app
    from tests.server.running import running_app

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it reports each thing that is no HTTP
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wst-fuzz-"))
        student = ServedStudent(base_url=stack.enter_context(running_app(upstream())) + "/v1", api_key_env="NO_SUCH_KEY")
        made = ServerSettings(students={"m": student}, event_log=f"{folder}/events.db", max_body_bytes=100_000, log_level="error")
        yield stack.enter_context(running_app(create_app(made, AnyTeacher())))


def by_the_schema(operation: Any, address: str, found: Found, number: int) -> None:
    """One round of schemathesis on one operation: `number` even keeps to the schema, odd breaks it."""
    mode = GenerationMode.POSITIVE if number % 2 == 0 else GenerationMode.NEGATIVE

    @seed(number)
    @QUIETLY
    @given(operation.as_strategy(generation_mode=mode))
    def round_(case: Any) -> None:
        response = case.call(base_url=address)
        found.cases += 1
        found.statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except Exception as error:
            kind = "server_error" if response.status_code >= 500 else "schema_break"
            found.note(kind, f"round {number} {case.method} {case.path} {case.body!r}: {response.status_code} {error}")

    with suppress(Unsatisfiable):  # a route that takes nothing cannot be asked wrongly
        round_()


@st.composite
def body(draw: st.DrawFn, path: str) -> bytes:
    """A body for the path: right, right but for one place, or nothing of the kind."""
    right = BODIES[path]
    how = draw(st.integers(0, 9))
    if how < 2 or not isinstance(right, dict) or not right:
        return draw(st.one_of(st.sampled_from(RAW), st.binary(max_size=200)))
    made = json.loads(json.dumps(right))
    place = made
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or draw(st.booleans()):
            break
        place = place[key]
    place[key] = draw(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40), st.floats(), st.integers()))
    if draw(st.booleans()) and isinstance(place, dict):
        place[draw(st.text(max_size=20))] = draw(st.sampled_from(HOSTILE))
    content = json.dumps(made).encode()
    if how == 9:  # cut or flipped
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.binary(max_size=3)) + content[at + draw(st.integers(0, 3)) :]
    return content


@st.composite
def request(draw: st.DrawFn) -> tuple[str, str, list[tuple[bytes, bytes]], bytes]:
    path = draw(st.sampled_from(sorted(BODIES)))
    method = "GET" if BODIES[path] is None else "POST"
    if draw(st.integers(0, 5)) == 0:
        method = draw(st.sampled_from(("POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH")))
    names = draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=3))
    headers = [(name.encode(), draw(st.sampled_from(HEADERS[name])).encode()) for name in names]
    if draw(st.integers(0, 4)) and "content-type" not in names:
        headers.append((b"content-type", b"application/json"))
    return method, path + draw(st.sampled_from(("", "", "", "?format=html", "?format=x", "?" + "a" * 300))), headers, draw(body(path))


def by_bytes(address: str, found: Found, number: int) -> None:
    """One round of requests that no client of ours would make."""

    @seed(number)
    @QUIETLY
    @given(request())
    def round_(made: tuple[str, str, list[tuple[bytes, bytes]], bytes]) -> None:
        method, path, headers, content = made
        status, told, request_id = sent(address, *made)
        found.cases += 1
        found.statuses[status] += 1
        what = f"round {number} {method} {path} {headers} {content[:300]!r}: {status} {told[:300]!r}"
        if status >= 500 or status == 0:
            found.note("server_error", what)
        elif status >= 400 and method != "HEAD" and not _is_error(status, told, request_id):
            found.note("schema_break", what)

    round_()


def sent(address: str, method: str, path: str, headers: list[tuple[bytes, bytes]], content: bytes) -> tuple[int, bytes, str | None]:
    """(status, body, request id) of the answer; status 0 = the connection ended without one."""
    host, _, port = address.removeprefix("http://").partition(":")
    head = [f"{method} {path} HTTP/1.1".encode(), *(b": ".join(header) for header in headers), b"Connection: close"]
    names = {name for name, _ in headers}
    head += [b"Host: " + host.encode()] if b"host" not in names else []
    # A body of unknown end would be waited for: the server's business with slow callers has tests of its own.
    head += [b"Content-Length: %d" % len(content)] if b"transfer-encoding" not in names else []
    body = content if b"transfer-encoding" not in names else b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if content else b"0\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        with suppress(ConnectionError):  # refused before the end of the body; the answer stands in the socket
            connection.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)
        answer = http.client.HTTPResponse(connection, method=method)
        try:
            answer.begin()
            return answer.status, answer.read(), answer.getheader("x-request-id")
        except (http.client.HTTPException, ConnectionError):
            return 0, b"", None


def _is_error(status: int, content: bytes, request_id: str | None) -> bool:
    """Whether a refusal has the one shape of every error. What is no HTTP at all is refused by the web server, in plain text."""
    if status == 400 and content == b"Invalid HTTP request received.":
        return True
    try:
        told = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return set(told) == {"type", "message", "request_id"} and told["request_id"] == request_id


def fuzz(cases: int, first_round: int = 0, after_round: Callable[[Found], None] = lambda found: None) -> Found:
    """At least so many cases, half of each kind, in whole rounds; `after_round` is told what came of them so far."""
    found = Found(first_round)
    with service() as address, httpx2.Client(timeout=60) as client:
        schema = schemathesis.openapi.from_dict(client.get(f"{address}/openapi.json").json())
        operations = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
        while found.cases < cases:
            number = first_round + found.rounds
            for operation in operations:
                by_the_schema(operation, address, found, number)
            for i in range(len(operations)):
                by_bytes(address, found, number * len(operations) + i)
            assert client.get(f"{address}/livez").status_code == 200
            found.rounds += 1
            after_round(found)
    return found


def as_run(found: Found, wall_s: float, commit: str | None) -> dict[str, Any]:
    """A run of the results file."""
    statuses = {str(status): n for status, n in sorted(found.statuses.items())}
    return {
        **{name: getattr(found, name) for name in ("first_round", "rounds", "cases", "server_errors", "schema_breaks")},
        "statuses": statuses, "wall_s": round(wall_s), "failures": found.shown, "commit": commit,
    }  # fmt: skip


def headline(runs: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(run[name] for run in runs) for name in ("cases", "server_errors", "schema_breaks")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000, help="requests, all runs of the file together (default 100000)")
    parser.add_argument("--first-round", type=int, default=0, help="seed of the first round (default 0)")
    parser.add_argument(
        "--resume", action="store_true", help="add what is missing to the runs of this very commit, where the results hold any"
    )
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    say_load()
    commit, began = git_commit(), time.monotonic()
    runs = [run for run in load_runs(NAME) if run["commit"] == commit] if args.resume else []
    first = runs[-1]["first_round"] + runs[-1]["rounds"] if runs else args.first_round
    missing = args.cases - sum(run["cases"] for run in runs)

    def after_round(found: Found) -> None:
        so_far = [*runs, as_run(found, time.monotonic() - began, commit)]
        print(json.dumps(headline(so_far)), flush=True)
        if not args.no_save:
            save(NAME, headline=headline(so_far), runs=so_far, commit=commit)

    if missing > 0:
        runs.append(as_run(fuzz(missing, first, after_round), time.monotonic() - began, commit))
    total = headline(runs)
    print(json.dumps({"headline": total, "last": runs[-1:]}, indent=1))
    return int(bool(total["server_errors"] or total["schema_breaks"]))


if __name__ == "__main__":
    sys.exit(main())
