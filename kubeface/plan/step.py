"""Plan: checks a whole run before anything starts, lists its source, and hands each step its options."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from kubeface.faces.degradation import Degradation
from kubeface.finetune.options import FinetuneOptions
from kubeface.ingest.step import plan_shards
from kubeface.plan.parameters import StepOptions, read_parameters, step_options
from kubeface.plan.resources import SIZES, STANDARD, Resources
from kubeface.promote.champion import find_champion
from kubeface.runtime.errors import KubefaceError, require

SIZE = "RESOURCES_SIZE"  # variable of the environment with which the deployment says what pods get
# What it says of its GPU nodes, as JSON.
DEPLOYMENT = {"node_selector": "GPU_NODE_SELECTOR", "tolerations": "GPU_TOLERATIONS"}


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    shards: list[str]  # text of each shard of the source, for the tasks of the loop
    champion: str  # address of the promoted model's version, empty for none
    options: StepOptions
    resources: Resources  # of the pods; what the run leaves empty is the deployment's


def plan(pipeline: str, values: Mapping[str, Any]) -> Plan:
    """Checks the parameters of a run (see `RunParameters`), lists its source and looks up the promoted model.

    Raises KubefaceError with one line on all that is wrong with the parameters, or where the source is not there,
    cannot be reached or holds no image, or the store of the models does not answer."""
    run = read_parameters(pipeline, values)
    Degradation.parse(run.degradation)
    options = step_options(pipeline, run)
    shards = plan_shards(run.source, run.resources.shards, options.ingest).shards
    return Plan(list(shards), find_champion(run.models, run.name), options, _deployed(run.resources))


def _deployed(resources: Resources) -> Resources:
    """The resources with the deployment's size, and its selector and tolerations of GPU nodes where fine-tuning asks
    for a GPU, unless the run says otherwise."""
    size = os.environ.get(SIZE) or STANDARD
    require(size in SIZES, f"{SIZE} is '{size}': correct it in the config map kubeface-settings, to {', '.join(SIZES)}")
    resources = resources.filled(size)
    pod = resources.finetune
    found = {
        name: _from_environment(variable)
        for name, variable in DEPLOYMENT.items()
        if pod.gpus and not getattr(pod, name) and os.environ.get(variable)
    }
    return resources.model_copy(update={"finetune": type(pod).model_validate(pod.model_dump() | found)})


def _from_environment(variable: str) -> Any:
    try:
        return json.loads(os.environ[variable])
    except ValueError:
        raise KubefaceError(f"{variable} is not JSON: correct it in the config map kubeface-settings") from None


def outputs(plan: Plan) -> dict[str, Any]:
    """The plan as the outputs of its task in Kubeflow: text, lists and dictionaries by name."""
    pods = plan.resources
    options = {step.name: getattr(plan.options, step.name) for step in fields(plan.options)}
    return {
        "Output": plan.shards,
        "champion": plan.champion,
        # What a training's recipe and its user set goes before defaults, and so alone is handed on.
        **{
            step: model.model_dump(mode="json", exclude_unset=isinstance(model, FinetuneOptions)) if model else {}
            for step, model in options.items()
        },
        **{
            f"{name}_{amount}": getattr(getattr(pods, name), amount)
            for name in ("shard", "audit", "finetune", "evaluate")
            for amount in ("cpu", "cpu_request", "memory")
        },
        "gpus": str(pods.finetune.gpus),
        "gpu_type": pods.finetune.gpu_type,
        "node_selector": pods.finetune.node_selector,
        "tolerations": list(pods.finetune.tolerations),
        "nodes": pods.nodes.model_dump(mode="json"),
    }
