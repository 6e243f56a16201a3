"""The budget: a run never settles more dollars than it was given.

Reserve, then settle: before a request its highest possible price is set aside (`held`), afterwards what it cost is booked (`spent`) and the
rest given back. `spent + held` never passes the limit, over all requests in flight and all processes that share the run's account. A
request whose outcome nobody knows (timed out, broken off, killed with its process) may have been billed, so it stays held at its highest
price; one that the server refused is given back. Amounts are whole nano-dollars: sums are exact.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from exchange.settings import SettingError, Settings
from store import Store, StoreError
from student_clients import errors
from student_clients.errors import StudentError
from student_clients.forwarding import ForwardedReply
from student_clients.ledger import Adapter, StudentWrapper
from student_clients.token_bounds import answer_tokens_at_most, body_bytes, prompt_tokens_at_most
from student_clients.usage import Usage

if TYPE_CHECKING:
    from student_clients import StudentConfig

log = logging.getLogger(__name__)
NANO = 1_000_000_000
MOST_USD = 1_000_000
WARN_AT = (0.5, 0.8)
POLL_S = 0.05
POLL_OTHERS_S = 1.0
ACCOUNT = "student"
UNBILLED = (
    errors.StudentNotConnected,
    errors.StudentRateLimited,
    errors.StudentServerError,
    errors.StudentAuthError,
    errors.StudentQuotaExhausted,
    errors.StudentUnknownModel,
    errors.StudentBadRequest,
)
"""Errors after which nothing was generated, so nothing is billed."""


class Price(Settings):
    """What a model costs, in US dollars per million tokens."""

    input: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    """A million prompt tokens."""
    output: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    """A million answer tokens, those of reasoning included."""
    cached_input: float | None = Field(default=None, ge=0, le=MOST_USD, allow_inf_nan=False)
    """A million prompt tokens that the provider read from its prefix cache; None = like any other."""
    as_of: datetime.date
    """The day on which you looked the price up, YYYY-MM-DD: prices change, and a report names the day."""

    def nano(self, prompt_tokens: int, completion_tokens: int, cached_prompt_tokens: int = 0) -> int:
        """Nano-dollars, rounded up."""
        cached = self.input if self.cached_input is None else self.cached_input
        dollars_a_million = (
            self.input * (prompt_tokens - cached_prompt_tokens) + cached * cached_prompt_tokens + self.output * completion_tokens
        )
        return math.ceil(dollars_a_million * NANO / 1_000_000 - 1e-6)


class BudgetConfig(Settings):
    """What a run may spend."""

    usd: float | None = Field(default=None, gt=0, le=MOST_USD, allow_inf_nan=False)
    """Dollars that the run may spend in all, resumed parts included. At the limit it stops and can be resumed with more. A student that
    costs money does not start without it."""
    unlimited: bool = False
    """Spend without a limit, also where the price is not known."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """Prices by model name, e.g. `prices: {gpt-4o-mini: {input: 0.15, output: 0.60, as_of: 2026-11-20}}`. None is built in: they change."""

    @model_validator(mode="after")
    def _one_of_two(self) -> BudgetConfig:
        if self.unlimited and self.usd is not None:
            raise ValueError("budget.usd and budget.unlimited exclude each other; set budget.unlimited=false or leave budget.usd out")
        return self


class BudgetExhausted(RunError):
    """The next request could pass the limit. Not a StudentError: a run that goes on without answers would learn from nothing."""


def own_server(student: StudentConfig) -> bool:
    """Whether the student runs on the user's own machines: in this process, as its child, or at addresses of a private network."""
    if student.kind in ("embedded", "replay") or student.vllm.launch:
        return True
    urls = student.vllm.base_urls or [student.base_url or ""]
    return all(_private(urlsplit(url).hostname or "") for url in urls)


def _private(host: str) -> bool:
    """Loopback and private addresses, and names that no public name server knows."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(host) and ("." not in host or host.endswith((".local", ".internal", ".lan", ".localhost")))
    return address.is_loopback or address.is_private


def price_of(student: StudentConfig, budget: BudgetConfig) -> Price | None:
    """The price to book by; None = the student is free, or its price unknown and the budget unlimited. Raises SettingError where a student
    could cost money and nobody said how much, or how much it may."""
    price = budget.prices.get(student.model)
    if price is not None and (price.input or price.output):
        if budget.usd is None and not budget.unlimited:
            raise SettingError(f"budget.usd: {student.model} costs money; set the dollars that this run may spend, or --budget.unlimited")
        return price
    if price is not None or budget.unlimited or (own_server(student) and budget.usd is None):
        return None
    if student.kind in ("embedded", "replay") or student.vllm.launch:
        return None  # there is nothing that could be billed
    raise SettingError(
        f"budget.prices: no price is known for {student.model!r}; set "
        f"--budget.prices='{{{student.model}: {{input: USD, output: USD, as_of: YYYY-MM-DD}}}}' in dollars per million tokens "
        "(0 and 0 for a server of your own), or --budget.unlimited to run without"
    )


class BudgetedStudent(StudentWrapper):
    """Books what `client` costs. Stands below the retries, so that every attempt is paid for by itself."""

    def __init__(
        self,
        client: Adapter,
        price: Price,
        account: Callable[[], Store],
        *,
        limit_usd: float | None,
        setting: str = "budget.usd",
        extra_body: Mapping[str, Any] | None = None,
        others_s: float = 0.0,
    ) -> None:
        """`account` opens the store that is booked in, at the first request. `limit_usd` None = book without a limit. `extra_body` is
        what the client adds to every request: its tokens are paid for too. `setting` is what the limit is called. `others_s`: other
        processes book in the account, and what they hold is waited for until nothing in it has changed for so many seconds."""
        super().__init__(client)
        self._extra_tokens = len(json.dumps(dict(extra_body))) if extra_body else 0
        self.price = price
        self._open_account = account
        self._opened: Store | None = None
        self.limit_usd = limit_usd
        self.setting = setting
        self.others_s = others_s
        self._lock = threading.Lock()
        self._in_flight = 0
        self._warned = 0.0

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        reserved = self.price.nano(prompt_tokens_at_most(messages) + self._extra_tokens, n * params.max_tokens)
        await self._reserve(reserved)
        settled: int | None = None
        try:
            completions = await self.client.complete(messages, params, n=n, sample_index=sample_index)
            priced = [self._priced(completion) for completion in completions]
            settled = sum(nano for _, nano in priced)
            if not settled:  # a server that sends no usage has billed something all the same
                settled = reserved
                priced = [(completion, reserved // len(priced)) for completion, _ in priced]
            self.ledger.add(cost_usd=settled / NANO)
            return [completion.model_copy(update={"cost_usd": nano / NANO}) for completion, nano in priced]
        except StudentError as error:
            settled = self._cost_of(error)
            raise
        finally:
            await self._settle(reserved, settled)

    @asynccontextmanager
    async def forward(
        self,
        body: Mapping[str, Any],
        *,
        content: bytes | None = None,
        path: str = "chat/completions",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[ForwardedReply]:
        """Pass a proxied request on, booked when its reply has been read to the end. One that is left before that stays held.

        Raises StudentBadRequest where the body names another model than the one whose price is known.
        """
        if body.get("model", self.name) != self.name:
            raise errors.StudentBadRequest(f"the price of {self.name!r} is known and that of {body['model']!r} is not")
        reserved = self.price.nano(body_bytes(body), answer_tokens_at_most(body))
        await self._reserve(reserved)
        settled: int | None = None
        try:
            async with super().forward(body, content=content, path=path, headers=headers) as reply:
                yield reply
            if reply.ended:  # a server that sends no usage has billed something all the same
                settled = self._usage_cost(reply.usage) if reply.usage is not None else reserved
                self.ledger.add(cost_usd=settled / NANO)
        except StudentError as error:
            settled = self._cost_of(error)
            raise
        finally:
            await self._settle(reserved, settled)

    def _cost_of(self, error: StudentError) -> int | None:
        """What a request that failed cost; None = nobody knows."""
        if error.usage is not None:
            cost = self._usage_cost(error.usage)
            self.ledger.add(cost_usd=cost / NANO)
            return cost
        return 0 if isinstance(error, UNBILLED) else None

    def _usage_cost(self, usage: Usage) -> int:
        return self.price.nano(usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens)

    async def _settle(self, reserved: int, settled: int | None) -> None:
        """Book what a request cost; None = nobody knows, so it stays held."""
        with self._lock:
            self._in_flight -= 1
        if settled is None:
            return
        if settled > reserved:
            log.warning("%s took more tokens than a request can by its own limits; the budget may be passed by that", self.name)
        await self._book({"held": -reserved, "spent": settled})

    @property
    def store(self) -> Store:
        with self._lock:
            if self._opened is None:
                self._opened = self._open_account()
            return self._opened

    def _priced(self, completion: Completion) -> tuple[Completion, int]:
        return completion, self.price.nano(completion.prompt_tokens, completion.completion_tokens, completion.cached_prompt_tokens)

    async def _reserve(self, amount: int) -> None:
        """Set `amount` aside. Waits while requests in flight, our own or those of other processes, may still give some back; raises
        BudgetExhausted."""
        limit = None if self.limit_usd is None else math.floor(self.limit_usd * NANO)
        seen, since, pause = (-1, -1), time.monotonic(), POLL_S
        while True:
            with self._lock:
                self._in_flight += 1
            totals = await self._book({"held": amount}, limit=limit)
            if totals is not None:
                self._warn(totals)
                return
            with self._lock:
                self._in_flight -= 1
                others = self._in_flight
            totals = await self.store.totals(ACCOUNT)
            spent, held = totals.get("spent", 0), totals.get("held", 0)
            if (spent, held) != seen:
                seen, since = (spent, held), time.monotonic()
            waited_for = others or (held and time.monotonic() - since < self.others_s)
            if not waited_for or limit is None or spent + amount > limit:
                raise BudgetExhausted(
                    f"{self.setting}={self.limit_usd:g}: {spent / NANO:.4f} dollars are spent, {held / NANO:.4f} held for requests of "
                    f"unknown outcome, and the next could cost {amount / NANO:.4f}; give more with --{self.setting}, what was answered is "
                    "kept"
                )
            await asyncio.sleep(pause)
            if not others:  # the account lies elsewhere, and whoever waits asks it
                pause = min(2 * pause, POLL_OTHERS_S)

    async def _book(self, changes: dict[str, int], *, limit: int | None = None) -> dict[str, int] | None:
        try:
            return await self.store.add(ACCOUNT, changes, limit=limit)
        except StoreError as error:
            # Nothing may be spent that is not booked.
            raise RunError(f"the budget's account {self.store.url} failed ({error}); mend that and go on with --resume") from None

    def _warn(self, totals: dict[str, int]) -> None:
        share = totals.get("spent", 0) / NANO / self.limit_usd if self.limit_usd else 0.0
        passed = max((level for level in WARN_AT if share >= level), default=0.0)
        if passed > self._warned:
            self._warned = passed
            log.warning("%.0f %% of the budget of %g dollars is spent", 100 * share, self.limit_usd)

    async def aclose(self) -> None:
        await super().aclose()
        if self._opened is not None:
            await self._opened.aclose()
