"""The report's section on low-resolution faces."""

from pathlib import Path

import pytest

from kubeface.report.axes import FRAME
from kubeface.report.line_charts import size_chart
from kubeface.storage.folders import read_json
from tests.kubeface.report.test_report import Page, page_of
from tests.support.report_runs import MadeRun, add_resolutions, make_run


def section(page: Page) -> str:
    """The text from the section's heading to the next one's."""
    text = " ".join(page.text.replace("\u00a0", " ").split())
    return text[text.rindex("By resolution Of two") :].partition("Degradation probes")[0]


def made(folder: Path, **how: bool) -> MadeRun:
    run = make_run(folder, full=True, lfw=True)
    add_resolutions(run, **how)
    return run


def test_each_size_is_told_before_and_after(tmp_path: Path) -> None:
    run = made(tmp_path)
    page = page_of(run)
    told = section(page)
    for words in (
        "recognises 46.00 % where it takes 1 % of strangers for one person; the baseline 40.00 %. That is +6.00 points "
        "(+1.00 to +11.00): a gain.",
        "On sharp photographs the change is +6.00 points",
        "by the super-resolution network edsr.onnx@12ab34cd56ef",
        "which enlarges 8 times",
        "10 pixels 120 images 12 people baseline, bicubic 55.00 ± 0.40 50.00 57.00 35.00 40.00",
        "fine-tuned, network 66.00 ± 0.40 61.00 68.00 46.00 64.00 +6.00 +1.00 to +11.00",
        "sharp 120 images 12 people baseline 93.00 ± 0.40",
        "0.361, the baseline's on sharp photographs at an FMR of 0.1 % (with flip 0.350)",
        "Too few photographs to measure (their number): 28 pixels (3).",
        "Labeled Faces in the Wild by size",
        "Each, from left to right: bicubic, network, sharp.",
    ):
        assert words in told, words
    pictures = [image for image in page.all("img") if "Held-out face" in (image["alt"] or "")]
    assert len(pictures) == 3 * 4
    assert "Low resolution against sharp: genuine pairs" in " ".join(page.text.split())
    assert "#resolutions" in {link["href"] for link in page.all("a")}
    told = " ".join(page.text.split())
    assert "Calibrated on the set “Held-out people, noise:60 against clean crops”: 7,800 impostor" in told
    summary = read_json(run.summary)
    assert [row["size"] for row in summary["resolutions"]["rows"]] == ["10", "14", "20", "clean"]
    assert summary["low_resolution"]["superresolver"] == "edsr.onnx@12ab34cd56ef"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.02, 0.05, "no difference that these people are enough to prove"), (-0.1, -0.01, "a loss")],
)
def test_what_is_not_proven_is_not_called_a_gain(tmp_path: Path, low: float, high: float, verdict: str) -> None:
    run = made(tmp_path)
    measured = run.evaluation()["resolutions"]
    measured["rows"][0]["cross"]["gain"]["tar"] |= {"gain_low": low, "gain_high": high}
    run.change_evaluation(resolutions=measured)
    assert f"): {verdict}." in section(page_of(run))


def test_of_a_cameras_pairs_no_enlarging_is_told(tmp_path: Path) -> None:
    told = section(page_of(made(tmp_path, paired=True, network=False)))
    assert "taken by a camera" in told and "baseline, as taken" in told
    assert "2 images without their other half were left out" in told
    assert "bicubic" not in told and "network" not in told
    assert "Each, from left to right: low resolution, sharp." in told


def test_without_low_resolution_there_is_no_section(tmp_path: Path) -> None:
    run = make_run(tmp_path, full=True)
    page = page_of(run)
    assert "By resolution" not in page.text and not {"low_resolution", "resolutions"} & set(read_json(run.summary))


def test_the_chart_has_an_interval_for_each_size_and_model_inside_its_frame() -> None:
    shares = {
        "baseline": {"10 pixels": (0.55, 0.52, 0.58), "sharp": (0.9, 0.88, 0.93)},
        "finetuned": {"10 pixels": (0.7, 0.66, 0.75), "sharp": (0.91, 0.9, 0.92)},
    }
    chart = size_chart(["10 pixels", "sharp"], shares, {"baseline": "before", "finetuned": "after"}, "share")
    assert [tick.label for tick in chart.x_ticks] == ["10 pixels", "sharp"]
    assert len(chart.spans) == 4 and len({x for _, x, _, _ in chart.spans}) == 4  # none covers another
    for style, x, low, high in chart.spans:
        assert FRAME.left <= x <= FRAME.right and FRAME.top <= high < low <= FRAME.bottom
        line = next(line for line in chart.lines if line.style == style)
        assert any(at == x and high < y < low for at, y in line.points)
