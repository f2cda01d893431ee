"""What the tests of the cluster's side share."""

import pytest

from pipelines import estimate, schedule, submit


@pytest.fixture
def bare_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that sets nothing; no kubectl asks whatever cluster the machine knows."""
    for module in (estimate, schedule, submit):
        monkeypatch.setattr(module, "deployed_settings", lambda cluster: {})
