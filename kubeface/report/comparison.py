"""Figures before and after, as the pages of all tasks show them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kubeface.metrics.figures import Gain, Gains
from kubeface.records.evaluation import Evaluation, EvaluationRecord, RecognitionEvaluation, SetMeasurement
from kubeface.report.formatting import DASH, percent, percent_range, points, points_range, style

OTHERS = ("champion", "scratch")  # models that an evaluation may hold beside the starting and the fine-tuned one
SENTENCE_NAMES = {"accuracy": "accuracy", "auc": "AUC", "macro_f1": "macro F1"}  # of main figures, in their order


@dataclass(frozen=True)
class Wording:
    """What a task's page calls things; `held` is what was done to identities that were held out."""

    crops: str
    crop: str
    one: str
    many: str
    held: str


@dataclass(frozen=True)
class Section:
    """A section of the page: its heading's id, the words of its link, and whether there is something to show."""

    id: str
    link: str
    present: bool = True


@dataclass(frozen=True)
class Content:
    """What a task puts on the page: its template with values, a further style sheet, and figures of the training to
    draw.
    """

    template: str
    wording: Wording
    sections: Sequence[Section]
    values: Mapping[str, object]
    style: str = ""
    charts: Sequence[str] = ("loss", "accuracy")


@dataclass(frozen=True)
class FigureRow:
    """A figure before and after; shares and intervals are None where there are none.

    `cells` stand before and after, of recognition also both with flip test-time augmentation. `change` is in points;
    `style` is good where it favours the fine-tuned model, bad where not, empty where it does not show. A `tile` is
    shown
    large too, and `others` are the same over other models, by model.
    """

    label: str
    before: float | None
    after: float | None
    cells: Sequence[str]
    change: str
    style: str
    interval: str | None
    after_interval: str | None
    lower_is_better: bool
    tile: bool
    others: Mapping[str, "FigureRow"] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MeasuredSet:
    """A set that was measured on; `flip` tells whether there are figures with flip test-time augmentation, and `others`
    the models in the table beside the starting and the fine-tuned one.
    """

    name: str
    title: str
    rows: Sequence[FigureRow]
    others: Sequence[str]
    flip: bool


def title(name: str, degradation: str, held: str = "Held-out people") -> str:
    """The title of a set; `held` is what was held out."""
    under = "" if degradation == "none" else f" under {degradation}"
    return {"heldout": f"{held}{under}", "heldout_clean": f"{held}, clean crops"}.get(name, name)


def compared_rows(
    evaluation: EvaluationRecord[SetMeasurement],
    name: str,
    rows: Callable[[SetMeasurement, Gains], Sequence[FigureRow]],
) -> tuple[list[FigureRow], list[str]]:
    """The rows of a set's table with those over other models, and the names of these models.

    `rows` makes rows of figures before, and of the gains over them.
    """
    table = list(rows(evaluation.figures_of("baseline")[name], evaluation.gains_over("baseline").get(name, {})))
    others = [model for model in OTHERS if name in evaluation.figures_of(model)]
    for model in others:
        over = rows(evaluation.figures_of(model)[name], evaluation.gains_over(model).get(name, {}))
        table = [replace(row, others={**row.others, model: other}) for row, other in zip(table, over, strict=True)]
    return table, others


def figure_row(
    label: str,
    values: Sequence[float | None],
    errors: Sequence[float | None],
    gain: Gain | None,
    lower_is_better: bool = False,
) -> FigureRow:
    """A row in percent.

    Args:
        values, errors: shares before and after and their standard errors, None where there is none; of recognition
            again with flip test-time augmentation.
    """
    before, after = values[0], values[1]
    change = None if before is None or after is None else after - before
    return FigureRow(
        label=label,
        before=before,
        after=after,
        cells=[
            DASH if value is None else f"{100 * value:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
            for value, error in zip(values, errors, strict=True)
        ],
        change=points(change),
        style=style(change or 0, lower_is_better),
        interval=points_range(gain.gain_low, gain.gain_high) if gain else None,
        after_interval=percent_range(gain.after_low, gain.after_high) if gain else None,
        lower_is_better=lower_is_better,
        tile=gain is not None,
    )


def interval_name(evaluation: Evaluation) -> str:
    """What the intervals of the gains are called; the gate's rule sets their confidence."""
    return f"{100 * evaluation.gate.rule.confidence:g} % interval"


def known_people(evaluation: Evaluation) -> int:
    """How many held-out people the champion was trained on."""
    champion = evaluation.models.get("champion")
    return (champion.heldout_people_trained_on if champion else 0) or 0


def over_champion(evaluation: Evaluation) -> str:
    """The comparison with the champion as far as the gate's reason lacks it; empty where there is none."""
    gains = evaluation.gain_over_champion.get("heldout", {})
    names = dict(SENTENCE_NAMES)
    if isinstance(evaluation, RecognitionEvaluation):
        names["tar"] = f"TAR@FAR={evaluation.gate_far:g}"
    asked = any(check.name.startswith("champion") for check in evaluation.gate.checks)
    changes = [
        f"{name} went from {percent(gain.before)} to {percent(gain.after)} ({points(gain.gain)}, "
        f"{interval_name(evaluation)} {points_range(gain.gain_low, gain.gain_high)})"
        for name, gain in ((name, gains[key]) for key, name in names.items() if key in gains and not asked)
    ]
    known = known_people(evaluation)
    sentences = [
        f"Against the champion, the model promoted until now, {'; '.join(changes)}." if changes else "",
        f"The champion was trained on {known} of the held-out people, which speaks for it." if known else "",
    ]
    return " ".join(filter(None, sentences))
