"""Face tables: folders of Parquet shards with a manifest, the only thing that travels between steps.

manifest.json          schema version, kind, rows, identities, shards (name, rows, sha256), producer, settings
shard-00000.parquet …  row groups of 128 rows, image column uncompressed (JPEG, PNG; PPM for crops)
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.folders import new_folder, read_json, sha256_file, write_json
from kubeface.storage.ranged import RangedFile, RemoteFile

SCHEMA_VERSION = 3
ROW_GROUP_ROWS = 128
INDEX_ROWS = 2048  # in a row group of a table without images
SHARD_BYTES = 128 * 2**20

_FACE_FIELDS = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("identity", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),  # the name of the image below the data source
    pa.field("given_split", pa.string()),  # train or val where the source came divided, else null
    pa.field("groups", pa.string()),  # what else is known of it, as JSON: {"camera": "door", "resolution": "low"}
    pa.field("image", pa.binary(), nullable=False),  # JPEG, PNG or PPM bytes
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    # Of the photograph that was ingested, 16 hex digits each: SHA-256 of its bytes, and a perceptual hash of what is to
    # be seen on it; near-duplicates differ in few bits.
    pa.field("content", pa.string(), nullable=False),
    pa.field("phash", pa.string(), nullable=False),
]
SCHEMAS: dict[str, pa.Schema] = {
    "faces": pa.schema(_FACE_FIELDS),
    # Landmarks (x, y of eyes, nose and mouth corners, image's left first) and box (x1, y1, x2, y2) are in pixels
    # of the photograph that was ingested, not of the crop.
    "aligned": pa.schema(
        [
            *_FACE_FIELDS,
            pa.field("landmarks", pa.list_(pa.float32(), 10), nullable=False),
            pa.field("det_score", pa.float32(), nullable=False),
            pa.field("det_box", pa.list_(pa.float32(), 4), nullable=False),
            pa.field("photo_width", pa.int32()),  # of the photograph; width and height are the crop's
            pa.field("photo_height", pa.int32()),
        ]
    ),
    "filter": pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("kept", pa.bool_(), nullable=False),
            pa.field("reason", pa.string()),  # null where kept
            pa.field("score", pa.float32(), nullable=False),
            pa.field("face_size", pa.float32(), nullable=False),  # shorter side of the best box, pixels
            pa.field("faces", pa.int32(), nullable=False),  # faces that RetinaFace is sure of
            pa.field("sharpness", pa.float32(), nullable=False),  # variance of the Laplacian of the crop's grey levels
            pa.field("turn", pa.float32(), nullable=False),  # how far the face is turned aside, 0 (frontal) to 1
            pa.field("agreement", pa.float32(), nullable=False),  # overlap of RetinaFace's box with the aligner's (IoU)
        ]
    ),
    "audit": pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("identity", pa.string(), nullable=False),
            pa.field("kept", pa.bool_(), nullable=False),
            pa.field("reason", pa.string()),  # null where kept
            # Least image_id of the near-duplicates that the image belongs to, its own where it is alone: they must
            # stay on one side of every division.
            pa.field("cluster", pa.string(), nullable=False),
            # Least name of the identities that look like one person, its own where there is no other.
            pa.field("person", pa.string(), nullable=False),
        ]
    ),
    "split": pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("identity", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),  # train, val, heldout or excluded
            pa.field("reason", pa.string()),  # why it was excluded, else null
        ]
    ),
}
REJECTED_FIELDS = ("source", "reason", "detail")


class _Rejected:
    """The images that were left out, which may be most of a million: packed outside of Python's own memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by reason
        self._packed = [pa.array([], pa.binary())]
        self._loose: list[bytes] = []

    def add(self, *fields: str) -> None:
        """Source, reason and detail of an image."""
        self.counts[fields[1]] += 1
        self._loose.append("\0".join(field.replace("\0", " ") for field in fields).encode("utf-8", "surrogatepass"))
        if len(self._loose) == INDEX_ROWS:
            self._pack()

    def _pack(self) -> None:
        self._packed.append(pa.array(self._loose, pa.binary()))
        self._loose.clear()

    def in_order(self) -> Iterator[list[str]]:
        """The fields of each, sorted."""
        self._pack()
        rows = pa.chunked_array(self._packed)
        for place in pc.sort_indices(rows).to_numpy():
            yield rows[int(place)].as_py().decode("utf-8", "surrogatepass").split("\0")


class TableWriter:
    """Writes a table folder row by row; used as a context manager.

    The folder appears under its name only when the block ends without an error. The same rows in the
    same order give the same bytes.
    """

    def __init__(self, out: Path, kind: str, producer: str, settings: Mapping[str, Any]) -> None:
        self.kind = kind
        self.schema = SCHEMAS[kind]
        self.rows = 0
        self._manifest: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "producer": producer,
            "settings": dict(settings),
        }
        self._group_rows = ROW_GROUP_ROWS if "image" in self.schema.names else INDEX_ROWS
        self._identities: set[str] = set()
        self._rejected = _Rejected()
        self._shards: list[dict[str, Any]] = []
        self._buffer: list[Mapping[str, Any]] = []
        self._parquet: pq.ParquetWriter | None = None
        self._context = new_folder(out)

    def __enter__(self) -> "TableWriter":
        self.folder = self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._context.__exit__(type(failure), failure, failure.__traceback__)
            raise
        finally:
            if self._parquet is not None:
                self._parquet.close()
        self._context.__exit__(kind, error, trace)

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row; its keys are the fields of the schema (nullable ones may be left out)."""
        self._buffer.append(row)
        self.rows += 1
        if "identity" in row:
            self._identities.add(row["identity"])
        if len(self._buffer) >= self._group_rows:
            self._flush()

    def reject(self, source: str, reason: str, detail: str = "") -> None:
        """Lists an image that was left out, with a reason (one word) and a detail (one line)."""
        self._rejected.add(source, reason, " ".join(detail.split()))

    @property
    def rejected(self) -> dict[str, int]:
        """Number of images left out, by reason."""
        return dict(sorted(self._rejected.counts.items()))

    @property
    def identities(self) -> int:
        """Number of different identities among the rows added."""
        return len(self._identities)

    def _flush(self) -> None:
        if not self._buffer:
            return
        if self._parquet is None:
            path = self.folder / f"shard-{len(self._shards):05d}.parquet"
            self._shards.append({"name": path.name, "rows": 0})
            codec = {name: "NONE" if name == "image" else "ZSTD" for name in self.schema.names}
            plain = [name for name in self.schema.names if name != "image"]
            # Statistics would keep the least and greatest small image of every row group in memory up to the end.
            self._parquet = pq.ParquetWriter(
                path,
                self.schema,
                compression=codec,
                use_dictionary=plain,
                write_statistics=False,
                write_page_checksum=True,
            )
        self._parquet.write_table(pa.Table.from_pylist(self._buffer, self.schema), row_group_size=self._group_rows)
        shard = self._shards[-1]
        shard["rows"] += len(self._buffer)
        self._buffer.clear()
        if (self.folder / shard["name"]).stat().st_size >= SHARD_BYTES:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None
            shard = self._shards[-1]
            shard["sha256"] = sha256_file(self.folder / shard["name"])

    def _finish(self) -> None:
        self._flush()
        self._close_shard()
        with open(self.folder / "rejected.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(REJECTED_FIELDS)
            writer.writerows(self._rejected.in_order())
        manifest = self._manifest | {
            "rows": self.rows,
            "identities": self.identities,
            "rejected": self.rejected,
            "shards": self._shards,
        }
        write_json(self.folder / "manifest.json", manifest)


@contextmanager
def open_shard(shard: Path | RemoteFile) -> Iterator[pq.ParquetFile]:
    """A shard for reading; out of a store only what is read comes, a row group in one request.

    Raises:
        KubefaceError: the shard cannot be read; whatever pyarrow stumbles over inside the block is its fault.
    """
    source = RangedFile(shard) if isinstance(shard, RemoteFile) else shard
    try:
        with pq.ParquetFile(source, pre_buffer=source is not shard, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise KubefaceError(f"{shard} cannot be read ({reason}): run the step that wrote it again") from error


class Table:
    """A finished table folder, or one below an s3:// prefix, which is not downloaded.

    Opening it checks the manifest and the checksum of every shard. Of shards in a store only their presence is checked;
    they are read as they were when the table was opened (ETag), and each page against its own checksum (CRC-32).

    Raises:
        KubefaceError: no manifest, another kind or schema version than asked for, or a shard that is
            missing or differs from its checksum.
    """

    def __init__(self, folder: Path | str, kind: str) -> None:
        remote = objects.is_s3(str(folder))
        self.folder: Path | str = str(folder) if remote else Path(folder)
        manifest = objects.join(str(self.folder), "manifest.json")
        self.manifest: dict[str, Any] = _remote_json(manifest) if remote else read_json(Path(manifest))
        if not isinstance(self.manifest, dict) or not {"kind", "rows", "identities", "shards"} <= self.manifest.keys():
            raise KubefaceError(f"{manifest} is not a table's manifest: run the step again")
        if self.manifest.get("kind") != kind:
            raise KubefaceError(f"{self.folder} holds a '{self.manifest.get('kind')}' table where '{kind}' is needed")
        if self.manifest.get("schema_version") != SCHEMA_VERSION:
            raise KubefaceError(
                f"{self.folder} has schema version {self.manifest.get('schema_version')}, this release reads "
                f"{SCHEMA_VERSION}: run the step that wrote it again"
            )
        self.rows: int = self.manifest["rows"]
        self.identities: int = self.manifest["identities"]
        self.paths: list[Path | RemoteFile] = self._in_store() if remote else self._on_disk(manifest)  # for open_shard

    def _on_disk(self, manifest: str) -> list[Path | RemoteFile]:
        paths: list[Path | RemoteFile] = []
        for shard in self.manifest["shards"]:
            path = Path(self.folder, shard["name"])
            if not path.is_file():
                raise KubefaceError(f"{path} is missing though the manifest lists it: run the step that wrote it again")
            if sha256_file(path) != shard["sha256"]:
                raise KubefaceError(f"{path} is corrupt: its SHA-256 is not the one in {manifest}")
            paths.append(path)
        return paths

    def _in_store(self) -> list[Path | RemoteFile]:
        uri = str(self.folder)
        there = {file.name: RemoteFile(objects.join(uri, file.name), file.size, file.version)
                 for file in objects.list_files(uri)}  # fmt: skip
        names = [shard["name"] for shard in self.manifest["shards"]]
        if gone := [name for name in names if name not in there]:
            raise KubefaceError(
                f"{objects.join(uri, gone[0])} is missing though the manifest lists it: upload it again"
            )
        return [there[name] for name in names]

    def _read(self, name: str) -> bytes:
        return objects.read_bytes(objects.join(str(self.folder), name))

    @property
    def sha256(self) -> str:
        """The hash of the manifest, and with it of every shard."""
        return hashlib.sha256(self._read("manifest.json")).hexdigest()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """The named columns of all rows, in memory; meant for the small ones, not for `image`."""
        tables = []
        for path in self.paths:
            with open_shard(path) as file:
                tables.append(file.read(list(names)).select(list(names)))
        return pa.concat_tables(tables) if tables else SCHEMAS[self.manifest["kind"]].empty_table().select(list(names))

    def row_groups(self, names: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
        """Rows as dictionaries, a row group at a time, in stored order."""
        for path in self.paths:
            with open_shard(path) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=list(names) if names else None).to_pylist()

    def rejected(self) -> list[dict[str, str]]:
        """The images that were left out: source, reason, detail."""
        text = self._read("rejected.csv").decode("utf-8", "surrogateescape")
        return list(csv.DictReader(io.StringIO(text, newline="")))


def _remote_json(uri: str) -> Any:
    try:
        return json.loads(objects.read_bytes(uri))
    except ValueError as error:
        raise KubefaceError(f"{uri} is not valid JSON ({error}); run the step that writes it again") from None
