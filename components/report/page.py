"""The report's page: what the template is given, and its rendering."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.faces.errors import KubefaceError
from components.faces.images import data_uri
from components.faces.table import Table
from components.report.figures import FRAME, PARTS, histogram, history_chart, identity_panels, roc_chart
from components.report.run import Run

SAMPLES = 24  # aligned faces shown
REJECTED = 12  # rejected images of a step that are listed
MOST_BARS = 60  # identities that get a bar each; of more there is a histogram
SPACE = "\u00a0"  # keeps a number and its unit on one line


def render(run: Run, settings: dict[str, Any], versions: dict[str, str]) -> str:
    """The page as HTML, with everything it shows inside it.

    Args:
        run: the run to tell.
        settings: of the training, by name.
        versions: of programs, by name.

    Raises:
        KubefaceError: a picture is missing.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "plain": plain}
    rejected = run.rejected
    names = sample_faces(run.aligned)
    pictures = _crops(run.aligned, {*names, *(row["source"] for row in rejected if row["step"] == "filter")})
    many = len(run.people) > MOST_BARS
    return environment.get_template("template.html").render(
        run=run,
        evaluation=run.evaluation,
        settings=settings,
        versions=versions,
        frame=FRAME,
        parts={"train": "training", "val": "validation", "heldout": "held out", "excluded": "excluded"},
        models={"baseline": "baseline", "finetuned": "fine-tuned"},
        verdict=_verdict(run),
        sets=[_set(run, name) for name in run.evaluation["finetuned"]],
        hardest={kind: _pairs(run, kind) for kind in ("genuine", "impostor")},
        samples=[data_uri(_read(path)) for path in sorted((run.evaluation_folder / "samples").glob("*.png"))],
        faces=[{"identity": identity, "picture": pictures[source]} for source, identity in names.items()],
        kept=_kept(run),
        most_rejected=REJECTED,
        rejected=[
            row | {"picture": pictures.get(row["source"]) if row["step"] == "filter" else None} for row in rejected
        ],
        panels=[] if many else identity_panels(run.people),
        histogram=histogram(run.people) if many else None,
        totals={part: sum(images[part] for images in run.people.values()) for part in PARTS},
        curves=[(figure, history_chart(run.history, figure)) for figure in ("loss", "accuracy")],
    )


def percent(share: float) -> str:
    """0.8465 as 84.65 %."""
    return f"{100 * share:.2f}{SPACE}%"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign; +0.00 for what rounds to nothing."""
    return f"{round(100 * share, 2) + 0.0:+.2f}".replace("-", "−")


def plain(value: Any) -> str:
    """A setting as one would type it; a dash for nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value in ("", None) else str(value)


def _read(path: Path) -> bytes:
    """Raises KubefaceError where a picture is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise KubefaceError(f"{path} is missing: was the step before it finished?") from None


def sample_faces(aligned: Table, most: int = SAMPLES) -> dict[str, str]:
    """Source and identity of up to `most` images, evenly over the table, each identity at most once."""
    chosen: dict[str, str] = {}
    first: dict[str, str] = {}
    place = 0
    for rows in aligned.row_groups(["source", "identity"]):
        for row in rows:
            first.setdefault(row["identity"], row["source"])
            due = len(chosen) < most and place >= len(chosen) * aligned.rows // most
            if due and row["identity"] not in chosen:
                chosen[row["identity"]] = row["source"]
            place += 1
    # Where few identities are left towards the end, those not shown yet fill up.
    rest = [name for name in first if name not in chosen][: most - len(chosen)]
    return {source: name for name, source in (chosen | {name: first[name] for name in rest}).items()}


def _crops(aligned: Table, wanted: set[str]) -> dict[str, str]:
    """Crops as data: URIs by source; a row group is in memory at a time, and no more are read than needed."""
    found: dict[str, str] = {}
    for rows in aligned.row_groups(["source", "image"]):
        found |= {row["source"]: data_uri(row["image"]) for row in rows if row["source"] in wanted}
        if len(found) == len(wanted):
            break
    return found


def _verdict(run: Run) -> str:
    """What the run came to, in one sentence with figures."""
    evaluation = run.evaluation
    gain = evaluation["gain"]["heldout"]
    told = [
        f"{name} went from {percent(entry['before'])} to {percent(entry['after'])}"
        for name, entry in (("AUC", gain["auc"]), (f"TAR@FAR={evaluation['gate_far']:g}", gain["tar"]))
    ]
    where = "" if evaluation["degradation"] == "none" else f" under {evaluation['degradation']}"
    return f"On {evaluation['people']} held-out people{where}, {' and '.join(told)}."


def _title(name: str, degradation: str) -> str:
    """A set of pairs in words."""
    under = "" if degradation == "none" else f" under {degradation}"
    titles = {
        "heldout": f"Held-out people{under}",
        "heldout_clean": "Held-out people, clean crops",
        "lfw": "Labeled Faces in the Wild",
    }
    return titles.get(name, name)


def _set(run: Run, name: str) -> dict[str, Any]:
    """One set: its title, the figures before and after, and the ROC."""
    before, after = run.evaluation["baseline"][name], run.evaluation["finetuned"][name]
    lowest = min(map(float, after["tar_at_far"]), default=0.1)
    return {
        "name": name,
        "title": _title(name, run.evaluation["degradation"]),
        "genuine": after["genuine_pairs"],
        "impostor": after["impostor_pairs"],
        "rows": _figures(before, after, run.evaluation["gain"].get(name, {}), run.evaluation["gate_far"]),
        "roc": roc_chart(run.roc[name], lowest),
    }


def _figures(
    before: dict[str, Any], after: dict[str, Any], gain: dict[str, Any], gate_far: float
) -> list[dict[str, Any]]:
    """Rows of a set's table; `change` is in favour of the fine-tuned model where `better` is true."""
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
    shown = round(100 * change, 2)
    return {
        "label": label,
        "before": values[0],
        "after": values[1],
        "cells": [
            f"{100 * value:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
            for value, error in zip(values, errors, strict=True)
        ],
        "change": points(change),
        "style": "" if shown == 0 else "good" if (shown > 0) != lower_is_better else "bad",
        "interval": interval and f"{points(interval['gain_low'])} to {points(interval['gain_high'])}",
        "lower_is_better": lower_is_better,
    }


def _pairs(run: Run, kind: str) -> list[dict[str, Any]]:
    """The hardest pairs of a kind, with pictures and what each model makes of them at its own threshold."""
    thresholds = {model: run.evaluation[model]["heldout"]["threshold"] for model in ("baseline", "finetuned")}
    folder = run.evaluation_folder / "pairs"
    return [
        {
            "faces": [
                {"identity": pair[f"{side}_identity"], "picture": data_uri(_read(folder / f"{pair[side]}.png"))}
                for side in ("left", "right")
            ],
            "scores": [
                {"model": model, "score": score, "right": (score > thresholds[model]) == (kind == "genuine")}
                for model, score in (("baseline", pair["before"]), ("finetuned", pair["after"]))
            ],
        }
        for pair in run.evaluation["hardest"][kind]
    ]


def _kept(run: Run) -> list[dict[str, Any]]:
    """Images in, kept and left out by step, with the reasons."""
    reasons = run.data["rejected"] | {"audit": run.audit["counts"]["reasons"], "split": run.excluded}
    return [
        {
            "step": step,
            "rows_in": run.steps[step]["rows_in"],
            "rows_out": run.steps[step]["rows_out"],
            "rejected": sum(counts.values()),
            "reasons": counts,
        }
        for step, counts in reasons.items()
    ]
