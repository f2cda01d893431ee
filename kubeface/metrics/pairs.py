"""Pairs of images by index: genuine and impostor pairs, their cosine similarities, and which pairs are scored."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Pairs of images by index: left, right (N, int64) and whether they show one person (N, bool)."""

    left: Ints
    right: Ints
    same: Bools

    def __len__(self) -> int:
        return len(self.same)

    def take(self, chosen: Bools | Ints) -> "Pairs":
        """Some of the pairs, by a mask or by index."""
        return Pairs(self.left[chosen], self.right[chosen], self.same[chosen])

    def of_kind(self, same: bool) -> "Pairs":
        """The genuine pairs (True) or the impostor pairs (False), in their order."""
        return self.take(self.same == same)

    def swapped(self) -> "Pairs":
        """The same pairs with left and right exchanged."""
        return Pairs(self.right, self.left, self.same)

    def scores(self, embeddings: Vectors, right: Vectors | None = None) -> Floats:
        """Cosine similarity of each pair (N, −1…1) from unit-length embeddings (images×D), in flat memory.

        The right image of each pair is looked up in `right`, other embeddings of the same images, where there are some.
        """
        right = embeddings if right is None else right
        parts = [
            np.einsum("nd,nd->n", embeddings[self.left[part]], right[self.right[part]], dtype=np.float64)
            for part in np.array_split(np.arange(len(self)), max(1, len(self) // 65536))
        ]
        return np.concatenate(parts)


def all_pairs(people: Ints, limit: int, seed: int = 0) -> Pairs:
    """Every pair of images by the person's number of each (N, int64), or a random choice of them.

    Beyond `limit` there are all genuine pairs, up to half of the limit, and impostor pairs drawn at random.
    """
    total = len(people) * (len(people) - 1) // 2
    if total <= limit:
        left, right = np.triu_indices(len(people), 1)
        return Pairs(left, right, people[left] == people[right])
    random = np.random.default_rng(seed)
    genuine = []
    for person in np.unique(people):
        images = np.flatnonzero(people == person)
        left, right = np.triu_indices(len(images), 1)
        genuine.append(np.stack([images[left], images[right]], 1))
    chosen = np.concatenate(genuine)
    if len(chosen) > limit // 2:
        chosen = chosen[np.sort(random.choice(len(chosen), limit // 2, replace=False))]
    draws = random.integers(0, len(people), (2 * (limit - len(chosen)), 2))
    draws = np.sort(draws[people[draws[:, 0]] != people[draws[:, 1]]], axis=1)
    impostors = random.permutation(np.unique(draws, axis=0))[: limit - len(chosen)]  # unique() sorts
    both = np.concatenate([chosen, impostors])
    return Pairs(both[:, 0], both[:, 1], people[both[:, 0]] == people[both[:, 1]])
