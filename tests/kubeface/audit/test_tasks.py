"""The audit of whole photographs, of portraits, and for attributes."""

from collections.abc import Callable
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
from tests.support.images import write_files
from tests.support.tables import rows_of

Tables = Callable[[AlignOptions], tuple[Path, Path]]


@pytest.fixture(scope="module")
def classes(people: dict[str, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of two classes: a copy saved again within one, and the same bytes in both."""
    root = tmp_path_factory.mktemp("classes")
    files = {f"{name}/{number}.pgm": people[name][number] for name in ("s1", "s5") for number in range(4)}
    again = changed(people["s1"][0], lambda image: image, 92)
    write_files(root / "in", files | {"s1/again.jpg": again, "s5/other.pgm": people["s1"][3]})
    ingest(str(root / "in"), root / "faces")
    return root


@pytest.fixture(scope="module")
def tables(classes: Path) -> Tables:
    """Aligned and filter table of `classes` with some options, made once."""

    def made(options: AlignOptions) -> tuple[Path, Path]:
        out = classes / options.template
        if not out.exists():
            align(classes / "faces", out / "aligned", options)
            filter_faces(classes / "faces", out / "aligned", out / "filtered")
        return out / "aligned", out / "filtered"

    return made


FACES = AlignOptions()
WHOLE = AlignOptions(detector="none", template="whole_224")


def by_source(aligned: Path, audited: Path) -> dict[str, dict[str, Any]]:
    sources = Table(aligned, "aligned").columns(["source"])["source"].to_pylist()
    return dict(zip(sources, rows_of(audited), strict=True))


def test_whole_photographs_are_compared_by_bytes_and_hashes(
    classes: Path, tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "sface", lambda: pytest.fail("there is no face to embed"))
    aligned, filtered = tables(WHOLE)
    result = audit(aligned, filtered, tmp_path / "out", tmp_path / "page.html", AuditOptions(task="classes"))
    rows = by_source(aligned, tmp_path / "out")
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


def test_whole_photographs_are_divided_among_their_classes(tables: Tables, tmp_path: Path) -> None:
    aligned, filtered = tables(WHOLE)
    audit(aligned, filtered, tmp_path / "out", tmp_path / "page.html", AuditOptions(task="classes"))
    split(aligned, filtered, tmp_path / "split", tmp_path / "out", SplitOptions(task="classes"))
    rows = rows_of(tmp_path / "split")
    for name in ("s1", "s5"):
        assert {row["split"] for row in rows if row["identity"] == name} == {"train", "val", "heldout", "excluded"}
    sides = {row["image_id"]: row["split"] for row in rows}
    found = by_source(aligned, tmp_path / "out")
    assert len({sides[found[name]["image_id"]] for name in ("s1/0.pgm", "s1/again.jpg")}) == 1


@pytest.mark.parametrize("options", [WHOLE, FACES])
def test_a_photograph_under_two_names_is_kept_for_attributes(
    tables: Tables, tmp_path: Path, options: AlignOptions
) -> None:
    aligned, filtered = tables(options)
    result = audit(aligned, filtered, tmp_path / "out", tmp_path / "page.html", AuditOptions(task="attributes"))
    rows = by_source(aligned, tmp_path / "out")
    assert rows["s1/3.pgm"]["cluster"] == rows["s5/other.pgm"]["cluster"]
    assert all(row["kept"] for row in rows.values()) and result.same_photo_two_names == 0


def test_a_portrait_has_the_embedding_of_its_face(tables: Tables, tmp_path: Path) -> None:
    means = []
    for options in (FACES, AlignOptions(template="portrait_224")):
        out = tmp_path / options.template
        audit(*tables(options), out / "out", out / "page.html")
        means.append(FindingsRecord.read(out / "out" / "data.json").embedding_mean)
        assert "task" not in Table(out / "out", "audit").manifest.settings  # as in tables of recognition before
    assert np.abs(np.subtract(means[0], means[1])).max() < 0.002 and len(means[0]) == 128
