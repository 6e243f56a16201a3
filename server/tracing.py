"""Traces by OpenTelemetry, where `WST_OTEL_ENDPOINT` says so: where a request's time goes, beside the app's and the student's own spans.

    POST /instruct                  the request, under the caller's `traceparent`
      store limits, cache, events   the waits for Redis and for the event log
      teacher                       the wait for the teacher, its queue included
      student                       from the forwarded request to the end of the answer; the student gets its `traceparent`

Spans are sent in batches from a thread of their own (OTLP over HTTP); a collector that is slow or gone costs a request nothing. No span
holds anything of a body, a path or an exception's text. OpenTelemetry's own variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER,
OTEL_EXPORTER_OTLP_HEADERS …) count as usual. FastAPI's telemetry stays off.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from exchange.settings import SettingError

FLUSH_S = 2.0
"""Longest that an ending server waits for its last spans to be taken."""

_tracer: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
"""The app's, while one of its requests is traced: what is done for a request need not know whose request it is."""


class Provider(Protocol):
    """What makes tracers: the SDK's `TracerProvider`."""

    def get_tracer(self, name: str) -> Tracer: ...
    def shutdown(self) -> None: ...


def open_provider(endpoint: str) -> Provider:
    """Sends spans to the OTLP/HTTP collector at `endpoint`. Raises SettingError where the SDK is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingError("WST_OTEL_ENDPOINT needs OpenTelemetry's SDK: pip install 'wst-teacher[otel]', or leave it out") from None
    name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "wst"}
    provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=FLUSH_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Tracing:
    """One app's."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("wst")

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str], about: Mapping[str, Any]) -> Iterator[None]:
        """The span of a whole request; what `about` holds when it ends becomes its attributes. A request that fails is no error here."""
        parent = extract({name: headers[name] for name in ("traceparent", "tracestate") if name in headers})
        held = _tracer.set(self._tracer)
        try:
            with self._tracer.start_as_current_span(
                name, context=parent, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
            ) as found:
                try:
                    yield
                finally:
                    found.set_attributes({key: value for key, value in about.items() if value is not None})
                    if about.get("http.response.status_code", 0) >= 500:
                        found.set_status(Status(StatusCode.ERROR))
        finally:
            _tracer.reset(held)

    async def aclose(self) -> None:
        """Have what is left sent, for a moment; a collector that does not answer is left behind."""
        ending = threading.Thread(target=self.provider.shutdown, daemon=True)  # no executor: the end of the process must not wait for it
        ending.start()
        give_up = monotonic() + FLUSH_S
        while ending.is_alive() and monotonic() < give_up:  # noqa: ASYNC110 -- a thread's end
            await asyncio.sleep(0.01)


@contextmanager
def span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **about: str) -> Iterator[None]:
    """A part of the request that runs; nothing where it is not traced."""
    tracer = _tracer.get()
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(name, kind=kind, attributes=about, record_exception=False, set_status_on_exception=False):
        yield


def onward(headers: dict[str, str]) -> dict[str, str]:
    """Headers for the student, which continue the trace at the span that runs; where nothing is traced the caller's `traceparent` stays."""
    if _tracer.get() is not None and trace.get_current_span().get_span_context().is_valid:
        inject(headers)
    return headers


def trace_id() -> str | None:
    """Of the request that runs, for its line in the log."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if _tracer.get() is not None and context.is_valid else None
