"""Registries: told once, whatever happens twice, and never in the way of a promotion."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from kubeface.promote.options import PromoteOptions
from kubeface.promote.registries import register_kubeflow, register_mlflow
from kubeface.promote.step import promote
from kubeface.runtime.errors import KubefaceError
from tests.support import servers
from tests.support.promoted_models import make

API = "/api/model_registry/v1alpha3"
NOT_FOUND = {"code": "404", "message": "not found"}
PARENTS = {"model_version": "registeredModelId", "model_artifact": "parent"}


class Registry:
    """Kubeflow Model Registry's REST API v1alpha3, as far as it is used: find by name and parent, create, conflict."""

    def __init__(self) -> None:
        kinds = ("registered_model", "model_version", "model_artifact")
        self.entities: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        self.requests: list[tuple[str, str]] = []
        self.status = 0  # that every request is answered with, 0 for the right one
        self.hide = 0  # that many finds see nothing, as if somebody else created the entity right after them

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        self.requests.append((method, path))
        if self.status:
            return self.status, {"code": "", "message": "out of order"}
        assert path.startswith(f"{API}/")
        collection, *below = path.removeprefix(f"{API}/").split("/")
        if method == "GET" and collection in self.entities:
            assert set(query) == {"name", *(["parentResourceId"] if collection in PARENTS else [])}
            if self.hide:
                self.hide -= 1
                return 404, NOT_FOUND
            return self.find(collection, query["name"], query.get("parentResourceId"))
        assert method == "POST"
        kind = "model_artifact" if below else collection.removesuffix("s")
        if kind == "model_version":
            assert body["registeredModelId"] in [entity["id"] for entity in self.entities["registered_model"]]
            for value in body["customProperties"].values():
                assert value == {"metadataType": "MetadataStringValue", "string_value": value["string_value"]}
        elif kind == "model_artifact":
            assert (collection, below[1:]) == ("model_versions", ["artifacts"])
            assert body["artifactType"] == "model-artifact"
            body["parent"] = below[0]
        if self.find(kind, body["name"], body.get(PARENTS.get(kind, "")))[0] == 200:
            return 409, {"code": "409", "message": "exists"}
        self.entities[kind].append({"id": str(len(self.entities[kind]) + 1)} | body)
        return 201, self.entities[kind][-1]

    def find(self, kind: str, name: str, parent: str | None) -> tuple[int, Any]:
        for entity in self.entities[kind]:
            if entity["name"] == name and (kind == "registered_model" or entity[PARENTS[kind]] == parent):
                return 200, entity
        return 404, NOT_FOUND


@pytest.fixture
def registry() -> Iterator[tuple[str, Registry]]:
    """A registry on loopback and its URL."""
    state = Registry()

    class Handler(servers.Handler):
        def take(self) -> None:
            address = urlsplit(self.path)
            body = json.loads(self.content() or b"{}")
            if self.command == "POST":
                assert self.headers["Content-Type"] == "application/json"
            status, found = state.answer(self.command, address.path, dict(parse_qsl(address.query)), body)
            self.answer(status, json.dumps(found).encode())

        do_GET = do_POST = take

    with servers.LoopbackServer(Handler) as server:
        yield server.url, state


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tracking URI of MLflow's own file store, which mlflow-skinny still has."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlflow").as_uri()


def test_kubeflow_gets_model_version_and_artifact_once(registry: tuple[str, Registry]) -> None:
    url, state = registry
    for _ in range(2):
        register_kubeflow(f"{url}/", "face", "12ab", "s3://b/models/face/12ab", {"backbone": "sface"})
    (model,), (version,), (artifact,) = state.entities.values()
    assert model == {"id": "1", "name": "face"}
    properties = {"backbone": {"metadataType": "MetadataStringValue", "string_value": "sface"}}
    assert version == {"id": "1", "name": "12ab", "registeredModelId": "1", "customProperties": properties}
    assert artifact["uri"] == "s3://b/models/face/12ab" and artifact["parent"] == "1"
    assert artifact["name"] == "face-12ab" and artifact["modelFormatName"] == "onnx"
    assert [method for method, _ in state.requests].count("POST") == 3
    register_kubeflow(f"{url}{API}", "face", "34cd", "s3://b/models/face/34cd", {})
    assert [len(found) for found in state.entities.values()] == [1, 2, 2]


def test_what_somebody_else_made_meanwhile_is_taken(registry: tuple[str, Registry]) -> None:
    url, state = registry
    register_kubeflow(url, "face", "12ab", "uri", {})
    state.hide = 1
    register_kubeflow(url, "face", "12ab", "uri", {})
    assert [len(found) for found in state.entities.values()] == [1, 1, 1]


def test_a_registry_that_refuses_is_one_clear_line_without_the_password(registry: tuple[str, Registry]) -> None:
    url, state = registry
    state.status = 403
    with pytest.raises(KubefaceError, match=r"answers HTTP 403 \(out of order\): check model_registry") as raised:
        register_kubeflow(url.replace("//", "//user:secret@"), "face", "12ab", "uri", {})
    assert "secret" not in str(raised.value)
    with pytest.raises(KubefaceError) as raised:
        register_mlflow(url.replace("//", "//user:secret@"), "face", "12ab", "uri", {})
    assert "secret" not in str(raised.value)
    for wrong in ("http://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(KubefaceError, match=r"no registry answers at .*: check model_registry"):
            register_kubeflow(wrong, "face", "12ab", "uri", {})


def test_mlflow_gets_a_version_with_source_and_tags_once(mlflow_store: str) -> None:
    from mlflow import MlflowClient

    for _ in range(2):
        register_mlflow(mlflow_store, "face", "12ab", "s3://b/models/face/12ab", {"backbone": "sface"})
    client = MlflowClient(tracking_uri=mlflow_store, registry_uri=mlflow_store)
    (version,) = client.search_model_versions("name='face'")
    assert version.source == "s3://b/models/face/12ab"
    assert version.tags == {"version": "12ab", "backbone": "sface"}
    register_mlflow(mlflow_store, "face", "34cd", "s3://b/models/face/34cd", {})
    assert len(client.search_model_versions("name='face'")) == 2


def test_without_mlflow_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(KubefaceError, match="mlflow is not installed: pip install mlflow-skinny"):
        register_mlflow("http://x", "face", "12ab", "uri", {})


def test_a_promotion_tells_both(registry: tuple[str, Registry], mlflow_store: str, tmp_path: Path) -> None:
    url, state = registry
    model, evaluation = make(tmp_path, better=True)
    options = PromoteOptions(name="face", destination=str(tmp_path / "m"), model_registry=url, mlflow=mlflow_store)
    promote(model, evaluation, tmp_path / "out", options=options)
    promotion = json.loads((tmp_path / "out" / "promotion.json").read_text())
    assert promotion["registered"] == {"model_registry": "registered", "mlflow": "registered"}
    assert state.entities["model_artifact"][0]["uri"] == promotion["uri"]
    told = state.entities["model_version"][0]["customProperties"]
    assert told["start_license"]["string_value"] == "Apache-2.0" and "weights_sha256" in told


@pytest.mark.parametrize("better", [True, False])
def test_promoted_though_a_registry_is_away(tmp_path: Path, better: bool, capsys: pytest.CaptureFixture[str]) -> None:
    model, evaluation = make(tmp_path, better=better)
    away = {"model_registry": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:1"}
    options = PromoteOptions(name="face", destination=str(tmp_path / "m"), **away)
    promote(model, evaluation, tmp_path / "out", options=options)
    promotion = json.loads((tmp_path / "out" / "promotion.json").read_text())
    assert promotion["promoted"] is better
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("promote: promoted, but not")]
    assert len(warnings) == len(promotion["registered"]) == (2 if better else 0)
    assert (tmp_path / "m" / "face" / "champion.json").exists() == better
