"""The images that a super-resolution network is trained on: low resolution in, the sharp face out."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kubeface.faces.images import RGB
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.superresolve.degradation import low_resolution
from kubeface.superresolve.options import CameraOptions
from kubeface.tables.row_index import WINDOW, Reader, RowIndex, row_index
from kubeface.tables.table import Table


class TrainingPairs(Dataset[tuple[Tensor, Tensor]]):
    """Low-resolution image (3×h×h) and sharp crop (3×H×H), both uint8, by key (index, epoch).

    Of a table with pairs they are the low image, reduced to its own resolution again, and its sharp partner; otherwise
    the crop and its copy from a poor camera. Where `augmented`, the camera is drawn anew in each epoch, and half of the
    images are mirrored. The scale is H / h.
    """

    def __init__(self, images: RowIndex, scale: int, seed: int, augmented: bool) -> None:
        self.images, self._scale, self._seed, self._augmented = images, scale, seed, augmented
        self._camera = CameraOptions()
        self._read = Reader()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, epoch = key
        location = self.images[index]
        own, partner = self._read(location), self.images.sharp(index)
        random = keyed_rng(self._seed, "pair", epoch if self._augmented else 0, location.image_id)
        sharp = own if partner is None else self._read(partner)
        height, width = sharp.shape[0] // self._scale, sharp.shape[1] // self._scale
        if partner is None:
            low = low_resolution(own, width, height, self._camera, random)
        else:
            low = np.asarray(cv2.resize(own, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        if self._augmented and random.random() < 0.5:
            low, sharp = low[:, ::-1], sharp[:, ::-1]
        return channels_first(low), channels_first(sharp)

    def shuffled(self, epoch: int) -> Sequence[int]:
        """Every index once, shuffled within windows of row groups that are themselves shuffled."""
        random, starts = keyed_rng(self._seed, "order", epoch), self.images.group_starts()
        groups = random.permutation(len(starts) - 1)
        order: list[int] = []
        for first in range(0, len(groups), WINDOW):
            window = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups[first : first + WINDOW]])
            order += random.permutation(window).tolist()
        return order


def channels_first(image: RGB) -> Tensor:
    """H×W×3 to 3×H×W."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def find_images(table: Table, split: Table) -> tuple[RowIndex, RowIndex, list[str]]:
    """The rows of the images to train on and to validate on, and the identities of both, sorted.

    Where both parts have pairs, of the pairs the low images alone.

    Raises:
        KubefaceError: no image to train or to validate on.
    """
    rows = split.columns(["image_id", "identity", "split"]).to_pylist()
    chosen = {part: {row["image_id"]: 0 for row in rows if row["split"] == part} for part in ("train", "val")}
    images = {part: row_index(table, wanted) for part, wanted in chosen.items()}
    if all(len(part.low()) for part in images.values()):
        images = {name: part.low() for name, part in images.items()}
    for name, part in images.items():
        require(len(part) > 0, f"{split.folder} has no image for {name} in {table.folder}: run split on this table")
    identities = sorted({row["identity"] for row in rows if row["split"] in images})
    return images["train"], images["val"], identities
