"""The gate: is the fine-tuned model better, and does it cost too much elsewhere? Decided on interval bounds."""

from typing import Any

GATE_FAR = 0.01
ROUNDING = 1e-9  # a loss of exactly max_loss is allowed: 0.9858 − 0.9958 is −0.010000000000000009


def decide(evaluation: dict[str, Any], max_loss: float) -> dict[str, Any]:
    """The verdict on an evaluation.

    Better means: on the target set the lower 95 % bounds of the gains in AUC and in TAR@FAR lie above 0;
    on every other held-out set the lower bound of the AUC's change is not under −max_loss; on LFW the
    accuracy falls by no more than max_loss.

    Args:
        evaluation: with `gain` by set (of bootstrap_difference), `baseline` and `finetuned` figures by set.
        max_loss: largest loss allowed, as a share (0.01 is one point).

    Returns:
        better (bool), reason (one sentence with figures), checks (name, passed, text).
    """
    checks = []
    target = evaluation["gain"]["heldout"]
    far = evaluation["gate_far"]
    for key, name in (("auc", "AUC"), ("tar", f"TAR@FAR={far:g}")):
        entry = target[key]
        text = (
            f"{name} {_percent(entry['before'])} → {_percent(entry['after'])} (gain {_points(entry['gain'])}, "
            f"95 % interval {_points(entry['gain_low'])} to {_points(entry['gain_high'])})"
        )
        checks.append({"name": f"heldout {key}", "passed": entry["gain_low"] > 0, "text": text})
    for name, gain in evaluation["gain"].items():
        if name == "heldout":
            continue
        entry = gain["auc"]
        text = (
            f"clean AUC {_percent(entry['before'])} → {_percent(entry['after'])} (95 % interval of the change "
            f"{_points(entry['gain_low'])} to {_points(entry['gain_high'])}, {_points(-max_loss)} allowed)"
        )
        checks.append({"name": name, "passed": entry["gain_low"] >= -max_loss - ROUNDING, "text": text})
    if "lfw" in evaluation["finetuned"]:
        before, after = (evaluation[model]["lfw"]["accuracy"] for model in ("baseline", "finetuned"))
        text = f"LFW accuracy {_percent(before)} → {_percent(after)} ({_points(-max_loss)} allowed)"
        checks.append({"name": "lfw", "passed": after - before >= -max_loss - ROUNDING, "text": text})
    better = all(check["passed"] for check in checks)
    told = [check["text"] if check["passed"] else f"NOT ENOUGH: {check['text']}" for check in checks]
    people = evaluation["people"]
    reason = f"{'better' if better else 'not better'} on {people} held-out people: {'; '.join(told)}"
    return {"better": better, "reason": reason, "checks": checks, "max_loss": max_loss}


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")
