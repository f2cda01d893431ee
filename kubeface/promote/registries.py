"""Registration of a promoted model in Kubeflow Model Registry and MLflow."""

import os
import re
from collections.abc import Mapping

import urllib3
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from kubeface.runtime.errors import KubefaceError

API = "/api/model_registry/v1alpha3"
SECONDS = 10.0


def register_kubeflow(url: str, name: str, version: str, uri: str, properties: Mapping[str, str]) -> None:
    """Registers a version in Kubeflow Model Registry: model, version with custom properties, and artifact at `uri`.

    Each is created unless it exists. After the registry's REST API v1alpha3 (kubeflow/model-registry,
    api/openapi/model-registry.yaml), whose service `url` is, as http://model-registry-service.kubeflow:8080.

    Raises:
        KubefaceError: the registry does not answer, or not as such a registry does.
    """
    base = url.rstrip("/").removesuffix(API) + API
    custom: dict[str, JsonValue] = {
        key: {"metadataType": "MetadataStringValue", "string_value": value} for key, value in properties.items()
    }
    model = _get_or_create(f"{base}/registered_model", f"{base}/registered_models", {"name": name}, {})
    made = _get_or_create(
        f"{base}/model_version",
        f"{base}/model_versions",
        {"name": version, "parentResourceId": model},
        {"name": version, "registeredModelId": model, "customProperties": custom},
    )
    artifact = f"{name}-{version}"
    _get_or_create(
        f"{base}/model_artifact",
        f"{base}/model_versions/{made}/artifacts",
        {"name": artifact, "parentResourceId": made},
        {"artifactType": "model-artifact", "name": artifact, "uri": uri, "modelFormatName": "onnx", "state": "LIVE"},
    )


class _Entity(BaseModel):
    """What a registry answers: an entity, or why not."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str = ""
    message: JsonValue = None


def _get_or_create(find: str, create: str, query: Mapping[str, str], body: Mapping[str, JsonValue]) -> str:
    """The id of the entity that the query finds; where there is none, it is created of the body, or of the query."""
    status, found = _request("GET", find, fields=query)
    if status == 404:
        status, found = _request("POST", create, json=body or query)
        if status == 409:  # created by somebody else at the same moment
            status, found = _request("GET", find, fields=query)
    if status not in (200, 201) or not found.id:
        reason = f" ({found.message})" if found.message else ""
        raise KubefaceError(f"{_without_passwords(find)} answers HTTP {status}{reason}: check model_registry")
    return found.id


def _request(
    method: str, url: str, fields: Mapping[str, str] | None = None, json: Mapping[str, JsonValue] | None = None
) -> tuple[int, _Entity]:
    """Status and entity of a response; an empty one where the registry sends something else."""
    retries = urllib3.Retry(2, backoff_factor=0.5, redirect=False)
    try:
        response = urllib3.request(method, url, fields=fields, json=json, timeout=SECONDS, retries=retries)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise KubefaceError(
            f"no registry answers at {_without_passwords(url)} ({type(error).__name__}): check model_registry"
        ) from None
    try:
        return response.status, _Entity.model_validate_json(response.data)
    except ValidationError:
        return response.status, _Entity()


def register_mlflow(tracking_uri: str, name: str, version: str, uri: str, tags: Mapping[str, str]) -> None:
    """Registers a version in MLflow: a registered model, and a model version whose source is `uri`.

    MLflow numbers versions itself; the version's name is its tag `version`. A source that is registered already is
    left as it is.

    Raises:
        KubefaceError: mlflow is not installed, or the server does not answer or refuses.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise KubefaceError("mlflow is not installed: pip install mlflow-skinny, or leave mlflow empty") from None
    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if not any(known.source == uri for known in client.search_model_versions(f"name='{name}'")):
            client.create_model_version(name, uri, tags={"version": version, **tags})
    except MlflowException as error:
        raise KubefaceError(
            _without_passwords(
                f"MLflow at {tracking_uri} does not register {name}: {' '.join(str(error).split())[:200]}"
            )
        ) from None


def _without_passwords(text: str) -> str:
    """A text without the passwords of addresses in it."""
    return re.sub(r"//[^/@\s]+@", "//", text)
