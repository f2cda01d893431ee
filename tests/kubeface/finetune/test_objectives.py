"""Heads' losses, weights, the sampler of rare labels, and the augmentation that spares labels."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from kubeface.finetune.augment import FAKES, HIDES, KINDS, STRONG, STRONGER, Augmentation, LabelAwareAugmentation
from kubeface.finetune.heads import LinearHead, MarginHead
from kubeface.finetune.objectives import (
    MOST_WEIGHT,
    RARE,
    AttributeObjective,
    ClassificationObjective,
    Scores,
    focal_loss,
    positive_weights,
    repeat_factors,
)
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.training_data import TrainingData

from .conftest import row_index_of

SIZE = 5


def attributes(targets: NDArray[np.int8], **options: Any) -> AttributeObjective:
    names = tuple(f"l{number}" for number in range(targets.shape[1]))
    found = row_index_of([len(targets)], range(len(targets)))
    data = TrainingData([], found, found, "attributes", names, targets)
    return AttributeObjective(FinetuneOptions(task="attributes", **options), data, SIZE, torch.device("cpu"))


def random_targets(seed: int, rows: int = 40, labels: int = 4) -> NDArray[np.int8]:
    """Of which the first label of every image is known."""
    targets = np.random.default_rng(seed).integers(-1, 2, (rows, labels)).astype(np.int8)
    targets[:, 0] = abs(targets[:, 0])
    return targets


# --- losses ---------------------------------------------------------------------------------------------------------


def tensors(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets (7×3), and weights (3)."""
    generator = torch.Generator().manual_seed(seed)
    return (
        6 * torch.randn(7, 3, generator=generator),
        torch.randint(0, 2, (7, 3), generator=generator).float(),
        0.5 + torch.rand(3, generator=generator),
    )


@given(st.integers(0, 10_000))
def test_focal_without_gamma_is_cross_entropy(seed: int) -> None:
    logits, targets, weights = tensors(seed)
    plain = binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weights)
    torch.testing.assert_close(focal_loss(logits, targets, 0.0, weights), plain, rtol=0, atol=0)
    # Continuous in γ: the branch for 0 is nothing of its own.
    torch.testing.assert_close(focal_loss(logits, targets, 1e-6, weights), plain, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 10_000), st.floats(0.1, 5))
def test_focal_loss_by_the_formula(seed: int, gamma: float) -> None:
    logits, targets, weights = tensors(seed)
    p = logits.double().sigmoid()
    p = torch.where(targets == 1, p, 1 - p)
    expected = -torch.where(targets == 1, weights, 1) * (1 - p) ** gamma * p.log()
    torch.testing.assert_close(focal_loss(logits, targets, gamma, weights).double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_loss_of_confident_logits_is_finite(logit: float, target: float) -> None:
    logits = torch.tensor([[logit]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[target]]), 2.0, torch.ones(1)).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@given(st.integers(0, 10_000), st.sampled_from([0.0, 2.0]), st.sampled_from(["none", "loss"]))
def test_labels_that_are_not_known_have_no_gradient(seed: int, gamma: float, balance: str) -> None:
    targets = random_targets(seed)
    objective = attributes(targets, focal_gamma=gamma, balance=balance)
    logits = torch.randn(len(targets), 4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    losses = objective.losses(logits, torch.arange(len(targets)))
    losses.sum().backward()
    assert logits.grad is not None
    assert ((logits.grad == 0).numpy() == (targets == -1)).all()
    # What is not known may be anything.
    other = torch.where(torch.from_numpy(targets) == -1, 1e6, logits)
    torch.testing.assert_close(objective.losses(other, torch.arange(len(targets))), losses, rtol=0, atol=0)


def test_an_images_loss_and_share_are_means_over_its_known_labels() -> None:
    objective = attributes(np.array([[1, 0, -1], [1, 1, 1]], np.int8))
    objective.head.load_state_dict({"weight": torch.zeros(3, SIZE), "bias": torch.tensor([1.0, 1.0, -1.0])})
    embeddings, rows = torch.ones(2, SIZE), torch.tensor([0, 1])
    right, wrong = np.log1p(np.exp(-1)), np.log1p(np.exp(1))
    losses = objective.losses(objective.head(embeddings), rows)
    assert losses.tolist() == pytest.approx([(right + wrong) / 2, (2 * right + wrong) / 3])
    assert float(objective.correct(embeddings, rows)) == pytest.approx(1 / 2 + 2 / 3)


@pytest.mark.parametrize("balance", ["none", "loss"])
def test_the_head_starts_where_frequencies_alone_are_best(balance: str) -> None:
    targets = np.array([[1, 1]] * 9 + [[0, 1]] * 30 + [[0, -1]] * 10, np.int8)
    objective = attributes(targets, balance=balance)
    weight = positive_weights(np.array([9]), np.array([40]))[0] if balance == "loss" else 1.0
    assert objective.head(torch.randn(1, SIZE))[0, 0].item() == pytest.approx(np.log(weight * 10 / 41))
    assert torch.isfinite(objective.head(torch.zeros(1, SIZE))).all()


def test_auc_is_the_mean_over_labels_with_both_values() -> None:
    targets = np.array([[1, 1, 1, -1], [0, 0, 1, -1], [1, -1, 1, -1], [0, 1, 1, 1]], np.int8)
    objective = attributes(targets)
    scores = np.array([[2, 1, 0, 0], [1, 2, 0, 0], [4, 9, 0, 0], [3, 3, 0, 0]], np.float32)
    assert objective.auc(scores, np.arange(4)) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert objective.auc(scores[:1], np.arange(1)) is None
    assert objective.auc(scores * np.nan, np.arange(4)) is None


@given(st.lists(st.integers(1, 30), min_size=2, max_size=8))
def test_balanced_losses_make_up_for_the_sizes_of_classes(sizes: list[int]) -> None:
    """Every class counts alike, and an image as much as one on average."""
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    found = row_index_of([len(labels)], labels.tolist())
    data = TrainingData([f"p{number}" for number in range(len(sizes))], found, found)
    objective = ClassificationObjective(FinetuneOptions(balance="loss"), data, torch.eye(len(sizes)))
    logits, truth = torch.randn(len(labels), len(sizes)), torch.from_numpy(labels).long()
    weights = objective.losses(logits, truth) / cross_entropy(logits, truth, reduction="none")
    totals = torch.zeros(len(sizes)).index_add(0, truth, weights)
    torch.testing.assert_close(totals, torch.full_like(totals, len(labels) / len(sizes)), rtol=1e-4, atol=0)


def test_positive_weights() -> None:
    found = positive_weights(np.array([10, 1, 0, 30]), np.array([30, 99, 5, 0]))
    assert found.tolist() == [3.0, MOST_WEIGHT, 1.0, 1.0]


@pytest.mark.parametrize(
    "head", [LinearHead(torch.randn(3, SIZE), torch.randn(3)), MarginHead(torch.randn(3, SIZE), 8, (1, 0.5, 0))]
)
@pytest.mark.parametrize("sigmoid", [False, True])
def test_scores_are_the_heads(head: Any, sigmoid: bool) -> None:
    embeddings = 4 * torch.randn(6, SIZE)
    scores = Scores(head, sigmoid)
    logits = head(embeddings)
    torch.testing.assert_close(scores(embeddings), logits.sigmoid() if sigmoid else logits.softmax(1))
    shapes = {name: tuple(value.shape) for name, value in scores.state_dict().items()}
    assert shapes == {"weight": (3, SIZE), "bias": (3,)}


# --- the sampler ----------------------------------------------------------------------------------------------------


def test_repeat_factors_are_those_of_the_rarest_label() -> None:
    targets = np.zeros((400, 3), np.int8)
    targets[:200, 0] = 1  # common
    targets[:4, 1] = 1  # one of a hundred
    targets[2:3, 2] = 1  # one of 400
    found = repeat_factors(targets)
    assert found[[0, 1, 3]] == pytest.approx(np.sqrt(RARE / 0.01))
    assert found[2] == pytest.approx(np.sqrt(RARE * 400))
    assert (found[4:] == 1).all()
    targets[300:, 1] = -1  # what is not known counts neither way
    assert repeat_factors(targets)[0] == pytest.approx(np.sqrt(RARE / (4 / 300)))


# --- augmentation ---------------------------------------------------------------------------------------------------

OFTEN: dict[str, Any] = dict.fromkeys((*KINDS, "mix"), 0.4)
EVERYTHING = Augmentation(**OFTEN)


def change(name: str, value: int, rare: bool = False) -> Augmentation:
    return LabelAwareAugmentation(EVERYTHING, [name], np.array([[value]], np.int8), np.array([rare])).of(0)


@pytest.mark.parametrize(
    ("name", "shown", "not_shown"),
    [
        ("Blond_Hair", {"jitter", "greyscale"}, set()),
        ("Gray_Hair", {"jitter", "greyscale"}, {"greyscale"}),
        ("Blurry", set(), {"blur", "low_resolution", "jpeg"}),
        ("Eyeglasses", {"cutout", "crop"}, set()),
        ("Smiling", set(), set()),
        ("looks left", {"flip"}, {"flip"}),
        ("Right_Eye_Closed", {"flip"}, {"flip"}),
        ("Bright", set(), set()),
    ],
)
def test_changes_that_falsify_a_label_are_left_out(name: str, shown: set[str], not_shown: set[str]) -> None:
    for value, off in ((1, shown), (0, not_shown), (-1, set())):
        found = change(name, value)
        assert {kind for kind in KINDS if getattr(found, kind) == 0} == off
        assert {getattr(found, kind) for kind in KINDS if kind not in off} == {0.4}


def test_tables_of_harmful_changes_name_known_ones() -> None:
    assert {kind for kinds in (*HIDES.values(), *FAKES.values(), STRONG) for kind in kinds} <= set(KINDS)


def test_images_of_rare_labels_change_more() -> None:
    found = change("Smiling", 1, rare=True)
    assert {name for name in KINDS if getattr(found, name) == pytest.approx(0.4 * STRONGER)} == set(STRONG)
    most = LabelAwareAugmentation(
        Augmentation(warp=1, jitter=0.9), ["l"], np.array([[1]], np.int8), np.array([True])
    ).of(0)
    assert (most.warp, most.jitter) == (1, 0.99)
    assert change("Gray_Hair", 1, rare=True).jitter == 0
