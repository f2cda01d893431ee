"""The last tasks of a run: promote, report with the run's conclusion, and notify."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.notify.component import notify
from components.promote.component import promote
from components.report.component import report
from kubeface.notify.step import WEBHOOK
from kubeface.records.record import STEP_FILE, StepRecord
from tests.support.promoted_models import make, write_data
from tests.support.report_runs import STEPS, MadeRun, make_run


class Artifact(SimpleNamespace):
    """An artifact of KFP, as far as it is used."""

    def __init__(self, path: Path) -> None:
        super().__init__(path=str(path), uri=f"minio://bucket/{path.name}", metadata={})
        self.logged: dict[str, float] = {}

    def log_metric(self, metric: str, value: float) -> None:
        """Takes a number for the UI."""
        self.logged[metric] = value


def run_report(run: MadeRun, folder: Path, models: Path) -> None:
    """Runs the component report."""
    for table in ("aligned", "filtered"):
        (folder / table).rename(folder / "gathered" / table)
    left = ("gathered", "audited", "split", "model", "evaluation", "promotion")
    for step, name in zip(STEPS, left, strict=True):
        (folder / f"{step}.json").rename(folder / name / STEP_FILE)
    inputs = {{"split": "divided"}.get(name, name): Artifact(folder / name) for name in left}
    outputs = {"report": run.html, "summary": run.summary, "metrics": folder / "out" / "metrics.json"}
    report.python_func(
        **inputs,
        **{name: Artifact(path) for name, path in outputs.items()},
        options={"pipeline": "faces", "seed": 7},
        models=str(models),
        name="door",
        run="7-a",
    )


def test_a_run_is_reported_and_its_conclusion_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(WEBHOOK, raising=False)
    models = tmp_path / "models"
    notify.python_func(options={}, models=str(models), name="door", run="7-a", title="weekly")
    assert "notify: door: run weekly failed." in capsys.readouterr().out
    run = make_run(tmp_path)
    run_report(run, tmp_path, models)
    assert json.loads(run.summary.read_text())["seed"] == 7
    conclusion = json.loads((models / "door" / "runs" / "7-a.json").read_text())
    assert conclusion["verdict"] == "promoted" and conclusion["report"] == "minio://bucket/report.html"
    notify.python_func(options={"ui": "https://kfp"}, models=str(models), name="door", run="7-a", title="weekly")
    said = "door: run weekly succeeded, promoted: better than the champion. Model: s3://models/sface/7."
    assert f"notify: {said} https://kfp/#/runs/details/7-a" in capsys.readouterr().out


def test_promote_takes_its_options_as_a_dictionary(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    gathered, audited = write_data(tmp_path)
    gathered.rename(audited / "gathered")
    inputs = {"model": model, "evaluation": evaluation, "audited": audited}
    outputs = {"promotion": tmp_path / "promotion", "metrics": tmp_path / "metrics.json"}
    artifacts = {name: Artifact(path) for name, path in (inputs | outputs).items()}
    promote.python_func(
        **artifacts,
        options={"name": "door", "destination": str(tmp_path / "models")},
    )
    assert json.loads((tmp_path / "metrics.json").read_text())["promoted"] is True
    assert StepRecord.read(tmp_path / "promotion" / STEP_FILE).rows_out > 0
    assert artifacts["metrics"].logged["promoted"] == 1
    assert artifacts["promotion"].metadata["name"] == "door" and artifacts["promotion"].metadata["promoted"]
    assert (tmp_path / "models" / "door" / "champion.json").is_file()
