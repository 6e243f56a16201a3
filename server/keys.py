"""API keys: who may call which routes, how often, and whose instructions it shares with nobody.

python -m server.keys create --tenant shop --scopes instruct,proxy --days 90     prints the key once; the file keeps its SHA-256
python -m server.keys list
python -m server.keys rotate ID --overlap-hours 24     a new secret; the old one works that long still
python -m server.keys revoke ID

A running server reads the file again within a second of a change. A key is `wst_ID_SECRET`: it is looked up by its id and compared by the
hash of 256 random bits, in constant time, so nothing that a caller writes becomes part of a query.
"""

from __future__ import annotations

import argparse
import difflib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NoReturn

from pydantic import AwareDatetime, Field, ValidationError

from exchange.command import run_command
from exchange.records import Record
from exchange.settings import SettingError
from store.limits import Quota

log = logging.getLogger("wst.server")

Scope = Literal["instruct", "proxy", "outcomes", "experiments", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("instruct", "proxy", "outcomes", "experiments", "metrics", "admin")
FORM = re.compile(r"wst_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
LOOK_S = 0.5
"""How often a running server looks whether the file has changed."""
SESSION = re.compile(r"([0-9a-f]{12})\.([0-9]{10})\.([0-9a-f]{64})")
SESSION_S = 12 * 3600
"""How long a browser stays logged in at most."""


class Secret(Record):
    """One secret of a key, as its hash."""

    sha256: str
    until: AwareDatetime | None = None
    """When it stops to work after a rotation; None = as long as the key."""


class Key(Record):
    """One key as the file holds it."""

    tenant: str = Field(min_length=1, max_length=100)
    """Keys of one tenant share cached instructions; tenants share nothing."""
    secrets: tuple[Secret, ...]
    scopes: tuple[Scope, ...]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: bool = False
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)
    tokens_per_day: int | None = Field(default=None, ge=1)
    """Tokens a day (UTC) of what is sent and answered; None = no limit."""
    dollars_per_day: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    """Dollars a day (UTC) that students behind the proxy cost, by their `price` in the server's config; None = no limit."""
    on_failure: Literal["passthrough", "error"] = "passthrough"
    """What a request gets for which the teacher has no instruction in time, or no budget is left: the raw messages, or 503 and 429."""
    capture_text: bool = False
    """Whether this key's queries and instructions are kept (`WST_RETENTION_DAYS`). Only where its users agreed."""

    def caller(self, key_id: str) -> Caller:
        """Who comes in with this key."""
        return Caller(id=key_id, **{name: getattr(self, name) for name in Caller.model_fields if name != "id"})

    def holds(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return not self.revoked and (self.expires is None or now < self.expires)

    @property
    def quota(self) -> Quota:
        return Quota(self.requests_per_minute, self.tokens_per_minute, self.concurrency)


class KeyFile(Record):
    """The file: keys by id."""

    keys: dict[str, Key] = Field(default_factory=dict)


class Caller(Record):
    """Who is asking, once the key has been checked."""

    id: str = ""
    """The key's id; empty where the server has no keys."""
    tenant: str = ""
    scopes: tuple[Scope, ...] = SCOPES
    on_failure: Literal["passthrough", "error"] = "passthrough"
    tokens_per_day: int | None = None
    dollars_per_day: float | None = None
    capture_text: bool = False


def read_keys(path: Path) -> KeyFile:
    """Raises SettingError where the file cannot be read or is none of ours; what stands in it is not quoted."""
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingError(f"{path}: cannot be read ({error.strerror}); make one with `python -m server.keys create`") from None
    except ValidationError as error:
        first = error.errors()[0]
        where, said = ".".join(map(str, first["loc"])), first["msg"][:100]
        if first["type"] == "timezone_aware":
            said = "a date and time needs its offset from UTC, as in 2030-01-31T12:00:00Z"
        raise SettingError(f"{path}: no file of keys ({where}: {said})") from None


class KeyRing:
    """The keys of a running server."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises SettingError."""
        self.path = path
        self._clock = clock
        self._keys = read_keys(path).keys
        self._seen = self._stamp()
        self._looked = clock()

    def find(self, text: str) -> tuple[str, Key] | None:
        """(id, key) that this text opens now; None for whatever reason, which a caller is not told."""
        found = self._find(text, datetime.now(UTC))
        return None if found is None else found[:2]

    def open_session(self, text: str) -> str | None:
        """What a browser keeps in place of the key that this text is; None where it opens nothing.

        `ID.EXPIRY.MAC`: the MAC is by what the file keeps of the key's secrets, so every process that reads the file knows it, another
        secret ends it, and the key cannot be told from it.
        """
        now = datetime.now(UTC)
        found = self._find(text, now)
        if found is None:
            return None
        key_id, key, secret = found
        ends = [until.timestamp() for until in (secret.until, key.expires) if until is not None]
        return _session(key_id, key, int(min([now.timestamp() + SESSION_S, *ends])))

    def in_session(self, text: str) -> tuple[str, Key] | None:
        """(id, key) of a session that stands: it has not ended, and its key is the one that opened it, not revoked or rotated since."""
        self._look()
        form = SESSION.fullmatch(text)
        key = None if form is None else self._keys.get(form[1])
        now = datetime.now(UTC)
        if form is None or key is None or not key.secrets or not key.holds(now) or now.timestamp() >= int(form[2]):
            return None  # without a secret there would be nothing to make a MAC by
        return (form[1], key) if hmac.compare_digest(_session(form[1], key, int(form[2])), text) else None

    def _find(self, text: str, now: datetime) -> tuple[str, Key, Secret] | None:
        self._look()
        form = FORM.fullmatch(text)
        key = None if form is None else self._keys.get(form[1])
        if form is None or key is None:
            return None
        given = _hash(text)
        fits = [s for s in key.secrets if hmac.compare_digest(s.sha256, given) and (s.until is None or now < s.until)]
        return (form[1], key, fits[0]) if fits and key.holds(now) else None

    def named(self, key_id: str) -> Key | None:
        """The key of that id, whatever became of it."""
        self._look()
        return self._keys.get(key_id)

    def of(self, tenant: str) -> dict[str, Key]:
        """A tenant's keys that are not revoked, by id."""
        self._look()
        return {key_id: key for key_id, key in self._keys.items() if key.tenant == tenant and not key.revoked}

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            self._keys = read_keys(self.path).keys
            self._seen = stamp  # after a good read alone: a revocation is not missed for a file that could not be opened once
        except SettingError as error:  # half written by another hand, or gone: the keys that were good stay so
            log.error("%s; the keys read before stay in force", error)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _session(key_id: str, key: Key, expiry: int) -> str:
    """A session that ends at `expiry`, in seconds since 1970; of all the key's secrets, so that a rotation ends it too."""
    known = "".join(secret.sha256 for secret in key.secrets).encode()
    told = f"{key_id}.{expiry}"
    return f"{told}.{hmac.new(known, f'wst-console {told}'.encode(), hashlib.sha256).hexdigest()}"


def new_secret(key_id: str) -> tuple[str, Secret]:
    """(the key as its holder gets it, what is kept of it)."""
    text = f"wst_{key_id}_{secrets.token_urlsafe(32)}"
    return text, Secret(sha256=_hash(text))


def change(path: Path, edit: Callable[[dict[str, Key]], None]) -> None:
    """Edit the file as one step among processes; readers see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = dict(read_keys(path).keys) if path.exists() else {}
        edit(keys)
        temporary = path.with_name(path.name + ".tmp")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(KeyFile(keys=keys).model_dump_json(indent=1) + "\n")
        temporary.replace(path)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(message)


def parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m server.keys", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--keys", metavar="FILE", default=os.environ.get("WST_KEYS") or "wst-keys.json", help="default WST_KEYS, wst-keys.json"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    create = verbs.add_parser("create", help="make a key and print it, once")
    create.add_argument("--tenant", required=True)
    create.add_argument("--scopes", default="instruct,proxy", help=f"of {', '.join(SCOPES)} (default instruct,proxy)")
    create.add_argument("--days", type=int, help="until it expires (default: never)")
    for name in ("requests-per-minute", "tokens-per-minute", "concurrency"):
        create.add_argument(f"--{name}", type=int, help="default: no limit")
    create.add_argument("--tokens-per-day", type=int, help="a day of UTC; default: no limit")
    create.add_argument("--dollars-per-day", type=float, help="by the students' prices; default: no limit")
    create.add_argument("--capture-text", action="store_true", help="keep this key's queries and instructions")
    create.add_argument("--on-failure", choices=["passthrough", "error"], default="passthrough", help="raw messages, or 503 and 429")
    verbs.add_parser("list", help="the keys, without secrets")
    rotate = verbs.add_parser("rotate", help="a new secret for a key, printed once")
    rotate.add_argument("id")
    rotate.add_argument("--overlap-hours", type=float, default=24.0, help="how long the old one still works (default 24)")
    revoke = verbs.add_parser("revoke", help="end a key now")
    revoke.add_argument("id")
    return parser


def body(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    path = Path(args.keys)
    if args.verb == "list":
        for key_id, key in read_keys(path).keys.items():
            print(json.dumps({"id": key_id, **key.model_dump(mode="json", exclude={"secrets"}, exclude_none=True)}))
        return 0
    printed = _create(args, path) if args.verb == "create" else _edit(args, path)
    if printed is not None:
        print(printed)
    return 0


def _create(args: argparse.Namespace, path: Path) -> str:
    scopes = tuple(args.scopes.split(","))
    for scope in scopes:
        if scope not in SCOPES:
            near = difflib.get_close_matches(scope, SCOPES, n=1)
            raise SettingError(
                f"--scopes: no scope {scope!r}" + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(SCOPES)}")
            )
    key_id = secrets.token_hex(6)
    text, secret = new_secret(key_id)
    now = datetime.now(UTC)
    expires = now + timedelta(days=args.days) if args.days is not None else None
    try:
        key = Key(
            tenant=args.tenant, secrets=(secret,), scopes=scopes, created=now, expires=expires,
            requests_per_minute=args.requests_per_minute, tokens_per_minute=args.tokens_per_minute, concurrency=args.concurrency,
            tokens_per_day=args.tokens_per_day, dollars_per_day=args.dollars_per_day, on_failure=args.on_failure,
            capture_text=args.capture_text,
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg'].lower()}") from None
    change(path, lambda keys: keys.update({key_id: key}))
    return text


def _edit(args: argparse.Namespace, path: Path) -> str | None:
    text, secret = new_secret(args.id)

    def edit(keys: dict[str, Key]) -> None:
        if args.id not in keys:
            raise SettingError(f"{path}: no key {args.id!r}; `python -m server.keys list` shows them")
        key = keys[args.id]
        if args.verb == "revoke":
            keys[args.id] = key.model_copy(update={"revoked": True})
            return
        end = datetime.now(UTC) + timedelta(hours=args.overlap_hours)
        old = tuple(s.model_copy(update={"until": min(s.until or end, end)}) for s in key.secrets)
        keys[args.id] = key.model_copy(update={"secrets": (secret, *old)})

    change(path, edit)
    return text if args.verb == "rotate" else None


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("server.keys", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
