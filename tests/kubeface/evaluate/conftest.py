"""A model that costs nothing, for the tests of evaluations."""

import pytest
import torch
from torch import nn

from kubeface.models.model import FaceModel
from kubeface.records.model import Preprocessing


@pytest.fixture
def linear() -> FaceModel:
    """A model that costs nothing and tells nobody apart."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 14 * 14, 16))
    return FaceModel("none", network, Preprocessing(size=112, color_order="rgb", mean=127.5, std=128.0), 16, "", "")
