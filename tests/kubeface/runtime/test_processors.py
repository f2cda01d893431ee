"""What surrounds a step: processors, threads, errors in one line, figures."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kubeface.runtime import process as runtime
from kubeface.runtime.errors import KubefaceError

QUOTA_V2 = "/sys/fs/cgroup/cpu.max"
QUOTA_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
V1, OWN = "/sys/fs/cgroup/cpu", "/proc/self/cgroup"
PERIOD_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("affinity", "files", "expected"),
    [
        (16, {}, 16),
        (16, {QUOTA_V2: "max 100000\n"}, 16),
        (16, {QUOTA_V2: "200000 100000\n"}, 2),
        (16, {QUOTA_V2: "150000 100000\n"}, 2),
        (16, {QUOTA_V2: "10000 100000\n"}, 1),
        (16, {QUOTA_V2: "50000 10000\n"}, 5),
        (2, {QUOTA_V2: "800000 100000\n"}, 2),
        (16, {QUOTA_V2: "nonsense"}, 16),
        (16, {QUOTA_V1: "-1\n", PERIOD_V1: "100000\n"}, 16),
        (16, {QUOTA_V1: "250000\n", PERIOD_V1: "100000\n"}, 3),
        (2, {QUOTA_V1: "250000\n", PERIOD_V1: "100000\n"}, 2),
        (16, {QUOTA_V1: "250000\n"}, 16),
        (16, {OWN: "0::/pod/step\n", "/sys/fs/cgroup/pod/step/cpu.max": "200000 100000\n"}, 2),
        (16, {OWN: "0::/pod/step\n", "/sys/fs/cgroup/pod/cpu.max": "300000 100000\n", QUOTA_V2: "max 100000\n"}, 3),
        (16, {OWN: "3:cpu,cpuacct:/pod\n", f"{V1}/pod/cpu.cfs_quota_us": "5", f"{V1}/pod/cpu.cfs_period_us": "1"}, 5),
        (16, {OWN: "3:memory:/pod\n", f"{V1}/pod/cpu.cfs_quota_us": "5", f"{V1}/pod/cpu.cfs_period_us": "1"}, 16),
    ],
)
def test_processors_are_the_quota_rounded_up_and_never_above_the_affinity(
    monkeypatch: pytest.MonkeyPatch, affinity: int, files: dict[str, str], expected: int
) -> None:
    def read_text(path: Path, *arguments: Any, **options: Any) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)))
    assert runtime.cpu_limit() == expected


def test_processors_of_this_machine() -> None:
    assert 1 <= runtime.cpu_limit() <= len(os.sched_getaffinity(0))


def test_threads_are_limited_unless_the_user_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cpu_limit", lambda: 3)
    monkeypatch.setattr(os, "environ", {"MKL_NUM_THREADS": "7"})
    runtime.limit_threads()
    threads = {"MKL_NUM_THREADS": "7", "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    assert os.environ == threads | {"OMP_WAIT_POLICY": "PASSIVE"}


def test_figures_get_the_seconds() -> None:
    def step(rows: int) -> dict[str, Any]:
        time.sleep(0.03)
        return {"rows_out": rows}

    figures = runtime.timed(step, rows=4)
    assert figures.keys() == {"rows_out", "seconds"}
    assert figures["rows_out"] == 4
    assert 0.02 <= figures["seconds"] < 5


def fail(**arguments: Any) -> dict[str, Any]:
    raise KubefaceError("bucket 'b' does not exist")


def test_an_error_for_the_user_is_one_line_in_two_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "log"))
    with pytest.raises(SystemExit) as raised:
        runtime.timed(fail, rows=4)
    assert raised.value.code == 1
    assert capsys.readouterr().err == "error: bucket 'b' does not exist\n"
    assert (tmp_path / "log").read_text() == "bucket 'b' does not exist\n"


def test_a_termination_log_that_cannot_be_written_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", "/nowhere/log")
    with pytest.raises(SystemExit):
        runtime.timed(fail)
    assert capsys.readouterr().err == "error: bucket 'b' does not exist\n"


def test_a_bug_keeps_its_traceback() -> None:
    def step() -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runtime.timed(step)


def test_a_component_leaves_its_figures_as_metrics(tmp_path: Path) -> None:
    logged: dict[str, float] = {}
    metrics = SimpleNamespace(path=str(tmp_path / "deep" / "metrics"), log_metric=logged.__setitem__)

    def step(rows: int) -> dict[str, Any]:
        return {"rows_out": rows, "gain": 0.25, "better": True, "reason": "text"}

    figures = runtime.run_component(metrics, step, rows=4)
    seconds = logged.pop("seconds")
    assert logged == {"rows_out": 4, "gain": 0.25}  # the UI's metrics are numbers
    assert figures == {"rows_out": 4, "gain": 0.25, "better": True, "reason": "text", "seconds": seconds}
    assert json.loads((tmp_path / "deep" / "metrics").read_text()) == figures


def test_stores_are_set_where_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT", "http://old:1")
    runtime.use_stores("")
    assert os.environ["S3_ENDPOINT"] == "http://old:1"
    runtime.use_stores("http://new:2")
    assert os.environ["S3_ENDPOINT"] == "http://new:2"
    monkeypatch.setenv("KUBEFACE_WEIGHTS_MIRROR", "")
    runtime.use_stores("", "s3://b/weights")
    assert os.environ["KUBEFACE_WEIGHTS_MIRROR"] == "s3://b/weights"
