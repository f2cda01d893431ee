"""Split: nobody on both sides, whoever else is there."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from kubeface.split.options import SplitOptions
from kubeface.split.step import split
from kubeface.tables.table import Table
from tests.support.split_tables import Division, People, divided, plain, tables
from tests.support.tables import rows_of


def sides(found: Division) -> dict[str, Counter[str]]:
    """How often each split occurs, by person."""
    people: dict[str, Counter[str]] = {}
    for image_id, (part, _) in found.items():
        people.setdefault(image_id.rpartition("/")[0], Counter())[part] += 1
    return people


def of(found: Division, name: str) -> list[tuple[str, str | None]]:
    """The parts and reasons of a person's images, by number."""
    return [found[f"{name}/{number}"] for number in range(sum(key.rpartition("/")[0] == name for key in found))]


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
verdicts = st.sampled_from([None, None, None, "low_score", "no_face"])
given_splits = st.sampled_from([None, None, "train", "val"])
populations = st.dictionaries(
    names, st.lists(st.tuples(given_splits, verdicts), min_size=1, max_size=9), min_size=4, max_size=16
).map(lambda people: plain({f"one of the crowd {number}": 5 for number in range(25)}) | people)  # enough on each side


@settings(max_examples=40)
@given(
    people=populations,
    apply_filter=st.sampled_from(["validation", "all", "none"]),
    heldout_fraction=st.sampled_from([0.0, 0.2, 0.33, 0.5, 0.7]),
    val_fraction=st.floats(0, 0.9),
    min_images=st.integers(2, 4),
    seed=st.integers(0, 1000),
)
def test_no_person_is_both_trained_on_and_held_out(people: People, **options: Any) -> None:
    try:
        found = divided(people, **options)
    except KubefaceError:
        assume(False)  # too few people on a side
    assert found.keys() == {f"{name}/{number}" for name, images in people.items() for number in range(len(images))}
    for name, counts in sides(found).items():
        used = counts.keys() - {"excluded"}
        assert used <= {"heldout"} or used <= {"train", "val"}, name
        if used:
            assert sum(counts[part] for part in used) >= options["min_images"]
        if counts["val"]:
            assert counts["train"] >= 1, name
        given = any(given_split for given_split, _ in people[name])
        if "train" in used and not given:
            # All images that the filter kept may be on the training side only where there is none for val.
            usable = sum(options["apply_filter"] == "none" or reason is None for _, reason in people[name])
            assert counts["val"] >= (options["val_fraction"] > 0 and usable > 0), name
            if options["val_fraction"] == 0:
                assert counts["val"] == 0
        if given and "heldout" not in used:
            for number, (given_split, _) in enumerate(people[name]):
                assert found[f"{name}/{number}"][0] in (given_split or "train", "excluded")


@settings(max_examples=20)
@given(
    people=populations,
    more=populations,
    seed=st.integers(0, 1000),
    apply_filter=st.sampled_from(["validation", "all", "none"]),
)
def test_new_people_do_not_change_the_division(people: People, more: People, seed: int, apply_filter: str) -> None:
    try:
        before = divided(people, seed=seed, apply_filter=apply_filter)
        after = divided(more | people, seed=seed, apply_filter=apply_filter)
    except KubefaceError:
        assume(False)
    assert {image_id: after[image_id] for image_id in before} == before


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), added=st.integers(1, 5))
def test_new_images_do_not_change_who_is_held_out(seed: int, added: int) -> None:
    counts = {f"person {number}": 4 for number in range(20)}
    before = sides(divided(plain(counts), seed=seed))
    after = sides(divided(plain(counts | {"person 3": 4 + added}), seed=seed))
    assert ("heldout" in before["person 3"]) == ("heldout" in after["person 3"])


def test_the_order_of_the_tables_does_not_matter() -> None:
    people = plain({f"person {number}": 3 + number % 4 for number in range(12)})
    assert divided(people) == divided(dict(reversed(people.items())))


def test_the_fractions_are_kept() -> None:
    people = plain({f"person {number}": 10 for number in range(300)})
    found = sides(divided(people, heldout_fraction=0.33, val_fraction=0.2))
    heldout = [name for name, counts in found.items() if "heldout" in counts]
    assert 0.25 < len(heldout) / 300 < 0.41  # 99 ± 3 standard deviations of 8
    for name in heldout:
        assert found[name] == {"heldout": 10}
    for name in found.keys() - set(heldout):
        assert found[name] == {"train": 8, "val": 2}
    nobody = sides(divided(people, heldout_fraction=0, val_fraction=0))
    assert all(counts == {"train": 10} for counts in nobody.values())


def test_some_people_are_validated_on_only() -> None:
    people = plain({f"person {number}": 10 for number in range(300)})
    without = sides(divided(people, heldout_fraction=0.33, val_fraction=0.2))
    found = sides(divided(people, heldout_fraction=0.33, val_fraction=0.2, val_people_fraction=0.3))
    alone = {name for name, counts in found.items() if counts == {"val": 10}}
    assert 36 < len(alone) < 85  # 60 ± 3 standard deviations of 8
    assert {name: counts for name, counts in without.items() if name not in alone} == {
        name: counts for name, counts in found.items() if name not in alone
    }
    assert all("heldout" not in without[name] for name in alone)


def test_another_seed_gives_another_division() -> None:
    people = plain({f"person {number}": 5 for number in range(40)})
    first, second = divided(people, seed=0), divided(people, seed=1)
    assert {name for name, counts in sides(first).items() if "heldout" in counts} != {
        name for name, counts in sides(second).items() if "heldout" in counts
    }
    trained = [image_id for image_id in first if {first[image_id][0], second[image_id][0]} <= {"train", "val"}]
    assert any(first[image_id] != second[image_id] for image_id in trained)


@pytest.mark.parametrize(("count", "fraction", "val"), [(2, 0.01, 1), (2, 0.9, 1), (3, 0.2, 1), (10, 0.25, 2)])
def test_every_trained_person_has_train_and_val(count: int, fraction: float, val: int) -> None:
    people = plain(dict.fromkeys("abcd", count))
    found = sides(divided(people, heldout_fraction=0, val_fraction=fraction))
    assert all(counts == {"train": count - val, "val": val} for counts in found.values())


# With seed 2 and a half held out: s1, s3 and s5 are trained on, s2, s4 and s6 held out.
HALF: dict[str, Any] = {"heldout_fraction": 0.5, "seed": 2}
TRAINED, HELDOUT = ("s1", "s3", "s5"), ("s2", "s4", "s6")


def half(rejected: int) -> People:
    """Six people with eight images each; the filter rejected the first of each person's."""
    return {
        name: [(None, "low_score" if number < rejected else None) for number in range(8)]
        for name in (*TRAINED, *HELDOUT)
    }


def test_apply_filter_validation_leaves_training_images() -> None:
    free = divided(half(0), **HALF)
    found = divided(half(3), apply_filter="validation", **HALF)
    for name in HELDOUT:
        assert of(found, name) == [("excluded", "filter: low_score")] * 3 + [("heldout", None)] * 5
    for name in TRAINED:
        for number in range(8):
            part, reason = found[f"{name}/{number}"]
            if part == "excluded":
                assert (reason, free[f"{name}/{number}"][0]) == ("filter: low_score", "val")
            if part == "val":
                assert number >= 3
    assert any(found[f"{name}/{number}"][0] == "train" for name in TRAINED for number in range(3))


def test_apply_filter_all_excludes_every_rejected_image() -> None:
    found = divided(half(3), apply_filter="all", **HALF)
    for image_id, (part, reason) in found.items():
        assert (part == "excluded") == (int(image_id[-1]) < 3)
        assert reason == ("filter: low_score" if part == "excluded" else None)


def test_apply_filter_none_excludes_nothing() -> None:
    assert divided(half(3), apply_filter="none", **HALF) == divided(half(0), apply_filter="none", **HALF)
    assert "excluded" not in {part for part, _ in divided(half(8), apply_filter="none", **HALF).values()}


@pytest.mark.parametrize("apply_filter", ["validation", "all"])
@pytest.mark.parametrize("rejected", range(7))
def test_a_trained_person_keeps_an_image_for_val(apply_filter: str, rejected: int) -> None:
    """Also where the filter rejected the images that were chosen for val."""
    found = sides(divided(half(rejected), apply_filter=apply_filter, val_fraction=0.1, **HALF))
    for name in TRAINED:
        assert found[name]["val"] == 1
        assert found[name]["train"] >= 1


def test_a_given_division_is_kept_for_people_not_held_out() -> None:
    given = ["val", "train", "val", "val", "train", None]
    people: People = {name: [(part, None) for part in given] for name in (*TRAINED, *HELDOUT)}
    found = divided(people, val_fraction=0.2, **HALF)
    for name in TRAINED:
        assert of(found, name) == [(part or "train", None) for part in given]
    for name in HELDOUT:
        assert of(found, name) == [("heldout", None)] * 6


def test_a_person_given_as_test_is_held_out() -> None:
    people: People = {name: [("test", None)] * 3 for name in TRAINED[:1]}
    people |= {name: [("test", None), ("train", None), (None, None), ("val", None)] for name in TRAINED[1:]}
    people |= {name: [("test", None), ("train", None), ("val", None)] for name in HELDOUT}
    found = divided(people, **HALF)
    trained_on = ("excluded", "given as test, but the person is trained on")
    for name in TRAINED[1:]:
        assert of(found, name) == [trained_on, ("train", None), ("train", None), ("val", None)]
    for name in (TRAINED[0], *HELDOUT):
        assert of(found, name) == [("heldout", None)] * 3


def test_people_with_too_few_images_are_excluded() -> None:
    people = plain({"s1": 3, "s2": 3, "s3": 4, "s4": 4, "s5": 4, "s6": 4})
    found = divided(people, min_images=4, **HALF)
    for name in ("s1", "s2"):
        assert of(found, name) == [("excluded", "fewer than 4 images")] * 3
    assert all("excluded" not in counts for name, counts in sides(found).items() if name > "s2")
    counted_after_the_filter = half(0) | {"s2": [(None, "no_face")] * 7 + [(None, None)]}
    found = divided(counted_after_the_filter, apply_filter="all", **HALF)
    assert of(found, "s2")[6:] == [("excluded", "filter: no_face"), ("excluded", "fewer than 2 images")]
    found = divided(half(0) | {"s1": [("val", None)] * 3}, **HALF)
    assert of(found, "s1") == [("excluded", "no image left to train on")] * 3


def test_real_tables(split_table: Path, aligned_table: Path) -> None:
    rows = rows_of(split_table)
    assert {row["image_id"] for row in rows} == set(
        Table(aligned_table, "aligned").columns(["image_id"])["image_id"].to_pylist()
    )
    parts = {name: {row["split"] for row in rows if row["identity"] == name} for name in (*TRAINED, *HELDOUT)}
    assert parts == {name: {"train", "val"} for name in TRAINED} | {name: {"heldout"} for name in HELDOUT}
    assert [row["identity"] for row in rows] == sorted(row["identity"] for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heldout_fraction": 0.01, "seed": 2}, "0 of 6 people are held out, verification needs at least 2"),
        ({"heldout_fraction": 0.999}, "0 of 6 people are left to train on, at least 2 are needed: lower heldout"),
        ({"min_images": 9}, "0 of 6 people are left to train on.*min_images.*and 9"),
        (
            {"task": "attributes", "min_images": 9},
            r"0 of 6 people are left .*val_fraction or min_images .now 0.33, 0.2 and 9",
        ),
        (
            {"task": "attributes", "heldout_fraction": 0.001, "seed": 2},
            "0 of 6 people are held out, the evaluation needs at least 2",
        ),
        (
            {"task": "attributes", "val_fraction": 0.001, "seed": 2},
            "none of 6 people is validated on: raise val_fraction .now 0.001",
        ),
        (
            {"task": "classes", "unknown_fraction": 0.99},
            "of 6 classes are left to train on, .*lower unknown_fraction or min_im",
        ),
    ],
)
def test_errors_say_what_to_change(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    aligned, filtered = tables(tmp_path, half(0))
    with pytest.raises(KubefaceError, match=message):
        split(aligned, filtered, tmp_path / "split", options=SplitOptions(**options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aligned", "filter"]


def test_tables_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    aligned, _ = tables(tmp_path, half(0))
    _, filtered = tables(tmp_path / "other", {name: images for name, images in half(0).items() if name != "s4"})
    with pytest.raises(KubefaceError, match=r"filter says nothing of image s4/\d of .*aligned: run its step on this"):
        split(aligned, filtered, tmp_path / "split")


def test_command_line(
    aligned_table: Path, filter_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["split", f"--aligned={aligned_table}", f"--filtered={filter_table}", f"--out={tmp_path / 'a folder'}"]
    main([*arguments, "--heldout-fraction=0"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows_in"] == figures["train"] + figures["val"] + figures["rejected"] == 30
    assert (tmp_path / "a folder" / "manifest.json").is_file()
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--heldout-fraction=2"])
    assert capsys.readouterr().err == "error: split: heldout_fraction is '2': input should be less than 1\n"
