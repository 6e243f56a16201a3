"""Another teacher under a name, while the service runs: loaded beside the old one, warmed up, swapped in one step, the old one drained.

What cannot be loaded is refused and the old teacher serves on. A request takes one desk and stays with it, so each answer is of exactly one
teacher. A replica that was asked tells the others by an event, and each loads for itself; one that cannot keeps what it has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from exchange.protocols import InstructionPolicy
from exchange.records import Instruction, PublicExample
from exchange.settings import SettingError
from server.cache import InstructionCache
from server.engine import TeacherEngine
from server.experiments import REFRESH_S, Experiments, event_id
from server.settings import ServerSettings
from server.teachers import DEFAULT, PROBES, Desk, ServedTeacher, Teachers, TeacherSource, folder_of, load
from server.wire import TeacherName
from store import Event, StoreError
from teacher.remote import RemotePolicy
from teacher.run_directory import runs_dir

log = logging.getLogger("wst.server")

TOPIC = "teachers"
MODE_EXPERIMENT = "mode-"


def make_desk(settings: ServerSettings, teacher: ServedTeacher, cache: InstructionCache) -> Desk:
    """A teacher with its own queue. One behind HTTP makes batches itself, so it is asked for one instruction a call."""
    remote = isinstance(teacher.policy, RemotePolicy)
    engine = TeacherEngine(
        teacher.policy,
        batch_size=1 if remote else settings.teacher_batch,
        window_s=0.0 if remote else settings.batch_window_ms / 1000,
        deadline_s=settings.deadline_ms / 1000,
        max_queued=settings.max_queued,
        lanes=settings.remote_concurrency if remote else settings.teacher_lanes,
        late_join_s=0.0 if remote else settings.late_join_ms / 1000,
    )
    return Desk(teacher, engine, cache)


class Reloads:
    """One app's. Used on its event loop."""

    def __init__(self, teachers: Teachers, experiments: Experiments, cache: InstructionCache, settings: ServerSettings) -> None:
        self.teachers, self.experiments, self.cache, self.settings = teachers, experiments, cache, settings
        self._one_at_a_time = asyncio.Lock()
        self._draining: set[asyncio.Task[None]] = set()
        self.since: float | None = None
        """Reloads that others were told of from then on (seconds since 1970) are made up for at the start; None = they are past. A worker
        that takes the place of another comes to the teachers of its siblings so."""
        self._place = 0
        self._told: set[str] = set()
        """Events of our own."""
        self._replaced: dict[str, list[tuple[TeacherSource, TeacherName]]] = {}
        """By name: where the teachers came from that others took the place of, and who they were, the latest last."""

    def source(self, name: str, run: str | None) -> TeacherSource:
        """Where the teacher of that name comes from; `run` names another run directory, or is a folder's path."""
        configured = self.settings.teachers.get(name, TeacherSource(folder=self.settings.teacher if name == DEFAULT else None))
        return (
            configured
            if run is None
            else TeacherSource.model_validate({**configured.model_dump(), "folder": str(runs_dir() / run), "text": None})
        )

    async def reload(self, name: str, run: str | None) -> Desk:
        """Load, warm up, swap. Raises SettingError where the teacher is none, and then nothing has changed."""
        async with self._one_at_a_time:
            before = self.teachers.get(name)
            assert before is not None
            desk = await self._load(name, self.source(name, run))
            if desk.teacher.sha256 != before.teacher.sha256:
                folder = folder_of(before.teacher)
                # With its folder: where the config names none it means the newest run, and a newer one may be why this teacher goes.
                whence = self.source(name, None if folder is None else str(folder.absolute()))
                self._replaced.setdefault(name, []).append((whence, TeacherName(id=before.teacher.id, sha256=before.teacher.sha256)))
                self._swap(name, desk)
            return desk

    def previous(self, name: str) -> TeacherName | None:
        """Who served under a name before, since this process began; None = nobody."""
        replaced = self._replaced.get(name)
        return replaced[-1][1] if replaced else None

    async def roll_back(self, name: str) -> Desk:
        """Put back the teacher before, from where it came; asked again, the one before that. Raises SettingError where there is none, or
        where it is gone or altered, and then nothing has changed."""
        async with self._one_at_a_time:
            if not (replaced := self._replaced.get(name)):
                raise SettingError("no other teacher has served under this name since this server began; load a run by its name")
            whence, named = replaced[-1]
            desk = await self._load(name, whence)
            if desk.teacher.sha256 != named.sha256:
                raise SettingError(f"{whence.folder} holds another teacher than the one that served ({named.sha256[:12]})")
            replaced.pop()
            self._swap(name, desk)
            return desk

    async def tell(self, name: str, run: str | None, sha256: str, *, back: bool = False) -> None:
        """Have the other replicas do the same; `back`: put back the one that each had before."""
        now = time.time()
        content = {"name": name, "run": run, "sha256": sha256, "back": back}
        event = Event(event_id("teacher", name, sha256, str(now)), TOPIC, "reloaded", now, content)
        self._told.add(event.id)
        await self.experiments.events.append([event])

    async def begin(self) -> asyncio.Task[None]:
        """Follow what other replicas are told from now on; what was told before this start is past."""
        try:
            if self.experiments.events.exists:
                while page := await self.experiments.events.read(TOPIC, after=self._place):
                    self._place = page[-1][0]
        except StoreError as error:
            log.error("other replicas' teachers are not followed until this is mended: %s", error)
        return asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                if not self.experiments.events.exists:
                    continue
                for place, event in await self.experiments.events.read(TOPIC, after=self._place):
                    self._place = place
                    if event.id not in self._told:
                        await self._do_as_told(event.content)
            except StoreError as error:
                log.error("other replicas' teachers cannot be followed: %s", error)

    async def _do_as_told(self, content: dict[str, Any]) -> None:
        name, desk = content["name"], self.teachers.get(content["name"])
        if desk is None or desk.teacher.sha256 == content["sha256"]:
            return
        try:
            found = await (self.roll_back(name) if content.get("back") else self.reload(name, content["run"]))
        except SettingError as error:
            log.error("teacher %s stays as it is, another replica has a newer one: %s", name, error)
            return
        if found.teacher.sha256 != content["sha256"]:
            log.error("teacher %s is %s here and %s on another replica", name, found.teacher.sha256[:12], content["sha256"][:12])

    async def _load(self, name: str, source: TeacherSource) -> Desk:
        settings = self.settings
        options = {"batch_size": settings.teacher_batch, "threads": settings.teacher_lanes, "timeout_s": settings.deadline_ms / 1000}
        teacher = await asyncio.to_thread(load, source, name, **options)  # type: ignore[arg-type]
        await warm_up(teacher.policy, teacher.task)
        return make_desk(settings, teacher, self.cache)

    def _swap(self, name: str, desk: Desk) -> None:
        old = self.teachers.replace(name, desk)
        log.warning("teacher %s: %s in place of %s", name, desk.teacher.sha256[:12], old.teacher.sha256[:12])
        for one in self.teachers.retire(old, self._needed()):
            draining = asyncio.create_task(_drain(one))
            self._draining.add(draining)
            draining.add_done_callback(self._draining.discard)

    def _needed(self) -> set[str]:
        """Sums of teachers that running experiments name; those of modes ask whoever serves."""
        running = [one for one in self.experiments.everybodys() if one.status == "running"]
        named = [one.definition for one in running if not one.definition.id.startswith(MODE_EXPERIMENT)]
        return {arm.teacher for definition in named for arm in definition.arms if arm.teacher is not None}

    async def aclose(self) -> None:
        if self._draining:
            await asyncio.wait(self._draining)


async def warm_up(policy: InstructionPolicy, task: str) -> None:
    """Have a new teacher write before it serves. Raises SettingError where it does not."""
    try:
        for query in PROBES:
            (written,) = await policy.instruct([PublicExample(id="probe", task=task, split="served", query=query)])
            if not isinstance(written, Instruction):
                raise TypeError("no instruction")
    except Exception as error:  # whatever a broken model raises
        raise SettingError(f"the teacher does not write ({type(error).__name__})") from None


async def _drain(desk: Desk) -> None:
    await desk.engine.idle()
    if isinstance(desk.teacher.policy, RemotePolicy):
        await desk.teacher.policy.client.aclose()
