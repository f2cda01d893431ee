"""An index of a table's rows by shard, row group and row, and reading crops in any order in constant memory."""

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

# Row groups that are shuffled together and kept in memory: 16 × 128 crops of about 20 KB are 40 MB.
WINDOW = 16


@dataclass(frozen=True, slots=True)
class FaceLocation:
    """The row of a face crop in a table."""

    image_id: str
    label: int  # class
    shard: Path | RemoteFile
    group: int  # row group in the shard
    row: int  # row in the group


class RowIndex:
    """The locations of many images in stored order; a million take about 16 MB beside their ids.

    Args:
        ids: N image ids.
        numbers: N×4 int32: label, index into `shards`, row group, row.
        sharp: for each low-resolution image by its index the last three of these for the sharp image of the same
            photograph, or None where there is none.
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

    def __iter__(self) -> Iterator[FaceLocation]:
        return map(self.__getitem__, range(len(self)))

    def is_low(self, index: int) -> bool:
        """Whether the table marks an image as low resolution."""
        return index in self._sharp

    def sharp(self, index: int) -> FaceLocation | None:
        """The location of the sharp image of the same photograph, with the low one's id and class.

        None where there is none, or the image is not of low resolution.
        """
        location = self._sharp.get(index)
        if location is None:
            return None
        low, (shard, group, row) = self[index], location
        return FaceLocation(low.image_id, low.label, self.shards[shard], group, row)

    def low(self) -> "RowIndex":
        """The low-resolution images that have a sharp one."""
        chosen = sorted(index for index, location in self._sharp.items() if location is not None)
        rows = np.array(chosen, np.int64)
        sharp = {new: self._sharp[old] for new, old in enumerate(chosen)}
        return RowIndex(self.shards, self._ids.take(pa.array(rows)), self._numbers[rows], sharp)

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class of each image, N."""
        return self._numbers[:, 0]

    def group_starts(self) -> NDArray[np.int64]:
        """The index of the first image of each row group that holds any, and at the end the number of images."""
        new = (np.diff(self._numbers[:, 1:3], axis=0, prepend=-1) != 0).any(axis=1)
        return np.append(np.flatnonzero(new), len(self))


def row_index(table: Table, labels: dict[str, int]) -> RowIndex:
    """Indexes the face crops that have a label (class by image id); reads only the columns of ids and groups.

    Raises:
        KubefaceError: a shard that cannot be read, or two sharp images of one photograph.
    """
    ids = [pa.array([], pa.string())]
    numbers = [np.empty((0, 4), np.int32)]
    low: dict[str, int] = {}
    count = 0
    for shard, group, columns in table.arrow_groups(["image_id", "groups"]):
        image_ids = columns["image_id"].combine_chunks()
        names, groups = image_ids.to_pylist(), columns["groups"].to_pylist()
        rows = [row for row, image_id in enumerate(names) if image_id in labels]
        low |= {names[row]: count + index for index, row in enumerate(rows) if resolution_of(groups[row]) == LOW}
        count += len(rows)
        if rows:
            numbers.append(np.array([(labels[names[row]], shard, group, row) for row in rows], np.int32))
            ids.append(image_ids.take(pa.array(rows)))
    return RowIndex(table.paths, pa.concat_arrays(ids), np.concatenate(numbers), _sharp(table, low) if low else {})


def _sharp(table: Table, low: dict[str, int]) -> dict[int, tuple[int, int, int] | None]:
    """The location (shard, row group, row) of each low image's sharp partner, by the low image's index.

    `low` gives the index of each low image by its id.
    """
    pairs = partners(table)
    wanted = {pairs[image_id]: index for image_id, index in low.items() if image_id in pairs}
    locations: dict[int, tuple[int, int, int] | None] = dict.fromkeys(low.values())
    for shard, group, columns in table.arrow_groups(["image_id"]):
        for row, image_id in enumerate(columns["image_id"].to_pylist()):
            if image_id in wanted:
                locations[wanted[image_id]] = shard, group, row
    return locations


class Reader:
    """Reads crops by location; the last `WINDOW` row groups are kept as encoded bytes.

    Raises:
        KubefaceError: a shard that cannot be read or an image that cannot be decoded.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[Path | RemoteFile, int], list[bytes]] = OrderedDict()

    def __call__(self, location: FaceLocation) -> RGB:
        """The crop as stored, H×W×3 uint8."""
        data = self._bytes(location)
        try:
            return decode_rgb(data)
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            raise KubefaceError(
                f"image {location.image_id} in {location.shard} cannot be decoded: run the step that wrote it again"
            ) from error

    def _bytes(self, location: FaceLocation) -> bytes:
        key = (location.shard, location.group)
        if key not in self._groups:
            with open_shard(location.shard) as file:
                self._groups[key] = file.read_row_group(location.group, columns=["image"])["image"].to_pylist()
            if len(self._groups) > WINDOW:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key][location.row]
