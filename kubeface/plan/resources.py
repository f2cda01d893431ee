"""What the pods of a run ask Kubernetes for."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from kubeface.runtime.options import Options

# A quantity of Kubernetes (apimachinery, resource.Quantity), as 500m or 8Gi, or none.
Quantity = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?)?$")]


class Pod(Options):
    """Processors and memory of a pod; what is left empty is as `size` has it."""

    cpu: Quantity = ""
    """Processors that it may use at most, as 4 or 500m."""
    cpu_request: Quantity = ""
    """Processors that it asks for; where only `cpu` is given, as many."""
    memory: Quantity = ""
    """Memory that it asks for and may use at most, as 8Gi."""


class TrainingPod(Pod):
    """The pod that fine-tunes."""

    gpus: Annotated[int, Field(ge=-1)] = -1
    """GPUs, which share the work; 0 for none, and with several nodes; -1 for what `size` says."""
    gpu_type: str = "nvidia.com/gpu"
    """What a GPU is called in the cluster: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-1g.5gb …"""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the nodes to run on, as {"pool": "gpu"}; empty for what the deployment says of its GPU nodes."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Taints to tolerate, as [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]; empty for what
    the deployment says of its GPU nodes."""


class Nodes(Options):
    """A training on several nodes, which is handed to Kubeflow Trainer."""

    num_nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes that fine-tuning runs on."""
    resources: dict[str, Any] = Field(default={})
    """What each node's pod gets, as {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 1}."""
    training_runtime: str = "torch-distributed"
    """The ClusterTrainingRuntime of Kubeflow Trainer."""


class Resources(Options):
    """The resources of a run."""

    size: Literal["", "small", "standard", "large"] = ""
    """What the pods get: small (a laptop, no GPU), standard (one GPU) or large (four); empty for what the deployment
    says."""
    shards: Annotated[int, Field(ge=1, le=60)] = 1
    """Parts that the images are divided into until gather; when images are added, only the parts that they fall into
    are worked on again. 1 for a few thousand images; about one for each 5,000, and larger ones beyond 60 of them, for
    Kubernetes stores no Workflow of many more."""
    shard: Pod = Pod()
    """Each pod that enlarges, aligns or filters a shard."""
    audit: Pod = Pod()
    """The audit's pod."""
    finetune: TrainingPod = TrainingPod()
    """The pod that fine-tunes."""
    nodes: Nodes = Nodes()
    """Several nodes for fine-tuning."""
    evaluate: Pod = Pod()
    """The evaluation's pod."""

    def filled(self, size: str) -> Self:
        """With all amounts that are empty, as their size has them; `size` is for resources that name none."""
        pods = {name: _filled(getattr(self, name), pod) for name, pod in SIZES[self.size or size].items()}
        return self.model_copy(update=pods)


def _filled(given: Pod, usual: Pod) -> Pod:
    chosen = {name: value for name, value in given.model_dump().items() if value not in ("", -1)}
    if given.cpu:
        chosen.setdefault("cpu_request", given.cpu)
    return type(given).model_validate(usual.model_dump() | chosen)


STANDARD = "standard"
SIZES: Mapping[str, Mapping[str, Pod]] = {
    # On a laptop pods share the processors, so they ask for few.
    "small": {
        "shard": Pod(cpu="2", cpu_request="500m", memory="2Gi"),
        "audit": Pod(cpu="2", cpu_request="500m", memory="3Gi"),
        "finetune": TrainingPod(cpu="4", cpu_request="1", memory="6Gi", gpus=0),
        "evaluate": Pod(cpu="4", cpu_request="1", memory="4Gi"),
    },
    STANDARD: {
        "shard": Pod(cpu="4", cpu_request="4", memory="8Gi"),
        "audit": Pod(cpu="4", cpu_request="4", memory="4Gi"),
        "finetune": TrainingPod(cpu="8", cpu_request="8", memory="32Gi", gpus=1),
        "evaluate": Pod(cpu="4", cpu_request="4", memory="8Gi"),
    },
    "large": {
        "shard": Pod(cpu="8", cpu_request="8", memory="16Gi"),
        "audit": Pod(cpu="8", cpu_request="8", memory="16Gi"),
        "finetune": TrainingPod(cpu="32", cpu_request="32", memory="128Gi", gpus=4),
        "evaluate": Pod(cpu="8", cpu_request="8", memory="16Gi"),
    },
}
