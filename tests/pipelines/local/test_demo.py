"""The demo, whole; and that what it shows does not hang on one lucky division of the people."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubeface.records.evaluation import RecognitionEvaluation
from kubeface.records.summary import SummaryRecord, read_summary
from kubeface.tables.table import Table
from pipelines.local.demo import DEMOS, TRAINING
from tests.pipelines.local.test_store import weeds
from tests.support.commands import run_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1300)]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the demo, started as `make demo` starts it but in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    processes = weeds()
    assert "report:  file://" in run_in(folder, "demo", timeout=1200)
    assert weeds() == processes
    return folder / "runs" / "latest"


def test_demo_makes_a_better_model_and_promotes_it(demo: Path) -> None:
    summary = read_summary(demo / "summary.json")
    assert (summary.dataset.images, summary.dataset.identities) == (400, 40)
    assert as_json(summary)["baseline"]["heldout_clean"]["auc"] > 0.999
    check_gain(as_json(summary))
    assert summary.gate.promoted
    assert str(summary.model.uri).startswith("s3://kubeface/models/orl-sface/")
    assert (demo / "report.html").stat().st_size > 100_000


def test_another_division_of_the_people_says_the_same(demo: Path, tmp_path: Path) -> None:
    """A shorter training by the steps' command lines, with other people held out."""
    steps, seed = next((demo / "steps").iterdir()), 2
    tables = {"aligned": steps / "gather" / "gathered" / "aligned", "split": tmp_path / "split"}
    found = {"filtered": steps / "gather" / "gathered" / "filtered", "audited": steps / "audit" / "audited"}
    run("split", aligned=tables["aligned"], **found, out=tables["split"], seed=seed)
    rows = Table(tables["split"], "split").columns(["identity", "split"]).to_pylist()
    assert 8 <= len({row["identity"] for row in rows if row["split"] == "heldout"}) <= 20
    noise = {"degradation": DEMOS["recognition"].arguments["degradation"], "seed": seed}
    run("finetune", **tables, out=tmp_path / "model", **noise, **(TRAINING | {"epochs": 4}))
    run("evaluate", **tables, model=tmp_path / "model", out=tmp_path / "evaluation", probes="none", **noise)
    evaluation = RecognitionEvaluation.read(tmp_path / "evaluation" / "evaluation.json")
    check_gain(as_json(evaluation))
    assert evaluation.gate.better, evaluation.gate.reason


def run(command: str, **flags: object) -> None:
    """Runs a step's command line."""
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = subprocess.run([sys.executable, "-m", "kubeface", command, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def as_json(record: SummaryRecord | RecognitionEvaluation) -> dict[str, Any]:
    return record.model_dump(mode="json", by_alias=True)


def check_gain(figures: dict[str, Any]) -> None:
    """What was measured over many divisions, with room for the chance in one."""
    before, after = figures["baseline"]["heldout"], figures["finetuned"]["heldout"]
    assert 0.75 < before["auc"] < 0.95
    assert after["auc"] > 0.985
    assert after["tar_at_far"]["0.01"] > before["tar_at_far"]["0.01"] + 0.3
    assert figures["gain"]["heldout"]["auc"]["gain_low"] > 0
    assert figures["gain"]["heldout"]["tar"]["gain_low"] > 0
    assert figures["finetuned"]["heldout_clean"]["auc"] > 0.99
