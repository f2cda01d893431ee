"""Photographs to audit."""

import pytest


@pytest.fixture(scope="session")
def people(orl: dict[str, bytes]) -> dict[str, list[bytes]]:
    """Ten photographs of each of ORL's forty people."""
    return {
        f"s{person}": [orl[f"s{person}/{number}.pgm"] for number in range(1, 11)] for person in range(1, 41)
    }  # fmt: skip
