"""What the pods of a run ask Kubernetes for."""

from typing import Annotated, Any

from pydantic import Field

from kubeface.runtime.options import Count, Options

# A quantity of Kubernetes (apimachinery, resource.Quantity), as 500m or 8Gi.
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$")]


class Pod(Options):
    """Processors and memory that a pod asks for, and may use at most."""

    cpu: Quantity
    """Processors, as 4 or 500m."""
    memory: Quantity
    """Memory, as 8Gi."""


class TrainingPod(Pod):
    """The pod that fine-tunes."""

    cpu: Quantity = "8"
    """Processors, as 8 or 500m."""
    memory: Quantity = "32Gi"
    """Memory, as 32Gi."""
    gpus: Count = 1
    """GPUs, which share the work; 0 for none, and with several nodes."""
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

    shards: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Parts that the images are divided into until gather; when images are added, only the parts that they fall into
    are worked on again. 1 for a few thousand images; about one for each 5,000."""
    shard: Pod = Pod(cpu="4", memory="8Gi")
    """Each pod that enlarges, aligns or filters a shard."""
    audit: Pod = Pod(cpu="4", memory="4Gi")
    """The audit's pod."""
    finetune: TrainingPod = TrainingPod()
    """The pod that fine-tunes."""
    nodes: Nodes = Nodes()
    """Several nodes for fine-tuning."""
    evaluate: Pod = Pod(cpu="4", memory="8Gi")
    """The evaluation's pod."""
