"""Five thousand requests of schemathesis and hypothesis: no 5xx, no answer outside of the schema. `make soak` sends a hundred thousand."""

import pytest

from benchmarks.fuzz import fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of schemathesis' own making
def test_five_thousand_requests_of_every_kind() -> None:
    found = fuzz(5_000)
    assert found.shown == []
    assert (found.server_errors, found.schema_breaks) == (0, 0)
    assert found.cases >= 5_000
    assert {200, 400, 404, 405, 422} <= set(found.statuses), "each kind of answer was met"
