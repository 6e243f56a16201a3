"""`GET /livez` (the process answers) and `GET /readyz` (it has a teacher and takes requests), for whoever restarts and routes."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request

from exchange.records import Record
from server.wire import TeacherName

router = APIRouter()


class Live(Record):
    """The event loop turns."""

    status: Literal["live"] = "live"


class Ready(Record):
    """Requests are taken. A teacher that fails leaves the service ready: it then passes through."""

    status: Literal["ready"] = "ready"
    teacher: TeacherName


@router.get("/livez")
async def livez() -> Live:
    """Restart the process when this does not answer."""
    return Live()


@router.get("/readyz")
async def readyz(request: Request) -> Ready:
    """Route requests here when this answers; the teacher is loaded before the server listens."""
    teacher = request.app.state.teachers.default.teacher
    return Ready(teacher=TeacherName(id=teacher.id, sha256=teacher.sha256))
