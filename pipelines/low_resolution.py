"""The pipeline: faces of low resolution in, perhaps with sharp photographs of them, and a model that knows both out."""

from typing import Any

from kfp import dsl

from kubeface.plan.parameters import LowResolution, defaults
from pipelines.tasks import (
    PARALLELISM,
    Done,
    Outputs,
    align_task,
    audit_task,
    described,
    evaluate_task,
    filter_task,
    finetune_task,
    gather_task,
    ingest_task,
    outputs_of,
    pipeline,
    plan_task,
    promote_task,
    report_task,
    split_task,
    superresolve_task,
)

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
    planned = plan_task("low-resolution", **locals())

    with dsl.ParallelFor(planned.outputs["Output"], name="shards", parallelism=PARALLELISM) as shard:
        ingested = ingest_task(planned, source, shard)
        enlarged = superresolve_task(planned, ingested.outputs["faces"], shard)
        aligned = align_task(planned, enlarged.outputs["enlarged"], shard)
        filtered = filter_task(planned, enlarged.outputs["enlarged"], aligned.outputs["aligned"], shard)
    gathered = gather_task(planned, enlarged, aligned, filtered)

    audited = audit_task(planned, gathered)
    divided = split_task(planned, gathered, audited)
    tuned = finetune_task(planned, gathered, divided, audited, models, name)
    evaluated = evaluate_task(planned, gathered, divided, tuned)
    promoted = promote_task(planned, gathered, audited, tuned, evaluated)

    done = Done(planned, gathered, audited, divided, tuned, evaluated, promoted)
    return outputs_of(done, report_task(done, models, name))
