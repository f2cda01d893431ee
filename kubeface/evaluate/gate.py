"""The gate: is the fine-tuned model better, and does it cost too much elsewhere? Decided on interval bounds."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from kubeface.metrics.figures import Gain, Gains
from kubeface.records.evaluation import GateCheck, GateVerdict
from kubeface.records.gate import METRICS, Gate
from kubeface.records.recognition_figures import GroupColumn
from kubeface.records.tasks import ATTRIBUTES, RECOGNITION
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
# Sets of held-out people, who are few and often separated perfectly, are judged by AUC; benchmarks by accuracy, the
# figure that is published of them.
HELDOUT = ("heldout", "heldout_cross", "heldout_clean", "pairs")


def require_target(gate: Gate, measured: Collection[str]) -> None:
    """Raises KubefaceError where the rule's target is none of the sets that are measured."""
    require(
        gate.target in measured,
        f"gate: target is '{gate.target}', which is not measured: use one of {', '.join(measured)}",
    )


@dataclass(frozen=True)
class Evidence:
    """What the gate decides on: gains and those over the promoted model by set, errors by group column.

    `far` is the false accept rate of the figure tar.
    """

    task: str
    people: int
    images: int
    gain: Mapping[str, Gains]
    gain_over_champion: Mapping[str, Gains] = field(default_factory=dict)
    far: float = GATE_FAR
    groups: Mapping[str, GroupColumn] = field(default_factory=dict)

    def describe(self) -> str:
        """What the models were compared on."""
        if self.task == RECOGNITION:
            return f"{self.people} held-out people"
        people = f" of {self.people} people" if self.task == ATTRIBUTES else ""
        return f"{self.images} held-out images{people}"

    def figure(self, key: str) -> str:
        """A figure's name for a sentence."""
        return f"TAR@FAR={self.far:g}" if key == "tar" else FIGURES[key]


def decide(evidence: Evidence, gate: Gate) -> GateVerdict:
    """The verdict on an evaluation.

    Better means: on the target set the lower bounds of the gains over the starting model lie above min_gain; on every
    other set of held-out people the lower bound of the AUC's change is not under −max_loss, on benchmarks that of the
    accuracy's not under −max_loss_lfw; no group's false non-matches may have risen by more than max_loss_group, by the
    upper bound. Where a model is promoted already, the target is asked again with it in place of the starting model:
    better, or with not_worse only not under −max_loss.

    Raises:
        KubefaceError: the target was not measured.
    """
    require_target(gate, evidence.gain)
    checks = [
        *_target(evidence, gate),
        *_others(evidence, gate),
        *_groups(evidence.groups, gate),
        *_champion(evidence, gate),
    ]
    better = all(check.passed for check in checks)
    texts = [check.text if check.passed else f"NOT ENOUGH: {check.text}" for check in checks]
    reason = f"{'better' if better else 'not better'} on {evidence.describe()}: {'; '.join(texts)}"
    return GateVerdict(better=better, reason=reason, checks=checks, rule=gate)


def _target(evidence: Evidence, gate: Gate) -> Iterator[GateCheck]:
    for key in gate.metrics.split():
        entry = evidence.gain[gate.target][key]
        text = f"{evidence.figure(key)} {_change(entry)} (gain {points(entry.gain)}, {_interval(entry, gate)})"
        yield GateCheck(name=f"{gate.target} {key}", passed=entry.gain_low > gate.min_gain, text=text)


def _others(evidence: Evidence, gate: Gate) -> Iterator[GateCheck]:
    for name, gain in evidence.gain.items():
        if name == gate.target:
            continue
        first = METRICS[evidence.task][0]
        key, allowed = (first, gate.max_loss) if name in HELDOUT else ("accuracy", gate.max_loss_lfw)
        shown = "clean" if name == "heldout_clean" else name if name in HELDOUT else name.upper().replace("_", "-")
        entry = gain[key]
        text = f"{shown} {FIGURES[key]} {_change(entry)} ({_interval(entry, gate)}, {points(-allowed)} allowed)"
        yield GateCheck(name=name, passed=entry.gain_low >= -allowed - ROUNDING, text=text)


def _groups(groups: Mapping[str, GroupColumn], gate: Gate) -> Iterator[GateCheck]:
    """The group of each column whose false non-matches may have risen most."""
    for column, entry in groups.items():
        rises = [
            (row.fnmr_change_high, row.fnmr_change, row.group)
            for row in entry.rows
            if row.fnmr_change_high is not None and row.fnmr_change is not None
        ]
        if rises:
            high, change, group = max(rises, key=lambda rise: rise[0])
            allowed = points(gate.max_loss_group)
            text = f"{column} {group} FNMR {points(change)} (at most {points(high)}, {allowed} allowed)"
            yield GateCheck(name=f"group {column}", passed=high <= gate.max_loss_group + ROUNDING, text=text)


def _champion(evidence: Evidence, gate: Gate) -> Iterator[GateCheck]:
    if gate.over_champion == "ignore" or not evidence.gain_over_champion:
        return
    least, allowed = (gate.min_gain, "") if gate.over_champion == "better" else (-gate.max_loss - ROUNDING, " allowed")
    for key in gate.metrics.split():
        entry = evidence.gain_over_champion[gate.target][key]
        text = f"over the promoted model {evidence.figure(key)} {_change(entry)} ({_interval(entry, gate)}"
        text += f", {points(-gate.max_loss)}{allowed})" if allowed else ")"
        yield GateCheck(name=f"champion {key}", passed=entry.gain_low > least, text=text)


def _change(entry: Gain) -> str:
    return f"{percent(entry.before)} → {percent(entry.after)}"


def _interval(entry: Gain, gate: Gate) -> str:
    return f"{100 * gate.confidence:g} % interval {points(entry.gain_low)} to {points(entry.gain_high)}"


def percent(share: float) -> str:
    """0.8465 as 84.65 %."""
    return f"{100 * share:.2f} %"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.2f}".replace("-", "−")
