"""Random numbers that depend on what they are for, and on nothing that happened before."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray


def keyed_rng(*key: object) -> np.random.Generator:
    """A generator that depends on its key alone (seed, purpose, epoch, image id …), in whichever process."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def rank(seed: int, name: str) -> bytes:
    """A sort key that shuffles names alike, whatever other names there are."""
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def stored_name(source: str, identity: str, resolution: str | None) -> str:
    """What a table's row is ranked by: its source, and where it is one of a pair what both images of that share.

    So the two of a pair get neighbouring places, whatever folders they lie in; names of one rank keep their order.

    Args:
        source: name of the file below the source.
        identity: the person.
        resolution: low or high, None where the image is neither.
    """
    return f"{identity}\0{PurePosixPath(source).stem}" if resolution else source


def by_rank(seed: int, names: Iterable[str]) -> NDArray[np.int64]:
    """The places of the names in the order of their ranks, equal names in their own; 32 bytes a name are held."""
    digests = bytearray()  # join() would hold them all as objects first
    for name in names:
        digests += rank(seed, name)
    words = np.frombuffer(digests, ">u8").reshape(-1, 4)
    return np.lexsort(words.T[::-1]).astype(np.int64)
