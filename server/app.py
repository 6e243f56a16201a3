"""The app factory: settings and a teacher in, an ASGI app out. Nothing is built on import, so tests build as many as they like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware

from server import errors, routes_experiments, routes_health, routes_instruct, routes_modes, routes_openai
from server.access import Access
from server.budgets import Budgets
from server.cache import InstructionCache
from server.engine import TeacherEngine
from server.experiments import Experiments, begin, open_events
from server.keys import KeyRing
from server.middleware import RequestBody, RequestIds
from server.mode_watch import watch_modes
from server.modes import Modes
from server.settings import ServerSettings, open_shared
from server.shadow import Shadows
from server.shared_limits import SharedLimits
from server.students import make_students
from server.teachers import DEFAULT, Desk, ServedTeacher, Teachers
from store import SQLiteStore
from store.limits import RedisLimiter
from teacher.remote import RemotePolicy
from teacher.run_directory import runs_dir

# FastAPI's telemetry is on by default, its log records carry the text of exceptions, and an inherited FASTAPI_OTEL_AUTO_CONFIGURE would
# export them. Queries are private: nothing leaves unless this says so.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


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


def create_app(settings: ServerSettings, teacher: ServedTeacher, others: Mapping[str, ServedTeacher] | None = None) -> FastAPI:
    """The service around teachers that are ready to write: the default one, and `others` by name. `settings` must be validated; host, port
    and where teachers come from are not read here."""
    timeout_s = settings.store_timeout_ms / 1000
    store = open_shared(settings)
    cache = InstructionCache(most=settings.cache_entries, ttl_s=settings.cache_ttl_s, store=store, timeout_s=timeout_s)
    limits = SharedLimits(RedisLimiter(store) if store is not None else None, timeout_s, others=[cache.breaker])
    budgets = Budgets(store or SQLiteStore(runs_dir() / "spent.db"), timeout_s=timeout_s)
    keys = KeyRing(Path(settings.keys)) if settings.keys is not None else None
    served = {**(others or {}), DEFAULT: teacher}
    teachers = Teachers({name: make_desk(settings, one, cache) for name, one in served.items()})
    students = make_students(settings.students)
    events = open_events(settings)
    experiments = Experiments(events)
    modes, shadows = Modes(events, experiments), Shadows(events)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = [await begin(experiments, settings), await watch_modes(modes, teachers, settings.guardrail_period_s)]
        yield
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
        await shadows.aclose()
        await teachers.aclose()
        await cache.aclose()
        await limits.aclose()
        await budgets.aclose()
        for student in students.values():
            await student.aclose()
        if store is not None:
            await store.aclose()
        await events.aclose()

    app = FastAPI(
        title="WST teacher service",
        description="Writes one instruction per query, so that the model you already use answers better.",
        lifespan=lifespan,
        middleware=[
            Middleware(RequestIds),
            Middleware(Access, keys=keys, limits=limits, hosts=settings.hosts),
            Middleware(
                RequestBody, limits={"": settings.max_body_bytes, "/v1/": settings.max_proxy_body_bytes}, time_s=settings.body_time_s
            ),
        ],
        telemetry=NO_TELEMETRY,
        redirect_slashes=False,  # a redirect would be built from the caller's Host header
    )
    app.state.settings, app.state.teachers, app.state.students = settings, teachers, students
    app.state.experiments, app.state.limits, app.state.budgets = experiments, limits, budgets
    app.state.modes, app.state.shadows, app.state.keys = modes, shadows, keys
    errors.install(app)
    app.include_router(routes_instruct.router)
    app.include_router(routes_openai.router)
    app.include_router(routes_experiments.router)
    app.include_router(routes_modes.router)
    app.include_router(routes_health.router)
    return app
