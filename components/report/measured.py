"""What the evaluation measured, in the order and the words in which the page shows it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from components.faces.errors import KubefaceError, require
from components.faces.images import data_uri, decode_rgb
from components.report.figures import LineChart, det_chart, roc_chart, score_charts
from components.report.run import Run
from components.report.words import percent, percent_range, points, points_range, style

# What an evaluation may lack: the page leaves such a section out.
ABSENT: dict[str, Any] = {
    "champion": {},
    "gain_over_champion": {},
    "paired": {},
    "forgotten": [],
    "probes": [],
    "groups": {},
    "identification": {},
    "calibration": {},
    "compatibility": {},
    "histograms": {},
}
TITLES = {
    "heldout_clean": "Held-out people, clean crops",
    "lfw": "Labeled Faces in the Wild",
    "pairs": "Your own pairs",
    "cfp_fp": "CFP-FP",
    "agedb_30": "AgeDB-30",
    "calfw": "CALFW",
    "cplfw": "CPLFW",
}
MOST_FORGOTTEN = 12  # forgotten pairs shown
LARGEST = 224  # pixels of a picture's longer side
JPEG_QUALITY = 90
# Genuine pairs that must lie below the threshold for a rate to be told; as for impostors in metrics.
LEAST_PAIRS = 3


def title(name: str, degradation: str) -> str:
    """A set of pairs in words."""
    under = "" if degradation == "none" else f" under {degradation}"
    return f"Held-out people{under}" if name == "heldout" else TITLES.get(name, name)


def measured_set(run: Run, name: str) -> dict[str, Any]:
    """One set: its title, the figures of each model, what the pairs say, and the curves where there are any."""
    evaluation = ABSENT | run.evaluation
    before, after = evaluation["baseline"][name], evaluation["finetuned"][name]
    far = evaluation["gate_far"]
    rows = _figures(before, after, evaluation["gain"].get(name, {}), far)
    if champion := evaluation["champion"].get(name):
        over = _figures(champion, after, evaluation["gain_over_champion"].get(name, {}), far)
        rows = [row | {"champion": other} for row, other in zip(rows, over, strict=True)]
    roc, det = _curves(run.roc.get(name), after)
    return {
        "name": name,
        "title": title(name, evaluation["degradation"]),
        "genuine": after["genuine_pairs"],
        "impostor": after["impostor_pairs"],
        "rows": rows,
        "champion": bool(champion),
        "paired": evaluation["paired"].get(name),
        "roc": roc,
        "det": det,
        "scores": _scores(evaluation, name),
        "sweep": _sweep(run, name),
    }


def _curves(roc: dict[str, Any] | None, figures: dict[str, Any]) -> tuple[LineChart | None, LineChart | None]:
    """ROC and DET, each None where the pairs are too few to draw it."""
    if not roc:
        return None, None
    lowest = min(map(float, figures["tar_at_far"]), default=0.1)
    floor = LEAST_PAIRS / figures["genuine_pairs"]
    return roc_chart(roc, lowest), det_chart(roc, lowest, floor) if floor < 1 else None


def _scores(evaluation: dict[str, Any], name: str) -> dict[str, LineChart]:
    """The score histograms of a set by model; empty where there are none."""
    histograms = evaluation["histograms"].get(name)
    thresholds = {model: told["threshold"] for model, told in evaluation["calibration"].items()}
    return score_charts(histograms, thresholds) if histograms else {}


def _sweep(run: Run, name: str) -> dict[str, list[dict[str, float]]]:
    """The threshold table of a set by model."""
    sweep: dict[str, list[dict[str, float]]] = {}
    for row in run.thresholds:
        if row["set"] == name:
            figures = {key: float(row[key]) for key in ("threshold", "fmr", "fnmr", "accuracy")}
            sweep.setdefault(row["model"], []).append(figures)
    return sweep


def _figures(
    before: dict[str, Any], after: dict[str, Any], gain: dict[str, Any], gate_far: float
) -> list[dict[str, Any]]:
    """Rows of a set's table; `change` is in favour of the fine-tuned model where `style` is good."""
    rows = []
    for key, label in (("accuracy", "Accuracy"), ("auc", "AUC"), ("eer", "EER")):
        values = [side[key] for side in (before, after, before["flip"], after["flip"])]
        errors = [side.get(f"{key}_standard_error") for side in (before, after, before["flip"], after["flip"])]
        rows.append(_row(label, values, errors, gain.get(key), lower_is_better=key == "eer"))
    for far in sorted(after["tar_at_far"], key=float, reverse=True):
        values = [side["tar_at_far"][far] for side in (before, after, before["flip"], after["flip"])]
        interval = gain.get("tar") if float(far) == gate_far else None
        rows.append(_row(f"TAR@FAR={far}", values, [None] * 4, interval))
    return rows


def _row(
    label: str,
    values: list[float],
    errors: Sequence[float | None],
    interval: dict[str, float] | None,
    lower_is_better: bool = False,
) -> dict[str, Any]:
    """A row in percent; values and standard errors are shares of baseline, fine-tuned, and both again with flip."""
    change = values[1] - values[0]
    return {
        "label": label,
        "before": values[0],
        "after": values[1],
        "cells": [
            f"{100 * value:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
            for value, error in zip(values, errors, strict=True)
        ],
        "change": points(change),
        "style": style(change, lower_is_better),
        "interval": interval and points_range(interval["gain_low"], interval["gain_high"]),
        "after_interval": interval and percent_range(interval.get("after_low"), interval.get("after_high")),
        "lower_is_better": lower_is_better,
    }


def interval_name(evaluation: dict[str, Any]) -> str:
    """What the intervals of the gains are called; the gate's rule sets their confidence."""
    return f"{100 * evaluation['gate'].get('rule', {}).get('confidence', 0.95):g} % interval"


def over_champion(evaluation: dict[str, Any]) -> str:
    """What the gate's reason does not say of the model promoted until now; empty where there is none or nothing."""
    gain = evaluation.get("gain_over_champion", {}).get("heldout", {})
    names = {"accuracy": "accuracy", "auc": "AUC", "tar": f"TAR@FAR={evaluation['gate_far']:g}"}
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


def hardest_pairs(run: Run, kind: str) -> list[dict[str, Any]]:
    """The hardest pairs of a kind, with pictures and what each model makes of them at its own threshold."""
    thresholds = {model: run.evaluation[model]["heldout"]["threshold"] for model in ("baseline", "finetuned")}
    return [_pair(run, pair, kind, thresholds) for pair in run.evaluation["hardest"][kind]]


def forgotten_pairs(run: Run) -> list[dict[str, Any]]:
    """Pairs that the baseline decides rightly and the fine-tuned model wrongly, with pictures and thresholds."""
    return [
        _pair(
            run,
            pair,
            pair["kind"],
            {"baseline": pair["threshold_before"], "finetuned": pair["threshold_after"]},
        )
        for pair in run.evaluation.get("forgotten", [])[:MOST_FORGOTTEN]
    ]


def _pair(run: Run, pair: dict[str, Any], kind: str, thresholds: dict[str, float]) -> dict[str, Any]:
    folder = run.evaluation_folder / "pairs"
    set_name = pair.get("set")
    return {
        "set": set_name and title(set_name, run.evaluation["degradation"]),
        "kind": kind,
        "faces": [
            # A name of LFW has the person's folder before a slash.
            {
                "identity": pair[f"{side}_identity"] or pair[side],  # .bin sets know no names
                "picture": picture(folder / f"{pair[side].replace('/', '__')}.png"),
            }
            for side in ("left", "right")
        ],
        "scores": [
            {
                "model": model,
                "score": score,
                "threshold": thresholds[model],
                "right": (score > thresholds[model]) == (kind == "genuine"),
            }
            for model, score in (("baseline", pair["before"]), ("finetuned", pair["after"]))
        ],
    }


def picture(path: Path) -> str:
    """A picture as a data: URI, a JPEG of at most LARGEST pixels a side, so that pages stay small.

    Raises:
        KubefaceError: the file is missing or no picture.
    """
    require(path.is_file(), f"{path} is missing: was the step before it finished?")
    try:
        image = Image.fromarray(decode_rgb(path.read_bytes()))
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise KubefaceError(f"{path} is no picture: run the step that writes it again") from None
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return data_uri(buffer.getvalue())
