"""`GET /metrics` for Prometheus: what the service costs, who answers, and how full it is.

The figure that matters is the overhead: the whole of a request less the teacher and less the student. Labels are bounded: routes, sources,
reasons and students come from the code and the config, and of experiments' arms the first `MOST_ARMS` are told apart. No label holds
anything of a caller's, and no user, key or query.

The figures of one server's workers are added up, whichever answers; each replica is scraped by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

MOST_ARMS = 200
OTHER = "other"
ROUTES = (
    "/instruct/batch",
    "/instruct",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/models",
    "/outcomes",
    "/experiments",
    "/modes",
    "/teachers",
)
"""Beginnings of paths that are told apart; what else is asked for counts as `other`."""
FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)

FLAGS = ("wst_store_left_alone", "wst_events_behind", "wst_holdback_alarms", "wst_draining")
"""Of these each worker shows the whole: together they are the largest and not the sum."""

Gauges = Callable[[], Iterable[tuple[str, str, float]]]
"""(name, meaning, value) as they are now; a name that ends in `_total` only grows."""


def route_of(path: str) -> str:
    """The label of a path."""
    return next((route for route in ROUTES if path == route or path.startswith(f"{route}/")), OTHER)


class Metrics:
    """One app's. Used on its event loop."""

    def __init__(self, gauges: Gauges = lambda: (), *, shared: bool = False) -> None:
        """`shared`: by workers, in the files of the folder PROMETHEUS_MULTIPROC_DIR."""
        self.registry = into = CollectorRegistry()
        self._requests = Counter("wst_requests_total", "Requests by route and status.", ["route", "status"], registry=into)
        what = "A request's whole time less the teacher's and the student's."
        self._overhead = Histogram("wst_overhead_seconds", what, ["route"], buckets=FAST, registry=into)
        self._teacher = Histogram("wst_teacher_seconds", "The wait for the teacher, its queue included.", buckets=SLOW, registry=into)
        what = "From a forwarded request to the end of its answer."
        self._student = Histogram("wst_student_seconds", what, buckets=SLOW, registry=into)
        self._instructions = Counter("wst_instructions_total", "Conversations by who wrote the instruction.", ["source"], registry=into)
        self._degraded = Counter("wst_degraded_total", "Conversations that went out raw, by reason.", ["reason"], registry=into)
        self._arms = Counter("wst_arm_requests_total", "Exposures.", ["tenant", "experiment", "arm"], registry=into)
        self._tokens = Counter("wst_student_tokens_total", "Tokens by kind: prompt, completion.", ["student", "kind"], registry=into)
        self._known_arms: set[tuple[str, str, str]] = set()
        self._shared = _Shared(gauges) if shared else None
        self.registry.register(_Now(gauges))

    def request(self, path: str, status: int, seconds: float, apart_s: float | None) -> None:
        """A request is over. `apart_s`: of its time, what teacher and student took; None = not told apart (a batch asks several)."""
        route = route_of(path)
        self._requests.labels(route, str(status)).inc()
        if apart_s is not None and status < 400:
            self._overhead.labels(route).observe(max(0.0, seconds - apart_s))

    def instructed(self, source: str, degraded: str | None, teacher_s: float, arm: tuple[str, str, str] | None) -> None:
        """A conversation is ready for its student. `arm`: tenant, experiment and arm of an exposure."""
        self._instructions.labels(source).inc()
        if degraded is not None:
            self._degraded.labels(degraded).inc()
        if teacher_s:
            self._teacher.observe(teacher_s)
        if arm is not None:
            if arm not in self._known_arms and len(self._known_arms) >= MOST_ARMS:
                arm = (OTHER, OTHER, OTHER)
            self._known_arms.add(arm)
            self._arms.labels(*arm).inc()

    def answered(self, student: str, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        """A student's answer has ended."""
        self._student.observe(seconds)
        self._tokens.labels(student, "prompt").inc(prompt_tokens)
        self._tokens.labels(student, "completion").inc(completion_tokens)

    def text(self) -> bytes:
        """Prometheus's text format: this process's figures, or those of all workers."""
        if self._shared is None:
            return generate_latest(self.registry)
        self._shared.write()
        workers = CollectorRegistry()
        MultiProcessCollector(workers)  # type: ignore[no-untyped-call]
        return generate_latest(workers)

    def keep(self) -> None:
        """Have the other workers see what is looked up here; to be called every second."""
        if self._shared is not None:
            self._shared.write()


class _Shared:
    """What is looked up, written where the workers' figures are added up: gauges of the living, counters of the dead too."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges
        self._registry = CollectorRegistry()
        self._made: dict[str, Gauge | Counter] = {}
        self._counted: dict[str, float] = {}

    def write(self) -> None:
        for name, meaning, value in self._gauges():
            made = self._made.get(name)
            if made is None:
                made = self._made[name] = (
                    Counter(name, meaning, registry=self._registry)
                    if name.endswith("_total")
                    else Gauge(name, meaning, registry=self._registry, multiprocess_mode="livemax" if name in FLAGS else "livesum")
                )
            if isinstance(made, Counter):
                made.inc(value - self._counted.get(name, 0.0))
                self._counted[name] = value
            else:
                made.set(value)


class _Now(Collector):
    """Figures that are looked up when they are asked for, so that they cost a request nothing."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, meaning, value in self._gauges():
            if name.endswith("_total"):
                yield CounterMetricFamily(name.removesuffix("_total"), meaning, value=value)
            else:
                yield GaugeMetricFamily(name, meaning, value=value)
