"""What the audit knows of the images: one pass over the crops, embeddings on disk, a few numbers of each in memory."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kubeface.audit.embedder import SIZE, Embedder, Vectors
from kubeface.audit.embedding_store import EmbeddingStore
from kubeface.audit.groups import Codes, Flags, Ints
from kubeface.faces.geometry import face_part
from kubeface.faces.images import RGB, decode_rgb
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.tables.resolution_pairs import HIGH, LOW, pair_key, resolution_of
from kubeface.tables.table import Table, open_shard

Hashes = NDArray[np.uint64]
Floats = NDArray[np.float32]
RESOLUTION_CODES = {LOW: 1, HIGH: 2}  # 0 where the resolution is not known
COLUMNS = (
    "identity", "image", "content", "phash", "groups", "source", "det_box", "det_score", "photo_width", "photo_height",
)  # fmt: skip
FILTER_SCORES = ("score", "face_size", "faces", "sharpness", "turn", "agreement")
UNREADABLE = -1.0  # brightness of a crop that cannot be decoded


@dataclass(frozen=True)
class AuditedImages:
    """The images of an aligned table; arrays have one entry for each row.

    Args:
        table: the aligned table.
        embeddings: of the crops.
        ids, sources: image_id and source, in Arrow's memory.
        names: the identities, sorted; `identity` holds indices into it.
        content, phash: hashes of bytes and of the picture, as numbers.
        pair: key of the resolution pair that an image belongs to, 0 for none.
        resolution: as RESOLUTION_CODES has it.
        sharp: row of the sharp partner for a low-resolution image that has one, an image's own row otherwise.
        face_size: shorter side of the aligner's box, in pixels of the photograph.
        det_score: of the aligner's detector, 0 to 1.
        image_size: shorter side of the photograph in pixels, NaN where it is not known.
        brightness: mean grey level of the crop, 0 to 255, or UNREADABLE.
        filter_kept, filter_reason: verdict of the filter.
        filter_scores: by column of the filter table.
    """

    table: Table
    embeddings: EmbeddingStore
    ids: pa.ChunkedArray
    sources: pa.ChunkedArray
    names: list[str]
    identity: Codes
    content: Hashes
    phash: Hashes
    pair: Hashes
    resolution: NDArray[np.int8]
    sharp: Codes
    face_size: Floats
    det_score: Floats
    image_size: Floats
    brightness: Floats
    filter_kept: Flags
    filter_reason: pa.ChunkedArray
    filter_scores: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.identity)

    @property
    def readable(self) -> Flags:
        """Whether each crop could be decoded."""
        return self.brightness >= 0

    @property
    def is_low(self) -> Flags:
        """Whether each image is one of low resolution."""
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
        """image_id of a row."""
        return str(self.ids[int(row)])

    def source_of(self, row: int) -> str:
        """Source of a row."""
        return str(self.sources[int(row)])

    def name_of(self, row: int) -> str:
        """Identity of a row."""
        return self.names[int(self.identity[int(row)])]


def read_audited_images(table: Table, filtered: Table, embed: Embedder, embeddings: EmbeddingStore) -> AuditedImages:
    """Embeds every crop of an aligned table, in threads, and reads what else the audit needs.

    Args:
        table: the aligned table.
        filtered: the filter's verdicts on it.
        embed: crop of a face to embedding.
        embeddings: gets one for each row; zeros where the crop cannot be decoded. A low-resolution image has its sharp
            partner's, since its own says nothing of 14 pixels, and zeros without one.

    Raises:
        KubefaceError: the filter table lacks an image.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own holds on to several times of what it was once given
    template = table.manifest.settings.get("template", "")
    codes: dict[str, int] = {}
    arrays = _empty_arrays(table.rows)

    def look(row: dict[str, Any]) -> tuple[Vectors, float]:
        try:
            crop = decode_rgb(row["image"])
        except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            return np.zeros(SIZE, np.float32), UNREADABLE
        is_low = resolution_of(row["groups"]) == LOW
        return np.zeros(SIZE, np.float32) if is_low else embed(face_part(crop, template)), mean_brightness(crop)

    start = 0
    with ThreadPoolExecutor(cpu_limit()) as pool, Progress("audit", table.rows) as progress:
        for group in table.row_groups(COLUMNS):
            rows = slice(start, start + len(group))
            looked = list(pool.map(look, group))
            embeddings.append(np.stack([vector for vector, _ in looked]))
            arrays["brightness"][rows] = [value for _, value in looked]
            arrays["identity"][rows] = [codes.setdefault(row["identity"], len(codes)) for row in group]
            for name, values in _numbers(group).items():
                arrays[name][rows] = values
            start += len(group)
            progress.advance(len(group))
    indices = {name: index for index, name in enumerate(sorted(codes))}
    arrays["identity"] = np.array([indices[name] for name in codes], np.int32)[arrays["identity"]]
    sharp = _sharp_rows(arrays["pair"], arrays["resolution"])
    embeddings.redirect(sharp)
    columns = table.columns(["image_id", "source"])
    return AuditedImages(
        table=table,
        embeddings=embeddings,
        ids=columns["image_id"],
        sources=columns["source"],
        names=list(indices),
        sharp=sharp,
        **arrays,
        **_filter_columns(columns["image_id"], table, filtered),
    )


def _empty_arrays(rows: int) -> dict[str, Any]:
    """The arrays that are filled row group by row group."""
    kinds: dict[str, type[np.generic]] = {
        "identity": np.int32,
        "content": np.uint64,
        "phash": np.uint64,
        "pair": np.uint64,
        "resolution": np.int8,
        "face_size": np.float32,
        "det_score": np.float32,
        "image_size": np.float32,
        "brightness": np.float32,
    }
    return {name: np.zeros(rows, kind) for name, kind in kinds.items()}


def _filter_columns(ids: pa.ChunkedArray, table: Table, filtered: Table) -> dict[str, Any]:
    """The filter's verdicts in the order of the aligned table's rows; a column at a time, which keeps memory low."""
    filter_ids, order = filtered.columns(["image_id"])["image_id"], None
    if not filter_ids.equals(ids):
        order = pc.index_in(ids, value_set=filter_ids.combine_chunks())
        missing = ids.filter(pc.is_null(order))
        require(
            not len(missing),
            f"{filtered.folder} says nothing of image {missing[0] if len(missing) else ''} of {table.folder}: run "
            "filter on this table",
        )

    def column(name: str) -> pa.ChunkedArray:
        values = filtered.columns([name])[name]
        return values if order is None else values.take(order)

    return {
        "filter_kept": column("kept").to_numpy(),
        "filter_reason": column("reason"),
        "filter_scores": {name: column(name).to_numpy().astype(np.float32) for name in FILTER_SCORES},
    }


def _numbers(group: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Hashes, resolution and sizes of a row group."""
    resolutions = [resolution_of(row["groups"]) for row in group]
    return {
        "content": [int(row["content"], 16) for row in group],
        "phash": [int(row["phash"], 16) for row in group],
        "resolution": [RESOLUTION_CODES[value] if value else 0 for value in resolutions],
        "pair": [
            pair_key(row["identity"], row["source"]) if value else 0
            for row, value in zip(group, resolutions, strict=True)
        ],
        "face_size": [
            min(row["det_box"][2] - row["det_box"][0], row["det_box"][3] - row["det_box"][1]) for row in group
        ],
        "det_score": [row["det_score"] for row in group],
        "image_size": [
            min((side for side in (row["photo_width"], row["photo_height"]) if side is not None), default=np.nan)
            for row in group
        ],
    }


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


def mean_brightness(crop: RGB) -> float:
    """Mean grey level of a crop, 0 to 255 (BT.601 weights)."""
    return float((crop.reshape(-1, 3).mean(0) * (0.299, 0.587, 0.114)).sum())


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
