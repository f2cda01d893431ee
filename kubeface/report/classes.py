"""Classes: what the evaluation measured of one class of many, as the page shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeface.records.summary import ClassesSummary, SummaryRecord
from kubeface.report.figures import HeatMap, heat_map
from kubeface.report.labelled import MOST_ROWS, card, measured_sets, sampled
from kubeface.report.measured import Content, TaskPage
from kubeface.report.run import Run

MODELS = ("baseline", "finetuned", "scratch")
MOST_CELLS, MOST_NUMBERED = 40, 20  # classes a side of a map, and of one that has numbers in its cells
MOST_CONFUSED = 20  # pairs of classes that are listed
ABSENT: dict[str, Any] = {
    "champion": {}, "gain_over_champion": {}, "scratch": {}, "gain_over_scratch": {}, "sampling": {}, "chosen_on": {},
    "grid": [], "mistakes": [],
}  # fmt: skip
IN_SUMMARY = ("labels", "gain_over_scratch", "chosen_on", "sampling")


def content(run: Run, evaluation: dict[str, Any]) -> Content:
    """What the page tells of a model of classes, from the figures to its worst mistakes."""
    sets = measured_sets(evaluation, "Held-out images")
    measured = {model: evaluation[model]["heldout"] for model in (*MODELS, "champion") if evaluation[model]}
    unknown = {model: told["unknown"] for model, told in measured.items() if told["unknown"]}
    compared = {model: told for model, told in measured.items() if model != "champion"}
    sections = [
        ("figures", "Before and after", True),
        ("compared", "Three ways" if "scratch" in compared else "Two ways", True),
        ("confusion", "Confusion", True),
        ("per-class", "Classes", True),
        ("unknown", "Unknown", unknown),
        ("sampling", "Sampling", evaluation["sampling"]),
        ("degradation", "Degradation", True),
        ("grid", "Predictions", evaluation["grid"]),
        ("mistakes", "Mistakes", evaluation["mistakes"]),
    ]
    values = {
        "sets": sets,
        "compared": ways(run, compared),
        "maps": maps(evaluation["labels"], compared),
        "confused": confused(evaluation["labels"], compared),
        "class_rows": class_rows(evaluation["labels"], compared),
        "most_rows": MOST_ROWS,
        "unknown": unknown,
        "sampled": sampled(evaluation["sampling"]) if evaluation["sampling"] else [],
        "grid": [card(run, entry, _told(entry)) for entry in evaluation["grid"]],
        "mistakes": [card(run, entry, _told(entry)) for entry in evaluation["mistakes"]],
    }
    return Content(sections, values)


def ways(run: Run, measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Feature extraction, fine-tuning and training from scratch, each with its figures and what it took.

    Args:
        run: with the trainings.
        measured: figures of the target set by model.
    """
    # Feature extraction is the fine-tuning's first stage: its epochs are those of the head alone.
    trainings = {"baseline": (run.training, 1), "finetuned": (run.training, 2)}
    if run.scratch:
        trainings["scratch"] = (run.scratch, 2)
    rows = []
    for model, figures in measured.items():
        training, last = trainings.get(model, (None, 2))
        if training and not training.history:  # of an earlier run
            training = None
        rows.append(
            {
                "model": model,
                "figures": figures,
                "backbone": training.model["backbone"] if training else None,
                "epochs": sum(row["stage"] <= last for row in training.history) if training else None,
                "seconds": training.seconds(last) if training else None,
            }
        )
    return rows


def maps(names: Sequence[str], measured: Mapping[str, Mapping[str, Any]]) -> dict[str, HeatMap]:
    """The confusion matrices by model, coloured by the share of a class's images; none of more than MOST_CELLS."""
    if len(names) > MOST_CELLS:
        return {}
    return {model: _map(names, figures["confusion"]) for model, figures in measured.items()}


def _map(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> HeatMap:
    shares = [
        [(count if row == column else -count) / max(sum(counts), 1) for column, count in enumerate(counts)]
        for row, counts in enumerate(confusion)
    ]
    texts = [[str(count) if count else "" for count in counts] for counts in confusion]
    return heat_map(names, shares, texts if len(names) <= MOST_NUMBERED else None)


def confused(names: Sequence[str], measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pairs of classes that the fine-tuned model confuses most: true, predicted, and counts by model."""
    counts = measured["finetuned"]["confusion"]
    pairs = [
        (count, row, column)
        for row, line in enumerate(counts)
        for column, count in enumerate(line)
        if count and row != column
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        {
            "true": names[row],
            "predicted": names[column],
            "images": sum(counts[row]),
            "counts": {model: figures["confusion"][row][column] for model, figures in measured.items()},
        }
        for _, row, column in pairs[:MOST_CONFUSED]
    ]


def class_rows(names: Sequence[str], measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each class's figures by model, those with the lowest F1 of the fine-tuned model first; MOST_ROWS at most."""
    by_class = {name: {model: figures["classes"][name] for model, figures in measured.items()} for name in names}
    ranked = sorted(names, key=lambda name: (by_class[name]["finetuned"]["f1"] or 0, name))
    return [{"name": name, "models": by_class[name]} for name in ranked[:MOST_ROWS]]


def _told(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What class a photograph is of and what is said of it; grid entries hold lists, mistakes names."""
    true, predicted = (_name(entry[key]) for key in ("true", "predicted"))
    right = entry.get("right", False)  # mistakes do not say it
    said = predicted or "refused"
    lines = [("good", f"✓ {said}")] if right else [("bad", f"✗ {said}"), ("soft", f"is {true}")]
    return lines + ([("soft", f"score {entry['score']:.3f}")] if "score" in entry else [])


def _name(told: Any) -> str:
    """The class that a list or a name tells; empty where there is none."""
    return ", ".join(told) if isinstance(told, list) else told or ""


def summary(evaluation: dict[str, Any], shared: SummaryRecord) -> ClassesSummary:
    """The summary with the figures of classes; confusion matrices, which grow with the square, stay out of it."""

    def small(model: str) -> dict[str, Any]:
        return {
            name: {key: value for key, value in figures.items() if key != "confusion"}
            for name, figures in evaluation[model].items()
        }

    models = {"baseline": small("baseline"), "finetuned": small("finetuned"), "scratch": small("scratch") or None}
    return ClassesSummary(**(dict(shared) | models | {name: evaluation[name] for name in IN_SUMMARY}))


PAGE = TaskPage(
    template="classes.html",
    style="labelled_style.html",
    fields=("labels",),
    absent=ABSENT,
    words={
        "crops": "Crops",
        "crop": "Crop",
        "one": "class",
        "many": "classes",
        "held": "with held-out images",
    },
    content=content,
    summary=summary,
)
