"""The app factory: settings and a teacher in, an ASGI app out. Nothing is built on import, so tests build as many as they like."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware

from server import errors, routes_health, routes_instruct, routes_openai
from server.engine import TeacherEngine
from server.line import ServedTeacher
from server.middleware import RequestBody, RequestIds
from server.settings import ServerSettings
from server.students import make_students

# FastAPI's telemetry is on by default, its log records carry the text of exceptions, and an inherited FASTAPI_OTEL_AUTO_CONFIGURE would
# export them. Queries are private: nothing leaves unless this says so.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


def create_app(settings: ServerSettings, teacher: ServedTeacher) -> FastAPI:
    """The service around a teacher that is ready to write. `settings` must be validated; host, port and teacher are not read here."""
    engine = TeacherEngine(
        teacher.policy,
        batch_size=settings.teacher_batch,
        window_s=settings.batch_window_ms / 1000,
        deadline_s=settings.deadline_ms / 1000,
        max_queued=settings.max_queued,
    )

    students = make_students(settings.students)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.aclose()
        for student in students.values():
            await student.aclose()

    app = FastAPI(
        title="WST teacher service",
        description="Writes one instruction per query, so that the model you already use answers better.",
        lifespan=lifespan,
        middleware=[
            Middleware(RequestIds),
            Middleware(
                RequestBody, limits={"": settings.max_body_bytes, "/v1/": settings.max_proxy_body_bytes}, time_s=settings.body_time_s
            ),
        ],
        telemetry=NO_TELEMETRY,
        redirect_slashes=False,  # a redirect would be built from the caller's Host header
    )
    app.state.settings, app.state.teacher, app.state.engine, app.state.students = settings, teacher, engine, students
    errors.install(app)
    app.include_router(routes_instruct.router)
    app.include_router(routes_openai.router)
    app.include_router(routes_health.router)
    return app
