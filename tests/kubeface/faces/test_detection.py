"""Detectors on real photographs and on images without a face."""

import cv2
import numpy as np
import pytest
from retinaface import detect_faces

from kubeface.faces.detection import make_detector
from kubeface.faces.detector import Detector, Faces
from kubeface.faces.images import decode_rgb
from kubeface.runtime.errors import KubefaceError

NAMES = ["mtcnn", "retinaface"]


@pytest.fixture(scope="module")
def detectors() -> dict[str, Detector]:
    return {name: make_detector(name, 20) for name in NAMES}


@pytest.fixture(scope="module")
def detections(detectors: dict[str, Detector], orl: dict[str, bytes]) -> dict[str, list[Faces]]:
    """What each detector is sure of in 30 photographs of 30 people."""
    images = [decode_rgb(orl[f"s{person}/1.pgm"]) for person in range(1, 31)]
    return {name: [detect(image).confident(0.9) for image in images] for name, detect in detectors.items()}


@pytest.mark.parametrize("name", NAMES)
def test_real_faces_are_found(name: str, detections: dict[str, list[Faces]]) -> None:
    faces = [one for one in detections[name] if len(one)]
    assert len(faces) >= 29
    for one in faces:
        assert one.boxes.shape == (len(one), 4)
        assert one.landmarks.shape == (len(one), 5, 2)
        assert ((one.scores >= 0.9) & (one.scores <= 1)).all()
        best = one.prominent(92, 112)
        x1, y1, x2, y2 = one.boxes[best]
        assert 30 < x2 - x1 < 110  # the face fills most of a photograph of 92×112
        assert 40 < y2 - y1 < 130

    for one in detections[name]:  # landmarks are in order
        for box, (left, right, nose, mouth_left, mouth_right) in zip(one.boxes, one.landmarks, strict=True):
            assert left[0] < right[0]
            assert mouth_left[0] < mouth_right[0]
            assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
            assert box[0] < (left[0] + right[0]) / 2 < box[2]
            assert box[1] < nose[1] < box[3]


def test_landmarks_of_both_detectors_agree(detections: dict[str, list[Faces]]) -> None:
    distances = [
        np.linalg.norm(a.landmarks[a.prominent(92, 112)] - b.landmarks[b.prominent(92, 112)], axis=1)
        for a, b in zip(detections["mtcnn"], detections["retinaface"], strict=True)
        if len(a) and len(b)
    ]
    assert len(distances) >= 28
    assert np.median(distances) < 5
    assert np.median(distances, axis=0).max() < 6  # no landmark stands for another
    points = np.concatenate([faces.landmarks for faces in detections["retinaface"]])
    assert (points != np.round(points)).mean() > 0.9  # RetinaFace gives fractions of pixels


@pytest.mark.parametrize("name", NAMES)
def test_landmarks_move_with_the_photograph(name: str, detectors: dict[str, Detector], orl: dict[str, bytes]) -> None:
    image = decode_rgb(orl["s1/1.pgm"])
    wide = np.full((200, 240, 3), 90, np.uint8)
    wide[40:152, 100:192] = image
    one, other = detectors[name](image).confident(0.9), detectors[name](wide).confident(0.9)
    moved = other.landmarks[other.prominent(240, 200)] - one.landmarks[one.prominent(92, 112)]
    assert np.abs(moved - [100, 40]).max() < 6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(112, 92), (250, 250), (131, 77), (1, 1), (5, 300), (300, 5), (20, 21), (33, 1)])
def test_images_without_a_face_give_none(name: str, shape: tuple[int, int], detectors: dict[str, Detector]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in (noise, *(np.full((*shape, 3), level, np.uint8) for level in (0, 128, 255))):
        faces = detectors[name](image).confident(0.9)
        assert len(faces) == 0
        assert faces.boxes.shape == (0, 4)
        assert faces.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("name", NAMES)
def test_faces_under_the_least_size_are_left_out(name: str, orl: dict[str, bytes]) -> None:
    small = decode_rgb(orl["s1/1.pgm"])
    image = np.full((250, 340, 3), 100, np.uint8)
    image[20:132, 20:112] = small
    image[20:244, 140:324] = cv2.resize(small, (184, 224), interpolation=cv2.INTER_CUBIC)
    assert len(make_detector(name, 40)(image).confident(0.9)) == 2
    (box,) = make_detector(name, 100)(image).confident(0.9).boxes
    assert box[0] > 120
    assert len(make_detector(name, 240)(image)) == 0


def test_confident_faces_keep_their_boxes_scores_and_landmarks() -> None:
    faces = Faces(np.arange(12.0).reshape(3, 4), np.array([0.5, 0.9, 0.95]), np.arange(30.0).reshape(3, 5, 2))
    kept = faces.confident(0.9)
    assert (kept.boxes == faces.boxes[1:]).all()
    assert (kept.scores == [0.9, 0.95]).all()
    assert (kept.landmarks == faces.landmarks[1:]).all()
    assert len(faces.confident(0.96)) == 0


def test_no_detector_takes_the_middle_square_for_a_face() -> None:
    faces = make_detector("none", 400)(np.zeros((30, 51, 3), np.uint8))
    assert (faces.boxes.tolist(), faces.scores.tolist()) == ([[10, 0, 40, 30]], [1])
    assert faces.landmarks.tolist() == [[[0, 0]] * 5]


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(KubefaceError, match="detector 'yolo' is unknown: use mtcnn or retinaface"):
        make_detector("yolo", 20)


def test_retinaface_gives_what_its_package_gives(orl: dict[str, bytes]) -> None:
    detect = make_detector("retinaface", 1)
    for number in range(1, 11):
        image = decode_rgb(orl[f"s{number}/1.pgm"])
        ours = detect(image).confident(0.5)
        theirs = detect_faces(image, score_threshold=0.5)
        assert len(ours) == len(theirs)
        for box, score, face in zip(ours.boxes, ours.scores, theirs, strict=True):
            assert np.abs(box - [face.x, face.y, face.x + face.width, face.y + face.height]).max() < 2  # whole pixels
            assert score == pytest.approx(face.score, abs=1e-4)
