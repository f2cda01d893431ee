"""Degradations of crops: how they are written, and what they do to pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.faces.degradation import _KINDS, Degradation
from kubeface.faces.geometry import ARCFACE_112
from kubeface.faces.images import RGB
from kubeface.runtime.errors import KubefaceError

EVERY = ["noise:60", "lowres:14", "blur:4", "jpeg:5", "dark", "dark:0.5", "grey", "masked", "rotated:15"]


def test_parsing_and_printing_agree() -> None:
    assert {text: str(Degradation.parse(text)) for text in EVERY} == {text: text for text in EVERY} | {
        "dark": "dark:0.2"
    }
    assert str(Degradation.parse("none")) == "none" == str(Degradation())
    assert Degradation.parse(" blur:2.50 ") == Degradation("blur", 2.5)
    assert not Degradation.parse("none")
    assert Degradation.parse("blur:2")
    assert Degradation.parse("grey") == Degradation("grey")
    assert Degradation.parse("rotated:-7.5") == Degradation("rotated", -7.5)


@given(st.sampled_from([text.partition(":")[0] for text in EVERY]), st.floats(0, 1))
def test_every_degradation_survives_its_text(kind: str, share: float) -> None:
    least, greatest = _KINDS[kind].limits or (0.0, 0.0)
    made = Degradation(kind, min(greatest, least + share * (greatest - least)))
    assert Degradation.parse(str(made)) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "degradation '' is unknown: use none, noise, lowres, blur, jpeg, dark, grey, masked, rotated (as"),
        ("fog:3", "degradation 'fog:3' is unknown: use none, noise"),
        ("none:3", "'none:3' is unknown"),
        ("NOISE:60", "'NOISE:60' is unknown"),
        ("noise", "'noise' needs a number behind the colon, as in noise:255"),
        ("noise:", "needs a number behind the colon"),
        ("blur:soft", "'blur:soft' needs a number behind the colon, as in blur:100"),
        ("dark:", "'dark:' needs a number"),
        ("noise:-1", "'noise:-1': the value must lie between 0 and 255"),
        ("noise:256", "must lie between 0 and 255"),
        ("noise:nan", "must lie between 0 and 255"),
        ("blur:inf", "must lie between 0.1 and 100"),
        ("lowres:1", "must lie between 2 and 1000"),
        ("jpeg:0", "must lie between 1 and 100"),
        ("dark:0", "must lie between 0.01 and 1"),
        ("grey:1", "'grey:1': grey takes no number, write grey"),
        ("masked:", "'masked:': masked takes no number, write masked"),
        ("rotated", "'rotated' needs a number behind the colon"),
        ("rotated:181", "must lie between -180 and 180"),
    ],
)
def test_errors_name_the_text_and_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(KubefaceError) as raised:
        Degradation.parse(text)
    assert message in str(raised.value)


@pytest.mark.parametrize("text", EVERY)
def test_every_kind_changes_the_pixels_alone_and_the_same_key_gives_the_same(text: str, crop: RGB) -> None:
    before, degradation = crop.copy(), Degradation.parse(text)
    after = degradation(crop, 0, "image")
    assert (after.shape, after.dtype) == (crop.shape, crop.dtype)
    assert np.abs(after.astype(int) - crop).mean() > 1
    assert (crop == before).all()  # the original is not written to
    assert after.flags.c_contiguous
    for shape in ((1, 1), (5, 9), (160, 160)):
        image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert degradation(image, 1).shape == (*shape, 3)
    # What came between does not matter.
    assert (degradation(crop, 0, "image") == after).all()
    assert (Degradation.parse(text)(crop, 0, "image") == after).all()
    assert Degradation()(crop, 1) is crop


@pytest.mark.parametrize("text", ["noise:60", "dark"])
@pytest.mark.parametrize("key", [(4, "image"), (3, "other"), (3, "image", 0), ("image", 3), (3,), ()])
def test_another_key_gives_other_noise(text: str, key: tuple[object, ...], crop: RGB) -> None:
    degradation = Degradation.parse(text)
    first, second = (degradation(crop, *k).astype(float) - crop for k in ((3, "image"), key))
    assert (first != second).mean() > 0.3
    if text.startswith("noise"):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("sigma", [5, 20, 60])
def test_noise_has_its_sigma_in_every_channel_independently(sigma: int) -> None:
    grey = np.full((256, 256, 3), 128, np.uint8)
    noise = Degradation.parse(f"noise:{sigma}")(grey, "key").astype(float) - 128
    # Clipping to 0…255 takes a little off: 60 → 57.6 (σ of a normal distribution clipped at ±2.12 σ).
    expected = {5: 5.0, 20: 20.0, 60: 57.6}[sigma]
    assert noise.std((0, 1)) == pytest.approx([expected] * 3, rel=0.02)
    assert noise.mean((0, 1)) == pytest.approx([0, 0, 0], abs=0.02 * sigma)
    channels = np.corrcoef(noise.reshape(-1, 3).T)
    assert np.abs(channels - np.eye(3)).max() < 0.02
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.02


def test_low_resolution_holds_no_more_than_its_pixels(crop: RGB) -> None:
    after = Degradation.parse("lowres:14")(crop)
    again = cv2.resize(after, (14, 14), interpolation=cv2.INTER_AREA)
    assert np.abs(again.astype(int) - cv2.resize(crop, (14, 14), interpolation=cv2.INTER_AREA)).mean() < 4
    chess = np.indices((112, 112)).sum(0) % 2 * 255
    flat = Degradation.parse("lowres:14")(np.dstack([chess] * 3).astype(np.uint8))
    assert flat.std() < 1
    assert flat.mean() == pytest.approx(127.5, abs=1)


def test_blur_spreads_a_point_by_its_sigma() -> None:
    point = np.zeros((101, 101, 3), np.uint8)
    point[48:53, 48:53] = 255
    blurred = Degradation.parse("blur:4")(point)[..., 0].astype(float)
    ys, xs = np.mgrid[:101, :101] - 50
    assert ((xs**2 + ys**2) * blurred).sum() / blurred.sum() == pytest.approx(2 * (4**2 + 2), rel=0.15)


def test_less_quality_is_more_error_and_colours_stay(crop: RGB) -> None:
    errors = [
        np.abs(Degradation.parse(f"jpeg:{quality}")(crop).astype(int) - crop).mean() for quality in (95, 50, 20, 5)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 3 < errors[-1]
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 220
    assert Degradation.parse("jpeg:90")(red).mean((0, 1)) == pytest.approx([220, 0, 0], abs=4)


def test_dark_reduces_the_light_and_adds_shot_noise() -> None:
    grey = np.full((200, 200, 3), 200, np.uint8)
    dark = Degradation.parse("dark")(grey, 1).astype(float)
    assert dark.mean() == pytest.approx(40, rel=0.02)  # a fifth
    assert dark.var() == pytest.approx(40, rel=0.05)  # Poisson: variance is mean
    assert Degradation.parse("dark:0.5")(grey, 1).mean() == pytest.approx(100, rel=0.02)


def test_grey_is_the_luma_of_bt_601() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 90], [77, 77, 77]]], np.uint8)
    grey = Degradation.parse("grey")(colours)
    expected = colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected[..., None]).max() <= 0.51
    assert (grey == grey[..., :1]).all()


def test_the_mask_hides_nose_and_mouth_and_leaves_the_eyes(crop: RGB) -> None:
    masked = Degradation.parse("masked")(crop)
    left, right, nose, *mouth = (tuple(np.rint(point).astype(int)) for point in ARCFACE_112)
    for x, y in (left, right):
        around = slice(y - 6, y + 7), slice(x - 8, x + 9)
        assert (masked[around] == crop[around]).all()
    assert (masked[:55] == crop[:55]).all()  # brows and forehead
    black = Degradation.parse("masked")(np.zeros_like(crop))
    for x, y in (nose, *mouth):  # cloth whatever lies below it, and a light blue
        assert (masked[y, x] == black[y, x]).all()
        red, green, blue = masked[y, x].astype(int)
        assert 120 < red < green < blue
    assert (masked[111, 56] == black[111, 56]).all()  # the chin
    assert 0.2 < (masked != crop).any(axis=2).mean() < 0.35


def test_the_mask_is_even_but_for_its_shading_and_lies_straight() -> None:
    white = np.full((112, 112, 3), 255, np.uint8)
    masked = Degradation.parse("masked")(white).astype(int)
    cloth = masked[70:110, 40:72]
    assert 1 < cloth.std((0, 1)).mean() < 15
    assert masked[90, 56, 0] > 10 + max(masked[90, 30, 0], masked[90, 82, 0])  # darker at the cheeks
    covered = (masked != 255).any(axis=2)
    middle = (ARCFACE_112[0, 0] + ARCFACE_112[1, 0]) / 2
    for row in (70, 80, 100):
        assert np.flatnonzero(covered[row])[[0, -1]].mean() == pytest.approx(middle, abs=0.6)


@pytest.mark.parametrize("side", [56, 160, 224])
def test_the_mask_grows_with_the_crop(side: int) -> None:
    grown, plain = (Degradation.parse("masked")(np.zeros((s, s, 3), np.uint8)) for s in (side, 112))
    scaled = cv2.resize(grown, (112, 112), interpolation=cv2.INTER_AREA if side > 112 else cv2.INTER_LINEAR)
    assert np.mean((scaled > 80) != (plain > 80)) < 0.01


def test_rotation_turns_counter_clockwise_about_the_middle() -> None:
    image = np.full((101, 101, 3), 50, np.uint8)
    image[49:52, 84:87] = 250  # 35 pixels right of the middle
    turned = Degradation.parse("rotated:30")(image)[..., 0].astype(float) - 50
    ys, xs = np.mgrid[:101, :101] - 50
    weight = np.clip(turned, 0, None)
    assert (xs * weight).sum() / weight.sum() == pytest.approx(35 * np.cos(np.pi / 6), abs=0.1)
    assert (ys * weight).sum() / weight.sum() == pytest.approx(-35 * np.sin(np.pi / 6), abs=0.1)  # y points down


def test_rotation_is_undone_and_fills_corners_with_the_border(crop: RGB) -> None:
    there, back = (Degradation.parse(f"rotated:{degrees}") for degrees in (15, -15))
    again = back(there(crop))
    inside = slice(28, 84)
    assert np.abs(again[inside, inside].astype(int) - crop[inside, inside]).mean() < 2
    assert np.abs(there(crop)[inside, inside].astype(int) - crop[inside, inside]).mean() > 5
    assert (Degradation.parse("rotated:0")(crop) == crop).all()
    assert (Degradation.parse("rotated:45")(np.full((112, 112, 3), 90, np.uint8)) == 90).all()  # no black corners
