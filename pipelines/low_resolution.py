"""The pipeline: faces of low resolution in, perhaps with sharp photographs of them, and a model that knows both out."""

from typing import Any

from kubeface.plan.parameters import LowResolution, defaults
from pipelines.tasks import Outputs, Run, described, pipeline

SUMMARY = (
    "Fine-tunes a model for faces of low resolution, super-resolved or not, and says whether it recognises them better."
)
DEFAULT = defaults(LowResolution)  # kubeface/plan/parameters.py has types, ranges and descriptions


@pipeline("low-resolution", described(LowResolution, SUMMARY))
def low_resolution(
    source: str,
    models: str,
    name: str = DEFAULT["name"],
    backbone: str = DEFAULT["backbone"],
    degradation: str = DEFAULT["degradation"],
    recipe: str = DEFAULT["recipe"],
    seed: int = DEFAULT["seed"],
    resources: dict[str, Any] = DEFAULT["resources"],
    ingest: dict[str, Any] = DEFAULT["ingest"],
    superresolve: dict[str, Any] = DEFAULT["superresolve"],
    align: dict[str, Any] = DEFAULT["align"],
    filter: dict[str, Any] = DEFAULT["filter"],
    audit: dict[str, Any] = DEFAULT["audit"],
    split: dict[str, Any] = DEFAULT["split"],
    finetune: dict[str, Any] = DEFAULT["finetune"],
    evaluate: dict[str, Any] = DEFAULT["evaluate"],
    promote: dict[str, Any] = DEFAULT["promote"],
    notify: dict[str, Any] = DEFAULT["notify"],
) -> Outputs:
    """From photographs of low and high resolution to a report."""
    run = Run("low-resolution", **locals())

    with run.shards() as shard:
        ingested = run.ingest(shard)
        enlarged = run.superresolve(ingested, shard)
        aligned = run.align(enlarged.outputs["enlarged"], shard)
        filtered = run.filter(enlarged.outputs["enlarged"], aligned, shard)
    gathered = run.gather(enlarged, aligned, filtered)

    audited = run.audit(gathered)
    divided = run.split(gathered, audited)
    tuned = run.finetune(gathered, divided, audited)
    evaluated = run.evaluate(gathered, divided, tuned)
    promoted = run.promote(audited, tuned, evaluated)

    return run.report(gathered, audited, divided, tuned, evaluated, promoted)
