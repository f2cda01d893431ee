"""Real crops for the tests of models."""

from pathlib import Path

import numpy as np
import pytest

from kubeface.faces.images import RGB, decode_rgb
from tests.support.tables import rows_of


@pytest.fixture(scope="module")
def faces(aligned_table: Path) -> tuple[RGB, np.ndarray]:
    """Real aligned crops (N×112×112×3) and the number of each one's person."""
    rows = rows_of(aligned_table, ["identity", "image"])
    _, people = np.unique([row["identity"] for row in rows], return_inverse=True)
    return np.stack([decode_rgb(row["image"]) for row in rows]), people


@pytest.fixture
def crops(faces: tuple[RGB, np.ndarray]) -> RGB:
    return faces[0][:6]
