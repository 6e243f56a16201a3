"""Who answers: adapters for students of every kind, the wrappers around them, and the settings that choose among them.

The wrappers from the outside in: counting, recording, cache, pacing (retries), budget, adapter. What is cached costs nothing and waits for
nothing; every attempt is paid for by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from exchange.protocols import SamplingParams
from exchange.settings import SettingError, Settings, from_environment
from lab.weights_folder import model_dir
from store import Store, StoreError, open_store
from student_clients.budget import BudgetConfig, BudgetedStudent, price_of
from student_clients.caching import CacheConfig, CachedStudent
from student_clients.embedded import EmbeddedStudent
from student_clients.ledger import Adapter, CountingStudent, StudentStats
from student_clients.openai_compatible import Api, MaxTokensField, OpenAICompatibleStudent
from student_clients.pacing import PacedStudent, PacingConfig
from student_clients.recording import RecordingStudent, ReplayStudent
from student_clients.redaction import SECRET_HEADER
from student_clients.scripted import ScriptedStudent
from student_clients.vllm import VLLMStudent
from student_clients.vllm_process import VLLMProcess

__all__ = [
    "REGISTRY",
    "BudgetConfig",
    "CountingStudent",
    "ScriptedStudent",
    "StudentConfig",
    "StudentStats",
    "VLLMConfig",
    "VLLMLaunch",
    "make_student",
    "sampling",
]

Kind = Literal["embedded", "openai", "vllm", "replay"]
LAB_MODEL = re.compile(r"lab:(?P<world>[^/]+)/(?P<role>[^/]+)")


class VLLMLaunch(Settings):
    """How a vLLM of our own is started."""

    command: list[str] = Field(default_factory=lambda: ["vllm", "serve"])
    """What starts the child; the model and its arguments follow. A vLLM in an environment of its own: [/path/to/.venv/bin/vllm, serve]."""
    args: list[str] = Field(default_factory=lambda: ["--generation-config", "vllm"])
    """Further arguments of the child, e.g. [--generation-config, vllm, --max-model-len, "4096"]. The default keeps vLLM from applying the
    model's own sampling defaults, such as a repetition penalty, to requests that do not ask for them."""
    ready_s: float = Field(default=900.0, gt=0)
    """Seconds that the child has until it answers: a large model loads for minutes."""

    @field_validator("args")
    @classmethod
    def _no_key(cls, args: list[str]) -> list[str]:
        if any(arg.startswith("--api-key") for arg in args):
            raise ValueError("a key here would stand in every config; set the environment variable VLLM_API_KEY instead")
        return args


class VLLMConfig(VLLMLaunch):
    """Where vLLM runs, `kind: vllm` only. Servers at public addresses need a price like any other."""

    base_urls: list[str] = Field(default_factory=list)
    """Running servers of the same model, `/v1` included; requests go to the one with the fewest in flight, and a dead one is left out until
    it answers again. Empty = `student.base_url` alone."""
    launch: bool = False
    """Start `vllm serve` as a child of this process, for the time of the command."""
    model_path: str | None = None
    """Folder or Hub id that the child loads; None = `student.model`. It is served under the name `student.model` either way."""
    log: Path = Path("vllm.log")
    """File that takes the child's output."""


class StudentConfig(Settings):
    """Which model answers, where it runs and how it samples."""

    kind: Kind = "embedded"
    """`embedded`: a Hugging Face model in this process; `openai`: a server that speaks the OpenAI API; `vllm`: one or several vLLM servers,
    running or started by us; `replay`: answers from a recording. Not set: `replay` where `replay` is given, `openai` where `base_url` is,
    else `embedded`, which needs no server."""
    model: str = Field(default="lab:arithmetic/student", validate_default=True)
    """For `embedded` a folder, a Hub id or a lab model `lab:WORLD/ROLE`; for `openai` and `vllm` the name under which the server serves it.
    The lab's student is shipped and answers in milliseconds on a laptop's CPU."""
    base_url: str | None = None
    """Where the server is, `/v1` included, e.g. http://localhost:8000/v1. None = OpenAI's own API."""
    api: Api = "chat"
    """`chat`: /v1/chat/completions, which every server has; `responses`: /v1/responses, for models that OpenAI serves only there."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the API key; the key itself never stands in a config. Unset = no key is sent to `base_url`."""
    api_key_file: Path | None = None
    """A file that holds the API key, e.g. a mounted secret. None = `api_key_env`."""
    extra_headers: dict[str, str] = Field(default_factory=dict)
    """Headers of every request, e.g. for a gateway. A value `env:NAME` is read from the environment, and secrets are only taken so."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Fields of every request beside ours, e.g. {top_p: 0.9} or vLLM's {chat_template_kwargs: {enable_thinking: false}}."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds for one request from sending to the last byte. 60 bears a few thousand tokens of a slow model. `openai` and `vllm`."""
    temperature: float | None = Field(default=0.0, ge=0)
    """0 = greedy: lower variance and repeatable, so an instruction's effect shows with the fewest calls. null = not sent, as
    reasoning models want it; with `reasoning_effort` it never is."""
    reasoning_effort: str | None = None
    """Effort of a reasoning model (minimal, low, medium, high, …, whatever it knows); null = not sent."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens of an answer at most, the reasoning of reasoning models included. 256 holds a worked grade-school solution."""
    samples: int = Field(default=1, ge=1)
    """Answers to a question and instruction in training and validation; the teacher is paid their mean. More than one only says more where
    the student samples (temperature above 0): 4 in Directional Stimulus Prompting (arXiv 2302.11520), at four times the calls."""
    seed: int | None = None
    """Seed of sampled answers. None = not sent: many servers ignore it and some refuse it."""
    batch_size: int = Field(default=128, ge=1)
    """Sequences of a batch at most, `embedded` only. Of 32 to 256, 128 took least time for the lab's student on two cores."""
    threads: int | None = Field(default=None, ge=1)
    """Batches computed at the same time, each by one thread, `embedded` only. null = one for each core, 8 at most; set it where a
    container may use a share of the machine's cores."""
    max_tokens_field: MaxTokensField | None = None
    """What `max_tokens` is called in requests. null = `max_completion_tokens` with `reasoning_effort`, since OpenAI's reasoning models
    refuse the older name, else `max_tokens`: some local servers ignore the newer one and generate without end."""
    vllm: VLLMConfig = Field(default=VLLMConfig(), validate_default=True)
    """vLLM servers, `vllm` only."""
    pacing: PacingConfig = PacingConfig()
    """Concurrency, retries and rate limits, `openai` and `vllm`."""
    cache: CacheConfig = CacheConfig()
    """Keeping of answers."""
    record: Path | None = None
    """File to which all traffic is appended, as JSON lines that `replay` reads."""
    replay: Path | None = None
    """A recording that answers instead of a student."""

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("the name of an environment variable is meant, not the key itself")
        return name

    @model_validator(mode="before")
    @classmethod
    def _kind_by_what_is_given(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kind" not in data:
            if data.get("replay") is not None:
                return {**data, "kind": "replay"}
            if data.get("base_url") is not None:
                return {**data, "kind": "openai"}
        return data

    @field_validator("model")
    @classmethod
    def _model_fits(cls, model: str, info: ValidationInfo) -> str:
        if info.data.get("kind") in ("openai", "vllm") and LAB_MODEL.fullmatch(model):
            raise ValueError("an embedded model; set student.model to the name under which the server serves its own")
        return model

    @field_validator("base_url")
    @classmethod
    def _url_fits(cls, base_url: str | None, info: ValidationInfo) -> str | None:
        if base_url is not None:
            check_url(base_url)
        if base_url is not None and info.data.get("kind") in ("embedded", "replay"):
            raise ValueError(f"a student of kind {info.data['kind']} has no server; set student.kind=openai or leave kind out")
        return base_url

    @field_validator("vllm")
    @classmethod
    def _servers_fit(cls, vllm: VLLMConfig, info: ValidationInfo) -> VLLMConfig:
        for url in vllm.base_urls:
            check_url(url)
        given = bool(vllm.base_urls) + (info.data.get("base_url") is not None) + vllm.launch
        if info.data.get("kind") == "vllm" and given != 1:
            raise ValueError("give exactly one of student.base_url, student.vllm.base_urls and student.vllm.launch")
        return vllm

    @field_validator("extra_headers")
    @classmethod
    def _no_secret_in_the_config(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if SECRET_HEADER.search(name) and not value.startswith("env:"):
                raise ValueError(f"the value of {name} looks like a secret; put it into an environment variable and write {name}: env:NAME")
        return headers

    @model_validator(mode="after")
    def _greedy_samples_are_equal(self) -> StudentConfig:
        if self.samples > 1 and self.temperature == 0 and not self.reasoning_effort:
            raise ValueError("a greedy student gives the same answer each time; set student.temperature")
        return self

    @model_validator(mode="after")
    def _replay_has_a_file(self) -> StudentConfig:
        if (self.kind == "replay") != (self.replay is not None):
            raise ValueError("student.kind=replay and student.replay=FILE go together; give both or neither")
        return self


def check_url(url: str) -> None:
    """Raises ValueError unless `url` is an http(s) address with a host."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("a URL begins with http:// or https://")
    try:
        parts = urlsplit(url)
        host = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if not host:
        raise ValueError("a URL names a host, and a port above 0 where it names one")
    if parts.username is not None or parts.query:
        raise ValueError("a login or a query would stand in every config; put them into the API key or student.extra_headers")


def _headers(config: StudentConfig) -> dict[str, str]:
    """The extra headers with what the environment holds put in. Raises SettingError where a variable is not set."""
    return {name: from_environment(f"student.extra_headers.{name}", value) for name, value in config.extra_headers.items()}


def _embedded(config: StudentConfig) -> Adapter:
    lab = LAB_MODEL.fullmatch(config.model)
    try:
        path = str(model_dir(lab["world"], lab["role"])) if lab else config.model
    except ValueError as error:
        raise SettingError(f"student.model={config.model!r}: {error}") from None
    return EmbeddedStudent(path, name=config.model, batch_size=config.batch_size, threads=config.threads)


def _connection(config: StudentConfig) -> dict[str, Any]:
    """What every client of a server is made with."""
    return {
        "api_key_env": config.api_key_env,
        "api_key_file": config.api_key_file,
        "timeout_s": config.timeout_s,
        "max_tokens_field": config.max_tokens_field or ("max_completion_tokens" if config.reasoning_effort else "max_tokens"),
        "extra_headers": _headers(config),
        "extra_body": config.extra_body,
        "reasoning_effort": config.reasoning_effort,
        "api": config.api,
    }


def _over_http(config: StudentConfig, make: Callable[[], Adapter]) -> Adapter:
    try:
        return make()
    except (ValueError, OSError) as error:
        if isinstance(error, SettingError):
            raise
        if isinstance(error, OSError) or "API key" in str(error):
            raise SettingError(f"student.{'api_key_env' if config.api_key_file is None else 'api_key_file'}: {error}") from None
        raise SettingError(f"student: {error}") from None


def _client(config: StudentConfig, base_url: str | None) -> OpenAICompatibleStudent:
    return OpenAICompatibleStudent(config.model, base_url=base_url, **_connection(config))


def _openai(config: StudentConfig) -> Adapter:
    return _over_http(config, lambda: _client(config, config.base_url))


def _vllm(config: StudentConfig) -> Adapter:
    vllm = config.vllm
    urls = vllm.base_urls or ([config.base_url] if config.base_url else [])
    process = None
    if vllm.launch:
        process = VLLMProcess(
            vllm.model_path or config.model, served_name=config.model, command=vllm.command, args=vllm.args, log=vllm.log,
            ready_s=vllm.ready_s,
        )  # fmt: skip
    return _over_http(config, lambda: VLLMStudent(config.model, lambda url: _client(config, url), base_urls=urls, process=process))


def _replay(config: StudentConfig) -> Adapter:
    assert config.replay is not None, "checked with the settings"
    return ReplayStudent(config.replay)


REGISTRY: dict[Kind, Callable[[StudentConfig], Adapter]] = {
    "embedded": _embedded,
    "openai": _openai,
    "vllm": _vllm,
    "replay": _replay,
}


def make_student(
    config: StudentConfig,
    budget: BudgetConfig | None = None,
    account: Callable[[], Store] | None = None,
    *,
    section: str = "",
    cache: Callable[[], Store] | None = None,
    shared: bool = False,
) -> CountingStudent:
    """The configured student in its wrappers, not yet connected or loaded (`check` does that).

    `account` opens the store that a run's spending is booked in; it is called when the first request is paid for. Both None = nothing is
    booked. `section` is where student and budget stand in the config, with a dot behind, for what is said of them. `cache` opens the
    answer cache, where it is on; None = the one that the settings name. `shared`: other processes book in the account at the same time, so
    that what is held there may still be given back, for as long as a request may take.

    Raises SettingError, also where the student costs money and nobody said how much.
    """
    price = price_of(config, budget) if budget is not None else None
    student = REGISTRY[config.kind](config)
    if price is not None and budget is not None and account is not None:
        student = BudgetedStudent(
            student, price, account, limit_usd=budget.usd, setting=f"{section}budget.usd", extra_body=config.extra_body,
            others_s=config.timeout_s if shared else 0.0,
        )  # fmt: skip
    if config.kind in ("openai", "vllm"):
        student = PacedStudent(student, config.pacing)
    if config.cache.enabled and config.kind != "replay":
        try:
            student = CachedStudent(student, cache() if cache is not None else open_store(config.cache.location()))
        except (ValueError, StoreError) as error:
            raise SettingError(f"student.cache.url={config.cache.url!r}: {error}") from None
    if config.record is not None:
        try:
            student = RecordingStudent(student, config.record)
        except OSError as error:
            raise SettingError(f"student.record={str(config.record)!r}: cannot be written ({error.strerror})") from None
    return CountingStudent(student)


def sampling(config: StudentConfig) -> SamplingParams:
    """How the configured student samples."""
    temperature = None if config.reasoning_effort else config.temperature
    return SamplingParams(temperature=temperature, max_tokens=config.max_tokens, seed=config.seed)
