"""Where the marks of the report's charts lie, in units of their SVG; template.html draws them.

Names and numbers stay plain text here, so that the template's autoescape covers them like all others.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PARTS = {"train": "training", "val": "validation", "heldout": "held out", "excluded": "excluded"}
# In the order of drawing: the baseline is dashed and comes last, so that curves that coincide are all seen.
MODELS = ("finetuned", "champion", "baseline")
KINDS = ("impostor", "genuine")
Points = list[tuple[float, float]]
Interval = tuple[float, float, float]  # a share and the bounds of its interval


@dataclass(frozen=True)
class Frame:
    """Size of a chart and the edges of its plotting area. Small, so that text stays readable on a telephone."""

    width: int = 360
    height: int = 250
    left: int = 46
    right: int = 348
    top: int = 22
    bottom: int = 208


FRAME = Frame()
BAR_HEIGHT, BAR_LEFT, BAR_RIGHT, BARS_IN_PANEL, LABEL_LENGTH = 18, 104, 326, 20, 15
MOST_BINS = 15
SPAN_DISTANCE = 7  # units between the intervals of two models
MAP_LEFT, MAP_TOP, SHADES = 128, 18, 10  # of a heat map: room for names and numbers, and shades of a colour


@dataclass(frozen=True)
class Axis:
    """Maps low…high to start…end of the drawing, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Place of a value, to a tenth of a unit."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


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
    """Curves over two axes; `mark` is the place of a vertical line, dots show each point, and `spans` are intervals:
    style, x, and the two ends (y)."""

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


@dataclass(frozen=True)
class Block:
    """A rectangle of a stacked bar."""

    x: float
    y: float
    width: float
    height: float
    style: str


@dataclass(frozen=True)
class Bar:
    """A row of blocks: its whole name, the label that there is room for, what stands at its end and what it tells."""

    name: str
    label: str
    y: float
    blocks: list[Block]
    end: float
    text: str
    told: str


@dataclass(frozen=True)
class BarPanel:
    """Up to BARS_IN_PANEL bars below each other."""

    height: float
    bars: list[Bar]


@dataclass(frozen=True)
class Histogram:
    """Identities (y) by their number of images (x), stacked."""

    blocks: list[Block]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def nice_step(span: float, most: int) -> float:
    """The least of 1, 2, 5, 10, 20, … (times any power of ten) that divides `span` > 0 into at most `most` steps."""
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * most >= span * (1 - 1e-9))


def roc_chart(roc: dict[str, dict[str, list[float]]], low: float) -> LineChart:
    """The ROC of each model: TAR over FAR on a logarithmic axis.

    Args:
        roc: fmr and tmr (0…1, both rising) by model.
        low: the lowest FAR that the impostor pairs support, where the axis begins; under 1.
    """
    curves = _curves(roc, low)
    least = min(points[0][1] for points in curves.values())
    # Two good models are told apart only where the axis does not begin at 0.
    bottom = max(value for value in (0.0, 0.5, 0.8, 0.9) if value <= least)
    x, y = Axis(low, 1, FRAME.left, FRAME.right, log=True), Axis(bottom, 1, FRAME.bottom, FRAME.top)
    lines = [Line(model, model, [(x.at(fmr), y.at(tmr)) for fmr, tmr in curve]) for model, curve in curves.items()]
    return LineChart("false accept rate (FAR)", "true accept rate", _decades(x), _percent_ticks(y), lines)


def det_chart(roc: dict[str, dict[str, list[float]]], low: float, floor: float) -> LineChart:
    """The detection error trade-off of each model: FNMR over FMR, both logarithmic (ISO/IEC 19795-1).

    Args:
        roc: fmr and tmr (0…1, both rising) by model.
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
    return LineChart("false match rate (FMR)", "false non-match rate (FNMR)", _decades(x), _decades(y), lines)


def _curves(roc: dict[str, dict[str, list[float]]], low: float) -> dict[str, Points]:
    """The part of each model's ROC from a false match rate on, in the order of drawing."""
    return {model: _from(low, roc[model]["fmr"], roc[model]["tmr"]) for model in MODELS if model in roc}


def _decades(axis: Axis) -> list[Tick]:
    """The powers of ten of a logarithmic axis that ends at 1."""
    powers = [10.0**exponent for exponent in range(math.ceil(math.log10(axis.low) - 1e-9), 1)]
    return [Tick(axis.at(rate), f"{rate:g}") for rate in powers]


def _from(low: float, fmr: Sequence[float], tmr: Sequence[float]) -> Points:
    """The part of a ROC from a false match rate on; it begins with the best true match rate up to there."""
    first = max((t for f, t in zip(fmr, tmr, strict=True) if f <= low), default=0.0)
    return [(low, first), *((f, t) for f, t in zip(fmr, tmr, strict=True) if f > low)]


def score_charts(
    histograms: dict[str, dict[str, list[float]]], thresholds: dict[str, float | None]
) -> dict[str, LineChart]:
    """Each model's scores of genuine and impostor pairs as outlined histograms on common axes.

    Args:
        histograms: by model, edges (N + 1, rising) and the pairs counted between them, genuine and impostor (N each).
        thresholds: by model, where the chart is marked; None for no mark. One outside the chart is not marked.
    """
    shares = {
        (model, kind): [count / max(1, sum(told[kind])) for count in told[kind]]
        for model, told in histograms.items()
        for kind in KINDS
    }
    filled = [
        edge
        for (model, _), heights in shares.items()
        for height, *edges in zip(heights, histograms[model]["edges"][:-1], histograms[model]["edges"][1:], strict=True)
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
    for model, told in histograms.items():
        lines = [Line(kind, kind, _outline(told["edges"], shares[model, kind], x, y)) for kind in KINDS]
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
    """A share of each model by size, with its intervals.

    Args:
        sizes: in their order, at least one; they stand at equal distances.
        shares: by style and size; a model may lack some sizes.
        names: of the models by style.
        y_label: what is shared.
    """
    least = min((low for told in shares.values() for _, low, _ in told.values()), default=0.0)
    bottom = max((value for value in (0.5, 0.8, 0.9) if value <= least), default=0.0)
    x, y = Axis(-0.5, len(sizes) - 0.5, FRAME.left, FRAME.right), Axis(bottom, 1, FRAME.bottom, FRAME.top)
    lines, spans = [], []
    for number, (style, told) in enumerate(shares.items()):
        beside = SPAN_DISTANCE * (number - (len(shares) - 1) / 2)  # so that no interval covers another
        points = []
        for place, name in enumerate(sizes):
            if name in told:
                share, low, high = told[name]
                at = round(x.at(place) + beside, 1)
                points.append((at, y.at(share)))
                spans.append((style, at, y.at(low), y.at(high)))
        lines.append(Line(names[style], style, points))
    x_ticks = [Tick(x.at(place), name) for place, name in enumerate(sizes)]
    return LineChart(
        "side of the face's crop", y_label, x_ticks, _percent_ticks(y), lines, dots=True, spans=tuple(spans)
    )


def history_chart(history: list[dict[str, Any]], figure: str) -> LineChart:
    """Training and validation by epoch.

    Args:
        history: at least one epoch with epoch, stage, train_<figure> and val_<figure>, None or absent where that was
            not measured.
        figure: loss, or a share as accuracy or auc.
    """
    epochs = [row["epoch"] for row in history]
    parts = {"train": "training", "val": "validation"}
    drawn: dict[str, Points] = {
        part: [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
        for part, key in ((part, f"{part}_{figure}") for part in parts)
    }
    values = [value for points in drawn.values() for _, value in points]
    x = Axis(epochs[0] - 0.5, epochs[-1] + 0.5, FRAME.left, FRAME.right)
    if figure != "loss":
        y = Axis(0, 1, FRAME.bottom, FRAME.top)
        y_ticks = _percent_ticks(y)
    else:
        step = nice_step(max(values) - min(values) or abs(values[0]) or 1, 5)
        first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
        last = max(last, first + 1)
        y = Axis(first * step, last * step, FRAME.bottom, FRAME.top)
        y_ticks = [Tick(y.at(index * step), f"{index * step:g}") for index in range(first, last + 1)]
    every = max(1, round(nice_step(len(epochs), 8)))
    second = next((row["epoch"] for row in history if row["stage"] == 2), None)
    return LineChart(
        "epoch",
        "",
        [Tick(x.at(epoch), str(epoch)) for epoch in epochs[::every]],
        y_ticks,
        [
            Line(name, part, [(x.at(epoch), y.at(value)) for epoch, value in drawn[part]])
            for part, name in parts.items()
            if drawn[part]
        ],
        mark=x.at(second - 0.5) if second is not None and second > epochs[0] else None,
        dots=len(epochs) <= 40,
    )


def identity_panels(people: dict[str, Counter[str]]) -> list[BarPanel]:
    """Images of each identity by split as bars, most images first, divided into panels of equal length."""
    ranked = sorted(people, key=lambda name: (-people[name].total(), _natural(name), name))
    x = Axis(0, people[ranked[0]].total(), BAR_LEFT, BAR_RIGHT)
    return _panels(ranked, lambda name, y: _stacked(name, people[name], x, y))


def pair_panels(pairs: Mapping[str, tuple[float | None, float | None]], styles: tuple[str, str]) -> list[BarPanel]:
    """Two shares of each name as bars below each other, in the order given, divided into panels of equal length.

    Args:
        pairs: shares (0…1) by name, None for one that is not known; at least one name.
        styles: of the first and of the second bar.
    """
    shares = [share for pair in pairs.values() for share in pair if share is not None]
    # Figures such as an AUC fill the width up to 1; the shares of rare labels may all be small.
    x = Axis(0, 1 if max(shares, default=1) > 0.5 else max(shares) or 1, BAR_LEFT, BAR_RIGHT)
    return _panels(list(pairs), lambda name, y: _paired(name, pairs[name], styles, x, y))


def _panels(names: list[str], bar: Callable[[str, float], Bar]) -> list[BarPanel]:
    """Bars by name and place, divided into panels of equal length."""
    length = math.ceil(len(names) / math.ceil(len(names) / BARS_IN_PANEL))
    parts = [names[start : start + length] for start in range(0, len(names), length)]
    return [
        BarPanel(len(part) * BAR_HEIGHT, [bar(name, index * BAR_HEIGHT) for index, name in enumerate(part)])
        for part in parts
    ]


def _stacked(name: str, images: Counter[str], x: Axis, y: float) -> Bar:
    blocks, done = [], 0
    for part in PARTS:
        if images[part]:
            width = round(x.at(done + images[part]) - x.at(done), 1)
            blocks.append(Block(x.at(done), y + 3, width, BAR_HEIGHT - 6, part))
            done += images[part]
    told = ", ".join(f"{images[part]} {PARTS[part]}" for part in PARTS if images[part])
    return Bar(name, shortened(name, LABEL_LENGTH), y, blocks, x.at(done), str(done), told)


def _paired(name: str, pair: tuple[float | None, float | None], styles: tuple[str, str], x: Axis, y: float) -> Bar:
    height = (BAR_HEIGHT - 6) / 2
    blocks = [
        Block(BAR_LEFT, y + 3 + place * height, round(x.at(share) - BAR_LEFT, 1), height, styles[place])
        for place, share in enumerate(pair)
        if share is not None
    ]
    end = max((block.x + block.width for block in blocks), default=BAR_LEFT)
    shown = ["–" if share is None else f"{100 * share:.1f}" for share in pair]
    return Bar(name, shortened(name, LABEL_LENGTH), y, blocks, end, shown[1], f"{shown[0]} % → {shown[1]} %")


def shortened(name: str, length: int) -> str:
    """A name that has at most so many letters."""
    return name if len(name) <= length else name[: length - 1] + "…"


@dataclass(frozen=True)
class Shade:
    """All cells of a heat map that have one colour, as one path."""

    style: str
    opacity: float
    path: str


@dataclass(frozen=True)
class HeatMap:
    """A square of cells with a name before each row and the number of the name above each column."""

    width: float
    height: float
    shades: list[Shade]
    rows: list[tuple[float, str]]
    columns: list[Tick]
    texts: list[tuple[float, float, str]]


def heat_map(
    names: Sequence[str], values: Sequence[Sequence[float | None]], texts: Sequence[Sequence[str]] | None = None
) -> HeatMap:
    """Cells coloured by value: over 0 above, under 0 below, the stronger the further from it.

    Equal colours are one path, so that 40×40 cells take some 30 kB.

    Args:
        names: of the N rows and columns, at least one.
        values: N×N, −1…1; None where there is none to tell.
        texts: N×N to stand in the cells, which then are larger and paler; None for none.
    """
    cell = 15 if texts is None else 28
    paths: dict[tuple[str, int], list[str]] = {}
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            level = -1 if value is None else math.ceil(round(SHADES * abs(value), 6))
            if level:
                style = "absent" if value is None else "above" if value > 0 else "below"
                place = f"M{MAP_LEFT + column * cell} {MAP_TOP + row * cell}h{cell - 1}v{cell - 1}h{1 - cell}z"
                paths.setdefault((style, level), []).append(place)
    strongest = 1 if texts is None else 0.5  # a number must be legible on its colour
    middle = round(0.5 * cell + 4)
    return HeatMap(
        MAP_LEFT + len(names) * cell,
        MAP_TOP + len(names) * cell,
        [
            Shade(style, 1 if style == "absent" else round(strongest * level / SHADES, 2), "".join(path))
            for (style, level), path in sorted(paths.items())
        ],
        [
            (MAP_TOP + row * cell + middle, f"{row + 1} {shortened(name, LABEL_LENGTH)}")
            for row, name in enumerate(names)
        ],
        # Two digits are wider than a small cell.
        [
            Tick(MAP_LEFT + (column + 0.5) * cell, str(column + 1))
            for column in range(0, len(names), 1 if texts is not None or len(names) < 10 else 2)
        ],
        [
            (MAP_LEFT + (column + 0.5) * cell, MAP_TOP + row * cell + middle, text)
            for row, line in enumerate(texts or ())
            for column, text in enumerate(line)
            if text
        ],
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts s2 before s10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def histogram(people: dict[str, Counter[str]]) -> Histogram:
    """How many identities have how many images, stacked by what they are for: train, heldout or excluded.

    The bins reach to the 95th percentile; the last one holds all that have more.
    """
    sizes = sorted(images.total() for images in people.values())
    usual = sizes[int(0.95 * (len(sizes) - 1))]
    width = max(1, round(nice_step(usual, MOST_BINS)))
    bins = math.ceil(usual / width)
    more = sizes[-1] > bins * width
    counts = [Counter[str]() for _ in range(bins + more)]
    for images in people.values():
        role = next((part for part in ("train", "heldout") if part in images), "excluded")
        counts[min((images.total() - 1) // width, bins + more - 1)][role] += 1
    step = max(1.0, nice_step(max(count.total() for count in counts), 5))
    top = math.ceil(max(count.total() for count in counts) / step)
    x = Axis(0, len(counts), FRAME.left, FRAME.right)
    y = Axis(0, top * step, FRAME.bottom, FRAME.top)
    labels = [
        f"{first + 1}" if width == 1 else f"{first + 1}–{first + width}" for first in range(0, bins * width, width)
    ]
    every = math.ceil(bins * (1 if width == 1 else 2) / 12)
    shown = {index: labels[index] for index in range(0, bins, every)}
    if more:
        # The last bin's label may need the room of the one before it.
        shown = {index: label for index, label in shown.items() if bins - index >= every}
        shown[bins] = f">{bins * width}"
    return Histogram(
        [block for index, count in enumerate(counts) for block in _column(index, count, x, y)],
        [Tick(x.at(index + 0.5), label) for index, label in shown.items()],
        [Tick(y.at(index * step), f"{index * step:g}") for index in range(top + 1)],
    )


def _column(index: int, count: Counter[str], x: Axis, y: Axis) -> list[Block]:
    blocks, done = [], 0
    left, width = x.at(index + 0.08), round(x.at(index + 0.92) - x.at(index + 0.08), 1)
    for part in ("train", "heldout", "excluded"):
        if count[part]:
            height = round(y.at(done) - y.at(done + count[part]), 1)
            done += count[part]
            blocks.append(Block(left, y.at(done), width, height, part))
    return blocks


def _percent_ticks(axis: Axis) -> list[Tick]:
    values = [axis.low + (axis.high - axis.low) * index / 5 for index in range(6)]
    return [Tick(axis.at(value), f"{100 * value:.0f} %") for value in values]
