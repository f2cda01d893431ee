"""Recognition: what the evaluation measured of pairs, in the order and the words in which the page shows it."""

from typing import Any

from kubeface.records.summary import RecognitionSummary, SummaryRecord
from kubeface.report.figures import LineChart, det_chart, roc_chart, score_charts
from kubeface.report.measured import Content, Rows, TaskPage, beside, figure_row, picture
from kubeface.report.resolutions import by_resolution
from kubeface.report.resolutions import title as title_of
from kubeface.report.run import Run
from kubeface.report.words import enrolment

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
    "calibrated_on": "",
    "compatibility": {},
    "histograms": {},
    "few_pixels": {},
    "resolutions": {},
    "hardest_cross": {},
}
# Only in the summary of a run that measured them.
FEW_PIXELS = ("few_pixels", "resolutions")
IN_SUMMARY = ("paired", "probes", "identification", "calibration", "compatibility")
TITLES = {
    "lfw": "Labeled Faces in the Wild",
    "pairs": "Your own pairs",
    "cfp_fp": "CFP-FP",
    "agedb_30": "AgeDB-30",
    "calfw": "CALFW",
    "cplfw": "CPLFW",
}
MOST_FORGOTTEN = 12  # forgotten pairs shown
# Genuine pairs that must lie below the threshold for a rate to be told; as for impostors in metrics.
LEAST_PAIRS = 3


def title(name: str, evaluation: dict[str, Any]) -> str:
    """A set of pairs in words."""
    return TITLES.get(name) or title_of(name, evaluation)


def measured_set(run: Run, evaluation: dict[str, Any], name: str) -> dict[str, Any]:
    """One set: its title, the figures of each model, what the pairs say, and the curves where there are any."""
    after, far = evaluation["finetuned"][name], evaluation["gate_far"]
    rows, others = beside(evaluation, name, lambda before, gain: _figures(before, after, gain, far))
    roc, det = _curves(run.roc.get(name), after)
    return {
        "name": name,
        "title": title(name, evaluation),
        "genuine": after["genuine_pairs"],
        "impostor": after["impostor_pairs"],
        "rows": rows,
        "others": others,
        "flip": True,
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


def _figures(before: dict[str, Any], after: dict[str, Any], gain: dict[str, Any], gate_far: float) -> Rows:
    """Rows of a set's table; the first three are tiles too."""
    rows = []
    for key, label in (("accuracy", "Accuracy"), ("auc", "AUC"), ("eer", "EER")):
        values = [side[key] for side in (before, after, before["flip"], after["flip"])]
        errors = [side.get(f"{key}_standard_error") for side in (before, after, before["flip"], after["flip"])]
        row = figure_row(label, values, errors, gain.get(key), lower_is_better=key == "eer")
        rows.append(row | {"tile": True})
    for far in sorted(after["tar_at_far"], key=float, reverse=True):
        values = [side["tar_at_far"][far] for side in (before, after, before["flip"], after["flip"])]
        interval = gain.get("tar") if float(far) == gate_far else None
        rows.append(figure_row(f"TAR@FAR={far}", values, [None] * 4, interval))
    return rows


def hardest_pairs(run: Run, kind: str, name: str = "heldout") -> list[dict[str, Any]]:
    """The hardest pairs of a kind of the set, with pictures and what each model makes of them at its own threshold."""
    thresholds = {model: run.evaluation[model][name]["threshold"] for model in ("baseline", "finetuned")}
    hardest = run.evaluation["hardest" if name == "heldout" else "hardest_cross"]
    return [_pair(run, pair, kind, thresholds) for pair in hardest[kind]]


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
        "set": set_name and title(set_name, run.evaluation),
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


def content(run: Run, evaluation: dict[str, Any]) -> Content:
    """What the page tells of a recognition model, from the figures to what was forgotten."""
    sets = [measured_set(run, evaluation, name) for name in evaluation["finetuned"]]
    threshold = evaluation["calibration"] or any(told["scores"] or told["sweep"] for told in sets)
    sections = [
        ("figures", "Before and after", True),
        ("roc", "ROC and DET", any(told["roc"] for told in sets)),
        ("threshold", "Threshold", threshold),
        ("degradation", "Degradation", True),
        ("resolutions", "By resolution", evaluation["resolutions"]),
        ("probes", "Probes", evaluation["probes"]),
        ("groups", "Groups", evaluation["groups"]),
        ("identification", "Identification", evaluation["identification"]),
        ("gallery", "Old gallery", evaluation["compatibility"]),
        ("pairs", "Hardest pairs", True),
        ("forgotten", "Forgotten", evaluation["forgotten"] or evaluation["paired"]),
    ]
    champion = {"champion": "champion"} if any("champion" in curves for curves in run.roc.values()) else {}
    values = {
        "sets": sets,
        "titles": {name: title(name, evaluation) for name in evaluation["identification"]},
        "drawn": {"baseline": "baseline"} | champion | {"finetuned": "fine-tuned"},
        "enrolment": enrolment(evaluation["compatibility"]) if evaluation["compatibility"] else "",
        "hardest": {kind: hardest_pairs(run, kind) for kind in ("genuine", "impostor")},
        "hardest_cross": {kind: hardest_pairs(run, kind, "heldout_cross") for kind in ("genuine", "impostor")}
        if evaluation["hardest_cross"]
        else {},
        "forgotten": forgotten_pairs(run),
        "calibrated_on": title(evaluation["calibrated_on"], evaluation),
        "by_resolution": by_resolution(run, evaluation) if evaluation["resolutions"] else {},
    }
    return Content(sections, values)


def summary(evaluation: dict[str, Any], shared: SummaryRecord) -> RecognitionSummary:
    """The summary with the figures of recognition."""
    figures: dict[str, Any] = {name: evaluation[name] for name in IN_SUMMARY}
    figures |= {name: evaluation[name] or None for name in FEW_PIXELS}
    figures["groups"] = {name: column["worst_ratio"] for name, column in evaluation["groups"].items()}
    return RecognitionSummary(**dict(shared), **figures)


PAGE = TaskPage(
    template="recognition.html",
    style="",
    fields=("pairs", "gate_far", "hardest"),
    absent=ABSENT,
    words={
        "crops": "Aligned faces",
        "crop": "Aligned face",
        "one": "identity",
        "many": "identities",
        "held": "held out",
    },
    content=content,
    summary=summary,
)
