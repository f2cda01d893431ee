"""The pipeline: faces of few pixels in, perhaps with sharp photographs of them, a model that knows them by these and by
sharp ones, a comparison and a report out."""

from kfp import dsl

from pipelines.signatures import chosen
from pipelines.tasks import Data, Given, leaks, pipeline, recognise

NAME = "low-resolution"
SUMMARY = "Fine-tunes a model for faces of few pixels, super-resolved or not, and says whether it knows them better."
PARAMETERS = chosen(
    leave_out="labels unknown_fraction scratch_settings refuse",
    source={
        "description": "Images, one folder per person or named by identity_pattern, perhaps below vlr_images/ and "
        "hr_images/ with the same names: s3://bucket/prefix, a folder, or a .tar, .tgz or .zip."
    },
    name={"default": "few-pixels"},
    identity_pattern={
        "description": "Regular expression whose first group, found in a file's name, is the person, as ^(\\d{3}) for "
        "the first three digits; empty for the folder's name."
    },
    degradation={
        "description": "What makes few pixels of sharp photographs in training, and in the evaluation where the source "
        "has no images of few pixels: lowres:10-20 draws a size for each; or none.",
        "default": "lowres:10-20",
    },
    backbone={"default": "edgeface_xs_gamma_06"},
    fallback={"default": "sface"},
    recipe={
        "description": "Training settings by name (two-stage, low-resolution) or from a file (s3://, https:// with "
        "#sha256=…); empty for the defaults.",
        "default": "two-stage",
    },
    gate={
        "description": 'When a model is better, as JSON: {"target": "heldout_cross", "metrics": "auc tar", "min_gain": '
        '0.0, "max_loss": 0.01, "max_loss_lfw": 0.01, "max_loss_group": 0.1, "confidence": 0.95, "over_champion": '
        '"better"}; heldout_cross are few pixels against sharp photographs, heldout few against few.',
        "default": {"target": "heldout_cross"},
    },
)


def steps(given: Given, data: Data) -> dsl.PipelineTask:
    """From people that are held out to a report."""
    return recognise(
        given, data, NAME, {"fallback": given.fallback, "superresolver": given.superresolver}, {"sizes": given.sizes}
    )


low_resolution = pipeline(NAME, SUMMARY, PARAMETERS, steps, leaks, enlarged=True)
