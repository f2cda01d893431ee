"""The page of classes: ways to a classifier, confusion, figures of every class, refusal of the unknown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubeface.records.evaluation import ClassesEvaluation
from kubeface.records.labelled_figures import ClassesFigures, GridImage, Mistake
from kubeface.report.comparison import Content, Section, Wording
from kubeface.report.heat_map import HeatMap, heat_map
from kubeface.report.labelled import MOST_ROWS, CardLine, card, measured_sets, sampling_panels
from kubeface.report.run import Run, Training

WORDING = Wording(crops="Crops", crop="Crop", one="class", many="classes", held="with held-out images")
MOST_CELLS, MOST_NUMBERED = 40, 20  # classes a side of a map, and of one that has numbers in its cells
MOST_CONFUSED = 20  # pairs of classes that are listed
Measured = Mapping[str, ClassesFigures]  # figures of the target set by model


@dataclass(frozen=True)
class Way:
    """A way to a classifier: its figures and what it took; None where it was not trained in this run."""

    model: str
    figures: ClassesFigures
    backbone: str | None
    epochs: int | None
    seconds: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """A class that is taken for another one: its images, and how often by model."""

    true: str
    predicted: str
    images: int
    counts: Mapping[str, int]


def content(run: Run, evaluation: ClassesEvaluation) -> Content:
    """What the page shows of a classifier, from the figures to its worst mistakes."""
    sets = measured_sets(evaluation, "Held-out images")
    models = {
        "baseline": evaluation.baseline,
        "finetuned": evaluation.finetuned,
        "scratch": evaluation.scratch,
        "champion": evaluation.champion,
    }
    measured = {model: figures["heldout"] for model, figures in models.items() if figures}
    unknown = {model: figures.unknown for model, figures in measured.items() if figures.unknown}
    compared = {model: figures for model, figures in measured.items() if model != "champion"}
    sampled = sampling_panels(evaluation.sampling)
    sections = [
        Section("figures", "Before and after"),
        Section("compared", "Three ways" if "scratch" in compared else "Two ways"),
        Section("confusion", "Confusion"),
        Section("per-class", "Classes"),
        Section("unknown", "Unknown", bool(unknown)),
        Section("sampling", "Sampling", bool(sampled)),
        Section("degradation", "Degradation"),
        Section("grid", "Predictions", bool(evaluation.grid)),
        Section("mistakes", "Mistakes", bool(evaluation.mistakes)),
    ]
    values = {
        "sets": sets,
        "compared": ways(run, compared),
        "maps": maps(evaluation.labels, compared),
        "confused": confused(evaluation.labels, compared),
        "measured": compared,
        "lowest": lowest(evaluation),
        "most_rows": MOST_ROWS,
        "unknown": unknown,
        "sampled": sampled,
        "grid": [card(run, image, _prediction(image)) for image in evaluation.grid],
        "mistakes": [card(run, mistake, _mistake(mistake)) for mistake in evaluation.mistakes],
    }
    return Content("classes.html", WORDING, sections, values, "labelled_style.html")


def ways(run: Run, measured: Measured) -> list[Way]:
    """Feature extraction, fine-tuning and training from scratch."""
    # Feature extraction is the first stage of fine-tuning: its epochs are those of the head alone.
    trainings = {"baseline": (run.training, 1), "finetuned": (run.training, 2), "scratch": (run.scratch, 2)}
    return [_way(model, figures, *trainings[model]) for model, figures in measured.items()]


def _way(model: str, figures: ClassesFigures, training: Training | None, last_stage: int) -> Way:
    if training is None or not training.history:
        return Way(model, figures, None, None, None)
    epochs = sum(epoch.stage <= last_stage for epoch in training.history)
    return Way(model, figures, training.model.backbone, epochs, training.seconds(last_stage))


def maps(names: Sequence[str], measured: Measured) -> dict[str, HeatMap]:
    """The confusion matrices by model, coloured by the share of a class's images; none of more than MOST_CELLS."""
    if len(names) > MOST_CELLS:
        return {}
    return {model: _map(names, figures.confusion) for model, figures in measured.items()}


def _map(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> HeatMap:
    shares = [
        [(count if row == column else -count) / max(sum(counts), 1) for column, count in enumerate(counts)]
        for row, counts in enumerate(confusion)
    ]
    texts = [[str(count) if count else "" for count in counts] for counts in confusion]
    return heat_map(names, shares, texts if len(names) <= MOST_NUMBERED else None)


def confused(names: Sequence[str], measured: Measured) -> list[ConfusedPair]:
    """The pairs of classes that the fine-tuned model confuses most."""
    counts = measured["finetuned"].confusion
    pairs = [
        (count, row, column)
        for row, line in enumerate(counts)
        for column, count in enumerate(line)
        if count and row != column
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        ConfusedPair(
            names[row],
            names[column],
            sum(counts[row]),
            {model: figures.confusion[row][column] for model, figures in measured.items()},
        )
        for _, row, column in pairs[:MOST_CONFUSED]
    ]


def lowest(evaluation: ClassesEvaluation) -> list[str]:
    """The MOST_ROWS classes with the lowest F1 of the fine-tuned model, the lowest first."""
    figures = evaluation.finetuned["heldout"].classes
    return sorted(evaluation.labels, key=lambda name: (figures[name].f1 or 0, name))[:MOST_ROWS]


def _prediction(image: GridImage) -> list[CardLine]:
    predicted = ", ".join(image.predicted) or "refused"
    if image.right:
        return [CardLine("good", f"✓ {predicted}")]
    return [CardLine("bad", f"✗ {predicted}"), CardLine("soft", f"is {', '.join(image.true)}")]


def _mistake(mistake: Mistake) -> list[CardLine]:
    return [
        CardLine("bad", f"✗ {mistake.predicted or 'refused'}"),
        CardLine("soft", f"is {mistake.true}"),
        CardLine("soft", f"score {mistake.score:.3f}"),
    ]
