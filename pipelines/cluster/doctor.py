"""The command `doctor`: checks of what a deployment and a run need, from this machine; nothing is changed."""

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import kfp_server_api
import urllib3

from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from pipelines.build.images import RECORD, read_images
from pipelines.build.pinning import pin
from pipelines.cluster.client import SERVICE, Cluster, connect, request_error
from pipelines.cluster.deployment import Kind, kinds, live
from pipelines.cluster.kubectl import Kubectl, one_line
from pipelines.cluster.manifests import Name, Object, find_overlay, namespace_of, render
from pipelines.cluster.secret import SECRETS

SETTINGS = "kubeface-settings"
GPU = "nvidia.com/gpu"
TRAINJOB = ("trainer.kubeflow.org/v1alpha1", "TrainJob")
VERBS = ("get", "create", "patch", "delete")  # what server-side apply, its pruning and undeploy do with an object
STORE_SECONDS = 5
# https://kubernetes.io/docs/concepts/security/pod-security-admission, and the default class of a cluster
POD_SECURITY = "pod-security.kubernetes.io/enforce"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class NotNeeded(KubefaceError):
    """What a deployment can do without, or what cannot be known from here."""


@dataclass
class Doctor:
    """The checks of one overlay on one cluster. Each returns what it found, or raises what to do.

    Args:
        cluster: to look at.
        overlay: folder of the overlay that is to be deployed.
        namespace: to use instead of the overlay's.
        images: file that `make push` writes.
    """

    cluster: Cluster
    overlay: Path
    namespace: str = ""
    images: Path = RECORD
    objects: list[Object] = field(default_factory=list)
    known: dict[tuple[str, str], Kind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kubectl: Kubectl = self.cluster.kubectl()

    def lines(self) -> Iterator[str]:
        """`ok   …`, `FAIL …` or `note …` for each check, as it is done; what depends on a failed one is left out."""
        here = [("overlay", self.look_at_overlay), ("images", self.look_at_images), ("bucket", self.look_at_bucket)]
        there = [
            ("rights", self.look_at_rights),
            ("namespace", self.look_at_namespace),
            ("secret", self.look_at_secret),
            ("storage class", self.look_at_storage_class),
            ("GPU nodes", self.look_at_gpus),
            ("Kubeflow Trainer", self.look_at_trainer),
        ]
        for name, check in here:
            yield _line(name, check)
        api = _line("Kubernetes", self.look_at_kubernetes)
        yield api
        if self.objects and api.startswith("ok"):
            for name, check in there:
                yield _line(name, check)
        if self.cluster.host or api.startswith("ok"):
            yield _line("Kubeflow Pipelines", self.look_at_pipelines)

    def look_at_overlay(self) -> str:
        """It renders."""
        self.objects = render(self.kubectl, self.overlay, self.namespace)
        self.namespace = namespace_of(self.objects)
        return f"{self.overlay} has {len(self.objects)} objects for namespace {self.namespace}"

    def look_at_images(self) -> str:
        """They were pushed; whether the nodes may pull them is not known before they do."""
        images = read_images(self.images) if self.images.exists() else {}
        pin(self.objects, images)
        todo = "run 'make images' and 'make push REGISTRY=…'"
        if not images:
            raise NotNeeded(f"{self.images} is not there, so that the steps' images go by their tag: {todo}")
        local = sorted(name for name, image in images.items() if image.pinned.startswith("localhost/"))
        if local:
            raise NotNeeded(f"{', '.join(local)} are named localhost/…, which only this machine has: {todo}")
        return f"{len(images)} by digest (whether the nodes may pull them shows when they do)"

    def look_at_bucket(self) -> str:
        """The store answers this machine with the keys of the environment."""
        settings: dict[str, str] = next(
            (item["data"] for item in self.objects if item["metadata"]["name"] == SETTINGS), {}
        )
        bucket = os.environ.get("S3_BUCKET") or settings.get("S3_BUCKET") or "kubeface"
        if not os.environ.get("S3_ENDPOINT") or not os.environ.get("AWS_ACCESS_KEY_ID"):
            inside = settings.get("S3_ENDPOINT", "the overlay's")
            raise NotNeeded(
                "not looked at: set S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (the steps use "
                f"{inside}; kubectl port-forward reaches a store in the cluster)"
            )
        _check_port(objects.endpoint())
        objects.list_files(f"s3://{bucket}/.kubeface-doctor")  # names nothing; says that the bucket may be listed
        return f"{bucket} at {objects.endpoint()} can be listed"

    def look_at_kubernetes(self) -> str:
        """The API answers, and knows the kinds of the overlay."""
        done = self.kubectl.call("version", "--output=json")
        require(not done.returncode, one_line(done.stderr))
        versions = json.loads(done.stdout)
        self.known = kinds(self.kubectl)
        unknown = {(item["apiVersion"], item["kind"]) for item in self.objects} - self.known.keys()
        require(
            not unknown,
            f"does not know {', '.join(f'{kind} ({version})' for version, kind in sorted(unknown))}: install what "
            "brings it, or choose another overlay",
        )
        server, client = (versions[name]["gitVersion"] for name in ("serverVersion", "clientVersion"))
        return f"{server} answers kubectl {client}"

    def look_at_rights(self) -> str:
        """This account may do what a deployment does (one SelfSubjectAccessReview for each verb and kind)."""
        wanted = sorted({(Name.of(item).api_version, item["kind"]) for item in self.objects} | {("v1", "ConfigMap")})
        reviews = [self._review(verb, api_version, kind) for api_version, kind in wanted for verb in VERBS]
        # One list: kubectl 1.32 takes no documents of JSON one after the other.
        together = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
        answers = self.kubectl.objects("create", "--validate=false", "--filename=-", stdin=together)
        missing: dict[str, list[str]] = {}
        for answer in answers:
            asked = answer["spec"]["resourceAttributes"]
            if not answer["status"]["allowed"]:
                missing.setdefault(asked["verb"], []).append(asked["resource"])
        told = "; ".join(f"{verb} {', '.join(resources)}" for verb, resources in missing.items())
        require(not missing, f"this account may not {told} (namespace {self.namespace}): ask for these rights")
        return f"{', '.join(VERBS)} of {len(wanted)} kinds"

    def _review(self, verb: str, api_version: str, kind: str) -> Object:
        found = self.known[api_version, kind]
        asked = {"verb": verb, "resource": found.plural, "group": api_version.rpartition("/")[0]}
        place = {"namespace": self.namespace} if found.namespaced else {}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked | place},
        }

    def look_at_namespace(self) -> str:
        """It is there or will be made, and holds pods to a security standard."""
        name = Name("v1", "Namespace", "", self.namespace)
        found = live(self.kubectl, [name]).get(name)
        made = next((item for item in self.objects if Name.of(item) == name), None)
        item = found or made
        if item is None:
            raise KubefaceError(f"{self.namespace} does not exist: kubectl create namespace {self.namespace}")
        level = item["metadata"].get("labels", {}).get(POD_SECURITY)
        if level != "restricted":
            raise NotNeeded(
                f"{self.namespace} holds pods to {level or 'no standard'}: the steps need no more than 'restricted', "
                f"set the label {POD_SECURITY}"
            )
        return f"{self.namespace} {'is there' if found else 'will be made'}, pod security {level}"

    def look_at_secret(self) -> str:
        """It has the keys that the steps refer to; their values are not shown."""
        template = "--output=go-template={{range $key, $value := .data}}{{$key}} {{end}}"
        needed = [secret for secret in SECRETS if not secret.optional]
        for secret in needed:
            found = self.kubectl.run("get", "secret", secret.name, "-n", self.namespace, "--ignore-not-found", template)
            missing = sorted(secret.keys.keys() - set(found.split()))
            require(not missing, f"{secret.name} lacks {', '.join(missing)} in {self.namespace}: run 'make secret'")
        return ", ".join(f"{secret.name} has {' and '.join(sorted(secret.keys))}" for secret in needed)

    def look_at_storage_class(self) -> str:
        """Those that the overlay names exist, or there is a default."""
        found = {item["metadata"]["name"]: item for item in self.kubectl.objects("get", "storageclasses")}
        default = [
            name
            for name, item in found.items()
            if item["metadata"].get("annotations", {}).get(DEFAULT_CLASS, "") == "true"
        ]
        wanted = {claim["spec"].get("storageClassName") for claim in self._claims()}
        missing = sorted(name for name in wanted if name and name not in found)
        known = ", ".join(sorted(found)) or "none"
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

    def look_at_gpus(self) -> str:
        """How many GPUs the nodes offer to pods."""
        try:
            nodes = self.kubectl.objects("get", "nodes")
        except KubefaceError as error:
            raise NotNeeded(f"not looked at: {error}") from error
        counts = [int(node.get("status", {}).get("allocatable", {}).get(GPU, 0)) for node in nodes]
        if not any(counts):
            raise NotNeeded(f"no node of {len(nodes)} offers {GPU}: fine-tuning needs GPUs, or device=cpu and patience")
        return f"{sum(counts)} GPUs on {sum(map(bool, counts))} of {len(nodes)} nodes"

    def look_at_trainer(self) -> str:
        """The cluster knows TrainJob."""
        if TRAINJOB not in self.known:
            raise NotNeeded("it is not installed: fine-tuning on more than one node (num_nodes) needs it")
        return f"{TRAINJOB[1]} ({TRAINJOB[0]})"

    def look_at_pipelines(self) -> str:
        """Its API answers this account, and it is version 2."""
        with connect(self.cluster.model_copy(update={"namespace": self.namespace})) as client:
            try:
                client.list_experiments(page_size=1, namespace=client.namespace or None)
            except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
                raise request_error(error, self.cluster) from None
            kind = f"serves {'several users' if client.namespace else 'one user'}"
        version = self._pipelines_version()
        require(not version.startswith("1."), f"it is version {version}: install 2.2 or newer")
        return f"{version or 'its version cannot be seen from here'}, {kind}"

    def _pipelines_version(self) -> str:
        """The tag of its API server's image; empty where that cannot be seen."""
        name = Name("apps/v1", "Deployment", self.cluster.system_namespace, SERVICE)
        try:
            found = live(self.kubectl, [name])[name]
        except (KubefaceError, KeyError):
            return ""
        image = found["spec"]["template"]["spec"]["containers"][0]["image"]
        tag = re.search(r":([\w.-]+)(@|$)", image)
        return tag[1] if tag else ""


def _check_port(url: str) -> None:
    """Whether something listens there; asked first, since a store that is away is waited for by `storage`."""
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
    except NotNeeded as error:
        return f"note {name}: {error}"
    except KubefaceError as error:
        return f"FAIL {name}: {error}"


def doctor(*, overlay: str = "dev", namespace: str = "", images: Path = RECORD) -> None:
    """Looks at what a deployment and a run need, a line each; nothing is changed.

    Args:
        overlay: Name below manifests/overlays, or a folder.
        namespace: Namespace to use instead of the overlay's own.
        images: Digests of the images, as `kubeface push` records them.

    Raises:
        KubefaceError: a check failed.
    """
    failed = 0
    for line in Doctor(Cluster.from_environment(), find_overlay(overlay), namespace, images).lines():
        print(line, flush=True)
        failed += line.startswith("FAIL")
    require(not failed, f"{failed} of the above must be put right first")
