"""The OpenAI-compatible student: any server that speaks `/v1/chat/completions` (OpenAI, vLLM, transformers serve, llama.cpp, …).

The only file that knows the `openai` SDK and httpx2 below it. Their exceptions are translated here, once; the SDK's own retries are off
(`pacing` retries, and the ledger must see every call).

An AsyncOpenAI client belongs to one event loop and we are used from several: there is one for each, closed by its own loop when that
ends, else by `aclose`.
"""

from __future__ import annotations

import asyncio
import difflib
import email.utils
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients import errors
from student_clients.chat_reply import ChatReply, ModelList
from student_clients.errors import StudentError
from student_clients.ledger import Ledger

if TYPE_CHECKING:
    import openai

MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "none"
"""Sent to a server at a `base_url` when no key is set: the SDK insists on one, local servers ignore it."""
CONNECT_TIMEOUT_S = 5.0
log = logging.getLogger(__name__)


class OpenAICompatibleStudent:
    """`n` completions in one request; a server that gives fewer (some ignore `n`) is asked again for the rest.

    With a seed, `seed + sample_index` is sent, so that a question's samples differ and a later call can go on from an earlier one.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        api_key_file: Path | None = None,
        timeout_s: float = 60.0,
        max_tokens_field: MaxTokensField = "max_tokens",
    ) -> None:
        """Raises ValueError where a key is needed and there is none. `base_url` None = OpenAI's own API."""
        self.name = model
        self.base_url = base_url or OPENAI_URL
        self.timeout_s = timeout_s
        self.max_tokens_field = max_tokens_field
        self.ledger = Ledger()
        self._key_source = str(api_key_file or f"the environment variable {api_key_env}")
        key = api_key_file.read_text(encoding="utf-8").strip() if api_key_file else os.environ.get(api_key_env, "")
        if not key and (base_url is None or api_key_file):
            raise ValueError(f"{self._key_source} holds no API key; put one there, or set student.base_url for a server that needs none")
        self._key = key or NO_KEY
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[openai.AsyncOpenAI, AsyncGenerator[Any, None]]]
        self._clients = WeakKeyDictionary()

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        completions: list[Completion] = []
        while len(completions) < n:
            completions += await self._ask(messages, params, n - len(completions), sample_index + len(completions))
        return completions[:n]

    async def _ask(self, messages: Sequence[Message], params: SamplingParams, n: int, sample_index: int) -> list[Completion]:
        """One HTTP request: at least one completion."""
        body: dict[str, Any] = {
            "messages": [message.model_dump() for message in messages],
            "temperature": params.temperature,
            self.max_tokens_field: params.max_tokens,
        }
        # Only where needed: some servers refuse fields that they do not know.
        if n > 1:
            body["n"] = n
        if params.seed is not None:
            body["seed"] = params.seed + sample_index
        client = await self._client()
        started = time.perf_counter()
        # Counted before it is sent, so that a cancelled request counts too, and taken back if it never got through.
        self.ledger.add(calls=1)
        try:
            content = await self._within_limit(client.chat.completions.with_raw_response.create(model=self.name, **body))
        except errors.StudentNotConnected:
            self.ledger.add(calls=-1)
            raise
        latency_s = time.perf_counter() - started
        try:
            reply = ChatReply.model_validate_json(content)
        except ValidationError:
            sent = self._quoted(content.decode(errors="replace"))
            raise errors.StudentBadResponse(f"{self.base_url} sent no chat completion but {sent or 'nothing'}") from None
        prompt_tokens, completion_tokens, _ = reply.counts()
        self.ledger.add(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        if reply.withheld:
            raise errors.StudentContentFiltered(f"the content filter of {self.base_url} withheld the answer of {self.name}")
        return reply.completions(latency_s)

    async def check(self) -> None:
        """Raises a StudentError unless the server answers `/models` and lists the model. A server that keeps no list is only warned of."""
        client = await self._client()
        try:
            content = await self._within_limit(client.models.with_raw_response.list())
            names = [model.id for model in ModelList.model_validate_json(content).data]
        except ValidationError:
            names = []
        except StudentError as error:
            lacks_v1 = isinstance(error, errors.StudentUnknownModel) and self._lacks_v1()
            if lacks_v1 or isinstance(error, (errors.StudentUnreachable, errors.StudentTimeout, errors.StudentAuthError)):
                raise
            names = []
        if not names:
            log.warning("%s lists no models, so %s is used unchecked", self.base_url, self.name)
        elif self.name not in names:
            near = difflib.get_close_matches(self.name, names, n=8, cutoff=0.0)
            raise errors.StudentUnknownModel(f"{self.base_url} does not serve {self.name!r}; it serves {', '.join(near)}")

    async def _within_limit(self, request: Awaitable[Any]) -> bytes:
        """The body of the 2xx answer to an SDK request; everything else as a StudentError."""
        import openai

        try:
            async with asyncio.timeout(self.timeout_s):  # the SDK's own limit is on each read, which a trickling server never meets
                return bytes((await request).content)
        except (openai.OpenAIError, TimeoutError) as error:
            # Not chained: what is below may quote headers, and with them the key.
            raise self._translated(error) from None

    def _translated(self, error: openai.OpenAIError | TimeoutError) -> StudentError:
        import httpx2
        import openai

        cause = error.__cause__
        if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)):
            reason = self._quoted(str(cause)) or type(cause).__name__
            return errors.StudentNotConnected(f"cannot reach {self.base_url} ({reason}); is the server running, is student.base_url right?")
        if isinstance(error, (TimeoutError, openai.APITimeoutError)):
            return errors.StudentTimeout(
                f"{self.base_url} gave no whole answer within {self.timeout_s:g} s; raise student.timeout_s or lower student.max_tokens"
            )
        if isinstance(error, openai.APIConnectionError):
            return errors.StudentUnreachable(f"{self.base_url} broke the connection off ({self._quoted(str(cause))})")
        if isinstance(error, openai.APIStatusError):
            return self._of_status(error)
        return errors.StudentBadResponse(f"{self.base_url}: {self._quoted(str(error))}")

    def _of_status(self, error: openai.APIStatusError) -> StudentError:
        """The error for a 4xx or 5xx answer, with what the server says about it."""
        status = error.status_code
        body = error.body
        said = self._quoted(str((body.get("message") or body.get("detail") or body) if isinstance(body, dict) else body or ""))
        tail = f" ({status}: {said})" if said else f" ({status})"
        wait_s = _retry_after_s(error.response.headers)
        if status in (401, 403):
            if self._key == NO_KEY:
                return errors.StudentAuthError(f"{self.base_url} wants an API key; put it into {self._key_source}{tail}")
            return errors.StudentAuthError(f"{self.base_url} refuses the API key from {self._key_source}{tail}")
        if status == 404 or error.code == "model_not_found":
            hint = f"student.base_url has no /v1, try {self.base_url.rstrip('/')}/v1" if self._lacks_v1() else "see student.model"
            return errors.StudentUnknownModel(f"{self.base_url} does not know {self.name!r}; {hint}{tail}")
        if error.code == "content_filter":
            return errors.StudentContentFiltered(f"the content filter of {self.base_url} refused the request{tail}")
        if error.code in ("insufficient_quota", "billing_hard_limit_reached"):
            return errors.StudentQuotaExhausted(f"the account at {self.base_url} has no credit left{tail}")
        if status == 429:
            return errors.StudentRateLimited(
                f"{self.base_url} limits the rate; lower student.pacing.concurrency{tail}", retry_after_s=wait_s
            )
        if status == 408:
            return errors.StudentTimeout(f"{self.base_url} gave up waiting{tail}", retry_after_s=wait_s)
        if status >= 500:
            return errors.StudentServerError(f"{self.base_url} failed{tail}", retry_after_s=wait_s)
        return errors.StudentBadRequest(f"{self.base_url} refuses the request for {self.name!r}{tail}")

    def _lacks_v1(self) -> bool:
        return "/v1" not in urlsplit(self.base_url).path

    def _quoted(self, text: str) -> str:
        """What a server said, on one line of at most 300 characters, without our key."""
        return " ".join(text.replace(self._key, "[key]").split())[:300] if self._key != NO_KEY else " ".join(text.split())[:300]

    async def _client(self) -> openai.AsyncOpenAI:
        """The running loop's own client."""
        loop = asyncio.get_running_loop()
        held = self._clients.get(loop)
        if held is None:
            keeper = self._open()
            # Reaches its yield without giving way to other tasks, so none of them can open a second client.
            held = self._clients[loop] = (await anext(keeper), keeper)
        return held[0]

    async def _open(self) -> AsyncGenerator[openai.AsyncOpenAI, None]:
        """A client that its event loop closes: `asyncio.run` ends by closing the async generators that its loop has begun."""
        import httpx2
        import openai

        timeout = httpx2.Timeout(self.timeout_s, connect=min(CONNECT_TIMEOUT_S, self.timeout_s))
        # A client of our own: the SDK's closes itself on garbage collection, on whichever loop happens to run then.
        http_client = openai.DefaultAsyncHttpxClient(timeout=timeout)
        async with openai.AsyncOpenAI(
            base_url=self.base_url, api_key=self._key, max_retries=0, timeout=timeout, http_client=http_client
        ) as client:
            yield client

    async def aclose(self) -> None:
        """Close the clients of this loop and of loops that still run on other threads; those of ended loops are closed."""
        here = asyncio.get_running_loop()
        for loop, (_, keeper) in list(self._clients.items()):
            if loop is here:
                await keeper.aclose()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(keeper.aclose(), loop))
        self._clients.clear()


def _retry_after_s(headers: Any) -> float | None:
    """Seconds that a server asks us to wait: a number, or the time until an HTTP date; None = it does not say."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
