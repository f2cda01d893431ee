"""The gate's verdict on made-up evaluations."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.gate import decide


def gain(low: float, before: float = 0.8, value: float = 0.1) -> dict[str, float]:
    return {"before": before, "after": before + value, "gain": value, "gain_low": low, "gain_high": low + 0.2}


def evaluation(
    auc: float = 0.05, tar: float = 0.05, clean: float | None = None, lfw: tuple[float, float] | None = None
) -> dict[str, Any]:
    """An evaluation by the lower bounds of its gains, and by LFW's accuracy before and after."""
    made: dict[str, Any] = {
        "gain": {"heldout": {"auc": gain(auc), "tar": gain(tar, 0.5)}},
        "gate_far": 0.01,
        "people": 42,
        "baseline": {"heldout": {}},
        "finetuned": {"heldout": {}},
    }
    if clean is not None:
        made["gain"]["heldout_clean"] = {"auc": gain(clean, 0.99, clean / 2), "tar": gain(-1.0)}
    if lfw is not None:
        made["baseline"]["lfw"], made["finetuned"]["lfw"] = ({"accuracy": accuracy} for accuracy in lfw)
    return made


CASES = [
    # auc, tar: lower bounds; clean: lower bound; LFW before and after; allowed loss; failed checks
    (0.05, 0.05, None, None, 0.01, []),
    (1e-6, 1e-6, None, None, 0.01, []),
    (0.0, 0.05, None, None, 0.01, ["heldout auc"]),
    (0.05, 0.0, None, None, 0.01, ["heldout tar"]),
    (-0.01, -0.02, None, None, 0.01, ["heldout auc", "heldout tar"]),
    (0.05, 0.05, -0.005, None, 0.01, []),
    (0.05, 0.05, -0.01, None, 0.01, []),
    (0.05, 0.05, -0.0101, None, 0.01, ["heldout_clean"]),
    (0.05, 0.05, -0.0101, None, 0.02, []),
    (0.05, 0.05, -0.0001, None, 0.0, ["heldout_clean"]),
    (0.05, 0.05, 0.0, None, 0.0, []),
    (0.05, 0.05, -0.005, (0.9958, 0.9900), 0.01, []),
    (0.05, 0.05, -0.005, (0.9958, 0.9858), 0.01, []),  # exactly one point
    (0.05, 0.05, -0.005, (0.9958, 0.9857), 0.01, ["lfw"]),
    (0.05, 0.05, 0.0, (0.9900, 0.9990), 0.0, []),
    (0.05, 0.05, -0.5, (0.99, 0.5), 0.01, ["heldout_clean", "lfw"]),
    (-0.05, 0.05, 0.1, (0.99, 0.999), 0.01, ["heldout auc"]),
]


@pytest.mark.parametrize(("auc", "tar", "clean", "lfw", "allowed", "failed"), CASES)
def test_verdict(
    auc: float, tar: float, clean: float | None, lfw: tuple[float, float] | None, allowed: float, failed: list[str]
) -> None:
    found = decide(evaluation(auc, tar, clean, lfw), allowed)
    assert [check["name"] for check in found["checks"] if not check["passed"]] == failed
    assert found["better"] is (not failed)
    assert found["max_loss"] == allowed
    assert len(found["checks"]) == 2 + (clean is not None) + (lfw is not None)
    assert found["reason"].startswith(f"{'not better' if failed else 'better'} on 42 held-out people: ")


def test_reason_tells_the_figures() -> None:
    reason = decide(evaluation(0.031, 0.0424, -0.02, (0.9958, 0.9812)), 0.015)["reason"].replace("−", "-")
    assert "AUC 80.00 % → 90.00 % (gain +10.00, 95 % interval +3.10 to +23.10)" in reason
    assert "TAR@FAR=0.01 50.00 % → 60.00 % (gain +10.00, 95 % interval +4.24 to +24.24)" in reason
    assert "clean AUC 99.00 % → 98.00 %" in reason and "-2.00 to +18.00, -1.50 allowed" in reason
    assert "LFW accuracy 99.58 % → 98.12 % (-1.50 allowed)" in reason
    assert "\n" not in reason


def test_reason_says_which_check_failed() -> None:
    failed = decide(evaluation(auc=0.05, tar=-0.05), 0.01)
    for check in failed["checks"]:
        assert check["text"] in failed["reason"]
    bad = next(check for check in failed["checks"] if not check["passed"])
    good = next(check for check in failed["checks"] if check["passed"])
    before = failed["reason"].split(bad["text"])[0]
    assert before != failed["reason"].split(good["text"])[0]
    assert decide(evaluation(), 0.01)["reason"].count("NOT") == 0
    assert before.endswith("NOT ENOUGH: ")


@given(
    bounds=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    lfw=st.tuples(st.floats(0.5, 1), st.floats(0.5, 1)),
    allowed=st.floats(0, 0.2),
    more=st.floats(0, 0.2),
)
def test_better_figures_are_never_judged_worse(
    bounds: tuple[float, float, float], lfw: tuple[float, float], allowed: float, more: float
) -> None:
    found = decide(evaluation(*bounds, lfw), allowed)
    raised = evaluation(*(bound + more for bound in bounds), (lfw[0], lfw[1] + more))
    assert decide(raised, allowed)["better"] >= found["better"]
    assert decide(evaluation(*bounds, lfw), allowed + more)["better"] >= found["better"]
    if found["better"]:
        assert bounds[0] > 0 and bounds[1] > 0 and bounds[2] >= -allowed - 1e-8
        assert lfw[1] >= lfw[0] - allowed - 1e-8
