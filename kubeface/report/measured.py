"""What the pages of all tasks share of an evaluation: sets, figures before and after, and pictures."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from kubeface.faces.images import data_uri, decode_rgb
from kubeface.records.summary import SummaryRecord
from kubeface.report.run import Run
from kubeface.report.words import DASH, percent, percent_range, points, points_range, style
from kubeface.runtime.errors import KubefaceError, require

# Models that an evaluation may hold beside the baseline and the fine-tuned one.
OTHERS = ("champion", "scratch")
# The main figures as a sentence calls them, in its order.
SENTENCE_NAMES = {"accuracy": "accuracy", "auc": "AUC", "macro_f1": "macro F1"}
LARGEST = 224  # pixels of a picture's longer side
JPEG_QUALITY = 90

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Content:
    """What a task puts on the page: sections (id, words of the link, whether there is one), and the template's values.

    `charts` are the figures of the training that are drawn.
    """

    sections: list[tuple[str, str, Any]]
    values: dict[str, Any]
    charts: tuple[str, ...] = ("loss", "accuracy")


@dataclass(frozen=True)
class TaskPage:
    """Where the pages of the tasks differ.

    Args:
        template: of what was measured.
        style: further style sheet; empty for none.
        fields: of evaluation.json that the page cannot do without, beside those of all tasks.
        absent: those that it can, with what stands for them.
        words: that the shared sections use.
        content: the page's content of a run whose evaluation has every field.
        summary: adds the figures of the task to those of all tasks.
    """

    template: str
    style: str
    fields: tuple[str, ...]
    absent: dict[str, Any]
    words: dict[str, str]
    content: Callable[[Run, dict[str, Any]], Content]
    summary: Callable[[dict[str, Any], SummaryRecord], SummaryRecord]


def title(name: str, degradation: str, held: str = "Held-out people") -> str:
    """A set in words; `held` is what was held out."""
    under = "" if degradation == "none" else f" under {degradation}"
    return {"heldout": f"{held}{under}", "heldout_clean": f"{held}, clean crops"}.get(name, name)


def beside(
    evaluation: Mapping[str, Any], name: str, rows: Callable[[dict[str, Any], dict[str, Any]], Rows]
) -> tuple[Rows, list[str]]:
    """The rows of a set's table, each with those of the other models under their names, and the names of those.

    Args:
        evaluation: with figures and gains by set.
        name: of the set.
        rows: makes rows out of figures before and the gain over them.
    """
    told = rows(evaluation["baseline"][name], evaluation["gain"].get(name, {}))
    others = [model for model in OTHERS if evaluation.get(model, {}).get(name)]
    for model in others:
        over = rows(evaluation[model][name], evaluation.get(f"gain_over_{model}", {}).get(name, {}))
        told = [row | {model: other} for row, other in zip(told, over, strict=True)]
    return told, others


def figure_row(
    label: str,
    values: Sequence[float | None],
    errors: Sequence[float | None],
    interval: dict[str, float] | None,
    lower_is_better: bool = False,
) -> dict[str, Any]:
    """A row in percent, its change in favour of the fine-tuned model where `style` is good.

    Args:
        label: of the figure.
        values, errors: shares before and after and their standard errors, None where there is none; those of
            recognition stand again with flip test-time augmentation.
        interval: entry of the gain; None where none was measured.
        lower_is_better: of the figure.
    """
    before, after = values[0], values[1]
    change = None if before is None or after is None else after - before
    return {
        "label": label,
        "before": before,
        "after": after,
        "cells": [
            DASH if value is None else f"{100 * value:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
            for value, error in zip(values, errors, strict=True)
        ],
        "change": points(change),
        "style": style(change or 0, lower_is_better),
        "interval": interval and points_range(interval["gain_low"], interval["gain_high"]),
        "after_interval": interval and percent_range(interval.get("after_low"), interval.get("after_high")),
        "lower_is_better": lower_is_better,
        "tile": bool(interval),
    }


def interval_name(evaluation: dict[str, Any]) -> str:
    """What the intervals of the gains are called; the gate's rule sets their confidence."""
    return f"{100 * evaluation['gate'].get('rule', {}).get('confidence', 0.95):g} % interval"


def over_champion(evaluation: dict[str, Any]) -> str:
    """What the gate's reason does not say of the model promoted until now; empty where there is none or nothing."""
    gain = evaluation.get("gain_over_champion", {}).get("heldout", {})
    names = dict(SENTENCE_NAMES)
    if "gate_far" in evaluation:
        names["tar"] = f"TAR@FAR={evaluation['gate_far']:g}"
    asked = any(check["name"].startswith("champion") for check in evaluation["gate"]["checks"])
    told = [
        f"{name} went from {percent(entry['before'])} to {percent(entry['after'])} ({points(entry['gain'])}, "
        f"{interval_name(evaluation)} {points_range(entry['gain_low'], entry['gain_high'])})"
        for name, entry in ((name, gain[key]) for key, name in names.items() if key in gain and not asked)
    ]
    known = evaluation.get("models", {}).get("champion", {}).get("heldout_people_trained_on", 0)
    sentences = [
        f"Against the champion, the model promoted until now, {'; '.join(told)}." if told else "",
        f"The champion was trained on {known} of the held-out people, which speaks for it." if known else "",
    ]
    return " ".join(filter(None, sentences))


def picture(path: Path, largest: int = LARGEST) -> str:
    """A picture as a data: URI, a JPEG of at most `largest` pixels a side, so that pages stay small.

    Raises:
        KubefaceError: the file is missing or no picture.
    """
    require(path.is_file(), f"{path} is missing: was the step before it finished?")
    try:
        image = Image.fromarray(decode_rgb(path.read_bytes()))
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise KubefaceError(f"{path} is no picture: run the step that writes it again") from None
    return as_jpeg(image, largest)


def as_jpeg(image: Image.Image, largest: int) -> str:
    """An image as a data: URI of at most so many pixels a side."""
    image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return data_uri(buffer.getvalue())
