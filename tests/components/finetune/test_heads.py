"""Heads against their formulas, with the angle between embedding and class centre set by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, normalize

from components.faces.errors import KubefaceError
from components.finetune.heads import HEADS, MarginHead, SoftmaxHead, make_head

SCALE = 64.0


def at_angles(angles: Tensor) -> Tensor:
    """Unit vectors in the plane at these angles (radians) from the first class centre, N×2."""
    return torch.stack([angles.cos(), angles.sin()], 1)


def centres(classes: int = 5, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(classes, size, generator=torch.Generator().manual_seed(seed))


def embedded(count: int = 6, size: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    return 3 * centres(count, size, seed), torch.arange(count) % 5


# --- formulas -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), margin=st.floats(0.05, 1.0), scale=st.floats(1, 64))
def test_arcface_by_the_formula(seed: int, margin: float, scale: float) -> None:
    means, (embeddings, labels) = centres(seed=seed), embedded(seed=seed + 1)
    logits = make_head("arcface", means, scale, margin)(embeddings, labels).detach()
    cosine = (normalize(embeddings.double()) @ normalize(means.double()).T).clamp(-1, 1)
    for row, label in enumerate(labels.tolist()):
        for column in range(5):
            value = float(cosine[row, column])
            if column == label:
                angle = math.acos(value)
                value = math.cos(angle + margin) if angle + margin < math.pi else value - margin * math.sin(margin)
            assert float(logits[row, column]) == pytest.approx(scale * value, abs=2e-4 * scale)


@given(seed=st.integers(0, 1000), margin=st.floats(0.0, 1.0), scale=st.floats(1, 64))
def test_cosface_by_the_formula(seed: int, margin: float, scale: float) -> None:
    means, (embeddings, labels) = centres(seed=seed), embedded(seed=seed + 1)
    logits = make_head("cosface", means, scale, margin)(embeddings, labels)
    cosine = normalize(embeddings.double()) @ normalize(means.double()).T
    expected = scale * (cosine - margin * torch.nn.functional.one_hot(labels, 5))
    torch.testing.assert_close(logits.double(), expected, atol=1e-4 * scale, rtol=0)


def test_softmax_is_a_linear_layer() -> None:
    head = make_head("softmax", centres(), SCALE, -1)
    embeddings, labels = embedded()
    with torch.no_grad():
        head.get_parameter("bias").copy_(torch.arange(5.0))
    expected = linear(embeddings, centres(), torch.arange(5.0))
    torch.testing.assert_close(head(embeddings), expected)
    torch.testing.assert_close(head(embeddings, labels), expected)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_without_labels_the_logits_are_scaled_cosines(name: str) -> None:
    head, (embeddings, _) = make_head(name, centres(), SCALE, -1), embedded()
    torch.testing.assert_close(head(embeddings), SCALE * normalize(embeddings) @ normalize(centres()).T)
    torch.testing.assert_close(head(17 * embeddings), head(embeddings))  # length does not count


@pytest.mark.parametrize(("name", "angular", "additive"), [("arcface", 0.5, 0.0), ("cosface", 0.0, 0.4)])
def test_negative_margin_takes_the_papers(name: str, angular: float, additive: float) -> None:
    head = make_head(name, centres(), 30.0, -1.0)
    assert isinstance(head, MarginHead)
    assert (head.scale, head.angular, head.additive) == (30.0, angular, additive)
    set_by_hand = make_head(name, centres(), 30.0, 0.25)
    assert isinstance(set_by_hand, MarginHead)
    assert set_by_hand.angular + set_by_hand.additive == 0.25


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_no_margin_no_difference(name: str) -> None:
    head, (embeddings, labels) = make_head(name, centres(), SCALE, 0.0), embedded()
    torch.testing.assert_close(head(embeddings, labels), head(embeddings))


def test_combined_margins() -> None:
    """(m2, m3) = (0.3, 0.2): s·(cos(θ + 0.3) − 0.2)."""
    head = MarginHead(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 10.0, 0.3, 0.2)
    logits = head(at_angles(torch.tensor([0.7])), torch.tensor([0]))
    torch.testing.assert_close(logits, torch.tensor([[10 * (math.cos(1.0) - 0.2), 10 * math.sin(0.7)]]))


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arcface", "cosface"])
@given(seed=st.integers(0, 1000), margin=st.floats(0.05, 1.2))
def test_margin_lowers_the_true_class_alone(name: str, seed: int, margin: float) -> None:
    head, (embeddings, labels) = make_head(name, centres(seed=seed), SCALE, margin), embedded(seed=seed + 1)
    change = head(embeddings, labels) - head(embeddings)
    true = torch.nn.functional.one_hot(labels, 5).bool()
    assert (change[true] < 0).all()
    assert (change[~true] == 0).all()


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0, 1.5])
def test_true_logit_falls_with_the_angle(margin: float) -> None:
    """All the way from 0 to π, over the place where θ + m passes π too."""
    angles = torch.linspace(0.01, math.pi - 0.01, 2000)
    head = make_head("arcface", torch.eye(2), SCALE, margin)
    logits = head(at_angles(angles), torch.zeros(2000, dtype=torch.int64))[:, 0]
    assert (logits.diff() < 0).all()
    beyond = angles + margin > math.pi
    assert beyond.any() and not beyond.all()
    expected = SCALE * (angles.cos() - margin * math.sin(margin))
    torch.testing.assert_close(logits[beyond][1:], expected[beyond][1:], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("angle", [0.0, math.pi])
def test_gradient_is_finite_at_the_ends(name: str, angle: float) -> None:
    """arccos has no slope at ±1; an embedding that points straight at or away from its centre must do no harm."""
    head = make_head(name, torch.eye(2), SCALE, -1)
    embeddings = at_angles(torch.tensor([angle, angle + 1e-4, angle - 1e-4])).requires_grad_()
    loss = cross_entropy(head(embeddings, torch.zeros(3, dtype=torch.int64)), torch.zeros(3, dtype=torch.int64))
    assert torch.isfinite(loss)
    loss.backward()
    assert embeddings.grad is not None and torch.isfinite(embeddings.grad).all()
    for parameter in head.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", HEADS)
def test_gradient_by_finite_differences(name: str) -> None:
    """Autograd's slope of the loss along a random direction is the measured one."""
    head, (embeddings, labels) = make_head(name, centres(), 4.0, -1), embedded()
    embeddings.requires_grad_()
    cross_entropy(head(embeddings, labels), labels).backward()
    direction, step = normalize(centres(6, 8, seed=9), dim=1), 1e-2
    assert embeddings.grad is not None
    with torch.no_grad():
        ahead, behind = (cross_entropy(head(embeddings + sign * step * direction, labels), labels) for sign in (1, -1))
    slope = float((embeddings.grad * direction).sum())
    assert abs(slope) > 1e-3
    assert float(ahead - behind) / (2 * step) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("name", HEADS)
def test_float32_under_mixed_precision(name: str) -> None:
    head, (embeddings, labels) = make_head(name, centres(), SCALE, -1), embedded()
    expected = head(embeddings, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(embeddings, centres()).dtype == torch.bfloat16  # the context does what it is meant to
        logits, plain = head(embeddings, labels), head(embeddings)
        from_half = head(embeddings.bfloat16(), labels)
    assert logits.dtype == plain.dtype == from_half.dtype == torch.float32
    assert torch.equal(logits, expected)
    torch.testing.assert_close(from_half, expected, atol=1.0, rtol=0.05)


@pytest.mark.parametrize("name", HEADS)
def test_training_a_head_finds_the_classes(name: str) -> None:
    """From centres that belong to others, a few steps tell five directions apart."""
    embeddings, labels = centres(5, 8, seed=4), torch.arange(5)
    head = make_head(name, centres(5, 8, seed=4).roll(1, 0), 16.0, -1)
    assert (head(embeddings).argmax(1) != labels).all()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(head(embeddings, labels), labels).backward()
        optimizer.step()
    assert (head(embeddings).argmax(1) == labels).all()


# --- making ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_centres_are_copied(name: str) -> None:
    means = centres()
    head = make_head(name, means, SCALE, -1)
    weight = head.get_parameter("weight")
    assert weight.requires_grad
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(means, centres())


def test_kinds() -> None:
    assert isinstance(make_head("softmax", centres(), SCALE, -1), SoftmaxHead)
    with pytest.raises(KubefaceError, match="head 'triplet' is unknown: use one of arcface, cosface, softmax"):
        make_head("triplet", centres(), SCALE, -1)
