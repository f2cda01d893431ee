"""The pipeline: images and a table of binary labels in, a model that tells all labels at once, and a report out."""

from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate_attributes
from kubeface.records.tasks import ATTRIBUTES
from pipelines.signatures import LABELLED, OF_RECOGNITION, chosen
from pipelines.tasks import Data, Given, Trained, compare, decide_and_report, divide, pipeline, train

NAME = "face-attributes"
SUMMARY = "Trains a model for many binary labels of faces at once, such as CelebA's 40, and says whether it got better."
PARAMETERS = chosen(
    leave_out=f"{OF_RECOGNITION} unknown_fraction scratch_settings refuse",
    **LABELLED
    | {
        "source": {"description": "Images: s3://bucket/prefix, a folder, or a .tar, .tgz or .zip."},
        "name": {"default": NAME},
        "listing": {
            "description": "What is known of the source's images, files divided by spaces: CelebA's list_attr_celeba, "
            "list_eval_partition and identity_CelebA, or CSV and Parquet with path, one column a label (1/0, 1/-1, "
            "true/false, yes/no; empty where it is not known), and perhaps identity and split."
        },
        "template": LABELLED["template"] | {"default": "portrait_224"},
        "heldout_fraction": {"description": "Share of people held out to measure on, where no partition is given."},
        "val_fraction": {"description": "Share of the other people used for validation, where no partition is given."},
        "min_images": {"description": "Least images of a person, 1 or more.", "default": 1},
        "recipe": LABELLED["recipe"] | {"default": ATTRIBUTES},
        "gate": {
            "description": 'When a model is better, as JSON: {"metrics": "auc average_precision", "min_gain": 0.0, '
            '"max_loss": 0.01, "confidence": 0.95, "over_champion": "better"}.'
        },
    },
)


def steps(given: Given, data: Data) -> dsl.PipelineTask:
    """From people that are held out to a report."""
    divided = divide(given, data, task=ATTRIBUTES)
    tuned = train(
        given,
        data,
        divided,
        given.backbone,
        given.settings,
        task=ATTRIBUTES,
        labels=given.labels,
        pretrained=given.pretrained,
        fallback=given.fallback,
        recipe=given.recipe,
        resume=given.resume,
    )
    trained = Trained(divided, tuned)
    evaluated = compare(evaluate_attributes, given, data, trained)
    return decide_and_report(given, data, trained, evaluated, NAME)


def _of_audit(given: Given) -> dict[str, Any]:
    return {"task": ATTRIBUTES}


face_attributes = pipeline(NAME, SUMMARY, PARAMETERS, steps, _of_audit)
