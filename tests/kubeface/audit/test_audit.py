"""Audit on real faces: what is found, what is dropped, and what stays as it is."""

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kubeface.audit.step import audit
from kubeface.runtime.errors import KubefaceError
from kubeface.step_cli import main, parser_of
from kubeface.tables.table import Table, TableWriter
from tests.kubeface.audit.conftest import Photo, changed, write_tables

HOSTILE = "<script>alert(1)</script>"
FINDINGS = ("duplicates.csv", "leaks.csv", "pairs.csv", "suspects.csv")
People = dict[str, list[bytes]]


def photos(people: People, *names: str, count: int = 5) -> list[Photo]:
    return [Photo(name, f"{number}.pgm", data) for name in names for number, data in enumerate(people[name][:count])]


def audited(root: Path, images: list[Photo], **options: Any) -> dict[str, dict[str, Any]]:
    """The audit's rows by source, and its figures under ''."""
    aligned, filtered = write_tables(root, images)
    figures = audit(aligned, filtered, root / "out", root / "page.html", **options)
    return rows_of(root, images) | {"": figures}


def rows_of(root: Path, images: list[Photo]) -> dict[str, dict[str, Any]]:
    rows = [row for group in Table(root / "out", "audit").row_groups() for row in group]
    assert [row["identity"] for row in rows] == [photo.identity for photo in images]
    assert all(row["kept"] == (row["reason"] is None) for row in rows)
    return {f"{photo.identity}/{photo.name}": row for photo, row in zip(images, rows, strict=True)}


def findings(root: Path, name: str) -> list[dict[str, str]]:
    with open(root / "out" / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def data(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "out" / "data.json").read_text()))


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
    found = audited(tmp_path, copies)
    first = found["s1/0.pgm"]["image_id"]
    clustered = {name for name, row in found.items() if name and row["cluster"] == first}
    assert clustered == {"s1/0.pgm", "s1/exact.pgm", "s1/again.jpg", "s1/larger.png", "s1/cut.png"}
    assert all(row["cluster"] == row["image_id"] for name, row in found.items() if name and name not in clustered)
    assert all(row["kept"] for name, row in found.items() if name)
    figures = found[""]
    assert (figures["duplicate_clusters"], figures["duplicates"]) == (1, 4)
    assert figures["rows_in"] == figures["rows_out"] == len(copies)
    assert {row["source"] for row in findings(tmp_path, "duplicates.csv")} == clustered


def test_drop_leaves_the_largest_of_a_cluster(copies: list[Photo], tmp_path: Path) -> None:
    found = audited(tmp_path, copies, duplicates="drop")
    dropped = {name: row["reason"] for name, row in found.items() if name and not row["kept"]}
    assert dropped == dict.fromkeys(("s1/0.pgm", "s1/exact.pgm", "s1/again.jpg", "s1/cut.png"), "duplicate")
    assert Table(tmp_path / "out", "audit").manifest["rejected"] == {"duplicate": 4}


def test_pairs_of_resolutions_stay_together_and_are_not_dropped(people: People, tmp_path: Path) -> None:
    small = changed(people["s1"][0], lambda image: image.resize((46, 56), Image.Resampling.LANCZOS), 60)
    images = [
        *photos(people, "s5", "s9"),
        Photo("s1", "7.png", people["s1"][0], {"resolution": "high"}),
        Photo("s1", "7.jpg", small, {"resolution": "low"}, crop=b"not a picture"),
        Photo("s1", "8.png", people["s1"][3], {"resolution": "high"}),
        Photo("s5", "7.png", people["s5"][8], {"resolution": "high"}),
    ]
    found = audited(tmp_path, images, duplicates="drop")
    assert found["s1/7.jpg"]["cluster"] == found["s1/7.png"]["cluster"] == found["s1/7.png"]["image_id"]
    assert found["s1/7.jpg"]["reason"] == "unreadable" and found["s1/7.png"]["kept"]
    assert found["s1/8.png"]["cluster"] != found["s1/7.png"]["cluster"] != found["s5/7.png"]["cluster"]


@pytest.mark.parametrize("change", ["exact", "again"])
def test_a_photograph_under_two_names_is_dropped(people: People, tmp_path: Path, change: str) -> None:
    copy = people["s5"][0] if change == "exact" else changed(people["s5"][0], lambda image: image, 92)
    found = audited(tmp_path, [*photos(people, "s1", "s5", "s9"), Photo("s9", "wrong.jpg", copy)])
    dropped = {name: row["reason"] for name, row in found.items() if name and not row["kept"]}
    assert dropped == {"s5/0.pgm": "same_photo_two_names", "s9/wrong.jpg": "same_photo_two_names"}
    assert found["s5/0.pgm"]["cluster"] == found["s9/wrong.jpg"]["cluster"]
    assert "One photograph under several names <span" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("suspects", ["keep", "drop"])
def test_one_person_under_two_names(people: People, tmp_path: Path, suspects: str) -> None:
    split = [Photo("twin", f"{number}.pgm", data) for number, data in enumerate(people["s5"][6:])]
    found = audited(tmp_path, [*photos(people, "s1", "s5", "s9"), *split], suspects=suspects)
    persons = {row["identity"]: row["person"] for name, row in found.items() if name}
    assert persons == {"s1": "s1", "s5": "s5", "twin": "s5", "s9": "s9"}
    pair = findings(tmp_path, "pairs.csv")
    assert [(row["left"], row["right"], row["person"]) for row in pair] == [("s5", "twin", "s5")]
    reasons = {row["identity"]: row["reason"] for name, row in found.items() if name}
    assert reasons["twin"] == ("looks_like_another" if suspects == "drop" else None)
    assert reasons["s5"] is None


@pytest.mark.parametrize("suspects", ["keep", "drop"])
def test_a_wrong_label_is_found(people: People, tmp_path: Path, suspects: str) -> None:
    images = [*photos(people, "s1", "s5", "s9"), Photo("s1", "swapped.pgm", people["s9"][7])]
    found = audited(tmp_path, images, suspects=suspects)
    (suspect,) = findings(tmp_path, "suspects.csv")
    assert (suspect["source"], suspect["near"]) == ("s1/swapped.pgm", "s9")
    assert float(suspect["cosine"]) < 0.25 < 0.6 < float(suspect["near_cosine"])
    assert found["s1/swapped.pgm"]["reason"] == ("far_from_identity" if suspects == "drop" else None)
    assert sum(row["reason"] is not None for name, row in found.items() if name) == (suspects == "drop")


def test_two_images_are_too_few_to_doubt_one(people: People, tmp_path: Path) -> None:
    images = [*photos(people, "s5", "s9"), Photo("s1", "a", people["s1"][0]), Photo("s1", "b", people["s13"][0])]
    assert audited(tmp_path, images)[""]["suspects"] == 0


def test_images_that_the_filter_rejects_do_not_count(people: People, tmp_path: Path) -> None:
    images = [*photos(people, "s1", "s5"), Photo("s1", "wrong", people["s9"][0], reason="low_score")]
    assert audited(tmp_path, images)[""]["suspects"] == 0
    assert data(tmp_path)["counts"]["filter_reasons"] == {"low_score": 1}


def test_the_filters_order_does_not_matter(people: People, tmp_path: Path) -> None:
    """A filter table of the same images in another order says the same of each."""
    images = [*photos(people, "s1", "s5"), Photo("s1", "wrong", people["s9"][0], reason="low_score")]
    aligned, filtered = write_tables(tmp_path, images)
    rows = [row for group in Table(filtered, "filter").row_groups() for row in group]
    with TableWriter(tmp_path / "turned", "filter", "test 1", {}) as turned:
        for row in reversed(rows):
            turned.add(row)
    for name, table in (("straight", filtered), ("reversed", tmp_path / "turned")):
        audit(aligned, table, tmp_path / name, tmp_path / f"{name}.html")
    straight, reverse = (Table(tmp_path / name, "audit") for name in ("straight", "reversed"))
    assert straight.manifest["shards"] == reverse.manifest["shards"]
    told = [json.loads((tmp_path / name / "data.json").read_text()) for name in ("straight", "reversed")]
    assert told[0]["counts"]["filter_reasons"] == {"low_score": 1}
    assert told[0] | {"settings": None} == told[1] | {"settings": None}  # which name the filter's table


class Tags(HTMLParser):
    """Tags of a page, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.loaded: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.loaded |= {str(value)[:5] for name, value in attrs if name == "src"}


def test_hostile_input(people: People, tmp_path: Path) -> None:
    images = [
        *photos(people, "s1", "s5"),
        *[Photo(HOSTILE, f"{HOSTILE}{number}", data) for number, data in enumerate(people["s9"][:4])],
        Photo(HOSTILE, "copy", people["s9"][0]),
        Photo("s1", "junk", people["s1"][8], crop=b"\x89PNG\r\n\x1a\n no picture"),
        Photo("s1", "empty", people["s1"][9], crop=b""),
    ]
    found = audited(tmp_path, images)
    assert {name: row["reason"] for name, row in found.items() if name and not row["kept"]} == {
        "s1/junk": "unreadable",
        "s1/empty": "unreadable",
    }
    page = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert not tags.seen & {"script", "iframe", "object", "embed"}
    assert tags.loaded == {"data:"} and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "unreadable" in page and "no picture" in page


@pytest.fixture(scope="module")
def plain_tables(people: People, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tables(tmp_path_factory.mktemp("plain"), photos(people, "s1", "s5", "s9"))


def test_the_same_input_gives_the_same_bytes(
    plain_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, threads in (("a", 1), ("b", 3)):
        monkeypatch.setattr("kubeface.audit.collect.cpu_limit", lambda threads=threads: threads)
        audit(*plain_tables, tmp_path / name, tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(["data.json", "manifest.json", "rejected.csv", "shard-00000.parquet", *FINDINGS])
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_drift_is_told_and_stops_the_run(people: People, plain_tables: tuple[Path, Path], tmp_path: Path) -> None:
    figures = audit(*plain_tables, tmp_path / "first", tmp_path / "first.html")
    assert figures["max_drift_found"] == 0
    previous = str(tmp_path / "first" / "data.json")
    assert audit(*plain_tables, tmp_path / "same", tmp_path / "p.html", previous=previous)["max_drift_found"] == 0
    waiting = {"max_drift": 0.25, "on_drift": "retrain"}
    assert audit(*plain_tables, tmp_path / "new", tmp_path / "p.html", **waiting)["train"]  # there is no earlier run
    assert not audit(*plain_tables, tmp_path / "wait", tmp_path / "p.html", previous=previous, **waiting)["train"]
    blurred = write_tables(tmp_path / "now", photos(people, "s1", "s5", "s9"), sharpness=5.0)
    told = audit(*blurred, tmp_path / "told", tmp_path / "p.html", previous=previous, max_drift=0.25)
    assert told["max_drift_found"] > 1 and told["train"]
    assert audit(*blurred, tmp_path / "go", tmp_path / "p.html", previous=previous, **waiting)["train"]
    drifted = json.loads((tmp_path / "told" / "data.json").read_text())["drift"]
    assert drifted["compared"] and drifted["exceeded"] and drifted["worst"] == "sharpness"
    assert drifted["features"]["score"] == drifted["features"]["embedding"] == 0
    with pytest.raises(KubefaceError, match=r"sharpness drifted by .* max_drift is 0\.25"):
        audit(
            *blurred, tmp_path / "stop", tmp_path / "s.html", previous=previous, max_drift=0.25, on_drift="stop"
        )  # fmt: skip
    assert (tmp_path / "stop" / "data.json").is_file() and "above the limit" in (tmp_path / "s.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_leak": "ignore"}, "on_leak is 'ignore': use one of drop, fail, warn"),
        ({"suspects": "no"}, "suspects is 'no'"),
        ({"duplicates": "keep"}, "duplicates is 'keep'"),
        ({"on_drift": "stop"}, "on_drift is 'stop' without a limit: give max_drift above 0"),
        ({"on_drift": "retrain"}, "on_drift is 'retrain' without a limit"),
        ({"max_drift": -1.0}, "max_drift is -1.0"),
        ({"far_below": 2.0}, "far_below is 2.0: it is a cosine"),
        ({"duplicate_bits": 9}, "duplicate_bits is 9"),
        ({"evaluation_sets": "/nowhere"}, "/nowhere is not a folder"),
    ],
)
def test_wrong_settings(
    plain_tables: tuple[Path, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:  # fmt: skip
    with pytest.raises(KubefaceError, match=message):
        audit(*plain_tables, tmp_path / "out", tmp_path / "page.html", **options)
    assert not (tmp_path / "out").exists() and not (tmp_path / "page.html").exists()


def test_a_previous_run_that_is_none(plain_tables: tuple[Path, Path], tmp_path: Path) -> None:
    previous = tmp_path / "data.json"
    for text, message in (("[]", "not the data.json of an audit"), ('{"features": {}}', "lacks a field")):
        previous.write_text(text)
        with pytest.raises(KubefaceError, match=message):
            audit(*plain_tables, tmp_path / "out", tmp_path / "page.html", previous=str(previous))


def test_tables_must_belong_together(plain_tables: tuple[Path, Path], people: People, tmp_path: Path) -> None:
    _, other = write_tables(tmp_path, photos(people, "s1", count=2))
    with pytest.raises(KubefaceError, match=r"says nothing of image .*: run filter on this table"):
        audit(plain_tables[0], other, tmp_path / "out", tmp_path / "page.html")


def test_command_line(
    plain_tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    options = {option for action in parser_of(audit)._actions for option in action.option_strings}
    assert {"--aligned", "--filtered", "--out", "--html", "--evaluation-sets", "--on-leak", "--max-drift"} <= options
    arguments = [f"--aligned={plain_tables[0]}", f"--filtered={plain_tables[1]}", f"--out={tmp_path / 'out'}"]
    main(audit, [*arguments, f"--html={tmp_path / 'page.html'}", "--suspects=drop"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows_in"] == 15 and figures["seconds"] >= 0
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(SystemExit, match="1"):
        main(audit, [*arguments, f"--html={tmp_path / 'page.html'}", "--on-leak=perhaps"])
    assert capsys.readouterr().err.startswith("error: on_leak is 'perhaps'")


def test_only_other_data_than_the_promoted_models_are_trained_on(
    plain_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    champion = tmp_path / "champion"
    champion.mkdir()
    for seen, train in ((Table(plain_tables[0], "aligned").sha256, False), ("f" * 64, True)):
        (champion / "model.json").write_text(json.dumps({"training": {"aligned": seen}}))
        out = tmp_path / f"out-{train}"
        asked = {"champion": str(champion)}
        assert audit(*plain_tables, out, tmp_path / "page.html", **asked)["train"] is train
        assert json.loads((out / "data.json").read_text())["unchanged"] is not train
    (champion / "model.json").write_text("{}")
    with pytest.raises(KubefaceError, match=r"model\.json does not say what the model was trained on"):
        audit(*plain_tables, tmp_path / "none", tmp_path / "page.html", **asked)
