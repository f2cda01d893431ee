"""Gather: the same result for any number of shards; tables that do not belong together are refused."""

import csv
import io
import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest

from kubeface.cli import main
from kubeface.faces.images import decode_rgb, encode_png
from kubeface.gather.options import GatherOptions
from kubeface.gather.step import GatherResult, gather
from kubeface.ingest.catalogue import shard_number
from kubeface.ingest.options import IngestOptions
from kubeface.ingest.step import ingest, plan_shards
from kubeface.records.data import DataRecord, ShardStepsRecord, StepTotals, gathered_tables
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.keyed_rng import rank
from kubeface.tables.manifest import Settings
from kubeface.tables.resolution_pairs import partners
from kubeface.tables.table import Table, TableWriter
from tests.support.images import scaled, write_files
from tests.support.json_files import edit
from tests.support.tables import DETECTED, JUDGED, contents, rows_of, write_rows

PEOPLE, IMAGES = 9, 40
BLACK = {f"{person}/7.png": encode_png(np.zeros((8, 8, 3), np.uint8)) for person in ("ann", "bob")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nine people × 40 pictures of one colour each, more than a row group, and two files that are no images."""
    pictures = {
        f"p{person}/{number}.png": encode_png(np.full((8, 8, 3), (20 * person, 5 * number, 99), np.uint8))
        for person in range(PEOPLE)
        for number in range(IMAGES)
    }
    others = {"p1/notes.txt": b"no image", "p7/empty.jpg": b""}
    return write_files(tmp_path_factory.mktemp("source"), pictures | others)


def write_aligned_and_filtered(faces: Path, aligned: Path, filtered: Path) -> None:
    """Stands for align and filter: every seventh image has no face, p3's are all rejected, and every fifth."""
    table = Table(faces, "faces")
    with TableWriter(aligned, "aligned", "align test", {"faces": table.sha256, "detector": "test"}) as crops:
        for row in rows_of(table):
            if int(Path(row["source"]).stem) % 7 == 0:
                crops.reject(row["source"], "no_face")
            else:
                crops.add({**row, **DETECTED})
    made = Table(aligned, "aligned")
    settings: Settings = {"faces": table.sha256, "aligned": made.sha256, "min_score": 0.9}
    with TableWriter(filtered, "filter", "filter test", settings) as verdicts:
        for row in rows_of(made):
            bad = row["identity"] == "p3" or int(Path(row["source"]).stem) % 5 == 0
            reason = "low_score" if bad else None
            verdicts.add({**JUDGED, "image_id": row["image_id"], "kept": not bad, "reason": reason})
            if bad:
                verdicts.reject(row["source"], "low_score")


def write_shards(source: str, root: Path, count: int, forget: str = "", seed: int = 4) -> dict[str, list[str]]:
    """The receipts of `count` shards by step."""
    receipts: dict[str, list[str]] = {"ingested": [], "aligned": [], "filtered": []}
    for shard in plan_shards(source, count, IngestOptions(forget=forget)).shards:
        folder = root / shard.partition("/")[0]
        figures = ingest(source, folder / "faces", IngestOptions(seed=seed), shard=shard)
        write_aligned_and_filtered(folder / "faces", folder / "aligned", folder / "filter")
        place, _, seen = shard.partition(" ")
        told = {"shard": place, "fingerprint": seen.partition(",")[0], "seconds": 1.25}
        for step, name in (("ingested", "faces"), ("aligned", "aligned"), ("filtered", "filter")):
            counts = {"rows_in": figures.rows_in, "rows_out": 1, "uri": str(folder / name)}
            receipts[step].append(json.dumps(told | counts))
    return receipts


def gather_all(receipts: dict[str, list[str]], root: Path, forget: str = "", previous: str = "") -> GatherResult:
    options = GatherOptions(forget=forget, previous=previous, seed=4)
    ingested, aligned, filtered = receipts.values()
    return gather(ingested, aligned, filtered, root / "data", root / "aligned", root / "filter", options)


@pytest.fixture(scope="module")
def three(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The receipts of three shards; nobody may change their tables."""
    return write_shards(source, tmp_path_factory.mktemp("three"), 3)


@pytest.fixture(scope="module")
def whole(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    with redirect_stderr(io.StringIO()) as printed:
        figures = gather_all(write_shards(source, root / "shards", 1), root)
    rows = PEOPLE * (IMAGES - 6)
    assert figures == GatherResult(
        rows_in=rows, rows_out=rows, identities=PEOPLE, rejected=0, shards=1, changed_shards=1, forgotten=0
    )
    assert "the filter rejects most images of 1 identities: p3" in printed.getvalue()
    return root


@pytest.mark.parametrize("count", [2, 40])
def test_result_does_not_depend_on_the_shards(source: str, whole: Path, tmp_path: Path, count: int) -> None:
    receipts = write_shards(source, tmp_path / "shards", count)
    assert len(receipts["aligned"]) == len({shard_number(f"p{person}", count) for person in range(PEOPLE)})
    gather_all({step: texts[::-1] for step, texts in receipts.items()}, tmp_path)  # in any order
    for folder in ("aligned", "filter"):
        assert contents(tmp_path / folder) == contents(whole / folder)
    assert (tmp_path / "data" / "rejected.csv").read_bytes() == (whole / "data" / "rejected.csv").read_bytes()


def test_merged_tables_and_lists(source: str, whole: Path) -> None:
    faces, verdicts = Table(whole / "aligned", "aligned"), Table(whole / "filter", "filter")
    sources = faces.columns(["source"])["source"].to_pylist()
    assert sources == sorted(sources, key=lambda name: rank(4, name))  # as ingest orders a whole source
    ids = faces.columns(["image_id"])["image_id"].to_pylist()
    assert ids == verdicts.columns(["image_id"])["image_id"].to_pylist()
    assert faces.manifest.settings == {"detector": "test"} and faces.manifest.rejected == {"no_face": 54}
    data = DataRecord.read(whole / "data" / "data.json")
    assert (data.images, data.identities, list(data.shards)) == (PEOPLE * IMAGES, PEOPLE, ["0/1"])
    assert data.rejected["ingest"] == {"empty_file": 1, "not_an_image": 1}
    assert data.rejected["align"] == {"no_face": 54}
    steps = ShardStepsRecord.read(whole / "data" / "steps.json")
    assert steps.ingest == StepTotals(rows_in=PEOPLE * IMAGES + 2, rows_out=1, seconds=1.25)
    with open(whole / "data" / "identities.csv", newline="") as file:
        people = list(csv.DictReader(file))
    assert people[0] == {"identity": "p3", "images": "34", "rejected": "34", "share": "1.0000"}
    assert len(people) == PEOPLE
    with open(whole / "data" / "rejected.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["source"] for row in listed if row["step"] == "ingest"] == ["p1/notes.txt", "p7/empty.jpg"]


def test_the_tables_may_lie_in_the_folder_of_the_lists(
    three: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    """As a pipeline keeps them: the folder is whole or absent with them."""
    out, wrong = tmp_path / "out", GatherOptions(seed=4, forget=str(tmp_path / "forget.txt"))
    Path(wrong.forget).write_text("p3\n")
    receipts = three["ingested"], three["aligned"], three["filtered"]
    with pytest.raises(KubefaceError, match="is to be forgotten"):
        gather(*receipts, out, *gathered_tables(out), wrong)
    assert not out.exists()
    gather(*receipts, out, *gathered_tables(out), GatherOptions(seed=4))
    for made, name in zip(gathered_tables(out), ("aligned", "filter"), strict=True):
        assert contents(made) == contents(whole / name)
    assert sorted(path.name for path in out.iterdir() if path.suffix) == sorted(contents(whole / "data"))


def test_changed_shards_are_recorded(source: str, tmp_path: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    gather_all(write_shards(str(copy), tmp_path / "one", 6), tmp_path / "first")
    (copy / "p5" / "99.png").write_bytes((copy / "p5" / "1.png").read_bytes())
    previous = tmp_path / "first" / "data" / "data.json"
    receipts = write_shards(str(copy), tmp_path / "two", 6)
    figures = gather_all(receipts, tmp_path / "second", previous=str(previous))
    data = DataRecord.read(tmp_path / "second" / "data" / "data.json")
    assert data.changed_shards == [f"{shard_number('p5', 6)}/6"] and figures.changed_shards == 1
    again = gather_all(receipts, tmp_path / "third", previous="no such file")
    assert again.changed_shards == again.shards  # a first run


def test_erasure_is_recorded(source: str, tmp_path: Path) -> None:
    (tmp_path / "forget.txt").write_text("p4\np6/8.png\n")
    receipts = write_shards(source, tmp_path / "shards", 3, forget=str(tmp_path / "forget.txt"))
    figures = gather_all(receipts, tmp_path, forget=str(tmp_path / "forget.txt"))
    data = DataRecord.read(tmp_path / "data" / "data.json")
    assert data.erasure.files_left_out == figures.forgotten == IMAGES + 1
    assert data.erasure.rows_found == 0
    assert data.erasure.rows_checked == Table(tmp_path / "aligned", "aligned").rows == 8 * 34 - 1
    assert len(data.erasure.marks) == 2


def test_image_that_should_be_erased_is_refused(three: dict[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "forget.txt").write_text("p4\n")
    with pytest.raises(KubefaceError, match=r"image \w+ is to be forgotten and is still there"):
        gather_all(three, tmp_path, forget=str(tmp_path / "forget.txt"))
    assert not any((tmp_path / name).exists() for name in ("data", "aligned", "filter"))


def test_erasure_by_the_column_person(source: str, tmp_path: Path) -> None:
    (tmp_path / "forget.txt").write_text("ann\n")
    rows = [f"p{person}/{number}.png,{'ann' if number == 8 else ''}" for person in (2, 3) for number in (8, 9, 10)]
    (tmp_path / "list.csv").write_text("\n".join(["path,person", *rows]))
    ingest(source, tmp_path / "faces", IngestOptions(listing=str(tmp_path / "list.csv")))
    write_aligned_and_filtered(tmp_path / "faces", tmp_path / "a", tmp_path / "f")
    receipts = {"ingested": ["faces"], "aligned": ["a"], "filtered": ["f"]}
    told = {step: [str(tmp_path / name) for name in names] for step, names in receipts.items()}
    with pytest.raises(KubefaceError, match="is to be forgotten and is still there"):
        gather_all(told, tmp_path, forget=str(tmp_path / "forget.txt"))
    options = IngestOptions(listing=str(tmp_path / "list.csv"), forget=str(tmp_path / "forget.txt"))
    figures = ingest(source, tmp_path / "less", options)
    assert (figures.rows_out, figures.forgotten) == (4, 2)


def test_tables_that_do_not_belong_together_are_refused(
    source: str, three: dict[str, list[str]], tmp_path: Path
) -> None:
    receipts = three
    with pytest.raises(KubefaceError, match="are different shards"):
        gather_all(receipts | {"filtered": receipts["filtered"][::-1]}, tmp_path)
    with pytest.raises(KubefaceError, match="gather was given 3, 3 and 2 tables"):
        gather_all(receipts | {"filtered": receipts["filtered"][:2]}, tmp_path)
    plain = {step: [json.loads(text)["uri"] for text in texts] for step, texts in receipts.items()}
    with pytest.raises(KubefaceError, match="was made from another table"):
        gather_all(plain | {"filtered": plain["filtered"][::-1]}, tmp_path)
    other = write_shards(source, tmp_path / "other", 3)
    aligned = Path(json.loads(other["aligned"][0])["uri"])
    edit(aligned / "manifest.json", lambda manifest: manifest["settings"].update(detector="another"))
    filtered, sha256 = Path(json.loads(other["filtered"][0])["uri"]), Table(aligned, "aligned").sha256
    edit(filtered / "manifest.json", lambda manifest: manifest["settings"].update(aligned=sha256))
    mixed = {step: [other[step][0], *receipts[step][1:]] for step in receipts}
    with pytest.raises(KubefaceError, match="made with different detector"):
        gather_all(mixed, tmp_path)


def test_no_face_at_all_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "in", BLACK)
    receipts = write_shards(str(tmp_path / "in"), tmp_path / "shards", 2)
    with pytest.raises(KubefaceError, match="no face was found in any of 2 images"):
        gather_all(receipts, tmp_path)


def test_whole_photographs_without_two_classes_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "in", BLACK)
    tables = {"ingested": str(tmp_path / "faces"), "aligned": str(tmp_path / "a"), "filtered": str(tmp_path / "f")}
    ingest(str(tmp_path / "in"), tmp_path / "faces")
    settings = {"faces": Table(tmp_path / "faces", "faces").sha256, "template": "whole_224"}
    for rows, said in ((0, "none of 2 images can be decoded: look at"), (1, "all 1 images are of one class: put the")):
        crops = [{**row, **DETECTED} for row in rows_of(tmp_path / "faces")[:rows]]
        write_rows(tmp_path / "a", "aligned", crops, settings)
        made = {"aligned": Table(tmp_path / "a", "aligned").sha256}
        write_rows(tmp_path / "f", "filter", [{**JUDGED, "image_id": crop["image_id"]} for crop in crops], made)
        with pytest.raises(KubefaceError, match=said):
            gather_all({step: [table] for step, table in tables.items()}, tmp_path)
        for name in ("a", "f"):
            shutil.rmtree(tmp_path / name)


def test_command_line(
    three: dict[str, list[str]], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = []
    for step, texts in three.items():
        flags += [f"--{step}", *(json.loads(text)["uri"] for text in texts)]
    for name in ("out", "out-aligned", "out-filtered"):
        flags += [f"--{name}", str(tmp_path / name)]
    main(["gather", *flags, "--seed", "4"])
    assert json.loads(capsys.readouterr().out)["identities"] == PEOPLE
    assert contents(tmp_path / "out-aligned") == contents(whole / "aligned")


def test_resolution_pairs_stay_side_by_side(orl: dict[str, bytes], tmp_path: Path) -> None:
    for person in range(1, 7):
        for number in range(1, 7):
            sharp = decode_rgb(orl[f"s{person}/{number}.pgm"])
            for folder, pixels in (("hr_images", sharp), ("vlr_images", scaled(sharp, 1 / 8))):
                write_files(tmp_path / "source" / folder, {f"s{person}/{number}.png": encode_png(pixels)})
    for parts in (1, 3):
        gather_all(write_shards(str(tmp_path / "source"), tmp_path / f"{parts} shards", parts), tmp_path / str(parts))
        table = Table(tmp_path / str(parts) / "aligned", "aligned")
        rows = rows_of(table)
        pairs = partners(table)
        assert len(pairs) == 36 and len({row["identity"] for row in rows[:8]}) > 1
        assert all(pairs[low["image_id"]] == high["image_id"] for high, low in zip(rows[::2], rows[1::2], strict=True))
    for name in ("aligned", "filter"):
        assert contents(tmp_path / "1" / name) == contents(tmp_path / "3" / name)
