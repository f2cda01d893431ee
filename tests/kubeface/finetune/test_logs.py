"""What a training tells: its history in files, TensorBoard's events, MLflow."""

import csv
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from kubeface.finetune.logs import Mlflow, write_history

from .conftest import Run, Train, same, splitting

FIGURES = [
    "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc", "learning_rate", "head_learning_rate",
    "images_per_second", "seconds",
]  # fmt: skip


@pytest.fixture
def pairs(aligned_table: Path, tmp_path: Path) -> Path:
    """A split with two validation images of each person, so that there is something to verify."""
    return splitting(aligned_table, tmp_path / "split", {"s1": "tttvv", "s3": "tttvv"})


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
    write_history(tmp_path / "logs", [row, row | {"epoch": 2}])
    lines = (tmp_path / "logs" / "history.csv").read_text().splitlines()
    assert len(lines) == 3
    assert next(csv.DictReader(lines))["val_loss"] == ""
    assert json.loads((tmp_path / "logs" / "history.json").read_text()) == [row, row | {"epoch": 2}]
    tags = {value.tag for event in events(tmp_path / "logs" / "tensorboard") for value in event.summary.value}
    assert tags == set(FIGURES) - {"val_loss", "val_accuracy"}


# --- MLflow ---------------------------------------------------------------------------------------------------------


class Tracking(ThreadingHTTPServer):
    """As much of MLflow's REST interface as a training uses; remembers what it is sent."""

    def __init__(self, artifacts: Path, failing: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.artifacts, self.failing = artifacts, failing
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def named(self, name: str) -> list[dict[str, Any]]:
        return [body for path, body in self.calls if path == name]


class Handler(BaseHTTPRequestHandler):
    server: Tracking

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: dict[str, Any]) -> None:
        name = self.path.partition("/mlflow/")[2].partition("?")[0]
        self.server.calls.append((name, body))
        info = {
            "run_id": "0123", "run_uuid": "0123", "experiment_id": "0", "status": "RUNNING", "start_time": 1,
            "artifact_uri": self.server.artifacts.as_uri(), "lifecycle_stage": "active", "user_id": "me",
        }  # fmt: skip
        known: dict[str, Any] = {
            "runs/create": {"run": {"info": info, "data": {}}},
            "runs/get": {"run": {"info": info, "data": {}}},
            "runs/update": {"run_info": info},
        }
        data = json.dumps(known.get(name, {})).encode()
        self.send_response(500 if name == self.server.failing else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracking]:
    """A server that MLFLOW_TRACKING_URI names."""
    server = Tracking(tmp_path / "artifacts")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def address(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def logged(run: Run, server: Tracking) -> None:
    """The figures that arrived are those of the history."""
    sent = [metric for body in server.named("runs/log-batch") for metric in body.get("metrics", [])]
    expected = {(name, row["epoch"]): row[name] for row in run.history for name in FIGURES}
    assert {(metric["key"], int(metric["step"])): metric["value"] for metric in sent} == expected
    assert len(sent) == len(expected)


def test_mlflow_is_told_settings_figures_and_files(
    tracking: Tracking, train: Train, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(epochs=2, lr=0.003, split=pairs)
    logged(run, tracking)
    params = {p["key"]: p["value"] for body in tracking.named("runs/log-batch") for p in body.get("params", [])}
    training = run.training
    assert {name: params[name] for name in ("lr", "backbone", "degradation", "start_sha256", "seed")} == {
        name: str(training[name]) for name in ("lr", "backbone", "degradation", "start_sha256", "seed")
    }
    assert (tmp_path / "artifacts" / "model.json").read_bytes() == (run.folder / "model.json").read_bytes()
    assert tracking.named("runs/update")[-1]["status"] == "FINISHED"
    assert "MLflow" not in capsys.readouterr().err


def test_mlflow_changes_nothing_of_the_training(tracking: Tracking, train: Train) -> None:
    one = train("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI")
        calls = len(tracking.calls)
        other = train("other")
    assert same(one.weights, other.weights)
    assert len(tracking.calls) == calls > 0  # nor is anything sent where nobody asks for it


@pytest.mark.parametrize("name", ["runs/create", "runs/log-batch", "runs/update"])
def test_a_server_that_fails_costs_a_line(
    name: str, tracking: Tracking, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.failing = name
    run = train()
    assert len(run.history) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert len(told) == 1
    assert told[0].startswith("finetune: MLflow does not log any more: ")
    assert len(told[0]) < 300


def test_a_server_that_is_not_there_costs_a_line(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address(monkeypatch, "http://127.0.0.1:9")
    run = train()
    assert len(run.history) == 3
    assert sum("MLflow does not log any more" in line for line in capsys.readouterr().err.splitlines()) == 1


def test_without_an_address_mlflow_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    log = Mlflow({"lr": 1})
    log.epoch({"epoch": 1, "train_loss": 1.0})
    log.end(Path("/nowhere"))
    assert not log.on
