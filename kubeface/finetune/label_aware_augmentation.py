"""Augmentation by label: leaves out changes that would make a label wrong, and changes images of rare labels more."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface.finetune.augment import Augmentation
from kubeface.tables.labels import UNKNOWN

COLOURS, EDGES = ("jitter", "greyscale"), ("cutout", "crop")
# CelebA's names (and other tables' that are alike) without the labels that survive everything. A change can hide
# what an image shows, so that a positive becomes wrong …
HIDES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"), COLOURS),
    **dict.fromkeys(("Heavy_Makeup", "Pale_Skin", "Rosy_Cheeks", "Wearing_Lipstick"), COLOURS),
    **dict.fromkeys(("Eyeglasses", "Goatee", "Mustache", "Sideburns", "Bangs"), EDGES),
    **dict.fromkeys(("Bald", "Receding_Hairline", "Wearing_Hat"), EDGES),
    **dict.fromkeys(("Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie"), EDGES),
}
# … or show what it did not, so that a negative becomes wrong.
FAKES: dict[str, tuple[str, ...]] = {
    "Blurry": ("blur", "low_resolution", "jpeg"),
    **dict.fromkeys(("Black_Hair", "Gray_Hair", "Pale_Skin"), ("greyscale",)),
}
SIDED = re.compile(r"(?:^|[\W_])(left|right)(?:$|[\W_])", re.IGNORECASE)  # a mirror image has them the other way round
STRONGER = 1.5  # of probabilities and of jitter, for images of rare labels
STRONG = ("crop", "warp", "jitter", "cutout", "blur", "low_resolution", "greyscale", "jpeg")


class LabelAwareAugmentation:
    """The augmentation of each image by its labels.

    Args:
        augmentation: of an image whose labels survive all of it.
        names: of the L labels.
        targets: R×L: 1, 0, −1 where not known.
        rare: R, which of the rows show a rare label: their changes are half as likely and strong again.
    """

    def __init__(
        self, augmentation: Augmentation, names: Sequence[str], targets: NDArray[np.int8], rare: NDArray[np.bool_]
    ) -> None:
        self._augmentation, self._names, self._targets, self._rare = augmentation, tuple(names), targets, rare

    def of(self, row: int) -> Augmentation:
        """The augmentation of the image whose labels stand in this row."""
        change = self._augmentation
        if self._rare[row]:
            # Jitter must stay under 1; what happens to all crops anyway goes on doing so.
            strong = {name: max(getattr(change, name), min(0.99, STRONGER * getattr(change, name))) for name in STRONG}
            change = _with(change, strong)
        wrong = {
            kind
            for name, value in zip(self._names, self._targets[row], strict=True)
            if value != UNKNOWN
            for kind in harmful_changes(name, bool(value))
        }
        return _with(change, dict.fromkeys(wrong, 0.0)) if wrong else change


def _with(augmentation: Augmentation, values: dict[str, Any]) -> Augmentation:
    return replace(augmentation, **values)


def harmful_changes(name: str, shown: bool) -> tuple[str, ...]:
    """The changes that would make this label wrong, by the names that Augmentation has for them.

    Args:
        name: of the label; one that is not in the tables survives all, but for a side.
        shown: whether the image shows it.
    """
    sided = ("flip",) if SIDED.search(name) else ()
    return (*sided, *(HIDES.get(name, ()) if shown else FAKES.get(name, ())))
