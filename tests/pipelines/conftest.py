"""What the tests of pipelines share: each pipeline, compiled once."""

import builtins
from pathlib import Path

import pytest

from pipelines.build.catalogue import FACE_FINETUNING, TASKS
from pipelines.build.compile import compile_pipeline
from pipelines.cluster import request
from tests.support.compiled import Compiled, documents
from tests.support.shared import made_once

PRINT = builtins.print


@pytest.fixture(autouse=True)
def print_as_python_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kfp.local left of it in a fixture or a test that calls it without `run_local`."""
    monkeypatch.setattr(builtins, "print", PRINT)


@pytest.fixture(scope="session")
def packages() -> dict[str, Path]:
    """The files of the compiled pipelines by name."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for name in TASKS:
            compile_pipeline(folder / f"{name}.yaml", pipeline=name)

    folder = made_once("compiled", make)
    return {name: folder / f"{name}.yaml" for name in TASKS}


@pytest.fixture(scope="session")
def package(packages: dict[str, Path]) -> Path:
    """The file of face-finetuning."""
    return packages[FACE_FINETUNING]


@pytest.fixture(scope="session")
def all_compiled(packages: dict[str, Path]) -> dict[str, Compiled]:
    """What the files hold."""
    return {name: documents(path) for name, path in packages.items()}


@pytest.fixture(params=TASKS)
def compiled(all_compiled: dict[str, Compiled], request: pytest.FixtureRequest) -> Compiled:
    """Each of the pipelines in turn."""
    return all_compiled[request.param]


@pytest.fixture
def bare_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that sets nothing; no kubectl asks whatever cluster the machine knows."""
    monkeypatch.setattr(request, "pipeline_root", lambda client: None)
