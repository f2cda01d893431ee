"""What the audit finds, the split obeys: dropped images, near-duplicates together, names of one person on one side."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kubeface.runtime.errors import KubefaceError
from kubeface.split.step import split
from tests.support.split_tables import Division, Findings, People, audit_table, divided, plain, tables


def audited(findings: Findings, same_person: dict[str, str], **options: Any) -> Division:
    return divided(plain({name: len(images) for name, images in findings.items()}), findings, same_person, **options)


images = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, None, None, "leak"])), min_size=1, max_size=12)


@given(
    strange=st.dictionaries(st.sampled_from("abcdefgh"), images, min_size=2),
    pairs=st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh"), max_size=3),
    heldout_fraction=st.sampled_from([0.3, 0.5]),
    val_fraction=st.sampled_from([0.0, 0.2, 0.6]),
    seed=st.integers(0, 100),
)
def test_verdicts_of_the_audit_are_applied(strange: Findings, pairs: dict[str, str], **options: Any) -> None:
    crowd: Findings = {f"crowd {number}": [(image, None) for image in range(5)] for number in range(25)}
    same_person = {name: min(name, other) for name, other in pairs.items()}
    same_person |= {other: min(name, other) for name, other in pairs.items()}
    findings = crowd | strange
    try:
        found = audited(findings, same_person, **options)
    except KubefaceError:
        assume(False)  # too few people on a side
    sides: dict[str, set[str]] = defaultdict(set)
    clusters: dict[tuple[str, int | str], set[str]] = defaultdict(set)
    for name, listed in findings.items():
        for number, (cluster, reason) in enumerate(listed):
            part, why = found[f"{name}/{number}"]
            if reason:
                assert (part, why) == ("excluded", f"audit: {reason}")
            elif part != "excluded":
                sides[same_person.get(name, name)].add("heldout" if part == "heldout" else "trained")
                clusters[name, cluster].add(part)
    assert all(len(parts) == 1 for parts in sides.values())
    assert all(len(parts) == 1 for parts in clusters.values())


def test_near_duplicates_fill_validation_together() -> None:
    findings: Findings = {f"p{person}": [(image // 2, None) for image in range(10)] for person in range(20)}
    found = audited(findings, {}, val_fraction=0.2, heldout_fraction=0.5)
    for name in findings:
        parts = Counter(found[f"{name}/{number}"][0] for number in range(10))
        assert parts == {"heldout": 10} or parts == {"train": 8, "val": 2}


def test_a_person_with_one_photograph_has_no_val() -> None:
    findings: Findings = {f"p{person}": [(0, None)] * 6 for person in range(20)}
    found = audited(findings, {}, val_fraction=0.5, heldout_fraction=0.5)
    assert {part for part, _ in found.values()} == {"train", "heldout"}


def test_copies_of_training_images_are_excluded_from_a_given_val() -> None:
    people: People = {f"p{person}": [("train", None), ("val", None), ("val", None)] for person in range(20)}
    findings: Findings = {name: [(0, None), (0, None), (2, None)] for name in people}
    found = divided(people, findings, heldout_fraction=0.5)
    trained = [name for name in people if found[f"{name}/0"][0] == "train"]
    assert trained
    for name in trained:
        assert found[f"{name}/1"] == ("excluded", "near-duplicate of a training image")
        assert found[f"{name}/2"] == ("val", None)


def test_an_audit_of_another_table_is_refused(tmp_path: Path) -> None:
    people = plain({"a": 3, "b": 3})
    table = audit_table(tmp_path, {"a": [(0, None)] * 3, "b": [(0, None)] * 2}, {})
    with pytest.raises(KubefaceError, match=r"audit says nothing of image b/2 of .*aligned: run its step"):
        split(*tables(tmp_path, people), tmp_path / "split", table)
