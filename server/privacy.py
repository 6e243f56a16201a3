"""What is kept of users' texts, and how it goes: redacted before, erased after its days, and for a unit when somebody asks."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable

from exchange.settings import SettingError
from store import EventLog, StoreError

log = logging.getLogger("wst.server")

LOOK_S = 3600.0
DAY_S = 86_400.0


def redaction(name: str | None) -> Callable[[str], str]:
    """The operator's function `module:function`; None = none. Raises SettingError where it cannot be had or is none."""
    if name is None:
        return lambda text: text
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
        tried = found("a text")
    except Exception as error:  # whatever the module does when it is imported
        raise SettingError(f"redact={name!r}: {type(error).__name__}: {error}; write module:function of an importable module") from None
    if not isinstance(tried, str):
        raise SettingError(f"redact={name!r}: the function gives a {type(tried).__name__} and not a str")

    def redact(text: str) -> str:
        redacted: str = found(text)
        return redacted

    return redact


async def forget(events: EventLog, tenant: str, unit: str) -> int:
    """Erase what is kept of a tenant's unit: texts, shadows, exposures and outcomes. How many events."""

    def of(topic: str) -> bool:  # a tenant's name may begin another's, and may hold a slash
        kind, _, rest = topic.partition("/")
        return rest == tenant if kind == "texts" else kind in ("experiment", "shadow") and rest.rpartition("/")[0] == tenant

    return await events.erase(of, subject=unit)


def _of_text(topic: str) -> bool:
    return topic.partition("/")[0] in ("texts", "shadow")


async def keep_retention(events: EventLog, days: int) -> None:
    """Erase texts that are older than `days`, now and every hour, until cancelled."""
    while True:
        try:
            if events.exists and (gone := await events.erase(_of_text, before=time.time() - days * DAY_S)):
                log.info("%d texts were older than %d days and are erased", gone, days)
        except StoreError as error:
            log.error("old texts cannot be erased: %s", error)
        await asyncio.sleep(LOOK_S)
