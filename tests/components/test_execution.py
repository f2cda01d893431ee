"""A step as a task of Kubeflow: figures as metrics, errors in one line, a second attempt for a shard."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.execution import run_shard, run_step
from kubeface.records.record import STEP_FILE, StepRecord, StepResult
from kubeface.runtime.errors import KubefaceError

ERROR = "bucket 'b' does not exist"


class Counted(StepResult):
    """A result with figures of each kind, which are finite unless they are made around the checks."""

    gain: float = 0.25
    """A number."""
    reason: str = "text"
    """A text."""
    better: bool = True
    """A verdict."""
    none: float | None = None
    """What was not measured."""


class Metrics:
    """KFP's metrics, as far as they are used."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "deep" / "metrics")
        self.logged: dict[str, float] = {}

    def log_metric(self, metric: str, value: float) -> None:
        """Keeps a number."""
        self.logged[metric] = value


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "log"))
    return Metrics(tmp_path)


def count(rows: int) -> Counted:
    return Counted(rows_in=rows, rows_out=rows)


def failing(times: int, error: Exception) -> Callable[[int], Counted]:
    """A step that fails so many times before it counts."""
    left = [error] * times

    def step(rows: int) -> Counted:
        if left:
            raise left.pop()
        return count(rows)

    return step


def test_a_step_leaves_its_figures_as_metrics(metrics: Metrics, tmp_path: Path) -> None:
    assert run_step(SimpleNamespace(uri="", path=str(tmp_path)), metrics, count, 4) == count(4)
    seconds = metrics.logged.pop("seconds")
    assert 0 <= seconds < 5
    # The UI's metrics are numbers, and KFP's launcher ends at NaN and infinity.
    assert metrics.logged == {"rows_in": 4, "rows_out": 4, "gain": 0.25, "better": 1}
    assert type(metrics.logged["better"]) is int
    for path in (Path(metrics.path), tmp_path / STEP_FILE):
        left = json.loads(path.read_text())
        assert left == metrics.logged | {"reason": "text", "none": None, "seconds": seconds}
    record = StepRecord.read(tmp_path / STEP_FILE)
    assert (record.rows_in, record.rows_out, record.seconds) == (4, 4, seconds)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_left_out(metrics: Metrics, tmp_path: Path, value: float) -> None:
    run_step(SimpleNamespace(uri="", path=str(tmp_path)), metrics, lambda: count(4).model_copy(update={"gain": value}))
    assert "gain" not in metrics.logged and metrics.logged["rows_in"] == 4
    assert "gain" not in json.loads((tmp_path / STEP_FILE).read_text())


@pytest.mark.parametrize("log", ["log", "nowhere/log"])
def test_an_error_for_the_user_is_one_line_in_two_places_where_there_are_two(
    log: str, metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / log))
    with pytest.raises(SystemExit) as raised:
        run_step(None, metrics, failing(1, KubefaceError(ERROR)), 4)
    assert raised.value.code == 1
    assert capsys.readouterr().err == f"error: {ERROR}\n"
    assert [path.read_text() for path in tmp_path.glob("log")] == [f"{ERROR}\n"] * (log == "log")


def test_a_bug_keeps_its_traceback(metrics: Metrics) -> None:
    with pytest.raises(ZeroDivisionError):
        run_step(None, metrics, failing(1, ZeroDivisionError()), 4)


def test_a_shard_has_a_second_attempt_and_a_receipt(metrics: Metrics, capsys: pytest.CaptureFixture[str]) -> None:
    output = SimpleNamespace(uri="s3://b/out")
    receipt = json.loads(run_shard("1/3 abc,def", output, metrics, failing(1, OSError("lost\nnode")), 4))
    assert capsys.readouterr().err == "shard 1/3: OSError: lost node; trying once more\n"
    seconds = receipt.pop("seconds")
    assert metrics.logged["seconds"] == seconds
    expected = {"shard": "1/3", "fingerprint": "abc", "uri": "s3://b/out", "rows_in": 4, "rows_out": 4}
    assert receipt == expected


def test_a_shard_that_fails_twice_is_named(
    metrics: Metrics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = SimpleNamespace(uri="s3://b/out")
    with pytest.raises(SystemExit) as raised:
        run_shard("1/3 abc", output, metrics, failing(2, KubefaceError(ERROR)), 4)
    assert raised.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: shard 1/3 failed twice: {ERROR}"
    assert (tmp_path / "log").read_text() == f"shard 1/3 failed twice: {ERROR}\n"
    with pytest.raises(ZeroDivisionError):
        run_shard("1/3 abc", output, metrics, failing(2, ZeroDivisionError()), 4)
