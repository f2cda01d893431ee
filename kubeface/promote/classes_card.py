"""The model card of classes."""

from kubeface.promote.card_sections import (
    Sections,
    TaskCard,
    degradation,
    figures_table,
    gain_tables,
    image_input,
    listed,
)
from kubeface.promote.markdown import Lines, percent, table, text
from kubeface.records.evaluation import ClassesEvaluation
from kubeface.records.model import ModelRecord

FIGURES = ("accuracy", "macro_f1", "balanced_accuracy", "calibration_error")
MOST_ROWS = 100  # classes that get a row each


def sections(model: ModelRecord, evaluation: ClassesEvaluation) -> Sections:
    """The sections of classes alone, by title."""
    return {
        "Intended use": _use(model, evaluation),
        "Metrics": _metrics(),
        "Evaluation data": [
            "",
            f"Measured on {evaluation.images} images of {len(evaluation.labels)} classes, none of which was trained "
            f"on.{degradation(evaluation)}",
        ],
        "Quantitative analyses": [
            *figures_table(evaluation, FIGURES),
            *gain_tables(evaluation),
            *_by_class(evaluation),
        ],
        "Decision threshold": _refusal(evaluation),
    }


def _use(model: ModelRecord, evaluation: ClassesEvaluation) -> Lines:
    return [
        "",
        f"To tell which of {len(evaluation.labels)} classes a photograph shows: {listed(evaluation.labels)}.",
        "",
        f"{image_input(model, 'images')} The answer is a score between 0 and 1 for each class, 1 in sum.",
        "",
        "Not meant for: photographs unlike those it was measured on; where classes are people, watching people who do "
        "not know of it.",
    ]


def _metrics() -> Lines:
    return [
        "",
        "Accuracy: images whose class has the highest score. Macro F1 and balanced accuracy: means over classes of F1 "
        "and recall, every class alike. Calibration error: mean distance of scores from shares of correct answers, in "
        "15 bins. Intervals come from resampling images.",
    ]


def _by_class(evaluation: ClassesEvaluation) -> Lines:
    before, now = (figures["heldout"].classes for figures in (evaluation.baseline, evaluation.finetuned))
    lowest = sorted(evaluation.labels, key=lambda label: (now[label].f1 or 0, label))[:MOST_ROWS]
    rows = [
        [
            text(label),
            now[label].images,
            percent(before[label].f1),
            *(percent(share) for share in (now[label].f1, now[label].precision, now[label].recall)),
        ]
        for label in lowest
    ]
    header = ["class", "images", "F1 before", "F1 now", "precision", "recall"]
    return ["", "Class by class on the set heldout, the lowest F1 first:", "", *table(header, rows)]


def _refusal(evaluation: ClassesEvaluation) -> Lines:
    refusal = evaluation.finetuned["heldout"].unknown
    if not refusal:
        return []
    unknown = f"{percent(refusal.refused)} of {refusal.images} images of classes that were not trained on, and "
    return [
        "",
        f"{refusal.threshold:.4f}: an answer with a lower score is refused. On the held-out images that refuses "
        f"{unknown if refusal.images else ''}{percent(refusal.known_refused)} of those of known classes; of what is "
        f"accepted {percent(refusal.accuracy_of_accepted)} is correct. It is in threshold.json.",
    ]


CARD = TaskCard(
    kind="model of image classes",
    people="classes",
    sections=sections,
    ethics=(
        "- Where the classes are people, a wrong name can accuse an innocent person: leave the last word to a person.",
        "- Errors are not spread evenly over classes: see the figures of each.",
    ),
    caveats=(
        "- The model knows its classes only: a photograph of anything else gets one of them too, unless its score is "
        "refused.",
    ),
)
