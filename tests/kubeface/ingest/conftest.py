"""What tests of ingest share."""

import pytest

from kubeface.faces.images import encode_png
from tests.support.images import smooth_image


@pytest.fixture
def images() -> dict[str, bytes]:
    """Three people with three images each."""
    return {
        f"{person}/{number}.png": encode_png(smooth_image(10 * index + number))
        for index, person in enumerate(("ann", "bob", "cyd"))
        for number in range(3)
    }
