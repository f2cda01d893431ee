"""The real kubectl against a stub API server: what is made, changed, removed, kept and refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeface.runtime.errors import KubefaceError
from pipelines.build.images import Image
from pipelines.build.pinning import pin
from pipelines.cluster import kubectl as kubectl_module
from pipelines.cluster import manifests as module
from pipelines.cluster.deployment import apply_objects, delete_objects, difference, inventory
from pipelines.cluster.kubectl import Kubectl, one_line
from pipelines.cluster.manifests import Name, find_overlay, render
from tests.support.stubs.kubernetes_api import HANG, KubernetesApi
from tests.support.stubs.kubernetes_objects import Object, thing
from tests.support.stubs.tls import make_tls


def config(name: str, **data: str) -> Object:
    return thing("ConfigMap", name, data=data)


def live_config(name: str, **data: str) -> Object:
    return thing("ConfigMap", name, namespace="kubeface", data=data)


NAMESPACE = thing("Namespace", "kubeface")
CLAIM = thing(
    "PersistentVolumeClaim",
    "weights",
    spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}},
)
PRIORITY = thing("PriorityClass", "store", "scheduling.k8s.io/v1", value=1000)
SERVICE = thing("Service", "store", spec={"ports": [{"port": 8333}], "selector": {"app": "store"}})


def job(image: str) -> Object:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": image}]}
    return thing("Job", "bucket", "batch/v1", spec={"template": {"spec": pod}})


def overlay(folder: Path, *objects: Object) -> Path:
    """A kustomization with some objects."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all.yaml").write_text(yaml.safe_dump_all(objects), "utf-8")
    (folder / "kustomization.yaml").write_text("namespace: kubeface\nresources: [all.yaml]\n", "utf-8")
    return folder


def rendered(tmp_path: Path, *objects: Object) -> list[Object]:
    return render(Kubectl(), overlay(tmp_path / "overlay", *objects))


def test_a_second_deployment_writes_nothing_and_says_so(cluster: KubernetesApi, tmp_path: Path) -> None:
    objects = rendered(tmp_path, NAMESPACE, config("settings", a="1"), CLAIM, PRIORITY, SERVICE, job("a"))
    first = apply_objects(Kubectl(), objects)
    assert len(first.created) == first.total == 6
    made = {f"{item['kind']}/{item['metadata']['name']}" for item in objects}
    assert cluster.names() == made | {"ConfigMap/kubeface-deployed"}
    cluster.writes.clear()
    second = apply_objects(Kubectl(), objects)
    assert cluster.writes == []
    assert second.lines() == ["nothing to change: all 6 objects are as they should be"]


def test_a_change_writes_only_what_differs(cluster: KubernetesApi, tmp_path: Path) -> None:
    apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("settings", a="1", b="1"), SERVICE))
    cluster.writes.clear()
    outcome = apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("settings", a="2"), SERVICE))
    assert cluster.writes == [("update", "ConfigMap/settings")]
    assert (cluster.get("ConfigMap", "settings", "kubeface") or {})["data"] == {"a": "2"}
    assert "changed configmap/settings" in outcome.lines()


def test_what_a_controller_writes_meanwhile_is_no_change(cluster: KubernetesApi, tmp_path: Path) -> None:
    objects = rendered(tmp_path, NAMESPACE, SERVICE)
    apply_objects(Kubectl(), objects)
    status = thing("Service", "store", namespace="kubeface", spec={}, status={"loadBalancer": {}})
    answer = cluster.answer

    def busy(method: str, url: str, body: bytes, headers: Any) -> tuple[int, Object]:
        if method == "PATCH" and "services" in url:
            cluster.put(status, manager="controller")
        return answer(method, url, body, headers)

    cluster.answer = busy  # type: ignore[method-assign]
    assert apply_objects(Kubectl(), objects).changed == ()
    assert "controller" in str(cluster.get("Service", "store", "kubeface"))


def test_what_the_overlay_no_longer_has_is_removed_unless_it_holds_data(cluster: KubernetesApi, tmp_path: Path) -> None:
    apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("a"), config("b"), CLAIM, PRIORITY))
    lines = apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("a"))).lines()
    left = {"Namespace/kubeface", "ConfigMap/a", "PersistentVolumeClaim/weights", "ConfigMap/kubeface-deployed"}
    assert cluster.names() == left
    assert "deleted configmap/b" in lines and "deleted priorityclass.scheduling.k8s.io/store" in lines
    assert "kept    persistentvolumeclaim/weights, which the overlay no longer has: it may hold data" in lines
    # Kept, and not forgotten: undeploy knows it still.
    assert Name("v1", "PersistentVolumeClaim", "kubeface", "weights") in inventory(Kubectl(), "kubeface")


def test_what_was_there_before_is_never_deleted(cluster: KubernetesApi, tmp_path: Path) -> None:
    cluster.put(NAMESPACE, live_config("theirs", a="1"))
    apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("theirs", a="1"), config("ours")))
    apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("other")))
    assert cluster.names() >= {"ConfigMap/theirs", "ConfigMap/other"} and "ConfigMap/ours" not in cluster.names()
    delete_objects(Kubectl(), "kubeface", with_data=True)
    assert cluster.names() == {"Namespace/kubeface", "ConfigMap/theirs"}


def test_what_somebody_made_anew_under_our_name_is_left(cluster: KubernetesApi, tmp_path: Path) -> None:
    apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("a", a="1")))
    del cluster.objects["configmaps", "kubeface", "a"]
    cluster.put(live_config("a", a="mine"))
    assert "left    configmap/a: somebody else made it" in delete_objects(Kubectl(), "kubeface")
    assert cluster.get("ConfigMap", "a", "kubeface")


def test_a_changed_job_is_made_anew(cluster: KubernetesApi, tmp_path: Path) -> None:
    apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, job("a")))
    before = (cluster.get("Job", "bucket", "kubeface") or {})["metadata"]["uid"]
    outcome = apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, job("b")))
    after = cluster.get("Job", "bucket", "kubeface") or {}
    assert after["metadata"]["uid"] != before
    assert after["spec"]["template"]["spec"]["containers"][0]["image"] == "b"
    assert "changed job.batch/bucket" in outcome.lines()


def test_a_dry_run_shows_the_difference_and_writes_nothing(cluster: KubernetesApi, tmp_path: Path) -> None:
    objects = rendered(tmp_path, NAMESPACE, config("a", x="1"), config("b"))
    made = ("namespace/kubeface", "configmap/a", "configmap/b")
    assert difference(Kubectl(), objects) == [f"would create {name}" for name in made]
    apply_objects(Kubectl(), objects)
    cluster.writes.clear()
    assert difference(Kubectl(), objects) == ["nothing to change"]
    lines = difference(Kubectl(), rendered(tmp_path, NAMESPACE, config("a", x="2"), config("c")))
    assert "would create configmap/c" in lines and "would delete configmap/b, which the overlay no longer has" in lines
    assert '-  x: "1"' in lines and '+  x: "2"' in lines
    assert "--- in the cluster: v1.ConfigMap.kubeface.a" in lines
    assert cluster.writes == []


def test_undeploy_keeps_data_unless_told_and_twice_is_fine(cluster: KubernetesApi, tmp_path: Path) -> None:
    kubectl = Kubectl()
    apply_objects(kubectl, rendered(tmp_path, NAMESPACE, config("a"), CLAIM))
    lines = delete_objects(kubectl, "kubeface")
    assert "deleted configmap/a" in lines
    assert "kept    persistentvolumeclaim/weights: --with-data (make: ALL=1) deletes it with its data" in lines
    assert cluster.names() == {"Namespace/kubeface", "PersistentVolumeClaim/weights", "ConfigMap/kubeface-deployed"}
    assert not [line for line in delete_objects(kubectl, "kubeface") if "deleted" in line]
    # What `make secret` and a stateful set made carries the label and is in no overlay.
    secret = thing("Secret", "mlpipeline-minio-artifact")
    secret["metadata"] |= {"namespace": "kubeface", "labels": {"app.kubernetes.io/managed-by": "kubeface"}}
    cluster.put(secret)
    cluster.writes.clear()
    delete_objects(kubectl, "kubeface", with_data=True)
    assert ("delete", "Secret/mlpipeline-minio-artifact") in cluster.writes
    assert cluster.writes[-1] == ("delete", "Namespace/kubeface")
    assert cluster.names() == set()
    assert delete_objects(kubectl, "kubeface", with_data=True) == ["nothing is deployed in namespace kubeface"]


def test_a_field_of_another_manager_is_refused_unless_forced(cluster: KubernetesApi, tmp_path: Path) -> None:
    objects = rendered(tmp_path, NAMESPACE, config("a", x="1"), config("b"))
    apply_objects(Kubectl(), objects)
    cluster.put(live_config("a", x="by hand"), manager="kubectl-edit")
    with pytest.raises(KubefaceError) as refused:
        apply_objects(Kubectl(), objects)
    assert str(refused.value) == (
        'configmap/a cannot be applied: Apply failed with 1 conflict: conflict with "kubectl-edit": .data.x: leave the '
        "field to that manager (take it out of the overlay), or take it over with --force (make: FORCE=1)"
    )
    assert (cluster.get("ConfigMap", "a", "kubeface") or {})["data"] == {"x": "by hand"}
    apply_objects(Kubectl(), objects, force=True)
    assert (cluster.get("ConfigMap", "a", "kubeface") or {})["data"] == {"x": "1"}


def test_an_empty_value_of_another_manager_is_filled(cluster: KubernetesApi, tmp_path: Path) -> None:
    """KFP installs kfp-launcher with an empty defaultPipelineRoot."""
    cluster.put(thing("Namespace", "kubeface"))
    cluster.put(live_config("a", x=""), manager="kubectl-client-side-apply")
    objects = rendered(tmp_path, NAMESPACE, config("a", x="s3://bucket/kfp", more="1"))
    assert any("s3://bucket/kfp" in line for line in difference(Kubectl(), objects))
    apply_objects(Kubectl(), objects)
    assert (cluster.get("ConfigMap", "a", "kubeface") or {})["data"] == {"x": "s3://bucket/kfp", "more": "1"}


def test_a_deployment_that_breaks_off_is_gone_on_with(cluster: KubernetesApi, tmp_path: Path) -> None:
    cluster.faults.append((r"PATCH .*/services/", 500))
    with pytest.raises(KubefaceError, match=r"^service/store cannot be applied: .*InternalError"):
        apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("a"), SERVICE))
    cluster.faults.clear()
    # The overlay lost what had been made until then: it is known, and removed.
    apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, SERVICE))
    assert cluster.names() == {"Namespace/kubeface", "Service/store", "ConfigMap/kubeface-deployed"}


FAULTS = {
    401: "the cluster does not accept the credentials: renew the token",
    403: "the account may not do this: ask for the rights that 'make doctor' lists",
    404: "could not find the requested resource",
    409: "FORCE=1|already|apply your changes",
    500: "the API server is in trouble: try again later",
    503: "the API server is in trouble: try again later",
    HANG: "does not answer in time: check the network",
}
READ, WRITE = "GET .*/configmaps/", "PATCH .*/configmaps/"


# That an object to be read is not there (404) is no fault.
@pytest.mark.parametrize(("request_", "status"), [(READ, s) for s in FAULTS if s != 404] + [(WRITE, s) for s in FAULTS])
def test_each_fault_is_one_clear_line(
    cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: str, status: int
) -> None:
    monkeypatch.setattr(kubectl_module, "REQUEST_SECONDS", 2)
    objects = rendered(tmp_path, NAMESPACE, config("a"))
    cluster.faults.append((request_, status))
    with pytest.raises(KubefaceError, match=FAULTS[status]) as error:
        apply_objects(Kubectl(), objects)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_cluster_that_cannot_be_asked_is_one_clear_line(
    cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(tmp_path, NAMESPACE, config("a"))
    path = tmp_path / "kubeconfig"
    for change, words in (
        ({"url": "https://127.0.0.1:1"}, "no Kubernetes API answers: check KUBECONFIG"),
        ({"token": "another"}, "does not accept the credentials"),
        ({"ca": make_tls(tmp_path / "other").ca}, "certificate is not trusted: check certificate-authority"),
    ):
        cluster.kubeconfig(path, **change)
        with pytest.raises(KubefaceError, match=words) as error:
            apply_objects(Kubectl(), objects)
        assert "\n" not in str(error.value)
    cluster.kubeconfig(path)
    with pytest.raises(KubefaceError, match=r"'kubectl config get-contexts' in KUBE_CONTEXT"):
        apply_objects(Kubectl(context="nowhere"), objects)
    monkeypatch.setattr(kubectl_module, "COMMAND_SECONDS", 0.01)
    with pytest.raises(KubefaceError, match=r"^kubectl api-resources took longer than 0.01 seconds"):
        apply_objects(Kubectl(), objects)


def test_a_namespace_that_was_there_is_left_as_it_is(cluster: KubernetesApi, tmp_path: Path) -> None:
    cluster.put(NAMESPACE)
    ours = thing("Namespace", "kubeface")
    ours["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
    objects = rendered(tmp_path, ours, thing("ConfigMap", "settings"))
    left = "namespace/kubeface as it is: it was there before"
    assert difference(Kubectl(), objects) == [f"would leave {left}", "would create configmap/settings"]
    lines = apply_objects(Kubectl(), objects).lines()
    assert lines[-2:] == [f"left    {left}", "done: 1 objects are as they should be"]
    assert "labels" not in (cluster.get("Namespace", "kubeface") or {})["metadata"]
    assert difference(Kubectl(), objects) == [f"would leave {left}", "nothing to change"]
    delete_objects(Kubectl(), "kubeface", with_data=True)
    assert cluster.names() == {"Namespace/kubeface"}


def test_an_object_that_is_invalid_is_named(cluster: KubernetesApi, tmp_path: Path) -> None:
    bad = thing("Service", "store", spec={"ports": [{"port": "many"}]})
    with pytest.raises(KubefaceError, match=r'^service/store cannot be applied: .*"store" is invalid'):
        apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, bad))
    unknown = thing("Service", "store", spec={"ports": [{"port": 1, "portt": 2}]})
    with pytest.raises(KubefaceError, match=r'unknown field "spec.ports.0.portt".*: correct the overlay'):
        apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, unknown))


def test_a_kind_that_the_cluster_does_not_know_stops_before_anything_is_made(
    cluster: KubernetesApi, tmp_path: Path
) -> None:
    search = thing("Experiment", "search", "kubeflow.org/v1beta1")
    default = thing("PodDefault", "s3", "kubeflow.org/v1alpha1", spec={"selector": {}})
    objects = rendered(tmp_path, NAMESPACE, default, search)
    said = r"does not know Experiment \(kubeflow.org/v1beta1\): install what brings it"
    with pytest.raises(KubefaceError, match=said):
        apply_objects(Kubectl(), objects)
    assert cluster.writes == []
    assert "unknown to the cluster: Experiment (kubeflow.org/v1beta1)" in difference(Kubectl(), objects)


def test_a_namespace_that_is_not_there_is_one_clear_line(cluster: KubernetesApi, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match='namespaces "kubeface" not found: create the namespace'):
        apply_objects(Kubectl(), rendered(tmp_path, config("a")))


def test_a_damaged_inventory_deletes_nothing(cluster: KubernetesApi, tmp_path: Path) -> None:
    apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("a")))
    cluster.put(live_config("kubeface-deployed", objects="what is this\n"))
    with pytest.raises(KubefaceError, match="config map kubeface-deployed in namespace kubeface is damaged"):
        apply_objects(Kubectl(), rendered(tmp_path, NAMESPACE, config("b")))
    assert cluster.get("ConfigMap", "a", "kubeface")


def test_the_namespace_can_be_another_unless_the_overlay_names_hosts_in_its_own(tmp_path: Path) -> None:
    folder = overlay(tmp_path / "one", NAMESPACE, config("a", S3_ENDPOINT="http://store:8333"))
    moved = render(Kubectl(), folder, "team-a")
    namespaces = {item["kind"]: item["metadata"].get("namespace") for item in moved}
    assert namespaces == {"Namespace": None, "ConfigMap": "team-a"}
    assert moved[0]["metadata"]["name"] == "team-a"
    fixed = overlay(tmp_path / "two", config("a", S3_ENDPOINT="http://store.kubeface.svc:8333"))
    assert render(Kubectl(), fixed, "kubeface")
    with pytest.raises(KubefaceError, match=r"configmap/a of .*two names a host in namespace kubeface"):
        render(Kubectl(), fixed, "team-a")


def test_an_overlay_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERLAYS", tmp_path)
    folder = overlay(tmp_path / "dev", config("a"))
    assert find_overlay("dev") == folder and find_overlay(str(folder)) == folder
    with pytest.raises(KubefaceError, match=r"there is no overlay 'prod': choose one of .* \(dev\)"):
        find_overlay("prod")
    (folder / "all.yaml").unlink()
    with pytest.raises(KubefaceError, match=r"^kubectl kustomize: accumulating .*dev/all.yaml") as error:
        render(Kubectl(), folder)
    assert "\n" not in str(error.value)
    with pytest.raises(KubefaceError, match="must have one namespace, this one has a, b"):
        apply_objects(Kubectl(), [thing("ConfigMap", "a", namespace=name) for name in "ab"])


@pytest.mark.parametrize("name", ["dev", "existing", "multi-user"])
def test_the_overlays_of_this_project_are_taken_and_taken_back(cluster: KubernetesApi, name: str) -> None:
    kubectl = Kubectl()
    overlay = Path(__file__).parents[3] / "manifests" / "overlays" / name
    store = Image(image="registry/kubeface/store:1", digest=f"sha256:{'0' * 64}", size=1)
    objects = pin(render(kubectl, overlay), {"store": store})
    if not any(item["kind"] == "Namespace" for item in objects):
        cluster.put(thing("Namespace", "kubeface"))
    assert len(apply_objects(kubectl, objects).created) == len(objects)
    cluster.writes.clear()
    assert apply_objects(kubectl, objects).lines()[0].startswith("nothing to change") and cluster.writes == []
    delete_objects(kubectl, "kubeface", with_data=True)
    assert cluster.names() == ({"Namespace/kubeface"} if name == "multi-user" else set())


def test_no_kubectl_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(KubefaceError, match=r"^kubectl is missing: install it .* or run 'make setup'$"):
        Kubectl().run("version")


def test_one_line_drops_what_the_log_library_says() -> None:
    text = 'E1122 21:05:17.452857 17548 memcache.go:381] "Couldn\'t get"\nWarning: old\nerror: the thing\nis broken\n'
    assert one_line(text) == "the thing is broken"
    assert one_line("") == "it says nothing"
