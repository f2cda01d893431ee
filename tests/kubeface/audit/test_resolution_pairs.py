"""Pairs of two resolutions: judged by the sharp image, left out together, and never for each other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kubeface.audit.embeddings import EmbeddingStore, sface
from kubeface.audit.images import read_audited_images
from kubeface.faces.images import decode_rgb, encode_png
from kubeface.tables.table import Table
from tests.support.audit_tables import Photo, audited, changed, crop_of, dropped, read_findings, write_tables
from tests.support.images import scaled, write_files

People = dict[str, list[bytes]]
NAMES = ("s1", "s5", "s9")


def low_crop(data: bytes) -> bytes:
    """The crop of a photograph as 14 pixels show it, enlarged again."""
    return encode_png(scaled(scaled(decode_rgb(crop_of(data)), 1 / 8), 8))


def low(identity: str, stem: str, data: bytes, **options: Any) -> Photo:
    small = encode_png(scaled(decode_rgb(data), options.pop("size", 1 / 8)))
    return Photo(identity, f"{stem}.jpg", small, {"resolution": "low"}, crop=low_crop(data), **options)


def high(identity: str, stem: str, data: bytes, **options: Any) -> Photo:
    return Photo(identity, f"{stem}.png", data, {"resolution": "high"}, **options)


def pair(identity: str, stem: str, data: bytes) -> list[Photo]:
    return [low(identity, stem, data), high(identity, stem, data)]


def pairs(people: People, *names: str, count: int = 5) -> list[Photo]:
    return [
        photo for name in names for number in range(count) for photo in pair(name, str(number), people[name][number])
    ]


@pytest.mark.parametrize("duplicates", ["group", "drop"])
def test_a_pair_is_one_photograph_and_no_duplicate(people: People, tmp_path: Path, duplicates: str) -> None:
    result, rows = audited(tmp_path, pairs(people, *NAMES), duplicates=duplicates, suspects="drop")
    assert not dropped(rows)
    assert len({row["cluster"] for row in rows.values()}) == len(rows) / 2
    for name, row in rows.items():
        assert row["cluster"] == rows[name.replace(".png", ".jpg")]["cluster"]
    assert result.duplicate_clusters == result.duplicates == result.suspects == 0
    assert not read_findings(tmp_path, "duplicates.csv")


def test_low_images_have_the_embeddings_of_their_sharp_partners(people: People, tmp_path: Path) -> None:
    alone = low("s1", "alone", people["s1"][7])
    photos = [*pairs(people, "s1", "s5", count=2), alone, Photo("s5", "0.gif", people["s5"][3])]
    aligned, filtered = write_tables(tmp_path, photos)
    with EmbeddingStore() as store:
        images = read_audited_images(Table(aligned, "aligned"), Table(filtered, "filter"), sface(), store)
        assert images.sharp.tolist() == [1, 1, 3, 3, 5, 5, 7, 7, 8, 9]
        assert images.has_embedding.tolist() == [True] * 8 + [False, True]
        assert images.comparable.tolist() == [False, True] * 4 + [False, True]
        vectors = store.read(np.arange(10))
        assert np.array_equal(vectors[0:8:2], vectors[1:8:2])
        assert np.array_equal(vectors[1], sface()(decode_rgb(crop_of(people["s1"][0]))))
        assert not vectors[8].any() and vectors[9].any()


def test_a_wrong_label_takes_the_low_image_with_it(people: People, tmp_path: Path) -> None:
    photos = [*pairs(people, *NAMES), *pair("s1", "swapped", people["s9"][7])]
    result, rows = audited(tmp_path, photos, suspects="drop")
    assert dropped(rows) == dict.fromkeys(("s1/swapped.jpg", "s1/swapped.png"), "far_from_identity")
    (suspect,) = read_findings(tmp_path, "suspects.csv")
    assert (suspect["source"], suspect["near"], result.suspects) == ("s1/swapped.png", "s9", 1)
    assert suspect["central_source"].endswith(".png")


def test_a_low_image_without_partner_is_no_suspect_and_no_duplicate(people: People, tmp_path: Path) -> None:
    """Not even where it shows another person: 14 pixels do not tell, and zeros are far from everybody."""
    photos = [*pairs(people, *NAMES), low("s1", "alone", people["s9"][7]), low("s1", "other", people["s9"][8])]
    result, rows = audited(tmp_path, photos, suspects="drop", duplicates="drop")
    assert not dropped(rows)
    assert result.suspects == result.duplicates == 0
    assert rows["s1/alone.jpg"]["cluster"] == rows["s1/alone.jpg"]["image_id"]


def test_a_rejected_sharp_image_is_no_suspect(people: People, tmp_path: Path) -> None:
    """What the filter rejects is unlike for other reasons, and so is its low image."""
    swapped = [low("s1", "swapped", people["s9"][7]), high("s1", "swapped", people["s9"][7], reason="turned")]
    result, rows = audited(tmp_path, [*pairs(people, *NAMES), *swapped], suspects="drop")
    assert result.suspects == 0 and not dropped(rows)


def test_a_resolution_pair_counts_as_one_image_of_an_identity(people: People, tmp_path: Path) -> None:
    """A photograph counts once: a person with one pair has one image, too few to look like another."""
    photos = [*pairs(people, *NAMES), *pair("twin", "0", people["s5"][7])]
    assert audited(tmp_path / "one", photos)[0].alike_pairs == 0
    result, rows = audited(tmp_path / "two", [*photos, *pair("twin", "1", people["s5"][8])])
    (found,) = read_findings(tmp_path / "two", "pairs.csv")
    assert (found["left"], found["right"], found["right_images"], result.alike_pairs) == ("s5", "twin", "2", 1)
    assert found["left_source"].endswith(".png") and found["right_source"].endswith(".png")
    assert rows["twin/0.jpg"]["person"] == "s5"


@pytest.mark.parametrize("larger", ["first", "again"])
def test_of_two_pairs_of_one_photograph_one_is_kept(people: People, tmp_path: Path, larger: str) -> None:
    """Whatever the low images' own sizes say: here the low one of the smaller photograph is the larger."""
    photograph = people["s1"][0]
    big = changed(photograph, lambda image: image.resize((184, 224), Image.Resampling.BICUBIC))
    data = {"first": photograph, "again": photograph} | {larger: big}
    copies = []
    for stem, sharp in data.items():
        copies += [low("s1", stem, photograph, size=1 / 8 if stem == larger else 1 / 4), high("s1", stem, sharp)]
    result, rows = audited(tmp_path, [*copies, *pairs(people, "s5", "s9")], duplicates="drop")
    other = "again" if larger == "first" else "first"
    assert dropped(rows) == dict.fromkeys((f"s1/{other}.jpg", f"s1/{other}.png"), "duplicate")
    assert len({row["cluster"] for name, row in rows.items() if name.startswith("s1/")}) == 1
    assert (result.duplicate_clusters, result.duplicates) == (1, 1)
    assert len(read_findings(tmp_path, "duplicates.csv")) == 4


def test_a_low_image_is_kept_where_its_partner_cannot_be_read(people: People, tmp_path: Path) -> None:
    broken = Photo("s1", "9.png", people["s1"][7], {"resolution": "high"}, crop=b"not a picture")
    photos = [*pairs(people, *NAMES), low("s1", "9", people["s1"][7]), broken]
    _, rows = audited(tmp_path, photos, duplicates="drop", suspects="drop")
    assert dropped(rows) == {"s1/9.png": "unreadable"}
    assert rows["s1/9.jpg"]["cluster"] == rows["s1/9.png"]["cluster"]


def test_both_pairs_of_a_photograph_under_two_names_are_dropped(people: People, tmp_path: Path) -> None:
    photos = [*pairs(people, *NAMES), *pair("s9", "wrong", changed(people["s5"][0], lambda image: image, 92))]
    _, rows = audited(tmp_path, photos)
    wrong = ("s5/0.jpg", "s5/0.png", "s9/wrong.jpg", "s9/wrong.png")
    assert dropped(rows) == dict.fromkeys(wrong, "same_photo_two_names")
    assert len({rows[name]["cluster"] for name in wrong}) == 1


def test_a_leak_is_found_by_the_sharp_image_alone(people: People, tmp_path: Path) -> None:
    for name, person in (("Somebody", "s5"), ("Other", "s9")):
        write_files(tmp_path / "set" / name, {f"{number}.pgm": people[person][number] for number in (6, 7, 8)})
    photos = pairs(people, "s1", "s5", "s30")
    photos += [low("blurred", str(number), people["s9"][number]) for number in (6, 7, 8)]
    result, rows = audited(tmp_path, photos, evaluation_sets=str(tmp_path / "set"))
    assert set(dropped(rows)) == {name for name in rows if name.startswith("s5/")}
    (leak,) = read_findings(tmp_path, "leaks.csv")
    assert (leak["identity"], leak["person"], result.leaks) == ("s5", "Somebody", 1)
    assert leak["source"].endswith(".png")


def test_drift_and_page_with_pairs(people: People, tmp_path: Path) -> None:
    audited(tmp_path / "first", pairs(people, *NAMES))
    previous = str(tmp_path / "first" / "out" / "data.json")
    result, _ = audited(tmp_path / "again", pairs(people, *NAMES), previous=previous, max_drift=0.01)
    assert result.max_drift_found == 0
    assert "data:image/jpeg;base64," not in (tmp_path / "again" / "page.html").read_text()  # nothing is wrong


def test_low_images_alone(people: People, tmp_path: Path) -> None:
    """Nothing is known of their faces, so that there is nothing to compare and nothing to be drifting."""
    photos = [low(name, str(number), people[name][number]) for name in NAMES for number in range(3)]
    result, rows = audited(tmp_path / "first", photos, suspects="drop", duplicates="drop")
    assert not dropped(rows) and result.alike_pairs == result.suspects == 0
    previous = str(tmp_path / "first" / "out" / "data.json")
    assert audited(tmp_path / "again", photos, previous=previous, max_drift=0.1)[0].max_drift_found == 0
