"""Compiled pipelines, read in tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.cluster.runs import containers

Json = dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline: PipelineSpec of pipeline_spec.proto in kubeflow/pipelines, and what Kubernetes is told."""

    spec: Json
    kubernetes: Json

    @property
    def name(self) -> str:
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def executors(self) -> Json:
        """The containers by executor."""
        return {name: executor["container"] for name, executor in self.spec["deploymentSpec"]["executors"].items()}

    @property
    def settings(self) -> Json:
        """What Kubernetes is told of the pods by executor."""
        found: Json = self.kubernetes["deploymentSpec"]["executors"]
        return found

    def tasks(self) -> Json:
        """The tasks that run a container, by name, those inside nested pipelines and the loop over shards too."""
        return containers(self.spec)


def documents(path: Path) -> Compiled:
    """What a file of the compiler holds."""
    spec, *platform = yaml.load_all(path.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return Compiled(spec, platform[0]["platforms"]["kubernetes"] if platform else {})
