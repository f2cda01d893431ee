"""Random generators and orders that depend on a key alone, not on what was drawn before."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray


def keyed_rng(*key: object) -> np.random.Generator:
    """A generator that depends on its key alone (seed, purpose, epoch, image id …), in any process."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def text_digest(*parts: object) -> bytes:
    """The SHA-256 of texts with a zero byte between them; those that are no UTF-8 are taken by their bytes."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()


def rank(seed: int, name: str) -> bytes:
    """A sort key that shuffles names; a name's key does not depend on the other names."""
    return text_digest(seed, name)


def stored_name(source: str, identity: str, resolution: str | None) -> str:
    """The name by which a row is ranked: the source, or for an image of a resolution (low or high) what pairs share.

    So the two images of a pair become neighbours, whatever folders they lie in.
    """
    return f"{identity}\0{PurePosixPath(source).stem}" if resolution else source


def by_rank(seed: int, names: Iterable[str]) -> NDArray[np.int64]:
    """The indices of the names in the order of their ranks, equal ranks in the given order; takes 32 bytes a name."""
    digests = bytearray()  # join() would hold a bytes object for each
    for name in names:
        digests += rank(seed, name)
    words = np.frombuffer(digests, ">u8").reshape(-1, 4)
    return np.lexsort(words.T[::-1]).astype(np.int64)
