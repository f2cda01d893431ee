"""Ingest of resolution pairs: labels, order and shards."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.faces.images import decode_rgb, encode_png
from kubeface.ingest.options import IngestOptions
from kubeface.ingest.step import ingest, plan_shards
from kubeface.runtime.keyed_rng import by_rank, rank, stored_name
from kubeface.tables.resolution_pairs import partners, resolution_of
from kubeface.tables.table import Table
from tests.support.images import encoded, scaled, write_files
from tests.support.tables import rows_of

PEOPLE = ("s1", "s5", "s9")
LAYOUTS = {
    "folders": ("{resolution}/{person}/{number}.png", ""),
    "division above": ("train/{resolution}/{person}/{number}.png", ""),
    "division below": ("{resolution}/val/{person}/{number}.png", ""),
    "names": ("{resolution}/{place:03d}_{number}.png", r"^(\d{3})"),
    "names, division above": ("test/{resolution}/{place:03d}_{number}.png", r"^(\d{3})"),
    "names, division below": ("{resolution}/train/{place:03d}_{number}.png", r"^(\d{3})"),
    "names in folders": ("{resolution}/val/batch {number}/{place:03d}_{number}.png", r"^(\d{3})"),
}


def reduced(data: bytes) -> bytes:
    """A photograph at an eighth of its size, as JPEG."""
    return encoded(scaled(decode_rgb(data), 1 / 8), "JPEG", quality=95)


@pytest.fixture(scope="module")
def sharp(orl: dict[str, bytes]) -> dict[tuple[str, int], bytes]:
    """Photographs of three people, as PNG."""
    return {
        (who, number): encode_png(decode_rgb(orl[f"{who}/{number}.pgm"])) for who in PEOPLE for number in range(1, 6)
    }


def pairs(sharp: dict[tuple[str, int], bytes], layout: str) -> dict[str, bytes]:
    """Every photograph sharp and reduced; the reduced ones are JPEG."""
    files = {}
    for (person, number), data in sharp.items():
        told = {"person": person, "number": number, "place": PEOPLE.index(person)}
        files[layout.format(resolution="hr_images", **told)] = data
        files[layout.format(resolution="vlr_images", **told).replace(".png", ".jpg")] = reduced(data)
    return files


def sources(rows: list[dict[str, Any]]) -> list[str]:
    return [row["source"] for row in rows]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_pairs_are_stored_side_by_side(sharp: dict[tuple[str, int], bytes], tmp_path: Path, kind: str) -> None:
    layout, pattern = LAYOUTS[kind]
    source = write_files(tmp_path / "in", pairs(sharp, layout))
    ingest(source, tmp_path / "out", IngestOptions(identity_pattern=pattern))
    rows = rows_of(tmp_path / "out")
    assert len({row["identity"] for row in rows}) == len(PEOPLE)
    given_split = next((part for part in ("train", "val", "test") if part in layout.split("/")), None)
    assert {row["given_split"] for row in rows} == {given_split}
    found = partners(Table(tmp_path / "out", "faces"))
    assert len(found) == len(sharp) == len(rows) / 2
    for high, low in zip(rows[::2], rows[1::2], strict=True):
        assert found[low["image_id"]] == high["image_id"]
        assert (resolution_of(high["groups"]), resolution_of(low["groups"])) == ("high", "low")
        assert round(high["width"] / 8) == low["width"]
    assert sources(rows) != sorted(sources(rows))


def test_images_without_resolution_keep_their_order(sharp: dict[tuple[str, int], bytes], tmp_path: Path) -> None:
    """Beside pairs others stand where their own names put them, and a single one of a pair by its own."""
    plain = {f"more/{person} {number}/{number}.png": data for (person, number), data in sharp.items()}
    ingest(write_files(tmp_path / "plain", plain), tmp_path / "alone", IngestOptions(seed=3))
    names = sorted(plain)
    assert sources(rows_of(tmp_path / "alone")) == [names[place] for place in by_rank(3, names)]
    assert sources(rows_of(tmp_path / "alone")) == sorted(names, key=lambda name: rank(3, name))
    write_files(tmp_path / "plain", pairs(sharp, LAYOUTS["folders"][0]))
    ingest(str(tmp_path / "plain"), tmp_path / "together", IngestOptions(seed=3))
    together = [name for name in sources(rows_of(tmp_path / "together")) if name.startswith("more/")]
    assert together == sources(rows_of(tmp_path / "alone"))


def test_images_of_a_pair_are_in_one_shard(sharp: dict[tuple[str, int], bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", pairs(sharp, LAYOUTS["names"][0]))
    pattern = r"^(\d{3})"
    found = 0
    for shard in plan_shards(source, 5, IngestOptions(identity_pattern=pattern)).shards:
        out = tmp_path / shard.partition("/")[0]
        ingest(source, out, IngestOptions(identity_pattern=pattern), shard=shard)
        rows = rows_of(out)
        assert len(partners(Table(out, "faces"))) == len(rows) / 2
        found += len(rows)
    assert found == 2 * len(sharp)


def test_resolution_comes_from_folders_beside_a_listing(sharp: dict[tuple[str, int], bytes], tmp_path: Path) -> None:
    files = pairs(sharp, "{resolution}/{person}-{number}.png")
    source = write_files(tmp_path / "in", files)
    lines = [f"{name},{name.partition('/')[2].partition('-')[0]}" for name in files]
    (tmp_path / "list.csv").write_text("\n".join(["path,identity", *lines]))
    ingest(source, tmp_path / "out", IngestOptions(listing=str(tmp_path / "list.csv")))
    assert len(partners(Table(tmp_path / "out", "faces"))) == len(sharp)
    for row in rows_of(tmp_path / "out"):
        assert json.loads(row["groups"])["resolution"] == ("low" if "vlr" in row["source"] else "high")


def test_resolution_from_listing(sharp: dict[tuple[str, int], bytes], tmp_path: Path) -> None:
    files = {f"{name.replace('_images', '').replace('/', '-', 1)}": data for name, data in
             pairs(sharp, LAYOUTS["folders"][0]).items()}  # fmt: skip
    source = write_files(tmp_path / "in", files)
    lines = [f"{name},{'low' if name.startswith('vlr') else 'high'},{name.split('/')[0].partition('-')[2]}"
             for name in files]  # fmt: skip
    (tmp_path / "list.csv").write_text("\n".join(["path,resolution,identity", *lines]))
    ingest(source, tmp_path / "out", IngestOptions(listing=str(tmp_path / "list.csv")))
    rows = rows_of(tmp_path / "out")
    found = partners(Table(tmp_path / "out", "faces"))
    assert len(found) == len(sharp)
    assert all(found[low["image_id"]] == high["image_id"] for high, low in zip(rows[::2], rows[1::2], strict=True))


@given(st.text(), st.text(), st.sampled_from(["low", "high"]))
def test_only_images_of_a_resolution_share_a_rank(stem: str, identity: str, resolution: str) -> None:
    name = f"a/{stem.replace('/', '')}x.png"
    assert stored_name(name, identity, None) == name
    other = name.replace("a/", "b/c/", 1).removesuffix(".png") + ".jpg"
    assert stored_name(name, identity, resolution) == stored_name(other, identity, resolution)
    assert stored_name(name, identity, resolution) != stored_name(name, identity + "x", resolution)


@given(st.lists(st.sampled_from("abcd"), max_size=20), st.integers(0, 3))
def test_equal_ranks_keep_their_order(names: list[str], seed: int) -> None:
    assert by_rank(seed, names).tolist() == sorted(range(len(names)), key=lambda place: rank(seed, names[place]))
