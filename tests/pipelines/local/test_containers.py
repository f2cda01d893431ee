"""The pipeline in containers: what fails there fails the run and is named. test_run.py runs it whole."""

import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl, local

from kubeface.runtime.errors import KubefaceError
from pipelines.build.compile import images_in
from pipelines.build.images import Images
from pipelines.face_finetuning import face_finetuning
from pipelines.local.containers import engine_api, in_containers, run_container
from pipelines.local.run import run_local
from tests.support.engine import REGISTRY, TAG, built_images, working_engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
INGEST = f"{REGISTRY}/ingest:{TAG}"
ALL = {step for step, _ in images_in(face_finetuning.pipeline_spec)}


@pytest.fixture(scope="module")
def images() -> Images:
    """The image of ingest in the place of every other, but of the one that the first step runs in."""
    built = built_images()
    return dict.fromkeys(ALL, built["ingest"]) | {"plan": built["plan"]}


@pytest.fixture(scope="module")
def engine(images: Images) -> str:
    return working_engine()


@pytest.fixture
def client(engine: str) -> Iterator[Any]:
    import docker

    with engine_api(engine):
        client = docker.from_env()
        yield client
        client.close()


def test_the_exit_code_is_the_command_s_own(client: Any, tmp_path: Path) -> None:
    volumes = {str(tmp_path / "shared"): {"bind": "/shared", "mode": "rw"}}
    before = len(client.containers.list(all=True))
    with redirect_stdout(StringIO()) as said:
        code = run_container(
            client, INGEST, ["sh", "-c", "echo $KUBEFACE_IMAGE; id -u > /shared/user; exit 3"], volumes
        )
    assert code == 3  # kfp's own function says 0 here
    assert said.getvalue() == f"{INGEST}\n"
    assert (tmp_path / "shared" / "user").read_text().strip() in ("0" if os.getuid() else "10001", str(os.getuid()))
    assert run_container(client, INGEST, ["true"], volumes) == 0
    assert len(client.containers.list(all=True)) == before


def test_the_last_words_are_the_step_s_or_say_what_became_of_it(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tmp_path / "words"
    monkeypatch.setenv("TERMINATION_LOG", str(words))
    run_container(client, INGEST, ["sh", "-c", "echo error: no flour; echo bye; exit 1"], {})
    assert words.read_text() == "no flour\n"
    run_container(client, INGEST, ["sh", "-c", "echo error: nor water; exit 1"], {})
    assert words.read_text() == "no flour\n"
    words.unlink()
    run_container(client, INGEST, ["sh", "-c", "exit 137"], {})
    assert words.read_text() == "its container ended with exit code 137, killed: was there too little memory?\n"


def test_an_image_that_is_not_there_is_named(client: Any) -> None:
    with pytest.raises(
        KubefaceError, match=r"localhost/none:1 cannot be run: .*(no such image|not known|No such image)"
    ):
        run_container(client, "localhost/none:1", ["true"], {})


@dsl.container_component
def bake(loaves: int) -> dsl.ContainerSpec:
    """Bakes bread, at least one loaf."""
    return dsl.ContainerSpec(image=INGEST, command=["sh", "-c", "echo $0 loaves; test $0 -ge 1"], args=[loaves])


def test_a_container_that_fails_fails_its_task(engine: str, images: Images, tmp_path: Path) -> None:
    """kubeflow/pipelines#13332: kfp's own runner reports it as success."""
    with in_containers(images, engine) as runner:
        local.init(runner, pipeline_root=str(tmp_path / "steps"))
        bake(loaves=2)
        with pytest.raises(RuntimeError, match=r"bake.*FAILURE"):
            bake(loaves=0)


def test_a_step_that_fails_fails_the_run_and_is_named(engine: str, images: Images, tmp_path: Path) -> None:
    names = [container["image"] for _, container in images_in(face_finetuning.pipeline_spec)]
    with (
        in_containers(images, engine) as runner,
        pytest.raises(KubefaceError, match=r"step plan failed: .*/nowhere.* \(log: .*run\.log\)"),
    ):
        run_local({"source": "/nowhere", "models": str(tmp_path / "models")}, tmp_path / "run", runner=runner)
    assert [container["image"] for _, container in images_in(face_finetuning.pipeline_spec)] == names
    assert not (tmp_path / "run" / "summary.json").exists()
