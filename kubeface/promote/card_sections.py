"""Sections and sentences that the model cards of all tasks share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kubeface.metrics.figures import Gain
from kubeface.promote.markdown import Lines, change, code, percent, table, text
from kubeface.records.data import Erasure
from kubeface.records.evaluation import EvaluationRecord, RecognitionEvaluation
from kubeface.records.model import ModelRecord, TrainingRecord

# Figures as the tables call them; others keep their names.
NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "f1": "F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error",
}
MODELS = ("baseline", "scratch", "champion", "finetuned")
COMPARED = {
    "baseline": "the starting model",
    "champion": "the champion before it",
    "scratch": "the small network from scratch",
}
Sections = dict[str, Lines]  # lines by title
OfTask = TypeVar("OfTask", bound=EvaluationRecord)


@dataclass(frozen=True)
class TaskCard(Generic[OfTask]):
    """What the card of a task says.

    Args:
        kind: of model, as a sentence calls it.
        people: what the identities of the training are called.
        sections: makes the task's own sections.
        ethics, caveats: of the task, beside those of all tasks.
    """

    kind: str
    people: str
    sections: Callable[[ModelRecord, OfTask], Sections]
    ethics: Sequence[str]
    caveats: Sequence[str]


def details(model: ModelRecord) -> Lines:
    """Architecture, weights, start and training."""
    training = model.training
    lines = [
        f"- Architecture: {model.backbone}, {model.embedding_size}-d embeddings of unit length",
        f"- Weights: SHA-256 {code(model.weights_sha256)}",
        f"- Starting weights: {code(model.start)}, license {text(model.start_license)}",
    ]
    if training.strategy:
        lines.append(
            f"- Training: strategy {training.strategy}, {training.epochs} epochs at most, the best one is "
            f"{training.best_epoch}, seed {training.seed}; every setting stands in passport.json"
        )
    if training.fallback:
        lines.append(f"- Fallback: {text(training.fallback)}")
    return ["", *lines]


def training_data(training: TrainingRecord, people: str, erasure: Erasure | None) -> Lines:
    """What the model was trained on, and what was left out to be forgotten."""
    lines = [
        "",
        f"Trained on {training.images} images of {training.identities} {people}, degradation "
        f"{code(training.degradation)}.",
    ]
    if not erasure or not erasure.marks:
        return lines
    return [
        *lines,
        "",
        f"**Erasure.** {erasure.files_left_out} images were left out since they, or the people on them, are to be "
        f"forgotten; {erasure.rows_found} of them are among the {erasure.rows_checked} images that remained, by name "
        "of person and file. The list has the marks below, the first 32 hex digits of the SHA-256 of each name:",
        "",
        *(f"- `{mark}`" for mark in erasure.marks),
    ]


def ethics(of_task: Sequence[str]) -> Lines:
    """Ethical considerations."""
    return [
        "",
        "- Faces are biometric data: collect, keep and compare them only with a lawful ground, and erase them when "
        "asked to. Leaving people out takes a new training; the weights of this model stay as they are.",
        *of_task,
    ]


def caveats(model: ModelRecord, of_task: Sequence[str]) -> Lines:
    """Caveats and recommendations."""
    return [
        "",
        "- The figures hold for people and cameras like those of the held-out set; measure on your own before relying "
        "on a threshold.",
        *of_task,
        f"- License of the starting weights: {text(model.start_license)}. It may bind what is made of them, as this "
        "model is.",
    ]


def image_input(model: ModelRecord, crops: str) -> str:
    """What the model takes, in a sentence.

    Args:
        model: with preprocessing and alignment.
        crops: what its crops show.
    """
    look = model.preprocessing
    return (
        f"Input: RGB {crops} of {look.size}×{look.size} pixels, aligned to the template "
        f"{code(model.alignment.template)}; ({look.color_order} − {_number(look.mean)}) / {_number(look.std)}."
    )


def _number(value: float | Sequence[float]) -> str:
    """A number, or one for each channel."""
    return f"({', '.join(f'{each:g}' for each in value)})" if isinstance(value, Sequence) else f"{value:g}"


def listed(labels: Sequence[str], most: int = 100) -> str:
    """Labels or classes by name; of very many the first."""
    more = f" and {len(labels) - most} more, see labels.json" if len(labels) > most else ""
    return ", ".join(text(label) for label in labels[:most]) + more


def figures_table(evaluation: EvaluationRecord, keys: Sequence[str]) -> Lines:
    """These figures of every set and model, in percent."""
    rows = [
        [text(name), model, *(percent(getattr(figures[name], key)) for key in keys)]
        for name in evaluation.figures_of("finetuned")
        for model in MODELS
        if name in (figures := evaluation.figures_of(model))
    ]
    return ["", *table(["set", "model", *(NAMES.get(key, key) for key in keys)], rows)]


def gain_tables(evaluation: EvaluationRecord) -> Lines:
    """Every gain with its interval, over each model that the evaluation compares with."""
    names = dict(NAMES)
    if isinstance(evaluation, RecognitionEvaluation):
        names["tar"] = f"TAR@FAR={evaluation.gate_far:g}"
    lines = []
    for model, over in COMPARED.items():
        rows = [
            [text(name), names.get(figure, figure), *gain_cells(gain)]
            for name, gains in evaluation.gains_over(model).items()
            for figure, gain in gains.items()
        ]
        if rows:
            header = ["set", "figure", "before", "now", "change in points (95 % interval)"]
            lines += ["", f"Change over {over}:", "", *table(header, rows)]
    return lines


def gain_cells(gain: Gain) -> Lines:
    """Cells of a gain: before, now, and the change with its interval."""
    return [percent(gain.before), percent(gain.after), change(gain.gain, gain.gain_low, gain.gain_high)]


def degradation(evaluation: EvaluationRecord) -> str:
    """What was done to the photographs of the target set, as a sentence that follows others; empty for nothing."""
    low_resolution = evaluation.low_resolution if isinstance(evaluation, RecognitionEvaluation) else None
    crossed = (
        " heldout\\_cross compares a low-resolution photograph with a sharp one of another moment."
        if low_resolution
        else ""
    )
    if low_resolution and low_resolution.paired:
        return (
            " The set heldout has photographs that a camera took at low resolution, heldout\\_clean the sharp ones of "
            f"the same moments.{crossed}"
        )
    if evaluation.degradation == "none":
        return ""
    return (
        f" The set heldout has the degradation {code(evaluation.degradation)} on every photograph, heldout\\_clean has "
        f"not.{crossed}"
    )
