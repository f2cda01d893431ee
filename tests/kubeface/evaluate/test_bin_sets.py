"""insightface's .bin sets: what a file must hold, and figures on one made of real faces."""

import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kubeface.evaluate import bin_sets
from kubeface.evaluate.bin_sets import bin_pictures, evaluate_bin
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import decode_rgb
from kubeface.metrics.verification import verification
from kubeface.models.embeddings import embed_batch
from kubeface.models.model import FaceModel
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.table import Table

from .test_plain_pickle import Hostile

Lists = tuple[list[bytes], list[bool]]
Write = Callable[[object], str]  # of a value (or bytes) as x.bin, whose path it gives
PAIRS = 22  # two of the ten folds have three


@pytest.fixture(scope="module")
def lists(aligned_table: Path) -> Lists:
    """Pairs of real crops, in turn of one person and of two; images occur in several pairs, as in CFP-FP."""
    people: dict[str, list[bytes]] = {}
    for rows in Table(aligned_table, "aligned").row_groups(["identity", "image"]):
        for row in rows:
            people.setdefault(row["identity"], []).append(encoded(decode_rgb(row["image"])))
    names = sorted(people)
    images, same = [], []
    for pair in range(PAIRS):
        first, second = people[names[pair // 2 % 6]], people[names[(pair // 2 + 1 + pair % 3) % 6]]
        images += [first[pair % 2], first[2 + pair % 3]] if pair % 2 else [first[pair % 2], second[pair % 5]]
        same.append(bool(pair % 2))
    return images, same


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(value: object) -> str:
        (tmp_path / "x.bin").write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, 4))
        return str(tmp_path / "x.bin")

    return write


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "is empty"),
        (([b"a", b"b"],), "is no tuple of a list of images and a list of booleans"),
        (([b"a", b"b"], [True], [True]), "is no tuple of"),
        ([b"a", b"b"], "is no tuple of"),
        (b"a", "is cut off after 1 bytes"),
        ((True, [True]), "is no tuple of"),
        (([[b"a"], [b"b"]], [True]), "first list must hold encoded images alone"),
        (([b"a", b"b"], [([],)]), "the second booleans alone"),
        (pickle.dumps(b"a", 4), "is no tuple of"),
        (([b"a", True], [True]), "first list must hold encoded images alone"),
        (([b"a", b"b"], [b"a"]), "the second booleans alone"),
        (([True], [b"a", b"b"]), "first list must hold encoded images alone"),
        (([b"a", b"b", b"c"], [True]), "has 3 images and 1 pairs: it needs two a pair"),
        (([b"a", b"b"], [True, False]), "has 2 images and 2 pairs"),
        (([b"a"] * 18, [True, False, True] * 3), "has 6 pairs of one person and 3 of two: both must occur, 10 in all"),
        (([b"a"] * 24, [True] * 12), "has 12 pairs of one person and 0 of two"),
        (([b"a"] * 24, [False] * 12), "has 0 pairs of one person and 12 of two"),
        (([np.zeros((112, 112, 3), np.uint8)] * 24, [True, False] * 12), "opcode .* is refused"),
    ],
)
def test_file_that_is_no_set(value: object, said: str, written: Write, linear: FaceModel) -> None:
    uri = written(value)
    with pytest.raises(KubefaceError, match=said) as raised:
        evaluate_bin("set", uri, {"m": linear}, "arcface_112")
    assert "x.bin" in str(raised.value)


def test_hostile_file_does_nothing(written: Write, linear: FaceModel, tmp_path: Path) -> None:
    sign = tmp_path / "pwned"
    uri = written(([Hostile(f"touch {sign}")] * 40, [True, False] * 10))
    with pytest.raises(KubefaceError, match=r"x\.bin: opcode \w+ at byte \d+ is refused"):
        evaluate_bin("set", uri, {"m": linear}, "arcface_112")
    assert not sign.exists()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"no picture", "image 00005 cannot be decoded"),
        (b"", "image 00005 cannot be decoded"),
        (encoded(np.zeros((250, 240, 3), np.uint8)), "image 00005 has 240×250 pixels, an aligned crop has 112×112"),
        (encoded(np.zeros((112, 112, 3), np.uint8))[:90], "image 00005 cannot be decoded"),
        (encoded(np.zeros((112, 112, 3), np.uint8), "EPS"), "image 00005 cannot be decoded"),  # starts Ghostscript
        (encoded(np.zeros((112, 112, 3), np.uint8), "GIF"), "image 00005 cannot be decoded"),
    ],
)
def test_image_that_is_no_crop_is_named(
    image: bytes,
    said: str,
    lists: Lists,
    written: Write,
    linear: FaceModel,
) -> None:
    images, same = lists
    uri = written(([*images[:5], image, *images[6:]], same))
    with pytest.raises(KubefaceError, match=rf"x\.bin: {said}"):
        evaluate_bin("set", uri, {"m": linear}, "arcface_112")


def test_an_image_that_claims_to_be_huge_is_not_decoded(lists: Lists, written: Write, linear: FaceModel) -> None:
    huge = bytearray(encoded(np.zeros((112, 112, 3), np.uint8)))
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    images, same = lists
    with pytest.raises(KubefaceError, match="image 00000"):
        evaluate_bin("set", written(([bytes(huge), *images[1:]], same)), {"m": linear}, "arcface_112")


def test_models_of_another_template_are_refused(lists: Lists, written: Write, linear: FaceModel) -> None:
    with pytest.raises(KubefaceError, match=r"holds crops of template arcface_112, the models were .* on facenet_160"):
        evaluate_bin("set", written(lists), {"m": linear}, "facenet_160")


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_figures_are_those_by_hand(lists: Lists, written: Write, sface: FaceModel, linear: FaceModel) -> None:
    found = evaluate_bin("set", written(lists), {"published": sface, "linear": linear}, "arcface_112")
    images, same = lists
    crops = np.stack([decode_rgb(image) for image in images])
    plain, mirrored = embed_batch(sface, crops)
    both = (plain + mirrored) / np.linalg.norm(plain + mirrored, axis=1, keepdims=True)
    folds = np.array([0] * 3 + [1] * 3 + [f for f in range(2, 10) for _ in range(2)])  # KFold's: the first are larger
    for figures, vectors in (
        (found.figures["published"], plain),
        (found.figures["published"].flip, both),
    ):
        scores = np.einsum("nd,nd->n", vectors[::2], vectors[1::2], dtype=np.float64)
        expected = verification(scores, np.array(same), folds)
        for key in ("accuracy", "accuracy_standard_error", "threshold", "auc", "eer"):
            assert getattr(figures, key) == pytest.approx(getattr(expected, key), abs=1e-5)
    assert found.figures["published"].auc > 0.99
    assert set(found.figures) == set(found.scores) == {"published", "linear"}
    by_hand = np.einsum("nd,nd->n", plain[::2], plain[1::2])
    np.testing.assert_allclose(found.scores["published"], by_hand, atol=1e-5)
    assert found.folds is not None and found.folds.tolist() == folds.tolist()
    assert found.pairs.same.tolist() == same
    assert (len(found.pairs), len(found.images)) == (PAIRS, len(set(images)))


def test_equal_images_are_embedded_once_and_batches_do_not_matter(
    lists: Lists,
    written: Write,
    linear: FaceModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = written(lists)
    sizes: list[int] = []

    def counted(model: FaceModel, crops: np.ndarray) -> Any:
        sizes.append(len(crops))
        return embed_batch(model, crops)

    monkeypatch.setattr(bin_sets, "embed_batch", counted)
    whole = evaluate_bin("set", uri, {"m": linear}, "arcface_112").scores["m"]
    assert sum(sizes) == len(set(lists[0])) < len(lists[0])
    sizes.clear()
    monkeypatch.setattr(bin_sets, "BATCH", 5)
    np.testing.assert_allclose(evaluate_bin("set", uri, {"m": linear}, "arcface_112").scores["m"], whole, atol=1e-6)
    assert max(sizes) == 5


def test_people_are_whom_genuine_pairs_join(lists: Lists, written: Write, linear: FaceModel) -> None:
    a, b, c, d, e = list(dict.fromkeys(lists[0]))[:5]
    images = [a, b, b, c, a, d] + [d, e] * 7
    found = evaluate_bin("set", written((images, [True, True, False] + [False] * 7)), {"m": linear}, "arcface_112")
    assert found.images == [f"set/{name}" for name in ("00000", "00001", "00003", "00005", "00007")]
    assert found.people[0] == found.people[1] == found.people[2]  # c is joined to a by b
    assert len(set(found.people.tolist())) == 3


def test_degradation_and_pictures(lists: Lists, written: Write, sface: FaceModel) -> None:
    uri = written(lists)
    clean = evaluate_bin("set", uri, {"m": sface}, "arcface_112")
    bad = evaluate_bin("set", uri, {"m": sface}, "arcface_112", Degradation.parse("lowres:5"))
    assert bad.figures["m"].auc < clean.figures["m"].auc
    name = clean.images[3].removeprefix("set/")
    found = bin_pictures(uri, [name])
    np.testing.assert_array_equal(found[name], decode_rgb(lists[0][int(name)]))
    with pytest.raises(KubefaceError, match=r"x\.bin has no image 99999"):
        bin_pictures(uri, ["99999"])
