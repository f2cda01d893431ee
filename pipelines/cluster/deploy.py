"""An overlay of manifests/ into a namespace, and the pipelines into Kubeflow Pipelines.

Objects are applied on the server (server-side apply) under the field manager `kubeface`: what does not differ is not
written, and a field that another manager owns is refused unless it is forced. What a deployment made is listed in the
config map `kubeface-deployed` beside it, so that the next one can remove what its overlay no longer has. Nothing is
deleted that was there before, that no longer carries the field manager, or that holds data (KEPT).
"""

import argparse
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import TASKS, package_of
from pipelines.build.images import RECORD, read_images
from pipelines.build.pinning import pin
from pipelines.cluster.client import Cluster, connect
from pipelines.cluster.kubectl import Kubectl, one_line
from pipelines.cluster.versions import find_pipeline, find_version, pipeline_name, upload, version_name

OVERLAYS = Path("manifests/overlays")
FIELD_MANAGER = "kubeface"
INVENTORY = "kubeface-deployed"
MANAGED = "app.kubernetes.io/managed-by=kubeface"
# Deleting a namespace deletes all that is in it; the others are what nobody can make again.
KEPT = frozenset({"Namespace", "PersistentVolumeClaim", "Secret"})

Object = dict[str, Any]


@dataclass(frozen=True, order=True)
class Name:
    """What tells an object from all others of a cluster; cluster-wide ones have no namespace."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Name":
        """The name of a manifest or a live object."""
        metadata = item["metadata"]
        return cls(item["apiVersion"], item["kind"], metadata.get("namespace", ""), metadata["name"])

    def __str__(self) -> str:
        """As kubectl writes it: configmap/settings, job.batch/bucket."""
        group = self.api_version.rpartition("/")[0]
        return f"{self.kind.lower()}{'.' * bool(group)}{group}/{self.name}"

    def manifest(self) -> Object:
        """As much of a manifest as kubectl needs to find the object."""
        metadata = {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {})
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata}


@dataclass(frozen=True)
class Kind:
    """What the cluster says about a kind."""

    plural: str
    namespaced: bool


@dataclass(frozen=True)
class Outcome:
    """What a deployment did; `kept` are objects that it would have deleted, had they not held data, `left` a namespace
    that it found."""

    created: tuple[Name, ...]
    changed: tuple[Name, ...]
    deleted: tuple[Name, ...]
    kept: tuple[Name, ...]
    left: tuple[Name, ...]
    total: int

    def lines(self) -> list[str]:
        """For the terminal; the last line sums up."""
        lines = [
            f"{word} {name}"
            for word, names in (("created", self.created), ("changed", self.changed), ("deleted", self.deleted))
            for name in names
        ]
        lines += [f"kept    {name}, which the overlay no longer has: it may hold data" for name in self.kept]
        lines += [f"left    {name} as it is: it was there before" for name in self.left]
        if not self.created and not self.changed and not self.deleted:
            return [*lines, f"nothing to change: all {self.total} objects are as they should be"]
        return [*lines, f"done: {self.total} objects are as they should be"]


def find_overlay(overlay: str) -> Path:
    """The folder of an overlay, given by its name below manifests/overlays or by its path.

    Raises:
        KubefaceError: there is none.
    """
    for folder in (OVERLAYS / overlay, Path(overlay)):
        if (folder / "kustomization.yaml").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))) or "none"
    raise KubefaceError(f"there is no overlay '{overlay}': choose one of {OVERLAYS} ({known}), or give a folder")


def render(kubectl: Kubectl, overlay: Path, namespace: str = "") -> list[Object]:
    """The objects of an overlay.

    Args:
        kubectl: whose kustomize to use.
        overlay: folder with a kustomization.yaml.
        namespace: to put them into instead of the overlay's own; empty for that one.

    Raises:
        KubefaceError: kustomize refuses the overlay, or the overlay names its own namespace in an address and is to go
            elsewhere.
    """
    objects = _kustomize(kubectl, overlay)
    own = namespace_of(objects)
    if namespace in ("", own):
        return objects
    for item in objects:
        require(
            not re.search(rf"\.{re.escape(own)}(\.svc|[:/\s])", yaml.safe_dump(item)),
            f"{Name.of(item)} of {overlay} names a host in namespace {own}: set the namespace {namespace} in that "
            "overlay's files instead of by NAMESPACE",
        )
    with tempfile.TemporaryDirectory(prefix="kubeface-overlay-") as name:
        folder = Path(name).resolve()
        base = os.path.relpath(overlay.resolve(), folder)  # kustomize takes no absolute path
        settings = {"namespace": namespace, "resources": [base]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(settings), "utf-8")
        return _kustomize(kubectl, folder)


def _kustomize(kubectl: Kubectl, overlay: Path) -> list[Object]:
    return [item for item in yaml.safe_load_all(kubectl.run("kustomize", str(overlay))) if item]


def namespace_of(objects: Iterable[Object]) -> str:
    """The one namespace that the objects are in.

    Raises:
        KubefaceError: they are in none or in several.
    """
    names = {Name.of(item).namespace for item in objects} - {""}
    require(len(names) == 1, f"an overlay must have one namespace, this one has {', '.join(sorted(names)) or 'none'}")
    return names.pop()


def kinds(kubectl: Kubectl) -> dict[tuple[str, str], Kind]:
    """Every kind that the cluster knows, by API version and kind.

    Raises:
        KubefaceError: the cluster does not answer or refuses.
    """
    found = {}
    for line in kubectl.run("api-resources", "--no-headers").splitlines():
        plural, *_, api_version, namespaced, kind = line.split()  # short names, which not all have, stand in between
        found[api_version, kind] = Kind(plural, namespaced == "true")
    return found


def unknown_kinds(kubectl: Kubectl, objects: Iterable[Object]) -> list[str]:
    """The kinds among some objects that the cluster does not know, as `TrainJob (trainer.kubeflow.org/v1alpha1)`."""
    known = kinds(kubectl)
    return sorted(
        {
            f"{item['kind']} ({item['apiVersion']})"
            for item in objects
            if (item["apiVersion"], item["kind"]) not in known
        }
    )


def live(kubectl: Kubectl, names: Collection[Name]) -> dict[Name, Object]:
    """Those of some objects that are in the cluster, with their field managers."""
    if not names:
        return {}
    found = kubectl.objects(
        "get", "--filename=-", "--ignore-not-found", "--show-managed-fields", stdin=_stream(n.manifest() for n in names)
    )
    return {Name.of(item): item for item in found}


def inventory(kubectl: Kubectl, namespace: str) -> set[Name]:
    """What earlier deployments made in a namespace and for it; nothing where there were none.

    Raises:
        KubefaceError: the list in the cluster is damaged, or the cluster refuses or does not answer.
    """
    found = live(kubectl, [_inventory_name(namespace)])
    if not found:
        return set()
    text = next(iter(found.values())).get("data", {}).get("objects", "")
    rows = [line.split(" ") for line in text.splitlines()]
    require(
        all(len(row) == 4 for row in rows),
        f"config map {INVENTORY} in namespace {namespace} is damaged: correct it, or delete it and what was deployed",
    )
    return {Name(*row) for row in rows}


def _inventory_name(namespace: str) -> Name:
    return Name("v1", "ConfigMap", namespace, INVENTORY)


def deploy(kubectl: Kubectl, objects: list[Object], force: bool = False) -> Outcome:
    """Makes the cluster have the objects, and no longer those of the last deployment that are not among them.

    Args:
        kubectl: of the cluster.
        objects: of one overlay.
        force: take over fields that another field manager owns.

    Returns:
        what was done; a second time it is nothing.

    Raises:
        KubefaceError: the cluster does not know a kind, refuses an object or does not answer. What was applied until
            then stays and is listed; the next deployment goes on from there.
    """
    namespace, wanted = namespace_of(objects), {Name.of(item): item for item in objects}
    missing = unknown_kinds(kubectl, objects)
    require(
        not missing,
        f"the cluster does not know {', '.join(missing)}: install what brings it, or choose another overlay",
    )
    before, listed = live(kubectl, wanted), inventory(kubectl, namespace)
    left = _of_others(before, listed)
    wanted = {name: item for name, item in wanted.items() if name not in left}
    # Written before anything is made: whatever ends this deployment, the next one knows what is ours.
    ours = listed | (wanted.keys() - before.keys())
    spaces = {name: item for name, item in wanted.items() if item["kind"] == "Namespace"}
    _apply(kubectl, spaces, force)
    if ours != listed:
        _write_inventory(kubectl, namespace, ours)
    _remove_changed_jobs(kubectl, [item for name, item in wanted.items() if name in before and name in ours], force)
    _apply(kubectl, {name: item for name, item in wanted.items() if name not in spaces}, force)
    after = live(kubectl, wanted)
    stale = {name: item for name, item in live(kubectl, ours - wanted.keys()).items() if _is_ours(item)}
    kept = {name for name in stale if name.kind in KEPT}
    deleted = _delete(kubectl, [name for name in stale if name not in kept])
    remaining = ours & (wanted.keys() | kept)
    if remaining != ours:
        _write_inventory(kubectl, namespace, remaining)
    return Outcome(
        created=tuple(name for name in wanted if name not in before),
        changed=tuple(name for name in wanted if name in before and _content(before[name]) != _content(after[name])),
        deleted=deleted,
        kept=tuple(sorted(kept)),
        left=tuple(sorted(left)),
        total=len(wanted),
    )


def _of_others(before: Iterable[Name], listed: Collection[Name]) -> set[Name]:
    """Namespaces that no deployment made: pod security set on one could stop what runs in it."""
    return {name for name in before if name.kind == "Namespace" and name not in listed}


def _content(item: Object) -> Object:
    """What an object is told to be, without what controllers write about it all the time."""
    metadata = {
        key: value for key, value in item["metadata"].items() if key not in ("managedFields", "resourceVersion")
    }
    return {key: value for key, value in item.items() if key != "status"} | {"metadata": metadata}


def _apply(kubectl: Kubectl, items: Mapping[Name, Object], force: bool) -> None:
    if not items:
        return
    done = kubectl.call("apply", *_apply_flags(force), "--output=name", "--filename=-", stdin=_stream(items.values()))
    if done.returncode:
        # kubectl's complaint does not always name the object; what it did not print is what failed.
        applied = set(done.stdout.split())
        failed = ", ".join(str(name) for name in items if str(name) not in applied)
        raise KubefaceError(f"{failed} cannot be applied: {one_line(done.stderr)}")


def _apply_flags(force: bool) -> list[str]:
    return ["--server-side", f"--field-manager={FIELD_MANAGER}", *(["--force-conflicts"] if force else [])]


def _remove_changed_jobs(kubectl: Kubectl, items: Iterable[Object], force: bool) -> None:
    """Deletes jobs of ours whose pods are to change: Kubernetes has them made anew, and they keep no state."""
    for item in (item for item in items if item["kind"] == "Job"):
        tried = kubectl.call("apply", *_apply_flags(force), "--dry-run=server", "--filename=-", stdin=_stream([item]))
        if tried.returncode and "field is immutable" in tried.stderr:
            kubectl.run("delete", "--filename=-", "--ignore-not-found", stdin=_stream([Name.of(item).manifest()]))


def _write_inventory(kubectl: Kubectl, namespace: str, names: Collection[Name]) -> None:
    item = _inventory_name(namespace).manifest()
    item["metadata"]["labels"] = dict([MANAGED.split("=")])
    item["data"] = {
        "objects": "".join(f"{n.api_version} {n.kind} {n.namespace} {n.name}\n" for n in sorted(names)),
    }
    _apply(kubectl, {Name.of(item): item}, force=True)


def _delete(kubectl: Kubectl, names: Collection[Name]) -> tuple[Name, ...]:
    if names:
        kubectl.run("delete", "--filename=-", "--ignore-not-found", stdin=_stream(name.manifest() for name in names))
    return tuple(sorted(names))


def _is_ours(item: Object) -> bool:
    """Whether the object is the one that was applied, and not another that somebody made under its name."""
    label, value = MANAGED.split("=")
    managers = {entry.get("manager") for entry in item["metadata"].get("managedFields", ())}
    return FIELD_MANAGER in managers or value == item["metadata"].get("labels", {}).get(label)


def _stream(items: Iterable[Object]) -> str:
    text: str = yaml.safe_dump_all(list(items), sort_keys=False)
    return text


def difference(kubectl: Kubectl, objects: list[Object], force: bool = False) -> list[str]:
    """What `deploy` would do, as lines for the terminal, among them a unified diff; the cluster is only read.

    Raises:
        KubefaceError: the cluster does not know a kind, would refuse an object, or does not answer.
    """
    namespace, wanted = namespace_of(objects), {Name.of(item): item for item in objects}
    missing = unknown_kinds(kubectl, objects)
    known = {name: item for name, item in wanted.items() if f"{name.kind} ({name.api_version})" not in missing}
    lines = [f"unknown to the cluster: {kind}" for kind in missing]
    before, listed = live(kubectl, known), inventory(kubectl, namespace)
    left = _of_others(before, listed)
    lines += [f"would leave {name} as it is: it was there before" for name in sorted(left)]
    lines += [f"would create {name}" for name in known if name not in before]
    lines += _diff(kubectl, [known[name] for name in before if name not in left], force)
    stale = live(kubectl, set(listed - wanted.keys()))
    for name, item in sorted(stale.items()):
        if _is_ours(item):
            lines.append(f"would {'keep' if name.kind in KEPT else 'delete'} {name}, which the overlay no longer has")
    return lines if len(lines) > len(left) else [*lines, "nothing to change"]


def _diff(kubectl: Kubectl, items: list[Object], force: bool) -> list[str]:
    if not items:
        return []
    done = kubectl.call("diff", *_apply_flags(force), "--filename=-", stdin=_stream(items))
    if done.returncode > 1:  # kubectl diff: 1 means that there are differences
        raise KubefaceError(f"kubectl diff: {one_line(done.stderr)}")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("diff ")]
    for mark, where in (("LIVE", "in the cluster"), ("MERGED", "to be")):
        lines = [re.sub(rf"^(---|\+\+\+) \S*/{mark}-\d+/(\S+).*", rf"\1 {where}: \2", line) for line in lines]
    return lines


def undeploy(kubectl: Kubectl, namespace: str, everything: bool = False) -> list[str]:
    """Deletes what deployments made in a namespace and for it.

    Args:
        kubectl: of the cluster.
        namespace: of the deployment.
        everything: what holds data as well: volume claims, secrets, and the namespace if a deployment made it.

    Returns:
        lines for the terminal.

    Raises:
        KubefaceError: the cluster refuses or does not answer.
    """
    listed = inventory(kubectl, namespace)
    if everything and listed:
        found = kubectl.objects("get", "persistentvolumeclaims,secrets", "-n", namespace, "-l", MANAGED)
        listed |= {Name.of(item) for item in found}
    if not listed:
        return [f"nothing is deployed in namespace {namespace}"]
    present = live(kubectl, listed)
    ours = {name for name, item in present.items() if _is_ours(item)}
    kept = {name for name in ours if name.kind in KEPT and not everything}
    # A namespace ends what is in it, the list of what is deployed as well: it goes last.
    spaces = {name for name in ours - kept if name.kind == "Namespace"}
    deleted = _delete(kubectl, ours - kept - spaces)
    if kept:
        _write_inventory(kubectl, namespace, kept)
    else:
        _delete(kubectl, [_inventory_name(namespace)])
    deleted += _delete(kubectl, spaces)
    return [
        *(f"deleted {name}" for name in deleted),
        *(f"left    {name}: somebody else made it" for name in sorted(present.keys() - ours)),
        *(f"kept    {name}: ALL=1 deletes it with its data" for name in sorted(kept)),
    ]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster.deploy", description=__doc__)
    parser.add_argument("--overlay", default="dev", help="name below manifests/overlays, or a folder (%(default)s)")
    parser.add_argument("--namespace", default="", help="namespace to use instead of the overlay's")
    parser.add_argument("--images", type=Path, default=RECORD, help="digests of the images (%(default)s)")
    parser.add_argument(
        "--package", type=Path, action="append", help="compiled pipeline to upload, may be repeated (all in build/)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--force", action="store_true", help="take over fields that another field manager owns")
    parser.add_argument("--undeploy", action="store_true", help="delete what deployments made")
    parser.add_argument("--all", action="store_true", help="with --undeploy: data, secrets and namespace as well")
    settings = parser.parse_args(arguments)
    try:
        _run(settings)
    except KubefaceError as error:
        raise SystemExit(f"error: {error}") from None


def _run(settings: argparse.Namespace) -> None:
    cluster = Cluster.from_environment()
    kubectl = cluster.kubectl()
    overlay = find_overlay(settings.overlay)
    if settings.undeploy:
        namespace = settings.namespace or namespace_of(render(kubectl, overlay))
        print(*undeploy(kubectl, namespace, settings.all), sep="\n")
        return
    packages = settings.package or [path for path in map(package_of, TASKS) if path.is_file()]
    require(bool(packages), "no compiled pipeline is in build/: run 'make compile'")
    for package in packages:
        version_name(package)  # says what is wrong with one before anything is sent
    images = read_images(settings.images) if settings.images.exists() else {}
    objects = pin(render(kubectl, overlay, settings.namespace), images)
    cluster = cluster.model_copy(update={"namespace": namespace_of(objects)})
    # First of all, so that nothing is half done where Kubeflow Pipelines is out of reach.
    with connect(cluster) as client:
        if settings.dry_run:
            print(*difference(kubectl, objects, settings.force), sep="\n")
            for package in packages:
                version, pipeline = version_name(package), find_pipeline(client, pipeline_name(package))
                there = pipeline and find_version(client, pipeline, version)
                print(f"pipeline {version} {'is there already' if there else 'would be uploaded'}")
            return
        print(*deploy(kubectl, objects, settings.force).lines(), sep="\n")
        for package in packages:
            _, new = upload(client, package)
            print(f"pipeline {version_name(package)} {'uploaded' if new else 'is there already'}")


if __name__ == "__main__":
    main()
