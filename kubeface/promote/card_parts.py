"""What the model cards of all tasks are written with: names and figures as Markdown, and the sections they share."""

import re
from typing import Any

Json = dict[str, Any]
Section = list[str]

# Figures as the cards' tables call them; others stand as they are.
NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "f1": "F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error",
}
MODELS = ("baseline", "scratch", "champion", "finetuned")


def image_input(config: Json, crops: str) -> str:
    """What a model takes, in a sentence.

    Args:
        config: model.json.
        crops: what its crops show and how they are made.
    """
    look = config["preprocessing"]
    return (
        f"Input: RGB {crops} of {look['size']}×{look['size']} pixels, aligned to the template "
        f"{code(config['alignment']['template'])}; ({look['color_order']} − {look['mean']:g}) / {look['std']:g}."
    )


def named(labels: list[str], most: int = 100) -> str:
    """Labels or classes by name; of very many the first."""
    more = f" and {len(labels) - most} more, see labels.json" if len(labels) > most else ""
    return ", ".join(text(label) for label in labels[:most]) + more


def figures_table(evaluation: Json, keys: tuple[str, ...]) -> Section:
    """The figures of every set and model, as shares."""
    rows = [
        [text(kind), model, *(percent(evaluation[model][kind].get(key)) for key in keys)]
        for kind in evaluation["finetuned"]
        for model in MODELS
        if kind in (evaluation.get(model) or {})
    ]
    return ["", *table(["set", "model", *(NAMES.get(key, key) for key in keys)], rows)]


def gains(evaluation: Json) -> Section:
    """Every gain with its interval, over each model that the evaluation compares with."""
    names = dict(NAMES)
    if "gate_far" in evaluation:
        names["tar"] = f"TAR@FAR={evaluation['gate_far']:g}"
    lines = []
    compared = {
        "gain": "the starting model",
        "gain_over_champion": "the champion before it",
        "gain_over_scratch": "the small network from scratch",
    }
    for key, over in compared.items():
        rows = [
            [text(kind), names.get(figure, figure), *before_after(entry)]
            for kind, gain in (evaluation.get(key) or {}).items()
            for figure, entry in gain.items()
        ]
        if rows:
            header = ["set", "figure", "before", "now", "change in points (95 % interval)"]
            lines += ["", f"Change over {over}:", "", *table(header, rows)]
    return lines


def before_after(entry: Json) -> Section:
    """Cells of a gain: before, now, and the change with its interval."""
    return [percent(entry["before"]), percent(entry["after"]), change(entry, "gain")]


def degradation(evaluation: Json) -> str:
    """What was done to the photographs of the target set, as a sentence that follows others; empty for nothing."""
    few = evaluation.get("few_pixels") or {}
    crossed = " heldout\\_cross compares a photograph of few pixels with a sharp one of another moment." if few else ""
    if few.get("paired"):
        return (
            " The set heldout has photographs that a camera took with few pixels, heldout\\_clean the sharp ones of "
            f"the same moments.{crossed}"
        )
    if str(evaluation.get("degradation", "none")) == "none":
        return ""
    return (
        f" The set heldout has the degradation {code(evaluation['degradation'])} on every photograph, "
        f"heldout\\_clean has not.{crossed}"
    )


def table(header: list[str], rows: list[list[Any]]) -> Section:
    """A table's lines."""
    return [f"| {' | '.join(str(cell) for cell in row)} |" for row in (header, ["---"] * len(header), *rows)]


def percent(share: float | None) -> str:
    """A share as per cent, with as many digits as it takes to tell a small one from nothing."""
    if share is None:
        return "–"
    return f"{100 * share:.2f} %" if share == 0 or share >= 0.001 else f"{100 * share:.2g} %"


def interval(entry: Json, key: str) -> str:
    """A share with its interval where it has one."""
    low, high = entry.get(f"{key}_low"), entry.get(f"{key}_high")
    bounds = "" if low is None or high is None else f" ({percent(low)} to {percent(high)})"
    return percent(entry.get(key)) + bounds


def change(entry: Json, key: str) -> str:
    """A change in points with its interval."""
    low, high = entry.get(f"{key}_low"), entry.get(f"{key}_high")
    bounds = "" if low is None or high is None else f" ({points(low)} to {points(high)})"
    return points(entry.get(key)) + bounds


def points(share: float | None) -> str:
    """A difference in percentage points with its sign."""
    if share is None:
        return "–"
    return f"{round(100 * share, 2) + 0.0:+.2f}".replace("-", "−")  # + 0.0: there is no −0.00


def text(value: Any) -> str:
    """A name out of the data, on one line and without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~&!])", r"\\\1", " ".join(str(value).split()))


def code(value: Any) -> str:
    """The same as code."""
    return f"`{' '.join(str(value).replace('`', '´').split())}`"
