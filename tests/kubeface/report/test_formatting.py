"""Figures in formatting."""

from typing import Any

import pytest

from kubeface.records.recognition_figures import Compatibility
from kubeface.report import formatting
from tests.support.evaluations import COMPATIBILITY


def test_points_have_a_sign_and_no_minus_zero() -> None:
    assert [formatting.points(share) for share in (0.1444, -0.0016, -0.00001)] == ["+14.44", "−0.16", "+0.00"]


def test_small_rates_keep_their_digits() -> None:
    rates = [formatting.rate(share).replace("\u00a0", " ") for share in (0.001, 0.0000123, 0.5, 0)]
    assert rates == ["0.1 %", "0.00123 %", "50 %", "0 %"]


def test_what_is_not_known_is_a_dash() -> None:
    names = ("percent", "rate", "points", "score", "ratio", "plain")
    assert {getattr(formatting, name)(None) for name in names} == {"–"}
    assert formatting.points_range(None, 0.1) == formatting.percent_range(0.1, None) == "–"


@pytest.mark.parametrize(
    ("p", "told"),
    [(1.0, "p = 1"), (0.05, "p = 0.05"), (0.0001, "p = 0.0001"), (9e-5, "p < 0.0001"), (0.0, "p < 0.0001")],
)
def test_probability(p: float, told: str) -> None:
    assert formatting.probability(p) == told


def test_a_change_that_does_not_show_is_neither_good_nor_bad() -> None:
    assert [formatting.style(change) for change in (0.001, -0.001, 0.00001)] == ["good", "bad", ""]
    assert [formatting.style(change, lower_is_better=True) for change in (0.001, -0.001)] == ["bad", "good"]


def test_flattened_names_each_value_by_its_path() -> None:
    nested = {"files": {"model.onnx": {"sha256": "ab", "bytes": 1}}, "marks": ["x", "y"], "none": {}}
    assert formatting.flattened(nested) == {
        "files.model.onnx.sha256": "ab", "files.model.onnx.bytes": 1, "marks.0": "x", "marks.1": "y", "none": None,
    }  # fmt: skip


MATCHED = Compatibility.model_validate(COMPATIBILITY | {"match_change_high": 0.01})


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"stays": True}, "The gallery can stay"),
        ({}, "anew, to be sure"),
        ({"match_change_high": -0.01}, "anew: new probes match it less often"),
        ({"comparable": False, "reason": "128 and 512 dimensions"}, "Enrol the gallery anew: 128 and 512 dimensions."),
    ],
)
def test_enrolment_says_what_was_decided(told: dict[str, Any], sentence: str) -> None:
    assert sentence in formatting.enrolment(MATCHED.model_copy(update=told))
