"""Embeddings of crops, with and without flip test-time augmentation."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Model(Protocol):
    """What is measured: an exported model, or one of torch."""

    def embed(self, crops: NDArray[np.uint8], flip: bool = False) -> Vectors:
        """Unit-length embeddings (N×D) of RGB crops (N×H×W×3), of their mirror images with `flip`."""
        ...


def embed_batch(model: Model, crops: NDArray[np.uint8]) -> tuple[Vectors, Vectors]:
    """Unit-length embeddings of crops (N×H×W×3, uint8) and of their mirror images, each N×D."""
    return model.embed(crops), model.embed(crops, flip=True)


@dataclass
class Embeddings:
    """Embeddings collected batch by batch."""

    _plain: list[Vectors] = field(default_factory=list)
    _mirrored: list[Vectors] = field(default_factory=list)

    def append(self, plain: Vectors, mirrored: Vectors) -> None:
        """Adds a batch, N×D each."""
        self._plain.append(plain)
        self._mirrored.append(mirrored)

    def extend(self, other: "Embeddings") -> None:
        """Adds another collection behind this one."""
        self._plain += other._plain
        self._mirrored += other._mirrored

    def plain(self) -> Vectors:
        """Embeddings of the crops as they are, images×D."""
        return np.concatenate(self._plain)

    def flipped(self) -> Vectors:
        """Flip test-time augmentation: the direction of the sum of both embeddings, images×D of unit length."""
        both = self.plain() + np.concatenate(self._mirrored)
        return np.asarray(both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12), np.float32)
