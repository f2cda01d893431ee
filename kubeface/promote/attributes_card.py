"""What the model card says of a model of attributes."""

from kubeface.promote.card_parts import (
    Json,
    Section,
    degradation,
    figures_table,
    gains,
    image_input,
    interval,
    named,
    percent,
    table,
    text,
)

FIGURES = (
    "auc", "average_precision", "precision", "recall", "f1", "accuracy", "balanced_accuracy", "calibration_error",
)  # fmt: skip
ETHICS = (
    "- An attribute is what a photograph looked like to whoever labelled it, not what a person is: decide nothing "
    "about a person by it. Labels such as attractive or young are opinions, and those of who made the training data.",
    "- Errors are not spread evenly over people: measure them for the groups that you serve.",
)
CAVEATS = (
    "- A threshold holds for the share of positives of the validation images: choose it anew where labels are rarer or "
    "more frequent.",
    "- Labels with too few images are not measured: the model answers them all the same.",
)


def told(config: Json, evaluation: Json) -> dict[str, Section]:
    """The sections that are the attributes' own, by title."""
    return {
        "Intended use": _use(config, evaluation),
        "Metrics": _metrics(),
        "Evaluation data": [
            "",
            f"Measured on {evaluation['images']} images of {evaluation['people']} people who were not trained on."
            + degradation(evaluation),
        ],
        "Quantitative analyses": [*figures_table(evaluation, FIGURES), *gains(evaluation), *_labels(evaluation)],
        "Decision threshold": _thresholds(evaluation),
    }


def _use(config: Json, evaluation: Json) -> Section:
    labels = evaluation["labels"]
    return [
        "",
        f"To sort and search photographs of faces by {len(labels)} labels: {named(labels)}.",
        "",
        f"{image_input(config, 'faces')} The answer is a score between 0 and 1 for each label.",
        "",
        "Not meant for: decisions about people; guessing origin, health or feelings; watching people who do not know "
        "of it; photographs unlike those it was measured on.",
    ]


def _metrics() -> Section:
    return [
        "",
        "AUC: area under the ROC curve. Average precision: area under precision over recall. Precision, recall, F1, "
        "accuracy and balanced accuracy (the mean of the accuracies with and without the label) are taken at each "
        "label's own threshold. Calibration error: mean distance of scores from shares of right answers, in 15 bins. "
        "Only known labels count; means are over labels that have enough images. Intervals come from resampling "
        "people.",
    ]


def _labels(evaluation: Json) -> Section:
    before, now = (evaluation[model]["heldout"]["labels"] for model in ("baseline", "finetuned"))
    rows = [
        [
            text(label),
            now[label]["positives"],
            now[label]["negatives"],
            percent(before[label]["auc"]),
            "too few images" if now[label]["too_few"] else interval(now[label], "auc"),
            *(percent(now[label][key]) for key in FIGURES[1:]),
        ]
        for label in evaluation["labels"]
    ]
    header = ["label", "with it", "without", "AUC before", "AUC now", *(key.replace("_", " ") for key in FIGURES[1:])]
    return ["", "Label by label, on the set heldout:", "", *table(header, rows)]


def _thresholds(evaluation: Json) -> Section:
    chosen = evaluation.get("thresholds", {}).get("finetuned")
    if not chosen:
        return []
    on = evaluation["chosen_on"]
    rows = [
        [text(label), "–" if chosen.get(label) is None else f"{chosen[label]:.4f}"] for label in evaluation["labels"]
    ]
    return [
        "",
        f"A label is there from its threshold on. Each was chosen on {on['images']} {text(on['split'])} images, none "
        "of which is among the held-out ones; they are in threshold.json.",
        "",
        *table(["label", "threshold"], rows),
    ]
