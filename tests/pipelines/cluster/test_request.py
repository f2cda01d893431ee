"""What a run is started with: checked parameters, and where the deployment keeps artifacts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.request import read_file, read_request, refuse_secrets
from pipelines.local.demo import DEMOS, Demo
from tests.support.commands import GOOD, Files, Told
from tests.support.stubs.kfp_api import KfpApi
from tests.support.stubs.kubectl import fake_kubectl

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"S3_ENDPOINT": "http://store:8333", "KUBEFACE_WEIGHTS_MIRROR": "", "PIPELINE_ROOT": "s3://kubeface/kfp"}


def test_runs_and_schedules_keep_artifacts_where_the_deployment_says(
    kfp: KfpApi, told: Told, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"kind": "ConfigMap", "data": SETTINGS})
    kubectl = fake_kubectl(tmp_path, monkeypatch, f"print({answer!r})")
    monkeypatch.setenv("KFP_NAMESPACE", "team-a")
    told("submit", *files)
    schedule = ("schedule", "weekly", "--cron", "0 0 3 * * 0", *files)
    told(*schedule)
    assert "schedule weekly is as it was" in told(*schedule)
    for made in (*kfp.state.runs, *kfp.state.recurring):
        assert made["runtime_config"]["pipeline_root"] == "s3://kubeface/kfp"
        assert made["runtime_config"]["parameters"] == GOOD  # the steps read the other settings themselves
    asked = kubectl.asked()[-1]
    assert "get configmap kubeface-settings" in asked and "--namespace=team-a" in asked


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "there is no kubeface-settings in namespace kubeface"),
        ("sys.exit('Error (Forbidden): configmaps is forbidden')", "Forbidden"),
    ],
)
def test_settings_that_cannot_be_read_are_a_note(
    kfp: KfpApi,
    files: Files,
    tmp_path: Path,
    body: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_kubectl(tmp_path, monkeypatch, body)
    main(["submit", *map(str, files)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: artifacts go where Kubeflow Pipelines keeps them (") and reason in line
    assert not kfp.state.runs[0]["runtime_config"].get("pipeline_root")


@pytest.mark.parametrize("overlay", ["dev", "existing", "multi-user"])
def test_each_overlay_says_what_the_steps_read(overlay: str) -> None:
    text = (ROOT / "manifests" / "overlays" / overlay / "settings.yaml").read_text("utf-8")
    settings = yaml.safe_load(text)["data"]
    assert settings["S3_ENDPOINT"] and "KUBEFACE_WEIGHTS_MIRROR" in settings and "PIPELINE_ROOT" in settings
    assert isinstance(json.loads(settings["GPU_NODE_SELECTOR"]), dict)
    assert isinstance(json.loads(settings["GPU_TOLERATIONS"]), list)


def write(folder: Path, **values: Any) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(GOOD | values))
    return path


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_the_demos_parameters_are_accepted(packages: dict[str, Path], demo: Demo, tmp_path: Path) -> None:
    path = write(tmp_path, **demo.arguments)
    assert read_request(path, demo.pipeline, packages[demo.pipeline]).package.pipeline == demo.pipeline


@pytest.mark.parametrize(
    ("pipeline", "more", "said"),
    [
        ("face-finetuning", {"sauce": 3}, "sauce is unknown, did you mean source?"),
        ("face-finetuning", {"seed": -1, "align": {"detector": "yolo"}}, "seed is -1"),
        ("face-finetuning", {"degradation": "rain"}, "degradation 'rain' is unknown"),
        ("face-attributes", {"superresolve": {"max_side": 9}}, "superresolve is unknown"),
        ("image-classification", {"scratch": {"lr": -1}}, "scratch.lr is -1"),
    ],
)
def test_parameters_are_those_of_the_pipeline(
    packages: dict[str, Path], tmp_path: Path, pipeline: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(KubefaceError) as caught:
        read_request(write(tmp_path, **more), pipeline, packages[pipeline])
    assert said in str(caught.value)


def test_a_package_that_is_older_than_a_parameter_is_named(packages: dict[str, Path], tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(packages["face-finetuning"].read_text("utf-8").replace("degradation:", "conditions:"))
    with pytest.raises(KubefaceError, match=r"old\.yaml was compiled before degradation was a parameter: run 'make co"):
        read_request(write(tmp_path, degradation="noise:60"), "face-finetuning", old)


def test_a_recipe_in_a_bucket_is_not_fetched(packages: dict[str, Path], tmp_path: Path) -> None:
    path = write(tmp_path, recipe="s3://faces/recipe.yaml", finetune={"num_layers": 8})
    assert read_request(path, "face-finetuning", packages["face-finetuning"])


def refusal(**more: Any) -> str:
    with pytest.raises(KubefaceError) as caught:
        refuse_secrets(GOOD | more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "AKIAIOSFODNN7EXAMPLE/hunter22"),
        ("promote.mlflow", "https://me:hunter22@mlflow.example"),
        ("evaluate.lfw_archive", "https://b.s3.example/lfw.tar?X-Amz-Credential=hunter22&X-Amz-Signature=abc"),
        ("finetune.pretrained", "https://example/w.onnx?access_token=hunter22"),
        ("ingest.listing", "https://a.blob.example/l.csv?sv=1&sig=hunter22"),
        ("finetune.secret", "hunter22"),
        ("evaluate.gate.password", "hunter22"),
    ],
)
def test_keys_are_refused_and_not_shown(name: str, value: str) -> None:
    first, *inner = name.split(".")
    nested: Any = value
    for key in reversed(inner):
        nested = {key: nested}
    text = refusal(**{first: nested})
    assert f"parameter '{name}' carries a key or password" in text
    assert "hunter22" not in text


def test_the_environments_own_key_is_found_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    text = refusal(audit={"evaluation_sets": ["s3://faces/wJalrXUtnFEMI.tar"]})
    assert "carries a key" in text
    assert "wJalr" not in text


def test_checksums_and_ordinary_addresses_are_no_keys() -> None:
    refuse_secrets(
        GOOD | {"finetune": {"pretrained": "https://example/w.onnx#sha256=" + "a" * 64}, "recipe": "s3://a/b"}
    )


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
        read_file(tmp_path / "p.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(KubefaceError, match="is not there"):
        read_file(tmp_path / "none.yaml")


def test_json_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"source": "s3://a", "num_shards": 2}')
    assert read_file(tmp_path / "p.json") == {"source": "s3://a", "num_shards": 2}
