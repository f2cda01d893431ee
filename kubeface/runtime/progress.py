"""Progress of a step: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Counts what a step has done and shows it with a rate and the time left.

    Args:
        step: name shown in front.
        total: number of units, None where it is not known in advance.
        unit: plural noun of what is counted.
        interval: seconds between lines where standard error is not a terminal.
        quiet_end: no closing line, for a caller that prints its own.
    """

    def __init__(
        self, step: str, total: int | None, unit: str = "images", interval: float = 5.0, quiet_end: bool = False
    ) -> None:
        self.step, self.total, self.unit, self.interval = step, total, unit, interval
        self.quiet_end = quiet_end
        self.done = 0
        self._start = self._last = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=step, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True, leave=not quiet_end)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and not self.quiet_end:
            self._line(finished=True)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Adds `count` units; `note` is shown behind the figures."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            self._line(note=note)

    def _line(self, note: str = "", finished: bool = False) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = self.done / seconds
        share = f"/{self.total} {100 * self.done / self.total:.0f} %" if self.total else ""
        if finished:
            ending = f"in {seconds:.1f} s"
        elif self.total and rate > 0:
            ending = f"ETA {(self.total - self.done) / rate:.0f} s"
        else:
            ending = "ETA unknown"
        print(
            f"{self.step}: {self.done}{share} {self.unit}, {rate:.1f}/s, {ending}{' ' + note if note else ''}",
            file=sys.stderr,
            flush=True,
        )
