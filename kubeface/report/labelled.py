"""What the pages of attributes and classes share: sets, sampling, photographs with their predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

from kubeface.metrics.figures import Figures, Gains
from kubeface.records.evaluation import AttributesEvaluation, ClassesEvaluation
from kubeface.records.labelled_figures import AttributesFigures, ClassesFigures, GridImage, Mistake, Sampling
from kubeface.report.bar_charts import BarPanel, pair_panels
from kubeface.report.comparison import FigureRow, MeasuredSet, compared_rows, figure_row, title
from kubeface.report.pictures import picture
from kubeface.report.run import Run

FIGURES = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "f1": "F1",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "calibration_error": "Calibration error",
}
LOWER_IS_BETTER = ("calibration_error",)
MOST_ROWS = 60  # labels or classes that get a bar or a row each
CARD = 160  # pixels of a photograph's longer side


@dataclass(frozen=True, kw_only=True)
class LabelledSet(MeasuredSet):
    """A set of images; `images` is their number."""

    images: int


@dataclass(frozen=True)
class CardLine:
    """A line below a photograph; `style` is good, bad or soft."""

    style: str
    text: str


@dataclass(frozen=True)
class Card:
    """A photograph with lines of text."""

    picture: str
    source: str
    lines: Sequence[CardLine]


def measured_sets(evaluation: AttributesEvaluation | ClassesEvaluation, held: str) -> list[LabelledSet]:
    """Each set with its title, in which `held` is what was held out, and the rows of its table."""
    return [_measured_set(evaluation, name, after, held) for name, after in evaluation.finetuned.items()]


def _measured_set(
    evaluation: AttributesEvaluation | ClassesEvaluation,
    name: str,
    after: AttributesFigures | ClassesFigures,
    held: str,
) -> LabelledSet:
    def rows(before: Figures, gains: Gains) -> list[FigureRow]:
        return [
            figure_row(
                label, (getattr(before, key), getattr(after, key)), (None, None), gains.get(key), key in LOWER_IS_BETTER
            )
            for key, label in FIGURES.items()
            if hasattr(after, key)
        ]

    table, others = compared_rows(evaluation, name, rows)
    shown = title(name, evaluation.degradation, held)
    return LabelledSet(name=name, title=shown, rows=table, others=others, flip=False, images=after.images)


def sampling_panels(sampling: Sampling) -> list[BarPanel]:
    """Shares of the training images before and after sampling by label; of the MOST_ROWS rarest."""
    rarest = sorted(sampling.before, key=lambda name: (sampling.before[name], name))[:MOST_ROWS]
    shares = {
        name: (
            sampling.before[name] / max(sampling.images, 1),
            sampling.after.get(name, 0) / max(sampling.drawn, 1),
        )
        for name in reversed(rarest)
    }
    return pair_panels(shares, ("unsampled", "sampled")) if shares else []


def card(run: Run, image: GridImage | Mistake, lines: Sequence[CardLine]) -> Card:
    """A photograph of the evaluation with lines of text."""
    return Card(picture(run.evaluation_folder / image.file, CARD), image.source, lines)
