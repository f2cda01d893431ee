"""Bar charts: images of each identity, figures of each label, and the histogram of identities by images."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kubeface.report.axes import FRAME, Axis, Tick, nice_step, shortened

PARTS = {"train": "training", "val": "validation", "heldout": "held out", "excluded": "excluded"}
BAR_HEIGHT, BAR_LEFT, BAR_RIGHT, BARS_IN_PANEL = 18, 104, 326, 20
MOST_BINS = 15


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
    """A row of blocks below `y`, with `text` at their `end`; `label` is the part of the name that there is room for."""

    name: str
    label: str
    y: float
    blocks: list[Block]
    end: float
    text: str
    description: str


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


def identity_panels(people: dict[str, Counter[str]]) -> list[BarPanel]:
    """Images of each identity by split as bars, most images first, divided into panels of equal length."""
    ranked = sorted(people, key=lambda name: (-people[name].total(), _natural(name), name))
    x = Axis(0, people[ranked[0]].total(), BAR_LEFT, BAR_RIGHT)
    return _panels(ranked, lambda name, y: _stacked(name, people[name], x, y))


def pair_panels(pairs: Mapping[str, tuple[float | None, float | None]], styles: tuple[str, str]) -> list[BarPanel]:
    """Two shares of each name as bars below each other, in the order given, divided into panels of equal length.

    Shares are 0…1, None for one that is not known, of at least one name; `styles` are of the first and the second bar.
    """
    shares = [share for pair in pairs.values() for share in pair if share is not None]
    # Figures such as an AUC fill the width up to 1; the shares of rare labels may all be small.
    x = Axis(0, 1 if max(shares, default=1) > 0.5 else max(shares) or 1, BAR_LEFT, BAR_RIGHT)
    return _panels(list(pairs), lambda name, y: _paired(name, pairs[name], styles, x, y))


def _panels(names: list[str], bar: Callable[[str, float], Bar]) -> list[BarPanel]:
    """Bars of the names, which `bar` makes at an upper edge, divided into panels of equal length."""
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
    description = ", ".join(f"{images[part]} {PARTS[part]}" for part in PARTS if images[part])
    return Bar(name, shortened(name), y, blocks, x.at(done), str(done), description)


def _paired(name: str, pair: tuple[float | None, float | None], styles: tuple[str, str], x: Axis, y: float) -> Bar:
    height = (BAR_HEIGHT - 6) / 2
    blocks = [
        Block(BAR_LEFT, y + 3 + row * height, round(x.at(share) - BAR_LEFT, 1), height, styles[row])
        for row, share in enumerate(pair)
        if share is not None
    ]
    end = max((block.x + block.width for block in blocks), default=BAR_LEFT)
    shown = ["–" if share is None else f"{100 * share:.1f}" for share in pair]
    return Bar(name, shortened(name), y, blocks, end, shown[1], f"{shown[0]} % → {shown[1]} %")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts s2 before s10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def histogram(people: dict[str, Counter[str]]) -> Histogram:
    """How many identities have how many images, stacked by their use: train, heldout or excluded.

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
