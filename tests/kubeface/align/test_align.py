"""Align on real photographs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from facenet_pytorch.models.utils.detect_face import extract_face
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import kubeface.align.step as step
from kubeface.align.options import AlignOptions
from kubeface.align.step import AlignResult, DetectedFace, align
from kubeface.faces.detection import make_detector
from kubeface.faces.detector import Detector, Faces
from kubeface.faces.geometry import ARCFACE_112, align_crop, face_part
from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.filter.step import filter_faces
from kubeface.ingest.step import ingest
from kubeface.tables.resolution_pairs import partners
from kubeface.tables.table import Rejection, Table
from tests.support.commands import run_python
from tests.support.images import scaled, write_files
from tests.support.tables import HASHES, contents, rows_of, write_rows


@pytest.fixture(scope="module")
def mixed(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face table with three faces, a blank image, and one face in the middle with a larger one in the corner."""
    root = tmp_path_factory.mktemp("mixed")
    crowd = np.full((500, 480, 3), 100, np.uint8)
    crowd[194:306, 194:286] = decode_rgb(orl["s3/1.pgm"])
    crowd[5:173, 5:143] = scaled(decode_rgb(orl["s1/1.pgm"]), 1.5)
    files = {
        "s1/1.pgm": orl["s1/1.pgm"],
        "s1/blank.png": encode_png(np.full((112, 92), 128, np.uint8)),
        "s2/1.pgm": orl["s2/1.pgm"],
        "s3/1.pgm": orl["s3/1.pgm"],
        "s3/crowd.png": encode_png(crowd),
    }
    ingest(write_files(root / "in", files), root / "faces")
    return root / "faces"


Aligned = Callable[..., Path]


@pytest.fixture(scope="module")
def aligned(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Aligned:
    """`mixed` aligned with some options, once for each set of them."""
    root = tmp_path_factory.mktemp("aligned")

    def made(**values: Any) -> Path:
        options = AlignOptions(**values)
        out = root / f"{options.detector} {options.template} {options.min_face_size}"
        if not out.exists():
            align(mixed, out, options)
        return out

    return made


def test_every_real_face_is_found(aligned_table: Path, faces_table: Path) -> None:
    table = Table(aligned_table, "aligned")
    assert (table.rows, table.identities, table.rejected()) == (30, 6, [])
    photographs = {row["image_id"]: row for row in rows_of(faces_table)}
    assert [row["image_id"] for row in rows_of(aligned_table)] == list(photographs)
    for row in rows_of(aligned_table):
        photograph = photographs[row["image_id"]]
        for name in ("identity", "source", "given_split"):
            assert row[name] == photograph[name]
        assert row["image"].startswith(b"P6\n112 112\n255\n")
        assert (row["photo_width"], row["photo_height"]) == (photograph["width"], photograph["height"]) == (92, 112)
        assert decode_rgb(row["image"]).shape == (row["height"], row["width"], 3) == (112, 112, 3)
        assert 0.9 <= row["det_score"] <= 1


def test_landmarks_and_box_are_in_pixels_of_the_photograph(aligned_table: Path, faces_table: Path) -> None:
    photographs = {row["image_id"]: row["image"] for row in rows_of(faces_table)}
    for row in rows_of(aligned_table):
        landmarks = np.array(row["landmarks"]).reshape(5, 2)
        again = align_crop(decode_rgb(photographs[row["image_id"]]), landmarks)
        assert np.abs(again.astype(int) - decode_rgb(row["image"])).max() <= 2
        x1, y1, x2, y2 = row["det_box"]
        assert ((landmarks > [x1, y1]) & (landmarks < [x2, y2])).all()


def test_eyes_of_a_crop_are_at_the_templates_positions(aligned_table: Path) -> None:
    detect = make_detector("retinaface", 20)
    offsets = []
    for row in rows_of(aligned_table):
        # The crop is tight: a margin lets the detector see the whole head.
        framed = cv2.copyMakeBorder(decode_rgb(row["image"]), 40, 40, 40, 40, cv2.BORDER_REPLICATE)
        faces = detect(np.asarray(framed, np.uint8)).confident(0.5)
        if len(faces):
            eyes = faces.landmarks[faces.prominent(192, 192)][:2] - 40
            offsets.append(np.linalg.norm(eyes - ARCFACE_112[:2], axis=1))
    assert len(offsets) >= 28
    assert np.median(offsets) < 6


def test_images_without_a_face_are_listed(aligned: Aligned) -> None:
    table = Table(aligned(), "aligned")
    assert (table.rows, table.identities) == (4, 3)
    assert table.rejected() == [Rejection("s1/blank.png", "no_face", "mtcnn found none at score 0.9")]
    assert {row["source"] for row in rows_of(table)} == {"s1/1.pgm", "s2/1.pgm", "s3/1.pgm", "s3/crowd.png"}


@pytest.mark.parametrize("detector", ["mtcnn", "retinaface"])
def test_the_central_face_is_cropped_though_another_is_larger(detector: str, aligned: Aligned) -> None:
    rows = {row["source"]: row for row in rows_of(aligned(detector=detector))}
    x1, y1, x2, y2 = rows["s3/crowd.png"]["det_box"]
    assert 200 < (x1 + x2) / 2 < 280
    assert 210 < (y1 + y2) / 2 < 290
    crowd, alone = (decode_rgb(rows[name]["image"]).astype(float) for name in ("s3/crowd.png", "s3/1.pgm"))
    assert np.corrcoef(crowd.ravel(), alone.ravel())[0, 1] > 0.8


def test_options_decide_what_counts_as_a_face(mixed: Path, aligned: Aligned, tmp_path: Path) -> None:
    assert align(mixed, tmp_path / "large", AlignOptions(min_face_size=100)).rows_out == 1
    (row,) = rows_of(tmp_path / "large")
    assert row["source"] == "s3/crowd.png"
    assert row["det_box"][2] < 143  # the one in the corner
    scores = sorted(row["det_score"] for row in rows_of(aligned()))
    between = (scores[0] + scores[-1]) / 2
    kept = align(mixed, tmp_path / "sure", AlignOptions(min_confidence=between)).rows_out
    assert kept == sum(score >= between for score in scores) < 4


def test_no_face_at_all_is_an_empty_table_and_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table may be one shard of many."""
    files = {f"{person}/1.png": encode_png(np.full((60, 60), ord(person), np.uint8)) for person in "ab"}
    ingest(write_files(tmp_path / "in", files), tmp_path / "faces")
    result = align(tmp_path / "faces", tmp_path / "out")
    assert (result.rows_in, result.rows_out, result.rejected) == (2, 0, 2)
    assert "warning: mtcnn found no face in any of the 2 images" in capsys.readouterr().err
    assert {row.reason for row in Table(tmp_path / "out", "aligned").rejected()} == {"no_face"}
    filter_faces(tmp_path / "faces", tmp_path / "out", tmp_path / "filter")
    assert Table(tmp_path / "filter", "filter").rows == 0


def test_facenet_160_is_the_crop_of_facenet_pytorch(mixed: Path, aligned: Aligned, tmp_path: Path) -> None:
    table = Table(aligned(template="facenet_160"), "aligned")
    assert table.manifest.settings["template"] == "facenet_160"
    photographs = {row["source"]: decode_rgb(row["image"]) for row in rows_of(mixed)}
    for row in rows_of(table):
        path = tmp_path / "peer" / "face.png"
        extract_face(Image.fromarray(photographs[row["source"]]), np.array(row["det_box"]), 160, 0, str(path))
        assert (row["width"], row["height"]) == (160, 160)
        assert (decode_rgb(row["image"]) == decode_rgb(path.read_bytes())).all()


@pytest.mark.parametrize("template", ["facenet_160", "portrait_224"])
def test_the_template_changes_the_crop_alone(template: str, aligned: Aligned) -> None:
    for row, other in zip(rows_of(aligned()), rows_of(aligned(template=template)), strict=True):
        assert {name for name in row if row[name] != other[name]} == {"image", "width", "height"}
        if template == "portrait_224":  # which contains ArcFace's crop
            crop, portrait = decode_rgb(row["image"]), decode_rgb(other["image"])
            assert portrait.shape == (224, 224, 3)
            assert abs(face_part(portrait, "portrait_224").astype(int) - crop).max() <= 1


def test_whole_224_is_the_central_square(mixed: Path, aligned: Aligned) -> None:
    """Also the one that shows no face."""
    rows = rows_of(aligned(detector="none", template="whole_224", min_face_size=400))
    assert len(rows) == 5
    photographs = {row["image_id"]: decode_rgb(row["image"]) for row in rows_of(mixed)}
    for row in rows:
        photograph = photographs[row["image_id"]]
        side, (height, width) = min(photograph.shape[:2]), photograph.shape[:2]
        left, top = (width - side) // 2, (height - side) // 2
        square = Image.fromarray(photograph[top : top + side, left : left + side])
        expected = np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR))
        assert (decode_rgb(row["image"]) == expected).all()
        assert (row["width"], row["height"], row["photo_width"], row["photo_height"]) == (224, 224, width, height)
        assert (row["det_score"], row["landmarks"]) == (1, [0] * 10)
        assert row["det_box"] == [left, top, left + side, top + side]


@pytest.fixture
def damaged(mixed: Path, tmp_path: Path) -> Path:
    """`mixed` with three images spoilt after ingest: cut off, overwritten, empty."""
    rows = rows_of(mixed)
    rows[0]["image"] = rows[0]["image"][: len(rows[0]["image"]) // 2]
    rows[1]["image"] = b"not an image"
    rows[2]["image"] = b""
    return write_rows(tmp_path / "damaged", "faces", rows)


def test_unreadable_images_are_rejected(damaged: Path, tmp_path: Path) -> None:
    spoilt = sorted(row["source"] for row in rows_of(damaged)[:3])
    result = align(damaged, tmp_path / "out", AlignOptions(min_confidence=0.5))
    rejected = [row for row in Table(tmp_path / "out", "aligned").rejected() if row.reason == "unreadable"]
    assert [row.source for row in rejected] == spoilt
    assert all(row.detail for row in rejected)
    assert result.rows_out + result.rejected == result.rows_in == 5
    assert result.rows_out >= 1


@pytest.mark.parametrize("detector", ["mtcnn", "retinaface"])
def test_two_runs_give_the_same_bytes_whatever_the_workers(
    detector: Literal["mtcnn", "retinaface"], mixed: Path, aligned: Aligned, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(step, "BATCH_PIXELS", 10_000)  # one photograph, so that all workers have work
    monkeypatch.setattr(step, "cpu_limit", lambda: 3)
    align(mixed, tmp_path / "out", AlignOptions(detector=detector))
    assert contents(tmp_path / "out") == contents(aligned(detector=detector))
    assert Table(tmp_path / "out", "aligned").manifest.settings["detector"] == detector


def test_a_failing_worker_ends_the_step(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> bytes:
        raise MemoryError("no room")

    monkeypatch.setattr(step, "encode_crop", fail)
    with pytest.raises(MemoryError, match="no room"):
        align(mixed, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_works_without_torch(mixed: Path, tmp_path: Path) -> None:
    """The image has none of these packages, and of facenet-pytorch only the files."""
    program = (
        "import sys\nfor name in ('torch', 'torchvision', 'facenet_pytorch'): sys.modules[name] = None\n"
        "from pathlib import Path\nfrom kubeface.align.options import AlignOptions\n"
        "from kubeface.align.step import align\n"
        "for detector in ('mtcnn', 'retinaface'):\n"
        f"    out = Path({str(tmp_path)!r}, detector)\n"
        f"    print(align(Path({str(mixed)!r}), out, AlignOptions(detector=detector)).rows_out)\n"
    )
    assert run_python(program) == "4\n4\n"


def pairs_source(root: Path, orl: dict[str, bytes], enlarge: int = 1) -> Path:
    """A face table of three people with two pairs each, low images first; where they are enlarged, last.

    Of s4 there is a low image alone and a sharp one alone, of s5 a blank sharp image beside a low one of a face, of s6
    a low image of another shape than its sharp one.
    """
    files: dict[str, bytes] = {}
    for person in ("s1", "s2", "s3"):
        for number in (1, 2):
            sharp = orl[f"{person}/{number}.pgm"]
            files[f"hr_images/{person}/{number}.pgm"] = sharp
            files[f"vlr_images/{person}/{number}.png"] = encode_png(scaled(decode_rgb(sharp), 1 / 8))
    files["vlr_images/s4/1.pgm"] = orl["s4/1.pgm"]
    files["hr_images/s4/2.pgm"] = orl["s4/2.pgm"]
    files["hr_images/s5/1.png"] = encode_png(np.full((112, 92), 128, np.uint8))
    files["vlr_images/s5/1.png"] = encode_png(scaled(decode_rgb(orl["s5/1.pgm"]), 1 / 8))
    files["hr_images/s6/1.pgm"] = orl["s6/1.pgm"]
    files["vlr_images/s6/1.png"] = encode_png(decode_rgb(orl["s6/1.pgm"])[:92])
    ingest(write_files(root / "in", files), root / "ingested")
    rows = sorted(rows_of(root / "ingested"), key=lambda row: ("low" in row["groups"]) == (enlarge > 1))
    for row in rows if enlarge > 1 else ():
        if "low" in row["groups"]:
            large = scaled(decode_rgb(row["image"]), enlarge)
            row |= {"image": encode_png(large), "width": large.shape[1], "height": large.shape[0]}
            row["groups"] = json.dumps(json.loads(row["groups"]) | {"enlarged": str(enlarge)})
    return write_rows(root / "faces", "faces", rows)


@pytest.fixture(scope="module", params=[1, 4])
def pairs(request: pytest.FixtureRequest, orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The face table of `pairs_source`, its low images as they are and enlarged four times."""
    return pairs_source(tmp_path_factory.mktemp("pairs"), orl, request.param)


@pytest.fixture(scope="module")
def aligned_pairs(pairs: Path) -> Path:
    """`pairs` aligned with MTCNN."""
    out = pairs.with_name("aligned")
    assert align(pairs, out) == AlignResult(rows_in=18, rows_out=16, identities=5, faces=16, without_face=2, rejected=2)
    return out


def test_a_low_image_is_cropped_where_its_sharp_one_is(aligned_pairs: Path) -> None:
    rows = {row["image_id"]: row for row in rows_of(aligned_pairs)}
    pairs_of_rows = [(rows[low], rows[high]) for low, high in partners(Table(aligned_pairs, "aligned")).items()]
    pairs_of_rows = [(low, high) for low, high in pairs_of_rows if low["identity"] in ("s1", "s2", "s3")]
    assert len(pairs_of_rows) == 6
    for low, high in pairs_of_rows:
        assert low["det_score"] == high["det_score"] >= 0.9
        ratio = np.array([low["photo_width"] / high["photo_width"], low["photo_height"] / high["photo_height"]])
        assert (ratio < 0.6).all()
        assert low["det_box"] == pytest.approx(np.tile(ratio, 2) * high["det_box"], rel=1e-5)
        landmarks, sharp = (np.array(row["landmarks"]).reshape(5, 2) for row in (low, high))
        assert landmarks + 0.5 == pytest.approx((sharp + 0.5) * ratio, rel=1e-5)
        # The two crops show the same, a pixel or so aside; landmarks scaled from the corner would be 3.5.
        few, many = (cv2.cvtColor(decode_rgb(row["image"]), cv2.COLOR_RGB2GRAY) for row in (low, high))
        blurred = cv2.GaussianBlur(many, (0, 0), 4)[20:-20, 20:-20].astype(np.float32)
        soft = cv2.GaussianBlur(few, (0, 0), 2)[20:-20, 20:-20].astype(np.float32)
        window = cv2.createHanningWindow(blurred.shape[::-1], cv2.CV_32F)
        (right, down), _ = cv2.phaseCorrelate(blurred, soft, window)
        assert np.hypot(right, down) < 1.5


def test_rows_of_pairs_stay_in_order_and_sharp_ones_as_they_were(
    pairs: Path, aligned_pairs: Path, tmp_path: Path
) -> None:
    rows = rows_of(aligned_pairs)
    kept = {row["image_id"] for row in rows}
    photographs = rows_of(pairs)
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in photographs if row["image_id"] in kept]
    write_rows(tmp_path / "sharp", "faces", [row for row in photographs if "high" in row["groups"]])
    align(tmp_path / "sharp", tmp_path / "alone")
    assert rows_of(tmp_path / "alone") == [row for row in rows if "high" in row["groups"]]


def test_without_a_face_on_the_sharp_image_the_low_one_is_rejected(aligned_pairs: Path) -> None:
    rejected = {row.source: (row.reason, row.detail) for row in Table(aligned_pairs, "aligned").rejected()}
    none_found = "mtcnn found none at score 0.9"
    assert rejected == {
        "hr_images/s5/1.png": ("no_face", none_found),
        "vlr_images/s5/1.png": ("no_face", f"{none_found} on the sharp image of the pair"),
    }


def test_low_images_without_a_matching_sharp_one_get_a_detection_of_their_own(pairs: Path, aligned_pairs: Path) -> None:
    photographs = {row["source"]: row["image"] for row in rows_of(pairs)}
    rows = {row["source"]: row for row in rows_of(aligned_pairs)}
    detect = make_detector("mtcnn", 20)
    for source in ("vlr_images/s4/1.pgm", "vlr_images/s6/1.png"):
        image = decode_rgb(photographs[source])
        faces = detect(image)
        best = faces.prominent(image.shape[1], image.shape[0])
        assert rows[source]["det_box"] == pytest.approx(faces.boxes[best], abs=0.01)
        assert rows[source]["det_score"] == pytest.approx(faces.scores[best], abs=1e-5)


def test_a_sharp_image_is_detected_once(orl: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, ...]] = []

    def counting(*arguments: Any, **named: Any) -> Detector:
        detector = make_detector(*arguments, **named)

        def find(image: RGB) -> Faces:
            looked.append(image.shape)
            return detector.find(image)

        return Detector(detector.name, find, detector.min_face_size)

    monkeypatch.setattr(step, "make_detector", counting)
    align(pairs_source(tmp_path, orl), tmp_path / "out", AlignOptions(detector="retinaface", min_confidence=0.5))
    # Nine sharp images, the low one without a sharp one, and the low one of another shape.
    assert sorted(looked) == [(92, 92, 3), *[(112, 92, 3)] * 10]


def test_the_low_image_of_an_unreadable_sharp_one_gets_a_detection_of_its_own(
    orl: dict[str, bytes], tmp_path: Path
) -> None:
    sharp = {"image_id": "a", "identity": "s1", "source": "hr_images/s1/1.pgm", "groups": '{"resolution": "high"}'}
    low = {"image_id": "b", "identity": "s1", "source": "vlr_images/s1/1.pgm", "groups": '{"resolution": "low"}'}
    ends = {"given_split": None, "width": 92, "height": 112, **HASHES}
    rows = [sharp | ends | {"image": orl["s1/1.pgm"][:1000]}, low | ends | {"image": orl["s1/1.pgm"]}]
    write_rows(tmp_path / "faces", "faces", rows)
    align(tmp_path / "faces", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["source"] == low["source"]
    (rejected,) = Table(tmp_path / "out", "aligned").rejected()
    assert (rejected.source, rejected.reason) == (sharp["source"], "unreadable")


def test_without_a_detector_pairs_are_whole_photographs(orl: dict[str, bytes], tmp_path: Path) -> None:
    result = align(pairs_source(tmp_path, orl), tmp_path / "out", AlignOptions(detector="none", template="whole_224"))
    assert result.rows_out == 18
    assert {tuple(row["det_box"]) for row in rows_of(tmp_path / "out") if row["photo_width"] < 92} == {(0, 1, 12, 13)}


def test_pairs_give_the_same_bytes_whatever_the_workers(
    pairs: Path, aligned_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "BATCH_PIXELS", 10_000)
    monkeypatch.setattr(step, "cpu_limit", lambda: 3)
    align(pairs, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(aligned_pairs)


@given(st.integers(8, 300), st.integers(8, 300), st.floats(1, 12), st.integers(0, 2**32 - 1))
def test_a_face_scaled_and_scaled_back_is_the_same(width: int, height: int, by: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    face = DetectedFace(random.uniform(0, 1, (5, 2)) * [width, height], random.uniform(0, 300, 4), 0.9, width, height)
    large = np.broadcast_to(np.uint8(0), (round(height * by), round(width * by), 3))
    scaled = face.on_copy(large)
    assert scaled is not None  # rounding to whole pixels is no other aspect ratio
    back = scaled.on_copy(np.broadcast_to(np.uint8(0), (height, width, 3)))
    assert back is not None
    assert back.landmarks == pytest.approx(face.landmarks)
    assert back.box == pytest.approx(face.box)


@pytest.mark.parametrize(
    ("width", "height", "enlarged", "same"),
    [
        (12, 14, 1, True),  # 11.5 before rounding
        (48, 56, 4, True),
        (48, 56, 1, False),  # 4 % more than 46, where nothing was rounded to four pixels
        (14, 14, 1, False),
        (470, 560, 1, False),
        (468, 560, 1, True),
    ],
)
def test_a_copy_of_another_aspect_ratio_does_not_show_the_same_face(
    width: int, height: int, enlarged: int, same: bool
) -> None:
    face = DetectedFace(np.full((5, 2), 50.0), np.array([10.0, 20, 80, 100]), 0.9, 92, 112)
    assert (face.on_copy(np.zeros((height, width, 3), np.uint8), enlarged) is not None) == same
