"""What the audit knows of the images: one pass over the crops, embeddings on disk, a few numbers of each in memory."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kubeface.audit.embeddings import SIZE, Embedder, EmbeddingStore, Vectors
from kubeface.audit.groups import Codes, Flags, Ints
from kubeface.faces.geometry import face_part
from kubeface.faces.images import decode_rgb
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.tables.resolution_pairs import HIGH, LOW, pair_key, resolution_of
from kubeface.tables.table import Row, Table, open_shard

Hashes = NDArray[np.uint64]
Floats = NDArray[np.float32]
RESOLUTION_CODES = {LOW: 1, HIGH: 2}  # 0 where the resolution is not known
COLUMNS = (
    "identity", "image", "content", "phash", "groups", "source", "det_box", "det_score", "photo_width", "photo_height",
)  # fmt: skip
NUMBERS = np.dtype(  # that are kept of each image
    [
        ("identity", np.int32), ("content", np.uint64), ("phash", np.uint64), ("pair", np.uint64),
        ("resolution", np.int8), ("face_size", np.float32), ("det_score", np.float32), ("image_size", np.float32),
        ("brightness", np.float32),
    ]
)  # fmt: skip
FILTER_SCORES = ("score", "face_size", "faces", "sharpness", "turn", "agreement")
UNREADABLE = -1.0  # brightness of a crop that cannot be decoded


@dataclass(frozen=True)
class AuditedImages:
    """The images of an aligned table; arrays have one entry for each row."""

    table: Table  # the aligned table
    embeddings: EmbeddingStore  # of the crops
    ids: pa.ChunkedArray  # image_id
    sources: pa.ChunkedArray
    names: list[str]  # the identities, sorted
    identity: Codes  # index into names
    content: Hashes  # hash of the bytes
    phash: Hashes  # perceptual hash
    pair: Hashes  # key of the resolution pair that an image belongs to, 0 for none
    resolution: NDArray[np.int8]  # as RESOLUTION_CODES has it
    sharp: Codes  # row of the sharp partner for a low-resolution image that has one, an image's own row otherwise
    face_size: Floats  # shorter side of the aligner's box, in pixels of the photograph
    det_score: Floats  # of the aligner's detector, 0 to 1
    image_size: Floats  # shorter side of the photograph in pixels, NaN where it is not known
    brightness: Floats  # mean grey level of the crop, 0 to 255, or UNREADABLE
    filter_kept: Flags
    filter_reason: pa.ChunkedArray
    filter_scores: dict[str, Floats]  # by column of the filter table

    def __len__(self) -> int:
        return len(self.identity)

    @property
    def readable(self) -> Flags:
        return self.brightness >= 0

    @property
    def is_low(self) -> Flags:
        return np.asarray(self.resolution == RESOLUTION_CODES[LOW], np.bool_)

    @cached_property
    def has_embedding(self) -> Flags:
        """Whether each image has an embedding of a face, its own or its sharp partner's."""
        return np.asarray(self.readable & (self.readable & ~self.is_low)[self.sharp], np.bool_)

    @property
    def comparable(self) -> Flags:
        """The images whose faces are compared: those that the filter keeps; of a resolution pair the sharp one."""
        return np.asarray(self.filter_kept & self.readable & ~self.is_low, np.bool_)

    @cached_property
    def _by_identity(self) -> tuple[Ints, Ints]:
        """Rows ordered by identity, and where each identity's begin, with the end after the last."""
        counts = np.bincount(self.identity, minlength=len(self.names))
        return np.argsort(self.identity, kind="stable"), np.concatenate([[0], np.cumsum(counts)])

    def rows_of(self, identity: int) -> Ints:
        """Rows of an identity, given by its index, in stored order."""
        order, starts = self._by_identity
        return np.asarray(order[starts[identity] : starts[identity + 1]], np.int64)

    def by_identity(self) -> Iterator[Ints]:
        """Rows of each identity, in the order of `names`."""
        return map(self.rows_of, range(len(self.names)))

    def id_of(self, row: int) -> str:
        return str(self.ids[int(row)])

    def source_of(self, row: int) -> str:
        return str(self.sources[int(row)])

    def name_of(self, row: int) -> str:
        return self.names[int(self.identity[int(row)])]


def read_audited_images(table: Table, filtered: Table, embed: Embedder, embeddings: EmbeddingStore) -> AuditedImages:
    """Embeds every crop of an aligned table, in threads, and reads what else the audit needs.

    `embeddings` gets one for each row; zeros where the crop cannot be decoded. A low-resolution image has its sharp
    partner's, since its own says nothing of 14 pixels, and zeros without one.

    Raises:
        KubefaceError: the filter table lacks an image.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own holds on to several times of what it was once given
    template = table.manifest.setting("template")
    codes: dict[str, int] = {}
    numbers = np.zeros(table.rows, NUMBERS)

    def look(row: Row) -> tuple[Vectors, float]:
        try:
            crop = decode_rgb(row["image"])
        except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            return np.zeros(SIZE, np.float32), UNREADABLE
        is_low = resolution_of(row["groups"]) == LOW
        grey = float((crop.reshape(-1, 3).mean(0) * (0.299, 0.587, 0.114)).sum())  # BT.601's weights
        return np.zeros(SIZE, np.float32) if is_low else embed(face_part(crop, template)), grey

    start = 0
    with ThreadPoolExecutor(cpu_limit()) as pool, Progress("audit", table.rows) as progress:
        for group in table.row_groups(COLUMNS):
            looked = list(pool.map(look, group))
            embeddings.append(np.stack([vector for vector, _ in looked]))
            numbers[start : start + len(group)] = [
                (codes.setdefault(row["identity"], len(codes)), *_numbers(row), brightness)
                for row, (_, brightness) in zip(group, looked, strict=True)
            ]
            start += len(group)
            progress.advance(len(group))
    arrays = {name: np.ascontiguousarray(numbers[name]) for name in NUMBERS.names or ()}
    indices = {name: index for index, name in enumerate(sorted(codes))}
    arrays["identity"] = np.array([indices[name] for name in codes], np.int32)[arrays["identity"]]
    sharp = _sharp_rows(arrays["pair"], arrays["resolution"])
    embeddings.redirect(sharp)
    columns = table.columns(["image_id", "source"])
    order = _filter_order(columns["image_id"], table, filtered)

    def verdicts(name: str) -> pa.ChunkedArray:  # a column at a time, which keeps memory low
        values = filtered.columns([name])[name]
        return values if order is None else values.take(order)

    return AuditedImages(
        table=table,
        embeddings=embeddings,
        ids=columns["image_id"],
        sources=columns["source"],
        names=list(indices),
        sharp=sharp,
        filter_kept=verdicts("kept").to_numpy(),
        filter_reason=verdicts("reason"),
        filter_scores={name: verdicts(name).to_numpy().astype(np.float32) for name in FILTER_SCORES},
        **arrays,
    )


def _numbers(row: Row) -> tuple[float, ...]:
    """The NUMBERS of an image between identity and brightness."""
    resolution = resolution_of(row["groups"])
    left, top, right, bottom = row["det_box"]
    return (
        int(row["content"], 16),
        int(row["phash"], 16),
        pair_key(row["identity"], row["source"]) if resolution else 0,
        RESOLUTION_CODES[resolution] if resolution else 0,
        min(right - left, bottom - top),
        row["det_score"],
        min((side for side in (row["photo_width"], row["photo_height"]) if side is not None), default=np.nan),
    )


def _filter_order(ids: pa.ChunkedArray, table: Table, filtered: Table) -> pa.ChunkedArray | None:
    """The filter table's row of each image of the aligned table; None where the two have one order."""
    filter_ids = filtered.columns(["image_id"])["image_id"]
    if filter_ids.equals(ids):
        return None
    order = pc.index_in(ids, value_set=filter_ids.combine_chunks())
    missing = ids.filter(pc.is_null(order))
    require(
        not len(missing),
        f"{filtered.folder} says nothing of image {missing[0] if len(missing) else ''} of {table.folder}: run "
        "filter on this table",
    )
    return order


def _sharp_rows(pair: Hashes, resolution: NDArray[np.int8]) -> Codes:
    """For a low-resolution image the row of its sharp partner (the first of several), for all others their own."""
    rows = np.arange(len(pair), dtype=np.int32)
    low, high = (np.flatnonzero(resolution == RESOLUTION_CODES[name]) for name in (LOW, HIGH))
    if len(low) and len(high):
        keys, first = np.unique(pair[high], return_index=True)
        index = np.minimum(np.searchsorted(keys, pair[low]), len(keys) - 1)
        both = keys[index] == pair[low]
        rows[low[both]] = high[first[index[both]]]
    return rows


def read_pictures(table: Table, rows: Sequence[int]) -> dict[int, bytes]:
    """The stored pictures of a few rows, by row; only the row groups that hold them are read."""
    wanted = sorted(set(map(int, rows)))
    pictures: dict[int, bytes] = {}
    start = 0
    for path in table.paths:
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                in_group = [row for row in wanted if start <= row < end]
                if in_group:
                    column = file.read_row_group(group, columns=["image"])["image"]
                    pictures |= {row: column[row - start].as_py() for row in in_group}
                start = end
    return pictures
