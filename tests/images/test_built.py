"""Images as the engine really builds them: who they run as, what they say of themselves, that they work."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kubeface import __version__
from kubeface.tables.table import Table
from pipelines.build.images import USER, all_steps, read_images, revision
from tests.support.engine import REGISTRY, TAG, built_images, working_engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
STEPS = ["ingest", "split"]


@pytest.fixture(scope="module")
def engine() -> str:
    """The engine, with all images built from the files as they are."""
    assert {*all_steps()} == {*built_images()}
    return working_engine()


def kubeface(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command `kubeface` in the repository."""
    command = [sys.executable, "-m", "kubeface", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def run_in(engine: str, step: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in a container as a cluster of the restricted kind runs it, without a network."""
    options = ["--rm", "--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--network=none"]
    return subprocess.run(
        [engine, "run", *options, f"{REGISTRY}/{step}:{TAG}", *command], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("step", STEPS)
def test_the_image_says_what_it_is(engine: str, step: str) -> None:
    done = subprocess.run([engine, "image", "inspect", f"{REGISTRY}/{step}:{TAG}"], capture_output=True, text=True)
    config = json.loads(done.stdout)[0]["Config"]
    name = "org.opencontainers.image"
    labels = {"revision": revision(step), "version": __version__, "title": f"kubeface {step}", "licenses": "Apache-2.0"}
    assert config["Labels"].items() >= {f"{name}.{key}": value for key, value in labels.items()}.items()
    assert config["User"] == f"{USER}:{USER}"
    assert not config.get("Entrypoint")


def test_its_command_is_the_help(engine: str) -> None:
    done = run_in(engine, "split")
    assert done.returncode == 0
    assert "kubeface split" in done.stdout


@pytest.mark.parametrize("step", sorted({*all_steps()} - {"store"}))
def test_the_self_check_passes_read_only_without_root_and_network(engine: str, step: str) -> None:
    done = run_in(engine, step, "python", "-m", "kubeface", "self-check", step)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(rf"ok: {step}: .+\n", done.stdout)


def test_the_self_check_fails_where_something_is_missing(engine: str) -> None:
    broken = "import sys; sys.modules['pyarrow'] = None; from kubeface.self_check import self_check"
    assert run_in(engine, "split", "python", "-c", broken).returncode != 0
    missing = ("env", "KUBEFACE_FACE=/none.pgm", "python", "-m", "kubeface", "self-check", "split")
    done = run_in(engine, "split", *missing)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: KUBEFACE_FACE: /none.pgm cannot be read: No such file or directory\n"


def test_nothing_but_tmp_can_be_written_and_nothing_but_the_step_is_there(engine: str) -> None:
    done = run_in(engine, "split", "sh", "-c", "id -u; ls components kubeface; touch /tmp/a && ! touch /opt/kubeface/a")
    assert done.returncode == 0
    words = done.stdout.split()
    assert words[0] == str(USER)
    assert {path.parent.name for path in (ROOT / "components").glob("*/component.py")} & set(words) == {"split"}


def test_the_command_of_another_step_is_said_not_to_be_there(engine: str) -> None:
    done = run_in(engine, "split", "python", "-m", "kubeface", "align", "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "error: kubeface.align is not in this image, which carries one step: use the image of"
    )


def test_every_python_in_it_takes_as_many_threads_as_it_has_processors(engine: str) -> None:
    program = "import os; print(os.environ['OMP_NUM_THREADS'])"
    done = run_in(engine, "split", "taskset", "-c", "0", "python", "-c", program)
    assert done.stdout == "1\n", done.stderr


def test_make_run_step_works_on_a_folder_of_this_machine(engine: str, orl_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)  # where the tests run as root, the container's user is another one
    subprocess.run(["cp", "-r", orl_folder, data / "people"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", data / "people"], check=True)
    flags = ("--engine", engine, "--registry", REGISTRY, "--tag", TAG, "--data", data)
    command = ("run-step", *flags, "ingest", "--source", "people", "--out", "faces")
    done = kubeface(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["rows_out"] == Table(data / "faces", "faces").rows == 30
    again = kubeface(*command)
    assert again.returncode == 1  # the step's own
    assert "error: " in again.stderr


def test_run_step_says_what_is_missing(engine: str, tmp_path: Path) -> None:
    done = kubeface("run-step", "--engine", engine, "--registry", REGISTRY, "--tag", "none", "split")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {REGISTRY}/split:none is not there: run 'make images' first\n"


def test_what_is_pushed_is_what_the_registry_has(engine: str, tmp_path: Path) -> None:
    """Against a registry of our own on loopback: the recorded digest is that of the manifest it was given."""
    if engine != "podman":
        pytest.skip("docker's daemon, not its client, decides which registries it trusts")
    from tests.support.registry import registry

    with registry(tmp_path) as address:
        (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        name = f"{address}/team/split:t"
        subprocess.run([engine, "build", "-q", "-t", name, str(tmp_path)], check=True, capture_output=True)
        record = tmp_path / "images.json"
        record.write_text(json.dumps({"split": {"image": name, "size": 1}}))
        flags = ("--engine", engine, "--tag", "t", "--registry", f"{address}/team", "--step", "split")
        done = kubeface("push", *flags, "--record", record)
        assert done.returncode == 0, done.stdout + done.stderr
        manifests = {path.name for path in (tmp_path / "manifests").iterdir()}
        assert read_images(record)["split"].digest in manifests
        subprocess.run([engine, "rmi", name], check=True, capture_output=True)
        pulled = subprocess.run([engine, "pull", read_images(record)["split"].pinned], capture_output=True, text=True)
        assert pulled.returncode == 0, pulled.stderr
