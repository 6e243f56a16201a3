"""What the tests of the sister commands share."""

from __future__ import annotations

from typing import Any

import pytest

from weak_to_strong.run import Run


@pytest.fixture
def one_model_at_a_time(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The roles that a run has opened so far; a second model beside one that is open fails the test."""
    roles: set[str] = set()
    client = Run.client

    def opened(run: Run[Any], role: str, settings: Any) -> Any:
        found = client(run, role, settings)
        assert set(run._clients) == {role}
        roles.add(role)
        return found

    monkeypatch.setattr(Run, "client", opened)
    return roles
