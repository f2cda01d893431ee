"""Reading tables in tests, and what a row needs that no test is about."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubeface.storage.folders import read_json
from kubeface.tables.table import Row, Table, TableWriter

HASHES: Mapping[str, Any] = {"content": "0" * 16, "phash": "0" * 16}
EMPTY_IMAGE: Mapping[str, Any] = {"image": b"", "width": 1, "height": 1, **HASHES}
DETECTED: Mapping[str, Any] = {"landmarks": [0.0] * 10, "det_score": 1.0, "det_box": [0.0] * 4}
# A verdict of the filter.
JUDGED: Mapping[str, Any] = {
    "kept": True,
    "score": 1.0,
    "face_size": 50.0,
    "faces": 1,
    "sharpness": 9.0,
    "turn": 0.0,
    "agreement": 1.0,
}


def write_rows(out: Path, kind: str, rows: Iterable[Row], settings: Mapping[str, Any] | None = None) -> Path:
    """Writes a table of these rows; returns its folder."""
    with TableWriter(out, kind, "test 1", settings or {}) as writer:
        for row in rows:
            writer.add(row)
    return out


def open_table(folder: Path) -> Table:
    """A table of whichever kind its manifest names."""
    return Table(folder, read_json(folder / "manifest.json")["kind"])


def rows_of(table: Path | Table, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All rows of a table, or of the one in a folder, in stored order, with all columns or the named ones."""
    opened = table if isinstance(table, Table) else open_table(table)
    return [row for rows in opened.row_groups(columns) for row in rows]


def splitting(table: Path, out: Path, parts: dict[str, str]) -> Path:
    """A split table of an aligned one.

    Args:
        parts: for each person the letters of what becomes of the images: t(rain), v(al), h(eldout); the rest is
            excluded.
    """
    words = {"t": "train", "v": "val", "h": "heldout"}
    left = {name: list(letters) for name, letters in parts.items()}
    rows = rows_of(table, ["image_id", "identity"])
    for row in rows:
        letters = left.get(row["identity"], [])
        row["split"] = words[letters.pop(0)] if letters else "excluded"
    return write_rows(out, "split", rows)


def reasons(folder: Path) -> dict[str, str]:
    """Why each image of rejected.csv was left out, by source."""
    return {row.source: row.reason for row in open_table(folder).rejected()}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of a folder's files by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
