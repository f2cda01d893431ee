"""Progress lines and the bar."""

import io
import re
import time
from typing import Any

import pytest

from kubeface.runtime import progress as progress_module
from kubeface.runtime.progress import Progress

LINE = re.compile(r"^align: (\d+)(?:/(\d+) (\d+) %)? images, (\d+\.\d)/s, (.*)$")


def lines(capsys: pytest.CaptureFixture[str]) -> list[tuple[Any, ...]]:
    captured = capsys.readouterr()
    assert captured.out == ""  # standard output belongs to the figures
    matches = [LINE.match(line) for line in captured.err.splitlines()]
    assert all(matches)
    return [match.groups() for match in matches if match]


def test_lines_count_and_give_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("align", 40, interval=0) as progress:
        time.sleep(0.05)
        progress.advance(10)
        progress.advance(note="loss 0.5")
        progress.advance(29)
    first, second, third, last = lines(capsys)
    assert [line[:3] for line in (first, second, third, last)] == [
        ("10", "40", "25"),
        ("11", "40", "28"),
        ("40", "40", "100"),
        ("40", "40", "100"),
    ]
    assert 0 < float(first[3]) <= 200
    assert first[4].startswith("ETA ")
    assert second[4].endswith(" loss 0.5")
    assert third[4] == "ETA 0 s"
    assert re.fullmatch(r"in \d+\.\d s", last[4])


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("align", 20) as progress:
        clock.now += 10
        progress.advance(5)
        clock.now += 10
    assert [line[3:] for line in lines(capsys)] == [("0.5", "ETA 30 s"), ("0.2", "in 20.0 s")]


def test_lines_come_at_intervals(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("align", None, interval=5, quiet_end=True) as progress:
        for _ in range(120):
            clock.now += 0.125
            progress.advance()
    assert [(line[0], line[4]) for line in lines(capsys)] == [(str(n), "ETA unknown") for n in (40, 80, 120)]


def test_without_a_total_there_is_no_share(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("align", None, interval=0, quiet_end=True) as progress:
        progress.advance(3)
    with Progress("align", 0):
        pass
    assert [line[:3] for line in lines(capsys)] == [("3", None, None), ("0", None, None)]


def test_no_closing_line_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), Progress("align", 5) as progress:
        progress.advance()
        raise ValueError("broken")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("align", 4) as progress:
        progress.advance(3, "loss 0.5")
    shown = terminal.getvalue()
    assert "align:  75%" in shown
    assert "3/4" in shown
    assert "\r" in shown
