"""A run's parameters are held to the pipeline's interface before anything is sent."""

from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError
from pipelines.build.catalogue import TASKS
from pipelines.build.compile import compile_pipeline
from pipelines.cluster.parameters import LIMITS, LIMITS_OF, read_parameters, validated, with_defaults
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


def test_good_ones_pass_as_they_are(spec: Spec) -> None:
    more = {"num_shards": 8, "min_confidence": 1, "settings": {"strategy": "partial", "num_layers": 8}}
    assert validated(GOOD | more, spec) == GOOD | more
    assert validated(GOOD | {"recipe": "noise", "degradation": "noise:60", "gate": {"min_gain": 0.01}}, spec)


def test_an_unknown_name_comes_with_the_nearest(spec: Spec) -> None:
    assert refusal(spec, num_shard=3) == "parameter 'num_shard' is unknown: did you mean num_shards?"
    assert "docs/parameters.md" in refusal(spec, qqqqqq=3)


def test_what_is_missing_is_said_with_what_it_is(spec: Spec) -> None:
    with pytest.raises(KubefaceError, match=r"'models' is missing: Where promoted.*'source' is missing: Images, one"):
        validated({}, spec)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_shards", "8"),
        ("num_shards", 0),
        ("num_shards", 1.5),
        ("source", 3),
        ("settings", "strategy=full"),
        ("detector", "yolo"),
        ("template", "arcface_96"),
        ("heldout_fraction", 1.0),
        ("min_confidence", float("nan")),
        ("on_leak", "ignore"),
        ("min_images", 1),
        ("fmr", 0),
        ("device", "tpu"),
        ("bootstrap", 10),
        ("seed", -1),
        ("num_nodes", 0),
        ("finetune_gpus", "two"),
        ("finetune_memory", "32 GB"),
        ("align_cpu", 4),
    ],
)
def test_wrong_types_and_values_that_a_step_refuses(spec: Spec, name: str, value: Any) -> None:
    assert refusal(spec, **{name: value}).startswith(f"parameter '{name}' is {value!r}: ")


def test_all_that_is_wrong_is_said_at_once(spec: Spec) -> None:
    text = refusal(spec, detector="yolo", min_images=1)
    assert "'detector'" in text
    assert "'min_images'" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"settings": {"strategi": "full"}}, "setting 'strategi' is unknown"),
        ({"settings": {"lr": -1}}, "setting lr is -1"),
        ({"settings": {"strategy": "partial"}}, "partial needs one"),
        ({"recipe": "nois"}, "recipe 'nois' is unknown"),
        ({"recipe": "s3://faces/recipe.yaml", "settings": {"lr": -1}}, "setting lr is -1"),
        ({"gate": {"min_gain": 2}}, "gate: min_gain"),
        ({"gate": {"targets": "heldout"}}, "gate: targets"),
        ({"degradation": "noise:9999"}, "degradation 'noise:9999'"),
        ({"degradation": "rain"}, "degradation 'rain' is unknown"),
    ],
)
def test_what_the_steps_models_refuse(spec: Spec, more: dict[str, Any], said: str) -> None:
    assert said in refusal(spec, **more)


def test_a_recipe_in_a_bucket_is_not_fetched(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeface.finetune.settings.fetch", lambda *_: pytest.fail("it was fetched"))
    assert validated(GOOD | {"recipe": "s3://faces/recipe.yaml", "settings": {"num_layers": 8}}, spec)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mlflow", "https://me:hunter22@mlflow.example"),
        ("lfw_archive", "https://b.s3.example/lfw.tar?X-Amz-Credential=hunter22&X-Amz-Signature=abc"),
        ("pretrained", "https://example/w.onnx?access_token=hunter22"),
        ("listing", "https://a.blob.example/l.csv?sv=1&sig=hunter22"),
        ("source", "AKIAIOSFODNN7EXAMPLE/hunter22"),
        ("settings", {"secret": "hunter22"}),
        ("gate", {"password": "hunter22"}),
    ],
)
def test_keys_are_refused_and_not_shown(spec: Spec, name: str, value: Any) -> None:
    text = refusal(spec, **{name: value})
    assert f"parameter '{name}" in text
    assert "carries a key or password" in text
    assert "hunter22" not in text


def test_the_environments_own_key_is_found_anywhere(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    text = refusal(spec, listing="s3://faces/wJalrXUtnFEMI.csv")
    assert "carries a key" in text
    assert "wJalr" not in text


def test_checksums_and_ordinary_addresses_are_no_keys(spec: Spec) -> None:
    more = {"pretrained": "https://example/w.onnx#sha256=" + "a" * 64, "s3_endpoint": "http://seaweedfs.kubeface:8333"}
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
    (tmp_path / "p.json").write_text('{"source": "s3://a", "num_shards": 2}')
    assert read_parameters(tmp_path / "p.json") == {"source": "s3://a", "num_shards": 2}


def test_the_limits_are_those_of_parameters_that_exist_and_allow_their_defaults(
    specs: dict[str, Spec],
) -> None:
    known = set[str]()
    for spec in specs.values():
        filled = with_defaults(GOOD, spec)
        whole = {name: int(v) if isinstance(v, float) and v == int(v) else v for name, v in filled.items()}
        assert validated(whole, spec)
        known |= filled.keys()
    assert set(LIMITS) <= known
    assert set(TASKS.values()) == LIMITS_OF.keys()


@pytest.mark.parametrize(
    ("pipeline", "more", "said"),
    [
        ("face-finetuning", {"detector": "none", "template": "whole_224"}, "'detector' is 'none'"),
        ("face-finetuning", {"min_images": 1}, "'min_images' is 1"),
        ("face-finetuning", {"labels": "Smiling"}, "'labels' is unknown"),
        ("face-finetuning", {"template": "whole_224"}, "'whole_224' does not go with detector 'mtcnn'"),
        ("face-attributes", {"detector": "none"}, "'portrait_224' does not go with detector 'none'"),
        ("face-attributes", {"lfw_archive": "s3://b/lfw.tar"}, "'lfw_archive' is unknown"),
        ("face-attributes", {"gate": {"metrics": "macro_f1"}}, "gate: "),
        ("image-classification", {"detector": "mtcnn"}, "'whole_224' does not go with detector 'mtcnn'"),
        ("image-classification", {"gate": {"metrics": "auc"}}, "gate: "),
        ("image-classification", {"refuse": 1.5}, "'refuse' is 1.5"),
        ("image-classification", {"scratch_settings": {"lr": -1}}, "setting lr is -1"),
    ],
)
def test_each_pipeline_has_limits_of_its_own(
    specs: dict[str, Spec], pipeline: str, more: dict[str, Any], said: str
) -> None:
    assert said in refusal(specs[pipeline], **more)


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_the_demos_parameters_are_accepted(specs: dict[str, Spec], demo: Demo) -> None:
    assert validated({**GOOD, **demo.arguments}, specs[demo.pipeline])


def test_what_only_some_pipelines_take(specs: dict[str, Spec]) -> None:
    faces = GOOD | {"min_images": 1, "detector": "retinaface", "template": "arcface_112"}
    assert validated(faces | {"labels": "Smiling Male", "gate": {"metrics": "auc f1"}}, specs["face-attributes"])
    assert validated(faces | {"gate": {"metrics": "accuracy"}}, specs["image-classification"])
