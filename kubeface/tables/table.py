"""Tables: folders of Parquet shards with a manifest, which steps hand to one another.

manifest.json          see kubeface/tables/manifest.py
shard-00000.parquet …  row groups of 128 rows, image column uncompressed (JPEG, PNG; PPM for crops)
rejected.csv           the images that the step left out: source, reason, detail
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.folders import new_folder, parse_json, read_json, sha256_file, write_csv, write_json
from kubeface.storage.ranged import RangedFile, RemoteFile
from kubeface.tables.manifest import MANIFEST_FILE, SCHEMA_VERSION, Manifest, Settings, ShardEntry
from kubeface.tables.schemas import SCHEMAS

ROW_GROUP_ROWS = 128
INDEX_ROWS = 2048  # rows in a row group of a table without images
SHARD_BYTES = 128 * 2**20

Row = dict[str, Any]  # by column of the table's schema


class Rejection(NamedTuple):
    """An image that a step left out: its name in the source, why in one word, and a line of detail."""

    source: str
    reason: str
    detail: str = ""


class _Rejected:
    """The rejected images, packed in Arrow memory: they may be most of a million."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by reason
        self._packed = [pa.array([], pa.binary())]
        self._loose: list[bytes] = []

    def add(self, *fields: str) -> None:
        self.counts[fields[1]] += 1
        self._loose.append("\0".join(field.replace("\0", " ") for field in fields).encode("utf-8", "surrogatepass"))
        if len(self._loose) == INDEX_ROWS:
            self._pack()

    def _pack(self) -> None:
        self._packed.append(pa.array(self._loose, pa.binary()))
        self._loose.clear()

    def in_order(self) -> Iterator[list[str]]:
        self._pack()
        rows = pa.chunked_array(self._packed)
        for index in pc.sort_indices(rows).to_numpy():
            yield rows[int(index)].as_py().decode("utf-8", "surrogatepass").split("\0")


class TableWriter:
    """Writes a table folder row by row; used as a context manager.

    The folder appears under its name only when the block ends without an error. The same rows in the same order give
    the same bytes.

    Args:
        kind: kind of table, a key of SCHEMAS.
        producer: step and version, for the manifest.
        settings: the step's options and the hashes of its inputs, for the manifest.
    """

    def __init__(self, out: Path, kind: str, producer: str, settings: Settings) -> None:
        self.schema = SCHEMAS[kind]
        self.rows = 0
        self._out, self._kind, self._producer, self._settings = out, kind, producer, dict(settings)
        self._group_rows = ROW_GROUP_ROWS if "image" in self.schema.names else INDEX_ROWS
        self._identities: set[str] = set()
        self._rejected = _Rejected()
        self._shards: list[ShardEntry] = []
        self._shard_rows = 0
        self._buffer: list[Mapping[str, Any]] = []
        self._parquet: pq.ParquetWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "TableWriter":
        self.folder = self._stack.enter_context(new_folder(self._out))
        self._stack.callback(lambda: self._parquet and self._parquet.close())
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            self._stack.__exit__(kind, *error)
        else:
            with self._stack:
                self._finish()

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row; its keys are the schema's columns, of which nullable ones may be absent."""
        self._buffer.append(row)
        self.rows += 1
        if "identity" in row:
            self._identities.add(row["identity"])
        if len(self._buffer) >= self._group_rows:
            self._flush()

    def reject(self, source: str, reason: str, detail: str = "") -> None:
        """Lists a rejected image by its name in the source, with a reason (one word) and a detail (one line)."""
        self._rejected.add(source, reason, " ".join(detail.split()))

    @property
    def rejected(self) -> dict[str, int]:
        """Number of rejected images by reason."""
        return dict(sorted(self._rejected.counts.items()))

    @property
    def identities(self) -> int:
        """Number of different identities among the rows added."""
        return len(self._identities)

    @property
    def _shard_path(self) -> Path:
        return self.folder / f"shard-{len(self._shards):05d}.parquet"

    def _flush(self) -> None:
        if not self._buffer:
            return
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(
                self._shard_path,
                self.schema,
                compression={name: "NONE" if name == "image" else "ZSTD" for name in self.schema.names},
                use_dictionary=[name for name in self.schema.names if name != "image"],
                # Statistics would keep the least and greatest small image of every row group in memory until the end.
                write_statistics=False,
                write_page_checksum=True,
            )
        self._parquet.write_table(pa.Table.from_pylist(self._buffer, self.schema), row_group_size=self._group_rows)
        self._shard_rows += len(self._buffer)
        self._buffer.clear()
        if self._shard_path.stat().st_size >= SHARD_BYTES:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None
            path = self._shard_path
            self._shards.append(ShardEntry(name=path.name, rows=self._shard_rows, sha256=sha256_file(path)))
            self._shard_rows = 0

    def _finish(self) -> None:
        self._flush()
        self._close_shard()
        write_csv(self.folder / "rejected.csv", Rejection._fields, self._rejected.in_order())
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            kind=self._kind,
            producer=self._producer,
            settings=self._settings,
            rows=self.rows,
            identities=self.identities,
            rejected=self.rejected,
            shards=self._shards,
        )
        write_json(self.folder / MANIFEST_FILE, manifest.model_dump(mode="json"))


@contextmanager
def open_shard(shard: Path | RemoteFile) -> Iterator[pq.ParquetFile]:
    """Opens a shard for reading; of one in a store only what is read is fetched, a row group in one request.

    Raises:
        KubefaceError: the shard cannot be read. Errors of pyarrow inside the block are taken for the shard's.
    """
    source = RangedFile(shard) if isinstance(shard, RemoteFile) else shard
    try:
        with pq.ParquetFile(source, pre_buffer=source is not shard, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise KubefaceError(f"{shard} cannot be read ({error}): run the step that wrote it again") from error


class Table:
    """A finished table, in a folder or below an s3:// prefix, which is not downloaded.

    Opening a folder checks the manifest and the SHA-256 of every shard. Of shards in a store only the presence is
    checked; they are read in the version that stood there when the table was opened (ETag), and each page is checked
    against its CRC-32.

    Raises:
        KubefaceError: no manifest, another kind or schema version, or a shard that is missing or differs from its
            hash.
    """

    def __init__(self, folder: Path | str, kind: str) -> None:
        remote = objects.is_s3(str(folder))
        self.folder: Path | str = str(folder) if remote else Path(folder)
        uri = objects.join(str(self.folder), MANIFEST_FILE)
        value = parse_json(objects.read_bytes(uri), uri) if remote else read_json(Path(uri))
        self.manifest = Manifest.parse(value, uri, kind)
        self.rows, self.identities = self.manifest.rows, self.manifest.identities
        stored = {file.name: file for file in objects.list_files(str(folder))} if remote else {}
        # Files for open_shard.
        self.paths: list[Path | RemoteFile] = []
        for shard in self.manifest.shards:
            path = Path(folder, shard.name)
            if remote:
                address, file = objects.join(str(folder), shard.name), stored.get(shard.name)
                if file is None:
                    raise KubefaceError(f"{address} is missing though the manifest lists it: upload it again")
                self.paths.append(RemoteFile(address, file.size, file.version))
            elif not path.is_file():
                raise KubefaceError(f"{path} is missing though the manifest lists it: run the step that wrote it again")
            elif sha256_file(path) != shard.sha256:
                raise KubefaceError(f"{path} is corrupt: its SHA-256 is not the one in {uri}")
            else:
                self.paths.append(path)

    def _read(self, name: str) -> bytes:
        return objects.read_bytes(objects.join(str(self.folder), name))

    @property
    def sha256(self) -> str:
        """SHA-256 of the manifest, and so of every shard that it lists."""
        return hashlib.sha256(self._read(MANIFEST_FILE)).hexdigest()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Reads columns of all rows into memory: meant for small ones, not for `image`."""
        tables = []
        for path in self.paths:
            with open_shard(path) as file:
                tables.append(file.read(list(names)).select(list(names)))
        return pa.concat_tables(tables) if tables else SCHEMAS[self.manifest.kind].empty_table().select(list(names))

    def arrow_groups(self, names: Sequence[str] | None = None) -> Iterator[tuple[int, int, pa.Table]]:
        """Yields the numbers of shard and row group, and the rows, of each row group in stored order."""
        for shard, path in enumerate(self.paths):
            with open_shard(path) as file:
                for group in range(file.num_row_groups):
                    yield shard, group, file.read_row_group(group, columns=list(names) if names else None)

    def row_groups(self, names: Sequence[str] | None = None) -> Iterator[list[Row]]:
        """Yields the rows of each row group in stored order, with all columns or the named ones."""
        return (rows.to_pylist() for _, _, rows in self.arrow_groups(names))

    def rejected(self) -> list[Rejection]:
        text = self._read("rejected.csv").decode("utf-8", "surrogateescape")
        return [Rejection(**row) for row in csv.DictReader(io.StringIO(text, newline=""))]


def by_pixels(rows: Iterable[Row], pixels: int) -> Iterator[list[Row]]:
    """Successive rows of a face table in lists of about as many pixels, however many photographs that takes.

    Args:
        rows: with width and height.
        pixels: of all photographs in a list; one that has more comes alone.
    """
    batch: list[Row] = []
    room = pixels
    for row in rows:
        size = row["width"] * row["height"]
        if batch and size > room:
            yield batch
            batch, room = [], pixels
        batch.append(row)
        room -= size
    if batch:
        yield batch
