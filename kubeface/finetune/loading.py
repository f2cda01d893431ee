"""Batches of crops on the device that trains."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kubeface.faces.degradation import Degradation
from kubeface.finetune.data import Batches, FaceCrops, InOrder, collate, loaded
from kubeface.finetune.label_aware_augmentation import LabelAwareAugmentation
from kubeface.finetune.objectives import repeat_factors
from kubeface.finetune.setup import TrainingSetup
from kubeface.records.tasks import ATTRIBUTES
from kubeface.tables.row_index import RowIndex


class CropLoader:
    """Reads a training's images.

    Args:
        setup: the training.
        device: where batches go.
    """

    def __init__(self, setup: TrainingSetup, device: torch.device) -> None:
        self._setup, self._device = setup, device
        data = setup.data
        self._factors = repeat_factors(data.targets[data.train.labels]) if data.task == ATTRIBUTES else None

    def batches(self, least: int) -> Batches:
        """The keys of an epoch's batches.

        Args:
            least: images that each process needs in a batch.
        """
        options, group = self._setup.options, self._setup.group
        factors = self._factors if options.balance == "sampler" else None
        return Batches(self._setup.data.train, options.batch_size, options.seed, options.balance, group, least, factors)

    def training(self, sampler: Batches, clean: bool) -> DataLoader[Any]:
        """Augmented, degraded crops of the training images with their labels, a batch at a time.

        Args:
            sampler: which images come.
            clean: whether each batch begins with the clean crops.
        """
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
        sampler = InOrder(len(index), group.rank, group.size)
        size = max(1, options.batch_size // group.size)
        for batch in loaded(DataLoader(crops, batch_size=size, sampler=sampler, **self._arguments())):
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
