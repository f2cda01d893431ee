"""Line charts: ROC, DET, score histograms, figures by size, training curves.

Names and numbers stay plain text, so that the templates' autoescape covers them like all others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubeface.metrics.figures import RocPoints, ScoreHistogram
from kubeface.report.axes import FRAME, Axis, Points, Tick, decade_ticks, nice_step, percent_ticks
from kubeface.report.run import Epoch

# In the order of drawing: the baseline is dashed and comes last, so that curves that coincide are all seen.
MODELS = ("finetuned", "champion", "baseline")
KINDS = ("impostor", "genuine")
Interval = tuple[float, float, float]  # a share and the bounds of its interval
SPAN_DISTANCE = 7  # units between the intervals of two models


@dataclass(frozen=True)
class Line:
    """A curve; `style` is its class in the template's style sheet."""

    name: str
    style: str
    points: Points

    @property
    def path(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)


@dataclass(frozen=True)
class LineChart:
    """Curves over two axes, in the order of drawing; `mark` is where a vertical line stands, `dots` whether each point
    has
    one, and `spans` are vertical intervals: style, x, and both ends (y).
    """

    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    mark: float | None = None
    dots: bool = False
    spans: tuple[tuple[str, float, float, float], ...] = ()

    @property
    def legend(self) -> dict[str, str]:
        """The curves' names by style."""
        return {line.style: line.name for line in self.lines}


def roc_chart(roc: Mapping[str, RocPoints], low: float) -> LineChart:
    """The ROC of each model: TAR over FAR on a logarithmic axis, which begins at `low` < 1, the lowest FAR that the
    impostor
    pairs support.
    """
    curves = _curves(roc, low)
    least = min(points[0][1] for points in curves.values())
    # Two good models are told apart only where the axis does not begin at 0.
    bottom = max(value for value in (0.0, 0.5, 0.8, 0.9) if value <= least)
    x, y = Axis(low, 1, FRAME.left, FRAME.right, log=True), Axis(bottom, 1, FRAME.bottom, FRAME.top)
    lines = [Line(model, model, [(x.at(fmr), y.at(tmr)) for fmr, tmr in curve]) for model, curve in curves.items()]
    return LineChart("false accept rate (FAR)", "true accept rate", decade_ticks(x), percent_ticks(y), lines)


def det_chart(roc: Mapping[str, RocPoints], low: float, floor: float) -> LineChart:
    """The detection error trade-off of each model: FNMR over FMR, both logarithmic (ISO/IEC 19795-1).

    Args:
        roc: points by model.
        low: the lowest FMR that the impostor pairs support, where the horizontal axis begins; under 1.
        floor: the lowest FNMR that the genuine pairs support, where the vertical axis begins; under 1. What lies
            below it, a rate of 0 too, is drawn at it.
    """
    x = Axis(low, 1, FRAME.left, FRAME.right, log=True)
    y = Axis(floor, 1, FRAME.bottom, FRAME.top, log=True)
    lines = [
        Line(model, model, [(x.at(fmr), y.at(max(1 - tmr, floor))) for fmr, tmr in curve])
        for model, curve in _curves(roc, low).items()
    ]
    return LineChart("false match rate (FMR)", "false non-match rate (FNMR)", decade_ticks(x), decade_ticks(y), lines)


def _curves(roc: Mapping[str, RocPoints], low: float) -> dict[str, Points]:
    """The part of each model's ROC above a false match rate, in the order of drawing."""
    return {model: _above(low, roc[model].fmr, roc[model].tmr) for model in MODELS if model in roc}


def _above(low: float, fmr: Sequence[float], tmr: Sequence[float]) -> Points:
    """The part of a ROC above a false match rate; it begins with the best true match rate up to there."""
    first = max((t for f, t in zip(fmr, tmr, strict=True) if f <= low), default=0.0)
    return [(low, first), *((f, t) for f, t in zip(fmr, tmr, strict=True) if f > low)]


def score_charts(
    histograms: Mapping[str, ScoreHistogram], thresholds: Mapping[str, float | None]
) -> dict[str, LineChart]:
    """Each model's scores of genuine and impostor pairs as outlined histograms on common axes.

    A chart is marked at its model's threshold, unless that is None or lies outside.
    """
    shares = {
        (model, kind): [count / max(1, sum(counts)) for count in counts]
        for model, histogram in histograms.items()
        for kind, counts in (("impostor", histogram.impostor), ("genuine", histogram.genuine))
    }
    filled = [
        edge
        for (model, _), heights in shares.items()
        for height, *edges in zip(heights, histograms[model].edges[:-1], histograms[model].edges[1:], strict=True)
        if height
        for edge in edges
    ]
    low, high = min(filled, default=-1.0), max(filled, default=1.0)
    highest = max((height for heights in shares.values() for height in heights), default=0) or 1.0
    up, across = nice_step(highest, 5), nice_step(high - low, 6)
    steps = math.ceil(highest / up - 1e-9)
    x, y = Axis(low, high, FRAME.left, FRAME.right), Axis(0, steps * up, FRAME.bottom, FRAME.top)
    first, last = math.ceil(low / across - 1e-9), math.floor(high / across + 1e-9)
    x_ticks = [Tick(x.at(index * across), f"{index * across + 0.0:g}") for index in range(first, last + 1)]
    y_ticks = [Tick(y.at(index * up), f"{100 * index * up:g} %") for index in range(steps + 1)]
    charts = {}
    for model, histogram in histograms.items():
        lines = [Line(kind, kind, _outline(histogram.edges, shares[model, kind], x, y)) for kind in KINDS]
        threshold = thresholds.get(model)
        mark = x.at(threshold) if threshold is not None and low <= threshold <= high else None
        charts[model] = LineChart("cosine similarity", "share of the pairs of a kind", x_ticks, y_ticks, lines, mark)
    return charts


def _outline(edges: Sequence[float], heights: Sequence[float], x: Axis, y: Axis) -> Points:
    """The outline of a histogram's bars that have a height, from the axis up and back to it."""
    filled = [index for index, height in enumerate(heights) if height]
    if not filled:
        return []
    bins = range(filled[0], filled[-1] + 1)
    corners = [(x.at(edges[index + side]), y.at(heights[index])) for index in bins for side in (0, 1)]
    return [(corners[0][0], y.at(0)), *corners, (corners[-1][0], y.at(0))]


def size_chart(
    sizes: Sequence[str], shares: Mapping[str, Mapping[str, Interval]], names: Mapping[str, str], y_label: str
) -> LineChart:
    """A share of each model by style and size, with its intervals; sizes, of which a model may lack some, stand at
    equal
    distances.
    """
    least = min((low for by_size in shares.values() for _, low, _ in by_size.values()), default=0.0)
    bottom = max((value for value in (0.5, 0.8, 0.9) if value <= least), default=0.0)
    x, y = Axis(-0.5, len(sizes) - 0.5, FRAME.left, FRAME.right), Axis(bottom, 1, FRAME.bottom, FRAME.top)
    lines, spans = [], []
    for number, (style, by_size) in enumerate(shares.items()):
        offset = SPAN_DISTANCE * (number - (len(shares) - 1) / 2)  # so that no interval covers another
        points = []
        for index, name in enumerate(sizes):
            if name in by_size:
                share, low, high = by_size[name]
                at = round(x.at(index) + offset, 1)
                points.append((at, y.at(share)))
                spans.append((style, at, y.at(low), y.at(high)))
        lines.append(Line(names[style], style, points))
    x_ticks = [Tick(x.at(index), name) for index, name in enumerate(sizes)]
    return LineChart(
        "side of the face's crop", y_label, x_ticks, percent_ticks(y), lines, dots=True, spans=tuple(spans)
    )


def history_chart(history: Sequence[Epoch], figure: str) -> LineChart:
    """Training and validation of at least one epoch: the loss, or a share (accuracy, auc); what was not measured is not
    drawn.
    """
    epochs = [row.epoch for row in history]
    parts = {"train": "training", "val": "validation"}
    curves: dict[str, Points] = {
        part: [(row.epoch, value) for row in history if (value := row.figure(part, figure)) is not None]
        for part in parts
    }
    x = Axis(epochs[0] - 0.5, epochs[-1] + 0.5, FRAME.left, FRAME.right)
    if figure == "loss":
        y, y_ticks = _loss_axis([value for points in curves.values() for _, value in points])
    else:
        y = Axis(0, 1, FRAME.bottom, FRAME.top)
        y_ticks = percent_ticks(y)
    every = max(1, round(nice_step(len(epochs), 8)))
    second = next((row.epoch for row in history if row.stage == 2), None)
    return LineChart(
        "epoch",
        "",
        [Tick(x.at(epoch), str(epoch)) for epoch in epochs[::every]],
        y_ticks,
        [
            Line(name, part, [(x.at(epoch), y.at(value)) for epoch, value in curves[part]])
            for part, name in parts.items()
            if curves[part]
        ],
        mark=x.at(second - 0.5) if second is not None and second > epochs[0] else None,
        dots=len(epochs) <= 40,
    )


def _loss_axis(values: Sequence[float]) -> tuple[Axis, list[Tick]]:
    step = nice_step(max(values) - min(values) or abs(values[0]) or 1, 5)
    first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
    last = max(last, first + 1)
    axis = Axis(first * step, last * step, FRAME.bottom, FRAME.top)
    return axis, [Tick(axis.at(index * step), f"{index * step:g}") for index in range(first, last + 1)]
