"""Augmentations: what each does to pixels, how often, and that nothing but the generator decides."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB
from kubeface.finetune import augment
from kubeface.finetune.augment import KINDS, Augmentation
from kubeface.runtime.keyed_rng import keyed_rng

BOTH, STUDENT = KINDS[:4], KINDS[4:]


def only(kind: str, value: float = 1.0) -> Augmentation:
    return Augmentation(**{"flip": 0.0, kind: value})


def make(augmentation: Augmentation, image: RGB, *key: object) -> RGB:
    random = keyed_rng(*key)
    return augmentation.student(augmentation.both(image, random), random)


def theirs(change: Callable[..., Tensor], image: RGB, *args: Any, **options: Any) -> RGB:
    """What torchvision's function makes of the image."""
    return change(torch.from_numpy(image).permute(2, 0, 1), *args, **options).permute(1, 2, 0).numpy()


def difference(a: RGB, b: RGB) -> Any:
    return np.abs(a.astype(int) - b.astype(int))


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_changes_the_pixels_and_nothing_else(kind: str, crop: RGB) -> None:
    before = crop.copy()
    after = make(only(kind, 0.5 if kind == "jitter" else 1.0), crop, 1)
    assert (after.shape, after.dtype) == (crop.shape, np.dtype(np.uint8))
    assert after.flags.c_contiguous and after.flags.writeable
    assert difference(after, crop).mean() > 0.5
    np.testing.assert_array_equal(crop, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (160, 120)])
def test_each_takes_every_shape(kind: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for seed in range(10):
        assert make(only(kind, 0.5), image, seed).shape == (*shape, 3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "jitter"])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_each_happens_with_its_probability(
    kind: str, probability: float, crop: RGB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within four standard deviations of 400 tosses, each strong enough to be seen."""
    for name, ends in {"CROP_AREA": (0.5, 0.6), "BLUR_SIGMA": (1.0, 2.0), "LOW_RESOLUTION_SIDE": (8, 20)}.items():
        monkeypatch.setattr(augment, name, ends)
    augmentation, image = only(kind, probability), crop[:40, :40]
    happened = [not np.array_equal(make(augmentation, image, seed), image) for seed in range(400)]
    assert np.mean(happened) == pytest.approx(probability, abs=0.092 if 0 < probability < 1 else 0)


@given(
    probabilities=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 8),
    jitter=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**32),
)
def test_the_generator_alone_decides(probabilities: tuple[float, ...], jitter: float, seed: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    kinds = [kind for kind in KINDS if kind != "jitter"]
    chosen: dict[str, Any] = dict(zip(kinds, probabilities, strict=True))
    augmentation = Augmentation(**chosen, jitter=jitter)
    first = make(augmentation, image, seed)
    np.random.random()  # what others draw does not matter
    make(augmentation, image, seed + 1)
    np.testing.assert_array_equal(make(augmentation, image, seed), first)


def test_another_key_gives_another_crop(crop: RGB) -> None:
    chosen: dict[str, Any] = dict.fromkeys(KINDS, 0.5) | {"jitter": 0.2}
    augmentation = Augmentation(**chosen)
    made = [make(augmentation, crop, seed).tobytes() for seed in range(20)]
    assert len(set(made)) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_which_model_sees_it(kind: str, crop: RGB) -> None:
    augmentation = only(kind, 0.5 if kind == "jitter" else 1.0)
    assert np.array_equal(augmentation.both(crop, keyed_rng(1)), crop) == (kind in STUDENT)
    assert np.array_equal(augmentation.student(crop, keyed_rng(1)), crop) == (kind in BOTH)


@pytest.mark.parametrize("kind", STUDENT)
def test_what_is_off_alters_nothing_else(kind: str, crop: RGB) -> None:
    """Flips and colours are the same with and without a poor camera behind them."""
    added: dict[str, Any] = {kind: 1.0}
    plain, more = Augmentation(jitter=0.2), Augmentation(jitter=0.2, **added)
    for seed in range(5):
        np.testing.assert_array_equal(plain.both(crop, keyed_rng(seed)), more.both(crop, keyed_rng(seed)))


def test_nothing_gives_the_image_itself(crop: RGB) -> None:
    assert make(Augmentation(flip=0.0), crop, 1) is crop


def test_alone() -> None:
    assert Augmentation(0.5, jitter=0.2, jpeg=0.1).alone() == {
        "flip": Augmentation(1.0), "jitter": Augmentation(0.0, jitter=0.2), "jpeg": Augmentation(0.0, jpeg=1.0),
    }  # fmt: skip


# --- one by one -----------------------------------------------------------------------------------------------------


def test_flip_mirrors(crop: RGB) -> None:
    np.testing.assert_array_equal(make(only("flip"), crop, 1), crop[:, ::-1])


@pytest.mark.parametrize("area", [0.25, 0.8])
def test_crop_enlarges_a_part(area: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that say where they are tell how large the part was and that it lies anywhere within the image."""
    rows, columns = np.mgrid[:112, :112] * 2
    image = np.dstack([rows, columns, rows]).astype(np.uint8)
    starts = []
    monkeypatch.setattr(augment, "CROP_AREA", (area, area))
    for seed in range(60):
        part = make(only("crop"), image, seed) / 2.0
        height, width = part[-1, 0, 0] - part[0, 0, 0] + 1, part[0, -1, 1] - part[0, 0, 1] + 1
        assert (height, width) == pytest.approx((112 * area**0.5,) * 2, abs=2)
        starts.append((part[0, 0, 0], part[0, 0, 1]))
    room = 112 - 112 * area**0.5
    assert np.min(starts) < 0.15 * room and np.max(starts) > 0.85 * room
    assert abs(np.corrcoef(np.array(starts).T)[0, 1]) < 0.4


def test_crop_is_torchvisions_resized_crop(crop: RGB, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole (area 1) stays as it is, and any part is enlarged as theirs, to two grey levels."""
    monkeypatch.setattr(augment, "CROP_AREA", (1.0, 1.0))
    np.testing.assert_array_equal(make(only("crop"), crop, 1), crop)
    monkeypatch.setattr(augment, "CROP_AREA", (0.5, 0.5))
    ours = make(only("crop"), crop, 1)
    candidates = [
        difference(theirs(functional.resized_crop, crop, top, left, 79, 79, [112, 112]), ours).max()
        for top in range(34)
        for left in range(34)
    ]
    assert min(candidates) <= 2 and sorted(candidates)[1] > 10


def test_warp_is_torchvisions_affine(crop: RGB, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned, enlarged and shifted as theirs, to what interpolation at 1/32 of a pixel leaves."""
    smooth = np.asarray(cv2.GaussianBlur(crop, (0, 0), 3), np.uint8)
    for seed in range(5):
        random = keyed_rng(seed)
        random.random()  # whether it happens
        angle, size, _, _, right, down = random.standard_normal(6) * augment.WARP
        with monkeypatch.context() as patch:
            patch.setattr(augment, "WARP", augment.WARP * [1, 1, 0, 0, 1, 1])
            ours = make(only("warp"), smooth, seed)
        expected = torch.from_numpy(smooth).permute(2, 0, 1).float()
        expected = functional.affine(
            expected, float(angle), [right * 112, down * 112], float(np.exp(size)), [0.0, 0.0],
            interpolation=functional.InterpolationMode.BILINEAR, fill=-1000.0,
        )  # fmt: skip
        there = expected.permute(1, 2, 0).numpy()
        inside = there.min(2) >= 0
        assert inside.mean() > 0.5
        assert np.abs(ours - there)[inside].mean() < 1


def test_warp_is_a_linear_map_near_none() -> None:
    """Pixels that say where they come from: one linear map for all of a crop, and none that takes a face away."""
    rows, columns = np.mgrid[:112, :112] * 2
    image = np.dstack([columns, rows, rows]).astype(np.uint8)
    middle = np.mgrid[46:66, 46:66].reshape(2, -1).T
    maps = []
    for seed in range(40):
        came = make(only("warp"), image, seed)[46:66, 46:66].reshape(-1, 3)[:, 1::-1] / 2.0
        found, rest, *_ = np.linalg.lstsq(np.column_stack([middle, np.ones(400)]), came, rcond=None)
        assert (rest / 400).max() < 0.1
        maps.append(found)
    spread = np.array(maps)
    assert np.abs(spread.mean(0)[:2] - np.eye(2)).max() < 0.06
    assert spread.std(0)[:2].min() > 0.02 and spread.std(0)[:2].max() < 0.2


@given(seed=st.integers(0, 2**32), strength=st.floats(0.01, 0.9))
def test_jitter_is_torchvisions(seed: int, strength: float) -> None:
    """Brightness, contrast and saturation by v2's functions, but for whole numbers that floats may miss by a hair."""
    image = np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    ours = make(only("jitter", strength), image, seed)
    brightness, contrast, saturation = (float(f) for f in keyed_rng(seed).uniform(1 - strength, 1 + strength, 3))
    bright = theirs(functional.adjust_brightness, image, brightness)
    flat = theirs(functional.adjust_contrast, bright, contrast)
    expected = theirs(functional.adjust_saturation, flat, saturation)
    weights = np.array([0.2989, 0.587, 0.114])
    middle, grey = np.floor(bright @ weights).mean(), flat @ weights
    doubtful = np.zeros(image.shape, bool)
    for exact in (image * brightness, bright * contrast + middle * (1 - contrast), np.dstack([grey] * 3),
                  flat * saturation + np.floor(grey)[..., None] * (1 - saturation)):  # fmt: skip
        doubtful |= np.abs(exact - exact.round()) < 2e-3
    assert (doubtful | (ours == expected)).all()
    assert difference(ours, expected).max() <= 2 and (ours == expected).mean() > 0.9


def test_greyscale_is_torchvisions(crop: RGB) -> None:
    for image in (crop, np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)):
        ours = make(only("greyscale"), image, 1)
        assert (ours == ours[..., :1]).all()
        expected = theirs(functional.rgb_to_grayscale, image, num_output_channels=3)
        assert difference(ours, expected).max() <= 1
        assert (ours != expected).mean() < 0.001


def test_blur_is_of_its_strength(crop: RGB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "BLUR_SIGMA", (1.5, 1.5))
    ours = make(only("blur"), crop, 1)
    expected = theirs(functional.gaussian_blur, crop, [13, 13], [1.5, 1.5])
    assert difference(ours, expected).max() <= 2
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    monkeypatch.setattr(augment, "BLUR_SIGMA", (0.5, 2.0))
    peaks = [int(make(only("blur"), point, seed).max()) for seed in range(100)]
    # A blurred point is as high as its σ allows: the square of the kernel's middle.
    assert min(peaks) == pytest.approx(255 / (2 * np.pi * 2.0**2), abs=2)
    assert max(peaks) > 130


@pytest.mark.parametrize(
    ("kind", "ends", "degradation"),
    [("jpeg", "JPEG_QUALITY", "jpeg"), ("low_resolution", "LOW_RESOLUTION_SIDE", "lowres")],
)
def test_whole_numbers_from_end_to_end(
    kind: str, ends: str, degradation: str, crop: RGB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 20, 21 and 22 comes, and is the degradation of that strength."""
    monkeypatch.setattr(augment, ends, (20, 22))
    expected = {Degradation(degradation, value)(crop).tobytes(): value for value in (20, 21, 22)}
    came = [expected[make(only(kind), crop, seed).tobytes()] for seed in range(60)]
    assert all(10 <= came.count(value) <= 32 for value in (20, 21, 22))


def test_cutout_covers_a_rectangle_of_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((112, 112, 3), 200, np.uint8)
    covered, centres, aspects = [], [], []
    monkeypatch.setattr(augment, "CUTOUT_AREA", (0.1, 0.2))
    for seed in range(300):
        hidden = (make(only("cutout"), image, seed) == 127).all(2)
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert hidden.sum() == len(rows) * len(columns)
        assert rows[-1] - rows[0] + 1 == len(rows) and columns[-1] - columns[0] + 1 == len(columns)
        covered.append(hidden.mean())
        centres.append((rows.mean(), columns.mean()))
        aspects.append(len(rows) / len(columns))
    assert 0.095 < min(covered) < 0.11 and 0.19 < max(covered) < 0.205
    assert np.mean(covered) == pytest.approx(0.15, abs=0.006)
    assert 0.28 < min(aspects) < 0.4 and 2.6 < max(aspects) < 3.5
    assert np.mean(np.log(aspects)) == pytest.approx(0, abs=0.15)  # as often high as wide
    assert np.mean(centres, axis=0) == pytest.approx([55.5, 55.5], abs=4)
    assert (np.std(centres, axis=0) > 10).all()


def test_a_camera_compresses_last(crop: RGB, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hides the face lies before the lens, and the file is made of what the sensor saw."""
    augmentation = Augmentation(0.0, cutout=1.0, blur=1.0, low_resolution=1.0, greyscale=1.0, jpeg=1.0)
    camera = Augmentation(0.0, cutout=1.0, blur=1.0, low_resolution=1.0, greyscale=1.0)
    before = make(camera, crop, 3)
    again = {Degradation("jpeg", quality)(before).tobytes() for quality in range(10, 76)}
    assert make(augmentation, crop, 3).tobytes() in again
    sharp = np.zeros((112, 112, 3), np.uint8)
    monkeypatch.setattr(augment, "BLUR_SIGMA", (3.0, 3.0))
    edges = cv2.Laplacian(make(Augmentation(0.0, cutout=1.0, blur=1.0), sharp, 3), cv2.CV_64F)
    assert np.abs(edges).max() < 30  # the rectangle's edge is soft
