"""The demos of attributes, classes and low resolution, whole."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run_in

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("which", "figure"), [("attributes", "auc"), ("classes", "accuracy")])
def test_the_other_demos_make_better_models_and_promote_them(tmp_path: Path, which: str, figure: str) -> None:
    told = run_in(tmp_path, "demo", which, timeout=900)
    assert "start:   sface" in told and "features alone" in told
    summary = json.loads((tmp_path / "runs" / "latest" / "summary.json").read_text("utf-8"))
    assert summary["dataset"]["images"] == 400
    assert summary["gate"]["promoted"] is True, summary["gate"]["reason"]
    assert summary["gain"]["heldout"][figure]["gain_low"] > 0
    if which == "classes":
        unknown = summary["finetuned"]["heldout_clean"]["unknown"]
        assert unknown["images"] >= 40 and unknown["refused"] > unknown["known_refused"]
        assert summary["scratch"]["heldout"]["accuracy"] > 0.5  # it has learnt something, or it would be a straw man


@pytest.mark.timeout(1000)
def test_the_demo_of_low_resolution_makes_a_better_model_and_promotes_it(tmp_path: Path) -> None:
    run_in(tmp_path, "demo", "low-resolution", timeout=900)
    run = tmp_path / "runs" / "latest"
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert summary["dataset"]["images"] == 800  # each of low resolution and sharp
    assert summary["gate"]["promoted"] is True, summary["gate"]["reason"]
    gain = summary["gain"]["heldout_cross"]
    assert gain["auc"]["gain_low"] > 0 and gain["tar"]["gain"] > 0.2
    assert {row["size"] for row in summary["resolutions"]["rows"]} >= {"14", "clean"}
    assert 'id="resolutions"' in (run / "report.html").read_text("utf-8")
