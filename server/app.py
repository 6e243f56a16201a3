"""The app factory: settings and a teacher in, an ASGI app out. Nothing is built on import, so tests build as many as they like."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.datastructures import State
from starlette.middleware import Middleware

from server import errors, routes_experiments, routes_health, routes_instruct, routes_modes, routes_openai, routes_teachers
from server.access import Access
from server.breaker import Breaker
from server.budgets import Budgets
from server.cache import InstructionCache
from server.console import start as console
from server.experiments import Experiments, begin, open_events
from server.keys import KeyRing
from server.metrics import Metrics
from server.middleware import RequestBody, RequestIds
from server.mode_watch import watch_modes
from server.modes import Modes
from server.privacy import keep_retention, redaction
from server.reload import Reloads, make_desk
from server.settings import ServerSettings, open_shared
from server.shadow import Shadows
from server.shared_limits import SharedLimits
from server.students import make_students
from server.teachers import DEFAULT, ServedTeacher, Teachers
from server.tracing import Tracing, open_provider
from server.traffic import Traffic
from store import SQLiteStore
from store.limits import RedisLimiter
from teacher.run_directory import runs_dir

SWITCH_S = 0.0001
"""Python's own 5 ms doubled the median of a request under an experiment at 500 a second."""

GARBAGE = (1_000, 50, 100)
"""Containers made and not freed, collections of the youngest, and of the next, after which garbage is looked for: whole looks a hundred
times as rare as by Python's own (700, 10, 10), since every request in flight waits for one."""

# FastAPI's telemetry is on by default, its log records carry the text of exceptions, and an inherited FASTAPI_OTEL_AUTO_CONFIGURE would
# export them. Queries are private: nothing leaves unless this says so.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


def gauges(state: State) -> Iterator[tuple[str, str, float]]:
    """What `/metrics` looks up when it is asked."""
    desks = state.teachers.desks()
    yield "wst_teacher_queued", "Requests that no teacher has begun with.", sum(desk.engine.queued for desk in desks)
    yield "wst_teacher_down", "Teachers that are left alone after failures.", sum(desk.engine.breaker.open for desk in desks)
    yield "wst_cache_hits_total", "Instructions that came from the cache.", state.cache.hits
    yield "wst_cache_misses_total", "Instructions that were not in the cache.", state.cache.misses
    yield "wst_store_left_alone", "1 while the shared store is left alone after a failure.", float(state.limits.breaker.open)
    yield "wst_store_owed", "Leases and costs that the shared store has still to be told.", len(state.limits.owed) + len(state.budgets.owed)
    yield "wst_events_behind", "1 while the event log does not reach Redis.", float(state.experiments.events.redis_error is not None)
    yield "wst_shadows_left_out_total", "Shadows that were not written because too many were.", state.shadows.left_out
    yield (
        "wst_holdback_alarms",
        "Keys whose holdback shows no benefit any more.",
        sum(bool(state.modes.noted(m).alarm) for m in state.modes.all()),
    )
    yield "wst_draining", "1 from the signal to end on.", float(state.draining)


def _look_for_garbage_rarely() -> None:
    """What stands now stays: looking through it for garbage would hold every request for a tenth of a second, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


async def _keep(metrics: Metrics) -> None:
    while True:
        metrics.keep()
        await asyncio.sleep(1.0)


def create_app(settings: ServerSettings, teacher: ServedTeacher, others: Mapping[str, ServedTeacher] | None = None) -> FastAPI:
    """The service around teachers that are ready to write: the default one, and `others` by name. `settings` must be validated; host, port
    and where teachers come from are not read here."""
    timeout_s = settings.store_timeout_ms / 1000
    store = open_shared(settings)
    breaker = Breaker(most_failures=1)  # a store that hangs is waited for once and not once for each use
    cache = InstructionCache(most=settings.cache_entries, ttl_s=settings.cache_ttl_s, store=store, timeout_s=timeout_s, breaker=breaker)
    limits = SharedLimits(RedisLimiter(store) if store is not None else None, timeout_s, others=[breaker])
    budgets = Budgets(store or SQLiteStore(runs_dir() / "spent.db"), timeout_s=timeout_s)
    keys = KeyRing(Path(settings.keys)) if settings.keys is not None else None
    served = {**(others or {}), DEFAULT: teacher}
    teachers = Teachers({name: make_desk(settings, one, cache) for name, one in served.items()})
    students = make_students(settings.students)
    events = open_events(settings)
    experiments = Experiments(events, redaction(settings.redact))
    metrics = Metrics(lambda: gauges(app.state), shared=settings.workers > 1)
    tracing = None if settings.otel_endpoint is None else Tracing(open_provider(settings.otel_endpoint))
    reloads = Reloads(teachers, experiments, cache, settings)
    traffic = Traffic(metrics.registry)
    modes, shadows = Modes(events, experiments), Shadows(events, experiments.redact)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The event log's thread asks for the interpreter many times a commit, and a busy loop lets go of it only after this long.
        sys.setswitchinterval(SWITCH_S)
        watching = [await begin(experiments, settings), await reloads.begin()]  # before the modes: what is made up for is no new epoch
        watching += [await watch_modes(modes, teachers, settings.guardrail_period_s), asyncio.create_task(traffic.keep_looking())]
        if settings.workers > 1:
            watching.append(asyncio.create_task(_keep(metrics)))
        if settings.retention_days is not None:
            watching.append(asyncio.create_task(keep_retention(events, settings.retention_days)))
        _look_for_garbage_rarely()
        yield
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
        await shadows.aclose()
        await reloads.aclose()
        await teachers.aclose()
        await cache.aclose()
        await limits.aclose()
        await budgets.aclose()
        for student in students.values():
            await student.aclose()
        if store is not None:
            await store.aclose()
        await events.aclose()
        if tracing is not None:
            await tracing.aclose()

    app = FastAPI(
        title="WST teacher service",
        description="Writes one instruction per query, so that the model you already use answers better.",
        lifespan=lifespan,
        middleware=[
            Middleware(RequestIds, metrics=metrics, tracing=tracing),
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
    app.state.metrics, app.state.cache, app.state.draining = metrics, cache, False
    app.state.reloads, app.state.traffic = reloads, traffic
    errors.install(app)
    for routes in (routes_instruct, routes_openai, routes_experiments, routes_modes, routes_teachers, routes_health):
        app.router.routes += routes.router.routes  # an included router matches each path twice over
    console.install(app)
    return app
