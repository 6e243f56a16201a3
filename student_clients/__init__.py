"""Who answers: adapters for students of every kind, the wrappers around them, and the settings that choose among them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from exchange.protocols import SamplingParams
from exchange.settings import SettingError, Settings
from lab.weights_folder import model_dir
from student_clients.embedded import EmbeddedStudent
from student_clients.ledger import Adapter, CountingStudent, StudentStats
from student_clients.openai_compatible import MaxTokensField, OpenAICompatibleStudent
from student_clients.pacing import PacedStudent, PacingConfig
from student_clients.scripted import ScriptedStudent

__all__ = ["REGISTRY", "CountingStudent", "ScriptedStudent", "StudentConfig", "StudentStats", "make_student", "sampling"]

Kind = Literal["embedded", "openai"]
LAB_MODEL = re.compile(r"lab:(?P<world>[^/]+)/(?P<role>[^/]+)")


class StudentConfig(Settings):
    """Which model answers, where it runs and how it samples."""

    kind: Kind = "embedded"
    """`embedded`: a Hugging Face model in this process; `openai`: a server that speaks the OpenAI API. Not set: `openai` where
    `base_url` is given, else `embedded`, which needs no server."""
    model: str = Field(default="lab:arithmetic/student", validate_default=True)
    """For `embedded` a folder, a Hub id or a lab model `lab:WORLD/ROLE`; for `openai` the name under which the server serves it. The lab's
    student is shipped and answers in milliseconds on a laptop's CPU."""
    base_url: str | None = None
    """Where the server is, `/v1` included, e.g. http://localhost:8000/v1. None = OpenAI's own API."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the API key; the key itself never stands in a config. Unset = no key is sent to `base_url`."""
    api_key_file: Path | None = None
    """A file that holds the API key, e.g. a mounted secret. None = `api_key_env`."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds for one request from sending to the last byte. 60 bears a few thousand tokens of a slow model. `openai` only."""
    temperature: float = Field(default=0.0, ge=0)
    """0 = greedy: lower variance and repeatable, so an instruction's effect shows with the fewest calls."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens of an answer at most, the reasoning of reasoning models included. 256 holds a worked grade-school solution."""
    seed: int | None = None
    """Seed of sampled answers. None = not sent: many servers ignore it and some refuse it."""
    batch_size: int = Field(default=64, ge=1)
    """Sequences computed at a time, `embedded` only. Of 16 to 256, 64 to 96 were fastest for the lab's student on one thread."""
    threads: int = Field(default=1, ge=1)
    """Threads for matrix products, `embedded` only. 1: a second one gains a fifth on tiny models and makes it ten times
    slower where another process wants the core."""
    max_tokens_field: MaxTokensField = "max_tokens"
    """What `max_tokens` is called in requests. `max_completion_tokens` for OpenAI's reasoning models, which refuse the older name; some
    local servers ignore the newer one and generate without end, hence the default."""
    pacing: PacingConfig = PacingConfig()
    """Concurrency and retries, `openai` only."""

    @model_validator(mode="before")
    @classmethod
    def _a_url_means_openai(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("base_url") is not None and "kind" not in data:
            return {**data, "kind": "openai"}
        return data

    @field_validator("model")
    @classmethod
    def _model_fits(cls, model: str, info: ValidationInfo) -> str:
        if info.data.get("kind") == "openai" and LAB_MODEL.fullmatch(model):
            raise ValueError("an embedded model; set student.model to the name under which the server serves its own")
        return model

    @field_validator("base_url")
    @classmethod
    def _url_fits(cls, base_url: str | None, info: ValidationInfo) -> str | None:
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise ValueError("a URL begins with http:// or https://")
        if base_url is not None:
            try:
                host = (parts := urlsplit(base_url)).hostname and (parts.port is None or parts.port > 0)
            except ValueError as error:
                raise ValueError(f"not a URL: {error}") from None
            if not host:
                raise ValueError("a URL names a host, and a port above 0 where it names one")
        if base_url is not None and info.data.get("kind") == "embedded":
            raise ValueError("an embedded student has no server; set student.kind=openai or leave kind out")
        return base_url


def _embedded(config: StudentConfig) -> Adapter:
    lab = LAB_MODEL.fullmatch(config.model)
    try:
        path = str(model_dir(lab["world"], lab["role"])) if lab else config.model
    except ValueError as error:
        raise SettingError(f"student.model={config.model!r}: {error}") from None
    return EmbeddedStudent(path, name=config.model, batch_size=config.batch_size, threads=config.threads)


def _openai(config: StudentConfig) -> Adapter:
    try:
        student = OpenAICompatibleStudent(
            config.model,
            base_url=config.base_url,
            api_key_env=config.api_key_env,
            api_key_file=config.api_key_file,
            timeout_s=config.timeout_s,
            max_tokens_field=config.max_tokens_field,
        )
    except (ValueError, OSError) as error:
        setting = "api_key_env" if config.api_key_file is None else "api_key_file"
        raise SettingError(f"student.{setting}: {error}") from None
    return PacedStudent(student, config.pacing)


REGISTRY: dict[Kind, Callable[[StudentConfig], Adapter]] = {"embedded": _embedded, "openai": _openai}


def make_student(config: StudentConfig) -> CountingStudent:
    """The configured student in its wrappers, not yet connected or loaded (`check` does that). Raises SettingError."""
    return CountingStudent(REGISTRY[config.kind](config))


def sampling(config: StudentConfig) -> SamplingParams:
    """How the configured student samples."""
    return SamplingParams(temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed)
