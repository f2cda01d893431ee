"""Markdown of the model cards: tables, figures, and names out of the data made harmless."""

import re
from collections.abc import Sequence

Lines = list[str]


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> Lines:
    """The lines of a table."""
    return [f"| {' | '.join(str(cell) for cell in row)} |" for row in (header, ["---"] * len(header), *rows)]


def percent(share: float | None) -> str:
    """A share in percent, with as many digits as tell a small one from zero."""
    if share is None:
        return "–"
    return f"{100 * share:.2f} %" if share == 0 or share >= 0.001 else f"{100 * share:.2g} %"


def interval(share: float | None, low: float | None, high: float | None) -> str:
    """A share in percent, with its interval where it has one."""
    return percent(share) + ("" if low is None or high is None else f" ({percent(low)} to {percent(high)})")


def points(share: float | None) -> str:
    """A difference in percentage points with its sign."""
    if share is None:
        return "–"
    return f"{round(100 * share, 2) + 0.0:+.2f}".replace("-", "−")  # + 0.0: there is no −0.00


def change(share: float | None, low: float | None, high: float | None) -> str:
    """A difference in percentage points, with its interval where it has one."""
    return points(share) + ("" if low is None or high is None else f" ({points(low)} to {points(high)})")


def text(value: object) -> str:
    """A name out of the data, on one line and without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~&!])", r"\\\1", " ".join(str(value).split()))


def code(value: object) -> str:
    """The same as inline code."""
    return f"`{' '.join(str(value).replace('`', '´').split())}`"
