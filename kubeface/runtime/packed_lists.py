"""Lists of files that take little memory: a million names are a hundred bytes each, and not a thousand."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CHUNK = 4096  # files that are Python objects at a time
_SCHEMA = pa.schema([("name", pa.large_binary()), ("size", pa.int64()), ("version", pa.large_binary())])


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below a source: its name relative to the source, its size in bytes and a version mark."""

    name: str
    size: int
    version: str


class FileList(Sequence[StoredFile]):
    """Files in the order of their names' bytes, held as columns; a name need not be UTF-8."""

    def __init__(self, columns: pa.Table) -> None:
        self._columns = columns

    @classmethod
    def of(cls, files: Iterable[StoredFile]) -> "FileList":
        """Sorts files, whatever order they come in; of several of one name the last counts."""
        return cls.ordered(files)[0]

    @classmethod
    def ordered(cls, files: Iterable[StoredFile]) -> tuple["FileList", NDArray[np.int64]]:
        """As `of`, and where in `files` each file of the list stood."""
        batches = [_SCHEMA.empty_table()]
        rest = iter(files)
        while chunk := list(islice(rest, CHUNK)):
            rows = [{"name": _bytes(f.name), "size": f.size, "version": _bytes(f.version)} for f in chunk]
            batches.append(pa.Table.from_pylist(rows, _SCHEMA))
        table = pa.concat_tables(batches)
        places = pc.sort_indices(table["name"])  # stable
        names = table["name"].take(places)
        if len(names) > 1:
            last = pc.not_equal(names[:-1], names[1:]).combine_chunks()
            places = places.filter(pa.concat_arrays([last, pa.array([True])]))
        found = cls(table.take(places).combine_chunks())
        del batches, table, names
        pa.default_memory_pool().release_unused()  # arrow keeps what the copies took
        return found, np.asarray(places, np.int64)

    def __len__(self) -> int:
        return int(self._columns.num_rows)

    @overload
    def __getitem__(self, place: int) -> StoredFile: ...
    @overload
    def __getitem__(self, place: slice) -> "FileList": ...
    def __getitem__(self, place: int | slice) -> "StoredFile | FileList":
        if isinstance(place, slice):
            return self.take(range(len(self))[place])
        name, size, version = (self._columns[column][place].as_py() for column in ("name", "size", "version"))
        return StoredFile(_text(name), size, _text(version))

    def __iter__(self) -> Iterator[StoredFile]:
        for batch in self._columns.to_batches(max_chunksize=CHUNK):
            for row in batch.to_pylist():
                yield StoredFile(_text(row["name"]), row["size"], _text(row["version"]))

    def name(self, place: int) -> str:
        return _text(self._columns["name"][place].as_py())

    def names(self) -> Iterator[str]:
        for chunk in self._columns.select(["name"]).to_batches(max_chunksize=CHUNK):
            yield from map(_text, chunk["name"].to_pylist())

    def place(self, name: str) -> int:
        """Where the file of this name is; the list's length and more, or another file's place, where there is none."""
        return bisect_left(range(len(self)), _bytes(name), key=lambda place: self._columns["name"][place].as_py())

    def take(self, places: Iterable[int]) -> "FileList":
        return FileList(self._columns.take(pa.array(np.fromiter(places, np.int64))))

    def where(self, wanted: Callable[[StoredFile], bool]) -> "FileList":
        places = np.fromiter((place for place, file in enumerate(self) if wanted(file)), np.int64)
        return self if len(places) == len(self) else self.take(places)


def parts(name: str) -> list[str]:
    """The folders of a name, and its last part: as pathlib has them, which would remember each (sys.intern)."""
    return [part for part in name.split("/") if part not in ("", ".")]


def plain_name(name: str) -> str:
    """A name without `./` and double slashes, by which a file is known; it is a label and never a path."""
    return ("/" if name.startswith("/") else "") + "/".join(parts(name))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
