"""Where the bars of a histogram lie, in units of its SVG; template.html draws them."""

from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 190, 8, 352, 24, 150
MOST_LABELS = 7


@dataclass(frozen=True)
class Bar:
    """One bin: its place, what it reaches from and to, and its number of images."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A histogram: bars of equal width whatever the bins span, and labels (place, text) at the cuts."""

    name: str
    label: str
    bars: list[Bar]
    labels: list[tuple[float, str]]
    most: int
    quantiles: dict[str, float]


def bars(name: str, entry: dict[str, Any]) -> Chart:
    """The chart of one histogram of data.json; bins at the two ends that are empty are left out."""
    cuts, counts = entry["cuts"], entry["counts"]
    filled = [place for place, count in enumerate(counts) if count] or [0]
    first, last = filled[0], filled[-1]
    most = max(1, *counts[first : last + 1])
    step = (RIGHT - LEFT) / (last - first + 1)
    found = []
    for place in range(first, last + 1):
        height = round(counts[place] / most * (BOTTOM - TOP), 1)
        x = round(LEFT + (place - first) * step, 1)
        text = _span(cuts, place, counts[place])
        found.append(Bar(x + 1, round(BOTTOM - height, 1), round(step - 2, 1), height, text))
    inner = range(first + 1, last + 1)  # the cut below bin n is cuts[n − 1]
    every = -(-len(inner) // MOST_LABELS) or 1
    labels = [(round(LEFT + (place - first) * step, 1), f"{cuts[place - 1]:g}") for place in inner[::every]]
    return Chart(name, entry["label"], found, labels, most, entry["quantiles"])


def _span(cuts: list[float], place: int, count: int) -> str:
    """What a bin holds, in words."""
    if place == 0:
        return f"below {cuts[0]:g}: {count:,}"
    if place == len(cuts):
        return f"{cuts[-1]:g} and above: {count:,}"
    return f"{cuts[place - 1]:g} to below {cuts[place]:g}: {count:,}"
