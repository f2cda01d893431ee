"""Synthetic low resolution: the degradation of an image, and a source of pairs made from photographs."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kubeface import cli
from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.ingest.step import ingest
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.runtime.options import read_options
from kubeface.superresolve.degradation import DegradeResult, degrade, low_resolution
from kubeface.superresolve.options import CameraOptions, DegradeOptions
from kubeface.tables.resolution_pairs import partners, resolution_of
from kubeface.tables.table import Table
from tests.support.images import encoded, read_files, write_archive, write_files
from tests.support.tables import rows_of

PLAIN = CameraOptions(blur=(0, 0), noise=(0, 0), jpeg=(0, 0))


@pytest.fixture
def face(orl: dict[str, bytes]) -> RGB:
    return decode_rgb(orl["s1/1.pgm"])


def test_downsampling_alone_is_the_mean_of_the_pixels(face: RGB) -> None:
    low = low_resolution(face, 23, 28, PLAIN, keyed_rng(0))
    expected = face.reshape(28, 4, 23, 4, 3).mean((1, 3))
    np.testing.assert_allclose(low, expected, atol=0.51)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 9))
def test_size_and_pixels_depend_on_the_arguments_alone(width: int, height: int, seed: int) -> None:
    image = keyed_rng("image").integers(0, 256, (64, 48, 3), np.uint8)
    first, again = (low_resolution(image, width, height, CameraOptions(), keyed_rng(seed)) for _ in range(2))
    assert first.shape == (height, width, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


def test_the_blur_is_in_pixels_of_the_low_resolution(face: RGB) -> None:
    """σ of 1 at an eighth of the pixels is σ of 8 in the photograph."""
    low = low_resolution(face, 12, 14, CameraOptions(blur=(1, 1), noise=(0, 0), jpeg=(0, 0)), keyed_rng(0))
    sigma = face.shape[1] / 12
    expected = cv2.resize(cv2.GaussianBlur(face, (0, 0), sigma), (12, 14), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(low, expected)


def test_the_noise_has_its_standard_deviation() -> None:
    grey = np.full((800, 800, 3), 128, np.uint8)
    camera = CameraOptions(blur=(0, 0), noise=(5, 5), jpeg=(0, 0))
    low = low_resolution(grey, 400, 400, camera, keyed_rng(0)).astype(float)
    assert low.mean() == pytest.approx(128, abs=0.05)
    assert low.std() == pytest.approx(np.hypot(5, 1 / np.sqrt(12)), rel=0.01)  # and what rounding adds
    neighbours = np.corrcoef(low[:, :-1].ravel(), low[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01  # the sensor's, not the photograph's


def test_jpeg_has_its_quality(face: RGB) -> None:
    low = low_resolution(face, 46, 56, CameraOptions(blur=(0, 0), noise=(0, 0), jpeg=(30, 30)), keyed_rng(0))
    plain = low_resolution(face, 46, 56, PLAIN, keyed_rng(0))
    data = cv2.imencode(".jpg", plain[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    np.testing.assert_array_equal(low, np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])
    assert (low != plain).any()


def test_strengths_are_drawn_from_the_whole_range() -> None:
    grey = np.full((160, 160, 3), 128, np.uint8)
    camera = CameraOptions(blur=(0, 0), noise=(0, 10), jpeg=(0, 0))
    drawn = [low_resolution(grey, 80, 80, camera, keyed_rng(seed)).std() for seed in range(60)]
    assert min(drawn) < 1 and max(drawn) > 9 and 4 < np.mean(drawn) < 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blur": [0, 11]}, "degrade.blur.1 is 11: input should be less than or equal to 10"),
        ({"blur": [1, 0]}, "degrade: blur is 1 to 0: give the least value first"),
        ({"blur": [1]}, "degrade.blur.1 is missing: give it"),
        ({"noise": [-1, 0]}, "degrade.noise.0 is -1: input should be greater than or equal to 0"),
        ({"noise": [0, 200]}, "degrade.noise.1 is 200: input should be less than or equal to 100"),
        ({"jpeg": [50, 101]}, "degrade.jpeg.1 is 101: input should be less than or equal to 100"),
        ({"jpeg": [70.5, 90]}, "degrade.jpeg.0 is 70.5: input should be a valid integer"),
        ({"scale": 1}, "degrade.scale is 1: input should be greater than or equal to 2"),
        ({"scale": 17}, "degrade.scale is 17: input should be less than or equal to 16"),
    ],
)
def test_wrong_options_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(KubefaceError, match=f"^{re.escape(message)}"):
        read_options(DegradeOptions, values, "degrade.")


def test_photographs_become_a_source_of_pairs(orl_folder: Path, tmp_path: Path) -> None:
    result = degrade(str(orl_folder), tmp_path / "out", DegradeOptions(scale=8))
    assert result == DegradeResult(rows_in=30, rows_out=30, rejected=0)
    given, low = read_files(orl_folder), read_files(tmp_path / "out" / "vlr_images")
    assert read_files(tmp_path / "out" / "hr_images") == given
    assert low.keys() == {name.replace(".pgm", ".png") for name in given}
    assert {decode_rgb(data).shape for data in low.values()} == {(14, 12, 3)}
    write_archive(tmp_path / "orl.tgz", given)
    degrade(str(tmp_path / "orl.tgz"), tmp_path / "of_archive")
    assert read_files(tmp_path / "of_archive") == read_files(tmp_path / "out")
    # Ingest finds every pair.
    ingest(str(tmp_path / "out"), tmp_path / "faces")
    table = Table(tmp_path / "faces", "faces")
    assert (table.rows, table.identities) == (60, 6)
    resolution = {row["image_id"]: resolution_of(row["groups"]) for row in rows_of(tmp_path / "faces")}
    pairs = partners(table)
    assert len(pairs) == 30
    assert {(resolution[low], resolution[high]) for low, high in pairs.items()} == {("low", "high")}


def test_an_image_does_not_depend_on_the_others(orl_folder: Path, tmp_path: Path) -> None:
    some = write_files(tmp_path / "some", {"s1/2.pgm": (orl_folder / "s1" / "2.pgm").read_bytes()})
    degrade(some, tmp_path / "one", DegradeOptions(seed=3))
    degrade(str(orl_folder), tmp_path / "all", DegradeOptions(seed=3))
    degrade(str(orl_folder), tmp_path / "other", DegradeOptions(seed=4))
    of = [(tmp_path / name / "vlr_images" / "s1" / "2.png").read_bytes() for name in ("one", "all", "other")]
    assert of[0] == of[1] != of[2]


def test_names_of_an_archive_cannot_lead_out_of_the_folder(orl: dict[str, bytes], tmp_path: Path) -> None:
    names = ("s1/1.pgm", "../../escaped/1.pgm", f"{tmp_path}/absolute/1.pgm")
    write_archive(tmp_path / "bad.tar", dict.fromkeys(names, orl["s1/1.pgm"]))
    (tmp_path / "deep").mkdir()
    result = degrade(str(tmp_path / "bad.tar"), tmp_path / "deep" / "out")
    assert result == DegradeResult(rows_in=3, rows_out=2, rejected=1)
    assert len(read_files(tmp_path / "deep" / "out")) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar", "deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_the_low_image_is_upright_and_the_file_is_kept(face: RGB, tmp_path: Path) -> None:
    """A phone's JPEG is rotated by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(face)))
    files = {"s1/a.jpg": encoded(lying, "JPEG", quality=95, exif=exif)}
    degrade(write_files(tmp_path / "in", files), tmp_path / "out", DegradeOptions(scale=4, **PLAIN.model_dump()))
    low = decode_rgb((tmp_path / "out" / "vlr_images" / "s1" / "a.png").read_bytes())
    assert np.abs(low - low_resolution(face, 23, 28, PLAIN, keyed_rng(0)).astype(float)).mean() < 2
    assert (tmp_path / "out/hr_images/s1/a.jpg").read_bytes() == (tmp_path / "in/s1/a.jpg").read_bytes()


def test_unusable_files_are_counted(orl: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "s1/good.pgm": orl["s1/1.pgm"],
        "s1/cut.pgm": orl["s1/1.pgm"][:300],
        "s1/list.csv": b"identity,file\n",
        "s1/tiny.png": encode_png(np.zeros((11, 40, 3), np.uint8)),
    }
    assert degrade(write_files(tmp_path / "in", files), tmp_path / "out") == DegradeResult(
        rows_in=4, rows_out=1, rejected=3
    )
    messages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out ")]
    assert [line.split(":")[0] for line in messages] == [
        f"left out s1/{n}" for n in ("cut.pgm", "list.csv", "tiny.png")
    ]
    assert "40×11" in messages[2]
    assert sorted(read_files(tmp_path / "out")) == ["hr_images/s1/good.pgm", "vlr_images/s1/good.png"]


def test_one_name_makes_one_pair(orl: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"s1/1.pgm": orl["s1/1.pgm"], "s1/1.png": encode_png(decode_rgb(orl["s1/2.pgm"]))}
    assert (
        degrade(write_files(tmp_path / "in", files), tmp_path / "out", DegradeOptions(**PLAIN.model_dump())).rejected
        == 1
    )
    assert "left out s1/1.png: s1/1.pgm has the same name" in capsys.readouterr().err
    low = decode_rgb((tmp_path / "out" / "vlr_images" / "s1" / "1.png").read_bytes())
    np.testing.assert_array_equal(low, low_resolution(decode_rgb(orl["s1/1.pgm"]), 12, 14, PLAIN, keyed_rng(0)))
    assert sorted(read_files(tmp_path / "out")) == ["hr_images/s1/1.pgm", "vlr_images/s1/1.png"]


def test_a_source_without_a_photograph_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="nothing"):
        degrade("nothing", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"text")
    with pytest.raises(KubefaceError, match=r"holds no photograph that can be used: a\.txt"):
        degrade(str(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_takes_ranges_as_numbers(orl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["degrade", "--source", str(orl_folder), "--out", str(tmp_path / "out")]
    cli.main([*command, "--scale", "4", "--blur", "0", "1.5", "--jpeg", "0", "0"])
    assert json.loads(capsys.readouterr().out)["rows_out"] == 30
