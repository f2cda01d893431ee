"""What a training tells while it runs: history as CSV and JSON, TensorBoard events, MLflow."""

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import JsonValue
from tensorboardX import SummaryWriter

from kubeface.finetune.state import EpochFigures
from kubeface.storage.folders import write_json


def write_history(folder: Path, history: Sequence[EpochFigures]) -> None:
    """Makes the folder with history.csv and history.json, and the figures of every epoch as TensorBoard events."""
    folder.mkdir()
    rows = [asdict(epoch) for epoch in history]
    write_json(folder / "history.json", rows)
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for epoch in history:
            for name, value in epoch.measured().items():
                board.add_scalar(name, value, epoch.epoch)


class Mlflow:
    """Logs a training to the server that MLFLOW_TRACKING_URI names; does nothing where that is not set.

    A server that does not answer costs a warning, not the training. One process alone logs, the main one.
    """

    def __init__(self, settings: Mapping[str, JsonValue], main: bool = True) -> None:
        self.on = main and bool(os.environ.get("MLFLOW_TRACKING_URI"))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self._try("start_run")
        self._try("log_params", dict(settings))

    def epoch(self, figures: EpochFigures) -> None:
        """Logs the figures of an epoch."""
        self._try("log_metrics", figures.measured(), step=figures.epoch)

    def end(self, folder: Path) -> None:
        """Logs model.json and the figures, and ends the run."""
        self._try("log_artifact", str(folder / "model.json"))
        self._try("log_artifacts", str(folder / "figures"), "figures")
        self._try("end_run")

    def _try(self, name: str, *values: object, **named: object) -> None:
        if not self.on:
            return
        import mlflow

        try:
            getattr(mlflow, name)(*values, **named)
        except Exception as error:  # whatever a server or the network between may do
            reason = " ".join(str(error).split())
            print(f"finetune: MLflow does not log any more: {reason[:200]}", file=sys.stderr, flush=True)
            self.on = False
