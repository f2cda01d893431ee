"""Interpolation with the start, and the gate of quality routing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, decode_rgb
from kubeface.finetune.final_model import ALPHAS, choose_alpha, fit_quality_routing, interpolated
from kubeface.models.model import load_model
from kubeface.models.quality_routing import QualityRouted, fine_structure
from kubeface.records.model import GateErrors
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.table import Table
from tests.support.tables import rows_of, splitting

from .conftest import FULL, Tiny, Train, same

LEARNING: dict[str, Any] = FULL | {"freeze_batch_norm": False}


def states(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    one, other = ({"w": torch.randn(5, 3, generator=random), "n": torch.tensor(seed + number)} for number in (0, 1))
    return one, other


# --- interpolation --------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.floats(0, 1))
def test_interpolation_is_a_straight_line(seed: int, alpha: float) -> None:
    start, tuned = states(seed)
    found = interpolated(start, tuned, alpha)
    torch.testing.assert_close(found["w"], (1 - alpha) * start["w"] + alpha * tuned["w"], atol=1e-6, rtol=1e-5)
    assert found["n"] == tuned["n"]  # a count is not averaged


@given(st.integers(0, 1000))
def test_the_ends_are_exact(seed: int) -> None:
    start, tuned = states(seed)
    assert same(interpolated(start, tuned, 1.0), tuned)
    assert torch.equal(interpolated(start, tuned, 0.0)["w"], start["w"])
    assert same(interpolated(start, start, 0.3), start)


@given(st.lists(st.integers(0, 5), min_size=11, max_size=11))
def test_alpha_is_the_least_of_the_best(scores: list[int]) -> None:
    zero, one = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    found, told = choose_alpha(zero, one, lambda state: scores[round(10 * float(state["w"]))])
    assert found == ALPHAS[scores.index(max(scores))]
    assert list(told.values()) == scores
    assert list(told) == ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]


def test_a_training_ends_between_its_start_and_its_best(train: Train, tiny: dict[str, Tensor]) -> None:
    whole = train("1", **LEARNING)
    best = whole.checkpoint("best")
    assert same(whole.weights, best)
    for alpha in (0.0, 0.5):
        run = train(f"{alpha}", **LEARNING, wise_ft=alpha)
        assert same(run.checkpoint("best"), best)  # the checkpoint stays what was trained
        for name, value in run.weights.items():
            if value.is_floating_point():
                torch.testing.assert_close(value, tiny[name] + alpha * (best[name] - tiny[name]))
            else:
                assert torch.equal(value, best[name])
        assert run.training["wise_ft_alpha"] == alpha


def test_auto_takes_the_alpha_that_verifies_best(
    train: Train, tiny: dict[str, Tensor], aligned_table: Path, tmp_path: Path
) -> None:
    """The mean AUC of clean and degraded validation images, which is measured here once more."""
    parts = splitting(aligned_table, tmp_path / "split", {"s1": "ttvvv", "s3": "ttvvv", "s5": "ttvvv"})
    run = train(**LEARNING, split=parts, wise_ft="auto", distill=0.0)
    alpha, scores = run.training["wise_ft_alpha"], run.training["wise_ft_scores"]
    assert scores[f"{alpha:g}"] == max(scores.values())
    assert len(set(scores.values())) > 1
    best = run.checkpoint("best")
    for other in (0.0, 0.5, 1.0):
        fixed = train(f"{other}", **LEARNING, split=parts, wise_ft=other, distill=0.0)
        if other == alpha:
            assert same(fixed.weights, run.weights)
    rows = Table(parts, "split").columns(["image_id", "split"]).to_pylist()
    wanted = {row["image_id"] for row in rows if row["split"] == "val"}
    images = [row for row in rows_of(aligned_table) if row["image_id"] in wanted]
    model = load_model(run.folder)
    for number in (0.0, 0.3, 1.0):
        model.network.load_state_dict(interpolated(tiny, best, number))
        aucs = []
        for kind in ("none", "noise:60"):
            bad = Degradation.parse(kind)
            crops = np.stack([bad(decode_rgb(row["image"]), "probe", row["image_id"]) for row in images])
            aucs.append(auc(model.embed(crops), [row["identity"] for row in images]))
        assert scores[f"{number:g}"] == pytest.approx(np.mean(aucs), abs=0.02)


def auc(embeddings: Any, people: list[str]) -> float:
    """The share of (genuine, impostor) pairs of pairs that are the right way round."""
    scores = embeddings @ embeddings.T
    upper = np.triu_indices(len(people), 1)
    equal = np.equal.outer(people, people)[upper]
    genuine, impostor = scores[upper][equal], scores[upper][~equal]
    return float(np.mean(genuine[:, None] > impostor[None]))


@pytest.mark.parametrize(
    "parts", [{"s1": "tttt", "s3": "tttt"}, {"s1": "tttv", "s3": "tttv"}, {"s1": "ttvv", "s3": "t"}]
)
def test_auto_without_pairs_to_choose_on_is_refused_before_the_training(
    parts: dict[str, str], train: Train, aligned_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    divided = splitting(aligned_table, tmp_path / "split", parts)
    with pytest.raises(KubefaceError, match="wise_ft=auto needs validation images of at least two people, two of one"):
        train(split=divided, wise_ft="auto")
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["split"]


# --- the gate -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crops(aligned_table: Path) -> list[RGB]:
    return [decode_rgb(row["image"]) for row in rows_of(aligned_table)]


def gate(clean: Tensor, degraded: Tensor) -> tuple[QualityRouted, tuple[float, float]]:
    """A gate that was fitted on half of the people, and the shares of the others' clean and degraded crops that go
    the wrong way."""
    half = len(clean) // 2
    parts = clean[:half], degraded[:half], clean[half:], degraded[half:]
    model, errors = fit_quality_routing(nn.Identity(), nn.Identity(), *parts)
    assert errors.wrong_clean is not None and errors.wrong_degraded is not None
    return model, (errors.wrong_clean, errors.wrong_degraded)


def structure(crops: list[RGB], kind: str = "none", borders: bool = False) -> Tensor:
    """Fine structure of degraded crops, some of them with a black border."""
    bad = Degradation.parse(kind)
    stacked = np.stack([bad(crop, "test", number) for number, crop in enumerate(crops)])
    if borders:
        stacked[::3, :, -28:] = 0
    return fine_structure((torch.from_numpy(stacked).permute(0, 3, 1, 2).float() - 127.5) / 128)


def test_sharp_borders_of_low_resolution_crops_hardly_mislead_the_gate(crops: list[RGB]) -> None:
    """A black border, as of a face at the edge of its photograph, is sharp however low the resolution is."""
    _, shares = gate(structure(crops), structure(crops, "lowres:14", borders=True))
    assert shares[0] == 0 and shares[1] <= 0.1


@pytest.mark.parametrize("kind", ["noise:60", "noise:10", "lowres:14", "blur:4", "jpeg:5", "dark"])
def test_the_gate_tells_faces_from_degraded_faces(kind: str, crops: list[RGB]) -> None:
    half, clean, degraded = len(crops) // 2, structure(crops), structure(crops, kind)
    model, shares = gate(clean, degraded)
    # JPEG takes little from faces that were enlarged to begin with.
    assert max(shares) <= (0.3 if kind == "jpeg:5" else 0)
    for rows, share in ((clean[half:], 1 - shares[0]), (degraded[half:], shares[1])):
        assert float((rows @ model.weight + model.bias <= 0).double().mean()) == pytest.approx(share)


def test_a_gate_that_cannot_tell_says_so(crops: list[RGB]) -> None:
    clean = structure(crops)
    assert sum(gate(clean, clean)[1]) == pytest.approx(1)


def test_without_validation_crops_nothing_is_measured(crops: list[RGB]) -> None:
    clean, bad, none = structure(crops), structure(crops, "noise:60"), torch.zeros(0, 4)
    _, errors = fit_quality_routing(nn.Identity(), nn.Identity(), clean, bad, none, none)
    assert errors == GateErrors(wrong_clean=None, wrong_degraded=None)


def test_a_quality_routed_training_keeps_its_start_for_clean_crops(
    train: Train, tiny: dict[str, Tensor], crops: list[RGB]
) -> None:
    run = train(**LEARNING, guard=True, wise_ft=0.5)
    free = train("free", **LEARNING, wise_ft=0.5)
    for side, expected in (("start", tiny), ("tuned", free.weights)):
        found = {k.removeprefix(f"{side}."): v for k, v in run.weights.items() if k.startswith(f"{side}.")}
        assert same(found, expected)
    assert run.training["guard"] == {"wrong_clean": 0, "wrong_degraded": 0}
    model, other = load_model(run.folder), load_model(free.folder)
    assert isinstance(model.network, QualityRouted)
    noise = Degradation.parse("noise:60")
    bad = np.stack([noise(crop, number) for number, crop in enumerate(crops)])
    images = model.prepare(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))
    kept = ~model.network.degraded(images)
    assert kept.double().mean() > 0.9  # the gate has seen twelve crops
    clean = np.stack(crops)[kept.numpy()]
    start = Tiny().eval()
    start.load_state_dict(tiny)
    with torch.inference_mode():
        assert torch.equal(model.network(images[kept]), start(images[kept]))  # byte for byte what it was
    assert np.array_equal(model.embed(bad), other.embed(bad))
    mixed = model.embed(np.concatenate([clean[:5], bad[:5]]))
    assert np.allclose(mixed[:5], model.embed(clean[:5]), atol=1e-6)
    assert np.allclose(mixed[5:], other.embed(bad[:5]), atol=1e-6)


def test_a_quality_routed_model_trains_on(train: Train, tiny: dict[str, Tensor]) -> None:
    """The first start stays the one for good pictures, whatever was trained since."""
    first = train("first", **LEARNING, guard=True)
    second = train("second", **LEARNING, pretrained=str(first.folder))
    assert {k: v for k, v in second.weights.items() if k.startswith("start.")}.keys() == {f"start.{k}" for k in tiny}
    for name, value in tiny.items():
        assert torch.equal(second.weights[f"start.{name}"], value)
    assert not torch.equal(second.weights["tuned.8.weight"], first.weights["tuned.8.weight"])
    assert second.training["guard"] == {"wrong_clean": 0, "wrong_degraded": 0}
