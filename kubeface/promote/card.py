"""The model card: what a model is, what it was trained and measured on, and its limits.

After Mitchell et al., "Model cards for model reporting", FAT* 2019, arXiv 1810.03993; the sections are theirs. Their
words are in the templates beside this file.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kubeface.records.data import Erasure
from kubeface.records.evaluation import ClassesEvaluation, Evaluation, RecognitionEvaluation
from kubeface.records.model import ModelRecord

# Figures as the tables call them; others keep their names.
NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "f1": "F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error",
}
MOST_ROWS = 100  # classes that get a row each


def model_card(
    name: str, version: str, model: ModelRecord, evaluation: Evaluation, erasure: Erasure | None = None
) -> str:
    """The card as Markdown; what an evaluation did not measure is left out. `erasure` is what gather left out to be
    forgotten.
    """
    values: dict[str, Sequence[str]] = {}
    if isinstance(evaluation, RecognitionEvaluation):
        searches = (search for models in evaluation.identification.values() for search in models.values())
        values["fars"] = _rates(figures.tar_at_far for figures in evaluation.finetuned.values())
        values["fpirs"] = _rates(search.open.fnir_at_fpir for search in searches)
    if isinstance(evaluation, ClassesEvaluation):
        figures = evaluation.finetuned["heldout"].classes
        values["lowest"] = sorted(evaluation.labels, key=lambda label: (figures[label].f1 or 0, label))[:MOST_ROWS]
    card = _environment().get_template("card.md.jinja")
    text = card.render(title=f"{name} {version}", model=model, evaluation=evaluation, erasure=erasure, **values)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701 (Markdown: `text` and `code` take the meaning out of names)
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {filter_.__name__: filter_ for filter_ in (code, figure_name, number, percent, ratio, text)}
    environment.globals |= {"change": change, "interval": interval}
    return environment


def _rates(figures: Iterable[dict[str, float]]) -> list[str]:
    return sorted({rate for by_rate in figures for rate in by_rate}, key=float, reverse=True)


def figure_name(figure: str) -> str:
    return NAMES.get(figure, figure)


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


def ratio(value: float | None) -> str:
    """How many times as large."""
    return "–" if value is None else f"{value:.2f}"


def number(value: float | Sequence[float]) -> str:
    """A number, or one for each channel."""
    return f"({', '.join(f'{each:g}' for each in value)})" if isinstance(value, Sequence) else f"{value:g}"


def text(value: object) -> str:
    """A name out of the data, on one line and without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~&!])", r"\\\1", " ".join(str(value).split()))


def code(value: object) -> str:
    """The same as inline code."""
    return f"`{' '.join(str(value).replace('`', '´').split())}`"
