"""Filter on real photographs."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.faces.errors import KubefaceError
from components.faces.images import decode_rgb, encode_png
from components.faces.table import Table, TableWriter
from components.filter.step import filter_faces


def rows_of(table: Path, kind: str = "filter") -> list[dict[str, Any]]:
    return [row for group in Table(table, kind).row_groups() for row in group]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewrite(table: Path, kind: str, out: Path, rows: list[dict[str, Any]]) -> Path:
    with TableWriter(out, kind, "test 1", {}) as writer:
        for row in rows:
            writer.add(row)
    return out


@pytest.fixture(scope="module")
def doctored(faces_table: Path, aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two real faces, one of them enlarged tenfold, and a blank photograph that pretends to be aligned."""
    root = tmp_path_factory.mktemp("doctored")
    faces, aligned = rows_of(faces_table, "faces")[:2], rows_of(aligned_table, "aligned")[:2]
    large = cv2.resize(decode_rgb(faces[1]["image"]), (920, 1120), interpolation=cv2.INTER_CUBIC)
    faces[1] |= {"image": encode_png(np.asarray(large, np.uint8)), "width": 920, "height": 1120}
    blank = encode_png(np.full((112, 92), 128, np.uint8))
    faces.append(faces[0] | {"image_id": "blank", "source": "s1/blank.png", "image": blank})
    aligned.append(aligned[0] | {"image_id": "blank", "source": "s1/blank.png"})
    return (
        rewrite(faces_table, "faces", root / "faces", faces),
        rewrite(aligned_table, "aligned", root / "aligned", aligned),
    )


def test_real_faces_are_kept(filter_table: Path, aligned_table: Path) -> None:
    rows = rows_of(filter_table)
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in rows_of(aligned_table, "aligned")]
    assert all(row["kept"] for row in rows)
    for row in rows:
        assert row["reason"] is None
        assert 0.9 <= row["score"] <= 1
        assert 30 < row["face_size"] < 110  # of photographs of 92×112
    assert Table(filter_table, "filter").rejected() == []


def test_images_are_not_copied(filter_table: Path, faces_table: Path) -> None:
    size = {path: sum(file.stat().st_size for file in path.iterdir()) for path in (filter_table, faces_table)}
    assert size[filter_table] < size[faces_table] / 20


def test_a_blank_photograph_is_no_face(doctored: tuple[Path, Path], tmp_path: Path) -> None:
    figures = filter_faces(*doctored, tmp_path / "out")
    assert figures == {"rows_in": 3, "rows_out": 2, "rejected": 1}
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    assert rows.pop("blank") == {
        "image_id": "blank",
        "kept": False,
        "reason": "no_face",
        "score": 0.0,
        "face_size": 0.0,
    }
    assert all(row["kept"] for row in rows.values())
    assert Table(tmp_path / "out", "filter").rejected() == [
        {"source": "s1/blank.png", "reason": "no_face", "detail": "score 0.000, face 0 pixels"}
    ]


def test_sizes_are_pixels_of_the_photograph_however_large(doctored: tuple[Path, Path], filter_table: Path) -> None:
    out = doctored[0].with_name("sizes")
    filter_faces(*doctored, out)
    small, large = (rows_of(table)[1] for table in (filter_table, out))
    assert small["image_id"] == large["image_id"]
    assert large["face_size"] == pytest.approx(10 * small["face_size"], rel=0.1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"min_face_size": 1000.0}, ["small_face", "small_face", "no_face"]),
        ({"min_face_size": 200.0}, ["small_face", None, "no_face"]),
        ({"min_score": 1.0}, ["low_score", "low_score", "no_face"]),
        ({"min_score": 1.0, "min_face_size": 1000.0}, ["low_score", "low_score", "no_face"]),
        ({"min_score": 0.0, "min_face_size": 0.0}, [None, None, "no_face"]),
    ],
)
def test_thresholds_decide(
    settings: dict[str, float], expected: list[str | None], doctored: tuple[Path, Path], tmp_path: Path
) -> None:
    figures = filter_faces(*doctored, tmp_path / "out", **settings)
    rows = rows_of(tmp_path / "out")
    assert [row["reason"] for row in rows] == expected
    assert [row["kept"] for row in rows] == [reason is None for reason in expected]
    assert figures["rows_out"] == expected.count(None) == 3 - figures["rejected"]
    rejected = Table(tmp_path / "out", "filter").rejected()
    assert sorted(row["reason"] for row in rejected) == sorted(reason for reason in expected if reason)


def test_images_that_align_left_out_are_not_judged(faces_table: Path, aligned_table: Path, tmp_path: Path) -> None:
    some = rows_of(aligned_table, "aligned")[::3]
    aligned = rewrite(aligned_table, "aligned", tmp_path / "aligned", some)
    assert filter_faces(faces_table, aligned, tmp_path / "out")["rows_in"] == 10
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == [row["image_id"] for row in some]


def test_tables_that_do_not_belong_together_are_refused(
    doctored: tuple[Path, Path], faces_table: Path, tmp_path: Path
) -> None:
    with pytest.raises(KubefaceError, match=r"faces lacks 1 images of .*aligned: give the face table that was"):
        filter_faces(faces_table, doctored[1], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_score": 1.1}, "min_score is 1.1: it must lie between 0 and 1"),
        ({"min_score": -1}, "min_score is -1"),
        ({"min_face_size": -5.0}, "min_face_size is -5.0: it must not be negative"),
    ],
)
def test_wrong_settings_are_named(
    settings: dict[str, float], message: str, faces_table: Path, aligned_table: Path, tmp_path: Path
) -> None:
    with pytest.raises(KubefaceError, match=message):
        filter_faces(faces_table, aligned_table, tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_table_is_named(doctored: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(doctored[1], tmp_path / "aligned")
    with open(tmp_path / "aligned" / "shard-00000.parquet", "ab") as file:
        file.write(b"?")
    with pytest.raises(KubefaceError, match=r"aligned/shard-00000\.parquet is corrupt"):
        filter_faces(doctored[0], tmp_path / "aligned", tmp_path / "out")


def test_two_runs_give_the_same_bytes(doctored: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        filter_faces(*doctored, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
