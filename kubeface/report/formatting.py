"""Figures as the page writes them; a dash stands for what is not known."""

from collections.abc import Mapping

from kubeface.records.recognition_figures import Compatibility

SPACE = "\u00a0"  # keeps a number and its unit on one line
DASH = "–"
SHARP = "clean"  # what evaluate calls the size of crops that are no low resolution


def percent(share: float | None) -> str:
    """0.8465 as 84.65 %."""
    return DASH if share is None else f"{100 * share:.2f}{SPACE}%"


def rate(share: float | None) -> str:
    """An error rate, which may be small, to three digits: 0.00012 as 0.012 %."""
    return DASH if share is None else f"{100 * share:.3g}{SPACE}%"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, with its sign; +0.00 for what rounds to nothing."""
    return DASH if share is None else f"{round(100 * share, 2) + 0.0:+.2f}".replace("-", "−")


def points_range(low: float | None, high: float | None) -> str:
    """An interval of a difference, in percentage points."""
    return DASH if low is None or high is None else f"{points(low)} to {points(high)}"


def percent_range(low: float | None, high: float | None) -> str:
    """An interval of a share, in percent without the sign."""
    return DASH if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}"


def score(value: float | None) -> str:
    """A similarity or a threshold, to three decimals."""
    return DASH if value is None else f"{value + 0.0:.3f}".replace("-", "−")


def ratio(value: float | None) -> str:
    """How many times as large: 2.5×."""
    return DASH if value is None else f"{value:.3g}×"


def probability(p: float) -> str:
    """A p value with its sign of equality; below 0.0001 only that it is."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}".rstrip("0").rstrip(".")


def plain(value: object) -> str:
    """A setting as one would type it; a dash where it is empty."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return DASH if value in ("", None) else str(value)


def style(change: float, lower_is_better: bool = False) -> str:
    """good or bad for a change that shows at two decimals of a percent, else empty."""
    shown = round(100 * change, 2)
    return "" if shown == 0 else "good" if (shown > 0) != lower_is_better else "bad"


def size_name(size: str) -> str:
    """A size of a crop in words."""
    return "sharp" if size == SHARP else f"{size}{SPACE}pixels"


def flattened(value: object, name: str = "") -> Mapping[str, object]:
    """The values inside nested objects and lists by their path, as `image.digest` or `files.0`."""
    if isinstance(value, dict | list) and value:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        found: dict[str, object] = {}
        for key, entry in entries:
            found |= flattened(entry, f"{name}.{key}" if name else str(key))
        return found
    return {name: value if value not in ({}, []) else None}


def enrolment(compatibility: Compatibility) -> str:
    """Whether a gallery must be enrolled anew, in one sentence."""
    if not compatibility.comparable:
        return f"Enrol the gallery anew: {compatibility.reason}."
    if compatibility.stays:
        return "The gallery can stay: new probes match it about as often as old ones did."
    if compatibility.match_change_high is not None and compatibility.match_change_high < 0:
        return "Enrol the gallery anew: new probes match it less often than old ones did."
    return "Enrol the gallery anew, to be sure: too few matches are certain, or too many impostors match it."
