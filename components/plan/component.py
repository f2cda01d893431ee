"""KFP interface of plan."""

from typing import Any, NamedTuple

from components.interface import component


@component("plan")
def plan(
    pipeline: str,
    source: str,
    models: str,
    name: str,
    backbone: str,
    degradation: str,
    recipe: str,
    seed: int,
    resources: dict[str, Any],
    ingest: dict[str, Any],
    align: dict[str, Any],
    filter: dict[str, Any],
    audit: dict[str, Any],
    split: dict[str, Any],
    finetune: dict[str, Any],
    evaluate: dict[str, Any],
    promote: dict[str, Any],
    notify: dict[str, Any],
    superresolve: dict[str, Any] = {},  # noqa: B006 - KFP wants the default as it is
    scratch: dict[str, Any] = {},  # noqa: B006
) -> NamedTuple(  # type: ignore[valid-type]
    "Plan",
    [
        ("Output", list[str]),  # the shards; kfp.local (2.17) goes over no output of another name
        ("champion", str),
        # The options of each step; the lists are written here, since KFP carries this function into the image alone.
        *((step, dict) for step in ("ingest", "superresolve", "align", "filter", "gather", "audit", "split")),
        *((step, dict) for step in ("finetune", "scratch", "evaluate", "promote", "report")),
        *(
            (f"{pod}_{amount}", str)
            for pod in ("shard", "audit", "finetune", "evaluate")
            for amount in ("cpu", "cpu_request", "memory")
        ),
        *((name, str) for name in ("gpus", "gpu_type")),
        ("node_selector", dict),
        ("tolerations", list),
        ("nodes", dict),
    ],
):
    """Checks a whole run before anything starts, lists its source, and hands each step its options."""
    given = locals()  # the parameters, by name
    from collections import namedtuple

    from kubeface.plan.step import outputs, plan
    from kubeface.runtime.errors import exit_on_error

    found = outputs(exit_on_error(plan, given.pop("pipeline"), given))
    return namedtuple("Plan", found)(**found)
