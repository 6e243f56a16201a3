"""`Teacher` and `AsyncTeacher`: ask the service for an instruction, report outcomes, and fail open.

A call of ours returns within its deadline and raises nothing: a service that is down, slow, overloaded, or answers nonsense gives the raw
messages with the reason in `Advice.degraded`. One that fails again and again is left alone for a while, so that it costs nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

from server.breaker import Breaker

log = logging.getLogger("wst.sdk")

DEADLINE_S = 2.0
"""The default deadline of the service itself."""
OUTCOME_DEADLINE_S = 5.0
SPARE_S = 0.05
"""Of the deadline for the way there and back: the service is told to answer that much earlier."""
GRACE_S = 0.25
"""How much longer than the deadline a thread waits for the loop that does its asking."""
MOST_BYTES = 64 * 2**20
"""Of an answer; more is none of ours."""
OUTCOME_TRIES = 3

ChatMessage = dict[str, Any]
Value = bool | int | float
T = TypeVar("T")


@dataclass(frozen=True)
class Advice:
    """What to send to the student."""

    messages: list[ChatMessage]
    """The conversation as OpenAI's chat schema writes it: with the instruction, or raw."""
    instruction: str = ""
    """Empty = silence, or the raw messages."""
    source: str = "passthrough"
    """teacher, cache, static, silence, or passthrough."""
    degraded: str | None = None
    """Why these are the raw messages; None where the teacher spoke or chose silence. Of the service, or: off, left_alone, timeout,
    unreachable, status_NNN, garbage, failed."""
    request_id: str | None = None
    """Under which outcomes are reported; None where the service did not answer."""
    experiment: str | None = None
    arm: str | None = None


class UnusableError(Exception):
    """The service gave no advice; its text says why in a word."""


class AsyncTeacher:
    """The service, from an event loop. May be used on one loop after the other."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        deadline_s: float = DEADLINE_S,
        enabled: bool = True,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """`url`: the service's, without `/v1`. `deadline_s`: longest time in seconds that a call may cost. `enabled` False: every call
        gives the raw messages at once; may be set at any time. Raises ValueError for a URL that is none."""
        if httpx2.URL(url).scheme not in ("http", "https") or not httpx2.URL(url).host:
            raise ValueError(f"{url!r} is no http or https URL")
        self.url, self.deadline_s, self.enabled = url.rstrip("/"), deadline_s, enabled
        self.breaker = Breaker(most_failures=3)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._transport = transport
        self._http: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def instruct(
        self,
        query: str,
        *,
        system: str | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        task: str | None = None,
        unit: str | None = None,
        experiment: str | None = None,
        teacher: str | None = None,
        deadline_s: float | None = None,
    ) -> Advice:
        """The instruction for one query, composed into the conversation; the raw conversation where there is none in time. Arguments as
        in POST /instruct; `teacher` is one of the service's."""
        raw: list[ChatMessage] = [] if system is None else [{"role": "system", "content": system}]
        raw = [*raw, *(dict(turn) for turn in history), {"role": "user", "content": query}]
        if not self.enabled:
            return Advice(raw, degraded="off")
        if not self.breaker.allows():
            return Advice(raw, degraded="left_alone")
        limit_s = self.deadline_s if deadline_s is None else deadline_s
        try:
            asked = {"query": query, "system": system, "history": list(history), "task": task, "unit": unit, "experiment": experiment}
            # ASCII header values: a teacher's name that is none is a mistake that the service answers to.
            told = {"WST-Timeout-Ms": str(max(1, round(1000 * (limit_s - SPARE_S))))}
            if teacher is not None:
                told["WST-Teacher"] = quote(teacher, safe=" ")
            body = {name: value for name, value in asked.items() if value not in (None, [])}
            found = _advice(await self._post("/instruct", body, told, limit_s), query)
            self.breaker.succeeded()
            return found
        except Exception as error:
            return Advice(raw, degraded=self._noted(error))

    async def outcome(
        self,
        request_id: str | None,
        metric: str,
        value: Value,
        *,
        unit: str | None = None,
        experiment: str | None = None,
        idempotency_key: str | None = None,
        time: float | None = None,
        deadline_s: float = OUTCOME_DEADLINE_S,
    ) -> bool:
        """Report what became of a request, or of a unit of an experiment, and when (Unix seconds; None = now). Whether the service has it
        on its disk; False is logged. Safe to repeat: the service counts it once."""
        body = {"request_id": request_id, "metric": metric, "value": value}
        body |= {"unit": unit, "experiment": experiment, "idempotency_key": idempotency_key, "time": time}
        reason = "off"
        if self.enabled:
            try:
                async with asyncio.timeout(deadline_s):
                    for attempt in range(OUTCOME_TRIES):
                        try:
                            told = await self._post("/outcomes", {k: v for k, v in body.items() if v is not None}, {}, deadline_s)
                            if isinstance(told, dict) and told.get("metric") == metric:
                                return True
                            raise UnusableError("garbage")
                        except (UnusableError, httpx2.TransportError) as error:
                            reason = _reason(error)
                            if reason.startswith("status_4") and reason != "status_429":
                                break  # as it stands, it will never be taken
                            await asyncio.sleep(0.1 * 4**attempt)
            except Exception as error:
                reason = _reason(error)
        log.warning("an outcome of metric %.200r was not taken: %s", metric, reason)
        return False

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        http, self._http = self._http, None
        if http is not None and self._loop is asyncio.get_running_loop():
            await http.aclose()

    async def _post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], limit_s: float) -> Any:
        """The JSON of the answer. Raises UnusableError, TimeoutError, and whatever httpx2 and json raise."""
        http = self._client()
        async with asyncio.timeout(limit_s), http.stream("POST", self.url + path, json=body, headers=headers) as response:
            if response.status_code != 200:
                raise UnusableError(f"status_{response.status_code}")
            content = bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MOST_BYTES:
                    raise UnusableError("garbage")
        return json.loads(content)

    def _client(self) -> httpx2.AsyncClient:
        """The connections of the running loop: those of a loop that is gone are of no use."""
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            # Our own deadline holds over all phases together. The service is a neighbour: no proxy of the environment stands between.
            self._http = httpx2.AsyncClient(headers=self._headers, timeout=None, trust_env=False, transport=self._transport)
            self._loop = loop
        return self._http

    def _noted(self, error: Exception) -> str:
        """Why there is no advice. What speaks against the service counts against it, what speaks against this one request does not."""
        reason = _reason(error)
        if reason == "failed":
            log.warning("an instruction was not asked for: %s", type(error).__name__)
        if reason in ("timeout", "unreachable", "garbage", "status_429") or reason.startswith("status_5"):
            was_open = self.breaker.open
            self.breaker.failed()
            if self.breaker.open and not was_open:
                log.warning("the teacher service fails (%s) and is left alone for a while; requests go out raw", reason)
        else:
            self.breaker.succeeded()
        return reason


def _reason(error: Exception) -> str:
    if isinstance(error, UnusableError):
        return str(error)
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return "timeout"
    if isinstance(error, httpx2.TransportError):
        return "unreachable"
    # Bad JSON or encoding of an answer; what the caller gave wrong is no JSON either (TypeError), and is the caller's.
    return "garbage" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError | httpx2.DecodingError) else "failed"


def _advice(reply: Any, query: str) -> Advice:
    """A reply of `/instruct`, checked. Raises UnusableError: what does not end with the query would lose the user's question."""
    if not isinstance(reply, dict) or not isinstance(reply.get("messages"), list) or not reply["messages"]:
        raise UnusableError("garbage")
    messages, experiment = reply["messages"], reply.get("experiment")
    if not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) and isinstance(turn.get("role"), str) for turn in messages):
        raise UnusableError("garbage")
    texts = [str(reply[name]) for name in ("instruction", "source", "request_id") if isinstance(reply.get(name), str)]
    if messages[-1]["role"] != "user" or not messages[-1]["content"].endswith(query) or len(texts) < 3:
        raise UnusableError("garbage")
    arm = (experiment["id"], experiment["arm"]) if isinstance(experiment, dict) and {"id", "arm"} <= set(experiment) else (None, None)
    return Advice(messages, texts[0], texts[1], reply.get("degraded"), texts[2], *arm)


class Teacher:
    """The service, from ordinary threads: the same calls as `AsyncTeacher`, made on one event loop in the background."""

    def __init__(self, url: str, **options: Any) -> None:
        """`options` as of `AsyncTeacher`."""
        self._teacher = AsyncTeacher(url, **options)
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    @property
    def enabled(self) -> bool:
        return self._teacher.enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._teacher.enabled = enabled

    def instruct(self, query: str, **options: Any) -> Advice:
        """`AsyncTeacher.instruct`."""
        limit_s = options.get("deadline_s") or self._teacher.deadline_s
        advice = self._wait(self._teacher.instruct(query, **options), limit_s + GRACE_S)
        if advice is None:  # the loop itself is stuck
            system, history = options.get("system"), options.get("history") or ()
            raw = [] if system is None else [{"role": "system", "content": system}]
            return Advice([*raw, *map(dict, history), {"role": "user", "content": query}], degraded="timeout")
        return advice

    def outcome(self, request_id: str | None, metric: str, value: Value, **options: Any) -> bool:
        """`AsyncTeacher.outcome`."""
        limit_s = options.get("deadline_s") or OUTCOME_DEADLINE_S
        return bool(self._wait(self._teacher.outcome(request_id, metric, value, **options), limit_s + GRACE_S))

    def close(self) -> None:
        """Close the connections and end the thread; the next call starts anew."""
        with self._starting:
            loop, self._loop = self._loop, None
        if loop is not None and self._pid == os.getpid():
            asyncio.run_coroutine_threadsafe(self._teacher.aclose(), loop).result(GRACE_S)
            loop.call_soon_threadsafe(loop.stop)

    def _wait(self, call: Coroutine[Any, Any, T], limit_s: float) -> T | None:
        """What the call gives; None where it did not come back in time."""
        try:
            running = asyncio.run_coroutine_threadsafe(call, self._running_loop())
        except RuntimeError:  # no thread can be started, or the interpreter is on its way out
            call.close()
            return None
        try:
            return running.result(limit_s)
        except TimeoutError:
            running.cancel()
            return None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None or self._pid != os.getpid():  # threads do not live through a fork
                loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(loop,), name="wst-teacher", daemon=True).start()
                self._loop, self._pid = loop, os.getpid()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
