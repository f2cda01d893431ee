"""The pipeline: photographs of people in, a fine-tuned model, a comparison and a report out."""

from typing import Any

from kubeface.plan.parameters import FaceFinetuning, defaults
from pipelines.tasks import Outputs, Run, described, pipeline

SUMMARY = "Fine-tunes a face-recognition model on your own people and says whether it got better."
DEFAULT = defaults(FaceFinetuning)  # kubeface/plan/parameters.py has types, ranges and descriptions


@pipeline("face-finetuning", described(FaceFinetuning, SUMMARY))
def face_finetuning(
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
    evaluate: dict[str, Any] = DEFAULT["evaluate"],
    promote: dict[str, Any] = DEFAULT["promote"],
    notify: dict[str, Any] = DEFAULT["notify"],
) -> Outputs:
    """From photographs of people to a report."""
    run = Run("face-finetuning", **locals())

    with run.shards() as shard:
        ingested = run.ingest(shard)
        aligned = run.align(ingested.outputs["faces"], shard)
        filtered = run.filter(ingested.outputs["faces"], aligned, shard)
    gathered = run.gather(ingested, aligned, filtered)

    audited = run.audit(gathered)
    divided = run.split(gathered, audited)
    tuned = run.finetune(gathered, divided, audited)
    evaluated = run.evaluate(gathered, divided, tuned)
    promoted = run.promote(audited, tuned, evaluated)

    return run.report(gathered, audited, divided, tuned, evaluated, promoted)
