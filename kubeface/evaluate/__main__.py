"""python -m kubeface.evaluate run --aligned … --split … --model … --out …, and what a model is used for.

Evaluations are run, run-attributes, run-classes and lfw; compare, embed, identify, attributes and classify use a model.
"""

from pydantic import BaseModel, Field, create_model

from kubeface.evaluate.gate import DEFAULT_METRICS, METRICS, Gate
from kubeface.evaluate.inference import compare, embed, identify
from kubeface.evaluate.labelling import attributes, classify
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION
from kubeface.step_cli import Later, main

STEP = "kubeface.evaluate.step"  # takes a second to import, which the commands that only use a model do without


def _gate(task: str) -> type[BaseModel]:
    """The rule's fields with the figures of a task, for the help."""
    text = f"figures that must gain on the target: {', '.join(METRICS[task])}"
    return create_model("Gate", __base__=Gate, metrics=(str, Field(DEFAULT_METRICS[task], description=text)))


if __name__ == "__main__":
    main(
        {
            "run": Later(STEP, "evaluate", "Compares the fine-tuned model with its starting model."),
            "run-attributes": Later(
                "kubeface.evaluate.attributes",
                "evaluate_attributes",
                "Compares a model of labels with its features.",
                {"gate": _gate(ATTRIBUTES)},
            ),
            "run-classes": Later(
                "kubeface.evaluate.classes",
                "evaluate_classes",
                "Compares a classifier with its features.",
                {"gate": _gate(CLASSES)},
            ),
            "lfw": Later(STEP, "lfw", "Measures one model on LFW's View 2 (or View 1)."),
            "compare": compare,
            "embed": embed,
            "identify": identify,
            "attributes": attributes,
            "classify": classify,
        },
        models={"gate": _gate(RECOGNITION)},
    )
