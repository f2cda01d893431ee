"""Listings: what tables say of images, held as numbers.

A table has a column `path` (or `image_id`, as CelebA's) and any of `identity`, `split` and others. CelebA's own files
are read as they are: list_attr_celeba, list_eval_partition and identity_CelebA, as .txt or .csv.
"""

import csv
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.packed_lists import FileList, parts
from kubeface.storage.downloads import fetch, split_checksum

SUFFIXES = (".csv", ".parquet", ".txt")
SPLITS = ("train", "val", "test")
PATH, IDENTITY, SPLIT = "path", "identity", "split"
CELEBA_NAMES = {"image_id": PATH, "partition": SPLIT}  # heads of its CSV files
CELEBA_SPLITS = {"0": "train", "1": "val", "2": "test"}  # README of CelebA, on list_eval_partition.txt
BATCH_ROWS = 4096  # of a Parquet file, that are Python objects at a time


class Column:
    """The texts of a column by row, each different one held once; an empty text is none."""

    def __init__(self) -> None:
        self._texts = {"": 0}
        self._values: list[str] = []
        self._codes = array("i")

    def tell(self, row: int, text: str) -> bool:
        """Notes a row's text; false where it has another one already."""
        while len(self._codes) <= row:
            self._codes.append(0)
        code = self._texts.setdefault(text, len(self._texts))
        if code and self._codes[row] not in (0, code):
            return False
        self._codes[row] = code or self._codes[row]
        return True

    def of(self, row: int) -> str:
        """The text of a row."""
        if len(self._values) != len(self._texts):
            self._values = list(self._texts)
            if {"", "-1"} <= self._texts.keys() <= {"", "1", "-1"}:
                self._values[self._texts["-1"]] = "0"  # one way of writing a label
        return self._values[self._codes[row]] if row < len(self._codes) else ""


class Listing:
    """What is known of images, by name and column; of CelebA's 200,000 images with 40 labels it takes 70 MB.

    Args:
        uris: .csv, .parquet or .txt files (paths, s3:// or https:// with #sha256=…), divided by spaces, which may tell
            of the same images; their columns are joined. Names are relative to the source.

    Raises:
        KubefaceError: a file that cannot be read, lacks a column, has a row without a name (or without identity, where
            it has that column), with another split, or that says something else of an image than a row before it.
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
        """Whether a file has the column identity."""
        return IDENTITY in self._columns

    def of(self, name: str) -> dict[str, str] | None:
        """What is known of an image: texts that are not empty, by column; None where no file lists it."""
        row = self._rows.get(name)
        if row is None:
            return None
        return {name: text for name, column in self._columns.items() if (text := column.of(row))}

    def match(self, files: FileList) -> list[str]:
        """Gives the names without a folder that are no file's to the one file of a source whose last part they are.

        Returns:
            The names, sorted, that are no file's still.

        Raises:
            KubefaceError: two such files, or one of which another row says something else.
        """
        missing = self._rows.keys() - {name for name in files.names() if name in self._rows}
        loose: dict[str, str] = {name: "" for name in missing if "/" not in name}
        for file in files.names() if loose else ():
            last = file.rpartition("/")[2]
            if last in loose:
                require(
                    not loose[last],
                    f"the listing names '{last}', and {loose[last]} and {file} are both called so: write the path",
                )
                loose[last] = file
        for name, file in loose.items():
            if file:
                missing.discard(name)
                row = self._rows.pop(name)
                other = self._rows.setdefault(file, row)
                told = {name: column.of(row) for name, column in self._columns.items()}
                if other != row:
                    self._tell(other, told, f"the listing says something else of '{name}' than of '{file}': keep one")
        return sorted(missing)

    def _add(self, uri: str, records: Iterator[tuple[int, Sequence[str]]]) -> None:
        """Adds the rows of a file, the first of which is its head."""
        _, head = next(records, (0, []))
        names = list(head) if PATH in head else [CELEBA_NAMES.get(name, name) for name in head]
        require(PATH in names, f"{uri} has no column path: it says which image a row is of")
        for name in names:
            if name != PATH:
                self._columns.setdefault(name, Column())
        coded, found = SPLIT in names and SPLIT not in head, False
        for number, texts in records:
            require(
                len(texts) <= len(names),
                f"{uri} row {number} has more fields than the head has columns: quote what holds a comma",
            )
            known = dict.fromkeys(names, "") | {name: text.strip() for name, text in zip(names, texts, strict=False)}
            path = known.pop(PATH)
            require(
                bool(path and known.get(IDENTITY, path)),
                f"{uri} row {number} names no path or no identity: complete it",
            )
            if coded:
                known[SPLIT] = CELEBA_SPLITS.get(known[SPLIT], known[SPLIT])
            require(
                known.get(SPLIT, "") in ("", *SPLITS),
                f"{uri} row {number} has split '{known.get(SPLIT)}': use {', '.join(SPLITS)} or nothing",
            )
            row = self._rows.setdefault(_plain(path), len(self._rows))
            self._tell(row, known, f"{uri} row {number} says something else of '{path}' than a row before it: keep one")
            found = True
        require(found, f"{uri} lists no image")

    def _tell(self, row: int, known: dict[str, str], otherwise: str) -> None:
        """Notes what is known of a row; an error where it is known otherwise."""
        for name, text in known.items():
            require(self._columns[name].tell(row, text), otherwise)


def _plain(name: str) -> str:
    """A name without `./` and doubled slashes, as sources have them."""
    return ("/" if name.startswith("/") else "") + "/".join(parts(name))


def _records(uri: str, path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """The head of a table, then its rows, each with the number that says where it stands in the file."""
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
    """CelebA's text files: a count, names and rows of labels; or rows of a name and a number without a head."""
    with open(path, encoding="utf-8-sig") as file:
        lines = ((number, line.split()) for number, line in enumerate(file, 1) if line.strip())
        first = next(lines, (0, []))
        count = int(first[1][0]) if len(first[1]) == 1 and first[1][0].isdecimal() else None
        if count is None:
            said = split_checksum(uri)[0].rpartition("/")[2].lower()
            second = "partition" if "partition" in said else IDENTITY
            require(
                second in said and len(first[1]) == 2,
                f"{uri} is none of CelebA's text files (list_attr…, …partition…, identity…): give a table as CSV",
            )
            head = (0, ["image_id", second])
            yield from (head, first)
        else:
            head = next(lines, (0, []))
            head = head[0], ["image_id", *head[1]]
            yield head
        read = 0
        for number, row in lines:
            require(len(row) == len(head[1]), f"{uri} row {number} has {len(row)} fields for {len(head[1])} columns")
            read += 1
            yield number, row
        require(count in (None, read), f"{uri} says {count} images and lists {read}: it is cut off, fetch it again")
