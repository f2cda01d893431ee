"""One pass over the crops: embeddings on disk, and of each image a few numbers in memory."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kubeface.audit.embedder import SIZE, Embedder, Vectors
from kubeface.faces.geometry import face_part
from kubeface.faces.images import RGB, decode_rgb
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.tables.resolution_pairs import HIGH, LOW, pair_key, resolution_of
from kubeface.tables.table import Table, open_shard

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float32]
RESOLUTIONS = {LOW: 1, HIGH: 2}
COLUMNS = (
    "identity", "image", "content", "phash", "groups", "source", "det_box", "det_score", "photo_width", "photo_height",
)  # fmt: skip


class Vault:
    """Embeddings by row in a file without a name, so that memory does not grow with their number.

    A row may be given another's embedding: that of the sharp photograph, to an image of few pixels. They are read with
    pread, not mapped: mapped pages would count as the process's memory.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._file = TemporaryFile()
        self._bytes = 4 * size
        self._size = size
        self._stands_for: Codes | None = None

    def append(self, vectors: Vectors) -> None:
        """Adds rows (N×size)."""
        self._file.write(np.ascontiguousarray(vectors, np.float32).tobytes())

    def stand_for(self, others: Codes) -> None:
        """From now on every row's embedding is that of another row, which may be itself."""
        self._stands_for = others

    def read(self, rows: Ints) -> Vectors:
        """The embeddings of rows, in their order (N×size)."""
        self._file.flush()
        read = rows if self._stands_for is None else self._stands_for[rows]
        number, width = self._file.fileno(), self._bytes
        data = b"".join(os.pread(number, width, int(row) * width) for row in read)
        return np.frombuffer(data, np.float32).reshape(-1, self._size)

    def __enter__(self) -> "Vault":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass(frozen=True)
class Faces:
    """What the audit knows of the aligned images; arrays have one entry for each row of the table.

    ids, sources: image_id and source as the table has them, outside Python's own memory.
    names: identities, sorted; `people` are indices into it.
    content, phash: as numbers; stem: of identity and file name without its suffix where the image is one of a pair of
    resolutions, 0 elsewhere; resolution: 0 where nothing is known, 1 low, 2 high.
    sharp: of an image of low resolution the row of its partner of high resolution, of all others their own.
    face: shorter side of the aligner's box, pixels of the photograph; side: shorter one of the photograph, pixels, NaN
    where it is not known; brightness: mean grey level of the crop, 0…255, −1 where it cannot be decoded.
    judged: what the filter says, by its columns; filter_kept: whether it keeps the image.
    """

    table: Table
    vault: Vault
    ids: pa.ChunkedArray
    sources: pa.ChunkedArray
    names: list[str]
    people: Codes
    content: Hashes
    phash: Hashes
    stem: Hashes
    resolution: NDArray[np.int8]
    sharp: Codes
    face: Floats
    det_score: Floats
    side: NDArray[np.float32]
    brightness: Floats
    filter_kept: NDArray[np.bool_]
    filter_reason: pa.ChunkedArray
    judged: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.people)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Whether each image could be decoded."""
        return self.brightness >= 0

    @cached_property
    def recognisable(self) -> NDArray[np.bool_]:
        """Whether each image has an embedding that says something of the face, its own or its sharp partner's."""
        faced = self.readable & (self.resolution != RESOLUTIONS[LOW])
        return np.asarray(self.readable & faced[self.sharp], np.bool_)

    @property
    def judged_by_face(self) -> NDArray[np.bool_]:
        """The photographs whose faces are compared: the filter keeps them; of a pair it is the sharp image."""
        return np.asarray(self.filter_kept & self.readable & (self.resolution != RESOLUTIONS[LOW]), np.bool_)

    @cached_property
    def _sorted(self) -> tuple[Ints, Ints]:
        """Rows ordered by identity, and where each identity's begin; one more for the end."""
        counts = np.bincount(self.people, minlength=len(self.names))
        return np.argsort(self.people, kind="stable"), np.concatenate([[0], np.cumsum(counts)])

    def rows_of(self, person: int) -> Ints:
        """Rows of an identity, given by its index, in stored order."""
        order, starts = self._sorted
        return np.asarray(order[starts[person] : starts[person + 1]], np.int64)

    def by_person(self) -> Iterator[Ints]:
        """Rows of each identity, in the order of `names`."""
        return map(self.rows_of, range(len(self.names)))

    def id_of(self, row: int) -> str:
        """image_id of a row."""
        return str(self.ids[int(row)])

    def source_of(self, row: int) -> str:
        """Source of a row."""
        return str(self.sources[int(row)])

    def name_of(self, row: int) -> str:
        """Identity of a row."""
        return self.names[int(self.people[int(row)])]


def collect(table: Table, filtered: Table, embed: Embedder, vault: Vault) -> Faces:
    """Embeds every crop of an aligned table, in threads, and reads what else the audit needs.

    Args:
        table: the aligned table.
        filtered: the filter's verdicts on it.
        embed: crop of a face to embedding.
        vault: gets an embedding for each row; zeros where the crop cannot be decoded. An image of low resolution has
            its sharp partner's, since its own says nothing of 14 pixels, and zeros without one.

    Raises:
        KubefaceError: the filter says nothing of an image.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps several times of what it was once given
    rows, template = table.rows, table.manifest["settings"].get("template", "")
    names: dict[str, int] = {}
    small: dict[str, Any] = {
        "people": np.zeros(rows, np.int32),
        "content": np.zeros(rows, np.uint64),
        "phash": np.zeros(rows, np.uint64),
        "stem": np.zeros(rows, np.uint64),
        "resolution": np.zeros(rows, np.int8),
        "face": np.zeros(rows, np.float32),
        "det_score": np.zeros(rows, np.float32),
        "side": np.zeros(rows, np.float32),
        "brightness": np.zeros(rows, np.float32),
    }

    def look(row: dict[str, Any]) -> tuple[Vectors, float]:
        nothing = np.zeros(SIZE, np.float32)
        try:
            crop = decode_rgb(row["image"])
        except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            return nothing, -1.0
        low = resolution_of(row["groups"]) == LOW
        return nothing if low else embed(face_part(crop, template)), brightness(crop)

    start = 0
    with ThreadPoolExecutor(cpu_limit()) as pool, Progress("audit", rows) as progress:
        for group in table.row_groups(COLUMNS):
            place = slice(start, start + len(group))
            seen = list(pool.map(look, group))
            vault.append(np.stack([vector for vector, _ in seen]))
            small["brightness"][place] = [value for _, value in seen]
            small["people"][place] = [names.setdefault(row["identity"], len(names)) for row in group]
            for name, values in _numbers(group).items():
                small[name][place] = values
            start += len(group)
            progress.advance(len(group))
    places = {name: place for place, name in enumerate(sorted(names))}
    small["people"] = np.array([places[name] for name in names], np.int32)[small["people"]]
    sharp = _sharp(small["stem"], small["resolution"])
    vault.stand_for(sharp)
    columns = table.columns(["image_id", "source"])
    return Faces(
        table=table,
        vault=vault,
        ids=columns["image_id"],
        sources=columns["source"],
        names=list(places),
        sharp=sharp,
        **small,
        **_judged(columns["image_id"], table, filtered),
    )


JUDGED = ("score", "face_size", "faces", "sharpness", "turn", "agreement")


def _judged(ids: pa.ChunkedArray, table: Table, filtered: Table) -> dict[str, Any]:
    """What the filter says, in the order of the aligned table's rows; a column at a time, for little is held of it."""
    theirs, places = filtered.columns(["image_id"])["image_id"], None
    if not theirs.equals(ids):
        places = pc.index_in(ids, value_set=theirs.combine_chunks())
        missing = ids.filter(pc.is_null(places))
        require(
            not len(missing),
            f"{filtered.folder} says nothing of image {missing[0] if len(missing) else ''} of {table.folder}: run "
            "filter on this table",
        )

    def column(name: str) -> pa.ChunkedArray:
        found = filtered.columns([name])[name]
        return found if places is None else found.take(places)

    return {
        "filter_kept": column("kept").to_numpy(),
        "filter_reason": column("reason"),
        "judged": {name: column(name).to_numpy().astype(np.float32) for name in JUDGED},
    }


def _numbers(group: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Hashes, resolution and face size of a row group."""
    known = [resolution_of(row["groups"]) for row in group]
    return {
        "content": [_hash(row["content"]) for row in group],
        "phash": [_hash(row["phash"]) for row in group],
        "resolution": [RESOLUTIONS[value] if value else 0 for value in known],
        "stem": [
            pair_key(row["identity"], row["source"]) if value else 0 for row, value in zip(group, known, strict=True)
        ],
        "face": [
            min(row["det_box"][2] - row["det_box"][0], row["det_box"][3] - row["det_box"][1]) for row in group
        ],
        "det_score": [row["det_score"] for row in group],
        "side": [
            min((side for side in (row["photo_width"], row["photo_height"]) if side is not None), default=np.nan)
            for row in group
        ],
    }  # fmt: skip


def _hash(text: str) -> int:
    """16 hex digits as a number."""
    return int(text, 16)


def _sharp(stem: Hashes, resolution: NDArray[np.int8]) -> Codes:
    """Of an image of low resolution the row of its partner of high resolution (the first of several), else its own."""
    found = np.arange(len(stem), dtype=np.int32)
    low, high = (np.flatnonzero(resolution == RESOLUTIONS[name]) for name in (LOW, HIGH))
    if len(low) and len(high):
        keys, first = np.unique(stem[high], return_index=True)
        place = np.minimum(np.searchsorted(keys, stem[low]), len(keys) - 1)
        both = keys[place] == stem[low]
        found[low[both]] = high[first[place[both]]]
    return found


def brightness(crop: RGB) -> float:
    """Mean grey level of a crop, 0 to 255 (BT.601 weights)."""
    return float((crop.reshape(-1, 3).mean(0) * (0.299, 0.587, 0.114)).sum())


def read_images(table: Table, rows: Sequence[int]) -> dict[int, bytes]:
    """The stored images of a few rows; only the row groups that hold them are read."""
    wanted = sorted(set(map(int, rows)))
    found: dict[int, bytes] = {}
    start = 0
    for path in table.paths:
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                here = [row for row in wanted if start <= row < end]
                if here:
                    column = file.read_row_group(group, columns=["image"])["image"]
                    found |= {row: column[row - start].as_py() for row in here}
                start = end
    return found
