"""The gate: is the fine-tuned model better, and does it cost too much elsewhere? Decided on interval bounds."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kubeface.records.gate import METRICS, Gate
from kubeface.records.tasks import ATTRIBUTES, RECOGNITION, task_of
from kubeface.runtime.errors import require

GATE_FAR = 0.01
ROUNDING = 1e-9  # a loss of exactly max_loss is allowed: 0.9858 − 0.9958 is −0.010000000000000009
FIGURES = {
    "auc": "AUC",
    "tar": "TAR",
    "accuracy": "accuracy",
    "average_precision": "average precision",
    "f1": "F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
}
# What a set other than the target is judged by: the AUC of held-out people, who are few and often told apart perfectly;
# the accuracy of benchmarks, which is the figure that is published of them.
HELDOUT = ("heldout", "heldout_cross", "heldout_clean", "pairs")


def require_target(gate: Gate, measured: Collection[str]) -> None:
    """Raises KubefaceError where the rule's target is none of the sets that are measured."""
    require(
        gate.target in measured,
        f"gate: target is '{gate.target}', which is not measured: use one of {', '.join(measured)}",
    )


def decide(evaluation: dict[str, Any], gate: Gate) -> dict[str, Any]:
    """The verdict on an evaluation.

    Better means: on the target set the lower bounds of the gains over the starting model lie above min_gain; on every
    other set of held-out people the lower bound of the AUC's change is not under −max_loss, on benchmarks that of the
    accuracy's not under −max_loss_lfw; no group's false non-matches may have risen by more than max_loss_group, by the
    upper bound. Where a model is promoted already, the target is asked again with it in the place of the starting
    model: better, or with not_worse only not under −max_loss.

    Args:
        evaluation: with `task`, `gain` and `gain_over_champion` by set, `people`, `images`, of recognition `gate_far`,
            and where they were measured `groups`.
        gate: the rule.

    Returns:
        better (bool), reason (one sentence with figures), checks (name, passed, text), rule.

    Raises:
        KubefaceError: the target was not measured.
    """
    require_target(gate, evaluation["gain"])
    checks = [
        *_target(evaluation, gate),
        *_others(evaluation, gate),
        *_groups(evaluation.get("groups", {}), gate),
        *_champion(evaluation, gate),
    ]
    better = all(check["passed"] for check in checks)
    told = [check["text"] if check["passed"] else f"NOT ENOUGH: {check['text']}" for check in checks]
    reason = f"{'better' if better else 'not better'} on {_held_out(evaluation)}: {'; '.join(told)}"
    return {"better": better, "reason": reason, "checks": checks, "rule": gate.model_dump()}


Checks = Iterator[dict[str, Any]]


def _held_out(evaluation: dict[str, Any]) -> str:
    """What the models were compared on, in words."""
    task = task_of(evaluation)
    if task == RECOGNITION:
        return f"{evaluation['people']} held-out people"
    people = f" of {evaluation['people']} people" if task == ATTRIBUTES else ""
    return f"{evaluation['images']} held-out images{people}"


def _target(evaluation: dict[str, Any], gate: Gate) -> Checks:
    for key in gate.metrics.split():
        entry = evaluation["gain"][gate.target][key]
        text = f"{_name(key, evaluation)} {_change(entry)} (gain {points(entry['gain'])}, {_interval(entry, gate)})"
        yield _check(f"{gate.target} {key}", entry["gain_low"] > gate.min_gain, text)


def _others(evaluation: dict[str, Any], gate: Gate) -> Checks:
    for name, gain in evaluation["gain"].items():
        if name == gate.target:
            continue
        first = METRICS[task_of(evaluation)][0]
        key, allowed = (first, gate.max_loss) if name in HELDOUT else ("accuracy", gate.max_loss_lfw)
        shown = "clean" if name == "heldout_clean" else name if name in HELDOUT else name.upper().replace("_", "-")
        entry = gain[key]
        text = f"{shown} {FIGURES[key]} {_change(entry)} ({_interval(entry, gate)}, {points(-allowed)} allowed)"
        yield _check(name, entry["gain_low"] >= -allowed - ROUNDING, text)


def _groups(groups: Mapping[str, Any], gate: Gate) -> Checks:
    """The group of each column whose false non-matches may have risen most."""
    for column, entry in groups.items():
        told = [row for row in entry["rows"] if row["fnmr_change_high"] is not None]
        if told:
            worst = max(told, key=lambda row: row["fnmr_change_high"])
            text = (
                f"{column} {worst['group']} FNMR {points(worst['fnmr_change'])} (at most "
                f"{points(worst['fnmr_change_high'])}, {points(gate.max_loss_group)} allowed)"
            )
            yield _check(f"group {column}", worst["fnmr_change_high"] <= gate.max_loss_group + ROUNDING, text)


def _champion(evaluation: dict[str, Any], gate: Gate) -> Checks:
    if gate.over_champion == "ignore" or not evaluation.get("gain_over_champion"):
        return
    least, allowed = (gate.min_gain, "") if gate.over_champion == "better" else (-gate.max_loss - ROUNDING, " allowed")
    for key in gate.metrics.split():
        entry = evaluation["gain_over_champion"][gate.target][key]
        text = f"over the promoted model {_name(key, evaluation)} {_change(entry)} ({_interval(entry, gate)}"
        text += f", {points(-gate.max_loss)}{allowed})" if allowed else ")"
        yield _check(f"champion {key}", entry["gain_low"] > least, text)


def _check(name: str, passed: bool, text: str) -> dict[str, Any]:
    return {"name": name, "passed": bool(passed), "text": text}


def _name(key: str, evaluation: dict[str, Any]) -> str:
    return f"TAR@FAR={evaluation['gate_far']:g}" if key == "tar" else FIGURES[key]


def _change(entry: dict[str, float]) -> str:
    return f"{percent(entry['before'])} → {percent(entry['after'])}"


def _interval(entry: dict[str, float], gate: Gate) -> str:
    return f"{100 * gate.confidence:g} % interval {points(entry['gain_low'])} to {points(entry['gain_high'])}"


def percent(share: float) -> str:
    """0.8465 as 84.65 %."""
    return f"{100 * share:.2f} %"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.2f}".replace("-", "−")
