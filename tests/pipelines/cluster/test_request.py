"""A deployment's settings go into runs and schedules."""

import json
import stat
import sys
from pathlib import Path

import pytest
import yaml

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.client import Cluster
from pipelines.cluster.request import deployed_settings, with_settings
from tests.support.stubs.kfp_api import KfpApi

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {
    "S3_ENDPOINT": "http://store:8333",
    "KUBEFACE_WEIGHTS_MIRROR": "",
    "GPU_NODE_SELECTOR": '{"pool": "gpu"}',
    "GPU_TOLERATIONS": '[{"key": "gpu", "operator": "Exists"}]',
    "PIPELINE_ROOT": "s3://kubeface/kfp",
}
GOOD = {"source": "s3://faces/staff", "models": "s3://faces/models"}


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kubectl on the PATH prints; what it was asked stands in `asked` beside it."""
    printed, script = tmp_path / "answer", tmp_path / "kubectl"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        f"print(open({str(printed)!r}).read())\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    printed.write_text(json.dumps({"kind": "ConfigMap", "data": SETTINGS}))
    return printed


def test_the_settings_are_those_of_the_runs_namespace(answer: Path) -> None:
    found = deployed_settings(Cluster(namespace="team-a"))
    assert found == {name: value for name, value in SETTINGS.items() if value}
    assert "get configmap kubeface-settings" in (answer.parent / "asked").read_text()
    assert "--namespace=team-a" in (answer.parent / "asked").read_text()


def test_a_cluster_without_them_is_named(answer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer.write_text("")
    assert deployed_settings(Cluster()) == {}
    assert capsys.readouterr().err.startswith(
        "note: the deployment's settings are not used (there is none in namespace"
    )
    (answer.parent / "kubectl").write_text("#!/bin/sh\necho 'Error (Forbidden): configmaps is forbidden' >&2\nexit 1\n")
    assert deployed_settings(Cluster()) == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert "Forbidden" in line


def test_what_a_run_says_itself_goes_before() -> None:
    given = GOOD | {"s3_endpoint": "http://other:9000"}
    found = with_settings(given, SETTINGS | {"KUBEFACE_WEIGHTS_MIRROR": "s3://w"})
    assert found == given | {
        "weights_mirror": "s3://w", "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    }  # fmt: skip
    assert with_settings(GOOD, {}) == GOOD
    cpu = GOOD | {"finetune_gpus": "0"}
    assert with_settings(cpu, SETTINGS) == cpu | {"s3_endpoint": "http://store:8333", "weights_mirror": ""}
    with pytest.raises(KubefaceError, match=r"GPU_TOLERATIONS is not JSON.*settings\.yaml"):
        with_settings(GOOD, {"GPU_TOLERATIONS": "gpu"})


@pytest.mark.parametrize("overlay", ["dev", "existing", "multi-user"])
def test_each_overlay_says_what_the_runs_need(overlay: str) -> None:
    text = (ROOT / "manifests" / "overlays" / overlay / "settings.yaml").read_text("utf-8")
    found = with_settings(GOOD, yaml.safe_load(text)["data"])
    assert found["s3_endpoint"] and isinstance(found["node_selector"], dict) and isinstance(found["tolerations"], list)


def test_runs_and_schedules_have_them(
    answer: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = tmp_path / "p.yaml"
    parameters.write_text(yaml.safe_dump(GOOD))
    files = ("--params", str(parameters), "--package", str(package))

    with KfpApi() as api:
        monkeypatch.setenv("KFP_HOST", api.url)
        main(["submit", *files])
        for _ in range(2):
            main(["schedule", "weekly", "--cron", "0 0 3 * * 0", *files])
        (run,), (recurring,) = api.state.runs, api.state.recurring
    assert "schedule weekly is as it was" in capsys.readouterr().out
    for made in (run, recurring):
        config = made["runtime_config"]
        assert config["parameters"]["s3_endpoint"] == "http://store:8333"
        assert config["parameters"]["node_selector"] == {"pool": "gpu"}
        assert config["pipeline_root"] == "s3://kubeface/kfp"
