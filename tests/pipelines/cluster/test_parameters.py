"""A run's parameters are held to the pipeline's interface before anything is sent."""

from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError
from pipelines.build.catalogue import TASKS
from pipelines.build.compile import compile_pipeline
from pipelines.cluster.parameters import read_parameters, validated, with_defaults
from pipelines.cluster.versions import Spec, read_package
from pipelines.local.demo import DEMOS, Demo

GOOD: dict[str, Any] = {"source": "s3://faces/staff", "models": "s3://faces/models"}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Spec]:
    """Each of the pipelines."""
    folder = tmp_path_factory.mktemp("compiled")
    for name in TASKS:
        compile_pipeline(folder / f"{name}.yaml", pipeline=name)
    return {name: read_package(folder / f"{name}.yaml").spec for name in TASKS}


@pytest.fixture(scope="module")
def spec(specs: dict[str, Spec]) -> Spec:
    return specs["face-finetuning"]


def refusal(spec: Spec, **more: Any) -> str:
    with pytest.raises(KubefaceError) as caught:
        validated(GOOD | more, spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_ones_pass_as_they_are(spec: dict[str, Any]) -> None:
    more = {"resources": {"shards": 8}, "align": {"min_confidence": 1}, "degradation": "noise:60", "recipe": "noise"}
    assert validated(GOOD | more, spec) == GOOD | more


def test_what_plan_would_refuse_is_refused_at_once(spec: dict[str, Any]) -> None:
    """tests/kubeface/plan has all that is checked."""
    assert refusal(spec, sed=3) == "sed is unknown, did you mean seed?"
    text = refusal(spec, align={"detector": "yolo"}, split={"heldout_fraction": 2})
    assert "align.detector is 'yolo'" in text and "split.heldout_fraction is 2" in text
    assert "degradation 'rain' is unknown" in refusal(spec, degradation="rain")


def test_a_package_of_another_release_is_compiled_again(spec: dict[str, Any]) -> None:
    before = {**spec, "root": {"inputDefinitions": {"parameters": {"source": {}, "models": {}}}}}
    assert refusal(before, seed=3) == "the compiled pipeline has no parameter seed: run 'make compile' again"


def test_a_recipe_in_a_bucket_is_not_fetched(spec: dict[str, Any]) -> None:
    assert validated(GOOD | {"recipe": "s3://faces/recipe.yaml", "finetune": {"num_layers": 8}}, spec)


def test_defaults_stand_under_what_is_given(spec: dict[str, Any]) -> None:
    filled = with_defaults(GOOD | {"align": {"detector": "retinaface"}}, spec)
    assert (filled["seed"], filled["align"]["detector"], filled["align"]["min_face_size"]) == (0, "retinaface", 20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("promote", {"mlflow": "https://me:hunter22@mlflow.example"}),
        ("evaluate", {"lfw_archive": "https://b.s3.example/lfw.tar?X-Amz-Credential=hunter22&X-Amz-Signature=abc"}),
        ("finetune", {"pretrained": "https://example/w.onnx?access_token=hunter22"}),
        ("ingest", {"listing": "https://a.blob.example/l.csv?sv=1&sig=hunter22"}),
        ("source", "AKIAIOSFODNN7EXAMPLE/hunter22"),
        ("finetune", {"secret": "hunter22"}),
        ("evaluate", {"gate": {"password": "hunter22"}}),
    ],
)
def test_keys_are_refused_and_not_shown(spec: Spec, name: str, value: Any) -> None:
    text = refusal(spec, **{name: value})
    assert f"parameter '{name}" in text
    assert "carries a key or password" in text
    assert "hunter22" not in text


def test_the_environments_own_key_is_found_anywhere(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    text = refusal(spec, ingest={"listing": "s3://faces/wJalrXUtnFEMI.csv"})
    assert "carries a key" in text
    assert "wJalr" not in text


def test_checksums_and_ordinary_addresses_are_no_keys(spec: Spec) -> None:
    more = {"finetune": {"pretrained": "https://example/w.onnx#sha256=" + "a" * 64}}
    assert validated(GOOD | more, spec)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: [", "is not YAML or JSON (line"),
        ("- a\n- b", "holds no parameters"),
        ("", "holds no parameters"),
        ("1: a", "holds no parameters"),
    ],
)
def test_a_file_that_holds_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(KubefaceError) as caught:
        read_parameters(tmp_path / "p.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(KubefaceError, match="is not there"):
        read_parameters(tmp_path / "none.yaml")


def test_json_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"source": "s3://a", "seed": 2}')
    assert read_parameters(tmp_path / "p.json") == {"source": "s3://a", "seed": 2}


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_the_demos_parameters_are_accepted(specs: dict[str, Spec], demo: Demo) -> None:
    assert validated({**GOOD, **demo.arguments}, specs[demo.pipeline])
