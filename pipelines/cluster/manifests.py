"""Overlays of manifests/: found by name, rendered by kustomize, printed with the images by digest."""

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.images import RECORD, read_images
from pipelines.build.pinning import pin
from pipelines.cluster.kubectl import Kubectl

OVERLAYS = Path("manifests/overlays")
# Flags of the commands about deployments.
OverlayFlag = Annotated[str, Parameter(help="Name below manifests/overlays, or a folder.")]
NamespaceFlag = Annotated[str, Parameter(help="Namespace to use instead of the overlay's own.")]
ImagesFlag = Annotated[Path, Parameter(help="Digests of the images, as `kubeface push` records them.")]

Object = dict[str, Any]


@dataclass(frozen=True, order=True)
class Name:
    """What identifies an object of a cluster; cluster-wide ones have no namespace."""

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


def find_overlay(overlay: str) -> Path:
    """The folder of an overlay, given by its name below manifests/overlays or by its path. Raises KubefaceError if
    there is none."""
    for folder in (OVERLAYS / overlay, Path(overlay)):
        if (folder / "kustomization.yaml").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))) or "none"
    raise KubefaceError(f"there is no overlay '{overlay}': choose one of {OVERLAYS} ({known}), or give a folder")


def render(kubectl: Kubectl, overlay: Path, namespace: str = "") -> list[Object]:
    """The objects of an overlay, in its own namespace or another. Raises KubefaceError if kustomize refuses the
    overlay, or the overlay names its own namespace in an address and is to go elsewhere."""
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
    """The one namespace that the objects are in. Raises KubefaceError if they are in none or in several."""
    names = {Name.of(item).namespace for item in objects} - {""}
    require(len(names) == 1, f"an overlay must have one namespace, this one has {', '.join(sorted(names)) or 'none'}")
    return names.pop()


def manifests(*, overlay: OverlayFlag = "dev", namespace: NamespaceFlag = "", images: ImagesFlag = RECORD) -> None:
    """Prints an overlay as it is deployed."""
    objects = render_pinned(Kubectl(), find_overlay(overlay), namespace, images)
    print(yaml.safe_dump_all(objects, sort_keys=False), end="")


def render_pinned(kubectl: Kubectl, overlay: Path, namespace: str, images: Path) -> list[Object]:
    """The objects of an overlay, with the images of this project by digest; see `render` and `pin`."""
    return pin(render(kubectl, overlay, namespace), read_images(images) if images.exists() else {})
