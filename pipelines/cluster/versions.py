"""Compiled pipelines on the server: a pipeline by its name, a version of it by its content."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp_server_api
import yaml

from kubeface.runtime.errors import KubefaceError, require
from pipelines.cluster.client import Client

EQUALS = "EQUALS"  # of filter.proto in kubeflow/pipelines
Spec = Mapping[str, Any]  # PipelineSpec of pipeline_spec.proto in kubeflow/pipelines, as YAML has it


@dataclass(frozen=True, slots=True)
class Package:
    """A compiled pipeline."""

    path: Path  # as `kubeface compile` writes it
    pipeline: str
    version: str  # the pipeline's name and the first 12 hex digits of the file's SHA-256
    spec: Spec


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a pipeline on the server, by ids."""

    pipeline_id: str
    version_id: str
    is_new: bool = field(default=False, compare=False)  # whether it was uploaded just now


def read_package(path: Path) -> Package:
    """Reads a compiled pipeline. Raises KubefaceError if the file does not exist or is not a compiled pipeline."""
    require(path.is_file(), f"{path} does not exist: run 'make compile'")
    content = path.read_bytes()
    try:
        spec = next(yaml.load_all(content.decode(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        name = str(spec["pipelineInfo"]["name"])
    except (yaml.YAMLError, UnicodeDecodeError, StopIteration, KeyError, TypeError):
        raise KubefaceError(f"{path} is not a compiled pipeline: run 'make compile'") from None
    return Package(path, name, f"{name}-{hashlib.sha256(content).hexdigest()[:12]}", spec)


def find_pipeline(client: Client, name: str) -> str | None:
    """Id of the pipeline with this name; None where there is none."""
    listed = client.list_pipelines(filter=equals("display_name", name), namespace=client.namespace or None)
    found = [str(pipeline.pipeline_id) for pipeline in listed.pipelines or []]
    return found[0] if found else None


def find_version(client: Client, package: Package) -> Version | None:
    """The version on the server with a package's content; None where there is none."""
    pipeline = find_pipeline(client, package.pipeline)
    return _find_version(client, pipeline, package.version) if pipeline else None


def _find_version(client: Client, pipeline: str, name: str) -> Version | None:
    listed = client.list_pipeline_versions(pipeline, filter=equals("display_name", name))
    found = [str(version.pipeline_version_id) for version in listed.pipeline_versions or []]
    return Version(pipeline, found[0]) if found else None


def upload(client: Client, package: Package) -> Version:
    """Makes a package a version on the server, unless it is one already: the same content is one version. Its pipeline
    is made where there is none. Raises KubefaceError if KFP refuses it."""
    pipeline = find_pipeline(client, package.pipeline) or _create(client, package.pipeline)
    if known := _find_version(client, pipeline, package.version):
        return known
    try:
        made = client.pipeline_uploads.upload_pipeline_version(
            str(package.path), name=package.version, pipelineid=pipeline
        )
    except kfp_server_api.ApiException as error:
        if error.status != 409:
            raise
        # Somebody uploaded the same content at the same moment.
        if known := _find_version(client, pipeline, package.version):
            return known
        raise
    return Version(pipeline, str(made.pipeline_version_id), is_new=True)


def spec_of(client: Client, version: Version) -> Spec:
    """The compiled pipeline behind a version. Raises KubefaceError if KFP does not hold it."""
    text = client.get_pipeline_version(version.pipeline_id, version.version_id).pipeline_spec
    require(isinstance(text, dict), f"version {version.version_id} has no pipeline: submit the run again")
    return dict(text.get("pipeline_spec", text))  # Kubernetes' settings, where there are any, stand beside it


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


def equals(key: str, value: str) -> str:
    """A filter of KFP's lists: those with this value."""
    return json.dumps({"predicates": [{"operation": EQUALS, "key": key, "stringValue": value}]})
