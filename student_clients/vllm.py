"""The vLLM student: one or several equal vLLM servers behind one adapter, running already or started as our child (`vllm_process`).

Each server is spoken to by an `OpenAICompatibleStudent`; what is added here is the choice among them. A request goes to the server with
the fewest completions outstanding. Ties, the rule when little is asked, go to the server that the conversation's prefix hashes to
(rendezvous hashing: a server that leaves or returns moves only its own conversations), so that its prefix cache serves.

A server that cannot be reached or breaks a connection off is left out at once, and so is one that fails MAX_FAULTS requests in a row:
a server whose engine died answers 500 to everything, so quickly that the fewest outstanding would send everything there. It is asked
for its health again after a wait that doubles until it has given an answer, by the request that comes along then; there is no task
in the background, since a client that is used from several event loops has none to put it on. Where no server is left the request is
tried on those left out: there is nothing to lose.

Measured with vLLM 0.32.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients import errors
from student_clients.embedded import model_fingerprint
from student_clients.errors import StudentError
from student_clients.ledger import Ledger
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.vllm_process import VLLMProcess

if TYPE_CHECKING:
    import httpx2

OLDEST = (0, 18)
MAX_FAULTS = 3
MAX_BACKOFF_S = 60.0
PROBE_TIMEOUT_S = 2.0
FAULTS = (errors.StudentServerError, errors.StudentTimeout, errors.StudentBadResponse)
log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Server:
    """One server and what we know of it; guarded by the student's lock."""

    client: OpenAICompatibleStudent
    outstanding: int = 0
    """Completions that were asked for and are not there yet."""
    faults: int = 0
    """Requests that failed since the last answer."""
    backoff_s: float = 0.0
    """How long it was left out last; 0 after an answer."""
    back_at: float | None = None
    """When its health is asked for, by the monotonic clock; None = it is in use."""

    @property
    def origin(self) -> str:
        """The URL above which `/health` and `/version` stand."""
        return self.client.base_url.removesuffix("/v1")

    def leave_out(self, first_s: float) -> None:
        self.backoff_s = min(max(2 * self.backoff_s, first_s), MAX_BACKOFF_S)
        self.back_at = time.monotonic() + self.backoff_s

    def affinity(self, prefix: bytes) -> bytes:
        return hashlib.blake2b(prefix + self.origin.encode(), digest_size=8).digest()


class VLLMStudent:
    """`model` is the served name; `client` makes the inner client of a base URL, with its key and limits. Either `base_urls`, `/v1`
    included, or `process`, which the first `check` or `complete` starts and `aclose` stops for good.

    `backoff_s` is the first wait before a server that was left out is asked for its health.

    A request that never got through goes on to the next server within the same call and is not in the ledger; one that broke off
    midway raises StudentUnreachable, and its repetition lands on another server. A server that is told to end breaks off what it was
    generating (vLLM 0.32 with a 500) unless it runs with `--shutdown-timeout`.
    """

    def __init__(
        self,
        model: str,
        client: Callable[[str], OpenAICompatibleStudent],
        *,
        base_urls: Sequence[str] = (),
        process: VLLMProcess | None = None,
        backoff_s: float = 1.0,
    ) -> None:
        """Raises ValueError unless there is exactly one of `base_urls` and `process`, and whatever `client` raises."""
        if bool(base_urls) == (process is not None):
            raise ValueError("vLLM is either running at student.vllm.base_urls or started by student.vllm; give exactly one of them")
        self.name = model
        self.process = process
        self.backoff_s = backoff_s
        self.ledger = Ledger()
        self._client = client
        # Made also where the child's port is not known yet, so that a missing key shows at once.
        sample = client(base_urls[0] if base_urls else "http://127.0.0.1/v1")
        self._settings = {
            "model": model,
            "api": sample.api,
            "max_tokens_field": sample.max_tokens_field,
            "reasoning_effort": sample.reasoning_effort,
            "extra_body": sample.extra_body,
        }
        self._lock = threading.Lock()
        self._servers = [self._server(url) for url in dict.fromkeys(base_urls)]

    @functools.cached_property
    def identity(self) -> str:
        """The model and every setting that changes answers; of a child also a fingerprint of the weights and of its arguments. No address:
        replicas are equal and ports change. Servers that serve different models under one name in turn are therefore not told apart;
        give each model a served name of its own."""
        parts: dict[str, object] = dict(self._settings)
        if self.process is not None:
            # As digests: an argument may be a key.
            arguments = hashlib.sha256(json.dumps(self.process.args).encode()).hexdigest()[:16]
            parts |= {"weights": model_fingerprint(self.process.model), "arguments": arguments}
        return "vllm:" + json.dumps(parts, sort_keys=True)

    def _server(self, base_url: str) -> _Server:
        client = self._client(base_url)
        client.ledger = self.ledger
        return _Server(client)

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        servers = await self._running()
        prefix = _prefix(messages)
        tried: dict[_Server, StudentError] = {}
        while (server := await self._take(servers, prefix, tried, n)) is not None:
            try:
                completions = await server.client.complete(messages, params, n=n, sample_index=sample_index)
            except errors.StudentNotConnected as error:
                tried[server] = error
                self._note(server, error)
            except StudentError as error:
                self._note(server, error)
                raise
            else:
                self._note(server, None)
                return completions
            finally:
                with self._lock:
                    server.outstanding -= n
        reasons = "; ".join(str(error) for error in tried.values())
        gone = self.process.why_gone() if self.process else None
        raise errors.StudentNotConnected(gone or f"no vLLM server is left: {reasons}")

    async def _running(self) -> list[_Server]:
        """The servers; a child is started first and waited for."""
        if not self._servers and self.process is not None:
            base_url = await asyncio.wrap_future(self.process.start())
            with self._lock:
                if not self._servers:
                    self._servers.append(self._server(base_url))
        return self._servers

    async def _take(self, servers: Sequence[_Server], prefix: bytes, tried: dict[_Server, StudentError], n: int) -> _Server | None:
        """The server for a request of `n` completions, which are booked on it; None = all were tried."""
        if due := self._due(servers):
            await asyncio.gather(*(self._probe(server) for server in due))
        with self._lock:
            untried = [server for server in servers if server not in tried]
            candidates = [server for server in untried if server.back_at is None] or untried
            if not candidates:
                return None
            fewest = min(server.outstanding for server in candidates)
            chosen = max((s for s in candidates if s.outstanding == fewest), key=lambda s: s.affinity(prefix))
            chosen.outstanding += n
            return chosen

    def _due(self, servers: Sequence[_Server]) -> list[_Server]:
        """Servers left out long enough, while others serve; each is handed to one caller only."""
        now = time.monotonic()
        with self._lock:
            if all(server.back_at is not None for server in servers):
                return []  # the request itself is the probe
            due = [server for server in servers if server.back_at is not None and server.back_at <= now]
            for server in due:
                server.back_at = now + 2 * PROBE_TIMEOUT_S  # others let it be until the answer is there
            return due

    async def _probe(self, server: _Server) -> None:
        """Take a healthy server back, on trial: its count of faults stands until it answers, so that one more sends it away again."""
        reply = await _get(f"{server.origin}/health")
        with self._lock:
            # One without /health still answers, and a dead engine says 503.
            if reply is None or reply.status_code >= 500:
                server.leave_out(self.backoff_s)
                return
            server.back_at = None
        log.warning("%s is healthy again and takes part again", server.client.base_url)

    def _note(self, server: _Server, error: StudentError | None) -> None:
        """Draw the conclusions from one request: how it failed, or None."""
        with self._lock:
            if isinstance(error, (errors.StudentUnreachable, *FAULTS)):
                server.faults += 1
                lost = isinstance(error, errors.StudentUnreachable) or server.faults >= MAX_FAULTS
                if not lost or server.back_at is not None:  # the other requests that broke at the same moment
                    return
                server.leave_out(self.backoff_s)
            else:  # an answer, be it a refusal
                server.faults, server.backoff_s, server.back_at = 0, 0.0, None
                return
        log.warning("%s is left out for %g s: %s", server.client.base_url, server.backoff_s, error)

    async def check(self) -> None:
        """Raises a StudentError unless every server lists the model and runs vLLM 0.18 or newer.

        0.18 is the first release that can finish the requests it is working on when it is told to end (`--shutdown-timeout`,
        vllm-project/vllm#34730), without which replicas cannot be restarted one after the other under a running training. A server
        that others can reach wants 0.32 or newer: CVE-2026-115918 and CVE-2026-114053. One that names no version is only warned of.
        """
        for server in await self._running():
            await server.client.check()
            await self._check_version(server)

    async def _check_version(self, server: _Server) -> None:
        reply = await _get(f"{server.origin}/version")
        try:
            version = _Version.model_validate_json(reply.content).version if reply is not None and reply.is_success else ""
        except ValidationError:
            version = ""
        # 0.1.devN is what a build from a checkout without tags calls itself, whatever its age.
        numbers = re.match(r"(?!0\.1\.dev)(\d+)\.(\d+)", version)
        if numbers is None:
            log.warning("%s does not say which vLLM it runs, so it is used unchecked", server.client.base_url)
        elif (int(numbers[1]), int(numbers[2])) < OLDEST:
            needed = ".".join(str(number) for number in OLDEST)
            raise StudentError(f"{server.client.base_url} runs vLLM {version}, this needs {needed} or newer; upgrade it")

    async def aclose(self) -> None:
        """Close the connections and stop the child."""
        for server in self._servers:
            await server.client.aclose()
        if self.process is not None:
            await asyncio.to_thread(self.process.stop)


class _Version(BaseModel):
    version: str


def _prefix(messages: Sequence[Message]) -> bytes:
    """A digest of what a conversation shares with its next turn: all messages but the last, or the only one."""
    shared = [[message.role, message.content] for message in messages[:-1] or messages]
    return hashlib.blake2b(json.dumps(shared).encode(), digest_size=16).digest()


async def _get(url: str) -> httpx2.Response | None:
    """A short GET; None where there is no answer. A client of its own, since these are rare and come from any event loop."""
    import httpx2

    try:
        async with httpx2.AsyncClient(timeout=PROBE_TIMEOUT_S) as client:
            return await client.get(url)
    except httpx2.HTTPError:
        return None
