"""What a training tells: its history in files, TensorBoard's events, MLflow."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from kubeface.finetune.logs import Mlflow, write_history
from kubeface.finetune.state import EpochFigures

from .conftest import Train, same

FIGURES = [
    "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc", "learning_rate", "head_learning_rate",
    "images_per_second", "seconds",
]  # fmt: skip


def events(folder: Path) -> list[Event]:
    """The events of a folder; the checksum of every record is looked at."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        body = data[12 : 12 + length]
        assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
        assert int.from_bytes(data[12 + length : 16 + length], "little") == masked_crc32c(body)
        found.append(Event.FromString(body))
        data = data[16 + length :]
    return found


def test_history_stands_in_three_places(train: Train, pairs: Path) -> None:
    run = train(epochs=2, head_epochs=1, split=pairs)
    rows = run.history
    assert [(row["epoch"], row["stage"]) for row in rows] == [(1, 1), (2, 2), (3, 2)]
    for row in rows:
        assert list(row) == sorted(["epoch", "stage", *FIGURES])
        assert all(isinstance(value, int | float) for value in row.values())
        assert 0 <= row["train_accuracy"] <= 1 and 0 <= row["val_accuracy"] <= 1 and 0 <= row["val_auc"] <= 1
    with open(run.folder / "logs" / "history.csv", newline="") as file:
        reader = csv.DictReader(file)
        table = list(reader)
    assert reader.fieldnames == ["epoch", "stage", *FIGURES]
    assert [{key: float(value) for key, value in row.items()} for row in table] == rows
    told = {
        (value.tag, event.step): value.simple_value
        for event in events(run.folder / "logs" / "tensorboard")
        for value in event.summary.value
    }
    assert told == {(name, row["epoch"]): pytest.approx(row[name], rel=1e-6) for row in rows for name in FIGURES}


def test_without_validation_images_the_places_are_empty(tmp_path: Path) -> None:
    row = dict.fromkeys(FIGURES, 0.5) | {"epoch": 1, "stage": 2, "val_loss": None, "val_accuracy": None}
    first = TypeAdapter(EpochFigures).validate_python(row)
    write_history(tmp_path / "logs", [first, replace(first, epoch=2)])
    lines = (tmp_path / "logs" / "history.csv").read_text().splitlines()
    assert len(lines) == 3
    assert next(csv.DictReader(lines))["val_loss"] == ""
    assert json.loads((tmp_path / "logs" / "history.json").read_text()) == [row, row | {"epoch": 2}]
    tags = {value.tag for event in events(tmp_path / "logs" / "tensorboard") for value in event.summary.value}
    assert tags == set(FIGURES) - {"val_loss", "val_accuracy"}


# --- MLflow ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[Any]:
    """A client of MLflow's store in a folder, which MLFLOW_TRACKING_URI names."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
        yield mlflow.MlflowClient()
        mlflow.end_run()


def test_mlflow_is_told_settings_figures_and_files(
    tracking: Any, train: Train, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(epochs=2, lr=0.003, split=pairs)
    (logged,) = tracking.search_runs(["0"])
    assert logged.info.status == "FINISHED"
    sent = {name: tracking.get_metric_history(logged.info.run_id, name) for name in logged.data.metrics}
    assert {name: [(one.step, one.value) for one in values] for name, values in sent.items()} == {
        name: [(row["epoch"], row[name]) for row in run.history] for name in FIGURES
    }
    for name in ("lr", "backbone", "degradation", "start_sha256", "seed"):
        assert logged.data.params[name] == str(run.training[name])
    copied = tracking.download_artifacts(logged.info.run_id, "model.json")
    assert Path(copied).read_bytes() == (run.folder / "model.json").read_bytes()
    assert "MLflow" not in capsys.readouterr().err


def test_mlflow_changes_nothing_of_the_training(tracking: Any, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    one = train("one")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    other = train("other")
    assert same(one.weights, other.weights)
    assert len(tracking.search_runs(["0"])) == 1  # nor is anything sent where nobody asks for it


@pytest.mark.parametrize("name", ["start_run", "log_metrics", "end_run", ""])
def test_a_server_that_fails_or_is_not_there_costs_a_line(
    name: str, tracking: Any, train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    def fail(*_: Any, **__: Any) -> None:
        raise mlflow.MlflowException("API request failed\n" + 300 * "with many words ")

    if name:
        monkeypatch.setattr(mlflow, name, fail)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert len(train().history) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert line.startswith("finetune: MLflow does not log any more: ") and len(line) < 300


def test_without_an_address_mlflow_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    log = Mlflow({"lr": 1})
    log.epoch(EpochFigures(1, 1, 1.0, 0.5, None, None, None, 0.0, 1e-3, 2.0, 1.0))
    log.end(Path("/nowhere"))
    assert not log.on
