"""The service's settings: every field is a `WST_*` variable, four are flags too. Needs no fastapi, so `--help` stays instant.

A flag goes before the variable; an empty variable counts as unset (compose files write `WST_TEACHER=`).
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from exchange.settings import SettingError, Settings, load, setting_docs

FLAGS = ("host", "port", "teacher")
"""Settings that are flags as well."""

VARIABLES_OF_OTHERS = ("WST_CACHE_DIR", "WST_RUNS_DIR", "WST_DATA_DIR", "WST_REQUIRE")
"""Variables that other commands read: known, and none of the server's business."""


class ServerSettings(Settings):
    """How the service listens, how long it waits for the teacher, and what it refuses."""

    host: str = "127.0.0.1"
    """Address to listen on. Loopback only (127.0.0.0/8, ::1, localhost), for the server has no keys that would tell callers apart."""
    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port; 0 takes any free one, and the ready line names it."""
    teacher: str | None = None
    """A run directory or its teacher/ folder. None = the newest run with a complete teacher, else the shipped one."""
    arm_teachers: str | None = None
    """Further teachers for the arms of experiments: run directories or teacher folders, separated by commas. Each is held in memory."""
    event_log: str | None = None
    """File of experiments, exposures and outcomes, on a local disk. None = events.db in WST_RUNS_DIR, made with the first experiment."""
    store: str | None = None
    """redis://HOST:PORT/DB of the Redis that replicas share; it takes the event log as a stream. None = this machine's file alone."""
    capture_text: bool = False
    """Whether queries and instructions are kept in the event log, for `teacher.collect`. Switch it on only where the users agreed."""
    guardrail_period_s: float = Field(default=5.0, gt=0.0, le=3600.0)
    """Seconds between two checks of the experiments' guardrails."""
    deadline_ms: int = Field(default=2000, ge=1, le=60_000)
    """Longest wait for an instruction in milliseconds, queue included; past it the raw messages go out. 2000 fits a 0.5B teacher on CPU."""
    batch_window_ms: int = Field(default=2, ge=0, le=1000)
    """Milliseconds an idle teacher waits for company before it starts. While it writes, requests gather anyway."""
    teacher_batch: int = Field(default=32, ge=1, le=4096)
    """Most requests that share one `generate`. A batch ends with its longest instruction, so a large one delays short answers."""
    max_queued: int = Field(default=256, ge=1)
    """Most requests that wait for the teacher; one more gets the raw messages at once ("overloaded")."""
    max_query_chars: int = Field(default=32_000, ge=1)
    """Longest query in characters (422 beyond). 32 000 characters are about 8 000 tokens."""
    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Largest request body in bytes (413 beyond)."""
    max_batch_items: int = Field(default=64, ge=1)
    """Most items of one POST /instruct/batch (422 beyond)."""
    shutdown_grace_s: int = Field(default=10, ge=0, le=3600)
    """Seconds that running requests have to finish after SIGTERM or Ctrl-C."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """info logs one line a request (method, path, status, time, request id; never a body); warning leaves these out."""

    @field_validator("store")
    @classmethod
    def _is_redis(cls, store: str | None) -> str | None:
        if store is not None and not store.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("replicas share a Redis: write redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix://PATH")
        return store

    @field_validator("host")
    @classmethod
    def _loopback_only(cls, host: str) -> str:
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        if not loopback:
            raise ValueError("no keys are configured, so only loopback is served; use 127.0.0.1, ::1 or localhost")
        return host


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"WST_{name.upper()}"


def read_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> ServerSettings:
    """Settings from flags (None = not given) over variables. Raises SettingError, which names the flag or variable at fault."""
    _refuse_misspelt(environ)
    data: dict[str, object] = {}
    origin: dict[str, str] = {}
    for name in ServerSettings.model_fields:
        if text := environ.get(variable(name)):
            data[name], origin[name] = text, variable(name)
    for name, flag in flags.items():
        if flag is not None:
            data[name], origin[name] = flag, f"--{name}"
    try:
        return load(ServerSettings, data)
    except SettingError as error:
        name, _, rest = str(error).partition("=")
        hint = " (Kubernetes sets this for a service named wst: enableServiceLinks: false)" if rest.startswith("'tcp://") else ""
        raise SettingError(f"{origin[name]}={rest}{hint}") from None


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    """A variable that looks like one of ours and is none would be ignored in silence; strangers' WST_ names are let be."""
    known = [*map(variable, ServerSettings.model_fields), *VARIABLES_OF_OTHERS]
    for name in sorted(environ):
        if name.upper().startswith("WST_") and name not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
            if near:
                raise SettingError(f"{name}={environ[name]!r}: no such setting; did you mean {near[0]}?")


def variables_help() -> str:
    """One paragraph a variable: name, default, meaning."""
    return "\n".join(f"  {variable(name)} (default {default})\n      {text}" for name, default, text in setting_docs(ServerSettings))
