"""What a run is started with: a compiled pipeline, the parameters of a file, the settings of the deployment."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeface.runtime.errors import KubefaceError
from pipelines.build.catalogue import package_of
from pipelines.cluster.client import Client, Cluster
from pipelines.cluster.parameters import read_parameters, validated
from pipelines.cluster.runs import RunConfig
from pipelines.cluster.versions import Package, read_package, upload

CONFIG_MAP = "kubeface-settings"
TEXTS = {"s3_endpoint": "S3_ENDPOINT", "weights_mirror": "KUBEFACE_WEIGHTS_MIRROR"}
PLACES = {"node_selector": "GPU_NODE_SELECTOR", "tolerations": "GPU_TOLERATIONS"}  # JSON
ROOT = "PIPELINE_ROOT"


@dataclass(frozen=True, slots=True)
class Request:
    """A run that is asked for.

    Args:
        package: the compiled pipeline.
        parameters: by name; valid.
    """

    package: Package
    parameters: Mapping[str, Any]


def read_request(params: Path, pipeline: str, package: Path | None = None) -> Request:
    """Reads a compiled pipeline and the parameters of a run of it. Nothing is sent.

    Args:
        params: YAML or JSON file of the parameters.
        pipeline: name of the pipeline.
        package: its file; that of `kubeface compile` where None.

    Raises:
        KubefaceError: a file does not exist, or a parameter is wrong.
    """
    values = read_parameters(params)
    compiled = read_package(package or package_of(pipeline))
    return Request(compiled, validated(values, compiled.spec))


def configure(client: Client, request: Request) -> RunConfig:
    """Uploads the pipeline of a request; returns what a run of it is started with."""
    settings = deployed_settings(client.cluster)
    return RunConfig(
        version=upload(client, request.package),
        parameters=with_settings(request.parameters, settings),
        root=settings.get(ROOT),
        service_account=client.cluster.service_account,
    )


def deployed_settings(cluster: Cluster) -> dict[str, str]:
    """The settings of the deployment in the cluster's namespace; empty, with a note, where they cannot be read.

    A run can do without: not everybody who may start runs may read config maps.
    """
    try:
        items = cluster.kubectl().objects(
            "get", "configmap", CONFIG_MAP, "--ignore-not-found", f"--namespace={cluster.namespace}"
        )
        reason = f"there is none in namespace {cluster.namespace}"
    except KubefaceError as error:
        items, reason = [], str(error)
    if not items:
        print(f"note: the deployment's settings are not used ({reason})", file=sys.stderr)
        return {}
    return {name: value for name, value in items[0].get("data", {}).items() if value}


def with_settings(values: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """A run's parameters, with the deployment's settings for those that are not given.

    Args:
        values: parameters by name.
        settings: of `deployed_settings`.

    Raises:
        KubefaceError: a setting is not the JSON that it should be.
    """
    found = {name: settings[key] for name, key in TEXTS.items() if key in settings}
    if values.get("finetune_gpus") != "0":  # else fine-tuning needs no node with a GPU
        found |= {name: _json(key, settings[key]) for name, key in PLACES.items() if key in settings}
    return found | dict(values)


def _json(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise KubefaceError(f"{CONFIG_MAP}: {key} is not JSON: correct it in the overlay's settings.yaml") from None
