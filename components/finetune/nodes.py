"""The nodes that a training runs on."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from kubeface.runtime.errors import require
from kubeface.runtime.options import Options


class Nodes(Options):
    """How many nodes train, and what each of them gets."""

    num_nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes that train together; more than 1 are a TrainJob of Kubeflow Trainer."""
    resources: Mapping[str, str | int | float] = Field(default_factory=dict)
    """What each node's pod gets, by name: cpu, memory, nvidia.com/gpu …"""
    training_runtime: str = "torch-distributed"
    """Kubeflow Trainer's ClusterTrainingRuntime."""

    def gpus(self) -> int:
        """Processes of a node: one for each of its GPUs (nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-…), 1 without any.

        Raises:
            KubefaceError: a number of GPUs that is none.
        """
        counts = {
            name: _text(count) for name, count in self.resources.items() if name.endswith("/gpu") or "/mig-" in name
        }
        for name, count in counts.items():
            require(count.isdigit(), f"nodes.resources: {name} is '{count}': give a whole number")
        return max(1, sum(int(count) for count in counts.values()))

    def quantities(self) -> dict[str, str]:
        """The resources as Kubernetes takes them."""
        return {name: _text(amount) for name, amount in self.resources.items()}


def _text(amount: str | int | float) -> str:
    """A number without the fraction that KFP gives every number."""
    return str(int(amount)) if isinstance(amount, float) and amount.is_integer() else str(amount)
