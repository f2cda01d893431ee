"""The pipeline: a folder of classes in; a classifier, its comparison with a network from scratch, and a report out."""

from typing import Any

from kfp import dsl

from kubeface.plan.parameters import ImageClassification, defaults
from pipelines.tasks import (
    PARALLELISM,
    Done,
    Outputs,
    align_task,
    audit_task,
    described,
    evaluate_classes_task,
    filter_task,
    finetune_task,
    gather_task,
    ingest_task,
    outputs_of,
    pipeline,
    plan_task,
    promote_task,
    report_task,
    scratch_task,
    split_task,
)

SUMMARY = (
    "Trains a classifier for any folder of classes, or for a closed set of people, and says whether it got better."
)
DEFAULT = defaults(ImageClassification)  # kubeface/plan/parameters.py has types, ranges and descriptions


@pipeline("image-classification", described(ImageClassification, SUMMARY))
def image_classification(
    source: str,
    models: str,
    name: str = DEFAULT["name"],
    backbone: str = DEFAULT["backbone"],
    degradation: str = DEFAULT["degradation"],
    recipe: str = DEFAULT["recipe"],
    seed: int = DEFAULT["seed"],
    resources: dict[str, Any] = DEFAULT["resources"],
    ingest: dict[str, Any] = DEFAULT["ingest"],
    align: dict[str, Any] = DEFAULT["align"],
    filter: dict[str, Any] = DEFAULT["filter"],
    audit: dict[str, Any] = DEFAULT["audit"],
    split: dict[str, Any] = DEFAULT["split"],
    finetune: dict[str, Any] = DEFAULT["finetune"],
    scratch: dict[str, Any] = DEFAULT["scratch"],
    evaluate: dict[str, Any] = DEFAULT["evaluate"],
    promote: dict[str, Any] = DEFAULT["promote"],
    notify: dict[str, Any] = DEFAULT["notify"],
) -> Outputs:
    """From images of classes to a report; two trainings on the same images."""
    planned = plan_task("image-classification", **locals())

    with dsl.ParallelFor(planned.outputs["Output"], name="shards", parallelism=PARALLELISM) as shard:
        ingested = ingest_task(planned, source, shard)
        aligned = align_task(planned, ingested.outputs["faces"], shard)
        filtered = filter_task(planned, ingested.outputs["faces"], aligned.outputs["aligned"], shard)
    gathered = gather_task(planned, ingested, aligned, filtered)

    audited = audit_task(planned, gathered)
    divided = split_task(planned, gathered, audited)
    tuned = finetune_task(planned, gathered, divided, audited, models, name)
    from_scratch = scratch_task(planned, gathered, divided, tuned)
    evaluated = evaluate_classes_task(planned, gathered, divided, tuned, from_scratch)
    promoted = promote_task(planned, gathered, audited, tuned, evaluated)

    done = Done(planned, gathered, audited, divided, tuned, evaluated, promoted)
    return outputs_of(
        done,
        report_task(
            done,
            models,
            name,
            scratch_model=from_scratch.outputs["model"],
            scratch_metrics=from_scratch.outputs["metrics"],
        ),
    )
