"""Positions of a histogram's bars, in units of its SVG; template.html draws them."""

from dataclasses import dataclass

from kubeface.records.findings import Histogram

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 190, 8, 352, 24, 150
MOST_LABELS = 7


@dataclass(frozen=True)
class Bar:
    """One bin: its rectangle, and a text with its limits and its number of images."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A histogram: bars of equal width whatever the bins span, and labels (x, text) at the cuts."""

    name: str
    label: str
    bars: list[Bar]
    labels: list[tuple[float, str]]
    most: int
    quantiles: dict[str, float]


def make_chart(name: str, histogram: Histogram) -> Chart:
    """The chart of a histogram; empty bins at the two ends are left out."""
    cuts, counts = histogram.cuts, histogram.counts
    filled = [number for number, count in enumerate(counts) if count] or [0]
    first, last = filled[0], filled[-1]
    most = max(1, *counts[first : last + 1])
    step = (RIGHT - LEFT) / (last - first + 1)
    bars = []
    for number in range(first, last + 1):
        height = round(counts[number] / most * (BOTTOM - TOP), 1)
        x = round(LEFT + (number - first) * step, 1)
        text = _bin_text(cuts, number, counts[number])
        bars.append(Bar(x + 1, round(BOTTOM - height, 1), round(step - 2, 1), height, text))
    inner = range(first + 1, last + 1)  # the cut below bin n is cuts[n − 1]
    every = -(-len(inner) // MOST_LABELS) or 1
    labels = [(round(LEFT + (number - first) * step, 1), f"{cuts[number - 1]:g}") for number in inner[::every]]
    return Chart(name, histogram.label, bars, labels, most, histogram.quantiles)


def _bin_text(cuts: list[int | float], number: int, count: int) -> str:
    """Limits and count of a bin."""
    if number == 0:
        return f"below {cuts[0]:g}: {count:,}"
    if number == len(cuts):
        return f"{cuts[-1]:g} and above: {count:,}"
    return f"{cuts[number - 1]:g} to below {cuts[number]:g}: {count:,}"
