"""What a training tells while it runs: history as CSV and JSON, TensorBoard events, MLflow."""

import csv
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from kubeface.storage.folders import write_json

Row = dict[str, Any]


def write_history(folder: Path, history: list[Row]) -> None:
    """Writes history.csv and history.json, and the figures of every epoch as TensorBoard events.

    Args:
        folder: `logs` of the model folder; made.
        history: a row for each epoch.
    """
    folder.mkdir()
    write_json(folder / "history.json", history)
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for row in history:
            for name, value in _figures(row).items():
                board.add_scalar(name, value, row["epoch"])


class Mlflow:
    """Logs a training to the server that MLFLOW_TRACKING_URI names; does nothing where that is not set.

    A server that does not answer costs a warning, not the training.

    Args:
        settings: what is logged as parameters.
        main: whether this is the process that logs.
    """

    def __init__(self, settings: Mapping[str, Any], main: bool = True) -> None:
        self.on = main and bool(os.environ.get("MLFLOW_TRACKING_URI"))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self._try("start_run")
        self._try("log_params", dict(settings))

    def epoch(self, row: Row) -> None:
        """Logs the figures of an epoch."""
        self._try("log_metrics", _figures(row), step=row["epoch"])

    def end(self, folder: Path) -> None:
        """Logs model.json and the figures, and ends the run."""
        self._try("log_artifact", str(folder / "model.json"))
        self._try("log_artifacts", str(folder / "figures"), "figures")
        self._try("end_run")

    def _try(self, name: str, *values: Any, **named: Any) -> None:
        if not self.on:
            return
        import mlflow

        try:
            getattr(mlflow, name)(*values, **named)
        except Exception as error:  # whatever a server or the network between may do
            reason = " ".join(str(error).split())
            print(f"finetune: MLflow does not log any more: {reason[:200]}", file=sys.stderr, flush=True)
            self.on = False


def _figures(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in ("epoch", "stage") and value is not None}
