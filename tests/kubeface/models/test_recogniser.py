"""A model as it is used: the same embeddings as in training and evaluation, and refusals in one line."""

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kubeface.align.options import AlignOptions
from kubeface.align.step import align
from kubeface.faces.degradation import downsample
from kubeface.faces.images import decode_rgb, encode_png
from kubeface.models import recogniser as module
from kubeface.models.model import FaceModel
from kubeface.models.recogniser import (
    Calibration,
    Crop,
    Face,
    LeftOut,
    Recogniser,
    find_crop,
    open_recogniser,
    similarity,
)
from kubeface.models.superresolution import open_enlarger
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import read_json, sha256_file
from kubeface.tables.resolution_pairs import native_side
from tests.support.exported import CALIBRATION, calibrated, configured, copied, exported
from tests.support.networks import nearest, repeated
from tests.support.tables import rows_of


@pytest.fixture(scope="module")
def folder() -> Path:
    return exported()


@pytest.fixture(scope="module")
def recogniser(folder: Path) -> Recogniser:
    return open_recogniser(str(folder))


def face_of(recogniser: Recogniser, photograph: bytes) -> Face:
    face = recogniser.face(photograph)
    assert isinstance(face, Face), face
    return face


def same_as_training(recogniser: Recogniser, table: Path, photographs: dict[str, bytes], sface: FaceModel) -> None:
    """Crops of align and embeddings of torch."""
    rows = rows_of(table)[::2]
    assert len(rows) >= 14
    for row in rows:
        face = face_of(recogniser, photographs[row["source"]])
        assert np.abs(face.landmarks.ravel() - row["landmarks"]).max() < 0.01
        assert np.abs(face.box - row["det_box"]).max() < 0.01
        assert face.score == pytest.approx(row["det_score"], abs=1e-4)
        theirs = sface.embed(decode_rgb(row["image"])[None])[0]
        assert face.embedding.shape == theirs.shape
        assert similarity(face.embedding, theirs) > 0.99999


def test_photographs_are_aligned_as_in_training(
    recogniser: Recogniser, aligned_table: Path, orl: dict[str, bytes], sface: FaceModel
) -> None:
    assert recogniser.detect.name == "mtcnn"
    same_as_training(recogniser, aligned_table, orl, sface)


def test_the_detector_is_the_one_of_the_training(
    folder: Path, faces_table: Path, orl: dict[str, bytes], sface: FaceModel, tmp_path: Path
) -> None:
    align(faces_table, tmp_path / "aligned", AlignOptions(detector="retinaface"))
    alignment = {"template": "arcface_112", "size": 112, "detector": "retinaface"}
    other = configured(copied(folder, tmp_path / "model"), alignment=alignment)
    (other / "mtcnn.zip").unlink()  # nobody asks for it
    found = open_recogniser(str(other))
    assert found.marks["detector"] == "retinaface"
    same_as_training(found, tmp_path / "aligned", orl, sface)


def test_flip_adds_a_mirror_image(folder: Path, recogniser: Recogniser, aligned_table: Path, sface: FaceModel) -> None:
    crop = decode_rgb(rows_of(aligned_table)[0]["image"])
    both = sface.embed(crop[None])[0] + sface.embed(crop[None], flip=True)[0]
    flipped = open_recogniser(str(folder), flip=True).embed(crop)
    assert np.linalg.norm(flipped) == pytest.approx(1, abs=1e-6)
    assert similarity(flipped, both / np.linalg.norm(both)) > 0.99999
    assert similarity(flipped, recogniser.embed(crop)) < 0.9999


def test_an_embedding_depends_on_its_photograph_only(recogniser: Recogniser, orl: dict[str, bytes]) -> None:
    names = [f"s{person}/{number}.pgm" for person in (1, 2, 3) for number in (1, 2)]
    alone = [face_of(recogniser, orl[name]) for name in names]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: face_of(recogniser, orl[name]), names * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert np.array_equal(one.embedding, other.embedding)
        assert np.array_equal(one.landmarks, other.landmarks)


def test_the_subject_of_several_faces_is_the_large_one(recogniser: Recogniser, orl: dict[str, bytes]) -> None:
    large = np.array(Image.fromarray(decode_rgb(orl["s1/1.pgm"])).resize((184, 224)))
    image = np.full((260, 330, 3), 120, np.uint8)
    image[20:244, 20:204] = large
    image[40:152, 225:317] = decode_rgb(orl["s2/1.pgm"])
    face = face_of(recogniser, encode_png(image))
    assert face.faces == 2
    assert face.box[2] < 210
    assert similarity(face.embedding, face_of(recogniser, orl["s1/1.pgm"]).embedding) > 0.8
    assert face_of(recogniser, orl["s1/1.pgm"]).faces == 1


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0 cut"])
def test_what_is_no_photograph_is_unreadable(data: bytes, recogniser: Recogniser) -> None:
    found = recogniser.face(data)
    assert isinstance(found, LeftOut)
    assert found.reason == "unreadable"
    assert found.detail


def test_no_sure_face_is_said(recogniser: Recogniser, orl: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    grey = encode_png(np.full((112, 92, 3), 128, np.uint8))
    assert recogniser.face(grey) == LeftOut("no_face", "mtcnn found none of 20 pixels and more")
    monkeypatch.setattr(module, "MIN_CONFIDENCE", 1.1)
    found = recogniser.face(orl["s1/1.pgm"])
    assert isinstance(found, LeftOut)
    assert found.reason == "low_confidence"
    assert re.fullmatch(r"mtcnn is sure of none: 1\.00, not 1\.1", found.detail)


def test_similarity_is_a_cosine() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 128)).astype(np.float32))
        assert similarity(a, b) == similarity(b, a)
        assert similarity(a, b) == pytest.approx(float(a @ b), abs=1e-6)
        assert 0.999999 < similarity(a, a) <= 1


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.1, 1e6), st.floats(-1e6, 1e6))
def test_confidence_rises_with_similarity(one: float, other: float, slope: float, intercept: float) -> None:
    fit = Calibration(weights_sha256="", **CALIBRATION | {"slope": slope, "intercept": intercept})
    low, high = sorted((one, other))
    assert 0 <= fit.confidence(low) <= fit.confidence(high) <= 1
    assert fit.confidence(-intercept / slope) == pytest.approx(0.5, abs=1e-6)
    mirrored = Calibration(weights_sha256="", **CALIBRATION | {"slope": -slope, "intercept": -intercept})
    assert fit.confidence(low) + mirrored.confidence(low) == pytest.approx(1)


def test_confidence_is_the_logistic_curve() -> None:
    fit = Calibration(weights_sha256="", **CALIBRATION)
    assert fit.confidence(0.4) == pytest.approx(1 / (1 + np.exp(-2)))
    assert fit.confidence(0.1) == pytest.approx(1 / (1 + np.exp(4)))


def test_threshold_is_the_given_one_else_the_calibrated(folder: Path, recogniser: Recogniser, tmp_path: Path) -> None:
    known = open_recogniser(str(calibrated(copied(folder, tmp_path / "model"))))
    assert known.threshold(None) == 0.3
    assert known.threshold(0.5) == 0.5
    assert known.calibration_in_force == known.calibration
    assert recogniser.calibration is None
    assert recogniser.threshold(-1.0) == -1
    with pytest.raises(KubefaceError, match=r"has no threshold\.json: use a promoted version, .* or give --threshold$"):
        recogniser.threshold(None)
    for wrong in (1.01, -2.0, float("nan")):
        with pytest.raises(KubefaceError, match=r"^threshold is .*: a cosine lies between -1 and 1$"):
            known.threshold(wrong)


@pytest.mark.parametrize("calibrated_with", [False, True])
def test_calibration_holds_for_its_flip(calibrated_with: bool, recogniser: Recogniser, orl: dict[str, bytes]) -> None:
    fit = Calibration(weights_sha256="", **CALIBRATION, flip=calibrated_with)
    other = dataclasses.replace(recogniser, calibration=fit, flip=not calibrated_with)
    said = "with flip: use --flip" if calibrated_with else "without flip: leave out --flip"
    with pytest.raises(KubefaceError, match=f"was calibrated {said}, or give --threshold"):
        other.threshold(None)
    assert other.threshold(0.4) == 0.4
    assert other.calibration_in_force is None
    assert dataclasses.replace(other, flip=calibrated_with).threshold(None) == 0.3


@pytest.mark.parametrize("name", ["model.json", "model.onnx", "mtcnn.zip"])
def test_a_missing_file_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "model")
    (other / name).unlink()
    with pytest.raises(KubefaceError, match=f"^{other}/{re.escape(name)} does not exist: give --model a folder"):
        open_recogniser(str(other))


@pytest.mark.parametrize("name", ["model.onnx", "mtcnn.zip"])
def test_a_changed_file_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "model")
    (other / name).write_bytes((folder / name).read_bytes() + b"\0")
    with pytest.raises(KubefaceError, match=f"{re.escape(name)} is not the file that model.json describes"):
        open_recogniser(str(other))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_sha256": None}, "model.json describes no model: give a folder of finetune or a promoted version"),
        ({"training": {}}, "was fine-tuned without ONNX, which is what runs without torch: fine-tune with --onnx"),
        ({"training": {"onnx": {"sha256": "0" * 64}}}, "model.onnx is not the file that model.json describes"),
        ({"alignment": {"template": "vgg_224", "size": 224}}, "template 'vgg_224' is unknown"),
        ({"alignment": {"template": "arcface_112", "size": 112, "detector": "yolo"}}, "detector 'yolo' is unknown"),
        (
            {"alignment": {"template": "facenet_160", "size": 160}},
            r"takes crops of \[3, 112, 112\], the model's template gives 3×160",
        ),
    ],
)
def test_an_unfitting_folder_is_refused(changes: dict[str, Any], said: str, folder: Path, tmp_path: Path) -> None:
    other = configured(copied(folder, tmp_path / "model"), **changes)
    with pytest.raises(KubefaceError, match=said):
        open_recogniser(str(other))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_sha256": "0" * 64}, "threshold.json was calibrated for a model with other weights"),
        (
            {"threshold": 1.5},
            "threshold.json: threshold is 1.5: input should be less than or equal to 1; evaluate the model again",
        ),
        ({"slope": None}, "threshold.json: slope is None: input should be a valid number"),
        ({"fmr": 0}, "threshold.json: fmr is 0: input should be greater than 0"),
    ],
)
def test_an_unfitting_threshold_is_refused(changes: dict[str, Any], said: str, folder: Path, tmp_path: Path) -> None:
    other = calibrated(copied(folder, tmp_path / "model"), **changes)
    with pytest.raises(KubefaceError, match=said):
        open_recogniser(str(other))


# --- faces of low resolution -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_network(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a network that repeats each pixel four times across and down."""
    to = copied(folder, tmp_path_factory.mktemp("few") / "model")
    network = nearest(tmp_path_factory.mktemp("network") / "nearest.onnx", 4)
    return configured(to, superresolution=open_enlarger(str(network)).write(to).model_dump(mode="json"))


@pytest.fixture(scope="module")
def enlarging(with_network: Path) -> Recogniser:
    return open_recogniser(str(with_network))


def shrunk(photograph: bytes, times: int) -> bytes:
    image = decode_rgb(photograph)
    size = image.shape[1] // times, image.shape[0] // times
    return encode_png(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8))


@pytest.mark.parametrize("scale", [4, 8])
def test_low_resolution_is_enlarged(scale: int, enlarging: Recogniser, orl: dict[str, bytes], tmp_path: Path) -> None:
    network = open_enlarger(str(nearest(tmp_path / "nearest.onnx", scale)))
    known = dataclasses.replace(enlarging, enlarger=network, times=scale)
    few = shrunk(orl["s1/1.pgm"], scale + 1)  # ORL's own crops have 113 pixels a side
    found = find_crop(few, known.detect, "arcface_112", scale)
    assert isinstance(found, Crop), found
    side = native_side(found.landmarks)
    assert 4 < side < 112 / scale
    small = downsample(found.pixels, round(side))
    repeats = np.asarray(cv2.resize(repeated(small, scale), (112, 112), interpolation=cv2.INTER_CUBIC), np.uint8)
    assert np.array_equal(known.enlarged(found), repeats)
    assert np.array_equal(face_of(known, few).embedding, known.embed(repeats))
    assert not np.array_equal(known.embed(repeats), known.embed(found.pixels))
    # A face that is found in an enlarged photograph stands where it is in the photograph itself.
    large, own = (face_of(known, data) for data in (orl["s1/1.pgm"], shrunk(orl["s1/1.pgm"], scale)))
    expected = (large.landmarks + 0.5) / scale - 0.5
    assert np.abs(own.landmarks - expected).max() < 1  # a pixel of the small photograph
    assert np.abs(own.box - ((large.box + 0.5) / scale - 0.5)).max() < 1.5


def test_a_low_resolution_model_finds_small_faces_alone(folder: Path, tmp_path: Path, orl: dict[str, bytes]) -> None:
    small = shrunk(orl["s1/1.pgm"], 6)
    assert isinstance(open_recogniser(str(folder)).face(small), LeftOut)
    training = read_json(folder / "model.json")["training"] | {"degradation": "lowres:10-20"}
    known = open_recogniser(str(configured(copied(folder, tmp_path / "few"), training=training)))
    found = find_crop(small, known.detect, "arcface_112", known.times)
    assert known.times == 4 and isinstance(found, Crop)
    assert np.array_equal(face_of(known, small).embedding, known.embed(found.pixels))


def test_a_sharp_face_is_left_as_it_is(enlarging: Recogniser, recogniser: Recogniser, orl: dict[str, bytes]) -> None:
    for name in ("s1/1.pgm", "s2/1.pgm"):
        assert np.array_equal(face_of(enlarging, orl[name]).embedding, face_of(recogniser, orl[name]).embedding)


def test_a_photograph_too_large_to_enlarge_is_searched_as_it_is(
    enlarging: Recogniser, monkeypatch: pytest.MonkeyPatch, orl: dict[str, bytes]
) -> None:
    none = LeftOut("no_face", "mtcnn found none of 20 pixels and more")
    assert enlarging.face(encode_png(np.full((28, 23, 3), 128, np.uint8))) == none
    monkeypatch.setattr(module, "MOST_SIDE", 40)
    assert enlarging.face(shrunk(orl["s1/1.pgm"], 4)) == none


def test_marks_say_which_network_enlarges(with_network: Path, enlarging: Recogniser, recogniser: Recogniser) -> None:
    network = sha256_file(with_network / "superresolution.onnx")
    assert enlarging.marks == recogniser.marks | {"superresolution": network}
    assert "superresolution" not in recogniser.marks


def test_a_missing_or_changed_network_is_refused(with_network: Path, tmp_path: Path) -> None:
    other = copied(with_network, tmp_path / "other")
    wrong = nearest(tmp_path / "wrong.onnx", 2)
    open_enlarger(str(wrong)).write(other)  # the network and what stands beside it are another one's
    with pytest.raises(KubefaceError, match=r"superresolution\.onnx is not the network that model\.json tells of"):
        open_recogniser(str(other))
    (other / "superresolution.onnx").unlink()
    with pytest.raises(KubefaceError, match=r"superresolution\.onnx"):
        open_recogniser(str(other))
