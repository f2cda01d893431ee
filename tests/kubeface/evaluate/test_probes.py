"""Degradation probes: which there are, on which images, and what they say about models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.evaluate import probes as module
from kubeface.evaluate.probes import PROBES, choose_images, parse_probes, probe, probe_name
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, decode_rgb
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.figures import Gains
from kubeface.metrics.pairs import Floats, Pairs
from kubeface.metrics.verification import bootstrap_difference, verification
from kubeface.models.model import FaceModel, load_pretrained
from kubeface.records.recognition_figures import ProbeRow
from kubeface.runtime.errors import KubefaceError
from tests.support.tables import rows_of


class Crops:
    """The crops of the aligned table by a batch, counting how often each is asked for."""

    def __init__(self, images: dict[str, RGB], batch: int = 7) -> None:
        self.images, self.batch, self.given = images, batch, 0

    def __call__(self, wanted: dict[str, str]) -> Iterator[tuple[list[str], list[RGB]]]:
        ids = [image_id for image_id in self.images if image_id in wanted]
        for start in range(0, len(ids), self.batch):
            part = ids[start : start + self.batch]
            self.given += len(part)
            yield part, [self.images[image_id] for image_id in part]


@pytest.fixture(scope="module")
def faces(aligned_table: Path) -> tuple[dict[str, RGB], dict[str, str]]:
    """Crops and identities by image id."""
    rows = rows_of(aligned_table, ["image_id", "identity", "image"])
    return (
        {row["image_id"]: decode_rgb(row["image"]) for row in rows},
        {row["image_id"]: row["identity"] for row in rows},
    )


# --- which probes ---------------------------------------------------------------------------------------------------


def test_all_none_and_some() -> None:
    assert parse_probes("all")[0] == Degradation()
    assert [probe_name(found) for found in parse_probes(" all ")] == [
        "dark:0.2" if text == "dark" else text for text in PROBES
    ]
    assert parse_probes("") == parse_probes(" none\n") == []
    assert parse_probes("clean  dark\tlowres:14") == [
        Degradation(),
        Degradation("dark", 0.2),
        Degradation("lowres", 14),
    ]
    assert parse_probes("lowres:14 lowres:14.0 clean clean") == [Degradation("lowres", 14), Degradation()]
    assert parse_probes(" ".join(PROBES)) == parse_probes("all")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fog", "probes: degradation 'fog' is unknown: use none, noise"),
        ("clean lowres", "probes: degradation 'lowres' needs a number"),
        ("none dark", "probes: 'none' is no probe: write clean for crops as they are"),
        ("all dark", "probes: degradation 'all' is unknown"),
        ("clean,dark", "probes: degradation 'clean,dark' is unknown"),
    ],
)
def test_wrong_probes_are_named(text: str, said: str) -> None:
    with pytest.raises(KubefaceError, match=said):
        parse_probes(text)


# --- which images ---------------------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(1, 70), min_size=1, max_size=30),
    most=st.integers(1, 400),
    seed=st.integers(0, 9),
)
def test_choice_of_images(counts: list[int], most: int, seed: int) -> None:
    identities = {f"{person}-{number}": f"p{person}" for person, count in enumerate(counts) for number in range(count)}
    found = choose_images(identities, seed, most)
    capped = [min(count, module.PROBE_IMAGES_OF_ONE) for count in counts]
    assert len(found) == min(most, sum(capped))
    assert [(key, identities[key]) for key in identities if key in found] == list(found.items())
    assert choose_images(dict(reversed(identities.items())), seed, most) == found
    whole = [sum(name == f"p{person}" for name in found.values()) for person in range(len(counts))]
    # But for the last one who is taken, people are there with all that counts of them or not at all.
    assert sum(0 < have < cap for have, cap in zip(whole, capped, strict=True)) <= 1
    if any(have and count == 1 for have, count in zip(whole, counts, strict=True)):
        assert all(have == cap for have, cap, count in zip(whole, capped, counts, strict=True) if count > 1)


def test_people_with_several_images_come_first() -> None:
    several = {f"{person}-{number}": f"p{person}" for person in range(10) for number in range(3)}
    alone = {f"alone-{person}": f"a{person}" for person in range(300)}
    found = choose_images(alone | several, 0, 50)
    assert set(several) < set(found)
    assert len(found) == 50


def test_another_seed_chooses_others() -> None:
    identities = {f"{person}-{number}": f"p{person}" for person in range(50) for number in range(5)}
    first, second = (set(choose_images(identities, seed, 50)) for seed in (0, 1))
    assert len(first) == len(second) == 50
    assert len(first & second) < 40


def alike(
    model: FaceModel, crops: Crops, identities: dict[str, str], probes: str, far: float = 0.01, seed: int = 0
) -> list[ProbeRow]:
    """One model beside itself."""
    models = {"baseline": model, "finetuned": model}
    return probe(models, crops, identities, parse_probes(probes), far, Bootstrap(100, seed))


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_are_those_by_hand(
    faces: tuple[dict[str, RGB], dict[str, str]], sface: FaceModel, damaged: Path
) -> None:
    images, identities = faces
    models = {"baseline": load_pretrained("sface", str(damaged)), "finetuned": sface}
    crops = Crops(images)
    rows = probe(models, crops, identities, parse_probes("clean lowres:10 dark"), 0.01, Bootstrap(100))
    assert crops.given == len(images)  # once, whatever the number of probes
    assert [row.probe for row in rows] == ["clean", "lowres:10", "dark:0.2"]
    left, right = np.triu_indices(len(images), 1)
    names = np.array(list(identities.values()))
    pairs = Pairs(left, right, names[left] == names[right])
    for row, bad in zip(rows, (Degradation(), *map(Degradation.parse, ("lowres:10", "dark"))), strict=True):
        batch = np.stack([bad(crop, "probe", image_id) for image_id, crop in images.items()])
        for which, side in (("baseline", "before"), ("finetuned", "after")):
            expected = verification(pairs.scores(models[which].embed(batch)), pairs.same)
            assert getattr(row, which).auc == pytest.approx(expected.auc, abs=2e-3)
            assert getattr(row, which).accuracy == pytest.approx(expected.accuracy, abs=0.01)
            assert getattr(row, which).tar == row.gain["tar"].model_dump()[side]
        assert row.gain["auc"].gain == pytest.approx(row.finetuned.auc - row.baseline.auc)
        assert row.gain["auc"].gain_low <= row.gain["auc"].gain <= row.gain["auc"].gain_high
        assert row.far == 0.01  # what 375 impostor pairs can tell
    assert rows[0].gain["auc"].gain_low > 0
    clean, *worse = [row.finetuned.auc for row in rows]
    assert clean > 0.99
    assert min(worse) < clean


def test_same_seed_same_rows_and_batches_do_not_matter(
    faces: tuple[dict[str, RGB], dict[str, str]], linear: FaceModel
) -> None:
    images, identities = faces
    rows = [
        alike(linear, Crops(images, batch), identities, "clean dark", seed=seed)
        for batch, seed in ((7, 3), (7, 3), (64, 3), (7, 4))
    ]
    assert rows[0] == rows[1]
    assert rows[0] != rows[3]
    for row, other in zip(rows[0], rows[2], strict=True):
        assert row.baseline.model_dump() == pytest.approx(other.baseline.model_dump(), abs=1e-6)
    for row in rows[0]:  # one model beside itself
        assert row.gain["auc"].gain == row.gain["tar"].gain_low == row.gain["tar"].gain_high == 0


def test_no_more_images_and_pairs_than_said(
    faces: tuple[dict[str, RGB], dict[str, str]], linear: FaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, identities = faces
    monkeypatch.setattr(module, "PROBE_PAIRS", 120)
    seen: list[int] = []

    def noted(before: Floats, after: Floats, pairs: Pairs, *rest: Any) -> Gains:
        seen.append(len(pairs))
        return bootstrap_difference(before, after, pairs, *rest)

    monkeypatch.setattr(module, "bootstrap_difference", noted)
    crops = Crops(images)
    (row,) = alike(linear, crops, identities, "grey", far=0.001)
    assert seen == [120]
    assert row.far == 0.1  # sixty impostor pairs cannot tell 0.001


def test_no_probe_reads_no_crop(faces: tuple[dict[str, RGB], dict[str, str]], linear: FaceModel) -> None:
    crops = Crops(faces[0])
    assert alike(linear, crops, faces[1], "none") == []
    assert crops.given == 0


def test_too_few_people_and_missing_images(faces: tuple[dict[str, RGB], dict[str, str]], linear: FaceModel) -> None:
    images, identities = faces
    few = dict(list(identities.items())[:6])
    with pytest.raises(KubefaceError, match=r"probes: 6 images of \d people are too few to measure on"):
        alike(linear, Crops(images), few, "dark")
    alone = {image_id: image_id for image_id in identities}
    with pytest.raises(KubefaceError, match="are too few to measure on"):
        alike(linear, Crops(images), alone, "dark")
    with pytest.raises(KubefaceError, match="probes: 30 crops were given, 31 are wanted"):
        alike(linear, Crops(images), identities | {"other": "s9"}, "dark")
