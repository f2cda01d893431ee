"""Listings: tables of what is known of images, kept compact in memory.

A table has a column `path` (CelebA's have `image_id`) and optionally `identity`, `split` and further columns. CelebA's
own files are read as they are: list_attr_celeba, list_eval_partition and identity_CelebA, as .txt or .csv.
"""

import csv
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.packed_lists import FileList, plain_name
from kubeface.storage.downloads import fetch, split_checksum

SUFFIXES = (".csv", ".parquet", ".txt")
SPLITS = ("train", "val", "test")
PATH, IDENTITY, SPLIT = "path", "identity", "split"
CELEBA_NAMES = {"image_id": PATH, "partition": SPLIT}  # columns of its CSV files
CELEBA_SPLITS = {"0": "train", "1": "val", "2": "test"}  # by CelebA's README on list_eval_partition.txt
BATCH_ROWS = 4096  # rows of a Parquet file that are Python objects at a time


class Column:
    """The values of a column by row, each distinct text stored once; an empty text is no value."""

    def __init__(self) -> None:
        self._texts = {"": 0}
        self._values: list[str] = []
        self._codes = array("i")

    def set(self, row: int, text: str) -> bool:
        """Sets a row's value; False where it has another one already."""
        while len(self._codes) <= row:
            self._codes.append(0)
        code = self._texts.setdefault(text, len(self._texts))
        if code and self._codes[row] not in (0, code):
            return False
        self._codes[row] = code or self._codes[row]
        return True

    def of(self, row: int) -> str:
        if len(self._values) != len(self._texts):
            self._values = list(self._texts)
            if {"", "-1"} <= self._texts.keys() <= {"", "1", "-1"}:
                self._values[self._texts["-1"]] = "0"  # labels are written in one way
        return self._values[self._codes[row]] if row < len(self._codes) else ""


class Listing:
    """What is known of images, by name and column; CelebA's 200,000 images with 40 labels take 70 MB.

    Args:
        uris: .csv, .parquet or .txt files (paths, s3:// or https:// with #sha256=…), separated by spaces. Rows of the
            same image are joined. Names are relative to the source.

    Raises:
        KubefaceError: a file cannot be read or lacks the column path, or a row has no name, no identity where there is
            that column, an unknown split, or contradicts an earlier row.
    """

    def __init__(self, uris: str) -> None:
        self._rows: dict[str, int] = {}
        self._columns: dict[str, Column] = {}
        for uri in [uris] if Path(uris).exists() else uris.split():
            try:
                self._add(uri, _records(uri, fetch(uri)))
            except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
                raise KubefaceError(f"{uri} is not a readable listing: {' '.join(str(error).split())}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    @property
    def names_people(self) -> bool:
        return IDENTITY in self._columns

    def of(self, name: str) -> dict[str, str] | None:
        """The values of an image that are not empty, by column; None where it is not listed."""
        row = self._rows.get(name)
        if row is None:
            return None
        return {name: text for name, column in self._columns.items() if (text := column.of(row))}

    def match(self, files: FileList) -> list[str]:
        """Resolves names without a folder to the file of the source that has this name in whichever folder.

        Returns:
            The listed names, sorted, for which the source has no file.

        Raises:
            KubefaceError: two files have the name, or another row contradicts it.
        """
        missing = self._rows.keys() - {name for name in files.names() if name in self._rows}
        resolved: dict[str, str] = {name: "" for name in missing if "/" not in name}
        for file in files.names() if resolved else ():
            last = file.rpartition("/")[2]
            if last in resolved:
                require(
                    not resolved[last],
                    f"the listing names '{last}', and {resolved[last]} and {file} are both called so: write the path",
                )
                resolved[last] = file
        for name, file in resolved.items():
            if file:
                missing.discard(name)
                row = self._rows.pop(name)
                other = self._rows.setdefault(file, row)
                if other != row:
                    values = {column_name: column.of(row) for column_name, column in self._columns.items()}
                    self._set(other, values, f"the listing says something else of '{name}' than of '{file}': keep one")
        return sorted(missing)

    def _add(self, uri: str, records: Iterator[tuple[int, Sequence[str]]]) -> None:
        """Adds the rows of a file, the first of which is the header."""
        _, header = next(records, (0, []))
        names = list(header) if PATH in header else [CELEBA_NAMES.get(name, name) for name in header]
        require(PATH in names, f"{uri} has no column path: it says which image a row is of")
        for name in names:
            if name != PATH:
                self._columns.setdefault(name, Column())
        has_split_codes, empty = SPLIT in names and SPLIT not in header, True
        for number, texts in records:
            require(
                len(texts) <= len(names),
                f"{uri} row {number} has more fields than the head has columns: quote what holds a comma",
            )
            values = dict.fromkeys(names, "") | {name: text.strip() for name, text in zip(names, texts, strict=False)}
            path = values.pop(PATH)
            require(
                bool(path and values.get(IDENTITY, path)),
                f"{uri} row {number} names no path or no identity: complete it",
            )
            if has_split_codes:
                values[SPLIT] = CELEBA_SPLITS.get(values[SPLIT], values[SPLIT])
            require(
                values.get(SPLIT, "") in ("", *SPLITS),
                f"{uri} row {number} has split '{values.get(SPLIT)}': use {', '.join(SPLITS)} or nothing",
            )
            row = self._rows.setdefault(plain_name(path), len(self._rows))
            self._set(row, values, f"{uri} row {number} says something else of '{path}' than a row before it: keep one")
            empty = False
        require(not empty, f"{uri} lists no image")

    def _set(self, row: int, values: dict[str, str], error: str) -> None:
        """Sets values of a row by column; fails with the error where it has others."""
        for name, text in values.items():
            require(self._columns[name].set(row, text), error)


def _records(uri: str, path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Yields the header of a table, then its rows, each with its row number in the file."""
    name = split_checksum(uri)[0].lower()
    if name.endswith(".parquet"):
        return _parquet(path)
    return _celeba(uri, path) if name.endswith(".txt") else _csv(path)


def _parquet(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        yield 0, names
        number = 0
        for batch in file.iter_batches(BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, ["" if row[name] is None else str(row[name]) for name in names]


def _csv(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        yield from enumerate((row for row in csv.reader(file) if row), 1)


def _celeba(uri: str, path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """CelebA's text files: a count, label names and rows of labels; or rows of a name and a number without header."""
    with open(path, encoding="utf-8-sig") as file:
        lines = ((number, line.split()) for number, line in enumerate(file, 1) if line.strip())
        first = next(lines, (0, []))
        count = int(first[1][0]) if len(first[1]) == 1 and first[1][0].isdecimal() else None
        if count is None:
            file_name = split_checksum(uri)[0].rpartition("/")[2].lower()
            second = "partition" if "partition" in file_name else IDENTITY
            require(
                second in file_name and len(first[1]) == 2,
                f"{uri} is none of CelebA's text files (list_attr…, …partition…, identity…): give a table as CSV",
            )
            columns = ["image_id", second]
            yield 0, columns
            yield first
        else:
            number, labels = next(lines, (0, []))
            columns = ["image_id", *labels]
            yield number, columns
        listed = 0
        for number, row in lines:
            require(len(row) == len(columns), f"{uri} row {number} has {len(row)} fields for {len(columns)} columns")
            listed += 1
            yield number, row
        require(count in (None, listed), f"{uri} says {count} images and lists {listed}: it is cut off, fetch it again")
