"""The audit of whole photographs, of portraits, and for attributes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kubeface.audit.step as step
from kubeface.align.options import AlignOptions
from kubeface.align.step import align
from kubeface.audit.options import AuditOptions
from kubeface.audit.step import audit
from kubeface.filter.step import filter_faces
from kubeface.ingest.step import ingest
from kubeface.records.findings import FindingsRecord
from kubeface.runtime.errors import KubefaceError
from kubeface.split.options import SplitOptions
from kubeface.split.step import split
from kubeface.tables.table import Table
from tests.support.audit_tables import changed
from tests.support.tables import rows_of


@pytest.fixture(scope="module")
def classes(people: dict[str, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of two classes: a copy saved again within one, and the same bytes in both."""
    root = tmp_path_factory.mktemp("classes")
    for name in ("s1", "s5"):
        (root / "in" / name).mkdir(parents=True)
        for number, data in enumerate(people[name][:4]):
            (root / "in" / name / f"{number}.pgm").write_bytes(data)
    (root / "in" / "s1" / "again.jpg").write_bytes(changed(people["s1"][0], lambda image: image, 92))
    (root / "in" / "s5" / "other.pgm").write_bytes(people["s1"][3])
    ingest(str(root / "in"), root / "faces")
    return root


def tables(root: Path, out: Path, options: AlignOptions = AlignOptions()) -> tuple[Path, Path]:
    align(root / "faces", out / "aligned", options)
    filter_faces(root / "faces", out / "aligned", out / "filtered")
    return out / "aligned", out / "filtered"


WHOLE = AlignOptions(detector="none", template="whole_224")


def by_source(out: Path) -> dict[str, dict[str, Any]]:
    sources = Table(out / "aligned", "aligned").columns(["source"])["source"].to_pylist()
    rows = rows_of(out / "out")
    return dict(zip(sources, rows, strict=True))


def test_whole_photographs_are_compared_by_bytes_and_hashes(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "sface", lambda: pytest.fail("there is no face to embed"))
    aligned, filtered = tables(classes, tmp_path, WHOLE)
    result = audit(aligned, filtered, tmp_path / "out", tmp_path / "page.html", AuditOptions(task="classes"))
    rows = by_source(tmp_path)
    assert rows["s1/again.jpg"]["cluster"] == rows["s1/0.pgm"]["cluster"]
    assert {source: row["reason"] for source, row in rows.items() if not row["kept"]} == {
        "s1/3.pgm": "same_photo_two_names",
        "s5/other.pgm": "same_photo_two_names",
    }
    assert all(row["person"] == row["identity"] for row in rows.values())
    assert (result.suspects, result.alike_pairs, result.leaks, result.duplicate_clusters) == (0, 0, 0, 2)
    page = (tmp_path / "page.html").read_text()
    assert "bytes and perceptual hashes alone" in page and "cosine" not in page.partition("Settings</h2>")[0]
    record = FindingsRecord.read(tmp_path / "out" / "data.json")
    assert record.embedding_mean == [] and record.settings["task"] == "classes"
    assert sorted(record.features) == ["brightness", "image_size", "images_per_identity", "sharpness"]
    options = AuditOptions(previous=str(tmp_path / "out" / "data.json"))
    assert audit(aligned, filtered, tmp_path / "two", tmp_path / "two.html", options).max_drift_found == 0
    options = AuditOptions(evaluation_sets=str(classes / "in"))
    with pytest.raises(KubefaceError, match="whole photographs have none: leave evaluation_sets empty"):
        audit(aligned, filtered, tmp_path / "three", tmp_path / "three.html", options)


def test_whole_photographs_are_divided_among_their_classes(classes: Path, tmp_path: Path) -> None:
    aligned, filtered = tables(classes, tmp_path, WHOLE)
    audit(aligned, filtered, tmp_path / "out", tmp_path / "page.html", AuditOptions(task="classes"))
    split(aligned, filtered, tmp_path / "split", tmp_path / "out", SplitOptions(task="classes"))
    rows = rows_of(tmp_path / "split")
    for name in ("s1", "s5"):
        assert {row["split"] for row in rows if row["identity"] == name} == {"train", "val", "heldout", "excluded"}
    sides = {row["image_id"]: row["split"] for row in rows}
    found = by_source(tmp_path)
    assert len({sides[found[name]["image_id"]] for name in ("s1/0.pgm", "s1/again.jpg")}) == 1


@pytest.mark.parametrize("options", [WHOLE, AlignOptions()])
def test_a_photograph_under_two_names_is_kept_for_attributes(
    classes: Path, tmp_path: Path, options: AlignOptions
) -> None:
    aligned, filtered = tables(classes, tmp_path, options)
    result = audit(aligned, filtered, tmp_path / "out", tmp_path / "page.html", AuditOptions(task="attributes"))
    rows = by_source(tmp_path)
    assert rows["s1/3.pgm"]["cluster"] == rows["s5/other.pgm"]["cluster"]
    assert all(row["kept"] for row in rows.values()) and result.same_photo_two_names == 0


def test_a_portrait_has_the_embedding_of_its_face(classes: Path, tmp_path: Path) -> None:
    means = []
    for options in (AlignOptions(template="arcface_112"), AlignOptions(template="portrait_224")):
        out = tmp_path / options.template
        aligned, filtered = tables(classes, out, options)
        audit(aligned, filtered, out / "out", out / "page.html")
        means.append(FindingsRecord.read(out / "out" / "data.json").embedding_mean)
    assert np.abs(np.subtract(means[0], means[1])).max() < 0.002 and len(means[0]) == 128


def test_the_manifest_of_recognition_has_no_task(classes: Path, tmp_path: Path) -> None:
    aligned, filtered = tables(classes, tmp_path)
    audit(aligned, filtered, tmp_path / "out", tmp_path / "page.html")
    assert "task" not in Table(tmp_path / "out", "audit").manifest.settings
