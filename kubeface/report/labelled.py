"""What the pages of attributes and classes share: sets, what sampling did, photographs and what is said of them."""

from collections.abc import Mapping
from typing import Any

from kubeface.report.figures import BarPanel, pair_panels
from kubeface.report.measured import Rows, beside, figure_row, picture, title
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


def measured_sets(evaluation: dict[str, Any], held: str) -> list[dict[str, Any]]:
    """Each set with its title and the rows of its table.

    Args:
        evaluation: with figures and gains by set.
        held: what was held out, as titles call it.
    """
    return [_set(evaluation, name, held) for name in evaluation["finetuned"]]


def _set(evaluation: dict[str, Any], name: str, held: str) -> dict[str, Any]:
    after = evaluation["finetuned"][name]
    rows, others = beside(evaluation, name, lambda before, gain: _rows(before, after, gain))
    shown = title(name, evaluation["degradation"], held)
    return {"name": name, "title": shown, "rows": rows, "others": others, "flip": False, "told": after}


def _rows(before: dict[str, Any], after: dict[str, Any], gain: dict[str, Any]) -> Rows:
    return [
        figure_row(label, (before[key], after[key]), (None, None), gain.get(key), key in LOWER_IS_BETTER)
        for key, label in FIGURES.items()
        if key in after
    ]


def sampled(sampling: Mapping[str, Any]) -> list[BarPanel]:
    """Shares of the training images before and after sampling by label, of MOST_ROWS at most, the rarest ones.

    Args:
        sampling: images and drawn, and counts before and after by label.
    """
    rarest = sorted(sampling["before"], key=lambda name: (sampling["before"][name], name))[:MOST_ROWS]
    shares = {
        name: (
            sampling["before"][name] / max(sampling["images"], 1),
            sampling["after"].get(name, 0) / max(sampling["drawn"], 1),
        )
        for name in reversed(rarest)
    }
    return pair_panels(shares, ("unsampled", "sampled")) if shares else []


def card(run: Run, entry: Mapping[str, Any], lines: list[tuple[str, str]]) -> dict[str, Any]:
    """A photograph of the evaluation with lines of a style (good, bad, soft) and a text."""
    return {
        "picture": picture(run.evaluation_folder / entry["file"], CARD),
        "source": entry["source"],
        "lines": [{"style": style, "text": text} for style, text in lines],
    }
