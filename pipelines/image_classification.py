"""The pipeline: a folder of classes in, a model that tells them apart, compared with its features alone and with a
small network from scratch, and a report out."""

from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate_classes
from kubeface.records.tasks import CLASSES
from pipelines.signatures import LABELLED, OF_RECOGNITION, SCRATCH_RECIPE, chosen
from pipelines.tasks import Data, Given, Trained, compare, decide_and_report, divide, pipeline, train

NAME = "image-classification"
SUMMARY = (
    "Trains a classifier for any folder of classes, or for a closed set of people, and says whether it got better."
)
SCRATCH_BACKBONE = "small_cnn"
PARAMETERS = chosen(
    leave_out=f"{OF_RECOGNITION} labels",
    **LABELLED
    | {
        "source": {
            "description": "Images, one folder per class, perhaps below train/, val/ and test/: s3://bucket/prefix, a "
            "folder, or a .tar, .tgz or .zip."
        },
        "name": {"default": "image-classes"},
        "listing": {
            "description": "Of which class each image of the source is, as CSV or Parquet (path, identity, perhaps "
            "split and person; others are groups); empty where folders or names say it."
        },
        "identity_pattern": {
            "description": "Regular expression whose first group, found in a file's name, is the class, as ^(\\d+)_; "
            "empty for the folder's name."
        },
        "forget": {
            "description": "Classes and images to leave out for good, a text file with one name of a class or a file a "
            "line; empty for none."
        },
        "degradation": {
            "description": "What your cameras do to images: noise:60, lowres:14, blur:4, jpeg:5, dark, grey, "
            "rotated:15, or none. Put on training, validation and held-out crops."
        },
        "detector": LABELLED["detector"] | {"default": "none"},
        "template": LABELLED["template"] | {"default": "whole_224"},
        "heldout_fraction": {"description": "Share of each class's images held out to measure on.", "default": 0.2},
        "val_fraction": {"description": "Share of each class's images used for validation."},
        "min_images": {"description": "Least images of a class, 1 or more; 10 are recommended.", "default": 3},
        "recipe": LABELLED["recipe"] | {"default": CLASSES},
        "gate": {
            "description": 'When a model is better, as JSON: {"metrics": "accuracy macro_f1", "min_gain": 0.0, '
            '"max_loss": 0.01, "confidence": 0.95, "over_champion": "better"}.'
        },
        "bootstrap": {"description": "Samples of images, or of people where they are known, for the intervals."},
    },
)


def steps(given: Given, data: Data) -> dsl.PipelineTask:
    """From images that are held out to a report; two trainings on the same images."""
    divided = divide(given, data, task=CLASSES, unknown_fraction=given.unknown_fraction)
    tuned = train(
        given,
        data,
        divided,
        given.backbone,
        given.settings,
        task=CLASSES,
        pretrained=given.pretrained,
        fallback=given.fallback,
        recipe=given.recipe,
        resume=given.resume,
    )
    scratch = train(given, data, divided, SCRATCH_BACKBONE, given.scratch_settings, task=CLASSES, recipe=SCRATCH_RECIPE)
    scratch.set_display_name("scratch").after(tuned)  # one after the other, for a quota of one GPU
    trained = Trained(divided, tuned)
    evaluated = compare(evaluate_classes, given, data, trained, scratch=scratch.outputs["model"], refuse=given.refuse)
    return decide_and_report(
        given,
        data,
        trained,
        evaluated,
        NAME,
        scratch_model=scratch.outputs["model"],
        scratch_metrics=scratch.outputs["metrics"],
    )


def _of_audit(given: Given) -> dict[str, Any]:
    return {"task": CLASSES}


image_classification = pipeline(NAME, SUMMARY, PARAMETERS, steps, _of_audit)
