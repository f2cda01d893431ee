"""The model card: what a model is, what it was trained and measured on, and where it ends.

After Mitchell et al., "Model cards for model reporting", FAT* 2019, arXiv 1810.03993; the sections are theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kubeface.promote import attributes_card, classes_card, recognition_card
from kubeface.promote.card_parts import Json, Section, code, text
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION, task_of

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


@dataclass(frozen=True)
class TaskCard:
    """What a task says in its card.

    Args:
        kind: of model, as a sentence calls it.
        told: its own sections by title, of model.json and evaluation.json.
        ethics, caveats: what stands there beside what holds for all tasks.
        people: what the training's identities are called.
    """

    kind: str
    told: Callable[[Json, Json], dict[str, Section]]
    ethics: tuple[str, ...]
    caveats: tuple[str, ...]
    people: str = "people"


CARDS = {
    RECOGNITION: TaskCard(
        "face-recognition model", recognition_card.told, recognition_card.ETHICS, recognition_card.CAVEATS
    ),
    ATTRIBUTES: TaskCard(
        "model of facial attributes", attributes_card.told, attributes_card.ETHICS, attributes_card.CAVEATS
    ),
    CLASSES: TaskCard(
        "model of image classes", classes_card.told, classes_card.ETHICS, classes_card.CAVEATS, "classes"
    ),
}


def model_card(name: str, version: str, config: Json, evaluation: Json, data: Json) -> str:
    """The card as Markdown; what an evaluation did not measure is left out.

    Args:
        name, version: of the model.
        config: model.json.
        evaluation: evaluation.json.
        data: what gather and audit found in the images; empty where they were not asked.
    """
    card = CARDS[task_of(config)]
    sections = card.told(config, evaluation) | {
        "Model details": _details(config),
        "Training data": _training_data(config["training"], card.people, data.get("erasure")),
        "Ethical considerations": _ethics(card),
        "Caveats and recommendations": _caveats(config, card),
    }
    lines = [
        f"# {name} {version}",
        "",
        f"A {card.kind} ({config['backbone']}, {config['embedding_size']}-d embeddings), fine-tuned from "
        f"{code(config['start'])}.",
        "",
        f"**Verdict:** {text(evaluation['gate']['reason'])}.",
    ]
    for title in SECTIONS:
        if section := sections.get(title):
            lines += ["", f"## {title}", *section]
    return "\n".join(lines) + "\n"


def _details(config: Json) -> Section:
    training = config["training"]
    told = [
        f"- Architecture: {config['backbone']}, {config['embedding_size']}-d embeddings of unit length",
        f"- Weights: SHA-256 {code(config['weights_sha256'])}",
        f"- Starting weights: {code(config['start'])}, license {text(config['start_license'])}",
    ]
    if "strategy" in training:
        told.append(
            f"- Training: strategy {training['strategy']}, {training['epochs']} epochs at most, the best one is "
            f"{training['best_epoch']}, seed {training['seed']}; every setting stands in passport.json"
        )
    if training.get("fallback"):
        told.append(f"- Fallback: {text(training['fallback'])}")
    return ["", *told]


def _training_data(training: Json, people: str, erasure: Json | None) -> Section:
    lines = [
        "",
        f"Trained on {training['images']} images of {training['identities']} {people}, degradation "
        f"{code(training['degradation'])}.",
    ]
    if not erasure or not erasure["marks"]:
        return lines
    return [
        *lines,
        "",
        f"**Erasure.** {erasure['files_left_out']} images were left out since they, or the people on them, are to be "
        f"forgotten; {erasure['rows_found']} of them are among the {erasure['rows_checked']} images that remained, by "
        "name of person and file. The list has the marks below, the first 32 hex digits of the SHA-256 of each name:",
        "",
        *(f"- `{mark}`" for mark in erasure["marks"]),
    ]


def _ethics(card: TaskCard) -> Section:
    return [
        "",
        "- Faces are biometric data: collect, keep and compare them only with a lawful ground, and erase them when "
        "asked to. Leaving people out takes a new training; the weights of this model stay as they are.",
        *card.ethics,
    ]


def _caveats(config: Json, card: TaskCard) -> Section:
    return [
        "",
        "- The figures hold for people and cameras like those of the held-out set; measure on your own before relying "
        "on a threshold.",
        *card.caveats,
        f"- License of the starting weights: {text(config['start_license'])}. It may bind what is made of "
        "them, as this model is.",
    ]
