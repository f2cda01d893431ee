"""Pairs of two resolutions: one photograph, on one side, with and without an audit."""

from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kubeface.runtime.errors import KubefaceError
from tests.support import split_tables
from tests.support.split_tables import Findings, People, plain

GROUPS = {"low": '{"resolution": "low"}', "high": '{"resolution": "high"}'}
# Of each image: the photograph it is of, its resolution, the given split, the filter's reason.
Image = tuple[int, str, str | None, str | None]
Photographs = dict[str, list[Image]]
Found = dict[tuple[str, int, str], tuple[str, str | None]]  # by person, photograph and resolution


def paired(counts: dict[str, int]) -> Photographs:
    """People with so many photographs, each sharp and low; all low ones come first."""
    return {
        name: [(number, resolution, None, None) for resolution in ("low", "high") for number in range(count)]
        for name, count in counts.items()
    }


def divided(photographs: Photographs, audited: bool = False, **options: Any) -> Found:
    """Split and reason of every image; where audited, a pair is a cluster, as the audit has it."""
    people: People = {name: [image[2:] for image in images] for name, images in photographs.items()}
    images = {f"{name}/{n}": (name, *image) for name, found in photographs.items() for n, image in enumerate(found)}
    groups = {image_id: GROUPS[resolution] for image_id, (_, _, resolution, _, _) in images.items()}
    sources = {
        image_id: f"{'vlr_images' if resolution == 'low' else 'hr_images'}/{name}/{number}.png"
        for image_id, (name, number, resolution, _, _) in images.items()
    }
    findings: Findings = {
        name: [(f"{name}/{[other[0] for other in found].index(image[0])}", None) for image in found]
        for name, found in photographs.items()
    }
    division = split_tables.divided(people, findings if audited else None, None, groups, sources, **options)
    return {images[image_id][:3]: told for image_id, told in division.items()}


def of_photographs(counts: dict[str, int], **options: Any) -> Counter[tuple[str, str]]:
    """How many images of every person are in each part, of people without pairs."""
    division = split_tables.divided(plain(counts), **options)
    return Counter((image_id.rpartition("/")[0], part) for image_id, (part, _) in division.items())


ODD = st.sampled_from([None, None, None, "turned"])
IMAGES = st.dictionaries(
    st.tuples(st.integers(0, 7), st.sampled_from(["low", "high"])),
    st.tuples(st.sampled_from([None, None, "train", "val", "test"]), ODD),
    min_size=1,
)


@given(
    strange=st.dictionaries(st.sampled_from("abcdefgh"), IMAGES, min_size=2),
    audited=st.booleans(),
    task=st.sampled_from(["recognition", "classes", "attributes"]),
    apply_filter=st.sampled_from(["validation", "all", "none"]),
    seed=st.integers(0, 100),
)
def test_a_resolution_pair_stays_in_one_part(
    strange: dict[str, dict[tuple[int, str], tuple[str | None, str | None]]], audited: bool, **options: Any
) -> None:
    people = paired({f"crowd {number}": 5 for number in range(25)})
    people |= {name: [(*place, *told) for place, told in images.items()] for name, images in strange.items()}
    try:
        found = divided(people, audited, **options)
    except KubefaceError:
        assume(False)  # too few people on a side
    parts: dict[tuple[str, int], set[str]] = defaultdict(set)
    left: dict[str, set[int]] = defaultdict(set)
    for (name, number, _), (part, reason) in found.items():
        assert (part == "excluded") == (reason is not None)
        if part != "excluded":
            parts[name, number].add(part)
            left[name].add(number)
    assert all(len(sides) == 1 for sides in parts.values())
    assert all(len(numbers) >= 2 for numbers in left.values())


@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("val_fraction", [0.0, 0.2, 0.5])
def test_fractions_count_photographs(audited: bool, val_fraction: float) -> None:
    counts = {f"p{number}": 1 + number % 9 for number in range(30)}
    options = {"val_fraction": val_fraction, "heldout_fraction": 0.3, "seed": 5}
    found = divided(paired(counts), audited, **options)
    images = Counter((name, part) for (name, _, _), (part, _) in found.items())
    assert images == {place: 2 * count for place, count in of_photographs(counts, **options).items()}


@pytest.mark.parametrize("task", ["recognition", "classes"])
def test_min_images_counts_photographs(task: str) -> None:
    counts = {f"p{number}": 6 for number in range(30)} | {"few": 2, "enough": 3}
    found = divided(paired(counts), task=task, min_images=3, heldout_fraction=0.3)
    reasons = {name: {why for (who, _, _), (_, why) in found.items() if who == name} for name in ("few", "enough")}
    assert reasons == {"few": {"fewer than 3 images"}, "enough": {None}}


def test_heldout_people_keep_both_images_of_a_pair() -> None:
    found = divided(paired({f"p{number}": 4 for number in range(20)}), heldout_fraction=0.4)
    parts = {name: Counter(part for (who, _, _), (part, _) in found.items() if who == name) for name, _, _ in found}
    heldout = [counts for counts in parts.values() if "heldout" in counts]
    assert 2 <= len(heldout) < 20 and all(counts == {"heldout": 8} for counts in heldout)


@pytest.mark.parametrize("left_out", ["low", "high"])
def test_the_partner_of_a_rejected_image_keeps_its_part(left_out: str) -> None:
    counts = {f"p{number}": 5 for number in range(20)}
    before = divided(paired(counts), apply_filter="all")
    people: Photographs = {
        name: [(n, kind, None, "turned" if (n, kind) == (0, left_out) else None) for n, kind, *_ in images]
        for name, images in paired(counts).items()
    }
    found = divided(people, apply_filter="all")
    for (name, number, kind), (part, reason) in found.items():
        if (number, kind) == (0, left_out):
            assert (part, reason) == ("excluded", "filter: turned")
        else:
            assert (part, reason) == before[name, number, kind]


def test_a_given_division_that_separates_a_pair_keeps_the_trained_image() -> None:
    people: Photographs = {
        f"p{number}": [(n, kind, "val" if kind == "low" and n == 0 else "train", None) for n in range(4)
                       for kind in ("low", "high")]
        for number in range(6)
    }  # fmt: skip
    found = divided(people, heldout_fraction=0.0)
    assert {found[f"p{number}", 0, "low"] for number in range(6)} == {
        ("excluded", "near-duplicate of a training image")
    }
    assert {part for (_, n, kind), (part, _) in found.items() if (n, kind) != (0, "low")} == {"train"}


def test_the_warning_about_few_images_counts_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    divided(paired({f"p{number}": 9 for number in range(8)}), heldout_fraction=0.3, seed=1)
    assert "split: 8 people have fewer than 10 images" in capsys.readouterr().err
    divided(paired({f"p{number}": 10 for number in range(8)}), heldout_fraction=0.3, seed=1)
    assert "fewer than 10" not in capsys.readouterr().err


def test_low_and_high_images_without_a_pair_are_refused() -> None:
    """The evaluation would refuse them, hours later."""
    photographs: Photographs = {
        f"p{person}": [
            (2 * n + (resolution == "high"), resolution, None, None) for resolution in GROUPS for n in range(4)
        ]
        for person in range(30)
    }
    with pytest.raises(KubefaceError, match="has low and high images, but no two of one photograph"):
        divided(photographs, heldout_fraction=0.4)
    assert divided(photographs, task="attributes", heldout_fraction=0.4)  # whose images are measured as they are
    photographs["p0"][0] = (1, "low", None, None)
    assert divided(photographs, heldout_fraction=0.4)
