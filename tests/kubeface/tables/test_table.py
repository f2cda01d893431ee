"""Tables on disk: round trips, equal bytes, damaged files, failing writers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeface.runtime.errors import KubefaceError
from kubeface.tables import table as table_module
from kubeface.tables.table import ROW_GROUP_ROWS, Table, TableWriter
from tests.support.tables import contents, rows_of, write_rows


def face(number: int, size: int = 40) -> dict[str, Any]:
    return {
        "image_id": f"{number:016x}",
        "identity": f"person {number % 7}",
        "source": f"person {number % 7}/{number}.png",
        "given_split": (None, "train", "val")[number % 3],
        "groups": '{"camera": "door"}' if number % 3 else None,
        "image": bytes((number * 31 + index * index) % 256 for index in range(size)),
        "width": number + 1,
        "height": 2 * number + 1,
        "content": f"{number:016x}",
        "phash": "0" * 16,
    }


def write(out: Path, rows: list[dict[str, Any]], settings: dict[str, Any] | None = None) -> Path:
    return write_rows(out, "faces", rows, settings)


def test_rows_round_trip_in_order(tmp_path: Path) -> None:
    rows = [face(number) for number in (5, 3, 299, *range(100, 300))]
    folder = write(tmp_path / "faces", rows, {"seed": 3})
    assert rows_of(folder) == rows
    table = Table(folder, "faces")
    assert (table.rows, table.identities) == (203, 7)
    assert table.manifest.producer == "test 1"
    assert table.manifest.settings == {"seed": 3}
    assert table.columns(["image_id", "width"]).to_pylist() == [
        {"image_id": row["image_id"], "width": row["width"]} for row in rows
    ]


def test_only_nullable_fields_may_be_absent(tmp_path: Path) -> None:
    row = face(1)
    del row["given_split"]
    assert rows_of(write(tmp_path / "faces", [row])) == [row | {"given_split": None}]
    del row["image"]
    with pytest.raises(ValueError, match="image"):
        write(tmp_path / "other", [row])
    assert not (tmp_path / "other").exists()


@settings(max_examples=15)
@given(
    images=st.lists(st.binary(max_size=60), max_size=20),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=20, max_size=20),
)
def test_bytes_and_names_round_trip(
    tmp_path_factory: pytest.TempPathFactory, images: list[bytes], names: list[str]
) -> None:
    rows = [face(index) | {"image": image, "identity": names[index]} for index, image in enumerate(images)]
    folder = write(tmp_path_factory.mktemp("any") / "faces", rows)
    assert rows_of(folder) == rows
    assert Table(folder, "faces").identities == len({row["identity"] for row in rows})


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    rows = [face(number) for number in range(300)]
    first, second = contents(write(tmp_path / "a", rows)), contents(write(tmp_path / "b", rows))
    assert first == second
    assert set(first) == {"manifest.json", "rejected.csv", "shard-00000.parquet"}
    assert contents(write(tmp_path / "c", rows[::-1])) != first
    assert Table(tmp_path / "a", "faces").sha256 == Table(tmp_path / "b", "faces").sha256
    assert Table(tmp_path / "a", "faces").sha256 != Table(tmp_path / "c", "faces").sha256


def test_row_groups_are_small_and_images_are_not_compressed_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", [face(number, 500) for number in range(3 * ROW_GROUP_ROWS + 5)])
    with pq.ParquetFile(folder / "shard-00000.parquet") as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [128, 128, 128, 5]
    for group in groups:
        columns = [group.column(index) for index in range(group.num_columns)]
        codecs = {column.path_in_schema: column.compression for column in columns}
        assert codecs.pop("image") == "UNCOMPRESSED"
        assert set(codecs.values()) == {"ZSTD"}
    assert [len(group) for group in Table(folder, "faces").row_groups(["image_id"])] == [128, 128, 128, 5]


def test_many_rows_spread_over_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "SHARD_BYTES", 100_000)
    rows = [face(number, 400) for number in range(700)]
    folder = write(tmp_path / "faces", rows)
    shards = Table(folder, "faces").manifest.shards
    assert [shard.name for shard in shards] == ["shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"]
    assert [shard.rows for shard in shards] == [256, 256, 188]
    assert rows_of(folder) == rows
    assert Table(folder, "faces").columns(["width"])["width"].to_pylist() == [row["width"] for row in rows]


def test_empty_table(tmp_path: Path) -> None:
    table = Table(write(tmp_path / "faces", []), "faces")
    assert (table.rows, list(table.row_groups()), table.columns(["identity"]).num_rows) == (0, [], 0)


def test_rejected_images_are_sorted_and_take_one_line_each(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "faces", "faces", "test 1", {}) as writer:
        writer.reject("z/1.jpg", "unreadable", "OSError:\n  cut\r\noff,\ttwice")
        writer.reject("a/2.jpg", "empty_file")
        writer.reject("a/1, really.jpg", "unreadable", 'said "no"')
        assert writer.rejected == {"empty_file": 1, "unreadable": 2}
    assert (tmp_path / "faces" / "rejected.csv").read_text() == (
        "source,reason,detail\n"
        '"a/1, really.jpg",unreadable,"said ""no"""\n'
        "a/2.jpg,empty_file,\n"
        'z/1.jpg,unreadable,"OSError: cut off, twice"\n'
    )
    table = Table(tmp_path / "faces", "faces")
    assert [row.source for row in table.rejected()] == ["a/1, really.jpg", "a/2.jpg", "z/1.jpg"]
    assert table.manifest.rejected == {"empty_file": 1, "unreadable": 2}


def test_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk"), TableWriter(tmp_path / "faces", "faces", "test 1", {}) as writer:
        for number in range(200):
            writer.add(face(number))
        raise RuntimeError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_writer_that_fails_at_the_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, value: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(table_module, "write_json", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path / "faces", [face(1)])
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from kubeface.tables.table import TableWriter
with TableWriter(Path(sys.argv[1]), "filter", "test 1", {}) as writer:
    for number in range(4000):
        row = {"score": 1.0, "face_size": 9.0, "faces": 1, "sharpness": 9.0, "turn": 0.0, "agreement": 1.0}
        writer.add(row | {"image_id": str(number), "kept": True})
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_killed_writer_leaves_no_table_and_the_next_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "faces"
    done = subprocess.run([sys.executable, "-c", KILLED, str(out)], cwd=Path(__file__).parents[3])
    assert done.returncode == -9
    assert not out.exists()
    left = [path.name for path in tmp_path.rglob("*")]
    assert "shard-00000.parquet" in left  # it died in the middle of its work
    assert "manifest.json" not in left
    with pytest.raises(KubefaceError, match=r"manifest\.json is missing"):
        Table(out, "filter")
    write(out, [face(1)])
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
    assert set(contents(out)) == {"manifest.json", "rejected.csv", "shard-00000.parquet"}
    assert rows_of(out) == [face(1)]


def test_changed_byte_of_a_shard_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", [face(number) for number in range(50)])
    shard = folder / "shard-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(KubefaceError, match=r"shard-00000\.parquet is corrupt"):
        Table(folder, "faces")


def test_missing_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "SHARD_BYTES", 10_000)
    folder = write(tmp_path / "faces", [face(number, 300) for number in range(300)])
    (folder / "shard-00001.parquet").unlink()
    with pytest.raises(KubefaceError, match=r"shard-00001\.parquet is missing"):
        Table(folder, "faces")


OTHER_VERSION = (
    '{"kind": "faces", "schema_version": 9, "producer": "", "settings": {}, "rows": 0, "identities": 0, "shards": []}'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, r"faces/manifest\.json is not") for text in ("", "{", '{"kind": "faces"', "[]", '"faces"')),
        ('{"kind": "faces", "schema_version": 1}', r"faces/manifest\.json is not"),
        (OTHER_VERSION, "faces has schema version 9, this release reads 3"),
        (OTHER_VERSION.replace("faces", "filter"), "faces holds a 'filter' table where 'faces' is needed"),
    ],
)
def test_invalid_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = write(tmp_path / "faces", [face(1)])
    (folder / "manifest.json").write_text(text)
    with pytest.raises(KubefaceError, match=message):
        Table(folder, "faces")


def test_finished_table_is_not_overwritten(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", [face(1)])
    with pytest.raises(KubefaceError, match="faces exists already"):
        write(folder, [face(2)])
    assert rows_of(folder) == [face(1)]
