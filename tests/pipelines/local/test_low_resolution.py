"""Low resolution as kfp.local runs it, whole: pairs in, enlarged by a network, low measured against high resolution."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kubeface.models.superresolution import open_enlarger
from kubeface.models.superresolution_networks import Enlarging, save_network
from kubeface.records.evaluation import RecognitionEvaluation
from kubeface.records.model import ModelRecord
from kubeface.records.summary import SummaryRecord
from kubeface.superresolve.degradation import degrade
from pipelines.local.run import run_local
from tests.support.commands import run_demo
from tests.support.images import write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PEOPLE, PHOTOGRAPHS = 8, 4


@pytest.fixture(scope="module")
def done(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SummaryRecord]:
    """Folder and summary of a run on pairs; EdgeFace's weights are nowhere to be had."""
    root = tmp_path_factory.mktemp("low")
    people = [(person, n) for person in range(1, PEOPLE + 1) for n in range(1, PHOTOGRAPHS + 1)]
    sharp = write_files(root / "sharp", {f"{person:03d}_{n}.pgm": orl[f"s{person}/{n}.pgm"] for person, n in people})
    degrade(sharp, root / "pairs")
    network = Enlarging("espcn", 8, 4, 1)
    torch.nn.init.constant_(network.tail.bias, 0.02)  # type: ignore[arg-type]
    save_network(network, root / "network.safetensors")
    arguments = {
        "source": str(root / "pairs"),
        "models": str(root / "models"),
        "ingest": {"identity_pattern": r"^(\d{3})"},
        "superresolve": {"model": str(root / "network.safetensors")},
        "finetune": {"pretrained": str(root / "nowhere" / "edgeface.safetensors"), "head_epochs": 1, "epochs": 1},
        "split": {"heldout_fraction": 0.5},
        "evaluate": {"probes": "none", "bootstrap": 100},
        "seed": 5,
    }
    return root / "run", run_local(arguments, root / "run", pipeline="low-resolution")


def test_low_resolution_is_measured_against_sharp_photographs(done: tuple[Path, SummaryRecord]) -> None:
    folder, summary = done
    assert summary.pipeline == "low-resolution"
    assert summary.dataset.images == 2 * PEOPLE * PHOTOGRAPHS
    assert "superresolve" in (folder / "run.log").read_text("utf-8")
    assert {"heldout", "heldout_cross", "heldout_clean"} <= summary.baseline.keys() & summary.finetuned.keys()
    (file,) = (folder / "steps").rglob("evaluation.json")
    evaluation = RecognitionEvaluation.read(file)
    assert evaluation.settings.gate.target == "heldout_cross"
    assert evaluation.low_resolution and evaluation.low_resolution.paired and evaluation.low_resolution.alone == 0
    assert evaluation.resolutions
    told = [row.size for row in evaluation.resolutions.rows]
    assert told[-1] == "clean"
    assert {*told, *(row.size for row in evaluation.resolutions.left_out)} == {"10", "14", "20", "clean"}


def test_the_network_goes_with_the_model(done: tuple[Path, SummaryRecord]) -> None:
    folder, _ = done
    model = ModelRecord.read(folder / "model" / "model.json")
    assert model.backbone == "sface" and "sface" in str(model.training.fallback)
    kept = open_enlarger(str(folder / "model"))
    assert model.superresolution and (kept.scale, kept.name) == (8, model.superresolution.name)


def test_the_demo_of_low_resolution_makes_a_better_model_and_promotes_it(tmp_path: Path) -> None:
    run, summary, _ = run_demo(tmp_path, "low-resolution")
    assert summary.dataset.images == 800  # each of low resolution and sharp
    assert summary.gate.promoted, summary.gate.reason
    figures: dict[str, Any] = summary.model_dump(mode="json")
    gain = figures["gain"]["heldout_cross"]
    assert gain["auc"]["gain_low"] > 0 and gain["tar"]["gain"] > 0.2
    assert {row["size"] for row in figures["resolutions"]["rows"]} >= {"14", "clean"}
    assert 'id="resolutions"' in (run / "report.html").read_text("utf-8")
