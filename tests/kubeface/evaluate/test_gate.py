"""The gate's verdict on made-up evaluations."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.evaluate.gate import Evidence, decide
from kubeface.metrics.figures import Gain, Gains
from kubeface.records.evaluation import GateVerdict
from kubeface.records.gate import GATES, METRICS, Gate, RecognitionGate
from kubeface.records.recognition_figures import ErrorRates, GroupColumn, GroupErrors
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import read_options


def gain(low: float, before: float = 0.8, value: float = 0.1) -> Gain:
    return Gain(before=before, after=before + value, gain=value, gain_low=low, gain_high=low + 0.2)


def figures(auc: float, tar: float, accuracy: float = 0.0) -> Gains:
    return {"auc": gain(auc), "tar": gain(tar, 0.5), "accuracy": gain(accuracy)}


def group(name: str, high: float | None) -> GroupErrors:
    """A group by the upper bound of what it may lose."""
    rates = ErrorRates(fmr=None, fnmr=None)
    return GroupErrors(
        group=name,
        people=2,
        images=10,
        genuine=30,
        impostor=30,
        baseline=rates,
        finetuned=rates,
        fnmr_change=high and high / 2,
        fnmr_change_low=high and 0,
        fnmr_change_high=high,
    )


def evaluation(
    auc: float = 0.05,
    tar: float = 0.05,
    clean: float | None = None,
    lfw: float | None = None,
    champion: tuple[float, float] | None = None,
    groups: dict[str, list[float | None]] | None = None,
) -> Evidence:
    """An evaluation by the lower bounds of its gains, and by the upper bounds of what groups may lose."""
    gains = {"heldout": figures(auc, tar)}
    if clean is not None:
        gains["heldout_clean"] = {"auc": gain(clean, 0.99, clean / 2), "tar": gain(-1), "accuracy": gain(-1)}
    if lfw is not None:
        gains["lfw"] = {"auc": gain(-1), "tar": gain(-1), "accuracy": gain(lfw, 0.9958, lfw / 2)}
    columns = {
        column: GroupColumn(rows=[group(f"g{i}", high) for i, high in enumerate(highs)], worst_ratio={})
        for column, highs in (groups or {}).items()
    }
    over_champion = {"heldout": figures(*champion)} if champion is not None else {}
    return Evidence("recognition", 42, 100, gains, over_champion, 0.01, columns)


def failed(found: GateVerdict) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


CASES: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({}, {}, []),
    ({"auc": 1e-6, "tar": 1e-6}, {}, []),
    ({"auc": 0.0}, {}, ["heldout auc"]),
    ({"tar": 0.0}, {}, ["heldout tar"]),
    ({"tar": 0.0}, {"metrics": "auc"}, []),
    ({"auc": 0.0}, {"metrics": "accuracy tar"}, ["heldout accuracy"]),
    ({"auc": 0.02}, {"min_gain": 0.02}, ["heldout auc"]),
    ({"auc": 0.021}, {"min_gain": 0.02}, []),
    ({"clean": -0.005}, {}, []),
    ({"clean": -0.01}, {}, []),  # exactly one point
    ({"clean": -0.0101}, {}, ["heldout_clean"]),
    ({"clean": -0.0101}, {"max_loss": 0.02}, []),
    ({"clean": -0.0001}, {"max_loss": 0.0}, ["heldout_clean"]),
    ({"lfw": -0.01}, {}, []),
    ({"lfw": -0.0101}, {}, ["lfw"]),
    ({"lfw": -0.0101}, {"max_loss": 0.5}, ["lfw"]),  # has a limit of its own
    ({"lfw": -0.0101}, {"max_loss_lfw": 0.02}, []),
    ({"clean": -0.5, "lfw": -0.5}, {}, ["heldout_clean", "lfw"]),
    ({"clean": -0.5, "lfw": -0.5}, {"target": "lfw", "metrics": "accuracy"}, ["lfw accuracy", "heldout_clean"]),
    ({"groups": {"camera": [0.0, None, 0.1]}}, {}, []),
    ({"groups": {"camera": [0.0, 0.11], "age": [None]}}, {}, ["group camera"]),
    ({"groups": {"camera": [0.0, 0.11], "age": [None]}}, {"max_loss_group": 0.2}, []),
    ({"champion": (0.01, 0.01)}, {}, []),
    ({"champion": (0.0, 0.01)}, {}, ["champion auc"]),
    ({"champion": (-0.01, 0.0)}, {"over_champion": "not_worse"}, []),
    ({"champion": (-0.011, 0.0)}, {"over_champion": "not_worse"}, ["champion auc"]),
    ({"champion": (-0.5, -0.5)}, {"over_champion": "ignore"}, []),
]


@pytest.mark.parametrize(("bounds", "rule", "expected"), CASES)
def test_verdict(bounds: dict[str, Any], rule: dict[str, Any], expected: list[str]) -> None:
    found = decide(evaluation(**bounds), RecognitionGate(**rule))
    assert failed(found) == expected
    assert found.better is (not expected)
    assert found.rule.model_dump() == Gate(**rule).model_dump()
    assert found.reason.startswith(f"{'not better' if expected else 'better'} on 42 held-out people: ")


def test_reason_tells_the_figures() -> None:
    made = evaluation(0.031, 0.0424, clean=-0.02, lfw=-0.008, champion=(0.01, 0.02), groups={"camera": [0.04, 0.08]})
    reason = decide(made, Gate(max_loss=0.015)).reason.replace("−", "-")
    assert "AUC 80.00 % → 90.00 % (gain +10.00, 95 % interval +3.10 to +23.10)" in reason
    assert "TAR@FAR=0.01 50.00 % → 60.00 % (gain +10.00, 95 % interval +4.24 to +24.24)" in reason
    assert "clean AUC 99.00 % → 98.00 % (95 % interval -2.00 to +18.00, -1.50 allowed)" in reason
    assert "LFW accuracy 99.58 % → 99.18 % (95 % interval -0.80 to +19.20, -1.00 allowed)" in reason
    assert "camera g1 FNMR +4.00 (at most +8.00, +10.00 allowed)" in reason
    assert "over the promoted model AUC 80.00 % → 90.00 % (95 % interval +1.00 to +21.00)" in reason
    assert "\n" not in reason
    assert "90 % interval" in decide(made, Gate(confidence=0.9)).reason


def test_reason_says_which_check_failed() -> None:
    found = decide(evaluation(auc=0.05, tar=-0.05), Gate())
    for check in found.checks:
        assert check.text in found.reason
    bad = next(check for check in found.checks if not check.passed)
    good = next(check for check in found.checks if check.passed)
    before = found.reason.split(bad.text)[0]
    assert before != found.reason.split(good.text)[0]
    assert decide(evaluation(), Gate()).reason.count("NOT") == 0
    assert before.endswith("NOT ENOUGH: ")


def test_a_target_that_was_not_measured_is_refused() -> None:
    with pytest.raises(KubefaceError, match="target is 'lfw', which is not measured: use one of heldout"):
        decide(evaluation(), Gate(target="lfw"))


@given(bounds=st.tuples(*[st.floats(-0.5, 0.5)] * 5), allowed=st.floats(0, 0.2), more=st.floats(0, 0.2))
def test_better_figures_are_never_judged_worse(
    bounds: tuple[float, float, float, float, float], allowed: float, more: float
) -> None:
    def made(*by: float) -> Evidence:
        auc, tar, clean, lfw, champion = by
        return evaluation(auc, tar, clean, lfw, (champion, champion))

    found = decide(made(*bounds), Gate(max_loss=allowed, max_loss_lfw=allowed))
    raised = decide(made(*(bound + more for bound in bounds)), Gate(max_loss=allowed, max_loss_lfw=allowed))
    wider = decide(made(*bounds), Gate(max_loss=min(1, allowed + more), max_loss_lfw=min(1, allowed + more)))
    assert raised.better >= found.better and wider.better >= found.better
    if found.better:
        assert min(bounds[0], bounds[1], bounds[4]) > 0 and min(bounds[2:4]) >= -allowed - 1e-8


def labelled(task: str, low: float = 0.05, clean: float = 0.0, champion: float | None = None) -> Evidence:
    """An evaluation of attributes or classes by the lower bounds of its gains."""
    gains = {
        name: dict.fromkeys(METRICS[task], gain(bound)) for name, bound in (("heldout", low), ("heldout_clean", clean))
    }
    over = {"heldout": dict.fromkeys(METRICS[task], gain(champion))} if champion is not None else {}
    return Evidence(task, 12, 345, gains, over)


@pytest.mark.parametrize(
    ("task", "metrics", "held_out"),
    [
        ("attributes", ["auc"], "345 held-out images of 12 people"),
        ("classes", ["accuracy", "macro_f1"], "345 held-out images"),
    ],
)
def test_labels_and_classes_are_judged_by_their_own_figures(task: str, metrics: list[str], held_out: str) -> None:
    found = decide(labelled(task, champion=0.01), GATES[task]())
    assert found.better
    assert found.reason.startswith(f"better on {held_out}: ")
    asked = [*(f"heldout {name}" for name in metrics), "heldout_clean", *(f"champion {name}" for name in metrics)]
    assert [check.name for check in found.checks] == asked
    assert failed(decide(labelled(task, low=0.0), GATES[task]())) == asked[: len(metrics)]
    assert failed(decide(labelled(task, clean=-0.02), GATES[task]())) == ["heldout_clean"]
    assert failed(decide(labelled(task, champion=-0.005), GATES[task]())) == asked[-len(metrics) :]
    assert not failed(decide(labelled(task, champion=-0.005), GATES[task](over_champion="not_worse")))


def test_the_clean_set_is_judged_by_the_first_figure_of_the_task() -> None:
    texts = [decide(labelled(task), GATES[task]()).checks[-1].text for task in ("attributes", "classes")]
    assert [text.split(" 80")[0] for text in texts] == ["clean AUC", "clean accuracy"]


@pytest.mark.parametrize("task", METRICS)
def test_every_figure_of_a_task_can_be_asked_for_and_none_of_another(task: str) -> None:
    assert GATES[task](metrics=" ".join(METRICS[task])).metrics.split() == list(METRICS[task])
    for name in {name for names in METRICS.values() for name in names} - set(METRICS[task]):
        with pytest.raises(KubefaceError, match=f"gate.metrics is '{name}': name some of {METRICS[task][0]}, "):
            read_options(GATES[task], {"metrics": name}, "gate.")


def test_each_task_has_its_figures_where_none_are_named() -> None:
    defaults = {"recognition": "auc tar", "attributes": "auc", "classes": "accuracy macro_f1"}
    assert {task: kind().metrics for task, kind in GATES.items()} == defaults
