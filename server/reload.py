"""Another teacher under a name, or one under a further name, while the service runs: loaded beside the others, warmed up, swapped in one
step, the old one drained. A name that was added so stays, over starts too, until it is removed.

What cannot be loaded is refused and the old teacher serves on. A request takes one desk and stays with it, so each answer is of exactly one
teacher. A replica that was asked tells the others by an event, and each loads for itself; one that cannot keeps what it has.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from exchange.protocols import InstructionPolicy
from exchange.records import Instruction, PublicExample
from exchange.settings import SettingError
from server.cache import InstructionCache
from server.engine import TeacherEngine
from server.experiments import REFRESH_S, Experiments, event_id
from server.settings import ServerSettings
from server.teachers import DEFAULT, PROBES, Desk, ServedTeacher, Teachers, TeacherSource, folder_of, load, temperature_of
from server.wire import TeacherName
from store import Event, StoreError
from teacher.remote import RemotePolicy
from teacher.run_directory import runs_dir

log = logging.getLogger("wst.server")

TOPIC = "teachers"
MODE_EXPERIMENT = "mode-"
Kind = Literal["reloaded", "added", "removed"]


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
        self._added: dict[str, TeacherSource] = {}
        """The names that the config does not have, and where their teachers came from."""
        self._replaced: dict[str, list[tuple[TeacherSource, TeacherName]]] = {}
        """By name: where the teachers came from that others took the place of, and who they were, the latest last."""

    def source(self, name: str, run: str | None) -> TeacherSource:
        """Where the teacher of that name comes from; `run` names another run directory, or is a folder's path."""
        unnamed = TeacherSource(folder=self.settings.teacher if name == DEFAULT else None)
        configured = self._added.get(name) or self.settings.teachers.get(name, unnamed)
        return (
            configured
            if run is None
            else TeacherSource.model_validate({**configured.model_dump(), "folder": str(runs_dir() / run), "text": None})
        )

    async def reload(self, name: str, run: str | None, sha256: str | None = None, *, back: bool = False) -> Desk:
        """Load, warm up, swap. Raises SettingError where the teacher is none, or not that of the sum `sha256`, and then nothing has
        changed. `back`: the one that goes is none to go back to."""
        async with self._one_at_a_time:
            if (standing := self.teachers.get(name)) is None:
                raise SettingError(f"no teacher serves as {name} any more")
            desk, before = await self._load(name, self.source(name, run), sha256), standing.teacher
            if desk.teacher.sha256 != before.sha256:
                if not back:
                    self._replaced.setdefault(name, []).append(self._whence(name, before))
                self._swap(name, desk)
            return desk

    async def add(self, name: str, run: str, temperature: float, sha256: str | None = None) -> tuple[Desk, bool]:
        """(Desk, whether it is new): a teacher under a name of its own, beside the others. Raises SettingError where it is none, or not
        that of the sum `sha256`, or the name another's, and then nothing has changed."""
        async with self._one_at_a_time:
            source = TeacherSource(folder=str(runs_dir() / run), temperature=temperature)
            desk, standing = await self._load(name, source, sha256), self.teachers.get(name)
            if standing is not None and standing.teacher.sha256 == desk.teacher.sha256:
                return standing, False
            if standing is not None:
                raise SettingError(f"another teacher serves as {name}; to put this run in its place, reload it, or add it by another name")
            self._added[name] = source
            self._swap(name, desk)
            return desk, True

    async def remove(self, name: str) -> None:
        """Take away a teacher that was added; one that a running experiment names writes on for it. Raises SettingError for a name that the
        config has."""
        async with self._one_at_a_time:
            self.check_added(name)
            del self._added[name]
            self._replaced.pop(name, None)
            log.warning("teacher %s: removed", name)
            self._retire(self.teachers.remove(name))

    def check_added(self, name: str) -> None:
        """Raises SettingError for a teacher that cannot be removed."""
        if name not in self._added:
            raise SettingError(f"{name} is no teacher that was added while the service ran; the config has it")

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
            desk = await self._load(name, whence, named.sha256)
            replaced.pop()
            self._swap(name, desk)
            return desk

    async def tell(self, name: str, run: str | None, desk: Desk, *, kind: Kind = "reloaded", back: bool = False) -> None:
        """Have the other replicas do the same; `back`: put back this one, which served before."""
        now, sha256, folder = time.time(), desk.teacher.sha256, folder_of(desk.teacher)
        whence = None if folder is None else str(folder.absolute())
        content: dict[str, Any] = {"name": name, "run": run, "folder": whence, "id": desk.teacher.id, "sha256": sha256, "back": back}
        content |= {"temperature": temperature_of(desk.teacher)} if kind == "added" else {}
        event = Event(event_id("teacher", name, sha256, str(now)), TOPIC, kind, now, content)
        self._told.add(event.id)
        await self.experiments.events.append([event])

    async def begin(self) -> asyncio.Task[None]:
        """Follow what other replicas are told from now on; what was told before this start is past, but for what came `since` and for the
        names that were added."""
        missed: list[Event] = []
        added: set[str] = set()
        since = math.inf if self.since is None else self.since
        try:
            if self.experiments.events.exists:
                while page := await self.experiments.events.read(TOPIC, after=self._place):
                    self._place = page[-1][0]
                    told = {event.content["name"] for _, event in page if event.kind == "added"}
                    added |= {name for name in told if self.teachers.get(name) is None}  # what the config has by now is the config's
                    missed += (event for _, event in page if event.content["name"] in added or event.time >= since)
        except StoreError as error:
            log.error("other replicas' teachers are not followed until this is mended: %s", error)
        await self._make_up_for(missed)
        return asyncio.create_task(self._follow())

    async def _make_up_for(self, missed: Sequence[Event]) -> None:
        """Come to the teachers, and to those before them, that `missed` reloads lead to. Of each name only the last is loaded."""
        serving: dict[str, tuple[TeacherSource, TeacherName]] = {}
        replaced: dict[str, list[tuple[TeacherSource, TeacherName]]] = {}
        for event in sorted(missed, key=lambda event: (event.time, event.id)):
            content, name = event.content, event.content["name"]
            desk = self.teachers.get(name)
            if event.kind == "removed":
                for kept in (serving, replaced, self._added):
                    kept.pop(name, None)
                continue
            if event.kind == "added" and desk is None:
                folder = runs_dir() / (_place_of(content) or "")
                self._added[name] = TeacherSource(folder=str(folder), temperature=content["temperature"])
            if (event.kind == "added") != (desk is None) and name not in self._added:
                continue
            now = serving.get(name) or (None if desk is None else self._whence(name, desk.teacher))
            earlier = replaced.setdefault(name, [])
            if now is not None and content["sha256"] == now[1].sha256:
                continue
            if content.get("back") and earlier and earlier[-1][1].sha256 == content["sha256"]:
                serving[name] = earlier.pop()
                continue
            if not content.get("back") and now is not None:
                earlier.append(now)
            told = TeacherName(id=content.get("id", ""), sha256=content["sha256"])
            serving[name] = (self.source(name, _place_of(content)), told)
        for name, (whence, named) in serving.items():
            try:
                desk = self.teachers.get(name)
                if desk is None or named.sha256 != desk.teacher.sha256:
                    self._swap(name, await self._load(name, whence, named.sha256))
                self._replaced[name] = replaced[name]
            except SettingError as error:
                if self.teachers.get(name) is None:
                    self._added.pop(name, None)
                log.error("teacher %s is not the one that others serve, %s: %s", name, named.sha256[:12], error)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                if not self.experiments.events.exists:
                    continue
                for place, event in await self.experiments.events.read(TOPIC, after=self._place):
                    self._place = place
                    if event.id not in self._told:
                        await self._do_as_told(event.kind, event.content)
            except StoreError as error:
                log.error("other replicas' teachers cannot be followed: %s", error)

    async def _do_as_told(self, kind: str, content: dict[str, Any]) -> None:
        name, sha256, desk = content["name"], content["sha256"], self.teachers.get(content["name"])
        if (kind != "added") if desk is None else (kind != "removed" and desk.teacher.sha256 == sha256):
            return
        before, back = self.previous(name), bool(content.get("back"))
        try:
            if kind == "removed":
                await self.remove(name)
            elif kind == "added":
                await self.add(name, _place_of(content) or "", content["temperature"], sha256)
            elif back and before is not None and before.sha256 == sha256:
                await self.roll_back(name)
            else:
                await self.reload(name, _place_of(content), sha256, back=back)
        except SettingError as error:
            log.error("teacher %s stays as it is, another replica serves %s: %s", name, sha256[:12], error)

    def _whence(self, name: str, teacher: ServedTeacher) -> tuple[TeacherSource, TeacherName]:
        """Where a teacher that serves came from, with its folder: where the config names none it means the newest run, and a newer one may
        be why this teacher goes."""
        folder = folder_of(teacher)
        return self.source(name, None if folder is None else str(folder.absolute())), TeacherName(id=teacher.id, sha256=teacher.sha256)

    async def _load(self, name: str, source: TeacherSource, sha256: str | None = None) -> Desk:
        """Raises SettingError where there is no teacher, or another one than that of the sum."""
        settings = self.settings
        options = {"batch_size": settings.teacher_batch, "threads": settings.teacher_lanes, "timeout_s": settings.deadline_ms / 1000}
        teacher = await asyncio.to_thread(load, source, name, **options)  # type: ignore[arg-type]
        if sha256 is not None and teacher.sha256 != sha256:
            raise SettingError(f"{source.folder} holds another teacher than the one that served ({sha256[:12]})")
        await warm_up(teacher.policy, teacher.task)
        return make_desk(settings, teacher, self.cache)

    def _swap(self, name: str, desk: Desk) -> None:
        old = self.teachers.replace(name, desk)
        log.warning("teacher %s: %s in place of %s", name, desk.teacher.sha256[:12], old.teacher.sha256[:12] if old else "nobody")
        if old is not None:
            self._retire(old)

    def _retire(self, old: Desk) -> None:
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


def _place_of(content: dict[str, Any]) -> str | None:
    """What to load after an event: the folder that was loaded, where this machine has it too, else the run of that name."""
    folder = content.get("folder")
    run: str | None = folder if folder is not None and Path(folder).is_dir() else content["run"]
    return run


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
