"""Where images stand in a table, by shard, row group and row, and reading them in any order in flat memory."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kubeface.faces.images import RGB, decode_rgb
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.ranged import RemoteFile
from kubeface.tables.resolution_pairs import LOW, partners, resolution_of
from kubeface.tables.table import Table, open_shard

# Row groups that are shuffled together and kept as encoded bytes: 16 × 128 crops of about 20 KB are 40 MB.
WINDOW = 16


@dataclass(frozen=True)
class FaceLocation:
    """Where an image stands: its shard, row group and row, with its id and class."""

    image_id: str
    label: int
    shard: Path | RemoteFile
    group: int
    row: int


class RowIndex:
    """The places of many images, in stored order; a million take about 16 MB and their ids.

    Args:
        shards: the shards, on disk or in a store.
        ids: image ids, as many as there are images.
        numbers: N×4 int32: label, index into `shards`, row group, row.
        sharp: by index, of images taken with few pixels: where the sharp image of the same photograph stands, as index
            into `shards`, row group, row; None for one that has none.
    """

    def __init__(
        self,
        shards: list[Path | RemoteFile],
        ids: pa.Array,
        numbers: NDArray[np.int32],
        sharp: Mapping[int, tuple[int, int, int] | None] = MappingProxyType({}),
    ) -> None:
        self.shards, self._ids, self._numbers, self._sharp = shards, ids, numbers, sharp

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> FaceLocation:
        label, shard, group, row = self._numbers[index].tolist()
        return FaceLocation(self._ids[index].as_py(), label, self.shards[shard], group, row)

    def is_low(self, index: int) -> bool:
        """Whether an image was taken with few pixels, by what the table says of it."""
        return index in self._sharp

    def sharp(self, index: int) -> FaceLocation | None:
        """Where the sharp image of the same photograph stands, None where there is none or the image is no low one."""
        found = self._sharp.get(index)
        if found is None:
            return None
        place, (shard, group, row) = self[index], found
        return FaceLocation(place.image_id, place.label, self.shards[shard], group, row)

    def low(self) -> "RowIndex":
        """The images taken with few pixels that have a sharp one."""
        chosen = sorted(index for index, found in self._sharp.items() if found is not None)
        rows = np.array(chosen, np.int64)
        return RowIndex(
            self.shards, self._ids.take(pa.array(rows)), self._numbers[rows],
            {place: self._sharp[index] for place, index in enumerate(chosen)},
        )  # fmt: skip

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class of each image, N."""
        return self._numbers[:, 0]

    def group_starts(self) -> NDArray[np.int64]:
        """The index at which each row group that holds any of the images begins, and the number of images."""
        new = (np.diff(self._numbers[:, 1:3], axis=0, prepend=-1) != 0).any(axis=1)
        return np.append(np.flatnonzero(new), len(self))


def row_index(table: Table, labels: dict[str, int]) -> RowIndex:
    """The places of the images that have a label; reads the columns of ids and groups alone.

    Raises:
        KubefaceError: a shard that cannot be read, or two sharp images of one photograph.
    """
    ids = [pa.array([], pa.string())]
    numbers = [np.empty((0, 4), np.int32)]
    low: dict[str, int] = {}
    count = 0
    for shard, group, columns in _groups(table, ["image_id", "groups"]):
        names, said = columns["image_id"].to_pylist(), columns["groups"].to_pylist()
        rows = [row for row, image_id in enumerate(names) if image_id in labels]
        low |= {names[row]: count + place for place, row in enumerate(rows) if resolution_of(said[row]) == LOW}
        count += len(rows)
        if rows:
            numbers.append(np.array([(labels[names[row]], shard, group, row) for row in rows], np.int32))
            ids.append(columns["image_id"].take(pa.array(rows)))
    return RowIndex(table.paths, pa.concat_arrays(ids), np.concatenate(numbers), _sharp(table, low) if low else {})


def _sharp(table: Table, low: dict[str, int]) -> dict[int, tuple[int, int, int] | None]:
    """Where the sharp image of each low one stands (shard, row group, row), by the low one's index.

    Args:
        table: of both.
        low: index by image id.
    """
    pairs = partners(table)
    wanted = {pairs[image_id]: index for image_id, index in low.items() if image_id in pairs}
    found: dict[int, tuple[int, int, int] | None] = dict.fromkeys(low.values())
    for shard, group, columns in _groups(table, ["image_id"]):
        for row, image_id in enumerate(columns["image_id"].to_pylist()):
            if image_id in wanted:
                found[wanted[image_id]] = shard, group, row
    return found


def _groups(table: Table, columns: list[str]) -> Iterator[tuple[int, int, dict[str, pa.Array]]]:
    """Columns of each row group, with the numbers of its shard and of itself."""
    for shard, path in enumerate(table.paths):
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                read = file.read_row_group(group, columns=columns)
                yield shard, group, {name: read[name].combine_chunks() for name in columns}


class Reader:
    """Images by place; row groups are read on demand and the last `WINDOW` of them kept.

    Raises:
        KubefaceError: a shard that cannot be read or an image that cannot be decoded.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[Path | RemoteFile, int], list[bytes]] = OrderedDict()

    def __call__(self, place: FaceLocation) -> RGB:
        """The crop as stored, H×W×3 uint8."""
        data = self._bytes(place)
        try:
            return decode_rgb(data)
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            raise KubefaceError(
                f"image {place.image_id} in {place.shard} cannot be decoded: run the step that wrote it again"
            ) from error

    def _bytes(self, place: FaceLocation) -> bytes:
        key = (place.shard, place.group)
        if key not in self._groups:
            with open_shard(place.shard) as file:
                self._groups[key] = file.read_row_group(place.group, columns=["image"])["image"].to_pylist()
            if len(self._groups) > WINDOW:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key][place.row]
