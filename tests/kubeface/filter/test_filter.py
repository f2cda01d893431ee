"""Filter on real photographs."""

import tarfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import kubeface.filter.step as step
from kubeface.align.options import AlignOptions
from kubeface.align.step import align
from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.faces.quality import FaceQuality, measure_face
from kubeface.faces.templates import TemplateName
from kubeface.filter.options import FilterOptions
from kubeface.filter.step import FilterResult, filter_faces, rejection_reason
from kubeface.ingest.step import ingest
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.resolution_pairs import partners
from kubeface.tables.table import Table
from tests.support.images import scaled, write_files
from tests.support.tables import contents, reasons, rows_of, write_rows


@pytest.fixture(scope="module")
def doctored(faces_table: Path, aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Face and aligned table of two real faces, one of them enlarged tenfold, and of a blank photograph."""
    root = tmp_path_factory.mktemp("doctored")
    faces, aligned = rows_of(faces_table)[:2], rows_of(aligned_table)[:2]
    large = scaled(decode_rgb(faces[1]["image"]), 10)
    faces[1] |= {"image": encode_png(large), "width": 920, "height": 1120}
    for name in ("landmarks", "det_box"):
        aligned[1][name] = [10 * value for value in aligned[1][name]]
    blank = encode_png(np.full((112, 92), 128, np.uint8))
    faces.append(faces[0] | {"image_id": "blank", "source": "s1/blank.png", "image": blank})
    aligned.append(aligned[0] | {"image_id": "blank", "source": "s1/blank.png"})
    return write_rows(root / "faces", "faces", faces), write_rows(root / "aligned", "aligned", aligned)


def test_real_faces_are_kept(filter_table: Path, aligned_table: Path) -> None:
    rows = rows_of(filter_table)
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in rows_of(aligned_table)]
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
    any_sharpness = FilterOptions(min_sharpness=0)  # a face enlarged tenfold is not sharp
    result = filter_faces(*doctored, tmp_path / "out", any_sharpness)
    assert result == FilterResult(rows_in=3, rows_out=2, rejected=1)
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    blank = rows.pop("blank")
    assert blank.pop("turn") < 0.5  # the landmarks are another photograph's
    assert blank == {
        "image_id": "blank",
        "kept": False,
        "reason": "no_face",
        "score": 0.0,
        "face_size": 0.0,
        "faces": 0,
        "sharpness": 0.0,
        "agreement": 0.0,
    }
    assert all(row["kept"] for row in rows.values())
    (rejected,) = Table(tmp_path / "out", "filter").rejected()
    assert (rejected.source, rejected.reason) == ("s1/blank.png", "no_face")
    assert rejected.detail.startswith("score 0.000, face 0 pixels, 0 faces, sharpness 0, turn 0.")


def test_sizes_are_pixels_of_the_photograph_however_large(doctored: tuple[Path, Path], filter_table: Path) -> None:
    out = doctored[0].with_name("sizes")
    filter_faces(*doctored, out)
    small, large = (rows_of(table)[1] for table in (filter_table, out))
    assert small["image_id"] == large["image_id"]
    assert large["face_size"] == pytest.approx(10 * small["face_size"], rel=0.1)


def test_limits_decide_which_images_are_kept(doctored: tuple[Path, Path], tmp_path: Path) -> None:
    result = filter_faces(*doctored, tmp_path / "out", FilterOptions(min_sharpness=0, min_face_size=200))
    rows = rows_of(tmp_path / "out")
    assert [row["reason"] for row in rows] == ["small_face", None, "no_face"]
    assert [row["kept"] for row in rows] == [False, True, False]
    assert (result.rows_out, result.rejected) == (1, 2)
    assert sorted(reasons(tmp_path / "out").values()) == ["no_face", "small_face"]
    columns = [field.name for field in fields(FaceQuality)]
    for limits, expected in (
        ({"min_face_size": 1000}, ["small_face", "small_face", "no_face"]),
        ({"min_score": 1}, ["low_score", "low_score", "no_face"]),
        ({"min_score": 1, "min_face_size": 1000}, ["low_score", "low_score", "no_face"]),
        ({"min_score": 0, "min_face_size": 0}, [None, None, "no_face"]),
    ):
        options = FilterOptions.model_validate({"min_sharpness": 0} | limits)
        qualities = (FaceQuality(**{name: row[name] for name in columns}) for row in rows)
        assert [rejection_reason(quality, options) for quality in qualities] == expected


def test_images_that_align_left_out_are_not_judged(faces_table: Path, aligned_table: Path, tmp_path: Path) -> None:
    some = rows_of(aligned_table)[::3]
    aligned = write_rows(tmp_path / "aligned", "aligned", some)
    assert filter_faces(faces_table, aligned, tmp_path / "out").rows_in == 10
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == [row["image_id"] for row in some]


def test_tables_that_do_not_belong_together_are_refused(
    doctored: tuple[Path, Path], pairs: tuple[Path, Path], faces_table: Path, tmp_path: Path
) -> None:
    with pytest.raises(KubefaceError, match=r"faces lacks 1 images of .*aligned: give the face table that was"):
        filter_faces(faces_table, doctored[1], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    rows = [row for row in rows_of(pairs[0]) if row["source"] != "hr_images/s1/1.png"]
    with pytest.raises(KubefaceError, match="give the face table that was aligned"):
        filter_faces(write_rows(tmp_path / "lacking", "faces", rows), pairs[1], tmp_path / "out")


def blurred(image: RGB, deviation: float) -> RGB:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), deviation), np.uint8)


@pytest.fixture(scope="module")
def damaged(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six people: one as photographed, one out of focus, one with another face beside it, one whose box is elsewhere,
    one who turns away, and one whose photograph has become unreadable."""
    root = tmp_path_factory.mktemp("damaged")
    images = {number: decode_rgb(orl[f"s{number}/1.pgm"]) for number in range(1, 8)}
    images[2] = blurred(images[2], 3)
    images[3] = np.hstack([images[3], images[7]])
    files = {f"s{number}/1.png": encode_png(images[number]) for number in range(1, 7)}
    ingest(write_files(root / "in", files), root / "faces")
    align(root / "faces", root / "right")
    faces = {row["identity"]: row for row in rows_of(root / "faces")}
    crops = {row["identity"]: row for row in rows_of(root / "right")}
    crops["s4"]["det_box"] = [value - 50 for value in crops["s4"]["det_box"]]
    left, nose = np.array(crops["s5"]["landmarks"]).reshape(5, 2)[[0, 2]]
    crops["s5"]["landmarks"][4:6] = [float(left[0]), float(nose[1])]  # the nose below an eye, as in a profile
    faces["s6"]["image"] = faces["s6"]["image"][:2000] + b"?" * 500
    photographs = write_rows(root / "photographs", "faces", faces.values())
    return photographs, write_rows(root / "aligned", "aligned", crops.values())


def test_each_defect_has_its_reason(damaged: tuple[Path, Path], tmp_path: Path) -> None:
    filter_faces(*damaged, tmp_path / "out", FilterOptions(max_faces=1))
    names = {row["image_id"]: row["identity"] for row in rows_of(damaged[0])}
    assert {names[row["image_id"]]: row["reason"] for row in rows_of(tmp_path / "out")} == {
        "s1": None,
        "s2": "blurred",
        "s3": "several_faces",
        "s4": "disagrees_with_aligner",
        "s5": "turned_away",
        "s6": "unreadable",
    }


def test_each_limit_can_be_lifted(damaged: tuple[Path, Path], tmp_path: Path) -> None:
    filter_faces(*damaged, tmp_path / "out", FilterOptions(min_sharpness=0, max_turn=1, min_agreement=0))
    assert Table(tmp_path / "out", "filter").manifest.rejected == {"unreadable": 1}


@pytest.mark.parametrize("tables", ["damaged", "pairs"])
def test_two_runs_give_the_same_bytes_whatever_the_workers(
    tables: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, aligned = request.getfixturevalue(tables)
    for workers, pixels in ((1, step.BATCH_PIXELS), (3, 1)):  # one pixel: each photograph is a batch of its own
        monkeypatch.setattr(step, "BATCH_PIXELS", pixels)
        monkeypatch.setattr(step, "cpu_limit", lambda workers=workers: workers)
        filter_faces(faces, aligned, tmp_path / str(workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_failing_worker_ends_the_step(
    damaged: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(step, "measure_face", fail)
    with pytest.raises(MemoryError, match="no room"):
        filter_faces(*damaged, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("max_faces", "expected"), [(0, None), (1, "several_faces"), (2, "several_faces"), (3, None)])
def test_max_faces_zero_is_no_limit(max_faces: int, expected: str | None) -> None:
    quality = FaceQuality(score=1, face_size=50, faces=3, sharpness=100, turn=0, agreement=1)
    assert rejection_reason(quality, FilterOptions(max_faces=max_faces)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("archive", ["lfw/lfw-deepfunneled.tar", "celeba/celeba_wild.tar"])
def test_good_photographs_are_kept(archive: str, shared_data: Path, tmp_path: Path) -> None:
    """The defaults reject fewer than 2 % for each reason but a missing face."""
    with tarfile.open(shared_data / archive) as tar:
        members = sorted((member for member in tar if member.name.endswith(".jpg")), key=lambda member: member.name)
        for member in members[:300]:
            path = tmp_path / "in" / Path(member.name).relative_to(Path(member.name).parts[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            file = tar.extractfile(member)
            assert file is not None
            path.write_bytes(file.read())
    ingest(str(tmp_path / "in"), tmp_path / "faces")
    align(tmp_path / "faces", tmp_path / "aligned")
    result = filter_faces(tmp_path / "faces", tmp_path / "aligned", tmp_path / "out")
    rejected = Table(tmp_path / "out", "filter").manifest.rejected
    for reason in ("several_faces", "blurred", "turned_away", "disagrees_with_aligner"):
        assert rejected.get(reason, 0) < 0.02 * result.rows_in


def test_whole_photographs_are_kept_unless_they_cannot_be_decoded(doctored: tuple[Path, Path], tmp_path: Path) -> None:
    """Blank ones too, since RetinaFace is not used."""
    faces = doctored[0]
    align(faces, tmp_path / "whole", AlignOptions(detector="none", template="whole_224"))
    strict = FilterOptions(min_sharpness=1e6, max_turn=0, min_agreement=1)
    assert filter_faces(faces, tmp_path / "whole", tmp_path / "out", strict) == FilterResult(
        rows_in=3, rows_out=3, rejected=0
    )
    sides = {row["image_id"]: min(row["width"], row["height"]) for row in rows_of(faces)}
    for row in rows_of(tmp_path / "out"):
        assert (row["score"], row["faces"], row["turn"], row["agreement"]) == (1, 0, 0, 0)
        assert (row["sharpness"] == 0) == (row["image_id"] == "blank")
        assert row["face_size"] in (sides[row["image_id"]], 92)
    crops = rows_of(tmp_path / "whole")
    crops[1]["image"] = b"not an image"
    settings = Table(tmp_path / "whole", "aligned").manifest.settings
    write_rows(tmp_path / "damaged", "aligned", crops, settings)
    filter_faces(faces, tmp_path / "damaged", tmp_path / "again")
    assert [row["reason"] for row in rows_of(tmp_path / "again")] == [None, "unreadable", None]


def test_a_portrait_is_judged_as_its_face_is(faces_table: Path, filter_table: Path, tmp_path: Path) -> None:
    align(faces_table, tmp_path / "aligned", AlignOptions(template="portrait_224"))
    filter_faces(faces_table, tmp_path / "aligned", tmp_path / "out")
    assert rows_of(tmp_path / "out") == rows_of(filter_table)


def pairs_tables(
    root: Path, orl: dict[str, bytes], template: TemplateName = "arcface_112", enlarge: int = 1
) -> tuple[Path, Path]:
    """Face and aligned table of pairs: s1 and s2 good ones, s3's sharp image blurred.

    The low images are an eighth as large, or `enlarge` times that; of s5 there is a good low image alone, of s6 a
    blurred one, 46×56 pixels. Low images come before sharp ones.
    """
    files = {"vlr_images/s5/1.pgm": orl["s5/1.pgm"]}
    for person in ("s1", "s2", "s3"):
        image = decode_rgb(orl[f"{person}/1.pgm"])
        low = scaled(image, 1 / 8)
        files[f"vlr_images/{person}/1.png"] = encode_png(low if enlarge == 1 else scaled(low, enlarge))
        files[f"hr_images/{person}/1.png"] = encode_png(blurred(image, 3) if person == "s3" else image)
    files["vlr_images/s6/1.png"] = encode_png(blurred(scaled(decode_rgb(orl["s6/1.pgm"]), 1 / 2), 2))
    ingest(write_files(root / "in", files), root / "ingested")
    ordered = sorted(rows_of(root / "ingested"), key=lambda row: "high" in row["groups"])
    faces = write_rows(root / "faces", "faces", ordered)
    align(faces, root / "aligned", AlignOptions(template=template))
    assert Table(root / "aligned", "aligned").rows == 8
    return faces, root / "aligned"


@pytest.fixture(scope="module")
def pairs(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tables of `pairs_tables`, on ArcFace's template and not enlarged."""
    return pairs_tables(tmp_path_factory.mktemp("pairs"), orl)


@pytest.mark.parametrize(("template", "enlarge"), [("facenet_160", 1), ("arcface_112", 4)])
def test_a_low_image_gets_the_decision_of_its_sharp_one(
    template: TemplateName, enlarge: int, orl: dict[str, bytes], tmp_path: Path
) -> None:
    faces, aligned = pairs_tables(tmp_path, orl, template, enlarge)
    filter_faces(faces, aligned, tmp_path / "out")
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    images = {row["image_id"]: row for row in rows_of(aligned)}
    assert list(rows) == list(images)
    pairs = partners(Table(aligned, "aligned"))
    assert len(pairs) == 3
    for low, high in pairs.items():
        for name in ("kept", "reason", "score", "faces", "turn", "agreement"):
            assert rows[low][name] == rows[high][name]
        x1, y1, x2, y2 = images[low]["det_box"]
        assert rows[low]["face_size"] == pytest.approx(min(x2 - x1, y2 - y1), rel=1e-5)
        assert rows[low]["face_size"] < rows[high]["face_size"] * 0.6
        assert rows[low]["sharpness"] != rows[high]["sharpness"]
        assert rows[low]["reason"] == ("blurred" if images[low]["identity"] == "s3" else None)
    sharp, low_one = (
        next(row.detail for row in Table(tmp_path / "out", "filter").rejected() if row.source == source)
        for source in ("hr_images/s3/1.png", "vlr_images/s3/1.png")
    )
    assert low_one == f"its sharp image: {sharp}"


def test_a_low_image_without_a_sharp_one_is_not_rejected_for_its_size(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    faces, aligned = pairs
    sources = {row["image_id"]: row["source"] for row in rows_of(aligned)}
    alone = ("vlr_images/s5/1.pgm", "vlr_images/s6/1.png")

    def reasons_with(options: FilterOptions) -> list[str | None]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        filter_faces(faces, aligned, out, options)
        rows = {sources[row["image_id"]]: row for row in rows_of(out)}
        assert all(rows[source]["score"] > 0.5 for source in alone)  # RetinaFace looked
        return [rows[source]["reason"] for source in (*alone, "hr_images/s1/1.png")]

    strict = FilterOptions(min_score=0.5, min_face_size=1000, min_sharpness=1e6)
    assert reasons_with(strict) == [None, None, "small_face"]
    assert reasons_with(FilterOptions(min_score=0.5, min_sharpness=1e6)) == [None, None, "blurred"]
    assert reasons_with(FilterOptions(min_score=1)) == ["low_score"] * 3


def test_sharp_images_of_pairs_are_judged_once_and_as_if_alone(
    pairs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, aligned = pairs
    looked: list[tuple[int, ...]] = []

    def counting(image: RGB, *others: Any) -> FaceQuality:
        looked.append(image.shape)
        return measure_face(image, *others)

    monkeypatch.setattr(step, "measure_face", counting)
    filter_faces(faces, aligned, tmp_path / "out")
    assert sorted(looked) == [(56, 46, 3), *[(112, 92, 3)] * 4]  # three sharp ones, two low ones alone
    groups = {row["image_id"]: row["groups"] for row in rows_of(faces)}
    high = {image_id for image_id, group in groups.items() if "high" in group}
    for table, kind in ((faces, "faces"), (aligned, "aligned")):
        rows = [row for row in rows_of(table) if row["image_id"] in high]
        write_rows(tmp_path / f"high_{kind}", kind, rows, Table(table, kind).manifest.settings)
    filter_faces(tmp_path / "high_faces", tmp_path / "high_aligned", tmp_path / "alone")
    assert rows_of(tmp_path / "alone") == [row for row in rows_of(tmp_path / "out") if row["image_id"] in high]


def test_a_low_image_that_cannot_be_decoded_is_unreadable(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    faces, aligned = pairs
    rows = rows_of(faces)
    for row in rows:
        if row["source"] in ("vlr_images/s1/1.png", "hr_images/s2/1.png"):
            row["image"] = row["image"][:40]
    filter_faces(write_rows(tmp_path / "cut", "faces", rows), aligned, tmp_path / "out")
    rejected = reasons(tmp_path / "out")
    assert {source for source, reason in rejected.items() if reason == "unreadable"} == {
        "vlr_images/s1/1.png",
        "hr_images/s2/1.png",
        "vlr_images/s2/1.png",
    }
