"""What the tests of the cluster's side share."""

import builtins
from pathlib import Path

import pytest

from pipelines.build.compile import compile_pipeline
from pipelines.cluster import request

PRINT = builtins.print


@pytest.fixture(autouse=True)
def print_as_python_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kfp.local left of it in a fixture or a test that calls it without `run_local`."""
    monkeypatch.setattr(builtins, "print", PRINT)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled pipeline."""
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(path)
    return path


@pytest.fixture
def bare_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that sets nothing; no kubectl asks whatever cluster the machine knows."""
    monkeypatch.setattr(request, "pipeline_root", lambda client: None)
