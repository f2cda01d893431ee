"""The pipeline: a folder of classes in; a classifier, its comparison with a network from scratch, and a report out."""

from typing import Any

from kubeface.plan.parameters import ImageClassification, defaults
from pipelines.tasks import Outputs, Run, described, pipeline

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
    run = Run("image-classification", **locals())

    with run.shards() as shard:
        ingested = run.ingest(shard)
        aligned = run.align(ingested.outputs["faces"], shard)
        filtered = run.filter(ingested.outputs["faces"], aligned, shard)
    gathered = run.gather(ingested, aligned, filtered)

    audited = run.audit(gathered)
    divided = run.split(gathered, audited)
    tuned = run.finetune(gathered, divided, audited)
    from_scratch = run.scratch(gathered, divided, tuned)
    evaluated = run.evaluate_classes(gathered, divided, tuned, from_scratch)
    promoted = run.promote(audited, tuned, evaluated)

    return run.report(gathered, audited, divided, tuned, evaluated, promoted, from_scratch)
