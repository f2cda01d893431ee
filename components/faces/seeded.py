"""Random numbers that depend on what they are for, and on nothing that happened before."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def seeded(*key: object) -> np.random.Generator:
    """A generator that depends on its key alone (seed, purpose, epoch, image id …), in whichever process."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def rank(seed: int, name: str) -> bytes:
    """A sort key that shuffles names alike, whatever other names there are."""
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def by_rank(seed: int, names: Iterable[str]) -> NDArray[np.int64]:
    """The places of the names in the order of their ranks; 32 bytes a name are held."""
    digests = bytearray()  # join() would hold them all as objects first
    for name in names:
        digests += rank(seed, name)
    words = np.frombuffer(digests, ">u8").reshape(-1, 4)
    return np.lexsort(words.T[::-1]).astype(np.int64)
