"""What it means when a server answers with another status than 2xx: the one error for it, with what to do about it.

Servers agree on the statuses and on little else: the reason stands in `error.message` (OpenAI and most), `message` (older vLLM), `detail`
(FastAPI), in a list (Gemini), or is a page of HTML. What a user can mend is therefore told by the text as much as by the code.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from student_clients import errors
from student_clients.errors import StudentError

Api = Literal["chat", "responses"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]

NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance")
FILTERED = ("content_filter", "content_policy_violation")
TOO_LONG = re.compile(r"context (length|size|window)|maximum model length", re.IGNORECASE)
"""OpenAI and vLLM: "maximum context length", "context window"; llama.cpp: "context size"; vLLM: "maximum model length"."""
BLAME_CHARS = 120
OTHER_API = re.compile(r"\bv1/responses\b|not a chat model", re.IGNORECASE)


@dataclass(frozen=True)
class Refusal:
    """What a server said instead of an answer."""

    status: int
    said: str
    """On one line and free of secrets; empty = nothing."""
    codes: tuple[str, ...] = ()
    """The error's `code` and `type`."""
    param: str | None = None
    """The field of the request that is to blame, where the server names it."""
    retry_after_s: float | None = None
    location: str = ""
    """Where a 3xx points to."""

    @classmethod
    def read(cls, status: int, headers: Mapping[str, str], content: bytes, quoted: Callable[[str], str]) -> Refusal:
        """`quoted` strikes secrets out."""
        try:
            data: Any = json.loads(content)
        except ValueError:
            data = content.decode(errors="replace")
        if isinstance(data, list) and data:
            data = data[0]
        error = data.get("error", data) if isinstance(data, dict) else data
        fields: dict[str, Any] = error if isinstance(error, dict) else {}
        said = fields.get("message") or fields.get("detail") or error or ""
        codes = tuple(str(fields[name]) for name in ("code", "type") if fields.get(name) is not None)
        location = quoted(headers.get("location", ""))
        return cls(status, quoted(str(said)), codes, fields.get("param"), retry_after_s(headers), location)

    def has(self, *codes: str) -> bool:
        return any(code in codes for code in self.codes)

    def names(self, field: str) -> bool:
        """Whether `field` is what the server minds. Only the beginning of its words is searched: some quote the request after them."""
        return self.param == field or field in self.said[:BLAME_CHARS]


@dataclass(frozen=True)
class Endpoint:
    """Whom we ask, and by which settings: what an error says is to be changed."""

    base_url: str
    model: str
    api: Api
    max_tokens_field: MaxTokensField
    key_source: str
    has_key: bool

    @property
    def lacks_v1(self) -> bool:
        return "/v1" not in urlsplit(self.base_url).path

    def error_of(self, refusal: Refusal, *, own_body: bool = True) -> StudentError:
        """`own_body`: the request was made of our settings, so that these may be what is wrong."""
        status, wait_s, url = refusal.status, refusal.retry_after_s, self.base_url
        tail = f" ({status}: {refusal.said})" if refusal.said else f" ({status})"
        if status in (401, 403):
            if not self.has_key:
                return errors.StudentAuthError(f"{url} wants an API key; put it into {self.key_source}{tail}")
            return errors.StudentAuthError(f"{url} refuses the API key from {self.key_source}{tail}")
        if status == 402 or refusal.has(*NO_CREDIT):
            return errors.StudentQuotaExhausted(f"the account at {url} has no credit left{tail}")
        if own_body and self.api == "chat" and status in (400, 404) and OTHER_API.search(refusal.said):
            return errors.StudentBadRequest(f"{self.model!r} is no chat model; set student.api=responses, or take another model{tail}")
        if 300 <= status < 400:
            return errors.StudentUnknownModel(f"{url} points elsewhere; set student.base_url to where {refusal.location} is{tail}")
        if status == 404 or refusal.has("model_not_found"):
            return errors.StudentUnknownModel(f"{url} does not know {self.model!r}; {self._where_to_look(refusal)}{tail}")
        if refusal.has(*FILTERED):
            return errors.StudentContentFiltered(f"the content filter of {url} refused the request{tail}")
        if status == 429:
            return errors.StudentRateLimited(f"{url} limits the rate; lower student.pacing.concurrency{tail}", retry_after_s=wait_s)
        if status in (408, 504, 522, 524):  # gateways that stopped waiting: the server behind them may go on, and bill
            return errors.StudentTimeout(f"{url} gave up waiting{tail}", retry_after_s=wait_s)
        if status >= 500:
            return errors.StudentServerError(f"{url} failed{tail}", retry_after_s=wait_s)
        remedy = self._remedy(refusal) if own_body else ""
        return errors.StudentBadRequest(f"{url} refuses the request for {self.model!r}{remedy}{tail}")

    def _where_to_look(self, refusal: Refusal) -> str:
        if self.lacks_v1:
            return f"student.base_url has no /v1, try {self.base_url.rstrip('/')}/v1"
        if self.api == "responses" and not refusal.has("model_not_found"):
            return "see student.model; a server that has no /v1/responses takes student.api=chat"
        return "see student.model"

    def _remedy(self, refusal: Refusal) -> str:
        """What to change about the request; empty where only the server's own words can tell."""
        # First, since vLLM's text on it names max_completion_tokens too.
        if refusal.has("context_length_exceeded") or TOO_LONG.search(refusal.said):
            return ": prompt and student.max_tokens exceed its context; shorten the prompt or lower student.max_tokens"
        if self.api == "chat" and "max_completion_tokens" in refusal.said and self.max_tokens_field == "max_tokens":
            return "; set student.max_tokens_field=max_completion_tokens"
        if self.api == "chat" and refusal.names("max_completion_tokens"):
            return "; set student.max_tokens_field=max_tokens, or change student.max_tokens"
        if refusal.names("temperature"):
            return "; set student.temperature=null, or to a value that it takes"
        if refusal.names("reasoning_effort") or refusal.names("reasoning.effort"):
            return "; set student.reasoning_effort=null, or to a value that it takes"
        if refusal.names("max_tokens") or refusal.names("max_output_tokens"):
            return "; change student.max_tokens"
        return ""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks us to wait: `retry-after-ms` (OpenAI, Azure), or `retry-after` as a number or an HTTP date. None = it does
    not say."""
    for name, per_second in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / per_second)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError):
        return None
