"""MTCNN without torch finds what facenet-pytorch's own finds, to a thousandth of a pixel."""

import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import nms_numpy
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.ops import nms

from kubeface.faces.detection import make_detector
from kubeface.faces.detector import NO_FACES, Detector, Faces
from kubeface.faces.images import RGB, decode_rgb
from kubeface.faces.mtcnn_networks import mtcnn_networks, write_mtcnn
from kubeface.faces.mtcnn_onnx import Areas, Floats, _distinct, _not_contained, load_mtcnn
from kubeface.runtime.errors import KubefaceError


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mtcnn") / "mtcnn.zip"
    write_mtcnn(path)
    return path


@pytest.fixture(scope="module")
def detect(networks: Path) -> Detector:
    return load_mtcnn(networks, 20, threads=1)


@pytest.fixture(scope="module")
def peer() -> Detector:
    return facenet_pytorch(20)


def facenet_pytorch(min_face_size: int) -> Detector:
    """The package's own MTCNN."""
    network = MTCNN(min_face_size=min_face_size, keep_all=True)

    def find(image: RGB) -> Faces:
        try:
            boxes, scores, landmarks = network.detect(Image.fromarray(image), landmarks=True)
        except (IndexError, RuntimeError, ValueError) as error:  # a stage that leaves nothing, or a box outside
            assert any(text in str(error) for text in ("expected a non-empty list", "shape of the mask"))
            return NO_FACES
        if boxes is None:
            return NO_FACES
        return Faces(*(np.array(part, np.float64) for part in (boxes, scores, landmarks)))

    return Detector("mtcnn", find, min_face_size)


def agree(ours: Faces, theirs: Faces) -> None:
    assert len(ours) == len(theirs)
    for name in ("boxes", "scores", "landmarks"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert np.abs(one - other).max(initial=0) < 1e-3


@pytest.mark.parametrize("shape", [(112, 92), (250, 250), (1, 1), (5, 300), (300, 5), (20, 21), (33, 1)])
def test_it_agrees_on_images_without_a_face(shape: tuple[int, int], detect: Detector, peer: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        agree(detect(image), peer(image))


def test_it_finds_what_facenet_pytorch_finds(detect: Detector, peer: Detector, orl: dict[str, bytes]) -> None:
    for person in range(1, 41, 2):
        image = decode_rgb(orl[f"s{person}/1.pgm"])
        faces = detect(image)
        assert len(faces)
        agree(faces, peer(image))


def test_it_agrees_on_photographs_of_many_faces(detect: Detector, peer: Detector, orl: dict[str, bytes]) -> None:
    images = [decode_rgb(orl[f"s{person}/2.pgm"]) for person in range(1, 13)]
    group = np.concatenate([np.concatenate(images[row : row + 4], 1) for row in (0, 4, 8)])
    for image in (group, np.asarray(cv2.resize(group, (700, 350)), np.uint8), group[30:, 50:]):
        faces = detect(image)
        assert len(faces) >= 6
        agree(faces, peer(image))


def test_faces_under_the_least_size_are_left_out(networks: Path, orl: dict[str, bytes]) -> None:
    image = decode_rgb(orl["s1/1.pgm"])
    for size in (40, 60, 100):
        agree(load_mtcnn(networks, size, 1)(image), facenet_pytorch(size)(image))
    assert len(load_mtcnn(networks, 40, 1)(image)) == 1
    assert len(load_mtcnn(networks, 100, 1)(image)) == 0


def as_torch(part: RGB, height: int, width: int) -> Floats:
    """facenet-pytorch's imresample and normalisation."""
    planes = torch.from_numpy(part.astype(np.float32)).permute(2, 0, 1)[None]
    return np.asarray((interpolate(planes, size=(height, width), mode="area") - 127.5) * 0.0078125)


sides = st.integers(1, 40)


@given(sides, sides, sides, sides, st.data())
def test_area_averages_as_in_torch(height: int, width: int, to_height: int, to_width: int, data: st.DataObject) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    areas = Areas(image)
    assert np.abs(areas.whole(to_height, to_width) - as_torch(image, to_height, to_width)).max() < 1e-5
    x1, x2 = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    box = np.array([[x1 + 1, y1 + 1, x2, y2]], np.float32)  # MTCNN's boxes count from 1, the last pixel is in
    assert np.abs(areas.crops(box + 0.5, to_width) - as_torch(image[y1:y2, x1:x2], to_width, to_width)).max() < 1e-5


def test_boxes_beyond_the_edge_are_clipped_or_dropped() -> None:
    areas = Areas(np.zeros((10, 20, 3), np.uint8))
    within = [[1, 1, 20, 10], [-5, -5, 1, 1], [20, 10, 40, 40], [-9, -9, 99, 99]]
    outside = [[-9, 1, 0, 5], [21, 1, 30, 5], [1, 11, 5, 30], [5, 5, 4, 9]]
    boxes = np.array(within + outside, np.float32)
    assert areas.inside(boxes).tolist() == within
    assert areas.crops(areas.inside(boxes), 24).shape == (4, 3, 24, 24)


def test_sums_may_overflow() -> None:
    white = np.full((2200, 4100, 3), 255, np.uint8)
    assert 255 * 2200 * 4100 > 2**31
    areas = Areas(white)
    assert (areas.whole(7, 5) == np.float32(127.5 / 128)).all()
    assert (areas.crops(np.array([[4000, 2100, 4100, 2200]], np.float32), 24) == np.float32(127.5 / 128)).all()


boxes_and_scores = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9)),
    max_size=15,
)


@given(boxes_and_scores)
def test_suppression_is_that_of_facenet_pytorch(drawn: list[tuple[int, ...]]) -> None:
    table = np.array(drawn, np.float32).reshape(-1, 5)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1)
    scores = np.asarray(0.7 + table[:, 4] / 30, np.float32)
    theirs = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.7)
    assert _distinct(boxes, scores, 0.7).tolist() == theirs.tolist()
    if len(table):
        assert _not_contained(boxes, scores, 0.7).tolist() == nms_numpy(boxes, scores, 0.7, "Min").tolist()
    else:
        assert _not_contained(boxes, scores, 0.7).tolist() == []


def test_the_detector_by_name_is_the_one_of_a_model_folder(detect: Detector, orl: dict[str, bytes]) -> None:
    image = decode_rgb(orl["s1/1.pgm"])
    assert (make_detector("mtcnn", 20)(image).landmarks == detect(image).landmarks).all()


def test_a_broken_archive_is_named(networks: Path, tmp_path: Path) -> None:
    path = tmp_path / "mtcnn.zip"
    message = rf"^{re.escape(str(path))} does not hold MTCNN's networks \(.*\): fetch the model folder anew$"
    path.write_bytes(b"nothing")
    with pytest.raises(KubefaceError, match=message):
        load_mtcnn(path, 20)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("pnet.onnx", "rnet.onnx", "onet.onnx"):
            archive.writestr(name, b"no network")
    with pytest.raises(KubefaceError, match=message):
        load_mtcnn(path, 20)
    path.write_bytes(networks.read_bytes()[:-50_000])
    with pytest.raises(KubefaceError, match=message):
        load_mtcnn(path, 20)


def test_equal_networks_give_equal_bytes(networks: Path, tmp_path: Path) -> None:
    mtcnn_networks.cache_clear()
    write_mtcnn(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == networks.read_bytes()
