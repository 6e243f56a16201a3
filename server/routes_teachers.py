"""`/teachers`: who writes the instructions, and another one in its place or beside it while the service runs. For keys with the scope
`admin`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from evaluation.experiment import Identifier
from exchange.records import Record
from exchange.settings import SettingError
from server.errors import Conflict, Unknown
from server.reload import Reloads
from server.routes_experiments import no_foreign_page
from server.teachers import Desk, Teachers
from server.wire import ErrorReply, TeacherName
from store import StoreError

router = APIRouter(prefix="/teachers", responses={status: {"model": ErrorReply} for status in (400, 404, 409, 413, 422, 503)})


class ReloadRequest(Record):
    """Which teacher to load."""

    run: Identifier | None = None
    """The name of a run directory under WST_RUNS_DIR; null = where the config says, which is the newest run where it says nothing."""


class AddRequest(Record):
    """Which teacher is to serve beside the others."""

    run: Identifier
    """The name of a run directory under WST_RUNS_DIR."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """0 = its likeliest instruction; above, each is drawn anew, without the bias towards silence, so that a log holds more than what the
    teacher says first."""


class TeachersReply(Record):
    """The teachers by name."""

    teachers: dict[str, TeacherName]


async def _teachers(request: Request) -> Teachers:
    teachers: Teachers = request.app.state.teachers
    return teachers


TeachersOf = Annotated[Teachers, Depends(_teachers)]


def _desk(teachers: Teachers, name: str) -> Desk:
    if (desk := teachers.get(name)) is None:
        raise Unknown(f"there is no teacher of this name; known: {', '.join(teachers.names())}")
    return desk


def _named(desk: Desk) -> TeacherName:
    return TeacherName(id=desk.teacher.id, sha256=desk.teacher.sha256)


@router.get("")
async def get_teachers(teachers: TeachersOf) -> TeachersReply:
    """The teachers that serve now."""
    found = {name: teachers.get(name) for name in teachers.names()}
    named = {name: _named(desk) for name, desk in found.items() if desk is not None}
    return TeachersReply(teachers=named)


@router.put("/{name}", status_code=201, dependencies=[Depends(no_foreign_page)])
async def put_teacher(name: Identifier, body: AddRequest, request: Request, response: Response) -> TeacherName:
    """Have a teacher serve under a name of its own, so that an experiment's arm may be it; it stays over restarts. The same again changes
    nothing (200); 409 where it cannot be loaded, or another one has the name."""
    reloads: Reloads = request.app.state.reloads
    try:
        desk, new = await reloads.add(name, body.run, body.temperature)
    except SettingError as error:
        raise Conflict(f"no teacher was added: {error}") from None
    if new:
        try:
            await reloads.tell(name, body.run, desk, kind="added")
        except StoreError:  # nobody else would ever hear of it, nor this server after a restart
            await reloads.remove(name)
            raise
    else:
        response.status_code = 200
    return _named(desk)


@router.delete("/{name}", dependencies=[Depends(no_foreign_page)])
async def delete_teacher(name: str, request: Request, teachers: TeachersOf) -> TeacherName:
    """Take away a teacher that was added; a running experiment that names it keeps it until it ends, or the server does. 409 for one of the
    config."""
    reloads: Reloads = request.app.state.reloads
    desk = _desk(teachers, name)
    try:
        reloads.check_added(name)
        await reloads.tell(name, None, desk, kind="removed")  # first: what others hear nothing of comes back with the next restart
        await reloads.remove(name)
    except SettingError as error:
        raise Conflict(f"the teacher serves on: {error}") from None
    return _named(desk)


@router.post("/{name}/reload", dependencies=[Depends(no_foreign_page)])
async def post_reload(name: str, request: Request, teachers: TeachersOf, body: ReloadRequest | None = None) -> TeacherName:
    """Load a teacher beside the one that serves and swap them; 409 where it cannot be loaded, and then the old one serves on."""
    _desk(teachers, name)
    reloads: Reloads = request.app.state.reloads
    run = None if body is None else body.run
    try:
        desk = await reloads.reload(name, run)
    except SettingError as error:
        raise Conflict(f"the old teacher serves on: {error}") from None
    await reloads.tell(name, run, desk)
    return _named(desk)


@router.post("/{name}/rollback", dependencies=[Depends(no_foreign_page)])
async def post_rollback(name: str, request: Request, teachers: TeachersOf) -> TeacherName:
    """Put back the teacher that served under the name before; 409 where there is none, and then nothing has changed."""
    _desk(teachers, name)
    reloads: Reloads = request.app.state.reloads
    try:
        desk = await reloads.roll_back(name)
    except SettingError as error:
        raise Conflict(f"the teacher serves on: {error}") from None
    await reloads.tell(name, None, desk, back=True)
    return _named(desk)
