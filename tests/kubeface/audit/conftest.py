"""Photographs to audit, and embeddings that are computed once."""

from functools import cache

import numpy as np
import pytest

import kubeface.audit.step as step
from kubeface.audit.embeddings import Embedder, Vectors, sface
from kubeface.faces.images import RGB


@pytest.fixture(scope="session")
def people(orl: dict[str, bytes]) -> dict[str, list[bytes]]:
    """Ten photographs of each of ORL's forty people."""
    return {
        f"s{person}": [orl[f"s{person}/{number}.pgm"] for number in range(1, 11)] for person in range(1, 41)
    }  # fmt: skip


@cache
def _remembering_sface() -> Embedder:
    embed = sface()

    @cache
    def of(data: bytes, shape: tuple[int, ...]) -> Vectors:
        return embed(np.frombuffer(data, np.uint8).reshape(shape))

    def remembering(crop: RGB) -> Vectors:
        return of(crop.tobytes(), crop.shape)

    return remembering


@pytest.fixture(autouse=True)
def embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit embeds a crop once for all tests; a test of SFace itself takes it from kubeface.audit.embeddings."""
    _remembering_sface()  # with the weights' path in the cache of the machine, not in one that a test sets
    monkeypatch.setattr(step, "sface", _remembering_sface)
