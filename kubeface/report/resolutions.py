"""Faces of few pixels: what the evaluation measured at each size, in the words and charts of the page."""

from typing import Any

from kubeface.report.figures import Interval, LineChart, size_chart
from kubeface.report.measured import Rows, picture
from kubeface.report.measured import title as title_of
from kubeface.report.run import Run
from kubeface.report.words import DASH, SPACE, percent, points, points_range, rate

SHARP, BICUBIC = "clean", "bicubic"
# What a photograph of few pixels is compared with, as evaluate calls it and as the page does.
KINDS = {"cross": "Few pixels against sharp photographs", "same": "Few pixels against few pixels"}
FIGURES = ("accuracy", "accuracy_fixed", "auc", "tar")  # of the table, in its order
GAINS = ("tar", "accuracy_fixed")  # of which the table has the change


def title(name: str, evaluation: dict[str, Any]) -> str:
    """A set of held-out people in words."""
    degradation, few = evaluation["degradation"], evaluation.get("few_pixels") or {}
    if few.get("paired"):
        told = {"heldout": "few pixels", "heldout_cross": "few pixels against sharp", "heldout_clean": "sharp"}
        if name in told:
            return f"Held-out people, {told[name]}"
    elif name == "heldout_cross":
        return f"Held-out people, {degradation} against clean crops"
    return title_of(name, degradation)


def size(name: str) -> str:
    """A size of a crop in words."""
    return "sharp" if name == SHARP else f"{name}{SPACE}pixels"


def by_resolution(run: Run, evaluation: dict[str, Any]) -> dict[str, Any]:
    """The section's content: tables and charts of both kinds, of LFW, faces of each size, and what it means."""
    told, few = evaluation["resolutions"], evaluation["few_pixels"]
    rows = told["rows"]
    network = few["superresolver"] != BICUBIC and not few["paired"]
    names = {
        **({BICUBIC: "baseline, bicubic"} if network else {}),
        "baseline": f"baseline, {'network' if network else 'as taken' if few['paired'] else BICUBIC}",
        "finetuned": "fine-tuned" + (", network" if network else ""),
    }
    return {
        "meaning": _meaning(rows),
        "tables": [
            {"title": words, "ranked": kind == "cross", "groups": [_group(row, kind, names) for row in rows]}
            for kind, words in KINDS.items()
        ],
        "charts": [(KINDS[kind], _chart(rows, kind, names)) for kind in KINDS] if len(rows) > 1 else [],
        "lfw": _lfw(evaluation, names),
        "faces": _faces(run, rows),
        "fars": " and ".join(dict.fromkeys(rate(row[kind]["far"]) for row in rows for kind in KINDS)),
        "columns": [*(["bicubic", "network"] if network else ["few pixels"]), "sharp"],
        "left_out": ", ".join(f"{size(entry['size'])} ({entry['images']})" for entry in told["left_out"]),
    }


def _meaning(rows: Rows) -> str:
    """What the smallest size and the sharp photographs say, in a line; empty where nothing could be measured."""
    few = next((row for row in rows if row["size"] != SHARP), None)
    if few is None:
        return ""
    gain, far = few["cross"]["gain"]["tar"], few["cross"]["far"]
    low, high = gain["gain_low"], gain["gain_high"]
    verdict = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that these people are enough to prove"
    said = (
        f"Of two photographs of one person, one of {size(few['size'])} and a sharp one, the fine-tuned model "
        f"recognises {percent(gain['after'])} where it takes {rate(far)} of strangers for one person; the baseline "
        f"{percent(gain['before'])}. That is {points(gain['gain'])} points ({points_range(low, high)}): {verdict}."
    )
    sharp = next((row["same"]["gain"]["tar"] for row in rows if row["size"] == SHARP), None)
    if sharp is None:
        return said
    between = points_range(sharp["gain_low"], sharp["gain_high"])
    return f"{said} On sharp photographs the change is {points(sharp['gain'])} points ({between})."


def _group(row: dict[str, Any], kind: str, names: dict[str, str]) -> dict[str, Any]:
    """A size's rows of a table, one for each model."""
    told = row[kind]
    return {
        "size": size(row["size"]),
        "images": row["images"],
        "people": row["people"],
        "far": told["far"],
        "models": [
            {
                "name": name.partition(",")[0] if row["size"] == SHARP else name,  # nothing enlarges a sharp one
                "cells": [_cell(told[which], figure) for figure in FIGURES],
                "flip": [_cell(told[which]["flip"], figure) for figure in ("accuracy_fixed", "tar")],
                "rank1": DASH if row["rank1"][which] is None else f"{100 * row['rank1'][which]:.2f}",
                "gains": [told["gain"][figure] for figure in GAINS] if which == "finetuned" else [],
            }
            for which, name in names.items()
            if which in told
        ],
    }


def _cell(figures: dict[str, Any], name: str) -> str:
    """A figure in percent, with its standard error where it has one."""
    error = figures.get(f"{name}_standard_error")
    return f"{100 * figures[name]:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def _chart(rows: Rows, kind: str, names: dict[str, str]) -> LineChart:
    """TAR by size, each model's with its interval."""
    lines: dict[str, dict[str, Interval]] = {which: {} for which in names}
    for row in rows:
        told = row[kind]
        for which in names:
            if which == "finetuned":
                entry, side = told["gain"]["tar"], "after"
            elif which == BICUBIC:
                entry, side = told.get("gain_over_bicubic", {}).get("tar"), "before"
            else:
                entry, side = told["gain"]["tar"], "before"
            if entry is not None:
                lines[which][size(row["size"])] = (entry[side], entry[f"{side}_low"], entry[f"{side}_high"])
    return size_chart([size(row["size"]) for row in rows], lines, names, "true accept rate")


def _lfw(evaluation: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """LFW at each size: rows of the table, and accuracy by size; empty where it was not measured."""
    sizes = (evaluation.get("lfw") or {}).get("sizes")
    if not sizes:
        return {}
    models = [which for which in ("baseline", "champion", "finetuned") if which in sizes[0]]
    # The set itself is measured on the crops as they are.
    entries = [*sizes, {"size": SHARP} | {which: evaluation[which]["lfw"] for which in models}]
    lines: dict[str, dict[str, Interval]] = {which: {} for which in models}
    for entry in entries:
        for which in models:
            accuracy, error = entry[which]["accuracy"], entry[which]["accuracy_standard_error"]
            lines[which][size(entry["size"])] = (accuracy, accuracy - error, min(1.0, accuracy + error))
    shown = {"champion": "champion"} | names
    return {
        "models": [shown[which] for which in models],
        "rows": [
            {
                "size": size(entry["size"]),
                "cells": [_cell(entry[which], "accuracy") for which in models],
                "flip": [_cell(entry[which]["flip"], "accuracy") for which in models],
                "change": points(entry["finetuned"]["accuracy"] - entry["baseline"]["accuracy"]),
            }
            for entry in entries
        ],
        "chart": size_chart([size(entry["size"]) for entry in entries], lines, shown, "accuracy"),
    }


def _faces(run: Run, rows: Rows) -> list[dict[str, Any]]:
    """Pictures of some faces at each size."""
    folder = run.evaluation_folder / "sizes"
    return [
        {"size": size(row["size"]), "pictures": [picture(path, 336) for path in sorted(paths)]}
        for row in rows
        if (paths := list((folder / row["size"]).glob("*.png")))
    ]
