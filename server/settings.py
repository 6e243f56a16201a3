"""The service's settings: every field is a key of the config file and a `WST_*` variable, some are flags too. Needs no fastapi, so `--help`
stays instant.

A flag goes before the variable; an empty variable counts as unset (compose files write `WST_TEACHER=`).
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator

from exchange.settings import SettingError, Settings, from_environment, load, read_yaml, setting_docs
from server.students import ServedStudent
from server.teachers import TeacherSource
from store import RedisStore, StoreError

REDIS = ("redis://", "rediss://", "unix://")
FLAGS = ("config", "host", "port", "teacher", "workers")
"""Flags with a value: the config file, and settings that are flags as well."""

VARIABLES_OF_OTHERS = ("WST_CONFIG", "WST_CACHE_DIR", "WST_RUNS_DIR", "WST_DATA_DIR", "WST_REQUIRE")
"""Variables that are no setting of the service: the config file's name, and what other commands read."""


class ServerSettings(Settings):
    """How the service listens, how long it waits for the teacher, and what it refuses."""

    keys: str | None = None
    """File of API keys (`python -m server.keys`). None = no key is asked for, and only this machine is served."""
    host: str = "127.0.0.1"
    """Address to listen on. Without keys, which tell callers apart, loopback only (127.0.0.0/8, ::1, localhost)."""
    hosts: list[str] | None = None
    """Names by which callers may reach the server (their `Host` header, without port). None = any with keys, and without keys those of
    this machine alone, so that no page in a browser reaches it under a name of its own."""
    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port; 0 takes any free one, and the ready line names it."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that share the port, each with its own copy of the teacher. One that dies is replaced. Limits are theirs together with
    `store`, and each one's own without."""
    teacher: str | None = None
    """A run directory or its teacher/ folder. None = the newest run with a complete teacher, else the shipped one."""
    teachers: dict[str, TeacherSource] = Field(default_factory=dict)
    """Further teachers by the name that callers write in `WST-Teacher`, e.g. {brief: {text: Be brief.}}. `default` takes the place of
    `teacher`."""
    slow_teacher: Literal["warn", "refuse"] = "warn"
    """What to do at the start where a teacher cannot write its longest instruction within the deadline on this machine."""
    students: dict[str, ServedStudent] = Field(default_factory=dict)
    """What the proxy forwards to, by the name that callers write as `model`, e.g. {gpt-4o-mini: {base_url: https://api.openai.com/v1}}.
    Empty = `/instruct` alone."""
    event_log: str | None = None
    """File of experiments, exposures and outcomes, on a local disk. None = events.db in WST_RUNS_DIR, made with the first experiment."""
    capture_text: bool = False
    """Whether queries and instructions are kept in the event log, for `teacher.collect`. Switch it on only where the users agreed."""
    redact: str | None = None
    """A function of yours, as module:function, that every text goes through before it is kept; it takes and gives a str. None = none."""
    retention_days: int | None = Field(default=30, ge=1)
    """Days after which kept texts and shadows are erased. None = never."""
    guardrail_period_s: float = Field(default=5.0, gt=0.0, le=3600.0)
    """Seconds between two checks of the experiments' guardrails."""
    deadline_ms: int = Field(default=2000, ge=1, le=60_000)
    """Longest wait for an instruction in milliseconds, queue included; past it the raw messages go out. A 0.5B teacher on two
    CPU cores writes 13 tokens in 2000."""
    batch_window_ms: int = Field(default=2, ge=0, le=1000)
    """Milliseconds an idle teacher waits for company before it starts. While it writes, requests gather anyway."""
    teacher_batch: int = Field(default=32, ge=1, le=4096)
    """Most requests that share one `generate`. A batch ends with its longest instruction, so a large one delays short answers."""
    teacher_lanes: int = Field(default=2, ge=1, le=16)
    """Batches that run at the same time, so that who comes late need not wait for the end of a long one. 2 on a CPU of two cores."""
    late_join_ms: int = Field(default=50, ge=0, le=10_000)
    """Milliseconds after which those who wait behind a running batch begin in another lane, where one is free."""
    remote_concurrency: int = Field(default=128, ge=1)
    """Most requests at the same time to a teacher behind HTTP."""
    store: str | None = None
    """Where replicas share cached instructions, limits and, as a stream, the event log: redis://HOST:PORT/DB, or env:NAME to take that
    from the environment. None = each process for itself."""
    store_timeout_ms: int = Field(default=50, ge=1, le=10_000)
    """Longest wait for the store in milliseconds; what fails three times is left alone for a second and longer."""
    cache_entries: int = Field(default=10_000, ge=0)
    """Instructions that this process holds for equal queries of the same tenant; 0 = no cache."""
    cache_ttl_s: float = Field(default=3600.0, gt=0)
    """Seconds that a cached instruction is used."""
    max_queued: int = Field(default=256, ge=1)
    """Most requests that wait for the teacher; one more gets the raw messages at once ("overloaded")."""
    max_query_chars: int = Field(default=32_000, ge=1)
    """Longest query in characters (422 beyond). 32 000 characters are about 8 000 tokens."""
    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Largest request body in bytes (413 beyond), except on the proxy's routes."""
    max_proxy_body_bytes: int = Field(default=20_000_000, ge=1024)
    """Largest body of a proxied request in bytes (413 beyond); pictures travel inside of it."""
    max_head_bytes: int = Field(default=65_536, ge=1024)
    """Largest head of a request in bytes, its URL and headers (431 beyond)."""
    body_time_s: float = Field(default=30.0, gt=0)
    """Seconds that a caller has to send a whole head, and then a whole body (408 beyond)."""
    max_batch_items: int = Field(default=64, ge=1)
    """Most items of one POST /instruct/batch (422 beyond)."""
    shutdown_grace_s: int = Field(default=10, ge=0, le=3600)
    """Seconds that running requests have to finish after SIGTERM or Ctrl-C."""
    drain_delay_s: float = Field(default=1.0, ge=0.0, le=600.0)
    """Seconds after SIGTERM in which /readyz says 503 and requests are taken still, so that who routes them goes elsewhere first. Ctrl-C
    and a second signal do not wait."""
    otel_endpoint: str | None = None
    """Where traces go: the OTLP/HTTP address of a collector, e.g. http://collector:4318 (pip install 'wst-teacher[otel]'). They hold no
    body. None = none are made."""
    log_format: Literal["text", "json"] = "text"
    """json = one object a line, with the request id and what the request was about in fields of their own."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """info logs one line a request (method, path, status, time, request id; never a body); warning leaves these out."""

    @field_validator("otel_endpoint")
    @classmethod
    def _is_address(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", endpoint):
            raise ValueError("must be the address of a collector, like http://127.0.0.1:4318")
        return endpoint

    @field_validator("host")
    @classmethod
    def _loopback_only(cls, host: str, info: ValidationInfo) -> str:
        if info.data.get("keys"):
            return host
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        if not loopback:
            raise ValueError("no keys are configured, so only loopback is served; use 127.0.0.1, ::1 or localhost")
        return host


def store_url(settings: ServerSettings) -> str | None:
    """The address of the Redis that replicas share. Raises SettingError where `store` means something else."""
    if settings.store is None:
        return None
    url = from_environment("store", settings.store)
    if not url.startswith(REDIS):
        raise SettingError(
            "store: only a Redis is shared by replicas; write redis://HOST:PORT/DB, rediss://… or unix://PATH, or leave it out for a server"
            " that stands alone"
        )
    return url


def open_shared(settings: ServerSettings) -> RedisStore | None:
    """The Redis that replicas share, not yet connected; None where there is none. Raises SettingError."""
    url = store_url(settings)
    if url is None:
        return None
    try:
        return RedisStore(url, timeout_s=settings.store_timeout_ms / 1000)
    except (ValueError, StoreError) as error:
        raise SettingError(f"store: {error}") from None


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"WST_{name.upper()}"


def read_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> ServerSettings:
    """Settings from flags (None = not given) over variables over the config file. Raises SettingError, which names the one at fault."""
    _refuse_misspelt(environ)
    data: dict[str, object] = {}
    origin: dict[str, str] = {}
    config = flags.get("config") or environ.get("WST_CONFIG")
    if config:
        data = read_yaml(Path(config))
        origin = {name: f"{config}: {name}" for name in data}
    for name in ServerSettings.model_fields:
        if text := environ.get(variable(name)):
            data[name], origin[name] = _value(name, text), variable(name)
    for name, flag in flags.items():
        if flag is not None and name != "config":
            data[name], origin[name] = flag, f"--{name}"
    try:
        return load(ServerSettings, data)
    except SettingError as error:
        name, below, rest = re.match(r"(\w*)((?:\.[^=]*)?)(.*)", str(error)).groups()  # type: ignore[union-attr]
        hint = " (Kubernetes sets this for a service named wst: enableServiceLinks: false)" if rest.startswith("='tcp://") else ""
        raise SettingError(f"{origin.get(name, name)}{below}{rest}{hint}") from None


def _value(name: str, text: str) -> object:
    """A variable's value; YAML (and so JSON) where the setting is a mapping."""
    if ServerSettings.model_fields[name].default_factory is not dict and name != "hosts":
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingError(f"{variable(name)}: not valid YAML or JSON") from None


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
