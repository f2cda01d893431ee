"""What the model card says of a model of classes."""

from kubeface.promote.card_parts import (
    Json,
    Section,
    degradation,
    figures_table,
    gains,
    image_input,
    named,
    percent,
    table,
    text,
)

FIGURES = ("accuracy", "macro_f1", "balanced_accuracy", "calibration_error")
MOST_ROWS = 100  # classes that get a row each
ETHICS = (
    "- Where the classes are people, a wrong name can accuse an innocent person: leave the last word to a person.",
    "- Errors are not spread evenly over classes: see the figures of each.",
)
CAVEATS = (
    "- The model knows its classes only: a photograph of anything else gets one of them too, unless its score is "
    "refused.",
)


def told(config: Json, evaluation: Json) -> dict[str, Section]:
    """The sections that are the classes' own, by title."""
    return {
        "Intended use": _use(config, evaluation),
        "Metrics": _metrics(),
        "Evaluation data": [
            "",
            f"Measured on {evaluation['images']} images of {len(evaluation['labels'])} classes, none of which was "
            f"trained on.{degradation(evaluation)}",
        ],
        "Quantitative analyses": [*figures_table(evaluation, FIGURES), *gains(evaluation), *_classes(evaluation)],
        "Decision threshold": _unknown(evaluation),
    }


def _use(config: Json, evaluation: Json) -> Section:
    labels = evaluation["labels"]
    return [
        "",
        f"To tell which of {len(labels)} classes a photograph shows: {named(labels)}.",
        "",
        f"{image_input(config, 'images')} The answer is a score between 0 and 1 for each class, 1 in sum.",
        "",
        "Not meant for: photographs unlike those it was measured on; where classes are people, watching people who do "
        "not know of it.",
    ]


def _metrics() -> Section:
    return [
        "",
        "Accuracy: images whose class has the highest score. Macro F1 and balanced accuracy: means over classes of F1 "
        "and recall, every class alike. Calibration error: mean distance of scores from shares of right answers, in 15 "
        "bins. Intervals come from resampling images.",
    ]


def _classes(evaluation: Json) -> Section:
    before, now = (evaluation[model]["heldout"]["classes"] for model in ("baseline", "finetuned"))
    lowest = sorted(evaluation["labels"], key=lambda label: (now[label]["f1"] or 0, label))[:MOST_ROWS]
    rows = [
        [
            text(label),
            now[label]["images"],
            percent(before[label]["f1"]),
            *(percent(now[label][key]) for key in ("f1", "precision", "recall")),
        ]
        for label in lowest
    ]
    header = ["class", "images", "F1 before", "F1 now", "precision", "recall"]
    return ["", "Class by class on the set heldout, the lowest F1 first:", "", *table(header, rows)]


def _unknown(evaluation: Json) -> Section:
    entry = evaluation["finetuned"]["heldout"].get("unknown")
    if not entry:
        return []
    refused = f"{percent(entry['refused'])} of {entry['images']} images of classes that were not trained on, and "
    return [
        "",
        f"{entry['threshold']:.4f}: an answer with a lower score is refused. On the held-out images that refuses "
        f"{refused if entry['images'] else ''}{percent(entry['known_refused'])} of those of known classes; of what is "
        f"accepted {percent(entry['accuracy_of_accepted'])} is right. It is in threshold.json.",
    ]
