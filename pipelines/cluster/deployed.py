"""What a deployment sets for all runs: the config map that an overlay's settings.yaml is."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.client import Cluster

CONFIG_MAP = "kubeface-settings"
TEXTS = {"s3_endpoint": "S3_ENDPOINT", "weights_mirror": "KUBEFACE_WEIGHTS_MIRROR"}
PLACES = {"node_selector": "GPU_NODE_SELECTOR", "tolerations": "GPU_TOLERATIONS"}  # JSON
ROOT = "PIPELINE_ROOT"


def deployed_settings(cluster: Cluster) -> dict[str, str]:
    """The settings of the deployment in the cluster's namespace; none, and a line that says so, where there is none.

    A run can do without: who may start runs may not read config maps everywhere.
    """
    try:
        found = cluster.kubectl().objects(
            "get", "configmap", CONFIG_MAP, "--ignore-not-found", f"--namespace={cluster.namespace}"
        )
        reason = f"there is none in namespace {cluster.namespace}"
    except KubefaceError as error:
        found, reason = [], str(error)
    if not found:
        print(f"note: the deployment's settings are not used ({reason})", file=sys.stderr)
        return {}
    return {name: value for name, value in found[0].get("data", {}).items() if value}


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
