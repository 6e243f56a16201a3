"""The app factory: settings and a teacher in, an ASGI app out. Nothing is built on import, so tests build as many as they like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware

from server import errors, routes_experiments, routes_health, routes_instruct
from server.engine import TeacherEngine
from server.experiments import Experiments, begin, open_events
from server.line import ServedTeacher
from server.middleware import BodyLimit, RequestIds
from server.settings import ServerSettings

# FastAPI's telemetry is on by default, its log records carry the text of exceptions, and an inherited FASTAPI_OTEL_AUTO_CONFIGURE would
# export them. Queries are private: nothing leaves unless this says so.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


def create_app(settings: ServerSettings, teacher: ServedTeacher, arm_teachers: Sequence[ServedTeacher] = ()) -> FastAPI:
    """The service around teachers that are ready to write: one for all, and those that experiments' arms may name besides.

    `settings` must be validated; host, port and teachers are not read here.
    """
    engines = {one.sha256: (one, _engine(settings, one)) for one in (*arm_teachers, teacher)}
    events = open_events(settings)
    experiments = Experiments(events)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = await begin(experiments, settings)
        yield
        watching.cancel()
        await asyncio.wait([watching])
        for _, each in engines.values():
            await each.aclose()
        await events.aclose()

    app = FastAPI(
        title="WST teacher service",
        description="Writes one instruction per query, so that the model you already use answers better.",
        lifespan=lifespan,
        middleware=[Middleware(RequestIds), Middleware(BodyLimit, max_bytes=settings.max_body_bytes)],
        telemetry=NO_TELEMETRY,
        redirect_slashes=False,  # a redirect would be built from the caller's Host header
    )
    app.state.settings, app.state.teacher, app.state.engines = settings, teacher, engines
    app.state.experiments = experiments
    errors.install(app)
    app.include_router(routes_instruct.router)
    app.include_router(routes_experiments.router)
    app.include_router(routes_health.router)
    return app


def _engine(settings: ServerSettings, teacher: ServedTeacher) -> TeacherEngine:
    return TeacherEngine(
        teacher.policy,
        batch_size=settings.teacher_batch,
        window_s=settings.batch_window_ms / 1000,
        deadline_s=settings.deadline_ms / 1000,
        max_queued=settings.max_queued,
    )
