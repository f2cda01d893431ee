"""Heat maps: a square of coloured cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kubeface.report.axes import Tick, shortened

MAP_LEFT, MAP_TOP, SHADES = 128, 18, 10  # room for names and numbers, and shades of a colour


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
        values: N×N, −1…1; None where there is none.
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
        [(MAP_TOP + row * cell + middle, f"{row + 1} {shortened(name)}") for row, name in enumerate(names)],
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
