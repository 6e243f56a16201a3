"""The OpenAI-compatible student: any server that speaks `/v1/chat/completions` (OpenAI, vLLM, transformers serve, llama.cpp, …), or
OpenAI's `/v1/responses`.

The only file that knows the `openai` SDK; httpx2 below it is also used by `forwarding` and vLLM's probes. Their exceptions are translated
here, once; the SDK's own retries are off (`pacing` retries, and the ledger must see every call). Errors are raised outside the `except`
that caught the foreign one, so that they do not drag along a request with its headers, and with them the key.

An AsyncOpenAI client belongs to one event loop and we are used from several: there is one for each, closed by its own loop when that
ends, else by `aclose`.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients import errors
from student_clients.chat_reply import ChatReply, ModelList
from student_clients.errors import StudentError
from student_clients.forwarding import NOT_FORWARDED, ForwardedReply, RefusedReply, passed_headers
from student_clients.http_errors import Api, Endpoint, MaxTokensField, Refusal
from student_clients.ledger import Ledger
from student_clients.redaction import Secrets
from student_clients.responses_reply import ResponsesReply
from student_clients.usage import Usage

if TYPE_CHECKING:
    import httpx2
    import openai

__all__ = ["OWN_FIELDS", "Api", "MaxTokensField", "OpenAICompatibleStudent"]

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "none"
"""Sent to a server at a `base_url` when no key is set: the SDK insists on one, local servers ignore it."""
CONNECT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 1000
KEEPALIVE_S = 4.0
"""Below the 5 s after which uvicorn, and so vLLM, closes an idle connection: a request sent at that very moment would be lost."""
PATHS: dict[Api, str] = {"chat": "chat/completions", "responses": "responses"}
OWN_FIELDS = frozenset(
    "model messages input n stream temperature seed max_tokens max_completion_tokens max_output_tokens reasoning reasoning_effort".split()
)
"""Fields of a request that the adapter fills; `extra_body` may not."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Clients:
    """What an event loop sends with; the SDK's client uses the other one's connections."""

    sdk: openai.AsyncOpenAI
    http: httpx2.AsyncClient


class OpenAICompatibleStudent:
    """`n` completions in one request; a server may give fewer (some ignore `n`, and `/v1/responses` has none), at least one.

    With a seed, `seed + sample_index` is sent, so that a question's samples differ and a later call can go on from an earlier one;
    `/v1/responses` takes no seed.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        api_key_file: Path | None = None,
        timeout_s: float = 60.0,
        api: Api = "chat",
        max_tokens_field: MaxTokensField = "max_tokens",
        reasoning_effort: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """`base_url` None = OpenAI's own API. `extra_headers` go with each request and count as secret; `extra_body` is added to each
        body. `max_tokens_field` is of `chat` only.

        Raises ValueError where a key is needed and there is none, and where a header or a field of `extra_body` cannot be sent.
        """
        self.name = model
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        self.timeout_s = timeout_s
        self.api = api
        self.max_tokens_field = max_tokens_field
        self.reasoning_effort = reasoning_effort
        self.extra_body = dict(extra_body or {})
        self.ledger = Ledger()
        if urlsplit(self.base_url).username is not None or urlsplit(self.base_url).query:
            raise ValueError("base_url holds credentials or a query, which logs would show; send them as a header, see extra_headers")
        if taken := sorted(OWN_FIELDS & self.extra_body.keys()):
            raise ValueError(f"extra_body sets {', '.join(taken)}, which other settings of the student set")
        key_source = str(api_key_file or f"the environment variable {api_key_env}")
        key = api_key_file.read_text(encoding="utf-8").strip() if api_key_file else os.environ.get(api_key_env, "")
        if not key and (base_url is None or api_key_file):
            raise ValueError(f"{key_source} holds no API key; put one there, or set student.base_url for a server that needs none")
        self._secrets = Secrets(key or NO_KEY, key_source=key_source, no_key=NO_KEY, extra_headers=extra_headers or {})
        self._endpoint = Endpoint(self.base_url, model, api, max_tokens_field, key_source, has_key=bool(key))
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Clients, AsyncGenerator[_Clients, None]]]
        self._clients = WeakKeyDictionary()

    @property
    def identity(self) -> str:
        """Address, model and every setting that changes answers; of extra headers a digest, those that hold a login left out."""
        parts = {
            "base_url": self.base_url,
            "model": self.name,
            "api": self.api,
            "max_tokens_field": self.max_tokens_field if self.api == "chat" else None,
            "reasoning_effort": self.reasoning_effort,
            "extra_body": self.extra_body,
            "extra_headers": self._secrets.digest(),
        }
        return "openai:" + json.dumps(parts, sort_keys=True)

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        """One HTTP request: at least one completion and at most `n`."""
        import httpx2

        body = (self._responses_body if self.api == "responses" else self._chat_body)(messages, params, n, sample_index)
        sdk = (await self._loop_clients()).sdk
        started = time.perf_counter()
        # Counted before it is sent, so that a cancelled request counts too, and taken back if it never got through.
        self.ledger.add(calls=1)
        try:
            content = await self._within_limit(sdk.post(f"/{PATHS[self.api]}", body=body, cast_to=httpx2.Response))
        except errors.StudentNotConnected:
            self.ledger.add(calls=-1)
            raise
        latency_s = time.perf_counter() - started
        reply = self._read(content)
        # A reply without an answer was billed all the same.
        self._count(reply.usage or Usage())
        if (problem := reply.problem()) is not None:
            error, reason = problem
            raise error(f"{self.base_url} gave no answer of {self.name!r}: {self._secrets.quoted(reason)}", usage=reply.usage)
        return reply.completions(n, latency_s)

    def _chat_body(self, messages: Sequence[Message], params: SamplingParams, n: int, sample_index: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [message.model_dump() for message in messages],
            self.max_tokens_field: params.max_tokens,
        }
        # Only where needed: some servers refuse fields that they do not know.
        if params.temperature is not None:
            body["temperature"] = params.temperature
        if n > 1:
            body["n"] = n
        if params.seed is not None:
            body["seed"] = params.seed + sample_index
        if self.reasoning_effort is not None:
            body["reasoning_effort"] = self.reasoning_effort
        return body | self.extra_body

    def _responses_body(self, messages: Sequence[Message], params: SamplingParams, n: int, sample_index: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "input": [message.model_dump() for message in messages],
            "max_output_tokens": params.max_tokens,
            "store": False,  # else OpenAI keeps every conversation for 30 days
        }
        if params.temperature is not None:
            body["temperature"] = params.temperature
        if self.reasoning_effort is not None:
            body["reasoning"] = {"effort": self.reasoning_effort}
        return body | self.extra_body

    def _read(self, content: bytes) -> ChatReply | ResponsesReply:
        try:
            return ResponsesReply.read(content) if self.api == "responses" else ChatReply.read(content)
        except ValidationError:
            sent = self._secrets.quoted(content.decode(errors="replace")) or "nothing"
        wanted = "response" if self.api == "responses" else "chat completion"
        raise errors.StudentBadResponse(f"{self.base_url} sent no {wanted} but {sent}")

    def _count(self, usage: Usage) -> None:
        self.ledger.add(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)

    @asynccontextmanager
    async def forward(
        self,
        body: Mapping[str, Any],
        *,
        content: bytes | None = None,
        path: str = "chat/completions",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[ForwardedReply]:
        """Send a proxied request as it stands, with our key, and give the reply once its head is here; it is closed when the context ends,
        read to its end or not.

        `content` is what is sent, byte for byte, where it is given; `body`, which it must say too, is then only read. `headers` are the
        caller's own; its credentials are left out and ours win. Raises the same errors as `complete`, with the server's own reply in
        `StudentError.reply` where there was one. `timeout_s` is the limit for the head of the reply; for the body too, or for each piece
        of it where `body` asks for a stream. Counts one call, and tokens when the body has ended. May be entered and left in different
        tasks of one event loop.
        """
        import httpx2

        http = (await self._loop_clients()).http
        passed = {name: value for name, value in (headers or {}).items() if name.lower() not in NOT_FORWARDED}
        # Accepted without compression: the pieces go on as they come.
        request = http.build_request(
            "POST",
            _url(f"{self.base_url}/{path}"),
            content=json.dumps(body).encode() if content is None else content,
            headers={**passed, "Content-Type": "application/json", "Accept-Encoding": "identity"},
        )
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        failure: StudentError | None = None
        self.ledger.add(calls=1)
        try:
            async with asyncio.timeout_at(deadline):
                response = await http.send(request, stream=True)
                if not response.is_success:
                    said = await response.aread()
                    failure = self._refusal(response.status_code, response.headers, said, own_body=False)
                    failure.reply = RefusedReply(response.status_code, passed_headers(response.headers), self._secrets.struck(said))
        except (httpx2.HTTPError, TimeoutError) as error:
            failure = self._translated(error)
        if failure is not None:
            if isinstance(failure, errors.StudentNotConnected):
                self.ledger.add(calls=-1)
            raise failure
        try:
            yield ForwardedReply(
                response, deadline=None if body.get("stream") else deadline, translated=self._translated, on_usage=self._count
            )
        finally:
            await response.aclose()

    async def check(self) -> None:
        """Raises a StudentError unless the server answers `/models` and lists the model. A server that keeps no list is only warned of."""
        import httpx2

        sdk = (await self._loop_clients()).sdk
        try:
            content = await self._within_limit(sdk.get("/models", cast_to=httpx2.Response))
            names = [model.id for model in ModelList.model_validate_json(content).data]
        except ValidationError:
            names = []
        except StudentError as error:
            lacks_v1 = isinstance(error, errors.StudentUnknownModel) and self._endpoint.lacks_v1
            # A key may be allowed to chat and not to list models: that is 403, a wrong key 401.
            wrong_key = isinstance(error, errors.StudentAuthError) and "(403" not in str(error)
            if lacks_v1 or wrong_key or isinstance(error, (errors.StudentUnreachable, errors.StudentTimeout)):
                raise
            names = []
        if not names:
            log.warning("%s lists no models, so %s is used unchecked", self.base_url, self.name)
        elif self.name not in names:
            near = self._secrets.quoted(", ".join(difflib.get_close_matches(self.name, names, n=8, cutoff=0.0)))
            raise errors.StudentUnknownModel(f"{self.base_url} does not serve {self.name!r}; it serves {near}")

    async def _within_limit(self, request: Awaitable[httpx2.Response]) -> bytes:
        """The body of the 2xx answer to an SDK request; everything else as a StudentError."""
        import openai

        try:
            async with asyncio.timeout(self.timeout_s):  # the SDK's own limit is on each read, which a trickling server never meets
                return (await request).content
        except openai.APIStatusError as error:
            failure = self._refusal(error.status_code, error.response.headers, error.response.content, own_body=True)
        except (openai.OpenAIError, TimeoutError) as error:
            failure = self._translated(error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error)
        raise failure

    def _refusal(self, status: int, headers: Mapping[str, str], content: bytes, *, own_body: bool) -> StudentError:
        return self._endpoint.error_of(Refusal.read(status, headers, content, self._secrets.quoted), own_body=own_body)

    def _translated(self, error: BaseException) -> StudentError:
        """The error for a request that came to no answer."""
        import httpx2

        reason = self._secrets.quoted(str(error)) or type(error).__name__
        if isinstance(
            error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol)
        ):
            return errors.StudentNotConnected(f"cannot reach {self.base_url} ({reason}); is the server running, is student.base_url right?")
        if isinstance(error, (TimeoutError, httpx2.TimeoutException)):
            return errors.StudentTimeout(
                f"{self.base_url} gave no whole answer within {self.timeout_s:g} s; raise student.timeout_s or lower student.max_tokens"
            )
        if isinstance(error, httpx2.TransportError):
            return errors.StudentUnreachable(f"{self.base_url} broke the connection off ({reason})")
        return errors.StudentBadResponse(f"{self.base_url}: {reason}")

    async def _loop_clients(self) -> _Clients:
        """The running loop's own clients."""
        loop = asyncio.get_running_loop()
        held = self._clients.get(loop)
        if held is None:
            keeper = self._open()
            # Reaches its yield without giving way to other tasks, so none of them can open a second pair.
            held = self._clients[loop] = (await anext(keeper), keeper)
        return held[0]

    async def _open(self) -> AsyncGenerator[_Clients, None]:
        """Clients that their event loop closes: `asyncio.run` ends by closing the async generators that its loop has begun."""
        import httpx2
        import openai

        async def sign(request: httpx2.Request) -> None:
            request.headers.update(self._secrets.headers)

        # Half of the limit at most: a server that cannot be reached is told from one that does not answer.
        timeout = httpx2.Timeout(self.timeout_s, connect=min(CONNECT_TIMEOUT_S, self.timeout_s / 2))
        limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_S)
        # A client of our own: the SDK's closes itself on garbage collection, on whichever loop happens to run then. It follows no
        # redirects, which would take the extra headers to another server.
        http = httpx2.AsyncClient(timeout=timeout, limits=limits, event_hooks={"request": [sign]})
        # The SDK gets no key: each request is signed on its way out, so that nothing which the SDK logs or raises can hold it.
        async with openai.AsyncOpenAI(base_url=self.base_url, api_key=NO_KEY, max_retries=0, timeout=timeout, http_client=http) as sdk:
            yield _Clients(sdk, http)

    async def aclose(self) -> None:
        """Close the clients of this loop and of loops that still run on other threads; those of ended loops are closed."""
        here = asyncio.get_running_loop()
        for loop, (_, keeper) in list(self._clients.items()):
            if loop is here:
                await keeper.aclose()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(keeper.aclose(), loop))
        self._clients.clear()


@cache
def _url(address: str) -> httpx2.URL:
    """Read once: of a few addresses, for thousands of requests."""
    import httpx2

    return httpx2.URL(address)
