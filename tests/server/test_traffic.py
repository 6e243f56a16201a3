"""Rates out of counters, on toys with exact answers."""

from __future__ import annotations

import math

import pytest

from server.metrics import Metrics
from server.traffic import Traffic, dollars, quantile
from student_clients.budget import Price


def test_a_quantile_lies_on_the_line_through_its_bucket() -> None:
    before = {0.1: 5.0, 1.0: 5.0, math.inf: 5.0}
    after = {0.1: 5.0, 1.0: 15.0, math.inf: 15.0}  # ten came, all between 0.1 and 1
    assert quantile(before, after, 0.5) == pytest.approx(0.55)
    assert quantile({}, {0.1: 4.0, math.inf: 4.0}, 0.25) == pytest.approx(0.025)
    assert quantile({}, {0.1: 0.0, math.inf: 4.0}, 0.5) == 0.1  # in the open bucket: more than that
    assert quantile(after, after, 0.5) is None


def test_what_came_since_is_counted_and_what_somebody_chose_is_no_fallback() -> None:
    now, metrics = 0.0, Metrics()
    traffic = Traffic(metrics.registry, clock=lambda: now)
    assert traffic.now()[1] is None and traffic.points(60.0) == []
    traffic.look()
    for reason in ("timeout", "mode_off", "canary", None):
        metrics.instructed("passthrough" if reason else "cache", reason, 0.2, None)
        metrics.request("/instruct", 200, 0.3, 0.2)
    metrics.request("/ui/traffic", 200, 0.3, None)  # the console is no traffic
    now = 10.0
    totals, rates = traffic.now()
    assert rates is not None and (totals.requests, totals.fallbacks, totals.cached) == (4, 1, 1)
    assert (rates.requests_s, rates.fallback_share, rates.cache_share) == (0.4, 0.25, 0.25)
    traffic.look()
    now = 70.0
    traffic.look()
    ((_, first, _), (ago, second, _)) = traffic.points(180.0, steps=90)
    assert (ago, first.requests_s, second.requests_s, second.fallback_share) == (0.0, 0.4, 0.0, None)
    assert traffic.span_s() == 180.0
    _, rates = traffic.now()
    assert rates is not None and rates.requests_s == 0.0  # the last minute begins after they came


def test_dollars_by_the_configured_price() -> None:
    price = Price.model_validate({"input": 1.0, "output": 2.0, "as_of": "2026-11-20"})
    tokens = {("a", "prompt"): 1_000_000.0, ("a", "completion"): 500_000.0, ("b", "prompt"): 7.0}
    assert dollars(tokens, {"a": price, "b": None}) == {"a": 2.0, "b": None}
