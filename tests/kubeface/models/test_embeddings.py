"""Embeddings with and without flip test-time augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kubeface.models.embeddings import Embeddings, Vectors, embed_batch
from kubeface.models.model import FaceModel
from kubeface.records.model import Preprocessing


def unit(seed: int, count: int = 5, size: int = 6) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.fixture
def model() -> FaceModel:
    """A model small enough to be seen through: a linear map of the pixels."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16))
    return FaceModel("none", network, Preprocessing(size=8, color_order="rgb", mean=127.5, std=128.0), 16, "", "")


@given(seed=st.integers(0, 1000), batches=st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_batches_are_joined_in_order(seed: int, batches: list[int]) -> None:
    plain, mirrored = unit(seed, sum(batches)), unit(seed + 1, sum(batches))
    joined = Embeddings()
    start = 0
    for size in batches:
        joined.append(plain[start : start + size], mirrored[start : start + size])
        start += size
    np.testing.assert_array_equal(joined.plain(), plain)
    whole = Embeddings()
    whole.append(plain, mirrored)
    np.testing.assert_array_equal(joined.flipped(), whole.flipped())


@given(seed=st.integers(0, 1000))
def test_flipped_is_the_direction_of_the_sum(seed: int) -> None:
    plain, mirrored = unit(seed), unit(seed + 1)
    one, other = Embeddings(), Embeddings()
    one.append(plain, mirrored)
    other.append(mirrored, plain)
    flipped = one.flipped()
    assert flipped.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(flipped, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(flipped, other.flipped(), atol=1e-7)
    # It lies as near to the one as to the other, and in their plane.
    np.testing.assert_allclose((flipped * plain).sum(1), (flipped * mirrored).sum(1), atol=1e-5)
    length = np.linalg.norm(plain + mirrored, axis=1, keepdims=True)
    np.testing.assert_allclose(flipped * length, plain + mirrored, atol=1e-5)


def test_opposite_embeddings_give_no_nan() -> None:
    joined = Embeddings()
    joined.append(unit(0), -unit(0))
    np.testing.assert_array_equal(joined.flipped(), np.zeros((5, 6)))


def test_batch_is_embedded_as_it_is_and_mirrored(model: FaceModel) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    plain, mirrored = embed_batch(model, crops)
    np.testing.assert_array_equal(plain, model.embed(crops))
    np.testing.assert_array_equal(mirrored, model.embed(crops[:, :, ::-1].copy()))
    assert np.abs(plain - mirrored).max() > 0.05
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float().flatten(1)
    expected = nn.functional.normalize(model.network.get_submodule("1")((pixels - 127.5) / 128)).detach().numpy()
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    # With the augmentation a crop and its mirror image have the same embedding.
    there, back = Embeddings(), Embeddings()
    there.append(plain, mirrored)
    back.append(*embed_batch(model, crops[:, :, ::-1].copy()))
    np.testing.assert_allclose(there.flipped(), back.flipped(), atol=1e-6)
