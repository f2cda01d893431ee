"""The doctor on a stub of a cluster: all well, each thing that can be wrong, and nothing written."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from pipelines.cluster import kubectl as kubectl_module
from pipelines.cluster.client import Cluster
from pipelines.cluster.doctor import Doctor
from pipelines.cluster.manifests import find_overlay
from pipelines.local.store import free_ports, local_store
from tests.support.commands import Told
from tests.support.stubs.kfp_api import Fault, KfpApi
from tests.support.stubs.kubernetes_api import HANG, KubernetesApi
from tests.support.stubs.kubernetes_objects import Object, thing

KEY = "not-to-be-shown"
Look = Callable[[], dict[str, str]]


def cluster_objects() -> list[Object]:
    """A cluster that lacks nothing."""
    namespace = thing("Namespace", "kubeface")
    namespace["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
    storage_class = thing("StorageClass", "standard", "storage.k8s.io/v1", provisioner="x")
    storage_class["metadata"]["annotations"] = {"storageclass.kubernetes.io/is-default-class": "true"}
    container = {"name": "api", "image": "ghcr.io/kubeflow/kfp-api-server:2.15.0"}
    labels = {"matchLabels": {"app": "ml-pipeline"}}
    return [
        argo("Always"),
        namespace,
        storage_class,
        thing("Secret", "mlpipeline-minio-artifact", namespace="kubeface", data={"accesskey": KEY, "secretkey": KEY}),
        thing("Node", "cpu", status={"allocatable": {"cpu": "8"}}),
        thing("Node", "gpu", status={"allocatable": {"nvidia.com/gpu": "2"}}),
        thing(
            "Deployment",
            "ml-pipeline",
            "apps/v1",
            "kubeflow",
            spec={"selector": labels, "template": {"spec": {"containers": [container]}}},
        ),
    ]


def argo(policy: str) -> Object:
    """Argo's settings, with what is tried again."""
    defaults = {"spec": {"templateDefaults": {"retryStrategy": {"limit": "2", "retryPolicy": policy}}}}
    data = {"workflowDefaults": yaml.safe_dump(defaults)}
    return thing("ConfigMap", "workflow-controller-configmap", namespace="kubeflow", data=data)


def write_record(image: str) -> None:
    """The images that were pushed: one."""
    record = {"align": {"image": image, "digest": f"sha256:{'0' * 64}", "size": 1}}
    Path("build/images.json").write_text(json.dumps(record), "utf-8")


def write_packages(*names: str, more: str = "") -> None:
    """Compiled pipelines."""
    for name in names:
        Path(f"build/{name}.yaml").write_text(f"pipelineInfo: {{name: {name}{more}}}\n", "utf-8")


@pytest.fixture
def api(cluster: KubernetesApi, kfp: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KubernetesApi:
    """A healthy cluster, an overlay `dev` and images that were pushed, in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "S3_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "manifests" / "overlays" / "dev"
    folder.mkdir(parents=True)
    data = {"S3_BUCKET": "kubeface", "S3_ENDPOINT": "http://store:8333"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
    items = [thing("ConfigMap", "kubeface-settings", data=data), thing("PersistentVolumeClaim", "weights", spec=claim)]
    (folder / "all.yaml").write_text(yaml.safe_dump_all(items), "utf-8")
    (folder / "kustomization.yaml").write_text("namespace: kubeface\nresources: [all.yaml]\n", "utf-8")
    (tmp_path / "build").mkdir()
    write_record("registry/align:1")
    cluster.put(*cluster_objects())
    cluster.writes.clear()
    return cluster


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Look:
    """What the doctor says, by the name of the check; whether it failed stands under `exit`."""

    def call() -> dict[str, str]:
        with suppress(SystemExit):
            main(["doctor"])
        printed, failed = capsys.readouterr()
        assert KEY not in printed + failed
        lines = {"exit": failed.strip()}
        for line in printed.splitlines():
            name, _, text = line[5:].partition(": ")
            lines[name] = f"{line[:4].strip()} {text}"
        return lines

    return call


def test_a_healthy_cluster(api: KubernetesApi, look: Look) -> None:
    lines = look()
    assert not [line for line in lines.values() if line.startswith("FAIL")]
    assert not lines.pop("exit")
    assert lines.pop("bucket").startswith("note not looked at: set S3_ENDPOINT")
    assert all(line.startswith("ok ") for line in lines.values()), lines
    assert "2 GPUs on 1 of 2 nodes" in lines["GPU nodes"]
    assert "2.15.0, serves one user" in lines["Kubeflow Pipelines"]
    assert "v1.34.0 answers kubectl v1" in lines["Kubernetes"]
    assert api.writes == []


def test_each_lack_has_its_line(api: KubernetesApi, kfp: KfpApi, look: Look) -> None:
    api.objects.clear()
    api.custom = ()
    api.forbidden |= {("create", "configmaps"), ("delete", "persistentvolumeclaims"), ("list", "nodes")}
    Path("build/images.json").unlink()
    kfp.state.faults.append(Fault("GET", 401))
    lines = look()
    assert lines["rights"] == (
        "FAIL this account may not create configmaps; delete persistentvolumeclaims (namespace kubeface): ask for "
        "these rights"
    )
    assert lines["namespace"] == "FAIL kubeface does not exist: kubectl create namespace kubeface"
    assert lines["secret"].startswith("FAIL mlpipeline-minio-artifact lacks accesskey, secretkey in kubeface")
    assert lines["storage class"] == "FAIL no default among none: set STORAGE_CLASS in the overlay"
    assert lines["GPU nodes"].startswith("note not looked at: kubectl get: ") and "Forbidden" in lines["GPU nodes"]
    assert lines["Kubeflow Trainer"].startswith("note it is not installed")
    assert lines["images"].startswith("note build/images.json is not there")
    assert "wants you to sign in (401)" in lines["Kubeflow Pipelines"]
    assert lines["exit"] == "error: 5 of the above must be put right first"


def test_no_gpus_a_lax_namespace_and_images_of_this_machine_are_notes(api: KubernetesApi, look: Look) -> None:
    del api.objects["nodes", "", "gpu"]
    (api.get("Namespace", "kubeface") or {})["metadata"]["labels"] = {}
    write_record("localhost/kubeface/align:1")
    lines = look()
    assert lines["GPU nodes"].startswith("note no node of 1 offers nvidia.com/gpu")
    assert lines["namespace"].startswith("note kubeface holds pods to no standard")
    assert lines["images"].startswith("note align are named localhost/")
    assert not [line for line in lines.values() if line.startswith("FAIL")]


def test_whether_steps_that_fail_are_tried_again_is_argos_to_say(api: KubernetesApi, look: Look) -> None:
    """KFP's manifests say OnError (third-party/argo/base/workflow-controller-configmap-patch.yaml)."""
    assert look()["retries"].startswith("ok ")
    api.objects["configmaps", "kubeflow", "workflow-controller-configmap"] = argo("OnError")
    assert look()["retries"].startswith("note a step that ends with an error is not tried again")
    del api.objects["configmaps", "kubeflow", "workflow-controller-configmap"]
    assert look()["retries"].startswith("note Argo's defaults cannot be seen")


def test_a_kind_and_a_storage_class_that_are_not_there(api: KubernetesApi, look: Look) -> None:
    overlay = Path("manifests/overlays/dev/all.yaml")
    items = list(yaml.safe_load_all(overlay.read_text()))
    items[1]["spec"]["storageClassName"] = "fast"
    overlay.write_text(yaml.safe_dump_all(items), "utf-8")
    said = "FAIL fast does not exist (there is standard): set STORAGE_CLASS in the overlay"
    assert look()["storage class"] == said
    items.append(thing("Experiment", "search", "kubeflow.org/v1beta1"))
    overlay.write_text(yaml.safe_dump_all(items), "utf-8")
    lines = look()
    assert lines["Kubernetes"].startswith("FAIL the cluster does not know Experiment (kubeflow.org/v1beta1): install")
    assert "rights" not in lines


@pytest.mark.parametrize(
    ("status", "words"), [(401, "does not accept the credentials"), (HANG, "does not answer in time")]
)
def test_an_api_that_does_not_answer_is_one_line_and_the_rest_is_left_out(
    api: KubernetesApi, look: Look, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    monkeypatch.setattr(kubectl_module, "REQUEST_SECONDS", 1)
    api.faults.append(("GET /version", status))
    lines = look()
    assert lines["Kubernetes"].startswith("FAIL ") and words in lines["Kubernetes"]
    assert set(lines) == {"exit", "overlay", "images", "bucket", "Kubernetes", "Kubeflow Pipelines"}


def test_the_bucket_is_asked_for_with_the_keys_of_the_environment(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = Doctor(Cluster.from_environment(), find_overlay("dev"))
    doctor.check_overlay()
    monkeypatch.setenv("S3_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    with pytest.raises(KubefaceError, match=r"nothing answers at http://127\.0\.0\.1:"):
        doctor.check_bucket()
    with local_store("kubeface") as environment:
        for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, environment[name])
        objects.ensure_bucket("kubeface")
        assert doctor.check_bucket() == f"kubeface at {environment['S3_ENDPOINT']} can be listed"
        monkeypatch.setenv("S3_BUCKET", "another")
        with pytest.raises(KubefaceError, match="bucket 'another' does not exist"):
            doctor.check_bucket()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        with pytest.raises(KubefaceError, match="refuses the access key") as error:
            doctor.check_bucket()
        assert KEY not in str(error.value)


def test_deploy_from_the_command_line_uploads_the_pipeline_once(api: KubernetesApi, kfp: KfpApi, told: Told) -> None:
    write_packages("face-finetuning")
    printed = told("deploy", "--dry-run")
    assert "would create configmap/kubeface-settings" in printed and "would be uploaded" in printed
    assert api.writes == [] and kfp.state.versions == []
    first = told("deploy")
    assert "created configmap/kubeface-settings" in first and " uploaded" in first
    api.writes.clear()
    again = told("deploy")
    assert "nothing to change" in again and "is there already" in again and api.writes == []
    assert len(kfp.state.versions) == 1
    write_packages("face-finetuning", more=", description: other")
    told("deploy")
    assert len(kfp.state.versions) == 2 and api.writes == []
    assert "deleted configmap/kubeface-settings" in told("undeploy")
    assert not api.get("ConfigMap", "kubeface-settings", "kubeface")


def test_deploy_uploads_every_pipeline_that_is_compiled_or_those_named(
    api: KubernetesApi, kfp: KfpApi, told: Told, refused: Told
) -> None:
    assert refused("deploy").startswith("error: no compiled pipeline is in build/: ")
    write_packages("face-finetuning", "image-classification")
    told("deploy", "--package", "build/image-classification.yaml")
    assert [pipeline["display_name"] for pipeline in kfp.state.pipelines] == ["image-classification"]
    assert "pipeline face-finetuning-" in told("deploy")
    assert [pipeline["display_name"] for pipeline in kfp.state.pipelines] == ["image-classification", "face-finetuning"]
    assert len(kfp.state.versions) == 2


def test_deploy_changes_nothing_where_kubeflow_pipelines_refuses(
    api: KubernetesApi, kfp: KfpApi, refused: Told
) -> None:
    write_packages("face-finetuning")
    kfp.state.faults.append(Fault("GET", 403))
    assert refused("deploy").startswith(f"error: {kfp.url} forbids it")
    assert api.writes == []
