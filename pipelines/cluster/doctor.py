"""The command `doctor`: checks of what a deployment and a run need, from this machine; nothing is changed."""

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from pipelines.build.images import RECORD, read_images
from pipelines.build.pinning import pin
from pipelines.cluster.client import SERVICE, Cluster, connect
from pipelines.cluster.deployment import Kind, kinds, live, require_known
from pipelines.cluster.kubectl import Kubectl, one_line
from pipelines.cluster.manifests import (
    ImagesFlag,
    Name,
    NamespaceFlag,
    Object,
    OverlayFlag,
    find_overlay,
    namespace_of,
    render,
)
from pipelines.cluster.secret import SECRETS

SETTINGS = "kubeface-settings"
ARGO = "workflow-controller-configmap"
GPU = "nvidia.com/gpu"
TRAINJOB = ("trainer.kubeflow.org/v1alpha1", "TrainJob")
VERBS = ("get", "create", "patch", "delete")  # what server-side apply, its pruning and undeploy do with an object
STORE_SECONDS = 5
# https://kubernetes.io/docs/concepts/security/pod-security-admission, and the default class of a cluster
POD_SECURITY = "pod-security.kubernetes.io/enforce"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class Note(KubefaceError):
    """What is not needed for a deployment, or cannot be known from this machine."""


@dataclass
class Doctor:
    """The checks of one overlay on one cluster. Each returns its result as text, or raises what to do."""

    cluster: Cluster
    overlay: Path  # folder of the overlay that is to be deployed
    namespace: str = ""  # to use instead of the overlay's own
    images: Path = RECORD  # file that `kubeface push` writes
    objects: list[Object] = field(default_factory=list)
    known: dict[tuple[str, str], Kind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kubectl: Kubectl = self.cluster.kubectl()

    def lines(self) -> Iterator[str]:
        """`ok   …`, `FAIL …` or `note …` for each check, as it is done; what depends on a failed one is left out."""
        local = [("overlay", self.check_overlay), ("images", self.check_images), ("bucket", self.check_bucket)]
        remote = [
            ("rights", self.check_rights),
            ("namespace", self.check_namespace),
            ("secret", self.check_secret),
            ("storage class", self.check_storage_class),
            ("GPU nodes", self.check_gpus),
            ("Kubeflow Trainer", self.check_trainer),
            ("retries", self.check_retries),
        ]
        for name, check in local:
            yield _line(name, check)
        api = _line("Kubernetes", self.check_kubernetes)
        yield api
        if self.objects and api.startswith("ok"):
            for name, check in remote:
                yield _line(name, check)
        if self.cluster.host or api.startswith("ok"):
            yield _line("Kubeflow Pipelines", self.check_pipelines)

    def check_overlay(self) -> str:
        """kustomize renders it."""
        self.objects = render(self.kubectl, self.overlay, self.namespace)
        self.namespace = namespace_of(self.objects)
        return f"{self.overlay} has {len(self.objects)} objects for namespace {self.namespace}"

    def check_images(self) -> str:
        """They were pushed. Whether the nodes may pull them is not known before they do."""
        images = read_images(self.images) if self.images.exists() else {}
        pin(self.objects, images)
        todo = "run 'make images' and 'make push REGISTRY=…'"
        if not images:
            raise Note(f"{self.images} is not there, so that the steps' images go by their tag: {todo}")
        unpushed = sorted(name for name, image in images.items() if image.pinned.startswith("localhost/"))
        if unpushed:
            raise Note(f"{', '.join(unpushed)} are named localhost/…, which only this machine has: {todo}")
        return f"{len(images)} by digest (whether the nodes may pull them shows when they do)"

    def check_bucket(self) -> str:
        """The store answers this machine with the keys of the environment."""
        settings: dict[str, str] = next(
            (item["data"] for item in self.objects if item["metadata"]["name"] == SETTINGS), {}
        )
        bucket = os.environ.get("S3_BUCKET") or settings.get("S3_BUCKET") or "kubeface"
        if not os.environ.get("S3_ENDPOINT") or not os.environ.get("AWS_ACCESS_KEY_ID"):
            inside = settings.get("S3_ENDPOINT", "the overlay's")
            raise Note(
                "not looked at: set S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (the steps use "
                f"{inside}; kubectl port-forward reaches a store in the cluster)"
            )
        _check_port(objects.endpoint())
        objects.list_files(f"s3://{bucket}/.kubeface-doctor")  # names nothing; says that the bucket may be listed
        return f"{bucket} at {objects.endpoint()} can be listed"

    def check_kubernetes(self) -> str:
        """The API answers, and knows the kinds of the overlay."""
        done = self.kubectl.call("version", "--output=json")
        require(not done.returncode, one_line(done.stderr))
        versions = json.loads(done.stdout)
        self.known = kinds(self.kubectl)
        require_known(self.known, self.objects)
        server, client = (versions[name]["gitVersion"] for name in ("serverVersion", "clientVersion"))
        return f"{server} answers kubectl {client}"

    def check_rights(self) -> str:
        """This account may do what a deployment does (one SelfSubjectAccessReview for each verb and kind)."""
        wanted = sorted({(Name.of(item).api_version, item["kind"]) for item in self.objects} | {("v1", "ConfigMap")})
        reviews = [self._review(verb, api_version, kind) for api_version, kind in wanted for verb in VERBS]
        # One list: kubectl 1.32 takes no documents of JSON one after the other.
        together = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
        answers = self.kubectl.objects("create", "--validate=false", "--filename=-", stdin=together)
        missing: dict[str, list[str]] = {}
        for answer in answers:
            attributes = answer["spec"]["resourceAttributes"]
            if not answer["status"]["allowed"]:
                missing.setdefault(attributes["verb"], []).append(attributes["resource"])
        rights = "; ".join(f"{verb} {', '.join(resources)}" for verb, resources in missing.items())
        require(not missing, f"this account may not {rights} (namespace {self.namespace}): ask for these rights")
        return f"{', '.join(VERBS)} of {len(wanted)} kinds"

    def _review(self, verb: str, api_version: str, kind: str) -> Object:
        known = self.known[api_version, kind]
        attributes = {"verb": verb, "resource": known.plural, "group": api_version.rpartition("/")[0]}
        attributes |= {"namespace": self.namespace} if known.namespaced else {}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }

    def check_namespace(self) -> str:
        """It exists or will be made, and enforces a pod security standard."""
        name = Name("v1", "Namespace", "", self.namespace)
        existing = live(self.kubectl, [name]).get(name)
        planned = next((item for item in self.objects if Name.of(item) == name), None)
        item = existing or planned
        if item is None:
            raise KubefaceError(f"{self.namespace} does not exist: kubectl create namespace {self.namespace}")
        level = item["metadata"].get("labels", {}).get(POD_SECURITY)
        if level != "restricted":
            raise Note(
                f"{self.namespace} holds pods to {level or 'no standard'}: the steps need no more than 'restricted', "
                f"set the label {POD_SECURITY}"
            )
        return f"{self.namespace} {'is there' if existing else 'will be made'}, pod security {level}"

    def check_secret(self) -> str:
        """It has the keys that the steps refer to; their values are not shown."""
        template = "--output=go-template={{range $key, $value := .data}}{{$key}} {{end}}"
        needed = [secret for secret in SECRETS if not secret.optional]
        for secret in needed:
            keys = self.kubectl.run("get", "secret", secret.name, "-n", self.namespace, "--ignore-not-found", template)
            missing = sorted(secret.keys.keys() - set(keys.split()))
            require(not missing, f"{secret.name} lacks {', '.join(missing)} in {self.namespace}: run 'make secret'")
        return ", ".join(f"{secret.name} has {' and '.join(sorted(secret.keys))}" for secret in needed)

    def check_storage_class(self) -> str:
        """Those that the overlay names exist, or there is a default."""
        classes = {item["metadata"]["name"]: item for item in self.kubectl.objects("get", "storageclasses")}
        default = [
            name
            for name, item in classes.items()
            if item["metadata"].get("annotations", {}).get(DEFAULT_CLASS, "") == "true"
        ]
        wanted = {claim["spec"].get("storageClassName") for claim in self._claims()}
        missing = sorted(name for name in wanted if name and name not in classes)
        known = ", ".join(sorted(classes)) or "none"
        require(
            not missing, f"{', '.join(missing)} does not exist (there is {known}): set STORAGE_CLASS in the overlay"
        )
        require(bool(default) or None not in wanted, f"no default among {known}: set STORAGE_CLASS in the overlay")
        return ", ".join(sorted(name or default[0] for name in wanted)) or "none is needed"

    def _claims(self) -> Iterator[Object]:
        for item in self.objects:
            if item["kind"] == "PersistentVolumeClaim":
                yield item
            yield from item.get("spec", {}).get("volumeClaimTemplates", ()) if item["kind"] == "StatefulSet" else ()

    def check_gpus(self) -> str:
        """How many GPUs the nodes offer to pods."""
        try:
            nodes = self.kubectl.objects("get", "nodes")
        except KubefaceError as error:
            raise Note(f"not looked at: {error}") from error
        counts = [int(node.get("status", {}).get("allocatable", {}).get(GPU, 0)) for node in nodes]
        if not any(counts):
            raise Note(f"no node of {len(nodes)} offers {GPU}: fine-tuning needs GPUs, or device=cpu and patience")
        return f"{sum(counts)} GPUs on {sum(map(bool, counts))} of {len(nodes)} nodes"

    def check_trainer(self) -> str:
        """The cluster knows TrainJob."""
        if TRAINJOB not in self.known:
            raise Note("it is not installed: fine-tuning on more than one node (num_nodes) needs it")
        return f"{TRAINJOB[1]} ({TRAINJOB[0]})"

    def check_retries(self) -> str:
        """Argo's defaults, which decide what a task's retries are for: KFP's own hold them to pods that were lost."""
        name = Name("v1", "ConfigMap", self.cluster.system_namespace, ARGO)
        try:
            defaults = yaml.safe_load(live(self.kubectl, [name])[name]["data"]["workflowDefaults"])
            policy = defaults["spec"]["templateDefaults"]["retryStrategy"]["retryPolicy"]
        except (KubefaceError, KeyError, TypeError, yaml.YAMLError):
            raise Note(f"Argo's defaults cannot be seen from here (config map {ARGO})") from None
        if policy not in ("Always", "OnFailure"):
            raise Note(
                "a step that ends with an error is not tried again, as where the store is away when KFP uploads what "
                f"it made: have an administrator set retryPolicy: Always in workflowDefaults of the config map {ARGO}, "
                "or resume such a run"
            )
        return "lost pods and steps that end with an error are tried again"

    def check_pipelines(self) -> str:
        """Its API answers this account, and its version is 2."""
        with connect(self.cluster.model_copy(update={"namespace": self.namespace})) as client:
            client.list_experiments(page_size=1, namespace=client.namespace or None)
            kind = f"serves {'several users' if client.namespace else 'one user'}"
        version = self._pipelines_version()
        require(not version.startswith("1."), f"it is version {version}: install 2.2 or newer")
        return f"{version or 'its version cannot be seen from here'}, {kind}"

    def _pipelines_version(self) -> str:
        """The tag of its API server's image; empty where that cannot be seen."""
        name = Name("apps/v1", "Deployment", self.cluster.system_namespace, SERVICE)
        try:
            deployment = live(self.kubectl, [name])[name]
        except (KubefaceError, KeyError):
            return ""
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        tag = re.search(r":([\w.-]+)(@|$)", image)
        return tag[1] if tag else ""


def _check_port(url: str) -> None:
    """Raises KubefaceError unless something listens there: `storage` would wait for a store that does not answer."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(address, timeout=STORE_SECONDS).close()
    except OSError as error:
        raise KubefaceError(
            f"nothing answers at {url} ({error}): check S3_ENDPOINT, or forward a port to it"
        ) from error


def _line(name: str, check: Callable[[], str]) -> str:
    try:
        return f"ok   {name}: {check()}"
    except Note as error:
        return f"note {name}: {error}"
    except KubefaceError as error:
        return f"FAIL {name}: {error}"


def doctor(*, overlay: OverlayFlag = "dev", namespace: NamespaceFlag = "", images: ImagesFlag = RECORD) -> None:
    """Looks at what a deployment and a run need, a line each; nothing is changed."""
    failed = 0
    for line in Doctor(Cluster.from_environment(), find_overlay(overlay), namespace, images).lines():
        print(line, flush=True)
        failed += line.startswith("FAIL")
    require(not failed, f"{failed} of the above must be put right first")
