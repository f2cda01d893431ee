"""PReLU: the values and gradients of torch's."""

import pytest
import torch
from torch import Tensor, nn

from kubeface.models.backbones.prelu import PReLU


def made(layer: nn.PReLU, images: Tensor, amp: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Values, gradient of the images, gradient of the slopes."""
    images = images.detach().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        values = layer(images)
    (values.float() * torch.linspace(-1, 1, values.numel()).view_as(values)).sum().backward()
    assert images.grad is not None and layer.weight.grad is not None
    return values, images.grad, layer.weight.grad


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradients_are_torchs(kind: torch.dtype, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 8, 5, 7).round(decimals=1).to(kind).contiguous(memory_format=layout)
    assert (images == 0).any()
    ours, theirs = PReLU(8), nn.PReLU(8)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.copy_(torch.linspace(-0.5, 1.5, 8)))
    amp = kind == torch.bfloat16
    for one, other in zip(made(ours, images, amp), made(theirs, images, amp), strict=True):
        assert one.dtype == other.dtype and one.stride() == other.stride()
        torch.testing.assert_close(one, other, rtol=2e-2 if amp else 1e-5, atol=1e-2 if amp else 1e-5)


def test_frozen_slopes_and_frozen_maps() -> None:
    layer = PReLU(4)
    images = torch.randn(2, 4, 3, 3)
    layer(images).sum().backward()
    negative = images.clamp(max=0).sum((0, 2, 3))
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, negative)
    layer.requires_grad_(False).weight.grad = None
    moved = images.clone().requires_grad_()
    layer(moved).sum().backward()
    assert moved.grad is not None and layer.weight.grad is None
    assert set(moved.grad.unique().tolist()) == {0.25, 1.0}
    assert layer(images).grad_fn is None
