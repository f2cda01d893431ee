"""The pipeline: images of people in, a fine-tuned model, a comparison and a report out."""

from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate
from pipelines.parts import Data, Given, Trained, compare, decide_and_report, divide, pipeline, train
from pipelines.signatures import OF_FEW_PIXELS, chosen

NAME = "face-finetuning"
SUMMARY = "Fine-tunes a face-recognition model on your own people and says whether it got better."
PARAMETERS = chosen(leave_out=f"{OF_FEW_PIXELS} labels fallback unknown_fraction scratch_settings refuse")


def steps(given: Given, data: Data) -> dsl.PipelineTask:
    """From people that are held out to a report."""
    divided = divide(given, data, val_people_fraction=given.val_people_fraction)
    tuned = train(
        given,
        data,
        divided,
        given.backbone,
        given.settings,
        pretrained=given.pretrained,
        recipe=given.recipe,
        resume=given.resume,
    )
    trained = Trained(divided, tuned)
    evaluated = compare(
        evaluate,
        given,
        data,
        trained,
        lfw_archive=given.lfw_archive,
        lfw_pairs=given.lfw_pairs,
        pairs=given.pairs,
        bin_sets=given.bin_sets,
        probes=given.probes,
        fmr=given.fmr,
    )
    return decide_and_report(given, data, trained, evaluated, NAME)


def _of_audit(given: Given) -> dict[str, Any]:
    return {"evaluation_sets": f"{given.evaluation_sets} {given.lfw_archive}", "on_leak": given.on_leak}


face_finetuning = pipeline(NAME, SUMMARY, PARAMETERS, steps, _of_audit)
