"""What a Redis URL says, checked before anything is connected, and how it may be shown."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from store.protocol import StoreError

WRONG = (
    "not the URL of a Redis server: write redis://[USER:PASSWORD@]HOST:PORT/DB, or unix://PATH?db=DB;"
    " a password has %2F for /, %40 for @, %3A for :, %3F for ? and %23 for #"
)
OPTIONS = re.compile(r"db|username|password|client_name|ssl_[a-z_]+")
"""What may stand behind the `?`. redis-py takes anything there, its timeouts and retries included."""


def read(url: str) -> tuple[str, tuple[str, ...]]:
    """The URL as it may be shown, and the passwords that may not, as they are and as the URL spells them.

    Raises ValueError where it is wrong and StoreError where redis-py is missing. No part of a wrong URL is quoted: the password may
    stand anywhere in it.
    """
    try:
        from redis.asyncio import ConnectionPool
        from redis.exceptions import RedisError
    except ModuleNotFoundError:
        raise StoreError("a Redis store needs the package redis; install it with: pip install 'wst-teacher[redis]'") from None

    try:
        parts = urlsplit(url)
        if not _fits(parts):
            raise ValueError(WRONG)
        pool = ConnectionPool.from_url(url)
        pool.make_connection()  # not connected by that, but it refuses options that it does not know
    except (ValueError, TypeError, RedisError):
        raise ValueError(WRONG) from None
    settings: dict[str, Any] = pool.connection_kwargs
    secrets = {secret for secret in (settings.get("password"), settings.get("ssl_password"), parts.password) if secret}
    return _shown(parts, settings.get("db", 0)), tuple(sorted(secrets, key=len, reverse=True))


def _fits(parts: SplitResult) -> bool:
    """What redis-py would pass over: a path that is no database, a second @, a fragment; mostly a password that is not escaped."""
    path = r"/.+" if parts.scheme == "unix" else r"/?|/[0-9]+"
    return (
        re.fullmatch(path, parts.path) is not None
        and (parts.scheme != "unix" or not parts.hostname)
        and parts.netloc.count("@") <= 1
        and not parts.fragment
        and all(OPTIONS.fullmatch(name) for name in parse_qs(parts.query, keep_blank_values=True))
    )


def _shown(parts: SplitResult, db: int) -> str:
    if parts.scheme == "unix":
        return f"unix://{parts.path}" + (f"?db={db}" if db else "")
    host = parts.hostname or "localhost"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or 6379}/{db}"
