"""Enlarging: bicubic and by networks, of every kind of file, in batches, tiles, threads and processes."""

import hashlib
import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kubeface.faces.degradation import Degradation, downsample
from kubeface.faces.images import RGB, decode_rgb
from kubeface.models import superresolution
from kubeface.models.superresolution import ABOUT_FILE, MARGIN, NETWORK_FILE, TILE, Enlarger, open_enlarger
from kubeface.models.superresolution_export import export, to_onnx
from kubeface.models.superresolution_networks import Enlarging, load_network, save_network
from kubeface.records.model import SuperresolutionRecord
from kubeface.records.superresolution import NetworkDesign
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file
from tests.support.commands import ROOT, run_python
from tests.support.networks import nearest, repeated


def noise(height: int, width: int, seed: int = 0) -> RGB:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def learnt(architecture: str = "edsr", scale: int = 2, channels: int = 4, blocks: int = 1) -> Enlarging:
    """A small network whose last layer is not 0, as if it had learnt something."""
    torch.manual_seed(0)
    network = Enlarging(architecture, scale, channels, blocks)
    nn.init.normal_(network.tail.weight, std=0.05)
    return network.eval()


@torch.no_grad()
def by_torch(network: nn.Module, image: RGB) -> RGB:
    found: Tensor = network(torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255)
    return (found[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


def save_script(script: Any, path: Path) -> None:
    torch.jit.save(script, path)


def close(found: RGB, expected: RGB) -> None:
    """Equal up to the rounding of a grey level."""
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


# bicubic


def test_bicubic_is_opencv_and_any_scale(orl: dict[str, bytes]) -> None:
    face = decode_rgb(orl["s1/1.pgm"])
    enlarger = open_enlarger("bicubic")
    assert (enlarger.name, enlarger.scale, enlarger.identities) == ("bicubic", 0, ())
    expected = cv2.resize(face, (3 * 92, 3 * 112), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(enlarger.several([face], 3)[0], expected)
    np.testing.assert_array_equal(enlarger.to(face, 3 * 92, 3 * 112), expected)
    with pytest.raises(KubefaceError, match="scale is 0: bicubic needs one"):
        enlarger.several([face])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_to_gives_the_size_that_is_asked_for(height: int, width: int, new_height: int, new_width: int) -> None:
    found = Enlarger().to(noise(height, width), new_width, new_height)
    assert found.shape == (new_height, new_width, 3) and found.dtype == np.uint8


# networks


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Enlarger:
    """Pixels twice as large."""
    return open_enlarger(str(nearest(tmp_path_factory.mktemp("network") / "two.onnx", 2)))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
def test_a_network_gets_and_gives_pixels_as_they_are(doubling: Enlarger, height: int, width: int, seed: int) -> None:
    """Channels, rows and columns keep their places, and no grey level is lost."""
    image = noise(height, width, seed)
    np.testing.assert_array_equal(doubling.several([image])[0], repeated(image, 2))


def test_images_of_several_sizes_come_back_in_their_order(doubling: Enlarger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superresolution, "BATCH_PIXELS", 3 * 64)  # three of 8×8 at once
    images = [noise(8 + seed % 3, 8, seed) for seed in range(14)]
    for image, found in zip(images, doubling.several(images), strict=True):
        np.testing.assert_array_equal(found, repeated(image, 2))
    assert doubling.several([]) == []


@pytest.mark.parametrize("size", [(TILE + 1, 8), (8, 2 * TILE), (2 * TILE + 7, TILE + MARGIN)])
def test_large_images_go_through_in_tiles(doubling: Enlarger, size: tuple[int, int]) -> None:
    np.testing.assert_array_equal(doubling.several([noise(*size)])[0], repeated(noise(*size), 2))


def test_to_meets_sizes_that_the_network_does_not(doubling: Enlarger) -> None:
    image = noise(10, 10)
    for enlarger, whole in ((doubling, repeated(image, 2)), (Enlarger(), image)):
        np.testing.assert_array_equal(enlarger.to(image, len(whole), len(whole)), whole)
        for side, how in ((len(whole) - 5, cv2.INTER_AREA), (33, cv2.INTER_CUBIC)):
            expected = cv2.resize(whole, (side, side), interpolation=how)
            np.testing.assert_array_equal(enlarger.to(image, side, side), expected)


def test_a_network_enlarges_as_often_as_it_does(doubling: Enlarger) -> None:
    np.testing.assert_array_equal(doubling.several([noise(4, 4)], 2)[0], repeated(noise(4, 4), 2))
    with pytest.raises(KubefaceError, match=r"scale is 4: two\.onnx@[0-9a-f]{12} enlarges 2 times"):
        doubling.several([noise(4, 4)], 4)


def test_threads_share_it(doubling: Enlarger) -> None:
    images = [noise(9, 9, seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: doubling.several([image])[0], images))
    for image, made in zip(images, found, strict=True):
        np.testing.assert_array_equal(made, repeated(image, 2))


def _in_a_process(enlarger: Enlarger, connection: Any) -> None:
    connection.send(enlarger.several([noise(9, 9)])[0])


def test_processes_share_it(doubling: Enlarger) -> None:
    """As the workers of a DataLoader do, after the parent has used it: forked, or started anew and sent a copy."""
    doubling.several([noise(4, 4)])
    context: Any = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_a_process, args=(doubling, theirs))
    process.start()
    try:
        assert ours.poll(60), "the process says nothing"
        np.testing.assert_array_equal(ours.recv(), repeated(noise(9, 9), 2))
    finally:
        process.join(10)
        process.kill()
    again = pickle.loads(pickle.dumps(doubling))  # noqa: S301
    assert again == doubling and not again._sessions
    np.testing.assert_array_equal(again.several([noise(9, 9)])[0], repeated(noise(9, 9), 2))


def test_it_is_what_a_degradation_enlarges_with(doubling: Enlarger) -> None:
    image = noise(112, 112)
    found = Degradation.parse("lowres:56", doubling)(image, 0)
    np.testing.assert_array_equal(found, repeated(downsample(image, 56), 2))


# files


@pytest.mark.parametrize(("architecture", "scale"), [("espcn", 8), ("edsr", 4)])
def test_ours_are_as_in_torch(architecture: str, scale: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = learnt(architecture, scale)
    save_network(network, tmp_path / "it.safetensors")
    enlarger = open_enlarger(str(tmp_path / "it.safetensors"))
    assert enlarger.scale == scale and enlarger.name.startswith("it.safetensors@")
    for image in (noise(14, 14), noise(11, 17)):
        close(enlarger.several([image])[0], by_torch(network, image))
    image = noise(70, 90)
    whole = enlarger.several([image])[0]
    monkeypatch.setattr(superresolution, "TILE", 24)  # what looks around each pixel sees the same in a tile
    close(enlarger.several([image])[0], whole)


def test_torchscript_and_onnx_give_the_same(tmp_path: Path) -> None:
    network = learnt()
    traced = torch.jit.trace(network, torch.rand(1, 3, 9, 11))
    save_script(traced, tmp_path / "it.pt")
    (tmp_path / "it.onnx").write_bytes(to_onnx(tmp_path / "it.pt"))
    image = noise(14, 14)
    for name in ("it.pt", "it.onnx"):
        close(open_enlarger(str(tmp_path / name)).several([image])[0], by_torch(network, image))


def test_the_onnx_says_nothing_of_this_machine_and_is_the_same_every_time() -> None:
    first, again = (export(learnt(), "it") for _ in range(2))
    assert first == again
    assert str(ROOT).encode() not in first and b"site-packages" not in first


@pytest.mark.parametrize("architecture", ["espcn", "edsr"])
def test_an_untrained_network_is_bicubic(architecture: str, orl: dict[str, bytes]) -> None:
    """Torch's bicubic interpolation, which has another constant than OpenCV's at the same sampling."""
    face = decode_rgb(orl["s1/1.pgm"])[::4, ::4]
    plain = Enlarger().several([face], 4)[0]
    assert np.abs(by_torch(Enlarging(architecture, 4, 8, 2).eval(), face).astype(int) - plain).mean() < 1.5


def test_a_folder_keeps_what_it_was_given(doubling: Enlarger, tmp_path: Path) -> None:
    known = Enlarger(doubling.name, 2, doubling.network, ("s1", "s2"))
    told = known.write(tmp_path)
    assert told == SuperresolutionRecord.read(tmp_path / ABOUT_FILE)
    assert (told.scale, told.sha256) == (2, sha256_file(tmp_path / NETWORK_FILE))
    for uri in (tmp_path, tmp_path / NETWORK_FILE):
        found = open_enlarger(str(uri))
        assert (found.scale, found.identities, found.network) == (2, ("s1", "s2"), known.network)
    assert open_enlarger(str(tmp_path)) == known


def test_people_are_not_told_of_another_network_in_the_folder(doubling: Enlarger, tmp_path: Path) -> None:
    Enlarger(doubling.name, 2, doubling.network, ("s1",)).write(tmp_path)
    assert open_enlarger(str(nearest(tmp_path / "other.onnx", 3))).identities == ()


def test_a_network_trained_here_is_known_by_its_weights_too(tmp_path: Path) -> None:
    save_network(learnt(), tmp_path / "it.safetensors")
    weights = hashlib.sha256((tmp_path / "it.safetensors").read_bytes()).hexdigest()
    (tmp_path / ABOUT_FILE).write_text(json.dumps({"weights_sha256": weights, "identities": ["s7"]}), "utf-8")
    assert open_enlarger(str(tmp_path / "it.safetensors")).identities == ("s7",)


def test_onnx_needs_no_torch(tmp_path: Path) -> None:
    save_network(learnt(), tmp_path / "it.safetensors")
    network = nearest(tmp_path / "two.onnx", 2)
    program = f"""
import sys
sys.modules["torch"] = None
from kubeface.models.superresolution import open_enlarger
import numpy as np
print(open_enlarger({str(network)!r}).several([np.zeros((4, 4, 3), np.uint8)])[0].shape)
try:
    open_enlarger({str(tmp_path / "it.safetensors")!r})
except Exception as error:
    print(type(error).__name__, error)
"""
    shape, said = run_python(program).splitlines()
    assert shape == "(8, 8, 3)"
    assert said.startswith("KubefaceError it.safetensors needs torch (") and "give the .onnx" in said


# what is refused


def test_a_folder_whose_network_was_exchanged_is_refused(doubling: Enlarger, tmp_path: Path) -> None:
    doubling.write(tmp_path)
    nearest(tmp_path / NETWORK_FILE, 3)
    with pytest.raises(KubefaceError, match=r"is not the network that superresolution\.json beside it describes"):
        open_enlarger(str(tmp_path))


@pytest.mark.parametrize("about", ["[]", '{"identities": "s1"}', "{"])
def test_a_description_of_something_else_is_refused(doubling: Enlarger, tmp_path: Path, about: str) -> None:
    doubling.write(tmp_path)
    (tmp_path / ABOUT_FILE).write_text(about)
    for uri in (tmp_path, tmp_path / NETWORK_FILE):
        with pytest.raises(KubefaceError, match=r"superresolution\.json describes no network: train it again"):
            open_enlarger(str(uri))


@pytest.mark.parametrize("name", ["nothing", "network.bin", ""])
def test_what_is_no_network_is_told_with_what_may_be_given(tmp_path: Path, name: str) -> None:
    if name == "network.bin":
        (tmp_path / name).write_bytes(b"0")
    with pytest.raises(KubefaceError, match=r"use bicubic, a file \(\.onnx.*\) or a folder with superresolution\.onnx"):
        open_enlarger(str(tmp_path / name))


@pytest.mark.parametrize("name", ["it.onnx", "it.safetensors", "it.pt"])
@pytest.mark.parametrize("data", [b"", b"something else", None])
def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(KubefaceError) as raised:
        open_enlarger(str(tmp_path / name))
    assert name in str(raised.value)


def test_a_network_that_does_not_enlarge_rgb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="is no network from N×3×H×W"):
        open_enlarger(str(nearest(tmp_path / "grey.onnx", 2, channels=1)))
    with pytest.raises(KubefaceError, match="must enlarge RGB images a whole number of times, at most 16"):
        open_enlarger(str(nearest(tmp_path / "much.onnx", 17)))


class Fixed(nn.Module):
    """Makes 16×16 of whatever it is given."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.interpolate(images, size=(16, 16))


def test_a_network_of_one_size_is_refused(tmp_path: Path) -> None:
    save_script(torch.jit.script(Fixed()), tmp_path / "fixed.pt")
    with pytest.raises(KubefaceError, match=r"fixed\.pt"):
        open_enlarger(str(tmp_path / "fixed.pt"))


def test_weights_come_back_with_what_they_are_of(tmp_path: Path) -> None:
    network = learnt("espcn", 4, 6, 3)
    save_network(network, tmp_path / "it.safetensors")
    found = load_network(tmp_path / "it.safetensors")
    assert found.design == NetworkDesign(architecture="espcn", scale=4, channels=6, blocks=3)
    assert not found.training
    for name, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "face.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(KubefaceError, match="says nothing of a super-resolution network"):
        load_network(path)
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path, {"kubeface_superresolution": '{"scale": 2}'})
    with pytest.raises(KubefaceError, match="is no readable super-resolution network"):
        load_network(path)
