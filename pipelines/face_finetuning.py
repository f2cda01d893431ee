"""The pipeline: images of people in, a fine-tuned model, a comparison and a report out."""

from kfp import dsl

from pipelines.signatures import OF_FEW_PIXELS, chosen
from pipelines.tasks import Data, Given, leaks, pipeline, recognise

NAME = "face-finetuning"
SUMMARY = "Fine-tunes a face-recognition model on your own people and says whether it got better."
PARAMETERS = chosen(leave_out=f"{OF_FEW_PIXELS} labels fallback unknown_fraction scratch_settings refuse")


def steps(given: Given, data: Data) -> dsl.PipelineTask:
    """From people that are held out to a report."""
    return recognise(given, data, NAME, {}, {})


face_finetuning = pipeline(NAME, SUMMARY, PARAMETERS, steps, leaks)
