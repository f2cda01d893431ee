"""Images of manifests by digest: a tag can be moved between two deployments, a digest cannot."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kubeface.runtime.errors import require
from pipelines.build.images import RECORD, Images

OWN = "kubeface/"  # an image of this project in a manifest: kubeface/<step>, without registry and digest
DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def pod_specs(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod specs in an object: of a pod, of a template (Deployment, StatefulSet, Job …), of a CronJob's template."""
    spec = item.get("spec")
    if item.get("kind") == "CronJob":
        spec = spec["jobTemplate"]["spec"] if spec else None
    if item.get("kind") != "Pod":
        spec = spec.get("template", {}).get("spec") if isinstance(spec, dict) else None
    if spec:
        yield spec


def containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The containers of a pod spec, those that start it included."""
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def pin(objects: Iterable[Mapping[str, Any]], images: Images) -> list[dict[str, Any]]:
    """The objects of an overlay with the images of this project by registry and digest. Raises KubefaceError if an
    image of this project was not built and pushed, or another one is named without its digest."""
    pinned = [copy.deepcopy(dict(item)) for item in objects]
    for item in pinned:
        for container in (one for pod in pod_specs(item) for one in containers(pod)):
            container["image"] = _pinned(container["image"], images, f"{item['kind']} {item['metadata']['name']}")
    return pinned


def _pinned(image: str, images: Images, where: str) -> str:
    if image.startswith(OWN) and "@" not in image:
        step = image.removeprefix(OWN)
        require(
            step in images,
            f"{where} runs the image of '{step}', which {RECORD} does not list: run 'make images' and 'make push'",
        )
        return images[step].pinned
    require(
        bool(DIGEST.fullmatch(image)),
        f"{where} runs {image}: name it by its digest (…@sha256:…), because a tag can be moved",
    )
    return image
