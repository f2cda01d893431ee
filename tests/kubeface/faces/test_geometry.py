"""Similarity transforms, crops, and the choice of one face among several."""

import math
from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kubeface.faces.geometry import (
    ARCFACE_112,
    PORTRAIT_CORNER,
    TEMPLATE_SIZES,
    TEMPLATES,
    Points,
    align_crop,
    box_crop,
    centre_crop,
    face_part,
    head_turn,
    middle_square,
    most_prominent,
    overlap,
    similarity_transform,
)

angles = st.floats(-math.pi, math.pi)
scales = st.floats(0.05, 20)
shifts = st.floats(-500, 500)


def similarity(angle: float, scale: float, x: float, y: float) -> Points:
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


def apply(matrix: Points, points: Points) -> Points:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


@given(angle=angles, scale=scales, x=shifts, y=shifts)
def test_a_similarity_is_recovered(angle: float, scale: float, x: float, y: float) -> None:
    truth = similarity(angle, scale, x, y)
    landmarks = apply(truth, ARCFACE_112)
    assert similarity_transform(ARCFACE_112, landmarks) == pytest.approx(truth, rel=1e-6, abs=1e-6)
    assert apply(similarity_transform(landmarks), landmarks) == pytest.approx(ARCFACE_112, abs=1e-6)


@given(values=st.lists(st.floats(-200, 200), min_size=10, max_size=10))
def test_the_result_is_a_similarity_without_reflection_whatever_the_points(values: list[float]) -> None:
    points = np.array(values).reshape(5, 2)
    assume(points.var(0).sum() > 1e-3)
    matrix = similarity_transform(points)
    a, b, c, d = matrix[:, :2].ravel()
    assert math.isclose(a, d, abs_tol=1e-6)
    assert math.isclose(b, -c, abs_tol=1e-6)
    assert a * d - b * c >= -1e-9  # a reflection would be negative


@given(
    values=st.lists(st.floats(-3, 3), min_size=10, max_size=10),
    angle=angles,
    scale=st.floats(0.3, 3),
    side=st.sampled_from([1, -1]),
)
def test_no_neighbouring_similarity_fits_better(values: list[float], angle: float, scale: float, side: int) -> None:
    """Neither where the landmarks are a little off nor where they are a mirror image."""
    landmarks = apply(similarity(angle, scale, 30, -20), ARCFACE_112 * [side, 1]) + np.array(values).reshape(5, 2)
    matrix = similarity_transform(landmarks)

    def error(candidate: Points) -> float:
        return float(((apply(candidate, landmarks) - ARCFACE_112) ** 2).sum())

    best = error(matrix)
    for turn, grow, x, y in ((0.01, 1, 0, 0), (-0.01, 1, 0, 0), (0, 1.01, 0, 0), (0, 0.99, 0, 0), (0, 1, 1, 0)):
        step = similarity(turn, grow, x, y)
        moved = np.vstack([step, [0, 0, 1]]) @ np.vstack([matrix, [0, 0, 1]])
        assert error(moved[:2]) >= best - 1e-9


def test_landmarks_in_one_point_give_finite_numbers() -> None:
    assert np.isfinite(similarity_transform(np.full((5, 2), 7.0))).all()


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0, math.pi])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_crop_puts_each_landmark_where_the_template_says(angle: float, scale: float) -> None:
    landmarks = apply(similarity(angle, scale, 0, 0), ARCFACE_112 - 56) + np.array([200, 180])
    for index, (x, y) in enumerate(landmarks):
        image = np.zeros((360, 400, 3), np.uint8)
        cv2.circle(image, (round(x), round(y)), round(3 * scale), (255, 0, 0), -1)
        crop = align_crop(image, landmarks)
        assert crop.shape == (112, 112, 3)
        assert crop.dtype == np.uint8
        assert crop[..., 1:].max() == 0  # red stays red
        weight = crop[..., 0].astype(float)
        ys, xs = np.mgrid[:112, :112]
        centre = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
        assert centre == pytest.approx(ARCFACE_112[index], abs=0.8)


def test_the_crop_of_a_crop_is_the_crop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert (align_crop(image, ARCFACE_112) == image).all()


def test_the_centre_crop_is_the_middle_square() -> None:
    image = np.zeros((250, 300, 3), np.uint8)
    image[62:187, 87:212] = [10, 20, 30]
    crop = centre_crop(image)
    assert crop.shape == (112, 112, 3)
    assert (crop == [10, 20, 30]).all()
    image[:62] = image[187:] = 255
    assert (centre_crop(image) == crop).all()
    for shape in ((1, 1), (1, 300), (300, 2)):  # of whatever size the photograph
        assert (centre_crop(np.full((*shape, 3), 77, np.uint8)) == np.full((112, 112, 3), 77)).all()


def box(x: float, y: float, side: float) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


@given(
    boxes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(5, 150)), min_size=1, max_size=6),
    random=st.randoms(use_true_random=False),
)
def test_the_choice_does_not_depend_on_the_order(boxes: list[tuple[int, int, int]], random: Random) -> None:
    shuffled = list(boxes)
    random.shuffle(shuffled)
    chosen = [
        boxes_[most_prominent(np.array([box(*b) for b in boxes_], np.float64), 200, 200)]
        for boxes_ in (boxes, shuffled)
    ]

    def score(x: int, y: int, side: int) -> float:
        return side**2 - 2 * ((x - 100) ** 2 + (y - 100) ** 2)

    assert score(*chosen[0]) == score(*chosen[1]) == max(score(*b) for b in boxes)


corners = st.tuples(*[st.integers(-50, 150)] * 2, *[st.integers(1, 200)] * 2)


@given(one=corners, other=corners)
def test_overlap_is_that_of_the_pixels(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    first, second = (np.array([x, y, x + width, y + height], float) for x, y, width, height in (one, other))
    painted = []
    for x1, y1, x2, y2 in (first.astype(int) + 50, second.astype(int) + 50):
        pixels = np.zeros((400, 400), bool)
        pixels[y1:y2, x1:x2] = True
        painted.append(pixels)
    expected = (painted[0] & painted[1]).sum() / (painted[0] | painted[1]).sum()
    assert overlap(first, second) == overlap(second, first) == pytest.approx(expected)
    assert overlap(first, first) == 1


@given(angle=angles, scale=scales, x=shifts, y=shifts, nose=st.floats(-60, 60))
def test_turn_is_the_same_however_the_face_lies(angle: float, scale: float, x: float, y: float, nose: float) -> None:
    face = ARCFACE_112.copy()
    face[2, 0] += nose
    turn = head_turn(face)
    assert 0 <= turn <= 1
    assert head_turn(apply(similarity(angle, scale, x, y), face)) == pytest.approx(turn, abs=1e-6)
    assert head_turn((face * [-1, 1])[[1, 0, 2, 4, 3]]) == pytest.approx(turn, abs=1e-6)  # in a mirror


def test_head_turn_of_known_faces() -> None:
    assert head_turn(ARCFACE_112) < 0.02
    for offset, expected in ((0.25, 0.5), (0.5, 1), (0.8, 1)):  # of the eyes' distance, from the middle between them
        assert head_turn(np.array([[0, 0], [40, 0], [20 + 40 * offset, 25]], float)) == pytest.approx(expected)
    assert head_turn(np.zeros((5, 2))) == 0


def test_each_template_has_its_size() -> None:
    image = np.full((90, 70, 3), 50, np.uint8)
    assert TEMPLATES.keys() == TEMPLATE_SIZES.keys()
    for name, crop in TEMPLATES.items():
        pixels = crop(image, ARCFACE_112 / 2, np.array([10.0, 10, 50, 60]))
        assert pixels.shape == (TEMPLATE_SIZES[name], TEMPLATE_SIZES[name], 3)


@given(box=st.tuples(*[st.floats(-200, 300)] * 4))
def test_a_box_gives_a_crop_wherever_it_lies(box: tuple[float, ...]) -> None:
    assert box_crop(np.full((90, 70, 3), 50, np.uint8), np.array(box)).shape == (160, 160, 3)


@pytest.mark.parametrize(
    ("size", "square"), [((40, 30), (5, 0, 35, 30)), ((31, 50), (0, 9, 31, 40)), ((1, 1), (0, 0, 1, 1))]
)
def test_the_middle_square(size: tuple[int, int], square: tuple[int, ...]) -> None:
    assert tuple(middle_square(*size)) == square


def test_a_portrait_shows_the_face_at_its_corner() -> None:
    """About where CelebA's aligned images have it: eyes 35 pixels apart at half the height, the mouth below."""
    moved = ARCFACE_112 + PORTRAIT_CORNER
    image = np.zeros((224, 224, 3), np.uint8)
    for x, y in moved:
        cv2.circle(image, (round(x), round(y)), 2, (255, 255, 255), -1)
    portrait = TEMPLATES["portrait_224"](image, moved, np.zeros(4))
    assert abs(portrait.astype(int) - image).mean() < 0.1
    assert (face_part(portrait, "portrait_224") == portrait[60:172, 56:168]).all()
    assert face_part(portrait, "whole_224") is portrait
