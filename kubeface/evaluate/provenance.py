"""What every evaluation records and returns besides its figures."""

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import onnxruntime
import sklearn
from pydantic import SerializerFunctionWrapHandler, model_serializer

from kubeface import __version__
from kubeface.faces.degradation import Degradation
from kubeface.records.evaluation import ComparedModel, Evaluation, EvaluationSettings
from kubeface.records.gate import METRICS
from kubeface.records.record import StepResult
from kubeface.tables.table import Table


class EvaluationResult(StepResult):
    """What was measured: held-out images in; of recognition pairs, else images that count out."""

    identities: int
    """Held-out people, or known classes."""
    figures: dict[str, float | None]
    """Main figures of the target set as <model>_<figure> (baseline_auc …), the gain of what the gate asks for with its
    interval (gain_auc, gain_auc_low, gain_auc_high …), clean_loss, what is lost on held-out images without the
    degradation, and better, the gate's verdict as 1 or 0. They stand among the other fields in JSON."""

    @model_serializer(mode="wrap")
    def _flat(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = serialize(self)
        return {**values, **values.pop("figures")}


def main_figures(evaluation: Evaluation, keys: Sequence[str]) -> dict[str, float | None]:
    """Figures of every model on the target set and what was gained and lost, for an `EvaluationResult`."""
    rule = evaluation.settings.gate
    target = rule.target if rule.target in evaluation.gain else "heldout"
    gains = evaluation.gain[target]
    sets = {which: evaluation.figures_of(which)[target] for which in evaluation.models}
    found = {f"{which}_{key}": getattr(figures, key) for which, figures in sets.items() for key in keys}
    found["better"] = float(evaluation.gate.better)
    for name in rule.metrics.split():
        if gain := gains.get(name):
            found.setdefault(f"baseline_{name}", gain.before)
            found.setdefault(f"finetuned_{name}", gain.after)
            found |= {f"gain_{name}": gain.gain, f"gain_{name}_low": gain.gain_low, f"gain_{name}_high": gain.gain_high}
    if clean := evaluation.gain.get("heldout_clean", {}).get(METRICS[evaluation.task][0]):
        found["clean_loss"] = 0.0 - clean.gain
    return found


class Provenance(TypedDict):
    """Fields of an `EvaluationRecord` that do not depend on the task."""

    producer: str
    aligned: str
    split: str
    degradation: str
    settings: EvaluationSettings
    image: str | None
    versions: dict[str, str]
    models: dict[str, ComparedModel]


def provenance(
    table: Table,
    divided: Table,
    degradation: Degradation,
    settings: EvaluationSettings,
    models: Mapping[str, ComparedModel],
) -> Provenance:
    """Tables, settings, image and versions of an evaluation on an aligned table and its split."""
    return {
        "producer": f"evaluate {__version__}",
        "aligned": table.sha256,
        "split": divided.sha256,
        "degradation": str(degradation),
        "settings": settings,
        "image": os.environ.get("KUBEFACE_IMAGE"),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "models": dict(models),
    }
