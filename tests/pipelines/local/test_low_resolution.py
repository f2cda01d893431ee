"""Faces of few pixels as kfp.local runs them, whole: pairs in, enlarged by a network, measured few against sharp."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kubeface.models.superresolution import open_enlarger
from kubeface.models.superresolution_networks import Enlarging, save_network
from kubeface.superresolve.degradation import degrade
from pipelines.local.run import run_local

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PEOPLE, PHOTOGRAPHS = 8, 4


@pytest.fixture(scope="module")
def done(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and summary of a run on pairs; EdgeFace's weights are nowhere to be had."""
    root = tmp_path_factory.mktemp("low")
    for person in range(1, PEOPLE + 1):
        for number in range(1, PHOTOGRAPHS + 1):
            path = root / "sharp" / f"{person:03d}_{number}.pgm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orl[f"s{person}/{number}.pgm"])
    degrade(str(root / "sharp"), root / "pairs")
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


def test_few_pixels_are_measured_against_sharp_photographs(done: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = done
    assert summary["pipeline"] == "low-resolution"
    assert summary["dataset"]["images"] == 2 * PEOPLE * PHOTOGRAPHS
    assert "superresolve" in (folder / "run.log").read_text("utf-8")
    for which in ("baseline", "finetuned"):
        assert {"heldout", "heldout_cross", "heldout_clean"} <= summary[which].keys()
    (file,) = (folder / "steps").rglob("evaluation.json")
    evaluation = json.loads(file.read_text("utf-8"))
    assert evaluation["settings"]["gate"]["target"] == "heldout_cross"
    assert evaluation["low_resolution"]["paired"] is True and evaluation["low_resolution"]["alone"] == 0
    told = [row["size"] for row in evaluation["resolutions"]["rows"]]
    assert told[-1] == "clean" and {*told, *(row["size"] for row in evaluation["resolutions"]["left_out"])} == {
        "10", "14", "20", "clean"
    }  # fmt: skip


def test_the_network_goes_with_the_model(done: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = done
    config = json.loads((folder / "model" / "model.json").read_text("utf-8"))
    assert config["backbone"] == "sface" and "sface" in config["training"]["fallback"]
    kept = open_enlarger(str(folder / "model"))
    assert (kept.scale, kept.name) == (8, config["superresolution"]["name"])
