"""Crops of training images: in what order they come, augmented and degraded, the same in any process."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB
from kubeface.finetune.augment import MOST_BLENDED, Augmentation, LabelAwareAugmentation, blend
from kubeface.finetune.distributed import Group
from kubeface.finetune.objectives import repeat_factors
from kubeface.finetune.training_data import TrainingSetup
from kubeface.records.tasks import ATTRIBUTES
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.tables.row_index import WINDOW, Reader, RowIndex

# What a key's epoch grows by each time that an image comes again within one epoch.
AGAIN = 1_000_000


class FaceCrops(Dataset[tuple[Any, ...]]):
    """Crops by key (index into the row index, epoch): the clean crop, the one to train on (3×H×W uint8), the class.

    The clean crop is what a teacher sees: as stored, and in training changed by `augmentation.both` and blended with
    another of its row group where `augmentation.mix` says so. The other is a copy of it, in training changed by
    `augmentation.student`, then degraded. The clean crop of a low-resolution image is the sharp image of the same
    photograph, where there is one; both are changed alike, and it is not degraded any further. All of it depends on the
    seed, the image and the key's epoch alone. Row groups are read on demand, and the last `WINDOW` of them kept.

    Args:
        seed: of training; without augmentation an image is degraded alike always, as the evaluation does it.
        augmentation: given in training, None in validation.
        degrade: share of the training crops that are degraded, 0 to 1.
        clean: whether the clean crop is wanted; items are (crop to train on, class) without it.

    Raises:
        KubefaceError: on access, for a shard that cannot be read or an image that cannot be decoded.
    """

    def __init__(
        self,
        found: RowIndex,
        degradation: Degradation,
        seed: int,
        augmentation: Augmentation | None = None,
        degrade: float = 1.0,
        clean: bool = True,
        aware: LabelAwareAugmentation | None = None,
    ) -> None:
        self.row_index, self.degradation, self.seed, self.augmentation = found, degradation, seed, augmentation
        self.degrade, self.clean, self.aware = degrade, clean, aware
        self._starts = found.group_starts()
        self.image = Reader()

    def __len__(self) -> int:
        return len(self.row_index)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        index, epoch = key
        place = self.row_index[index]
        if self.augmentation is None:
            clean, degraded = self._views(index)
            if not self.row_index.is_low(index):
                degraded = self.degradation(degraded, "probe", place.image_id)
        else:
            random = keyed_rng(self.seed, "augment", epoch, place.image_id)
            change = self.aware.of(place.label) if self.aware else self.augmentation
            clean, degraded = self._changed(index, change, random)
            if change.mixes(random):
                other, other_degraded = self._changed(self._neighbour(index, random), change, random)
                share = random.uniform(0, MOST_BLENDED)
                alike = degraded is clean and other_degraded is other
                clean = blend(clean, other, share)
                degraded = clean if alike else blend(degraded, other_degraded, share)
            degraded = change.student(degraded, random)
            if not self.row_index.is_low(index) and random.random() < self.degrade:
                degraded = self.degradation(degraded, self.seed, "train", epoch, place.image_id)
        item = torch.from_numpy(degraded).permute(2, 0, 1), place.label
        return (torch.from_numpy(clean).permute(2, 0, 1), *item) if self.clean else item

    def _views(self, index: int) -> tuple[RGB, RGB]:
        """The sharp image of a photograph and the image itself, which is the same one but of low images."""
        own, sharp = self.image(self.row_index[index]), self.row_index.sharp(index)
        return (own if sharp is None else self.image(sharp)), own

    def _changed(self, index: int, change: Augmentation, random: np.random.Generator) -> tuple[RGB, RGB]:
        """Both views, changed alike."""
        sharp, own = self._views(index)
        if sharp is own:
            changed = change.both(own, random)
            return changed, changed
        alike = copy.deepcopy(random)
        return change.both(sharp, random), change.both(own, alike)

    def _neighbour(self, index: int, random: np.random.Generator) -> int:
        """Another image of the same row group, which is read already and holds people in random order."""
        last = int(np.searchsorted(self._starts, index, "right"))
        first, end = self._starts[last - 1], self._starts[last]
        return int(first + (index - first + random.integers(1, max(2, end - first))) % (end - first))


def collate(items: list[tuple[Any, ...]]) -> list[Tensor]:
    """torch's default_collate for items of FaceCrops; a batch (N×3×H×W) is channels last, as the crops and networks."""
    crops = [tuple(part.permute(1, 2, 0) if isinstance(part, Tensor) else part for part in item) for item in items]
    batch: list[Tensor] = default_collate(crops)
    return [part.permute(0, 3, 1, 2) if part.ndim == 4 else part for part in batch]


class Batches(Sampler[list[tuple[int, int]]]):
    """The keys of one process's share of every batch of an epoch; a DataLoader's batch_sampler.

    The order of an epoch depends on the seed and the epoch alone: every index once, shuffled within windows of
    `WINDOW` row groups that are themselves shuffled, which keeps reading sequential and memory flat. The process of
    each rank gets the images at rank, rank + replicas, … of every batch, so that all together see what one would.

    The last batch of an epoch may be smaller, and its remainder goes to the first ranks: average over ranks by the
    sizes of their shares. If it does not give each process `least` images it is left out, so that all make the same
    number of steps. Call `set_epoch` before each epoch.

    Args:
        batch_size: images in a step over all processes.
        balance: with "sampler" as many images are drawn for an epoch as there are, from every class equally many (or
            one more), and within a class each image equally often (or once more), others in each epoch; an image that
            comes again has AGAIN added to its key's epoch, so that it is augmented in another way. "none" and "loss"
            take each image once.
        least: images that each process needs in a batch; 2 where batch norm learns from them.
        factors: for attributes with "sampler", in proportion to which each image is drawn (N, repeat_factors).

    Raises:
        KubefaceError: a batch size that cannot be divided, or fewer images than are needed.
    """

    def __init__(
        self,
        found: RowIndex,
        batch_size: int,
        seed: int,
        balance: str = "none",
        group: Group = Group(),
        least: int = 1,
        factors: NDArray[np.float64] | None = None,
    ) -> None:
        replicas = group.size
        require(
            batch_size >= least * replicas and batch_size % replicas == 0,
            f"batch_size is {batch_size}: it must be a multiple of the {replicas} processes and at least "
            f"{least * replicas}",
        )
        rest = len(found) % batch_size
        self.images = len(found) - (rest if rest < least * replicas else 0)
        require(
            self.images > 0,
            f"{len(found)} images are too few to train on: {replicas} processes need at least {least} each",
        )
        self.batch_size, self.seed, self.rank, self.replicas = batch_size, seed, group.rank, replicas
        self.epoch, self.start = 0, 0
        self._starts = found.group_starts()
        self._labels = found.labels if balance == "sampler" else None
        self._factors = factors

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Chooses the epoch that comes next, and how many of its batches are done already."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it is begun."""
        return -(-self.images // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        keys = self._order()[: self.images]
        for batch in range(self.start, len(self)):
            share = keys[batch * self.batch_size : (batch + 1) * self.batch_size][self.rank :: self.replicas]
            yield [(index, epoch) for index, epoch in share.tolist()]

    def drawn(self) -> NDArray[np.int64]:
        """The images of the epoch over all processes, by index; one that comes again stands there again."""
        return self._order()[: self.images, 0]

    def _order(self) -> NDArray[np.int64]:
        """The keys of the epoch over all processes, N×2."""
        random = keyed_rng(self.seed, "order", self.epoch)
        times = self._times()
        groups = random.permutation(len(self._starts) - 1)
        windows = []
        for first in range(0, len(groups), WINDOW):
            chosen = groups[first : first + WINDOW]
            images = np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in chosen])
            counts = times[images]
            keys = np.stack([np.repeat(images, counts), self.epoch + AGAIN * _numbers(counts)], axis=1)
            windows.append(keys[random.permutation(len(keys))])
        return np.concatenate(windows)

    def _times(self) -> NDArray[np.int64]:
        """How often each image comes in the epoch, N."""
        if self._labels is None:
            return np.ones(self._starts[-1], np.int64)
        random = keyed_rng(self.seed, "balance", self.epoch)
        if self._factors is not None:
            return _in_proportion(self._factors, len(self._factors), random)
        _, classes, sizes = np.unique(self._labels, return_inverse=True, return_counts=True)
        each, more = divmod(len(classes), len(sizes))
        quota = np.full(len(sizes), each)
        quota[random.permutation(len(sizes))[:more]] += 1
        shuffled = random.permutation(len(classes))
        images = shuffled[np.argsort(classes[shuffled], kind="stable")]  # class by class, in random order within
        wanted, there = np.repeat(quota, sizes), np.repeat(sizes, sizes)
        times = np.empty(len(images), np.int64)
        times[images] = wanted // there + (_numbers(sizes) < wanted % there)
        return times


def _in_proportion(factors: NDArray[np.float64], total: int, random: np.random.Generator) -> NDArray[np.int64]:
    """How often each is drawn, `total` times together: its share of the factors, rounded up or down (N).

    Systematic sampling: on a line of the images in random order, each as long as its share, `total` equidistant marks.
    """
    shuffled = random.permutation(len(factors))
    ends = np.cumsum(factors[shuffled])
    marks = np.floor(ends / ends[-1] * total + random.random())
    times = np.empty(len(factors), np.int64)
    times[shuffled] = np.diff(marks, prepend=0)
    return times


def _numbers(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 … count − 1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader; a KubefaceError in one of its processes comes out as the line it was raised with."""
    try:
        yield from loader
    except KubefaceError as error:  # torch puts the traceback of the process in front of the message
        error.__traceback__ = None  # else it lives on in a cycle with the loader, whose collection waits for 5 seconds
        raise KubefaceError(str(error).rpartition("KubefaceError: ")[2].strip()) from None


class CropLoader:
    """Reads a training's images, to the device that trains."""

    def __init__(self, setup: TrainingSetup, device: torch.device) -> None:
        self._setup, self._device = setup, device
        data = setup.data
        self._factors = repeat_factors(data.targets[data.train.labels]) if data.task == ATTRIBUTES else None

    def batches(self, least: int) -> Batches:
        """The keys of an epoch's batches, of which each has at least so many images for every process."""
        options, group = self._setup.options, self._setup.group
        factors = self._factors if options.balance == "sampler" else None
        return Batches(self._setup.data.train, options.batch_size, options.seed, options.balance, group, least, factors)

    def training(self, sampler: Batches, clean: bool) -> DataLoader[Any]:
        """Augmented, degraded crops of the training images with their labels, a batch at a time; with `clean` each
        batch begins with the clean crops."""
        setup = self._setup
        crops = FaceCrops(
            setup.data.train, setup.degradation, setup.options.seed, setup.augmentation, setup.options.degrade,
            clean=clean, aware=self._label_aware(),
        )  # fmt: skip
        return DataLoader(crops, batch_sampler=sampler, persistent_workers=setup.workers > 0, **self._arguments())

    def in_order(self, index: RowIndex, degradation: Degradation) -> Iterator[list[Tensor]]:
        """Batches of (clean crops, degraded crops, labels) of this process's share, without augmentation."""
        options, group = self._setup.options, self._setup.group
        crops = FaceCrops(index, degradation, options.seed)
        keys = ((number, 0) for number in range(group.rank, len(index), group.size))
        size = max(1, options.batch_size // group.size)
        for batch in loaded(DataLoader(crops, batch_size=size, sampler=keys, **self._arguments())):
            yield self.moved(batch)

    def moved(self, batch: list[Tensor]) -> list[Tensor]:
        """A batch on the device."""
        return [tensor.to(self._device, non_blocking=True) for tensor in batch]

    def _label_aware(self) -> LabelAwareAugmentation | None:
        """The augmentation that heeds labels, where the options ask for it."""
        data = self._setup.data
        if not self._setup.options.label_aware or self._factors is None:
            return None
        rare = np.zeros(len(data.targets), bool)
        rare[data.train.labels] = self._factors > 1
        return LabelAwareAugmentation(self._setup.augmentation, data.labels, data.targets, rare)

    def _arguments(self) -> dict[str, Any]:
        workers = self._setup.workers
        prefetch = {"prefetch_factor": 4} if workers else {}
        cuda = self._device.type == "cuda"
        return {"collate_fn": collate, "num_workers": workers, "pin_memory": cuda, **prefetch}
