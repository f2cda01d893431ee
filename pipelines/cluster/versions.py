"""A pipeline on the server: found by its name, and a version for each content."""

import hashlib
import json
from pathlib import Path
from typing import Any

import kfp_server_api
import yaml

from kubeface.runtime.errors import KubefaceError, require
from pipelines.cluster.client import Client

EQUALS = "EQUALS"  # of filter.proto in kubeflow/pipelines


def pipeline_name(package: Path) -> str:
    """Name of the pipeline in a file of `make compile`.

    Raises:
        KubefaceError: the file is not there or is none.
    """
    require(package.is_file(), f"{package} is not there: run 'make compile'")
    try:
        spec = next(yaml.load_all(package.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        return str(spec["pipelineInfo"]["name"])
    except (yaml.YAMLError, UnicodeDecodeError, StopIteration, KeyError, TypeError):
        raise KubefaceError(f"{package} is not a compiled pipeline: run 'make compile'") from None


def version_name(package: Path) -> str:
    """Name of the version that a compiled pipeline is: the first 12 hex digits of its SHA-256 behind the pipeline's.

    Raises:
        KubefaceError: the file is not there or is none.
    """
    name = pipeline_name(package)
    return f"{name}-{hashlib.sha256(package.read_bytes()).hexdigest()[:12]}"


def find_pipeline(client: Client, name: str) -> str | None:
    """Id of the pipeline with this name; None where there is none."""
    listed = client.list_pipelines(filter=_named(name), namespace=client.namespace or None)
    found = [str(pipeline.pipeline_id) for pipeline in listed.pipelines or []]
    return found[0] if found else None


def find_version(client: Client, pipeline: str, name: str) -> str | None:
    """Id of the pipeline's version with this name; None where there is none."""
    listed = client.list_pipeline_versions(pipeline, filter=_named(name))
    found = [str(version.pipeline_version_id) for version in listed.pipeline_versions or []]
    return found[0] if found else None


def upload(client: Client, package: Path) -> tuple[str, bool]:
    """Makes the compiled pipeline a version on the server, unless it is one: the same content is one version.

    Args:
        client: of `pipelines.cluster.client.connect`.
        package: YAML file of `make compile`; its pipeline is made where there is none.

    Returns:
        id of the version, and whether it is new.

    Raises:
        KubefaceError: the file is not there, or KFP refuses it.
    """
    name, version = pipeline_name(package), version_name(package)
    pipeline = find_pipeline(client, name) or _create(client, name)
    if known := find_version(client, pipeline, version):
        return known, False
    try:
        made = client.pipeline_uploads.upload_pipeline_version(str(package), name=version, pipelineid=pipeline)
    except kfp_server_api.ApiException as error:
        if error.status != 409:
            raise
        # Somebody uploaded the same content at the same moment.
        if known := find_version(client, pipeline, version):
            return known, False
        raise
    return str(made.pipeline_version_id), True


def spec_of(client: Client, pipeline: str, version: str) -> dict[str, Any]:
    """The compiled pipeline behind a version.

    Raises:
        KubefaceError: KFP does not hold it.
    """
    text = client.get_pipeline_version(pipeline, version).pipeline_spec
    require(isinstance(text, dict), f"version {version} has no pipeline: submit the run again")
    return dict(text.get("pipeline_spec", text))  # beside it stands what is Kubernetes' own, where there is such


def _create(client: Client, name: str) -> str:
    body = kfp_server_api.V2beta1Pipeline(display_name=name, name=name, namespace=client.namespace or None)
    try:
        return str(client.pipelines.pipeline_service_create_pipeline(body).pipeline_id)
    except kfp_server_api.ApiException as error:
        if error.status != 409:
            raise
    found = find_pipeline(client, name)
    if not found:
        raise KubefaceError(f"pipeline {name} exists already, and is not shown to you: check KFP_NAMESPACE")
    return found


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": name}]})
