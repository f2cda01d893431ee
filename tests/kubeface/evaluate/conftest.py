"""A model that costs nothing and the held-out crops, for the tests of evaluations."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kubeface.faces.images import RGB, decode_rgb
from kubeface.models.model import FaceModel
from kubeface.records.model import Preprocessing
from tests.support.tables import rows_of


@pytest.fixture
def linear() -> FaceModel:
    """A model that costs nothing and tells nobody apart."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 14 * 14, 16))
    return FaceModel("none", network, Preprocessing(size=112, color_order="rgb", mean=127.5, std=128.0), 16, "", "")


@pytest.fixture(scope="session")
def heldout(aligned_table: Path, split_table: Path) -> dict[str, tuple[str, RGB]]:
    """Person and crop of each held-out image."""
    parts = rows_of(split_table, ["image_id", "split"])
    wanted = {row["image_id"] for row in parts if row["split"] == "heldout"}
    return {
        row["image_id"]: (row["identity"], decode_rgb(row["image"]))
        for row in rows_of(aligned_table)
        if row["image_id"] in wanted
    }
