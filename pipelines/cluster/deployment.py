"""The commands `deploy` and `undeploy`: an overlay of manifests/ and the compiled pipelines, put on a cluster.

Objects are applied on the server (server-side apply) under the field manager `kubeface`: what does not differ is not
written, and a field that another manager owns is refused unless it is forced. What a deployment made is listed in the
config map `kubeface-deployed` of its namespace, so that the next one can remove what its overlay no longer has. Nothing
is deleted that was there before, that no longer carries the field manager, or that holds data (KEPT).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import TASKS, package_of
from pipelines.build.images import RECORD
from pipelines.cluster.client import Cluster, connect
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
    render_pinned,
)
from pipelines.cluster.versions import find_version, read_package, upload

FIELD_MANAGER = "kubeface"
INVENTORY = "kubeface-deployed"
MANAGED = "app.kubernetes.io/managed-by=kubeface"
# Deleting a namespace deletes all that is in it; the others are what nobody can make again.
KEPT = frozenset({"Namespace", "PersistentVolumeClaim", "Secret"})


@dataclass(frozen=True)
class Kind:
    """A kind of object that the cluster knows."""

    plural: str
    namespaced: bool


@dataclass(frozen=True)
class Outcome:
    """What a deployment did."""

    created: tuple[Name, ...]
    changed: tuple[Name, ...]
    deleted: tuple[Name, ...]
    kept: tuple[Name, ...]  # objects that the overlay no longer has, and that may hold data
    foreign: tuple[Name, ...]  # namespaces that were there before; they are not changed
    total: int  # objects of the overlay that the cluster has now

    def lines(self) -> list[str]:
        """For the terminal; the last line sums up."""
        lines = [
            f"{word} {name}"
            for word, names in (("created", self.created), ("changed", self.changed), ("deleted", self.deleted))
            for name in names
        ]
        lines += [f"kept    {name}, which the overlay no longer has: it may hold data" for name in self.kept]
        lines += [f"left    {name} as it is: it was there before" for name in self.foreign]
        if not self.created and not self.changed and not self.deleted:
            return [*lines, f"nothing to change: all {self.total} objects are as they should be"]
        return [*lines, f"done: {self.total} objects are as they should be"]


def kinds(kubectl: Kubectl) -> dict[tuple[str, str], Kind]:
    """Every kind that the cluster knows, by API version and kind. Raises KubefaceError if the cluster does not answer
    or refuses."""
    known = {}
    for line in kubectl.run("api-resources", "--no-headers").splitlines():
        plural, *_, api_version, namespaced, kind = line.split()  # some kinds have short names in between
        known[api_version, kind] = Kind(plural, namespaced == "true")
    return known


def unknown_kinds(known: Collection[tuple[str, str]], objects: Iterable[Object]) -> list[str]:
    """The kinds among some objects that a cluster does not know, as `TrainJob (trainer.kubeflow.org/v1alpha1)`."""
    found = {(item["apiVersion"], item["kind"]) for item in objects}
    return sorted(f"{kind} ({version})" for version, kind in found if (version, kind) not in known)


def require_known(known: Collection[tuple[str, str]], objects: Iterable[Object]) -> None:
    """Raises KubefaceError unless a cluster knows the kinds of all objects."""
    missing = ", ".join(unknown_kinds(known, objects))
    require(not missing, f"the cluster does not know {missing}: install what brings it, or choose another overlay")


def live(kubectl: Kubectl, names: Collection[Name]) -> dict[Name, Object]:
    """Those of some objects that the cluster has, with their field managers."""
    if not names:
        return {}
    items = kubectl.objects(
        "get", "--filename=-", "--ignore-not-found", "--show-managed-fields", stdin=_stream(n.manifest() for n in names)
    )
    return {Name.of(item): item for item in items}


def inventory(kubectl: Kubectl, namespace: str) -> set[Name]:
    """What earlier deployments made in a namespace and for it; nothing where there were none. Raises KubefaceError if
    the list in the cluster is damaged, or the cluster refuses or does not answer."""
    existing = live(kubectl, [_inventory_name(namespace)])
    if not existing:
        return set()
    text = next(iter(existing.values())).get("data", {}).get("objects", "")
    rows = [line.split(" ") for line in text.splitlines()]
    require(
        all(len(row) == 4 for row in rows),
        f"config map {INVENTORY} in namespace {namespace} is damaged: correct it, or delete it and what was deployed",
    )
    return {Name(*row) for row in rows}


def _inventory_name(namespace: str) -> Name:
    return Name("v1", "ConfigMap", namespace, INVENTORY)


def apply_objects(kubectl: Kubectl, objects: list[Object], force: bool = False) -> Outcome:
    """Makes the cluster have the objects of an overlay, and no longer those of the last deployment that are not among
    them; `force` takes over fields that another field manager owns. A second time nothing is done.

    Raises KubefaceError if the cluster does not know a kind, refuses an object or does not answer. What was applied
    until then stays and is listed; the next deployment goes on from there."""
    namespace, wanted = namespace_of(objects), {Name.of(item): item for item in objects}
    require_known(kinds(kubectl), objects)
    before, listed = live(kubectl, wanted), inventory(kubectl, namespace)
    foreign = _foreign_namespaces(before, listed)
    wanted = {name: item for name, item in wanted.items() if name not in foreign}
    # Written before anything is made: whatever ends this deployment, the next one knows what is ours.
    ours = listed | (wanted.keys() - before.keys())
    spaces = {name: item for name, item in wanted.items() if item["kind"] == "Namespace"}
    _apply(kubectl, spaces, force)
    if ours != listed:
        _write_inventory(kubectl, namespace, ours)
    _remove_changed_jobs(kubectl, [item for name, item in wanted.items() if name in before and name in ours], force)
    free = {name: item for name, item in wanted.items() if _fills_empty_values_only(before.get(name), item)}
    _apply(kubectl, free, force=True)
    _apply(kubectl, {name: item for name, item in wanted.items() if name not in spaces and name not in free}, force)
    after = live(kubectl, wanted)
    deleted, kept = _prune(kubectl, namespace, ours, wanted)
    return Outcome(
        created=tuple(name for name in wanted if name not in before),
        changed=tuple(name for name in wanted if name in before and _content(before[name]) != _content(after[name])),
        deleted=deleted,
        kept=kept,
        foreign=tuple(sorted(foreign)),
        total=len(wanted),
    )


def _prune(
    kubectl: Kubectl, namespace: str, ours: set[Name], wanted: Collection[Name]
) -> tuple[tuple[Name, ...], tuple[Name, ...]]:
    """Deletes what deployments made and the overlay no longer has; returns what was deleted, and what was kept."""
    stale = {name: item for name, item in live(kubectl, ours - set(wanted)).items() if _is_ours(item)}
    kept = {name for name in stale if name.kind in KEPT}
    deleted = _delete(kubectl, [name for name in stale if name not in kept])
    remaining = ours & (set(wanted) | kept)
    if remaining != ours:
        _write_inventory(kubectl, namespace, remaining)
    return deleted, tuple(sorted(kept))


def _foreign_namespaces(before: Iterable[Name], listed: Collection[Name]) -> set[Name]:
    """Namespaces that no deployment made: pod security set on one could stop what runs in it."""
    return {name for name in before if name.kind == "Namespace" and name not in listed}


def _content(item: Object) -> Object:
    """An object without the fields that controllers write all the time."""
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


def _fills_empty_values_only(before: Object | None, item: Object) -> bool:
    """Whether a config map that is there sets nothing which has another value: an empty one is nobody's choice, and KFP
    installs kfp-launcher with an empty defaultPipelineRoot, which its manager owns."""
    data = (before or {}).get("data") or {}
    return bool(data) and all(data.get(key, "") in ("", value) for key, value in (item.get("data") or {}).items())


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
    """What `apply_objects` would do, as lines of text with a unified diff among them; the cluster is only read. Raises
    KubefaceError if the cluster does not know a kind, would refuse an object, or does not answer."""
    namespace, wanted = namespace_of(objects), {Name.of(item): item for item in objects}
    missing = unknown_kinds(kinds(kubectl), objects)
    known = {name: item for name, item in wanted.items() if f"{name.kind} ({name.api_version})" not in missing}
    lines = [f"unknown to the cluster: {kind}" for kind in missing]
    before, listed = live(kubectl, known), inventory(kubectl, namespace)
    foreign = _foreign_namespaces(before, listed)
    lines += [f"would leave {name} as it is: it was there before" for name in sorted(foreign)]
    lines += [f"would create {name}" for name in known if name not in before]
    own = {name: known[name] for name in before if name not in foreign}
    free = {name for name, item in own.items() if _fills_empty_values_only(before[name], item)}
    lines += _diff(kubectl, [own[name] for name in own if name in free], force=True)
    lines += _diff(kubectl, [own[name] for name in own if name not in free], force)
    stale = live(kubectl, set(listed - wanted.keys()))
    for name, item in sorted(stale.items()):
        if _is_ours(item):
            lines.append(f"would {'keep' if name.kind in KEPT else 'delete'} {name}, which the overlay no longer has")
    return lines if len(lines) > len(foreign) else [*lines, "nothing to change"]


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


def delete_objects(kubectl: Kubectl, namespace: str, with_data: bool = False) -> list[str]:
    """Deletes what deployments made in a namespace and for it; returns what was done, a line an object. Raises
    KubefaceError if the cluster refuses or does not answer.

    What holds data is deleted `with_data` alone: volume claims, secrets, and the namespace if a deployment made it."""
    listed = inventory(kubectl, namespace)
    if with_data and listed:
        items = kubectl.objects("get", "persistentvolumeclaims,secrets", "-n", namespace, "-l", MANAGED)
        listed |= {Name.of(item) for item in items}
    if not listed:
        return [f"nothing is deployed in namespace {namespace}"]
    present = live(kubectl, listed)
    ours = {name for name, item in present.items() if _is_ours(item)}
    kept = {name for name in ours if name.kind in KEPT and not with_data}
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
        *(f"kept    {name}: --with-data (make: ALL=1) deletes it with its data" for name in sorted(kept)),
    ]


def deploy(
    *,
    overlay: OverlayFlag = "dev",
    namespace: NamespaceFlag = "",
    images: ImagesFlag = RECORD,
    pipeline: str = "",
    package: tuple[Path, ...] = (),
    dry_run: bool = False,
    force: bool = False,
) -> None:
    """Puts an overlay and the compiled pipelines on the cluster.

    Args:
        pipeline: Name of the one pipeline to upload; all in build/ where empty.
        package: Compiled pipeline to upload instead, may be repeated.
        dry_run: Show what would change, and change nothing.
        force: Take over fields that another field manager owns.
    """
    cluster = Cluster.from_environment()
    kubectl, folder = cluster.kubectl(), find_overlay(overlay)
    named = [package_of(pipeline)] if pipeline else [path for path in map(package_of, TASKS) if path.is_file()]
    paths = list(package) or named
    require(bool(paths), "no compiled pipeline is in build/: run 'make compile'")
    packages = [read_package(path) for path in paths]
    objects = render_pinned(kubectl, folder, namespace, images)
    cluster = cluster.model_copy(update={"namespace": namespace_of(objects)})
    # Connected to first, so that nothing is half done where Kubeflow Pipelines is out of reach.
    with connect(cluster) as client:
        if dry_run:
            print(*difference(kubectl, objects, force), sep="\n")
            for one in packages:
                known = find_version(client, one)
                print(f"pipeline {one.version} {'is there already' if known else 'would be uploaded'}")
            return
        print(*apply_objects(kubectl, objects, force).lines(), sep="\n")
        for one in packages:
            print(f"pipeline {one.version} {'uploaded' if upload(client, one).is_new else 'is there already'}")


def undeploy(*, overlay: OverlayFlag = "dev", namespace: NamespaceFlag = "", with_data: bool = False) -> None:
    """Deletes what `deploy` made, but no data. Pipelines, runs and schedules stay.

    Args:
        with_data: Delete volume claims, secrets and the namespace too: the data in them is gone.
    """
    kubectl, folder = Cluster.from_environment().kubectl(), find_overlay(overlay)
    print(*delete_objects(kubectl, namespace or namespace_of(render(kubectl, folder)), with_data), sep="\n")
