"""What a run is started with: checked parameters, and where the deployment keeps artifacts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.request import read_request
from pipelines.local.demo import DEMOS, Demo
from tests.support.stubs.kfp_api import KfpApi
from tests.support.stubs.kubectl import fake_kubectl

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"S3_ENDPOINT": "http://store:8333", "KUBEFACE_WEIGHTS_MIRROR": "", "PIPELINE_ROOT": "s3://kubeface/kfp"}
GOOD: dict[str, Any] = {"source": "s3://faces/staff", "models": "s3://faces/models"}


@pytest.fixture
def files(package: Path, tmp_path: Path) -> list[str]:
    """Flags that name parameters and a compiled pipeline."""
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(GOOD))
    return ["--params", str(tmp_path / "p.yaml"), "--package", str(package)]


def test_runs_and_schedules_keep_artifacts_where_the_deployment_says(
    kfp: KfpApi,
    command: Callable[..., None],
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = json.dumps({"kind": "ConfigMap", "data": SETTINGS})
    kubectl = fake_kubectl(tmp_path, monkeypatch, f"print({answer!r})")
    monkeypatch.setenv("KFP_NAMESPACE", "team-a")
    command("submit", *files)
    for _ in range(2):
        command("schedule", "weekly", "--cron", "0 0 3 * * 0", *files)
    assert "schedule weekly is as it was" in capsys.readouterr().out
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
    command: Callable[..., None],
    files: list[str],
    tmp_path: Path,
    body: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_kubectl(tmp_path, monkeypatch, body)
    command("submit", *files)
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
