"""What a run is started with: a compiled pipeline, the parameters of a file, the settings of the deployment."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeface.faces.degradation import Degradation
from kubeface.plan.parameters import RunParameters
from kubeface.plan.parameters import read_parameters as read_values
from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import package_of
from pipelines.cluster.client import Client
from pipelines.cluster.parameters import read_parameters, refuse_secrets
from pipelines.cluster.runs import RunConfig
from pipelines.cluster.versions import Package, read_package, upload

CONFIG_MAP = "kubeface-settings"
ROOT = "PIPELINE_ROOT"


@dataclass(frozen=True, slots=True)
class Request:
    """A run that is asked for."""

    package: Package
    parameters: Mapping[str, Any]  # those that are given

    def read(self) -> RunParameters:
        """All parameters, checked as a whole. Raises KubefaceError with one line on all that is wrong."""
        return read_values(self.package.pipeline, self.parameters)


def read_request(params: Path, pipeline: str, package: Path | None = None) -> Request:
    """Reads a compiled pipeline (that of `kubeface compile` where None is named) and the parameters of a run of it, and
    checks these. Nothing is sent.

    Raises KubefaceError if a file does not exist, a parameter is wrong or carries a secret, or the compiled pipeline is
    an older one that does not know it."""
    values = read_parameters(params)
    refuse_secrets(values)
    request = Request(read_package(package or package_of(pipeline)), values)
    Degradation.parse(request.read().degradation)
    known = request.package.spec["root"]["inputDefinitions"]["parameters"]
    stale = ", ".join(sorted(values.keys() - known.keys()))
    require(not stale, f"{request.package.path} was compiled before {stale} was a parameter: run 'make compile'")
    return request


def configure(client: Client, request: Request) -> RunConfig:
    """Uploads the pipeline of a request; returns what a run of it is started with."""
    return RunConfig(
        version=upload(client, request.package),
        parameters=request.parameters,
        root=pipeline_root(client),
        service_account=client.cluster.service_account,
    )


def pipeline_root(client: Client) -> str | None:
    """Where the deployment of the cluster's namespace keeps artifacts; None, with a note, where that cannot be read.

    A run can do without: not everybody who may start runs may read config maps.
    """
    namespace = client.cluster.namespace
    try:
        items = client.cluster.kubectl().objects(
            "get", "configmap", CONFIG_MAP, "--ignore-not-found", f"--namespace={namespace}"
        )
        reason = f"there is no {CONFIG_MAP} in namespace {namespace}"
    except KubefaceError as error:
        items, reason = [], str(error)
    if not items:
        print(f"note: artifacts go where Kubeflow Pipelines keeps them ({reason})", file=sys.stderr)
        return None
    return items[0].get("data", {}).get(ROOT) or None
