"""Shards and their fingerprints, and the erasure list."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.faces.images import encode_png
from kubeface.ingest.catalogue import Shard, shard_number
from kubeface.ingest.options import IngestOptions
from kubeface.ingest.step import ingest, plan_shards
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.erasure import name_digest
from kubeface.tables.table import Table
from tests.support.images import smooth_image, write_archive, write_files
from tests.support.tables import reasons, rows_of


@pytest.fixture
def images() -> dict[str, bytes]:
    """Twelve people with three images each."""
    return {
        f"p{person}/{number}.png": encode_png(smooth_image(10 * person + number))
        for person in range(12)
        for number in range(3)
    }


def fingerprint(source: str) -> str:
    (shard,) = plan_shards(source).shards
    return Shard.parse(shard).fingerprint


def by_number(source: str, count: int, forget: str = "") -> dict[int, str]:
    shards = plan_shards(source, count, IngestOptions(forget=forget)).shards
    return {Shard.parse(shard).number: shard for shard in shards}


def test_fingerprint_changes_whenever_the_source_does(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", images)
    seen = [fingerprint(source)]
    assert fingerprint(source) == seen[0] and len(seen[0]) == 64
    write_files(tmp_path / "in", {"p1/9.png": images["p1/0.png"]})
    seen.append(fingerprint(source))
    write_files(tmp_path / "in", {"p1/9.png": images["p1/1.png"] + b"."})
    seen.append(fingerprint(source))
    (tmp_path / "in" / "p1" / "9.png").rename(tmp_path / "in" / "p2" / "9.png")
    seen.append(fingerprint(source))
    assert len(set(seen)) == 4
    (tmp_path / "in" / "p2" / "9.png").unlink()
    assert fingerprint(source) == seen[0]
    write_files(tmp_path / "in", {".DS_Store": b"x", "p1/._0.png": b"x"})
    assert fingerprint(source) == seen[0]
    for suffix in (".tar", ".zip"):
        packed = fingerprint(write_archive(tmp_path / f"a{suffix}", images))
        changed = images | {"p1/0.png": images["p1/0.png"] + b"."}
        assert fingerprint(write_archive(tmp_path / f"a{suffix}", changed)) != packed
    (tmp_path / "void").mkdir()
    with pytest.raises(KubefaceError, match="void holds no image"):
        plan_shards(str(tmp_path / "void"))


def test_changed_source_is_refused(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", images)
    shards = by_number(source, 4)
    write_files(tmp_path / "in", {"p0/9.png": images["p0/0.png"]})
    changed = shard_number("p0", 4)
    with pytest.raises(KubefaceError, match=rf"in changed while the run began \(shard {changed}/4\): start it again"):
        ingest(source, tmp_path / "b", shard=shards[changed])
    assert not (tmp_path / "b").exists()
    other = next(number for number in shards if number != changed)
    ingest(source, tmp_path / "a", shard=shards[other])


@pytest.mark.parametrize("count", [1, 3, 50])
def test_shards_cover_the_source_with_each_person_in_one(images: dict[str, bytes], tmp_path: Path, count: int) -> None:
    source = write_files(tmp_path / "in", images | {"p1/notes.txt": b"no image", "loose.png": images["p1/0.png"]})
    ingest(source, tmp_path / "whole", IngestOptions(seed=3))
    whole = {row["source"]: row for row in rows_of(tmp_path / "whole")}
    found: dict[str, dict[str, Any]] = {}
    people: list[str] = []
    rejected: dict[str, str] = {}
    for shard in plan_shards(source, count).shards:
        out = tmp_path / f"part {shard[:5].replace('/', ' ')}"
        ingest(source, out, IngestOptions(seed=3), shard=shard)
        rows = rows_of(out)
        found |= {row["source"]: row for row in rows}
        people += {row["identity"] for row in rows}
        rejected |= reasons(out)
    assert found == whole and len(found) == 36
    assert len(people) == len(set(people)) == 12
    assert rejected == reasons(tmp_path / "whole") == {"p1/notes.txt": "not_an_image", "loose.png": "no_identity"}


def test_an_added_image_changes_only_its_shard(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", images)
    before = by_number(source, 8)
    write_files(tmp_path / "in", {"new person/1.png": images["p1/0.png"], "p3/new.png": images["p3/0.png"]})
    after = by_number(source, 8)
    changed = {number for number in after if after[number] != before.get(number)}
    assert changed == {shard_number("new person", 8), shard_number("p3", 8)}


@given(name=st.text(min_size=1), count=st.integers(1, 1000))
def test_every_name_has_one_shard(name: str, count: int) -> None:
    number = shard_number(name, count)
    assert [Shard(other, count).holds(name) for other in range(count)].count(True) == 1
    assert Shard(number, count).holds(name)


@given(
    st.integers(1, 1000).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count))),
    st.text("0123456789abcdef", max_size=64),
    st.frozensets(st.text("0123456789abcdef", min_size=1, max_size=32), max_size=4),
)
def test_shard_text_round_trip(place: tuple[int, int], fingerprint: str, forget: frozenset[str]) -> None:
    shard = Shard(*place, fingerprint, forget)
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize("text", ["", "1", "1/1", "-1/2", "a/b", "2/1 abc", "0/0"])
def test_invalid_shard_text_is_refused(images: dict[str, bytes], tmp_path: Path, text: str) -> None:
    source = write_files(tmp_path / "in", images)
    with pytest.raises(KubefaceError, match="write <number>/<count>"):
        ingest(source, tmp_path / "out", shard=text)


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_number_of_shards_out_of_range_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(KubefaceError, match=f"num_shards is {count}"):
        plan_shards(str(tmp_path), count)


def erasure_list(path: Path, *names: str) -> str:
    path.write_text("# asked for by letter\n\n" + "\n".join(names) + "\n", "utf-8")
    return str(path)


def test_only_the_names_of_the_erasure_list_are_left_out(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", images)
    forget = erasure_list(tmp_path / "forget.txt", "p3", "p5/1.png", "somebody unknown")
    figures = ingest(source, tmp_path / "out", IngestOptions(forget=forget))
    assert {row["source"] for row in rows_of(tmp_path / "out")} == {
        name for name in images if not name.startswith("p3/") and name != "p5/1.png"
    }
    assert (figures.rows_out, figures.rejected, figures.forgotten) == (32, 0, 4)
    for path in (tmp_path / "out").iterdir():  # whoever is forgotten is not kept in a list of those who are
        assert b"p3/" not in path.read_bytes() and b"p5/1.png" not in path.read_bytes()


def test_erasure_changes_only_the_shards_it_concerns(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", images)
    before = by_number(source, 8)
    lists = [erasure_list(tmp_path / "a.txt", "p3"), erasure_list(tmp_path / "b.txt", "p3", "p5/1.png")]
    first, second = (by_number(source, 8, forget=uri) for uri in lists)
    assert {number for number in before if first.get(number) != before[number]} == {shard_number("p3", 8)}
    assert {number for number in before if second.get(number) != first.get(number)} == {shard_number("p5", 8)}
    assert "p3" not in "".join(first.values()) and name_digest("p3") in "".join(first.values())
    number = shard_number("p5", 8)
    ingest(source, tmp_path / "out", shard=second[number])  # the shard's text says whom to forget
    table = Table(tmp_path / "out", "faces")
    assert "p5/1.png" not in {row["source"] for row in rows_of(tmp_path / "out")}
    assert table.manifest.settings["forgotten"] == 1 + 3 * (shard_number("p3", 8) == number)
    (tmp_path / "in" / "p5" / "1.png").unlink()  # gone from the source: nothing is left to be done for it
    assert by_number(source, 8, forget=lists[1])[number].count(",") == first[number].count(",")


EVERYBODY = "\n".join(f"p{person}" for person in range(12)).encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"# nobody\n\n", "names nobody"),
        (b"\xff\xfe", "is not UTF-8"),
        (None, "does not exist"),
        (EVERYBODY, "every image of .* is to be forgotten"),
    ],
)
def test_unusable_erasure_list_is_refused(
    images: dict[str, bytes], tmp_path: Path, text: bytes | None, said: str
) -> None:
    source, path = write_files(tmp_path / "in", images), tmp_path / "forget.txt"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(KubefaceError, match=said):
        plan_shards(source, options=IngestOptions(forget=str(path)))
