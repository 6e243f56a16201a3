"""The students that the proxy forwards to: named in the server's config, never by a caller, so that nobody makes us call an address of
theirs or spend our key elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator

from exchange.settings import SettingError, Settings, from_environment
from student_clients import check_url
from student_clients.budget import Price
from student_clients.ledger import CountingStudent
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.redaction import SECRET_HEADER


class ServedStudent(Settings):
    """One student: what callers write as `model`, and where it is."""

    base_url: str
    """Where the server is, `/v1` included, e.g. https://api.openai.com/v1."""
    model: str | None = None
    """What that server calls the model. None = as callers do; only then is a passthrough byte-identical."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's API key; the key itself never stands in a config. Unset = no key is sent."""
    api_key_file: Path | None = None
    """A file that holds the API key, e.g. a mounted secret. None = `api_key_env`."""
    extra_headers: dict[str, str] = Field(default_factory=dict)
    """Headers of every request, e.g. for a gateway. A value `env:NAME` is read from the environment, and secrets are only taken so."""
    price: Price | None = None
    """What it costs, in dollars per million tokens, for the keys' budgets: {input: 0.15, output: 0.60, as_of: 2026-11-20}. None = not
    known, so keys with a budget of dollars cannot use it."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds for the head of the answer, and for all of it unless it is streamed. 600 is what the openai client waits itself."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, base_url: str) -> str:
        check_url(base_url)
        return base_url

    @field_validator("extra_headers")
    @classmethod
    def _no_secret_in_the_config(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if SECRET_HEADER.search(name) and not value.startswith("env:"):
                raise ValueError(f"the value of {name} looks like a secret; put it into an environment variable and write {name}: env:NAME")
        return headers


def make_students(configs: Mapping[str, ServedStudent]) -> dict[str, CountingStudent]:
    """A client a student, not yet connected. No retries: the caller's own client has them, and two layers would multiply.

    Raises SettingError where a key or a header is missing.
    """
    return {name: CountingStudent(_client(name, config)) for name, config in configs.items()}


def _client(name: str, config: ServedStudent) -> OpenAICompatibleStudent:
    headers = {key: from_environment(f"students.{name}.extra_headers.{key}", value) for key, value in config.extra_headers.items()}
    try:
        return OpenAICompatibleStudent(
            config.model or name,
            base_url=config.base_url,
            api_key_env=config.api_key_env,
            api_key_file=config.api_key_file,
            timeout_s=config.timeout_s,
            extra_headers=headers,
        )
    except (ValueError, OSError) as error:
        raise SettingError(f"students.{name}: {error}") from None
