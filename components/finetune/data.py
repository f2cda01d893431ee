"""Training images out of face tables: shuffled, augmented and degraded alike in any process, in flat memory."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms.v2 import functional

from components.faces.degrade import Degradation
from components.faces.images import RGB, decode_rgb
from components.faces.seeded import seeded
from components.faces.table import Table

# Row groups that are shuffled together and kept decoded to bytes: 16 × 128 crops of about 20 KB are 40 MB.
WINDOW = 16


@dataclass(frozen=True)
class Place:
    """Where an image stands: its shard, row group and row, with its id and class."""

    image_id: str
    label: int
    shard: Path
    group: int
    row: int


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training crop: mirrored with this probability; brightness, contrast and saturation
    each multiplied by a factor drawn from 1 ± jitter."""

    flip: float = 0.5
    jitter: float = 0.0

    def __call__(self, image: RGB, random: np.random.Generator) -> RGB:
        if random.random() < self.flip:
            image = image[:, ::-1]
        if self.jitter > 0:
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
            for change in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
                pixels = change(pixels, float(random.uniform(1 - self.jitter, 1 + self.jitter)))
            image = pixels.permute(1, 2, 0).numpy()
        return np.ascontiguousarray(image)


def places(table: Table, labels: dict[str, int]) -> list[Place]:
    """The places of the images that have a label, in stored order; reads the id column alone."""
    found = []
    for path in table.paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
                found += [Place(i, labels[i], path, group, row) for row, i in enumerate(ids) if i in labels]
    return found


class FaceCrops(Dataset[tuple[Tensor, Tensor, int]]):
    """Crops by (index into places, epoch): the clean crop, the degraded one (both 3×H×W uint8), the class.

    Row groups are read on demand and the last `WINDOW` of them kept.
    """

    def __init__(
        self, found: list[Place], degradation: Degradation, seed: int, augmentation: Augmentation | None = None
    ) -> None:
        self.places, self.degradation, self.seed, self.augmentation = found, degradation, seed, augmentation
        self._groups: OrderedDict[tuple[Path, int], list[bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        index, epoch = key
        place = self.places[index]
        clean = decode_rgb(self._bytes(place))
        if self.augmentation is not None:
            clean = self.augmentation(clean, seeded(self.seed, "augment", epoch, place.image_id))
            bad = self.degradation(clean, self.seed, "train", epoch, place.image_id)
        else:
            bad = self.degradation(clean, "probe", place.image_id)
        return torch.from_numpy(clean).permute(2, 0, 1), torch.from_numpy(bad).permute(2, 0, 1), place.label

    def _bytes(self, place: Place) -> bytes:
        key = (place.shard, place.group)
        if key not in self._groups:
            with pq.ParquetFile(place.shard) as file:
                self._groups[key] = file.read_row_group(place.group, columns=["image"])["image"].to_pylist()
            if len(self._groups) > WINDOW:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key][place.row]


class WindowShuffle(Sampler[tuple[int, int]]):
    """Every index once an epoch, shuffled within windows of row groups that are themselves shuffled.

    The rows of a table are stored in random order already; this keeps reading sequential and memory flat.
    Call `set_epoch` before each epoch.
    """

    def __init__(self, found: list[Place], seed: int) -> None:
        self.seed, self.epoch, self.length = seed, 0, len(found)
        groups: dict[tuple[Path, int], list[int]] = {}
        for index, place in enumerate(found):
            groups.setdefault((place.shard, place.group), []).append(index)
        self._groups = list(groups.values())

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = seeded(self.seed, "order", self.epoch)
        order = random.permutation(len(self._groups))
        for start in range(0, len(order), WINDOW):
            window = [index for group in order[start : start + WINDOW] for index in self._groups[group]]
            for position in random.permutation(len(window)):
                yield window[position], self.epoch


class InOrder(Sampler[tuple[int, int]]):
    """Every index once, in stored order."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((index, 0) for index in range(self.length))
