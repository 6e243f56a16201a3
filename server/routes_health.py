"""`GET /livez` (the process answers) and `GET /readyz` (it has a teacher and takes requests), for whoever restarts and routes."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response

from exchange.records import Record
from server.errors import Unavailable
from server.wire import TeacherName

router = APIRouter()


class MetricsText(Response):
    """What Prometheus reads."""

    media_type = "text/plain; version=0.0.4; charset=utf-8"


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
    """Route requests here while this answers; the teacher is loaded before the server listens. A server that is told to end says 503 here
    first and takes requests for a while still."""
    if request.app.state.draining:
        raise Unavailable("this server is about to end; ask another one")
    teacher = request.app.state.teachers.default.teacher
    return Ready(teacher=TeacherName(id=teacher.id, sha256=teacher.sha256))


@router.get("/metrics", response_class=MetricsText)
async def get_metrics(request: Request) -> Response:
    """For Prometheus; a key needs the scope `metrics`."""
    return MetricsText(request.app.state.metrics.text())
