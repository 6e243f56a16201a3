"""What every store does, the error that every store raises, and the arithmetic of accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

LARGEST_AMOUNT = 2**53 - 1
"""Redis adds in Lua, whose numbers are doubles: exact up to here. In billionths of a dollar that is 9 million dollars."""


class StoreError(Exception):
    """The store cannot be used as it stands: missing, unreachable, not writable, damaged. One line that says what to do, without
    passwords."""


class Store(Protocol):
    """Keys with values, and accounts: named groups of counters.

    Used from several event loops on several threads at the same time. Every method raises StoreError where the store fails; no other
    error of a database or a network leaves it. Keys, accounts and fields are any text that UTF-8 can encode.
    """

    url: str
    """For messages: where the store is, without user name and password."""

    async def get(self, key: str) -> bytes | None:
        """The value; None = no such key."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """One value a key, in order."""
        ...

    async def put(self, key: str, value: bytes, *, expire_s: float | None = None) -> None:
        """Set or replace a value. Settled on return: a process that is killed after it loses nothing.

        `expire_s`: the value may be forgotten after that long; only Redis does, whose memory is what runs out."""
        ...

    async def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        ...

    async def add(self, account: str, changes: Mapping[str, int], *, limit: int | None = None) -> dict[str, int] | None:
        """Add to fields of an account in one step, and return all its fields; a new field begins at 0.

        With a `limit`: None, and nothing is changed, where all fields together would come to more than that. One step means: among all
        threads, processes and machines that use the store, so that they never spend more than the limit together.

        Raises ValueError, with nothing changed, where the absolute values of the account's fields would come to more than
        LARGEST_AMOUNT. After a StoreError it is open whether the change was made; whoever counts money takes it as made.
        """
        ...

    async def totals(self, account: str) -> dict[str, int]:
        """All fields of an account; empty where nothing was ever added."""
        ...

    async def check(self) -> None:
        """Return if the store can be read and written, else raise a StoreError that says in one line what to do."""
        ...

    async def aclose(self) -> None:
        """Give files and connections back. A store that is used again opens them again."""
        ...


def refuse_large(changes: Mapping[str, int], limit: int | None) -> None:
    """Raises ValueError for a number that not every store could count exactly."""
    for name, amount in (*changes.items(), ("limit", limit or 0)):
        if abs(amount) > LARGEST_AMOUNT:
            raise ValueError(f"{name}={amount}: stores count up to {LARGEST_AMOUNT}")


def overflow(account: str) -> ValueError:
    return ValueError(f"the account {account} would come to more than {LARGEST_AMOUNT}; nothing was added")


def changed(account: str, held: Mapping[str, int], changes: Mapping[str, int], limit: int | None) -> dict[str, int] | None:
    """An account after `changes`; None = over the limit. Raises ValueError where it grows too large."""
    after = dict(held)
    for field, amount in changes.items():
        after[field] = after.get(field, 0) + amount
    if sum(abs(amount) for amount in after.values()) > LARGEST_AMOUNT:
        raise overflow(account)
    return None if limit is not None and sum(after.values()) > limit else after
