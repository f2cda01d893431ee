"""The guard: what fine structure is, and which network a crop goes through."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB
from kubeface.models.quality_routing import OCTAVES, QualityRouted, fine_structure

FLOOR = math.log(1e-6)


def prepared(crops: RGB, degradation: str = "none") -> Tensor:
    bad = Degradation.parse(degradation)
    stacked = np.stack([bad(crop, "test", number) for number, crop in enumerate(crops)])
    return (torch.from_numpy(stacked).permute(0, 3, 1, 2).float() - 127.5) / 128


def random_images(seed: int, count: int = 3, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.integers(16, 120), st.floats(-3, 3), st.floats(0.1, 8))
def test_brightness_is_nothing_and_contrast_an_offset(seed: int, side: int, shift: float, contrast: float) -> None:
    images = random_images(seed, 3, side)
    found = fine_structure(images)
    assert found.shape == (3, OCTAVES)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1:2], fine_structure(images[1:2]))  # every crop counts alone
    images = random_images(seed)
    found = fine_structure(images)
    torch.testing.assert_close(fine_structure(images + shift), found, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fine_structure(images * contrast), found + 2 * math.log(contrast), rtol=1e-2, atol=1e-2)
    # Neither mirroring nor turning nor the order of colours changes anything.
    for same in (images.flip(3), images.flip(2), images.transpose(2, 3), images.flip(1)):
        torch.testing.assert_close(fine_structure(same), found, rtol=1e-4, atol=1e-4)


def test_flat_crops_have_none() -> None:
    assert fine_structure(torch.full((2, 3, 112, 112), 0.3)) == pytest.approx(FLOOR, abs=1e-3)


def test_each_octave_sees_structure_of_its_size() -> None:
    """White noise whose pixels are 1, 2, 4 and 8 wide: the first octave that sees it is the one of that width."""
    for octave in range(OCTAVES):
        noise = random_images(0, 4, 128 // 2**octave)
        wide = interpolate(noise, scale_factor=2.0**octave, mode="nearest")
        first = fine_structure(noise)[:, 0]
        torch.testing.assert_close(fine_structure(wide)[:, octave], first)


@pytest.mark.parametrize(
    ("degradation", "direction"), [("noise:60", 1), ("lowres:14", -1), ("blur:4", -1), ("dark", -1)]
)
def test_degradations_of_faces(degradation: str, direction: int, crops: RGB) -> None:
    """Noise adds to the finest structure of every face, low resolution, blur and darkness take from it."""
    change = fine_structure(prepared(crops, degradation)) - fine_structure(prepared(crops))
    assert (direction * change[:, 0] > 0).all()


class Named(nn.Module):
    """Embeds every crop as a number and remembers what it saw."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(number))
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            self.seen.append(len(images))
        return torch.stack([self.scale.expand(images.shape[0]), images.mean((1, 2, 3))], 1)


def guarded() -> tuple[QualityRouted, Named, Named]:
    """A guard that finds a crop degraded whose finest structure lies above −3."""
    start, tuned = Named(1.0), Named(2.0)
    model = QualityRouted(start, tuned)
    model.weight.copy_(torch.tensor([1.0, 0, 0, 0]))
    model.bias.fill_(3.0)
    return model, start, tuned


@given(st.lists(st.booleans(), min_size=1, max_size=9), SEEDS)
def test_every_crop_goes_through_its_network_and_comes_back_in_its_place(noisy: list[bool], seed: int) -> None:
    model, start, tuned = guarded()
    images = (
        random_images(seed, len(noisy)) * torch.tensor([1.0 if one else 0.01 for one in noisy])[:, None, None, None]
    )
    assert model.degraded(images).tolist() == noisy
    found = model(images)
    assert found[:, 0].tolist() == [2.0 if one else 1.0 for one in noisy]
    torch.testing.assert_close(found[:, 1], images.mean((1, 2, 3)))
    # No crop costs two passes.
    assert sum(start.seen) == noisy.count(False) and sum(tuned.seen) == noisy.count(True)
    assert len(start.seen) <= 1 and len(tuned.seen) <= 1


def test_exported_both_are_computed_and_one_is_taken() -> None:
    model, _, _ = guarded()
    images = random_images(0, 4) * torch.tensor([1.0, 0.01, 0.01, 1.0])[:, None, None, None]
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("n", min=2)}})
    for batch in (images, images[:2], images[1:3], torch.cat([images, images.flip(0)])):
        torch.testing.assert_close(program.module()(batch), model(batch))


def test_the_gate_is_part_of_the_weights() -> None:
    state = guarded()[0].state_dict()
    assert set(state) == {"start.scale", "tuned.scale", "weight", "bias"}
    other = QualityRouted(Named(0.0), Named(0.0))
    other.load_state_dict(state)
    images = random_images(1)
    assert torch.equal(other(images), guarded()[0](images))
    assert [name for name, _ in other.named_parameters()] == ["start.scale", "tuned.scale"]  # the gate is not trained
