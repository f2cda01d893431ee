"""Audit on real faces: what is found, what is dropped, and what stays as it is."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp import dsl
from PIL import Image

from components.audit.component import audit as component
from kubeface.audit.embeddings import sface
from kubeface.audit.options import AuditOptions
from kubeface.audit.step import AuditResult, audit
from kubeface.cli import main
from kubeface.records.findings import FindingsRecord
from kubeface.records.record import STEP_FILE
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.page_links import PAGE_LINKS
from kubeface.tables.table import Table
from tests.kubeface.report.test_report import Page
from tests.support.audit_tables import Photo, audited, changed, dropped, photos, read_findings, write_tables
from tests.support.tables import rows_of, write_rows

HOSTILE = "<script>alert(1)</script>"
FINDINGS = ("duplicates.csv", "leaks.csv", "pairs.csv", "suspects.csv")
People = dict[str, list[bytes]]


def record(root: Path) -> FindingsRecord:
    return FindingsRecord.read(root / "out" / "data.json")


@pytest.fixture(scope="module")
def copies(people: People) -> list[Photo]:
    """Photographs of three people; four changed copies of one of them."""
    first = people["s1"][0]
    return [
        *photos(people, "s1", "s5", "s9"),
        Photo("s1", "exact.pgm", first),
        Photo("s1", "again.jpg", changed(first, lambda image: image, 92)),
        Photo("s1", "larger.png", changed(first, lambda image: image.resize((184, 224), Image.Resampling.BICUBIC))),
        Photo("s1", "cut.png", changed(first, lambda image: image.crop((0, 0, 90, 110)))),
    ]


def test_copies_of_a_photograph_form_one_cluster_and_others_none(copies: list[Photo], tmp_path: Path) -> None:
    result, found = audited(tmp_path, copies)
    first = found["s1/0.pgm"]["image_id"]
    clustered = {name for name, row in found.items() if row["cluster"] == first}
    assert clustered == {"s1/0.pgm", "s1/exact.pgm", "s1/again.jpg", "s1/larger.png", "s1/cut.png"}
    assert all(row["cluster"] == row["image_id"] for name, row in found.items() if name not in clustered)
    assert all(row["kept"] for row in found.values())
    assert (result.duplicate_clusters, result.duplicates) == (1, 4)
    assert result.rows_in == result.rows_out == len(copies)
    assert {row["source"] for row in read_findings(tmp_path, "duplicates.csv")} == clustered


def test_drop_keeps_the_largest_of_a_cluster(copies: list[Photo], tmp_path: Path) -> None:
    _, found = audited(tmp_path, copies, duplicates="drop")
    assert dropped(found) == dict.fromkeys(("s1/0.pgm", "s1/exact.pgm", "s1/again.jpg", "s1/cut.png"), "duplicate")
    assert Table(tmp_path / "out", "audit").manifest.rejected == {"duplicate": 4}


def test_resolution_pairs_stay_together_and_are_not_dropped(people: People, tmp_path: Path) -> None:
    small = changed(people["s1"][0], lambda image: image.resize((46, 56), Image.Resampling.LANCZOS), 60)
    images = [
        *photos(people, "s5", "s9"),
        Photo("s1", "7.png", people["s1"][0], {"resolution": "high"}),
        Photo("s1", "7.jpg", small, {"resolution": "low"}, crop=b"not a picture"),
        Photo("s1", "8.png", people["s1"][3], {"resolution": "high"}),
        Photo("s5", "7.png", people["s5"][8], {"resolution": "high"}),
    ]
    _, found = audited(tmp_path, images, duplicates="drop")
    assert found["s1/7.jpg"]["cluster"] == found["s1/7.png"]["cluster"] == found["s1/7.png"]["image_id"]
    assert found["s1/7.jpg"]["reason"] == "unreadable" and found["s1/7.png"]["kept"]
    assert found["s1/8.png"]["cluster"] != found["s1/7.png"]["cluster"] != found["s5/7.png"]["cluster"]


@pytest.mark.parametrize("change", ["exact", "again"])
def test_a_photograph_under_two_names_is_dropped(people: People, tmp_path: Path, change: str) -> None:
    copy = people["s5"][0] if change == "exact" else changed(people["s5"][0], lambda image: image, 92)
    _, found = audited(tmp_path, [*photos(people, "s1", "s5", "s9"), Photo("s9", "wrong.jpg", copy)])
    assert dropped(found) == {"s5/0.pgm": "same_photo_two_names", "s9/wrong.jpg": "same_photo_two_names"}
    assert found["s5/0.pgm"]["cluster"] == found["s9/wrong.jpg"]["cluster"]
    assert "One photograph under several names <span" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("suspects", ["keep", "drop"])
def test_one_person_under_two_names(people: People, tmp_path: Path, suspects: str) -> None:
    split = [Photo("twin", f"{number}.pgm", data) for number, data in enumerate(people["s5"][6:])]
    _, found = audited(tmp_path, [*photos(people, "s1", "s5", "s9"), *split], suspects=suspects)
    persons = {row["identity"]: row["person"] for row in found.values()}
    assert persons == {"s1": "s1", "s5": "s5", "twin": "s5", "s9": "s9"}
    pair = read_findings(tmp_path, "pairs.csv")
    assert [(row["left"], row["right"], row["person"]) for row in pair] == [("s5", "twin", "s5")]
    reasons = {row["identity"]: row["reason"] for row in found.values()}
    assert reasons["twin"] == ("looks_like_another" if suspects == "drop" else None)
    assert reasons["s5"] is None


@pytest.mark.parametrize("suspects", ["keep", "drop"])
def test_a_wrong_label_is_found(people: People, tmp_path: Path, suspects: str) -> None:
    images = [*photos(people, "s1", "s5", "s9"), Photo("s1", "swapped.pgm", people["s9"][7])]
    _, found = audited(tmp_path, images, suspects=suspects)
    (suspect,) = read_findings(tmp_path, "suspects.csv")
    assert (suspect["source"], suspect["near"]) == ("s1/swapped.pgm", "s9")
    assert float(suspect["cosine"]) < 0.25 < 0.6 < float(suspect["near_cosine"])
    assert found["s1/swapped.pgm"]["reason"] == ("far_from_identity" if suspects == "drop" else None)
    assert sum(row["reason"] is not None for row in found.values()) == (suspects == "drop")


def test_few_or_rejected_images_are_no_suspects(people: People, tmp_path: Path) -> None:
    images = [*photos(people, "s5", "s9"), Photo("s1", "a", people["s1"][0]), Photo("s1", "b", people["s13"][0])]
    assert audited(tmp_path / "few", images)[0].suspects == 0
    images = [*photos(people, "s1", "s5"), Photo("s1", "wrong", people["s9"][0], reason="low_score")]
    assert audited(tmp_path / "rejected", images)[0].suspects == 0
    assert record(tmp_path / "rejected").counts.filter_reasons == {"low_score": 1}


def test_the_order_of_the_filter_table_does_not_matter(people: People, tmp_path: Path) -> None:
    """A filter table of the same images in another order says the same of each."""
    images = [*photos(people, "s1", "s5"), Photo("s1", "wrong", people["s9"][0], reason="low_score")]
    aligned, filtered = write_tables(tmp_path, images)
    rows = rows_of(filtered)
    write_rows(tmp_path / "turned", "filter", reversed(rows))
    for name, table in (("straight", filtered), ("reversed", tmp_path / "turned")):
        audit(aligned, table, tmp_path / name, tmp_path / f"{name}.html")
    straight, reverse = (Table(tmp_path / name, "audit") for name in ("straight", "reversed"))
    assert straight.manifest.shards == reverse.manifest.shards
    records = [FindingsRecord.read(tmp_path / name / "data.json") for name in ("straight", "reversed")]
    assert records[0].counts.filter_reasons == {"low_score": 1}
    assert records[0].model_copy(update={"settings": records[1].settings}) == records[1]  # they name the filter's table


def test_hostile_input(people: People, tmp_path: Path) -> None:
    images = [
        *photos(people, "s1", "s5"),
        *[Photo(HOSTILE, f"{HOSTILE}{number}", data) for number, data in enumerate(people["s9"][:4])],
        Photo(HOSTILE, "copy", people["s9"][0]),
        Photo("s1", "junk", people["s1"][8], crop=b"\x89PNG\r\n\x1a\n no picture"),
        Photo("s1", "empty", people["s1"][9], crop=b""),
    ]
    _, found = audited(tmp_path, images)
    assert dropped(found) == dict.fromkeys(("s1/junk", "s1/empty"), "unreadable")
    page = (tmp_path / "page.html").read_text()
    tags = Page(page).tags
    assert not {name for name, _ in tags} & {"iframe", "object", "embed"}
    assert page.count("<script") == 1 and f"<script>{PAGE_LINKS.script}</script>" in page
    assert {str(attributes["src"])[:5] for _, attributes in tags if "src" in attributes} == {"data:"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "unreadable" in page and "no picture" in page


@pytest.fixture(scope="module")
def plain_tables(people: People, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tables(tmp_path_factory.mktemp("plain"), photos(people, "s1", "s5", "s9"))


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(
    plain_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubeface.audit.step.sface", sface)
    for name, threads in (("a", 1), ("b", 3)):
        monkeypatch.setattr("kubeface.audit.images.cpu_limit", lambda threads=threads: threads)
        audit(*plain_tables, tmp_path / name, tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(["data.json", "manifest.json", "rejected.csv", "shard-00000.parquet", *FINDINGS])
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_drift_is_measured_and_stops_the_run(people: People, plain_tables: tuple[Path, Path], tmp_path: Path) -> None:
    def run(tables: tuple[Path, Path], name: str, **options: Any) -> AuditResult:
        return audit(*tables, tmp_path / name, tmp_path / f"{name}.html", AuditOptions(**options))

    assert run(plain_tables, "first").max_drift_found == 0
    # Promote keeps the record of gather in the same file.
    data = json.loads((tmp_path / "first" / "data.json").read_text()) | {"shards": [], "erasure": {}}
    (tmp_path / "data.json").write_text(json.dumps(data))
    previous = {"previous": str(tmp_path / "data.json")}
    waiting = {"max_drift": 0.25, "on_drift": "retrain"}
    assert run(plain_tables, "same", **previous).max_drift_found == 0
    assert run(plain_tables, "new", **waiting).decision == "train"  # there is no earlier run
    assert run(plain_tables, "wait", **previous, **waiting).decision == "keep"
    blurred = write_tables(tmp_path / "now", photos(people, "s1", "s5", "s9"), sharpness=5.0)
    result = run(blurred, "warned", **previous, max_drift=0.25)
    assert result.max_drift_found > 1 and result.decision == "train"
    assert run(blurred, "go", **previous, **waiting).decision == "train"
    drift = FindingsRecord.read(tmp_path / "warned" / "data.json").drift
    assert drift.compared and drift.exceeded and drift.worst == "sharpness"
    assert drift.features["score"] == drift.features["embedding"] == 0
    with pytest.raises(KubefaceError, match=r"sharpness drifted by .* max_drift is 0\.25"):
        run(blurred, "stop", **previous, max_drift=0.25, on_drift="stop")
    assert (tmp_path / "stop" / "data.json").is_file() and "above the limit" in (tmp_path / "stop.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not what this release reads"),
        ('{"images": 3}', "features is missing: give it; embedding_mean is missing"),
        ('{"features": {}}', "embedding_mean is missing"),
        ('{"features": {"x": 3}, "embedding_mean": []}', r"features\.x is 3"),
        ('{"features": {"x": {}}, "embedding_mean": []}', r"features\.x\.label is missing"),
    ],
)
def test_a_file_that_is_no_audit_record_is_refused(
    plain_tables: tuple[Path, Path], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "data.json").write_text(text)
    options = AuditOptions(previous=str(tmp_path / "data.json"))
    with pytest.raises(KubefaceError, match=f"^previous: .*{message}.*give the data.json of an audit"):
        audit(*plain_tables, tmp_path / "out", tmp_path / "page.html", options)


def test_wrong_tables_and_evaluation_sets_are_named(
    plain_tables: tuple[Path, Path], people: People, tmp_path: Path
) -> None:
    aligned, filtered = plain_tables
    _, other = write_tables(tmp_path, photos(people, "s1", count=2))
    for verdicts, sets, message in (
        (other, "", r"says nothing of image .*: run filter on this table"),
        (filtered, "/nowhere", "/nowhere is not a folder"),
    ):
        with pytest.raises(KubefaceError, match=message):
            audit(aligned, verdicts, tmp_path / "out", tmp_path / "page.html", AuditOptions(evaluation_sets=sets))
        assert not (tmp_path / "out").exists() and not (tmp_path / "page.html").exists()


def test_command_line(plain_tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", f"--aligned={plain_tables[0]}", f"--filtered={plain_tables[1]}", f"--out={tmp_path / 'out'}"]
    main([*arguments, f"--html={tmp_path / 'page.html'}", "--suspects=drop"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows_in"] == 15 and figures["decision"] == "train" and figures["seconds"] >= 0
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, f"--html={tmp_path / 'page.html'}", "--on-leak=perhaps"])
    assert "perhaps" in capsys.readouterr().err


def test_the_component_returns_the_decision(plain_tables: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"))
    for table, name in zip(plain_tables, ("aligned", "filtered"), strict=True):
        shutil.copytree(table, tmp_path / "gathered" / name)
    (tmp_path / "gathered" / "data.json").write_text("{}")
    paths = {"gathered": tmp_path / "gathered", "audited": tmp_path / "out", "data": tmp_path / "p"}
    artifacts: dict[str, Any] = {name: SimpleNamespace(path=str(path)) for name, path in paths.items()}
    audit(*plain_tables, tmp_path / "first", tmp_path / "first.html")
    options = {"on_drift": "retrain", "max_drift": 0.25, "previous": str(tmp_path / "first" / "data.json")}
    assert component.python_func(metrics=metrics, options=options, **artifacts) == "keep"
    assert metrics.metadata["rows_in"] == 15 and (tmp_path / "p").is_file()
    assert (tmp_path / "out" / "gathered" / "data.json").read_text() == "{}"
    for left in (tmp_path / "metrics", tmp_path / "out" / STEP_FILE):
        assert json.loads(left.read_text())["decision"] == "keep"
