"""The model card: what a model is, what it was trained and measured on, and its limits.

After Mitchell et al., "Model cards for model reporting", FAT* 2019, arXiv 1810.03993; the sections are theirs.
"""

from typing import assert_never

from kubeface.promote import attributes_card, classes_card, recognition_card
from kubeface.promote.card_sections import OfTask, Sections, TaskCard, caveats, details, ethics, training_data
from kubeface.promote.markdown import code, text
from kubeface.records.data import Erasure
from kubeface.records.evaluation import AttributesEvaluation, ClassesEvaluation, Evaluation, RecognitionEvaluation
from kubeface.records.model import ModelRecord

SECTIONS = (
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Decision threshold",
    "Galleries enrolled with the starting model",
    "Ethical considerations",
    "Caveats and recommendations",
)


def model_card(
    name: str, version: str, model: ModelRecord, evaluation: Evaluation, erasure: Erasure | None = None
) -> str:
    """The card as Markdown; what an evaluation did not measure is left out.

    Args:
        name, version: of the model.
        model: model.json.
        evaluation: evaluation.json.
        erasure: what gather left out to be forgotten; None where it was not asked.
    """
    match evaluation:
        case RecognitionEvaluation():
            return _card(f"{name} {version}", recognition_card.CARD, model, evaluation, erasure)
        case AttributesEvaluation():
            return _card(f"{name} {version}", attributes_card.CARD, model, evaluation, erasure)
        case ClassesEvaluation():
            return _card(f"{name} {version}", classes_card.CARD, model, evaluation, erasure)
        case _ as unreachable:
            assert_never(unreachable)


def _card(title: str, task: TaskCard[OfTask], model: ModelRecord, evaluation: OfTask, erasure: Erasure | None) -> str:
    """The card of a task."""
    sections: Sections = task.sections(model, evaluation) | {
        "Model details": details(model),
        "Training data": training_data(model.training, task.people, erasure),
        "Ethical considerations": ethics(task.ethics),
        "Caveats and recommendations": caveats(model, task.caveats),
    }
    lines = [
        f"# {title}",
        "",
        f"A {task.kind} ({model.backbone}, {model.embedding_size}-d embeddings), fine-tuned from {code(model.start)}.",
        "",
        f"**Verdict:** {text(evaluation.gate.reason)}.",
    ]
    for section in SECTIONS:
        if content := sections.get(section):
            lines += ["", f"## {section}", *content]
    return "\n".join(lines) + "\n"
