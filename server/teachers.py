"""The teachers that the service asks: where each comes from, whether it is fast enough here, and what stands around it while it serves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field, field_validator, model_validator

from exchange.protocols import InstructionPolicy
from exchange.records import PublicExample
from exchange.settings import SettingError, Settings
from student_clients import check_url

if TYPE_CHECKING:
    from server.cache import InstructionCache
    from server.engine import TeacherEngine

DEFAULT = "default"
PROBES = ("A bag holds 12 apples and 7 pears. How many pieces of fruit are in the bag?", "What is 17 more than 25? " * 8)
"""Queries of ordinary and of some length, to measure a teacher with."""


class ServedTeacher(Protocol):
    """What the service needs of a teacher; `teacher.folder.LoadedTeacher` is one."""

    @property
    def id(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def policy(self) -> InstructionPolicy: ...
    @property
    def max_instruction_tokens(self) -> int | None: ...


class TeacherSource(Settings):
    """Where a teacher comes from: a folder, a folder and the server that holds its weights, or a fixed text."""

    folder: str | None = None
    """A run directory or its teacher/ folder. None, without `text` = the newest run with a complete teacher, else the shipped one."""
    text: str | None = Field(default=None, max_length=2000)
    """A static instruction for every query; empty = silence."""
    base_url: str | None = None
    """A server that runs the folder's weights by OpenAI's protocol, `/v1` included, e.g. vLLM. None = they run in this process."""
    model: str | None = None
    """What that server calls the teacher."""
    api_key_env: str = "WST_TEACHER_API_KEY"
    """The environment variable that holds that server's API key; unset = no key is sent."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """0 = the likeliest instruction, always. Above, each is drawn anew and none is cached, so that a log holds more than what the teacher
    says first, for `teacher.collect`; the bias towards silence is left off, and such a teacher has an id and a sum of its own, so that it
    can be an arm beside the other."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, base_url: str | None) -> str | None:
        if base_url is not None:
            check_url(base_url)
        return base_url

    @model_validator(mode="after")
    def _one_of_three(self) -> TeacherSource:
        if self.text is not None and (self.folder is not None or self.base_url is not None):
            raise ValueError("text is a teacher of its own; leave out folder and base_url")
        if self.text is not None and self.temperature:
            raise ValueError("nothing is drawn where text is the teacher; leave out temperature")
        if (self.base_url is None) != (self.model is None):
            raise ValueError("base_url and model go together")
        return self


@dataclass(frozen=True)
class StaticTeacher:
    """A fixed text as a teacher."""

    id: str
    sha256: str
    task: str
    policy: InstructionPolicy
    max_instruction_tokens: None = None


def load(source: TeacherSource, name: str, *, batch_size: int, threads: int, timeout_s: float) -> ServedTeacher:
    """The teacher that `source` means. Raises SettingError whatever is wrong with its folder."""
    if source.text is not None:
        from evaluation.arms import FixedPolicy

        return StaticTeacher(f"static:{name}", hashlib.sha256(source.text.encode()).hexdigest(), "any", FixedPolicy(source.text))
    from teacher.folder import load_teacher, read_manifest
    from teacher.locate import find_teacher
    from teacher.remote import remote_teacher

    folder = find_teacher(source.folder)
    if read_manifest(folder).get("variant") == "three_step":
        raise SettingError(
            f"{folder}: a three-step teacher advises on a draft, and a request brings none; it is for training and evaluation"
        )
    try:
        if source.base_url is not None:
            assert source.model is not None
            connection: dict[str, Any] = {"base_url": source.base_url, "api_key_env": source.api_key_env, "timeout_s": timeout_s}
            return remote_teacher(folder, source.model, temperature=source.temperature, **connection)
        return load_teacher(folder, batch_size=batch_size, threads=threads, temperature=source.temperature)
    except SettingError:
        raise
    except Exception as error:  # a damaged folder fails in as many ways as there are files in it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingError(f"{folder}: cannot be loaded as a teacher ({type(error).__name__}: {reason})") from None


def found(teachers: Mapping[str, TeacherSource], default: str | None) -> dict[str, TeacherSource]:
    """By name where the teachers come from as things stand, the newest run by its own name, folders absolute: `teachers`, and `default` (a
    folder, None = the newest run) under its name unless they have it. Raises SettingError where a folder is no teacher's."""
    from teacher.locate import find_teacher

    sources = {DEFAULT: TeacherSource(folder=default), **teachers}
    return {
        name: source
        if source.text is not None
        else TeacherSource.model_validate({**source.model_dump(), "folder": str(find_teacher(source.folder).absolute())})
        for name, source in sources.items()
    }


def folder_of(teacher: ServedTeacher) -> Path | None:
    """Where a teacher was read from; None for one that is no folder."""
    from teacher.folder import LoadedTeacher

    return teacher.folder if isinstance(teacher, LoadedTeacher) else None


def temperature_of(teacher: ServedTeacher) -> float:
    """At which its instructions are drawn; 0 for one that always writes the likeliest, or a fixed text."""
    from teacher.folder import LoadedTeacher

    return teacher.temperature if isinstance(teacher, LoadedTeacher) else 0.0


@dataclass(frozen=True)
class Speed:
    """How fast a teacher writes on this machine, alone."""

    s_per_token: float
    """Prompt and overhead included, so that short texts look slower than they are."""
    longest_s: float
    """Estimate for an instruction of the most tokens that the teacher may write."""


async def measure(policy: InstructionPolicy, task: str, max_instruction_tokens: int) -> Speed | None:
    """Time the teacher, warm; None where it counts no tokens. Raises whatever a broken teacher raises."""
    rates = []
    for query in (PROBES[0], *PROBES):  # the first call warms up
        began = perf_counter()
        (written,) = await policy.instruct([PublicExample(id="probe", task=task, split="served", query=query)])
        if written.num_tokens is None:
            return None
        rates.append((perf_counter() - began) / max(1, written.num_tokens))
    slowest = max(rates[1:])
    return Speed(slowest, slowest * max_instruction_tokens)


def check_speed(teacher: ServedTeacher, deadline_s: float) -> str | None:
    """One line where this teacher cannot meet the deadline on this machine at its longest; None where it can. Warms the teacher up."""
    most = teacher.max_instruction_tokens
    if most is None:
        return None
    speed = asyncio.run(measure(teacher.policy, teacher.task, most))
    if speed is None or speed.longest_s <= deadline_s:
        return None
    return (
        f"teacher {teacher.id} takes {1000 * speed.s_per_token:.1f} ms a token here, so an instruction of {most} tokens takes about "
        f"{speed.longest_s:.2f} s and the deadline is {deadline_s:.2f} s: raise WST_DEADLINE_MS, train with a lower "
        "teacher.max_instruction_tokens, or serve the teacher by vLLM"
    )


@dataclass(frozen=True)
class Desk:
    """A teacher at work: with its queue, and the cache that it shares with the others."""

    teacher: ServedTeacher
    engine: TeacherEngine
    cache: InstructionCache

    @cached_property
    def cached(self) -> bool:
        """A fixed text is not worth a look-up, and one that is drawn would be drawn once."""
        return self.cache.most > 0 and not isinstance(self.teacher, StaticTeacher) and not temperature_of(self.teacher)


class Teachers:
    """The desks by name. A request takes one desk and stays with it, so each answer comes from exactly one teacher."""

    def __init__(self, desks: Mapping[str, Desk]) -> None:
        self._desks = dict(desks)
        self._retired: dict[str, Desk] = {}
        """By sha256: replaced, and still named by an experiment that runs."""

    @property
    def default(self) -> Desk:
        return self._desks[DEFAULT]

    def get(self, name: str | None) -> Desk | None:
        """The desk of that name, None = the default one's; None where there is no such teacher."""
        return self._desks.get(name or DEFAULT)

    def desks(self) -> list[Desk]:
        return list(self._desks.values())

    def names(self) -> list[str]:
        return sorted(self._desks)

    def by_sha256(self, sha256: str) -> Desk | None:
        """The desk of the teacher of that sum; one that was replaced too, while an experiment needs it."""
        return next((desk for desk in self._desks.values() if desk.teacher.sha256 == sha256), None) or self._retired.get(sha256)

    def loaded(self) -> dict[str, str]:
        """sha256 -> id."""
        return {desk.teacher.sha256: desk.teacher.id for desk in self._desks.values()}

    def replace(self, name: str, desk: Desk) -> Desk | None:
        """Put a teacher under a name from the next request on, and return the desk that stood there, None = nobody's."""
        before = self._desks.get(name)
        self._desks[name] = desk
        return before

    def remove(self, name: str) -> Desk:
        """Have nobody serve under a name any more; returns the desk that stood there."""
        return self._desks.pop(name)

    def retire(self, desk: Desk, needed: Collection[str]) -> list[Desk]:
        """Keep a replaced desk and earlier ones as far as their sums are `needed`; returns those that are not, for the caller to end."""
        held = {**self._retired, desk.teacher.sha256: desk}
        self._retired = {sha256: one for sha256, one in held.items() if sha256 in needed}
        return [one for sha256, one in held.items() if sha256 not in needed]

    async def aclose(self) -> None:
        for desk in (*self._desks.values(), *self._retired.values()):
            await desk.engine.aclose()
