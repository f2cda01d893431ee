"""Groups of things that belong together, over arrays."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Groups:
    """Union-find over 0 … size − 1; the root of a group is its least number."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size, dtype=np.int32)

    def root(self, item: int) -> int:
        """The least number in the group of an item."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = int(parent[item])
        return int(item)

    def join(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Puts the two of each pair into one group."""
        for left, right in pairs:
            a, b = self.root(left), self.root(right)
            self._parent[max(a, b)] = min(a, b)

    def roots(self) -> Ints:
        """The root of every item."""
        found = self._parent
        while True:  # a root is never above its item, so that this ends with every item at its root
            further = found[found]
            if np.array_equal(further, found):
                return found.astype(np.int64)
            found = further


def equal_neighbours(keys: NDArray[np.generic], reach: int) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of places with the same key: each with the next `reach` of its like.

    In the order of the keys; with `reach` 1 every group of equal keys is connected. Neither time nor memory grows
    faster than reach × places (but for the sorting), whatever the groups' sizes.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for step in range(1, reach + 1):
        same = np.flatnonzero(ordered[step:] == ordered[:-step])
        if not len(same):
            return
        yield order[same], order[same + step]


def rounded(cosines: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosines to four places, so that nothing hangs on the order in which a machine adds."""
    return np.asarray(np.round(np.asarray(cosines, np.float64), 4), np.float64)


def several(keys: NDArray[np.integer]) -> Iterator[Ints]:
    """The places of each key that stands at several, rising."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    inside = np.zeros(len(keys), np.bool_)
    inside[1:] |= same
    inside[:-1] |= same
    members = order[inside]
    if len(members):
        ends = [*np.flatnonzero(np.diff(keys[members])) + 1, len(members)]
        for start, end in zip([0, *ends], ends, strict=False):
            yield members[start:end]
