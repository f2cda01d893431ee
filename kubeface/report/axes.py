"""Axes of the report's charts, in units of their SVG, which the templates draw."""

import math
from dataclasses import dataclass

Points = list[tuple[float, float]]
LABEL_LENGTH = 15  # letters of a label that there is room for


@dataclass(frozen=True)
class Frame:
    """Size of a chart and the edges of its plotting area; small, so that text stays readable on a telephone."""

    width: int = 360
    height: int = 250
    left: int = 46
    right: int = 348
    top: int = 22
    bottom: int = 208


FRAME = Frame()


@dataclass(frozen=True)
class Axis:
    """Maps low…high to start…end of the drawing, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Position of a value, to a tenth of a unit."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


def nice_step(span: float, most: int) -> float:
    """The least of 1, 2, 5, 10, 20, … (times any power of ten) that divides `span` > 0 into at most `most` steps."""
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * most >= span * (1 - 1e-9))


def percent_ticks(axis: Axis) -> list[Tick]:
    """Six marks in percent, at equal distances."""
    values = [axis.low + (axis.high - axis.low) * index / 5 for index in range(6)]
    return [Tick(axis.at(value), f"{100 * value:.0f} %") for value in values]


def decade_ticks(axis: Axis) -> list[Tick]:
    """The powers of ten of a logarithmic axis that ends at 1."""
    powers = [10.0**exponent for exponent in range(math.ceil(math.log10(axis.low) - 1e-9), 1)]
    return [Tick(axis.at(rate), f"{rate:g}") for rate in powers]


def shortened(name: str, length: int = LABEL_LENGTH) -> str:
    """A name cut to at most `length` letters."""
    return name if len(name) <= length else name[: length - 1] + "…"
