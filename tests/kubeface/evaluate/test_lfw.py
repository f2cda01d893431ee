"""LFW's pairs files and protocol, on a small archive of real photographs and on LFW itself."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kubeface.evaluate.lfw import Lfw, PairsFile, evaluate_lfw, lfw_pictures, read_pairs
from kubeface.faces.degradation import Degradation
from kubeface.faces.detection import make_detector
from kubeface.faces.geometry import align_crop, centre_crop
from kubeface.faces.images import RGB, decode_rgb
from kubeface.metrics.verification import verification
from kubeface.models.embeddings import Embeddings, embed_batch
from kubeface.models.model import FaceModel, load_pretrained
from kubeface.runtime.errors import KubefaceError
from tests.kubeface.conftest import SmallLfw, write_tar

VIEW2 = """2\t2
Ann_Lee\t1\t4
Bob\t3\t2
Ann_Lee\t2\tBob\t1
Carl\t10\tBob\t3
Dora\t1\t2
Dora\t2\t3
Dora\t1\tAnn_Lee\t1
Eve\t1\tDora\t3
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    return str(path)


SAME = np.tile(np.repeat([True, False], 4), 2)  # of the small LFW
DORA = "Dora_Maar/Dora_Maar_0002"


def named(found: PairsFile) -> list[tuple[str, str]]:
    return [(found.images[a], found.images[b]) for a, b in zip(found.pairs.left, found.pairs.right, strict=True)]


# --- pairs files ----------------------------------------------------------------------------------------------------


def test_view_2_by_hand(tmp_path: Path) -> None:
    found = read_pairs(written(tmp_path, VIEW2))
    assert named(found) == [
        ("Ann_Lee/Ann_Lee_0001", "Ann_Lee/Ann_Lee_0004"),
        ("Bob/Bob_0003", "Bob/Bob_0002"),
        ("Ann_Lee/Ann_Lee_0002", "Bob/Bob_0001"),
        ("Carl/Carl_0010", "Bob/Bob_0003"),
        ("Dora/Dora_0001", "Dora/Dora_0002"),
        ("Dora/Dora_0002", "Dora/Dora_0003"),
        ("Dora/Dora_0001", "Ann_Lee/Ann_Lee_0001"),
        ("Eve/Eve_0001", "Dora/Dora_0003"),
    ]
    assert found.pairs.same.tolist() == [True, True, False, False] * 2
    assert found.folds.tolist() == [0] * 4 + [1] * 4
    assert len(found.images) == len(set(found.images)) == 11
    people = [name.split("/")[0] for name in found.images]
    assert (np.equal.outer(found.people, found.people) == np.equal.outer(people, people)).all()


def test_view_1_is_one_fold(tmp_path: Path) -> None:
    found = read_pairs(written(tmp_path, "2\nA\t1\t2\nB\t1\t2\nA\t1\tB\t1\nA\t2\tB\t2\n"))
    assert found.folds.tolist() == [0, 0, 0, 0]
    assert found.pairs.same.tolist() == [True, True, False, False]


def test_blank_lines_and_spaces_do_not_matter(tmp_path: Path) -> None:
    plain = read_pairs(written(tmp_path, VIEW2))
    spaced = read_pairs(written(tmp_path, VIEW2.replace("\t", "  ").replace("\n", "\r\n\r\n")))
    assert spaced.images == plain.images
    np.testing.assert_array_equal(spaced.pairs.left, plain.pairs.left)


@pytest.mark.parametrize(
    "header", ["", "ten\t300", "10\t300\t2", "-1\t2", "Ann_Lee\t1\t4", "2.0\t2", "0\t2", "2\t0", "00 00", "0"]
)
def test_header_that_is_none(tmp_path: Path, header: str) -> None:
    text = VIEW2.replace("2\t2", header, 1) if header else ""
    with pytest.raises(KubefaceError, match=r"pairs\.txt, line 1: '<folds> <pairs of a kind>' is expected"):
        read_pairs(written(tmp_path, text))


@pytest.mark.parametrize("lines", [1, 3, 8])
def test_truncated_file(tmp_path: Path, lines: int) -> None:
    text = "".join(VIEW2.splitlines(keepends=True)[:lines])
    with pytest.raises(KubefaceError, match=rf"has {lines - 1} pairs, its first line promises 2 × 2 × 2"):
        read_pairs(written(tmp_path, text))
    with pytest.raises(KubefaceError, match="has 9 pairs, its first line promises 2 × 2 × 2"):
        read_pairs(written(tmp_path, VIEW2 + "Eve\t1\t2\n"))


@pytest.mark.parametrize(
    "line", ["Bob", "Bob\t3", "Bob\tx\t2", "Bob\t3\tAnn_Lee\tone", "Bob\t1\tAnn\t2\t3", "Bob\t²\t2", "Bob 1.5 2"]
)
def test_line_that_is_no_pair_is_named(tmp_path: Path, line: str) -> None:
    for before in ("", "\n\n"):  # blank lines count in a file's line numbers
        text = VIEW2.replace("2\t2\n", f"2\t2\n{before}", 1).replace("Bob\t3\t2", line)
        with pytest.raises(KubefaceError, match=rf"pairs\.txt, line {3 + len(before)}: .* is not a pair of LFW"):
            read_pairs(written(tmp_path, text))


@pytest.mark.parametrize(
    ("one", "other"), [("Bob\t3\t2\n", "Ann_Lee\t2\tBob\t1\n"), ("Dora\t2\t3\n", "Eve\t1\tDora\t3\n")]
)
def test_pairs_of_one_and_of_two_people_in_the_wrong_order(tmp_path: Path, one: str, other: str) -> None:
    text = VIEW2.replace(one, "#").replace(other, one).replace("#", other)
    with pytest.raises(KubefaceError, match="pairs of one person must come before the pairs of two"):
        read_pairs(written(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"none\.txt does not exist"):
        read_pairs(str(tmp_path / "none.txt"))


@given(folds=st.integers(1, 4), count=st.integers(1, 4), seed=st.integers(0, 1000))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, folds: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, lines = [], [f"{folds}\t{count}"]
    for _ in range(folds):
        for same in [True] * count + [False] * count:
            a, b = random.choice(20, 2, replace=False)
            left, right = f"P_{a}", f"P_{a}" if same else f"P_{b}"
            one, two = random.integers(1, 3000, 2)
            lines.append(f"{left}\t{one}\t{two}" if same else f"{left}\t{one}\t{right}\t{two}")
            rows.append((f"{left}/{left}_{one:04d}", f"{right}/{right}_{two:04d}"))
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    path.write_text("\n".join(lines))
    found = read_pairs(str(path))
    assert named(found) == rows
    assert Counter(found.folds.tolist()) == dict.fromkeys(range(folds), 2 * count)


# --- protocol -------------------------------------------------------------------------------------------------------


def scores_by_hand(model: FaceModel, photographs: dict[str, bytes], pairs: str) -> tuple[np.ndarray, np.ndarray]:
    """Similarity of each pair without and with flip, one photograph at a time."""
    detect = make_detector("retinaface", 20)
    wanted = read_pairs(pairs)
    collected = Embeddings()
    for name in wanted.images:
        image: RGB = decode_rgb(photographs[name])
        faces = detect(image)
        crop = centre_crop(image)
        if len(faces):
            crop = align_crop(image, faces.landmarks[faces.subject(image.shape[1], image.shape[0])])
        collected.append(*embed_batch(model, crop[None]))
    return wanted.pairs.scores(collected.plain()), wanted.pairs.scores(collected.flipped())


@pytest.fixture(scope="module")
def by_hand(small_lfw: SmallLfw, sface: FaceModel) -> tuple[np.ndarray, np.ndarray]:
    return scores_by_hand(sface, small_lfw.photographs, str(small_lfw.pairs))


@pytest.fixture(scope="module")
def measured_lfw(small_lfw: SmallLfw, sface: FaceModel, damaged: Path) -> Lfw:
    """The small LFW as the published and the damaged model see it."""
    models = {"published": sface, "damaged": load_pretrained("sface", str(damaged))}
    return evaluate_lfw(str(small_lfw.archive), str(small_lfw.pairs), "retinaface", models)


def test_small_lfw(small_lfw: SmallLfw, measured_lfw: Lfw, by_hand: tuple[np.ndarray, np.ndarray]) -> None:
    found = measured_lfw
    assert (len(found.measured.pairs), len(found.measured.images), found.fallback) == (16, 18, [])
    published, bad = found.measured.figures["published"], found.measured.figures["damaged"]
    assert published.flip is not None and published.auc == published.flip.auc == 1.0
    assert published.accuracy >= 0.9
    assert bad.auc < 0.95
    assert (published.genuine_pairs, published.impostor_pairs) == (8, 8)
    assert found.measured.roc["published"].fmr[0] == 0 and found.measured.roc["published"].tmr[-1] == 1
    for figures, scores in zip((published, published.flip), by_hand, strict=True):
        expected = verification(scores, SAME, np.repeat([0, 1], 8))
        assert figures.threshold == pytest.approx(expected.threshold, abs=1e-5)
        assert figures.accuracy == pytest.approx(expected.accuracy)
    assert published.threshold != published.flip.threshold
    assert list(found.measured.scores) == ["published", "damaged"]
    np.testing.assert_allclose(found.measured.scores["published"], by_hand[0], atol=1e-5)
    assert found.measured.scores["published"].dtype == np.float64
    wanted = read_pairs(str(small_lfw.pairs))
    measured = found.measured
    assert measured.folds is not None and measured.folds.tolist() == [0] * 8 + [1] * 8
    assert measured.images == wanted.images
    assert (measured.people[wanted.pairs.left] == measured.people[wanted.pairs.right]).tolist() == SAME.tolist()


def test_archives_of_any_form(small_lfw: SmallLfw, linear: FaceModel, tmp_path: Path) -> None:
    packed = tmp_path / "lfw.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for name, data in small_lfw.photographs.items():
            file.writestr(f"{name}.jpg", data)
    folder = tmp_path / "lfw"
    for name, data in small_lfw.photographs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(data)
    found = [
        evaluate_lfw(str(archive), str(small_lfw.pairs), "retinaface", {"m": linear})
        for archive in (small_lfw.archive, packed, folder)
    ]
    assert found[0].measured.figures == found[1].measured.figures == found[2].measured.figures
    assert len({one.measured.scores["m"].tobytes() for one in found}) == 1


def test_accuracy_of_a_fold_uses_the_threshold_of_the_other(
    measured_lfw: Lfw, by_hand: tuple[np.ndarray, np.ndarray]
) -> None:
    """Two folds: what is measured is not the accuracy at the best threshold of all."""
    first, second = by_hand[0][:8], by_hand[0][8:]
    middle = [(half[:4].min() + half[4:].max()) / 2 for half in (first, second)]
    found = measured_lfw.measured.figures["published"]
    assert found.threshold == pytest.approx(np.mean(middle), abs=1e-4)
    correct = [np.mean((half > cut) == SAME[:8]) for half, cut in ((first, middle[1]), (second, middle[0]))]
    assert found.accuracy == pytest.approx(np.mean(correct))
    assert found.accuracy_standard_error == pytest.approx(np.std(correct, ddof=1) / np.sqrt(2))


def test_degradation_is_put_on_every_crop(small_lfw: SmallLfw, sface: FaceModel, measured_lfw: Lfw) -> None:
    where = str(small_lfw.archive), str(small_lfw.pairs), "retinaface", {"m": sface}
    degraded = evaluate_lfw(*where, Degradation.parse("lowres:6"), further=[Degradation()])
    clean = measured_lfw.measured.figures["published"]
    assert degraded.measured.figures["m"].auc < clean.auc
    assert degraded.further[0]["m"] == clean


@pytest.fixture
def blank(small_lfw: SmallLfw, tmp_path: Path) -> tuple[dict[str, bytes], str]:
    """The photographs of the small LFW, of which DORA shows nobody, and their archive."""
    buffer = io.BytesIO()
    Image.new("RGB", (92, 112), (90, 120, 90)).save(buffer, "JPEG")
    changed = small_lfw.photographs | {DORA: buffer.getvalue()}
    return changed, str(write_tar(tmp_path / "lfw.tar", changed))


def test_photograph_without_a_face_gets_a_centre_crop(
    small_lfw: SmallLfw, blank: tuple[dict[str, bytes], str], linear: FaceModel
) -> None:
    """It is counted and named, and its pairs are scored all the same."""
    changed, archive = blank
    found = evaluate_lfw(archive, str(small_lfw.pairs), "retinaface", {"m": linear})
    assert found.fallback == [DORA]
    assert (len(found.measured.pairs), len(found.measured.images)) == (16, 18)
    figures = found.measured.figures["m"]
    assert figures.genuine_pairs + figures.impostor_pairs == 16
    scores, _ = scores_by_hand(linear, changed, str(small_lfw.pairs))
    expected = verification(scores, SAME, np.repeat([0, 1], 8))
    assert figures.threshold == pytest.approx(expected.threshold, abs=1e-5)
    intact, _ = scores_by_hand(linear, small_lfw.photographs, str(small_lfw.pairs))
    assert np.count_nonzero(np.abs(intact - scores) > 1e-5) == 3  # the three pairs that it is in


def test_pictures_are_the_crops_that_were_measured(blank: tuple[dict[str, bytes], str]) -> None:
    names = [DORA, "Ann_Lee/Ann_Lee_0001"]
    changed, archive = blank
    found = lfw_pictures(archive, names, "retinaface")
    assert list(found) == names
    nobody, face = (decode_rgb(changed[name]) for name in names)
    np.testing.assert_array_equal(found[names[0]], centre_crop(nobody))
    faces = make_detector("retinaface", 20)(face)
    best = faces.subject(face.shape[1], face.shape[0])
    np.testing.assert_array_equal(found[names[1]], align_crop(face, faces.landmarks[best]))
    assert lfw_pictures(archive, [], "retinaface") == {}
    assert lfw_pictures(archive, names[1:], "retinaface", "facenet_160")[names[1]].shape == (160, 160, 3)
    with pytest.raises(KubefaceError, match=r"lfw\.tar lacks 1 images of the ones asked for, Eve/Eve_0001\.jpg first"):
        lfw_pictures(archive, ["Eve/Eve_0001"], "retinaface")


@pytest.mark.parametrize("data", [None, b"", b"no picture", b"\xff\xd8\xff\xe0" + bytes(50)])
def test_photograph_that_is_missing_or_cannot_be_decoded(
    small_lfw: SmallLfw, linear: FaceModel, tmp_path: Path, data: bytes | None
) -> None:
    photographs, said = small_lfw.photographs | {DORA: data or b""}, rf"lfw\.tar: .*{DORA}\.jpg cannot be decoded"
    if data is None:
        photographs = {n: found for n, found in photographs.items() if n.split("_")[-1] != "0003"}
        said = r"lfw\.tar lacks 6 images of .*pairs\.txt, Ann_Lee/Ann_Lee_0003\.jpg first"
    archive = write_tar(tmp_path / "lfw.tar", photographs)
    with pytest.raises(KubefaceError, match=said):
        evaluate_lfw(str(archive), str(small_lfw.pairs), "retinaface", {"m": linear})


def test_wrong_archive_and_detector(small_lfw: SmallLfw, linear: FaceModel, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"none\.tar does not exist"):
        evaluate_lfw(str(tmp_path / "none.tar"), str(small_lfw.pairs), "retinaface", {"m": linear})
    with pytest.raises(KubefaceError, match="detector 'yolo' is unknown"):
        evaluate_lfw(str(small_lfw.archive), str(small_lfw.pairs), "yolo", {"m": linear})


# --- LFW itself -----------------------------------------------------------------------------------------------------


def test_view_2_of_lfw(shared_data: Path) -> None:
    found = read_pairs(str(shared_data / "lfw" / "pairs.txt"))
    assert len(found.pairs) == 6000
    assert len(found.images) == 7701
    assert np.count_nonzero(found.pairs.same) == 3000
    assert Counter(found.folds.tolist()) == dict.fromkeys(range(10), 600)
    assert found.images[0] == "Abel_Pacheco/Abel_Pacheco_0001"


@pytest.mark.parametrize(("name", "pairs"), [("pairsDevTrain.txt", 2200), ("pairsDevTest.txt", 1000)])
def test_view_1_of_lfw(shared_data: Path, name: str, pairs: int) -> None:
    found = read_pairs(str(shared_data / "lfw" / name))
    assert len(found.pairs) == pairs
    assert np.count_nonzero(found.pairs.same) == pairs // 2
    assert set(found.folds.tolist()) == {0}


@pytest.mark.slow
def test_two_folds_of_lfw(shared_data: Path, tmp_path: Path) -> None:
    """The published model on a quarter of folds 1 and 2 of View 2, as accurate as it is known to be.

    On the command line, which sets allocator and threads up for torch: within pytest it takes three times as long.
    """
    folder = shared_data / "lfw"
    lines = (folder / "pairs.txt").read_text().splitlines()
    chosen = [line for start in range(1, 1200, 300) for line in lines[start : start + 75]]
    pairs = written(tmp_path, "\n".join(["2\t75", *chosen]) + "\n")
    archive = str(folder / "lfw-deepfunneled.tar")
    command = [sys.executable, "-m", "kubeface", "lfw", "--archive", archive, "--pairs", pairs]
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([*command, "--detector", "retinaface"], capture_output=True, text=True, check=True, env=env)
    text, _, figures = done.stdout.partition("{\n")
    found = json.loads("{" + figures)
    assert (found["rows_in"], found["rows_out"]) == (len(read_pairs(pairs).images), 300)
    assert "pairs scored 300 of 300" in text
    assert len(found["fallback"]) < 2
    assert (found["genuine_pairs"], found["impostor_pairs"]) == (150, 150)
    assert min(found["accuracy"], found["flip"]["accuracy"]) > 0.98
    assert found["auc"] > 0.995
    assert 0.2 < found["threshold"] < 0.5
