"""Ingest: kinds of sources and images, rejected files, order and image ids."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.ingest.options import IngestOptions
from kubeface.ingest.step import IngestResult, ingest, plan_shards
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.table import Table
from tests.support.images import encoded, smooth_image, write_archive, write_files
from tests.support.tables import contents, reasons, rows_of


def test_folder(images: dict[str, bytes], tmp_path: Path) -> None:
    larger = images | {"ann/larger.png": encode_png(smooth_image(1, 24, 21))}
    figures = ingest(write_files(tmp_path / "in", larger), tmp_path / "out", IngestOptions(max_pixels=20 * 24))
    assert figures == IngestResult(rows_in=10, rows_out=9, identities=3, rejected=1, forgotten=0)
    rows = rows_of(tmp_path / "out")
    assert {row["source"]: row["image"] for row in rows} == images  # the files' own bytes
    for row in rows:
        assert row["identity"] == row["source"].split("/")[0]
        assert (row["width"], row["height"], row["given_split"]) == (20, 24, None)
    assert len({row["image_id"] for row in rows}) == 9
    assert all(len(row["image_id"]) == 16 for row in rows)


def test_real_photographs(faces_table: Path, orl_folder: Path) -> None:
    table = Table(faces_table, "faces")
    assert (table.rows, table.identities, table.rejected()) == (30, 6, [])
    rows = rows_of(faces_table)
    assert [row["source"] for row in rows] != sorted(row["source"] for row in rows)  # stored shuffled
    assert all((row["width"], row["height"]) == (92, 112) for row in rows)


@pytest.mark.parametrize("suffix", [".tgz", ".zip"])
def test_archive_gives_the_rows_of_its_folder(suffix: str, images: dict[str, bytes], tmp_path: Path) -> None:
    ingest(write_files(tmp_path / "in", images), tmp_path / "a")
    ingest(write_archive(tmp_path / f"faces{suffix}", images), tmp_path / "b")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert Table(tmp_path / "a", "faces").manifest.shards == Table(tmp_path / "b", "faces").manifest.shards


def test_hostile_archive_writes_nothing_outside(images: dict[str, bytes], tmp_path: Path) -> None:
    names = ("../evil/1.png", f"{tmp_path}/dan/1.png", "../../../../../../etc/evil.png")
    hostile = dict(zip(names, images.values(), strict=False))
    figures = ingest(write_archive(tmp_path / "faces.tar", images | hostile), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.tar", "out"]
    assert not Path("/etc/evil.png").exists() and not (tmp_path.parent / "evil").exists()
    assert {row["identity"] for row in rows_of(tmp_path / "out")} == {"ann", "bob", "cyd", "dan"}
    assert (figures.rows_out, figures.rejected) == (10, 0)


def test_names_that_are_not_utf8_are_rejected(images: dict[str, bytes], tmp_path: Path) -> None:
    other = {os.fsdecode(name): images["ann/0.png"] for name in (b"jos\xe9/1.png", b"ann/\xff.png")}
    source = write_files(tmp_path / "in", images | other)
    figures = ingest(source, tmp_path / "out")
    assert (figures.rows_out, figures.identities, figures.rejected) == (9, 3, 2)
    assert reasons(tmp_path / "out") == {"jos\udce9/1.png": "bad_name", "ann/\udcff.png": "bad_name"}
    assert plan_shards(source).files == 11


def ingested(data: bytes, name: str, images: dict[str, bytes], tmp_path: Path) -> tuple[dict[str, Any], RGB]:
    """The row and the pixels that one file becomes."""
    figures = ingest(write_files(tmp_path / "in", images | {f"ann/{name}": data}), tmp_path / "out")
    assert figures.rejected == 0
    (row,) = (row for row in rows_of(tmp_path / "out") if row["source"] == f"ann/{name}")
    image = decode_rgb(row["image"])
    assert image.shape == (row["height"], row["width"], 3)
    return row, image


@pytest.mark.parametrize(
    ("kind", "mode", "options", "error"),
    [
        ("JPEG", "RGB", {"quality": 95}, 5),
        ("JPEG", "L", {"quality": 95}, 5),
        ("JPEG", "CMYK", {"quality": 95}, 8),
        ("PNG", "RGB", {}, 0),
        ("PNG", "L", {}, 0),
        ("PNG", "RGBA", {}, 0),
        ("BMP", "RGB", {}, 0),
        ("TIFF", "RGB", {}, 0),
        ("WEBP", "RGB", {"lossless": True}, 0),
        ("PPM", "RGB", {}, 0),
        ("AVIF", "RGB", {"quality": 95}, 5),
        ("HEIF", "RGB", {"quality": 95, "chroma": 444}, 5),
        ("PNG", "P", {}, 30),
        ("GIF", "P", {}, 30),
    ],
)
def test_formats_keep_their_colours_and_jpeg_and_png_their_bytes(
    kind: str, mode: str, options: dict[str, Any], error: float, images: dict[str, bytes], tmp_path: Path
) -> None:
    picture = Image.fromarray(smooth_image(5))
    data = encoded(picture.convert(mode), kind, **options)
    row, image = ingested(data, "x.bin", images, tmp_path)
    expected = np.asarray(picture.convert("L" if mode == "L" else "RGB").convert("RGB"))
    assert np.abs(image.astype(int) - expected).mean() <= error
    assert (row["image"] == data) == (kind in ("JPEG", "PNG") and mode in ("RGB", "L"))


def test_transparency_is_dropped(images: dict[str, bytes], tmp_path: Path) -> None:
    picture = smooth_image(5)
    alpha = np.dstack([picture, np.full(picture.shape[:2], 90, np.uint8)])
    _, image = ingested(encoded(Image.fromarray(alpha), "PNG"), "x.png", images, tmp_path)
    assert (image == picture).all()


def test_first_frame_of_an_animation_is_taken(images: dict[str, bytes], tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 24), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
    _, image = ingested(data, "x.gif", images, tmp_path)
    assert image.mean((0, 1)) == pytest.approx([250, 0, 0], abs=3)


def sixteen_bits(kind: str) -> bytes:
    """Grey from black to white, 40×64, in 16 bits."""
    levels = np.tile(np.linspace(0, 65535, 64), (40, 1)).astype(np.uint16)
    if kind == "PGM":
        return b"P5\n64 40\n65535\n" + levels.astype(">u2").tobytes()
    if kind == "big-endian TIFF":
        return encoded(Image.frombytes("I;16B", (64, 40), levels.astype(">u2").tobytes()), "TIFF")
    return encoded(Image.fromarray(levels), kind)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM", "big-endian TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str, images: dict[str, bytes], tmp_path: Path) -> None:
    _, image = ingested(sixteen_bits(kind), "x.bin", images, tmp_path)
    expected = np.linspace(0, 255, 64)
    assert np.abs(image[..., 0] - expected).max() <= 1
    assert (image[..., 0] == image[..., 2]).all()


def test_sixteen_bits_a_channel_are_scaled_to_eight(images: dict[str, bytes], tmp_path: Path) -> None:
    picture = smooth_image(5)
    written, data = cv2.imencode(".png", picture[..., ::-1].astype(np.uint16) * 257)
    assert written
    _, image = ingested(data.tobytes(), "x.png", images, tmp_path)
    assert np.abs(image.astype(int) - picture).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_photographs_are_turned_upright(kind: str, orientation: int, images: dict[str, bytes], tmp_path: Path) -> None:
    upright = smooth_image(5, height=48, width=32)
    # How a camera stores what is upright, by the EXIF standard's table of orientations.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {}
    data = encoded(np.ascontiguousarray(stored), kind, exif=exif, **options)
    row, image = ingested(data, "x.jpg", images, tmp_path)
    assert (row["width"], row["height"]) == (32, 48)
    assert np.abs(image.astype(int) - upright).mean() < 4
    assert (row["image"] == data) == (orientation == 1)
    with Image.open(io.BytesIO(row["image"])) as kept:
        assert kept.getexif().get(0x0112, 1) == 1  # nobody turns it a second time


def test_source_without_usable_images_is_refused(images: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    cases = {
        "void": "void holds no image: check the folder or prefix",
        "gone": "gone is not a folder",
        "gone.tar": r"gone\.tar does not exist",
        "texts": r"texts: none of the 2 files is a usable image \(\{'not_an_image': 2\}\)",
        "hidden": "hidden holds no image",
        "faces.tar": r"faces\.tar holds no image",
        "one": r"one holds one identity only \('ann'\): put the images of each person into a folder of their own",
    }
    write_archive(tmp_path / "faces.tar", {})
    write_files(tmp_path / "texts", {"ann/1.jpg": b"1", "bob/1.jpg": b"2"})
    write_files(tmp_path / "hidden", {".cache/1.png": images["ann/0.png"]})
    write_files(tmp_path / "one", {"ann/1.png": images["ann/0.png"], "bob/1.png": b"no image"})
    for name, message in cases.items():
        with pytest.raises(KubefaceError, match=message):
            ingest(str(tmp_path / name), tmp_path / "out")
        assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("first", "second", "folders"),
    [
        ("ann/1.png", "more/ann/2.png", ("ann", "more/ann")),
        ("train/ann/1.png", "extra/val/ann/2.png", ("ann", "extra/ann")),
    ],
)
def test_two_folders_of_one_name_are_refused(
    first: str, second: str, folders: tuple[str, str], images: dict[str, bytes], tmp_path: Path
) -> None:
    files = {first: images["ann/0.png"], second: images["ann/1.png"], "bob/1.png": images["bob/1.png"]}
    with pytest.raises(KubefaceError) as raised:
        ingest(write_files(tmp_path / "in", files), tmp_path / "out")
    for part in ("identity 'ann' stands in two folders", *(f"'{folder}'" for folder in folders)):
        assert part in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_corrupt_archive_leaves_no_table(images: dict[str, bytes], tmp_path: Path) -> None:
    source = Path(write_archive(tmp_path / "faces.zip", images))
    data = bytearray(source.read_bytes())
    data[200] ^= 0xFF
    source.write_bytes(data)
    with pytest.raises(KubefaceError, match=r"faces\.zip is not a readable archive: Bad CRC-32"):
        ingest(str(source), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["faces.zip"]


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(orl_folder: Path, faces_table: Path, tmp_path: Path) -> None:
    """Also under another hash seed, time zone and locale."""
    command = [sys.executable, "-m", "kubeface", "ingest", str(orl_folder), str(tmp_path / "other")]
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(command, cwd=Path(__file__).parents[3], env=environment, check=True, capture_output=True)
    assert contents(tmp_path / "other") == contents(faces_table)


def test_image_id_depends_on_name_and_content(images: dict[str, bytes], tmp_path: Path) -> None:
    def ids(name: str, files: dict[str, bytes]) -> dict[str, str]:
        ingest(write_files(tmp_path / name / "in", files), tmp_path / name / "out", IngestOptions(seed=len(name)))
        return {row["source"]: row["image_id"] for row in rows_of(tmp_path / name / "out")}

    before = ids("a", images | {"ann/copy.png": images["ann/0.png"]})
    assert len(set(before.values())) == len(before)
    after = ids("bb", images | {"ann/0.png": encode_png(smooth_image(99))})
    assert {name for name in after if after[name] != before[name]} == {"ann/0.png"}


def test_order_depends_on_seed_and_name_alone(images: dict[str, bytes], tmp_path: Path) -> None:
    def order(name: str, files: dict[str, bytes], seed: int = 0) -> list[str]:
        ingest(write_files(tmp_path / name, files), tmp_path / f"{name}-{seed}", IngestOptions(seed=seed))
        return [row["source"] for row in rows_of(tmp_path / f"{name}-{seed}")]

    first = order("first", images)
    more = {f"{person}/new{number}.png": images["ann/0.png"] for person in ("ann", "zoe") for number in range(4)}
    second = order("second", images | more)
    assert [name for name in second if name in images] == first
    assert second != [*first, *(name for name in second if name in more)]  # the new ones stand in between
    assert order("first", images, seed=1) != first
    assert sorted(order("first", images, seed=2)) == sorted(images)
