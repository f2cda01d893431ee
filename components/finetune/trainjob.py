"""A training on several nodes: a TrainJob of Kubeflow Trainer, made, watched and removed by the step.

Each node's pod is made after the step's own: its image, S3 settings, node selector, tolerations and service account.
API: trainer.kubeflow.org/v1alpha1 of Kubeflow Trainer 2.2; earlier ones have no runtimePatches
(pkg/apis/trainer/v1alpha1/trainjob_types.go).
"""

import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from components.finetune.nodes import Nodes
from kubeface.finetune.launch import first_error, shown
from kubeface.runtime.errors import KubefaceError

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
POLL_SECONDS = 5.0
PATIENCE_SECONDS = 300.0  # for which the API may be away: a control plane that is upgraded is back by then
REQUEST_SECONDS = 30
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# What of the step's environment the nodes need: the store, published weights, the image's name, MLflow.
NEEDED = ("AWS_", "S3_", "KUBEFACE_", "MLFLOW_")
FROM_THE_CONFIG_MAP = ("S3_ENDPOINT", "KUBEFACE_WEIGHTS_MIRROR")  # a pod's `env` does not list what `envFrom` gives
# How Trainer's torch-distributed runtime calls the replicated job and its container (manifests/base/runtimes).
NODE = "node"
# Labels of the pods: JobSet's name, and the index that Kubernetes gives each pod of an indexed Job.
JOBSET, INDEX = "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-completion-index"
Json = dict[str, Any]
Result = TypeVar("Result")


def run_trainjob(nodes: Nodes, job: str, api: client.ApiClient | None = None, namespace: str = "") -> None:
    """Runs kubeface.finetune.node on several nodes, and waits for them.

    The log of the first node is shown as it comes. The TrainJob is deleted when it is done, when it fails, and when
    the step is ended (SIGTERM); where nothing of the step is left to do so, it goes with the step's pod, its owner.

    Args:
        job: argument of kubeface.finetune.node.
        api: of Kubernetes; None for the cluster that this pod is in.
        namespace: of the step's pod; empty for the one that its service account names.

    Raises:
        KubefaceError: Trainer refuses or is not there, or a node failed.
    """
    cluster = Cluster(api or _in_cluster(), namespace or NAMESPACE_FILE.read_text("utf-8").strip())
    with cluster.running(make_trainjob(cluster.own_pod(), nodes, job)) as name:
        cluster.wait(name, nodes.num_nodes)


def _in_cluster() -> client.ApiClient:
    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise KubefaceError(f"num_nodes is above 1, and this is no pod of a cluster ({error}): set it to 1") from None
    return client.ApiClient()


def make_trainjob(pod: Json, nodes: Nodes, job: str) -> Json:
    """The TrainJob that trains on several nodes, made after the step's own pod as the API gives it."""
    spec, owner = pod["spec"], pod["metadata"]
    container = next((one for one in spec["containers"] if one["name"] == "main"), spec["containers"][0])
    resources = nodes.quantities()
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": f"finetune-{owner['uid'][:8]}",
            "labels": {"app.kubernetes.io/part-of": "kubeface", "app.kubernetes.io/component": "finetune"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": owner["name"], "uid": owner["uid"]}],
        },
        "spec": {
            "runtimeRef": {"name": nodes.training_runtime},
            "trainer": {
                "image": container["image"],
                "command": ["python", "-m", "torch.distributed.run", "-m", "kubeface.finetune.node"],
                "args": [job],
                "env": _environment(container),
                "numNodes": nodes.num_nodes,
                "numProcPerNode": nodes.gpus(),
                "resourcesPerNode": {"requests": resources, "limits": resources},
            },
            "runtimePatches": [{"manager": "kubeface.dev/finetune", "trainingRuntimeSpec": _runtime_patch(spec)}],
        },
    }


def _environment(container: Json) -> list[Json]:
    """What the nodes need of the step's environment."""
    env = {one["name"]: one for one in container.get("env", []) if one["name"].startswith(NEEDED)}
    for name in FROM_THE_CONFIG_MAP:
        if name in os.environ:
            env[name] = {"name": name, "value": os.environ[name]}
    return list(env.values())


def _runtime_patch(spec: Json) -> Json:
    """A patch that makes the nodes' pods resemble the step's own, in the place where Trainer wants it."""
    volumes = {"shared-memory": ("/dev/shm", {"medium": "Memory"}), "scratch": ("/tmp", {})}  # noqa: S108
    patch = {name: spec[name] for name in ("serviceAccountName", "nodeSelector", "tolerations") if spec.get(name)} | {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": name, "emptyDir": kind} for name, (_, kind) in volumes.items()],
        "containers": [
            {
                "name": NODE,
                "volumeMounts": [{"name": name, "mountPath": path} for name, (path, _) in volumes.items()],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }
    # A service mesh's sidecar would keep the pods from ending.
    template = {"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}, "spec": patch}
    return {"template": {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": template}}}]}}}


class Cluster:
    """What the step does with the cluster and the namespace that it runs in."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.core, self.jobs = client.CoreV1Api(api), client.CustomObjectsApi(api)
        self.shown_to, self.shown_at = "", -math.inf  # the time that the last line shown bears, and when it was read
        self.place = {
            "group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL,
            "_request_timeout": REQUEST_SECONDS,
        }  # fmt: skip

    def own_pod(self) -> Json:
        """The pod that this process runs in, whose name is its host's."""
        name = os.environ.get("HOSTNAME", "")
        read = self.core.read_namespaced_pod
        asked = f"pod {name} (the step's own)"
        pod = self._asked(asked, lambda: read(name, self.namespace, _request_timeout=REQUEST_SECONDS))
        return dict(self.api.sanitize_for_serialization(pod))

    @contextmanager
    def running(self, body: Json) -> Iterator[str]:
        """Makes a TrainJob, yields its name, and deletes it whatever happens."""
        name = body["metadata"]["name"]
        before = signal.signal(signal.SIGTERM, _end)
        try:
            create = self.jobs.create_namespaced_custom_object
            self._asked(f"TrainJob {name}", lambda: create(**self.place, body=body), patient=False)
            print(f"finetune: made TrainJob {name} of {body['spec']['trainer']['numNodes']} nodes", flush=True)
            try:
                yield name
            finally:
                self._delete(name)
        finally:
            signal.signal(signal.SIGTERM, before)

    def _delete(self, name: str) -> None:
        try:
            self.jobs.delete_namespaced_custom_object(**self.place, name=name, propagation_policy="Background")
            print(f"finetune: deleted TrainJob {name}", flush=True)
        except (ApiException, HTTPError) as error:
            if getattr(error, "status", 0) != 404:
                said = f"is still there, delete it ({_reason(error)}); it goes with this pod"
                print(f"finetune: TrainJob {name} {said}", flush=True)

    def wait(self, name: str, count: int) -> None:
        """Shows the first node's log until all nodes are done; raises KubefaceError with a failed node's last words."""
        active, get = -1, self.jobs.get_namespaced_custom_object
        while True:
            status = self._asked(f"TrainJob {name}", lambda: get(**self.place, name=name)).get("status", {})
            running = sum(entry.get("active", 0) for entry in status.get("jobsStatus", []) if entry["name"] == NODE)
            if running != active:
                print(f"finetune: TrainJob {name}: {'running' if running else 'waiting for its nodes'}", flush=True)
                active = running
            self._show_log(name)
            states = {entry["type"]: entry for entry in status.get("conditions", []) if entry["status"] == "True"}
            if "Failed" in states:
                said = self._last_words(name, count) or states["Failed"].get("message") or "it says no reason"
                raise KubefaceError(f"TrainJob {name} failed: {said}")
            if "Complete" in states:
                return
            time.sleep(POLL_SECONDS)

    def _show_log(self, name: str) -> None:
        """Prints what the first node said since the last look, with a minute to spare for clocks that differ."""
        for pod in self._pods(name, f",{INDEX}=0")[-1:]:
            with suppress(ApiException, HTTPError):  # it has not started yet, or the next look gets it
                asked = time.monotonic()
                since = None if math.isinf(self.shown_at) else int(asked - self.shown_at) + 60
                text = self._log(pod.metadata.name, timestamps=True, since_seconds=since)
                lines = [line.partition(" ")[::2] for line in text.splitlines()]
                new = [(when, line) for when, line in lines if when > self.shown_to]
                deque(shown(line for _, line in new), maxlen=0)
                self.shown_to, self.shown_at = new[-1][0] if new else self.shown_to, asked

    def _last_words(self, name: str, count: int) -> str:
        """What the nodes that failed left: their termination message, else the first error in their log."""
        for pod in self._pods(name):
            states = [one.state.terminated for one in pod.status.container_statuses or [] if one.state.terminated]
            for state in states:
                if state.exit_code:
                    said = (state.message or "").strip()
                    with suppress(ApiException, HTTPError):
                        said = said or first_error(self._log(pod.metadata.name).splitlines())
                    number = (pod.metadata.labels or {}).get(INDEX, "?")
                    return f"node {number} of {count}: {said or f'exit code {state.exit_code} ({state.reason})'}"
        return ""

    def _pods(self, name: str, more: str = "") -> list[Any]:
        """Pods of a TrainJob, the youngest last; none while the API does not answer."""
        with suppress(ApiException, HTTPError):
            found = self.core.list_namespaced_pod(
                self.namespace, label_selector=f"{JOBSET}={name}{more}", _request_timeout=REQUEST_SECONDS
            )
            return sorted(found.items, key=lambda pod: str(pod.metadata.creation_timestamp))
        return []

    def _log(self, pod: str, **options: Any) -> str:
        raw = self.core.read_namespaced_pod_log(
            pod, self.namespace, container=NODE, _preload_content=False, _request_timeout=REQUEST_SECONDS, **options
        )
        return str(raw.data.decode("utf-8", "replace"))

    def _asked(self, what: str, ask: Callable[[], Result], patient: bool = True) -> Result:
        """Asks the API, for a while again where it is away or overloaded.

        Raises:
            KubefaceError: it refuses, or stays away.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return ask()
            except (ApiException, HTTPError) as error:
                passing = isinstance(error, HTTPError) or error.status in (0, 429) or error.status >= 500
                if not (patient and passing and time.monotonic() < end):
                    raise KubefaceError(f"{what}: {_reason(error)}") from None
                time.sleep(POLL_SECONDS)


def _reason(error: Exception) -> str:
    """Why the API did not do it, and what to do, in one line."""
    if not isinstance(error, ApiException):
        return f"Kubernetes does not answer ({type(error).__name__})"
    try:
        said = " ".join(str(json.loads(error.body or "")["message"]).split())
    except (ValueError, KeyError, TypeError):
        said = str(error.reason)
    advice = {
        401: "the service account's token is not accepted",
        403: "the step's service account may not: start the run with kubeface-trainer of manifests/base",
        404: "it is not there: install Kubeflow Trainer 2.2 or later, or see who deleted it",
        409: "it exists already: delete it",
    }
    return f"{advice.get(error.status, f'Kubernetes answered {error.status}')} ({said})"


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the step as SIGTERM does, by way of the code that cleans up."""
    raise SystemExit(128 + number)
