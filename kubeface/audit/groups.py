"""Rows that belong together: union-find and equal keys over arrays."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Flags = NDArray[np.bool_]


class DisjointSets:
    """Union-find over 0 … size − 1; the root of a set is its least number."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size, dtype=np.int32)

    def root(self, item: int) -> int:
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = int(parent[item])
        return int(item)

    def join(self, pairs: Iterable[tuple[int, int]]) -> None:
        for left, right in pairs:
            a, b = self.root(left), self.root(right)
            self._parent[max(a, b)] = min(a, b)

    def join_rows(self, left: Ints, right: Ints) -> None:
        self.join(zip(left.tolist(), right.tolist(), strict=True))

    def roots(self) -> Ints:
        roots = self._parent
        while True:  # a root is never above its item, so that this ends with every item at its root
            further = roots[roots]
            if np.array_equal(further, roots):
                return roots.astype(np.int64)
            roots = further


def equal_pairs(keys: NDArray[np.generic], reach: int) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows with the same key: each row with the next `reach` rows of that key.

    With `reach` 1 all rows of a key are connected. Time and memory grow with reach × rows (sorting aside), however many
    rows share a key.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for step in range(1, reach + 1):
        same = np.flatnonzero(ordered[step:] == ordered[:-step])
        if not len(same):
            return
        yield order[same], order[same + step]


def groups_of_equal(keys: NDArray[np.integer]) -> Iterator[Ints]:
    """The rows of each key that several rows have, ascending."""
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


def round_cosines(cosines: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosines to four places, so that no decision depends on the order in which a machine adds."""
    return np.asarray(np.round(np.asarray(cosines, np.float64), 4), np.float64)
