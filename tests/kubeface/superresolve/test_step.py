"""Superresolve on tables of real photographs: which images are enlarged, and what is recorded of it."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from kubeface.align.step import align
from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.filter.step import filter_faces
from kubeface.gather.step import gather
from kubeface.ingest.options import IngestOptions
from kubeface.ingest.step import ingest
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import read_json
from kubeface.superresolve import step
from kubeface.superresolve.options import SuperresolveOptions
from kubeface.superresolve.step import SuperresolveResult, superresolve
from kubeface.tables.resolution_pairs import enlarged_of, partners, resolution_of
from kubeface.tables.table import Table, TableWriter
from tests.kubeface.superresolve.conftest import PAIRS, PHOTOGRAPHS
from tests.support.networks import nearest, repeated
from tests.support.tables import contents, rows_of, write_rows


def resized(image: RGB, width: int, height: int, how: int = cv2.INTER_AREA) -> RGB:
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def test_low_images_are_enlarged_and_sharp_ones_unchanged(paired_table: Path, tmp_path: Path) -> None:
    result = superresolve(paired_table, tmp_path / "out")
    assert result == SuperresolveResult(rows_in=2 * PAIRS, rows_out=2 * PAIRS, identities=3, rejected=0, enlarged=PAIRS)
    before, after = rows_of(paired_table), rows_of(tmp_path / "out")
    assert [row["image_id"] for row in after] == [row["image_id"] for row in before]
    for old, new in zip(before, after, strict=True):
        if resolution_of(old["groups"]) == "high":
            assert new == old
            continue
        pixels = decode_rgb(new["image"])
        np.testing.assert_array_equal(pixels, resized(decode_rgb(old["image"]), 48, 56, cv2.INTER_CUBIC))
        assert new["image"].startswith(b"\x89PNG")
        assert (new["height"], new["width"]) == pixels.shape[:2] == (4 * old["height"], 4 * old["width"])
        assert json.loads(new["groups"]) == {"resolution": "low", "enlarged": "4"}
        assert new | {name: old[name] for name in ("image", "width", "height", "groups")} == old
    source, made = (Table(folder, "faces") for folder in (paired_table, tmp_path / "out"))
    assert partners(made) == partners(source)
    superresolved = {"name": "bicubic", "scale": 4, "which": "low", "max_side": 0}
    assert made.manifest.settings == source.manifest.settings | {"faces": source.sha256, "superresolved": superresolved}
    assert made.manifest.producer.startswith("superresolve ")


def test_a_network_enlarges(paired_table: Path, tmp_path: Path) -> None:
    network = nearest(tmp_path / "nearest.onnx", 3)
    superresolve(paired_table, tmp_path / "out", SuperresolveOptions(model=str(network)))  # its own scale
    superresolve(paired_table, tmp_path / "same", SuperresolveOptions(model=str(network), scale=3))
    assert contents(tmp_path / "out") == contents(tmp_path / "same")
    for old, new in zip(rows_of(paired_table), rows_of(tmp_path / "out"), strict=True):
        if resolution_of(old["groups"]) == "low":
            np.testing.assert_array_equal(decode_rgb(new["image"]), repeated(decode_rgb(old["image"]), 3))
    settings = read_json(tmp_path / "out" / "manifest.json")["settings"]["superresolved"]
    assert settings["name"].startswith("nearest.onnx@") and settings["scale"] == 3


def test_enlarged_twice_is_enlarged_by_the_product(paired_table: Path, tmp_path: Path) -> None:
    superresolve(paired_table, tmp_path / "one", SuperresolveOptions(scale=2))
    superresolve(tmp_path / "one", tmp_path / "two", SuperresolveOptions(scale=3))
    factors = {resolution_of(row["groups"]): enlarged_of(row["groups"]) for row in rows_of(tmp_path / "two")}
    assert factors == {"low": 6, "high": 1}


def test_small_is_decided_by_the_longest_side(paired_table: Path, aligned_table: Path, tmp_path: Path) -> None:
    """Of a photograph, or of the one that a crop is of."""
    photographs = {13: 0, 14: PAIRS, 111: PAIRS, 112: 2 * PAIRS}
    for table, enlarged in ((paired_table, photographs), (aligned_table, {111: 0, 112: 30})):
        for side, count in enlarged.items():
            options = SuperresolveOptions(scale=2, which="small", max_side=side)
            assert superresolve(table, tmp_path / f"{table.name}-{side}", options).enlarged == count


def test_all_images_are_enlarged_or_none(faces_table: Path, tmp_path: Path) -> None:
    assert superresolve(faces_table, tmp_path / "all", SuperresolveOptions(scale=2, which="all")).enlarged == 30
    assert {(row["width"], row["height"]) for row in rows_of(tmp_path / "all")} == {(184, 224)}
    assert json.loads(rows_of(tmp_path / "all")[0]["groups"]) == {"enlarged": "2"}
    assert superresolve(faces_table, tmp_path / "none").enlarged == 0
    before, after = contents(faces_table), contents(tmp_path / "none")
    assert after | {"manifest.json": b""} == before | {"manifest.json": b""}


def test_an_enlarged_face_can_be_found_where_a_small_one_is_not(faces_table: Path, tmp_path: Path) -> None:
    """MTCNN finds no face of 10 pixels, and nearly all of them once they are enlarged."""
    rows = rows_of(faces_table)
    small = [encode_png(resized(decode_rgb(row["image"]), 12, 14)) for row in rows]
    tiny = (row | {"image": image, "width": 12, "height": 14} for row, image in zip(rows, small, strict=True))
    write_rows(tmp_path / "small", "faces", tiny)
    superresolve(tmp_path / "small", tmp_path / "large", SuperresolveOptions(scale=4, which="small", max_side=14))
    counts = [align(tmp_path / name, tmp_path / f"{name}-aligned").rows_out for name in ("small", "large")]
    assert counts[0] == 0 and counts[1] >= 27


def test_crops_keep_their_size_at_low_resolution(aligned_table: Path, tmp_path: Path) -> None:
    network = nearest(tmp_path / "nearest.onnx", 8)
    options = SuperresolveOptions(model=str(network), scale=8, which="all")
    result = superresolve(aligned_table, tmp_path / "out", options)
    assert result.enlarged == result.rows_out == 30
    for old, new in zip(rows_of(aligned_table), rows_of(tmp_path / "out"), strict=True):
        small = resized(decode_rgb(old["image"]), 14, 14)
        np.testing.assert_array_equal(decode_rgb(new["image"]), repeated(small, 8))
        assert new["image"].startswith(b"P6")
        assert new | {"image": b""} == old | {"image": b""}
    before, after = (Table(folder, "aligned").manifest.settings for folder in (aligned_table, tmp_path / "out"))
    assert before.items() <= after.items()  # template, detector …
    settings = read_json(tmp_path / "out" / "manifest.json")["settings"]["superresolved"]
    assert settings["name"].startswith("nearest.onnx@") and settings["scale"] == 8


def test_a_scale_that_does_not_divide_the_crop_still_gives_its_size(aligned_table: Path, tmp_path: Path) -> None:
    superresolve(aligned_table, tmp_path / "out", SuperresolveOptions(scale=5, which="all"))
    for old, new in zip(rows_of(aligned_table), rows_of(tmp_path / "out"), strict=True):
        expected = resized(resized(decode_rgb(old["image"]), 22, 22), 112, 112, cv2.INTER_CUBIC)
        np.testing.assert_array_equal(decode_rgb(new["image"]), expected)


def test_same_bytes_whatever_the_workers(paired_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "BATCH_PIXELS", 16 * 400)  # two low images at a time
    for workers in (1, 4):
        monkeypatch.setattr(step, "cpu_limit", lambda workers=workers: workers)
        superresolve(paired_table, tmp_path / str(workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


def test_unusable_images_are_rejected(paired_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(paired_table)
    low = [row for row in rows if resolution_of(row["groups"]) == "low"]
    with TableWriter(tmp_path / "broken", "faces", "test", {}) as table:
        table.reject("s9/earlier.jpg", "unreadable", "it was there before")
        for row in rows:
            if row is low[0]:
                row = row | {"image": row["image"][:40]}
            if resolution_of(row["groups"]) == "high":  # what is not enlarged is passed on, broken or not
                row = row | {"image": b"none"}
            table.add(row | {"width": 500, "height": 500} if row is low[1] else row)
    monkeypatch.setattr(step, "MAX_PIXELS", 16 * 500 * 500 - 1)
    result = superresolve(tmp_path / "broken", tmp_path / "out")
    assert (result.rows_out, result.rejected, result.enlarged) == (2 * PAIRS - 2, 2, PAIRS - 2)
    left_out = {row.source: row for row in Table(tmp_path / "out", "faces").rejected()}
    assert left_out.keys() == {"s9/earlier.jpg", low[0]["source"], low[1]["source"]}
    assert left_out["s9/earlier.jpg"].detail == "it was there before"
    assert left_out[low[0]["source"]].reason == "unreadable" and left_out[low[0]["source"]].detail
    assert left_out[low[1]["source"]].reason == "too_large"
    assert "2000×2000" in left_out[low[1]["source"]].detail


def test_an_empty_table_stays_empty(tmp_path: Path) -> None:
    empty = write_rows(tmp_path / "empty", "faces", [])
    result = superresolve(empty, tmp_path / "out", SuperresolveOptions(which="all"))
    assert (result.rows_in, result.rows_out, result.enlarged) == (0, 0, 0)


def test_a_model_that_is_missing_or_has_another_scale_is_refused(paired_table: Path, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="nothing"):
        superresolve(paired_table, tmp_path / "out", SuperresolveOptions(model="nothing"))
    assert list(tmp_path.iterdir()) == []
    network = nearest(tmp_path / "two.onnx", 2)
    with pytest.raises(KubefaceError, match=r"scale is 4: two\.onnx@.* enlarges 2 times"):
        superresolve(paired_table, tmp_path / "out", SuperresolveOptions(model=str(network), scale=4))


def test_another_kind_of_table_is_refused(split_table: Path, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="holds a 'split' table where 'faces' is needed"):
        superresolve(split_table, tmp_path / "out")


def test_gather_accepts_its_table_in_place_of_ingests(paired_source: Path, tmp_path: Path) -> None:
    """Rejections and erasures of ingest are still reported."""
    source = tmp_path / "source"
    shutil.copytree(paired_source, source)
    (source / "hr_images" / "s1" / "bad.jpg").write_bytes(b"none")
    (tmp_path / "forget.csv").write_text("s3\n")
    ingest(str(source), tmp_path / "faces", IngestOptions(forget=str(tmp_path / "forget.csv")))
    superresolve(tmp_path / "faces", tmp_path / "enlarged")
    align(tmp_path / "enlarged", tmp_path / "aligned")
    filter_faces(tmp_path / "enlarged", tmp_path / "aligned", tmp_path / "filtered")
    ingested, aligned, filtered = ([str(tmp_path / name)] for name in ("enlarged", "aligned", "filtered"))
    gather(ingested, aligned, filtered, tmp_path / "out", tmp_path / "out_aligned", tmp_path / "out_filtered")
    data = json.loads((tmp_path / "out" / "data.json").read_text("utf-8"))
    assert data["rejected"]["ingest"] == {"not_an_image": 1}
    assert data["erasure"]["files_left_out"] == 2 * PHOTOGRAPHS
    settings = Table(tmp_path / "out_aligned", "aligned").manifest.settings
    assert settings["detector"] == "mtcnn"
