"""What the benchmarks share: contestants that take turns, the ratios of their rounds, and tables of both.

Each contestant is a process of its own that waits for its turn; the turns go round, so that a slow minute of the
machine hits all alike, and only ratios within a round are compared.
"""

import os
import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pydantic import JsonValue

from kubeface.storage.folders import write_json
from kubeface.tables.table import Table

Details = dict[str, JsonValue]  # what a benchmark's file says beside the figures that have a target


@dataclass(frozen=True)
class Figure:
    """What was measured, over all rounds, and what it is to reach."""

    median: float
    min: float
    max: float
    rounds: int
    target: float

    @classmethod
    def of(cls, values: Sequence[float], target: float) -> "Figure":
        median, least, most = (round(value, 3) for value in (statistics.median(values), min(values), max(values)))
        return cls(median, least, most, len(values), target)


@dataclass(frozen=True)
class Round:
    """What a contestant found: images per second, and what else the benchmark compares."""

    rate: float
    images: int = 0
    threads: int = 0
    kept: Mapping[str, bool] = field(default_factory=dict)


Run = Callable[[int], Round]  # runs the round of this number, from 0


class Contestant:
    """A process of its own that runs what `make` returns there, round by round; it says nothing meanwhile."""

    _run: Run  # in that process

    def __init__(self, environment: Mapping[str, str], make: Callable[..., Run], *arguments: Any) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), Contestant._prepare, (make, *arguments))
        with patch.dict(os.environ, environment, clear=True):
            self.pid = self._pool.submit(os.getpid).result()

    @staticmethod
    def _prepare(make: Callable[..., Run], *arguments: Any) -> None:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        Contestant._run = staticmethod(make(*arguments))

    @staticmethod
    def _round(number: int) -> Round:
        return Contestant._run(number)

    def round(self, number: int) -> Round:
        return self._pool.submit(Contestant._round, number).result()

    def end(self) -> None:
        self._pool.shutdown()


def peak_memory(function: Callable[..., object], *arguments: object) -> float:
    """The most memory in MiB that a process of its own ever holds that calls the function."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()
        return pool.submit(resource.getrusage, resource.RUSAGE_SELF).result().ru_maxrss / 1024


def compete(contestants: Sequence[Contestant], rounds: int) -> list[list[Round]]:
    """What each contestant found in each round; who begins changes from round to round."""
    found: list[list[Round]] = [[] for _ in contestants]
    turns = list(zip(contestants, found, strict=True))
    for number in range(rounds):
        for contestant, results in turns if number % 2 else turns[::-1]:
            results.append(contestant.round(number))
        print(
            f"  round {number}: " + ", ".join(f"{results[-1].rate:.1f}" for results in found) + " images/s", flush=True
        )
    for contestant in contestants:
        contestant.end()
    return found


def ratio(over: Sequence[Round], under: Sequence[Round], target: float) -> Figure:
    return Figure.of([one.rate / other.rate for one, other in zip(over, under, strict=True)], target)


def report(path: Path, figures: Mapping[str, Figure], details: Details | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"ratios": {name: asdict(figure) for name, figure in figures.items()}, **(details or {})})
    print(f"\n{'figure':32} median    min    max  target")
    for name, one in figures.items():
        print(f"{name:32} {one.median:6.2f} {one.min:6.2f} {one.max:6.2f} {one.target:7.2f}")
    print(f"written to {path}")


def rows_of(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    return (row for rows in Table(folder, kind).row_groups() for row in rows)


def orl_faces() -> Iterator[tuple[str, bytes]]:
    """ORL's 400 photographs (Samaria and Harter, WACV 1994) by name: s1/1.pgm …"""
    from tests.conftest import ORL

    return ((name, data) for name, data in sorted(ORL.read_all().items()) if name.endswith(".pgm"))
