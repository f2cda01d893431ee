"""Labels of images from folders, file names and listings."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kubeface.ingest.naming import Label, by_folder, by_pattern
from kubeface.ingest.options import IngestOptions
from kubeface.ingest.step import IngestResult, ingest, plan_shards
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.table import Table
from tests.support.images import write_archive, write_files
from tests.support.tables import reasons, rows_of


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("ann/1.png", Label("ann", "ann")),
        ("faces/2024/ann/1.png", Label("ann", "faces/2024/ann")),
        ("train/ann/1.png", Label("ann", "ann", "train")),
        ("faces/val/ann/1.png", Label("ann", "faces/ann", "val")),
        ("test/ann/1.png", Label("ann", "ann", "test")),
        ("vlr_images/ann/1.png", Label("ann", "ann", None, {"resolution": "low"})),
        ("train/hr_images/ann/1.png", Label("ann", "ann", "train", {"resolution": "high"})),
        ("hr_images/val/ann/1.png", Label("ann", "ann", "val", {"resolution": "high"})),
        ("train/1.png", Label("train", "train")),
        ("1.png", None),
        ("../dan/1.png", Label("dan", "../dan")),  # a label and never a path
    ],
)
def test_label_from_folder(name: str, label: Label | None) -> None:
    assert by_folder(name) == label


@pytest.mark.parametrize(
    ("pattern", "name", "label"),
    [
        (r"^(\d{3})_", "vlr_images/007_01_01_010_00_crop_128.png", Label("007", "", None, {"resolution": "low"})),
        (r"^(\d{3})", "train/vlr_images/007_01.png", Label("007", "", "train", {"resolution": "low"})),
        (r"^(\d{3})", "in/hr_images/val/007_01.png", Label("007", "", "val", {"resolution": "high"})),
        (r"^(\d{3})", "hr_images/test/camera 1/007_01.png", Label("007", "", "test", {"resolution": "high"})),
        (r"^(\d{3})", "vlr_images/007/007_01.png", Label("007", "", None, {"resolution": "low"})),
        (r"^(\d{3})", "val/2024/007_01.png", Label("007")),
        (r"^(\d{3})_", "007_01.png", Label("007")),
        (r"^(\d{3})_", "val/007_01.png", Label("007", "", "val")),
        (r"^(.+)_\d+\.", "Aaron_Eckhart_0001.jpg", Label("Aaron_Eckhart")),
        (r"cam(?P<camera>\d)/(?P<identity>\w+)-", "in/cam3/ann-7.png", Label("ann", "", None, {"camera": "3"})),
        (r"(?P<split>train|val)-(?P<identity>\w+)", "val-ann.png", Label("ann", "", "val")),
        (r"^(\d{3})_", "notes/readme.png", None),
        (r"^(\d*)_", "_1.png", None),
    ],
)
def test_label_from_pattern(pattern: str, name: str, label: Label | None) -> None:
    assert by_pattern(pattern)(name) == label


def test_unknown_split_in_a_name_is_refused(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {f"dev-{name.replace('/', '-')}": data for name, data in images.items()})
    with pytest.raises(KubefaceError, match=r"finds split 'dev' in dev-\w+-\d.png: it must be train, val or test"):
        ingest(source, tmp_path / "out", IngestOptions(identity_pattern=r"^(?P<split>\w+?)-(?P<identity>\w+)"))
    assert not (tmp_path / "out").exists()


def listed(path: Path, rows: list[dict[str, str | None]]) -> str:
    """A listing as CSV or Parquet."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        head = list(rows[0])
        lines = [head, *([row[key] or "" for key in head] for row in rows)]
        path.write_text("\ufeff" + "\r\n".join(",".join(line) for line in lines), "utf-8")
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("beside", [True, False])
def test_label_from_listing(suffix: str, beside: bool, images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {name.replace("/", "-"): data for name, data in images.items()})
    rows: list[dict[str, str | None]] = [
        {"path": "ann-0.png", "identity": "007", "split": "val", "camera": "door", "age": None},
        {"path": "./ann-1.png", "identity": "007", "split": "", "camera": "", "age": "31"},
        {"path": "bob-0.png", "identity": "8", "split": "train", "camera": "gate", "age": None},
        {"path": "bob-0.png", "identity": "8", "split": "train", "camera": "gate", "age": None},
        {"path": "gone.png", "identity": "8", "split": None, "camera": None, "age": None},
    ]
    listing = listed((tmp_path / "in" if beside else tmp_path) / f"people{suffix}", rows)
    figures = (
        ingest(listing, tmp_path / "out")
        if beside
        else ingest(source, tmp_path / "out", IngestOptions(listing=listing))
    )
    assert figures == IngestResult(rows_in=4, rows_out=3, identities=2, rejected=1, forgotten=0)
    assert reasons(tmp_path / "out") == {"gone.png": "missing_file"}
    found = {
        row["source"]: (row["identity"], row["given_split"], json.loads(row["groups"] or "{}"))
        for row in rows_of(tmp_path / "out")
    }
    assert found == {
        "ann-0.png": ("007", "val", {"camera": "door"}),
        "ann-1.png": ("007", None, {"age": "31"}),
        "bob-0.png": ("8", "train", {"camera": "gate"}),
    }


def test_listing_of_an_archive_changes_the_fingerprint(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_archive(tmp_path / "faces.tar", images)
    rows: list[dict[str, str | None]] = [{"path": name, "identity": name[:3]} for name in images]
    listing = listed(tmp_path / "people.csv", rows)
    (before,) = plan_shards(source, options=IngestOptions(listing=listing)).shards
    assert before != plan_shards(source).shards[0]
    ingest(source, tmp_path / "out", IngestOptions(listing=listing), shard=before)
    assert Table(tmp_path / "out", "faces").rows == 9
    listed(tmp_path / "people.csv", rows[:-1])
    assert plan_shards(source, options=IngestOptions(listing=listing)).shards != [before]
    with pytest.raises(KubefaceError, match="changed while the run began"):
        ingest(source, tmp_path / "again", IngestOptions(listing=listing), shard=before)


def test_listing_cannot_name_files_outside_the_source(images: dict[str, bytes], tmp_path: Path) -> None:
    """Only what lies below the source can be named."""
    source = write_files(tmp_path / "in", images)
    write_files(tmp_path, {"secret.png": images["ann/0.png"]})
    rows: list[dict[str, str | None]] = [
        {"path": "../secret.png", "identity": "x"},
        {"path": str(tmp_path / "secret.png"), "identity": "x"},
        {"path": "ann/0.png", "identity": "ann"},
        {"path": "bob/0.png", "identity": "bob"},
    ]
    ingest(source, tmp_path / "out", IngestOptions(listing=listed(tmp_path / "people.csv", rows)))
    assert {row["source"] for row in rows_of(tmp_path / "out")} == {"ann/0.png", "bob/0.png"}
    assert set(reasons(tmp_path / "out").values()) == {"missing_file"}


def test_listing_with_identities_excludes_a_pattern(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", images)
    listing = listed(tmp_path / "people.csv", [{"path": name, "identity": name[:3]} for name in images])
    with pytest.raises(KubefaceError, match="give one of them"):
        ingest(source, tmp_path / "out", IngestOptions(listing=listing, identity_pattern="(a)"))
