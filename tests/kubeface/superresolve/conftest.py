"""A source of pairs: three people of ORL, sharp and at an eighth of the resolution."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from kubeface.faces.images import decode_rgb, encode_png
from tests.support.images import write_files

PEOPLE, PHOTOGRAPHS, FEWER = 3, 2, 8
PAIRS = PEOPLE * PHOTOGRAPHS


@pytest.fixture(scope="session")
def paired_source(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hr_images/s1/1.pgm … (92×112) and vlr_images/s1/1.png … (12×14)."""
    files: dict[str, bytes] = {}
    for person in range(1, PEOPLE + 1):
        for number in range(1, PHOTOGRAPHS + 1):
            data = orl[f"s{person}/{number}.pgm"]
            sharp = decode_rgb(data)
            size = round(sharp.shape[1] / FEWER), round(sharp.shape[0] / FEWER)
            low = np.asarray(cv2.resize(sharp, size, interpolation=cv2.INTER_AREA), np.uint8)
            files[f"hr_images/s{person}/{number}.pgm"] = data
            files[f"vlr_images/s{person}/{number}.png"] = encode_png(low)
    return Path(write_files(tmp_path_factory.mktemp("paired"), files))


@pytest.fixture(scope="session")
def paired_table(paired_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The face table of `paired_source`."""
    from kubeface.ingest.step import ingest

    out = tmp_path_factory.mktemp("tables") / "paired"
    ingest(str(paired_source), out)
    return out
