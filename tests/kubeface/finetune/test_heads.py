"""Heads against their formulas, with the angle between embedding and class centre set by hand."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, NormalizedSoftmaxLoss, SubCenterArcFaceLoss
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, normalize

from kubeface.finetune import heads
from kubeface.finetune.heads import CONCENTRATION, MOMENTUM, SUB_CENTRE_NOISE, AdaptiveHead, MarginHead
from kubeface.finetune.options import FinetuneOptions

SCALE = 64.0
HEADS: tuple[str, ...] = get_args(get_type_hints(FinetuneOptions)["head"])
MARGIN_HEADS = [name for name in HEADS if name != "softmax"]


def at_angles(angles: Tensor) -> Tensor:
    """Unit vectors in the plane at these angles (radians) from the first class centre, N×2."""
    return torch.stack([angles.cos(), angles.sin()], 1)


def centres(classes: int = 5, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(classes, size, generator=torch.Generator().manual_seed(seed))


def embedded(count: int = 6, size: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    return 3 * centres(count, size, seed), torch.arange(count) % 5


def make_head(
    name: str,
    means: Tensor,
    scale: float = SCALE,
    margin: float = -1,
    margins: tuple[float, float, float] = (1.0, 0.3, 0.2),
    sub_centers: int = 1,
) -> torch.nn.Module:
    """The head of a training with these options."""
    values = {"scale": scale, "margin": margin, "margins": margins, "sub_centers": sub_centers}
    return heads.make_head(FinetuneOptions.model_validate({"head": name} | values), means)


# --- formulas -------------------------------------------------------------------------------------------------------


def test_softmax_is_a_linear_layer() -> None:
    head = make_head("softmax", centres())
    embeddings, labels = embedded()
    with torch.no_grad():
        head.get_parameter("bias").copy_(torch.arange(5.0))
    expected = linear(embeddings, centres(), torch.arange(5.0))
    torch.testing.assert_close(head(embeddings), expected)
    torch.testing.assert_close(head(embeddings, labels), expected)


@given(
    seed=st.integers(0, 1000),
    margins=st.tuples(st.floats(0.5, 2), st.floats(0, 1.5), st.floats(0, 1)),
    scale=st.floats(1, 64),
)
def test_combined_by_the_formula(seed: int, margins: tuple[float, float, float], scale: float) -> None:
    means, (embeddings, labels) = centres(seed=seed), embedded(seed=seed + 1)
    logits = make_head("combined", means, scale, -1, margins)(embeddings, labels).detach()
    cosine = (normalize(embeddings.double()) @ normalize(means.double()).T).clamp(-1, 1)
    factor, angular, additive = margins
    for row, label in enumerate(labels.tolist()):
        angle = math.acos(float(cosine[row, label]))
        if factor * angle + angular < math.pi - 1e-3:
            expected = scale * (math.cos(factor * angle + angular) - additive)
            assert float(logits[row, label]) == pytest.approx(expected, abs=5e-4 * scale)


@pytest.mark.parametrize("name", MARGIN_HEADS)
def test_without_labels_the_logits_are_scaled_cosines(name: str) -> None:
    head, (embeddings, _) = make_head(name, centres()), embedded()
    torch.testing.assert_close(head(embeddings), SCALE * normalize(embeddings) @ normalize(centres()).T)
    torch.testing.assert_close(head(17 * embeddings), head(embeddings))  # length does not count


def test_negative_margin_takes_the_published() -> None:
    for name, margin, expected in (
        ("arcface", -1.0, (1, 0.5, 0)),
        ("arcface", 0.25, (1, 0.25, 0)),
        ("cosface", -1.0, (1, 0, 0.4)),
        ("cosface", 0.25, (1, 0, 0.25)),
        ("combined", -1.0, (1, 0.3, 0.2)),
        ("combined", 0.25, (1, 0.3, 0.2)),
    ):
        head = make_head(name, centres(), 30.0, margin)
        assert isinstance(head, MarginHead)
        assert (head.scale, head.margins) == (30.0, expected)


# --- against pytorch-metric-learning --------------------------------------------------------------------------------


def theirs_and_ours(theirs: torch.nn.Module, head: torch.nn.Module) -> None:
    """Loss and gradients, at the embeddings and the centres, of both are the same; their W is D×centres."""
    (embeddings, labels), weight, their_weight = embedded(), head.get_parameter("weight"), theirs.get_parameter("W")
    with torch.no_grad():
        their_weight.copy_(weight.T)
    our_input, their_input = (embeddings.clone().requires_grad_() for _ in range(2))
    our_loss = cross_entropy(head(our_input, labels), labels)
    their_loss = theirs(their_input, labels)
    our_loss.backward()
    their_loss.backward()
    torch.testing.assert_close(our_loss, their_loss, atol=1e-5, rtol=1e-5)
    assert their_input.grad is not None and float(their_input.grad.abs().max()) > 1e-3
    torch.testing.assert_close(our_input.grad, their_input.grad, atol=1e-5, rtol=1e-4)
    assert their_weight.grad is not None
    torch.testing.assert_close(weight.grad, their_weight.grad.T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "scale", "margin", "theirs"),
    [
        *[
            ("arcface", scale, margin, ArcFaceLoss(5, 8, margin=math.degrees(margin), scale=scale))
            for scale in (4.0, 64.0)
            for margin in (0.0, 0.1, 0.5, 1.2)
        ],
        *[("cosface", 8.0, margin, CosFaceLoss(5, 8, margin=margin, scale=8.0)) for margin in (0.1, 0.35)],
        ("cosface", 8.0, 0.0, NormalizedSoftmaxLoss(5, 8, temperature=0.125)),
    ],
)
def test_heads_match_pytorch_metric_learning(name: str, scale: float, margin: float, theirs: torch.nn.Module) -> None:
    theirs_and_ours(theirs, make_head(name, centres(), scale, margin))


@pytest.mark.parametrize("sub_centers", [2, 3])
def test_sub_centers_match_pytorch_metric_learning(sub_centers: int) -> None:
    head = make_head("arcface", centres(), 8.0, 0.5, sub_centers=sub_centers)
    with torch.no_grad():  # far apart, so that the second and third win too
        head.get_parameter("weight").copy_(centres(5 * sub_centers, 8, seed=3))
    theirs = SubCenterArcFaceLoss(
        num_classes=5, embedding_size=8, margin=math.degrees(0.5), scale=8.0, sub_centers=sub_centers
    )
    theirs_and_ours(theirs, head)
    embeddings, _ = embedded()
    torch.testing.assert_close(head(embeddings), theirs.get_logits(embeddings), atol=1e-5, rtol=1e-5)


# --- sub-centres ----------------------------------------------------------------------------------------------------


def test_sub_centers_begin_beside_the_mean() -> None:
    means = centres(5, 64, seed=5)
    first, second = (make_head("arcface", means, sub_centers=3) for _ in range(2))
    weight = first.get_parameter("weight").detach()
    assert list(first.state_dict()) == ["weight"] and weight.shape == (15, 64)
    assert torch.equal(weight, second.get_parameter("weight"))  # seeded
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(15))
    weight = weight.unflatten(0, (5, 3))
    lengths = (weight - normalize(means)[:, None]).norm(dim=2)
    assert (lengths[:, 0] < 1e-6).all()
    torch.testing.assert_close(lengths[:, 1:], torch.full((5, 2), SUB_CENTRE_NOISE), atol=0, rtol=0.1)
    assert ((weight[:, 1] - weight[:, 2]).norm(dim=1) > SUB_CENTRE_NOISE).all()  # from each other too


def test_sub_centers_part() -> None:
    """A class whose images lie in two places ends with a centre at each."""
    places = normalize(torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]))
    labels = torch.tensor([0, 0, 1])
    means = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    nearest = {}
    for sub_centers in (1, 2):
        head = make_head("arcface", means, 16.0, 0.3, sub_centers=sub_centers)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            cross_entropy(head(places, labels), labels).backward()
            optimizer.step()
        nearest[sub_centers] = float((head(places)[:2, 0] / 16.0).detach().min())
    assert nearest[1] < 0.75
    assert nearest[2] > 0.9


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARGIN_HEADS)
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


@given(factor=st.floats(0.01, 2), angular=st.floats(0, 1.5), additive=st.floats(0, 1))
def test_combined_logit_falls_with_the_angle(factor: float, angular: float, additive: float) -> None:
    """For all margins that are let through, at m1·θ + m2 = π too."""
    angles = torch.linspace(0.01, math.pi - 0.01, 500)
    head = make_head("combined", torch.eye(2), 1.0, -1, (factor, angular, additive))
    logits = head(at_angles(angles), torch.zeros(500, dtype=torch.int64))[:, 0]
    assert (logits.diff() < 1e-6).all()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("angle", [0.0, math.pi])
def test_gradient_is_finite_at_the_ends(name: str, angle: float) -> None:
    """arccos has no slope at ±1; an embedding that points straight at or away from its centre must do no harm."""
    head = make_head(name, torch.eye(2))
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
        if name == "adaface":  # lengths are left alone, since the quality that they stand for has no gradient
            unit = normalize(embeddings)
            direction = direction - (direction * unit).sum(1, keepdim=True) * unit
        ahead, behind = (cross_entropy(head(embeddings + sign * step * direction, labels), labels) for sign in (1, -1))
    slope = float((embeddings.grad * direction).sum())
    assert abs(slope) > 1e-3
    assert float(ahead - behind) / (2 * step) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("name", HEADS)
def test_float32_under_mixed_precision(name: str) -> None:
    head, (embeddings, labels) = make_head(name, centres()), embedded()
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
    head = make_head(name, means)
    weight = head.get_parameter("weight")
    assert weight.requires_grad
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(means, centres())


# --- AdaFace --------------------------------------------------------------------------------------------------------


def adaptive(mean: float, deviation: float, means: Tensor, scale: float = SCALE, margin: float = 0.4) -> AdaptiveHead:
    """A head that has seen embeddings of this mean length and deviation."""
    head = make_head("adaface", means, scale, margin)
    assert isinstance(head, AdaptiveHead)
    head.mean.fill_(mean)
    head.deviation.fill_(deviation)
    return head


@given(
    angle=st.floats(0.6, 2.4),
    length=st.floats(0.01, 60),
    mean=st.floats(5, 20),
    deviation=st.floats(0.5, 5),
    margin=st.floats(0, 0.5),
)
def test_adaface_by_the_formula(angle: float, length: float, mean: float, deviation: float, margin: float) -> None:
    """s·(cos(θ − m·q) − (m·q + m)) with q = clip((|z| − μ) / σ · h, −1, 1), as the paper has it."""
    head = adaptive(mean, deviation, torch.eye(2), 10.0, margin)
    with torch.no_grad():
        logits = head(length * at_angles(torch.tensor([angle])), torch.tensor([0]))
    quality = min(1.0, max(-1.0, (length - mean) / (deviation + 1e-3) * CONCENTRATION))
    true = 10 * (math.cos(angle - margin * quality) - (margin * quality + margin))
    assert logits[0].tolist() == pytest.approx([true, 10 * math.sin(angle)], abs=2e-3)


def test_adaface_lies_between_arcface_and_cosface() -> None:
    """The poorest image has ArcFace's margin, an ordinary one CosFace's."""
    means, labels = centres(), torch.arange(5)
    embeddings = normalize(centres(seed=4))
    with torch.no_grad():
        poor = adaptive(10, 1, means)(0.5 * embeddings, labels)
        ordinary = adaptive(10, 1, means)(10.0 * embeddings, labels)
        good = adaptive(10, 1, means)(30.0 * embeddings, labels)
        arcface, cosface = (make_head(name, means, SCALE, 0.4)(embeddings, labels) for name in ("arcface", "cosface"))
    torch.testing.assert_close(poor, arcface, atol=2e-3, rtol=0)
    torch.testing.assert_close(ordinary, cosface, atol=2e-3, rtol=0)
    assert not torch.allclose(good, ordinary, atol=1)


def test_adaface_follows_the_lengths_of_what_it_is_trained_on() -> None:
    head = make_head("adaface", centres())
    assert isinstance(head, AdaptiveHead) and head.margin == 0.4
    embeddings, labels = embedded(40, seed=2)
    lengths = embeddings.norm(dim=1)
    with torch.no_grad():
        before = head(embeddings, labels)
    assert head.mean.isnan()  # a validation leaves it alone, and knows no quality yet
    with torch.no_grad():
        torch.testing.assert_close(before, make_head("cosface", centres(), SCALE, 0.4)(embeddings, labels))
    head(embeddings, labels)
    assert float(head.mean) == pytest.approx(float(lengths.mean()), rel=1e-5)
    assert float(head.deviation) == pytest.approx(float(lengths.std(correction=0)), rel=1e-5)
    head(2 * embeddings, labels)
    assert float(head.mean) == pytest.approx((1 + MOMENTUM) * float(lengths.mean()), rel=1e-5)
    other = make_head("adaface", centres())
    other.load_state_dict(head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(embeddings, labels), head(embeddings, labels))


def test_adafaces_quality_has_no_gradient() -> None:
    """An embedding must not grow longer to be taken for a better image."""
    head = adaptive(3.0, 1.0, centres())
    embeddings, labels = embedded(4)
    embeddings.requires_grad_()
    head(embeddings, labels).sum().backward()
    assert embeddings.grad is not None
    along = (embeddings.grad * normalize(embeddings.detach())).sum(1)
    torch.testing.assert_close(along, torch.zeros(4), atol=1e-3, rtol=0)
