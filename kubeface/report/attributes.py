"""The page of attributes: figures of every label, correlation of labels, predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

from kubeface.records.evaluation import AttributesEvaluation
from kubeface.records.labelled_figures import GridImage, LabelCorrelation, Mistake
from kubeface.report.bar_charts import BarPanel, pair_panels
from kubeface.report.comparison import Content, Section, Wording
from kubeface.report.heat_map import HeatMap, heat_map
from kubeface.report.labelled import FIGURES, MOST_ROWS, CardLine, card, measured_sets, sampling_panels
from kubeface.report.run import Run

WORDING = Wording(crops="Aligned faces", crop="Aligned face", one="identity", many="identities", held="held out")
COLUMNS = {
    name: FIGURES[name]
    for name in (
        "auc", "average_precision", "precision", "recall", "f1", "accuracy", "balanced_accuracy", "calibration_error",
    )
}  # fmt: skip
MOST_CORRELATED = 10  # pairs of labels that are listed
MOST_LABELS = 40  # labels of a map


@dataclass(frozen=True)
class CorrelatedPair:
    """Two labels with their phi coefficient as labelled and as predicted."""

    labels: tuple[str, str]
    true: float
    predicted: float | None


def content(run: Run, evaluation: AttributesEvaluation) -> Content:
    """What the page shows of a model of attributes, from the figures to its worst mistakes."""
    sets = measured_sets(evaluation, "Held-out people")
    shown_map, pairs = correlation(evaluation.correlation)
    sampled = sampling_panels(evaluation.sampling)
    sections = [
        Section("figures", "Before and after"),
        Section("labels", "Labels"),
        Section("sampling", "Sampling", bool(sampled)),
        Section("correlation", "Correlation", shown_map is not None),
        Section("degradation", "Degradation"),
        Section("grid", "Predictions", bool(evaluation.grid)),
        Section("mistakes", "Mistakes", bool(evaluation.mistakes)),
    ]
    values = {
        "sets": sets,
        "columns": COLUMNS,
        "measured_labels": evaluation.finetuned[sets[0].name].measured_labels,
        "auc_panels": auc_panels(evaluation, "heldout"),
        "sampled": sampled,
        "most_rows": MOST_ROWS,
        "map": shown_map,
        "correlated": pairs,
        "grid": [card(run, image, _predictions(image)) for image in evaluation.grid],
        "mistakes": [card(run, mistake, _mistake(mistake)) for mistake in evaluation.mistakes],
    }
    charts = ("loss", "accuracy", "auc")
    return Content("attributes.html", WORDING, sections, values, "labelled_style.html", charts)


def auc_panels(evaluation: AttributesEvaluation, name: str) -> list[BarPanel]:
    """The AUC of each label before and after; none where a label has too few images."""
    before, after = evaluation.baseline[name].labels, evaluation.finetuned[name].labels
    pairs = {
        label: (None, None) if after[label].too_few else (before[label].auc, after[label].auc)
        for label in evaluation.labels
    }
    return pair_panels(pairs, ("baseline", "finetuned"))


def correlation(measured: LabelCorrelation) -> tuple[HeatMap | None, list[CorrelatedPair]]:
    """The map of phi coefficients, as labelled above its diagonal and as predicted below; and the strongest pairs.

    It is of the first MOST_LABELS labels; with fewer than two there is no map.
    """
    names = measured.labels[:MOST_LABELS]
    if len(names) < 2:
        return None, []
    true, predicted = measured.true, measured.predicted
    indices = range(len(names))
    cells: Sequence[Sequence[float | None]] = [
        [0.0 if row == column else (true if row < column else predicted)[row][column] for column in indices]
        for row in indices
    ]
    pairs = [
        CorrelatedPair((names[row], names[column]), value, predicted[row][column])
        for row in indices
        for column in indices[row + 1 :]
        if (value := true[row][column]) is not None
    ]
    pairs.sort(key=lambda pair: (-abs(pair.true), pair.labels))
    return heat_map(names, cells), pairs[:MOST_CORRELATED]


def _predictions(image: GridImage) -> list[CardLine]:
    return [
        *(CardLine("good", f"✓ {label}") for label in image.true if label in image.predicted),
        *(CardLine("bad", f"✗ {label}: missed") for label in image.true if label not in image.predicted),
        *(CardLine("bad", f"✗ {label}: not there") for label in image.predicted if label not in image.true),
    ] or [CardLine("good", "✓ none of the labels")]


def _mistake(mistake: Mistake) -> list[CardLine]:
    error = "not there" if mistake.predicted else "missed"
    return [CardLine("bad", f"✗ {mistake.label}: {error}"), CardLine("soft", f"score {mistake.score:.3f}")]
