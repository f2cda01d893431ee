"""The model card of attributes."""

from kubeface.promote.card_sections import (
    NAMES,
    Sections,
    TaskCard,
    degradation,
    figures_table,
    gain_tables,
    image_input,
    listed,
)
from kubeface.promote.markdown import Lines, interval, percent, table, text
from kubeface.records.evaluation import AttributesEvaluation
from kubeface.records.model import ModelRecord

FIGURES = (
    "auc", "average_precision", "precision", "recall", "f1", "accuracy", "balanced_accuracy", "calibration_error",
)  # fmt: skip


def sections(model: ModelRecord, evaluation: AttributesEvaluation) -> Sections:
    """The sections of attributes alone, by title."""
    return {
        "Intended use": _use(model, evaluation),
        "Metrics": _metrics(),
        "Evaluation data": [
            "",
            f"Measured on {evaluation.images} images of {evaluation.people} people who were not trained on."
            + degradation(evaluation),
        ],
        "Quantitative analyses": [
            *figures_table(evaluation, FIGURES),
            *gain_tables(evaluation),
            *_by_label(evaluation),
        ],
        "Decision threshold": _thresholds(evaluation),
    }


def _use(model: ModelRecord, evaluation: AttributesEvaluation) -> Lines:
    return [
        "",
        f"To sort and search photographs of faces by {len(evaluation.labels)} labels: {listed(evaluation.labels)}.",
        "",
        f"{image_input(model, 'faces')} The answer is a score between 0 and 1 for each label.",
        "",
        "Not meant for: decisions about people; guessing origin, health or feelings; watching people who do not know "
        "of it; photographs unlike those it was measured on.",
    ]


def _metrics() -> Lines:
    return [
        "",
        "AUC: area under the ROC curve. Average precision: area under precision over recall. Precision, recall, F1, "
        "accuracy and balanced accuracy (the mean of the accuracies with and without the label) are taken at each "
        "label's own threshold. Calibration error: mean distance of scores from shares of correct answers, in 15 bins. "
        "Only known labels count; means are over labels that have enough images. Intervals come from resampling "
        "people.",
    ]


def _by_label(evaluation: AttributesEvaluation) -> Lines:
    rows = []
    for label in evaluation.labels:
        before, now = (figures["heldout"].labels[label] for figures in (evaluation.baseline, evaluation.finetuned))
        rows.append(
            [
                text(label),
                now.positives,
                now.negatives,
                percent(before.auc),
                "too few images" if now.too_few else interval(now.auc, now.auc_low, now.auc_high),
                *(percent(getattr(now, key)) for key in FIGURES[1:]),
            ]
        )
    header = ["label", "with it", "without", "AUC before", "AUC now", *(NAMES.get(key, key) for key in FIGURES[1:])]
    return ["", "Label by label, on the set heldout:", "", *table(header, rows)]


def _thresholds(evaluation: AttributesEvaluation) -> Lines:
    thresholds = evaluation.thresholds.get("finetuned")
    if not thresholds:
        return []
    on = evaluation.chosen_on
    rows = [[text(label), f"{thresholds[label]:.4f}" if label in thresholds else "–"] for label in evaluation.labels]
    return [
        "",
        f"A label is there from its threshold on. Each was chosen on {on.images} {text(on.split)} images, none of "
        "which is among the held-out ones; they are in threshold.json.",
        "",
        *table(["label", "threshold"], rows),
    ]


CARD = TaskCard(
    kind="model of facial attributes",
    people="people",
    sections=sections,
    ethics=(
        "- An attribute is what a photograph looked like to whoever labelled it, not what a person is: decide nothing "
        "about a person by it. Labels such as attractive or young are opinions, and those of who made the training "
        "data.",
        "- Errors are not spread evenly over people: measure them for the groups that you serve.",
    ),
    caveats=(
        "- A threshold holds for the share of positives of the validation images: choose it anew where labels are "
        "rarer or more frequent.",
        "- Labels with too few images are not measured: the model answers them all the same.",
    ),
)
