"""Attributes: what the evaluation measured of many labels at once, as the page shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeface.records.summary import AttributesSummary, SummaryRecord
from kubeface.report.figures import BarPanel, HeatMap, heat_map, pair_panels
from kubeface.report.labelled import FIGURES, MOST_ROWS, card, measured_sets, sampled
from kubeface.report.measured import Content, TaskPage
from kubeface.report.run import Run

MODELS = ("baseline", "finetuned")
COLUMNS = {
    name: FIGURES[name]
    for name in (
        "auc", "average_precision", "precision", "recall", "f1", "accuracy", "balanced_accuracy", "calibration_error",
    )
}  # fmt: skip
MOST_CORRELATED = 10  # pairs of labels that are listed
MOST_LABELS = 40  # labels of a map; of more those that are labelled most
ABSENT: dict[str, Any] = {
    "champion": {}, "gain_over_champion": {}, "scratch": {}, "gain_over_scratch": {}, "correlation": {}, "sampling": {},
    "thresholds": {}, "chosen_on": {}, "grid": [], "mistakes": [],
}  # fmt: skip
IN_SUMMARY = ("labels", "thresholds", "chosen_on", "sampling")


def content(run: Run, evaluation: dict[str, Any]) -> Content:
    """What the page tells of a model of attributes, from the figures to its worst mistakes."""
    sets = measured_sets(evaluation, "Held-out people")
    shown_map, pairs = correlation(evaluation["correlation"])
    sections = [
        ("figures", "Before and after", True),
        ("labels", "Labels", True),
        ("sampling", "Sampling", evaluation["sampling"]),
        ("correlation", "Correlation", shown_map),
        ("degradation", "Degradation", True),
        ("grid", "Predictions", evaluation["grid"]),
        ("mistakes", "Mistakes", evaluation["mistakes"]),
    ]
    values = {
        "sets": sets,
        "columns": COLUMNS,
        "label_rows": {told["name"]: label_rows(evaluation, told["name"]) for told in sets},
        "auc_panels": auc_panels(evaluation, "heldout"),
        "sampled": sampled(evaluation["sampling"]) if evaluation["sampling"] else [],
        "most_rows": MOST_ROWS,
        "map": shown_map,
        "correlated": pairs,
        "grid": [card(run, entry, _compared(entry)) for entry in evaluation["grid"]],
        "mistakes": [card(run, entry, _mistaken(entry)) for entry in evaluation["mistakes"]],
    }
    return Content(sections, values, charts=("loss", "accuracy", "auc"))


def label_rows(evaluation: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The labels of a set in their order, each with both models' figures (baseline, finetuned)."""
    before, after = (evaluation[model][name]["labels"] for model in MODELS)
    return [{"name": label, "before": before[label], "after": after[label]} for label in evaluation["labels"]]


def auc_panels(evaluation: Mapping[str, Any], name: str) -> list[BarPanel]:
    """The AUC of each label before and after; none where a label has too few images."""
    pairs = {
        row["name"]: tuple(None if row["after"]["too_few"] else row[side]["auc"] for side in ("before", "after"))
        for row in label_rows(evaluation, name)
    }
    return pair_panels(pairs, MODELS)  # type: ignore[arg-type]  # two of each


def correlation(told: Mapping[str, Any]) -> tuple[HeatMap | None, list[dict[str, Any]]]:
    """The map of phi coefficients, as labelled above its diagonal and as predicted below; and the strongest pairs.

    Args:
        told: labels, and true and predicted (L×L, None where a label is constant); empty where none were measured.
    """
    if not told or len(told["labels"]) < 2:
        return None, []
    names, true, predicted = (told[key][:MOST_LABELS] for key in ("labels", "true", "predicted"))
    places = range(len(names))
    cells: Sequence[Sequence[float | None]] = [
        [0.0 if row == column else (true if row < column else predicted)[row][column] for column in places]
        for row in places
    ]
    pairs = [
        {"labels": (names[row], names[column]), "true": true[row][column], "predicted": predicted[row][column]}
        for row in places
        for column in places
        if row < column and true[row][column] is not None
    ]
    pairs.sort(key=lambda pair: (-abs(pair["true"]), pair["labels"]))
    return heat_map(names, cells), pairs[:MOST_CORRELATED]


def _compared(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The labels of a photograph: those it has, and those that are predicted of it."""
    true, predicted = entry["true"], entry["predicted"]
    return [
        *(("good", f"✓ {label}") for label in true if label in predicted),
        *(("bad", f"✗ {label}: missed") for label in true if label not in predicted),
        *(("bad", f"✗ {label}: not there") for label in predicted if label not in true),
    ] or [("good", "✓ none of the labels")]


def _mistaken(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = "not there" if entry["predicted"] else "missed"
    return [("bad", f"✗ {entry['label']}: {said}"), ("soft", f"score {entry['score']:.3f}")]


def summary(evaluation: dict[str, Any], shared: SummaryRecord) -> AttributesSummary:
    """The summary with the figures of attributes."""
    return AttributesSummary(**dict(shared), **{name: evaluation[name] for name in IN_SUMMARY})


PAGE = TaskPage(
    template="attributes.html",
    style="labelled_style.html",
    fields=("labels",),
    absent=ABSENT,
    words={
        "crops": "Aligned faces",
        "crop": "Aligned face",
        "one": "identity",
        "many": "identities",
        "held": "held out",
    },
    content=content,
    summary=summary,
)
