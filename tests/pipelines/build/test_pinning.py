"""Images of manifests come by digest from what was built."""

import json
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError
from pipelines.build.images import Image
from pipelines.build.pinning import pin

DIGEST = "sha256:" + "0123456789abcdef" * 4


def built(digest: str = DIGEST) -> dict[str, Image]:
    return {"store": Image(image="r.example:5000/k/store:0.1.0", digest=digest, size=1)}


def pod(image: str, kind: str = "StatefulSet") -> dict[str, Any]:
    spec = {"initContainers": [{"name": "first", "image": image}], "containers": [{"name": "main", "image": image}]}
    if kind == "Pod":
        return {"kind": kind, "metadata": {"name": "x"}, "spec": spec}
    inner: dict[str, Any] = {"template": {"spec": spec}}
    return {
        "kind": kind,
        "metadata": {"name": "x"},
        "spec": {"jobTemplate": {"spec": inner}} if kind == "CronJob" else inner,
    }


@pytest.mark.parametrize("kind", ["Pod", "StatefulSet", "Job", "CronJob"])
def test_own_images_get_registry_and_digest(kind: str) -> None:
    before = pod("kubeface/store", kind)
    after = pin([before, {"kind": "Namespace", "metadata": {"name": "n"}}], built())
    assert json.dumps(after).count(f"r.example:5000/k/store@{DIGEST}") == 2
    assert "r.example" not in json.dumps(before)


def test_an_image_that_was_not_built_is_named() -> None:
    with pytest.raises(KubefaceError, match=r"StatefulSet x runs the image of 'store'.*make images"):
        pin([pod("kubeface/store")], {})


def test_an_image_that_was_not_pushed_is_named() -> None:
    with pytest.raises(KubefaceError, match="has no digest: push it first"):
        pin([pod("kubeface/store")], built(digest=""))


@pytest.mark.parametrize("image", ["chrislusf/seaweedfs:4.48", "chrislusf/seaweedfs", "a/b@sha256:0123"])
def test_a_tag_is_refused(image: str) -> None:
    with pytest.raises(KubefaceError, match="name it by its digest"):
        pin([pod(image)], {})


def test_somebody_elses_image_by_digest_stays() -> None:
    assert f"a/b@{DIGEST}" in json.dumps(pin([pod(f"a/b@{DIGEST}")], {}))
