"""Where the marks of the charts lie."""

from collections import Counter

import pytest

from kubeface.metrics.figures import RocPoints, ScoreHistogram
from kubeface.report.axes import FRAME, Tick, nice_step
from kubeface.report.bar_charts import histogram, identity_panels
from kubeface.report.heat_map import heat_map
from kubeface.report.line_charts import det_chart, history_chart, roc_chart, score_charts
from kubeface.report.run import Epoch


def points(fmr: list[float], tmr: list[float]) -> RocPoints:
    return RocPoints(fmr=fmr, tmr=tmr, threshold=[0.0] * len(fmr))


def test_heat_maps_colour_by_sign_and_strength() -> None:
    drawn = heat_map(["a", "b"], [[1.0, -0.35], [None, 0.0]])
    assert {(shade.style, shade.opacity) for shade in drawn.shades} == {("above", 1), ("absent", 1), ("below", 0.4)}
    assert all(shade.path.count("M") == 1 for shade in drawn.shades)  # nothing stands for 0
    assert [label for _, label in drawn.rows] == ["1 a", "2 b"] and not drawn.texts
    numbered = heat_map(["a", "b"], [[1.0, 0.0], [0.0, 1.0]], [["7", ""], ["", "9"]])
    assert [text for _, _, text in numbered.texts] == ["7", "9"]
    assert [shade.opacity for shade in numbered.shades] == [0.5]  # a number must be legible on it


@pytest.mark.parametrize(("span", "most", "step"), [(10, 5, 2), (44, 5, 10), (0.3, 5, 0.1), (1, 5, 0.2), (7, 8, 1)])
def test_nice_step(span: float, most: int, step: float) -> None:
    assert nice_step(span, most) == pytest.approx(step)


def test_roc_begins_at_the_lowest_supported_rate() -> None:
    baseline = points([0.0, 0.0005, 0.02, 1.0], [0.0, 0.95, 0.97, 1.0])
    chart = roc_chart({"baseline": baseline, "finetuned": baseline}, 0.001)
    assert [tick.label for tick in chart.x_ticks] == ["0.001", "0.01", "0.1", "1"]
    assert [tick.label for tick in chart.y_ticks][:2] == ["90 %", "92 %"]
    first, *_, last = chart.lines[0].points
    assert first == (FRAME.left, FRAME.bottom - 0.5 * (FRAME.bottom - FRAME.top))
    assert last == (FRAME.right, FRAME.top)


def test_roc_and_det_draw_the_champion_between_the_models() -> None:
    curve = points([0.0, 0.01, 1.0], [0.0, 0.5, 1.0])
    models = ("baseline", "champion", "finetuned")
    for chart in (roc_chart(dict.fromkeys(models, curve), 0.001), det_chart(dict.fromkeys(models, curve), 0.001, 0.01)):
        assert [line.style for line in chart.lines] == ["finetuned", "champion", "baseline"]


def test_det_is_logarithmic_and_stays_on_the_paper() -> None:
    curve = points([0.0, 0.01, 0.1, 1.0], [0.0, 0.9, 0.99, 1.0])
    chart = det_chart({"baseline": curve, "finetuned": curve}, 0.01, 0.001)
    assert [tick.label for tick in chart.y_ticks] == ["0.001", "0.01", "0.1", "1"]
    first, second, last = chart.lines[0].points
    third = (FRAME.bottom - FRAME.top) / 3
    assert first == (FRAME.left, round(FRAME.bottom - 2 * third, 1))  # FNMR 0.1
    assert second[1] == round(FRAME.bottom - third, 1)  # FNMR 0.01
    assert last == (FRAME.right, FRAME.bottom)  # FNMR 0, which has no logarithm


def outlined(genuine: list[int], impostor: list[int]) -> ScoreHistogram:
    return ScoreHistogram(edges=[-1.0, -0.5, 0.0, 0.5, 1.0], genuine=genuine, impostor=impostor)


def test_score_histograms_share_their_axes_and_mark_the_threshold() -> None:
    histograms = {"baseline": outlined([0, 0, 1, 3], [0, 5, 5, 0]), "finetuned": outlined([0, 0, 0, 4], [0, 9, 1, 0])}
    charts = score_charts(histograms, {"baseline": 0.25, "finetuned": -0.9})
    before, after = charts["baseline"], charts["finetuned"]
    assert (before.x_ticks, before.y_ticks) == (after.x_ticks, after.y_ticks)
    assert (before.x_ticks[0], before.x_ticks[-1].label) == (Tick(FRAME.left, "-0.5"), "1")
    assert before.mark == pytest.approx((FRAME.left + FRAME.right) / 2)
    assert after.mark is None  # outside of the scores
    impostor, genuine = after.lines
    assert (impostor.style, genuine.style) == ("impostor", "genuine")
    assert genuine.points[1:3] == [(genuine.points[0][0], FRAME.top), (FRAME.right, FRAME.top)]  # all in one bin
    assert all(line.points[0][1] == FRAME.bottom == line.points[-1][1] for line in (*before.lines, *after.lines))


def test_score_histograms_of_no_pairs_are_empty() -> None:
    charts = score_charts({"baseline": outlined([0] * 4, [0] * 4)}, {"baseline": None})
    assert [line.points for line in charts["baseline"].lines] == [[], []]


@pytest.mark.parametrize("epochs", [1, 2, 100])
@pytest.mark.parametrize("loss", [0.0, 3.0, -2.0])
def test_history_of_any_length_fits_the_frame(epochs: int, loss: float) -> None:
    history = [
        Epoch(epoch=number + 1, stage=2, train_loss=loss, val_loss=loss, train_accuracy=1.0, val_accuracy=0.0)
        for number in range(epochs)
    ]
    for figure in ("loss", "accuracy"):
        chart = history_chart(history, figure)
        assert chart.mark is None and 1 <= len(chart.x_ticks) <= 10
        for line in chart.lines:
            assert all(FRAME.left <= x <= FRAME.right and FRAME.top <= y <= FRAME.bottom for x, y in line.points)


def test_every_identity_has_a_bar() -> None:
    people = {f"s{number}": Counter(train=number, val=2) for number in range(1, 42)}
    panels = identity_panels(people)
    assert [len(panel.bars) for panel in panels] == [14, 14, 13]
    assert panels[0].bars[0].name == "s41" and panels[0].bars[0].text == "43"
    alike = identity_panels({name: Counter(heldout=3) for name in ("s10", "s2", "s1", "t" * 99)})
    assert [bar.label for bar in alike[0].bars] == ["s1", "s2", "s10", "t" * 14 + "…"]


def test_histogram_counts_every_identity_and_gathers_the_long_tail() -> None:
    people = {f"p{number}": Counter(train=1 + number % 9, val=1) for number in range(99)}
    people["famous"] = Counter(heldout=530)
    chart = histogram(people)
    assert chart.x_ticks[-1].label == ">10"
    unit = (FRAME.bottom - FRAME.top) / float(chart.y_ticks[-1].label)
    assert sum(block.height for block in chart.blocks) / unit == pytest.approx(100, abs=1)
    assert [block.style for block in chart.blocks if block.style != "train"] == ["heldout"]
    assert len(histogram({"a": Counter(train=1), "b": Counter(excluded=1)}).blocks) == 2
